//! A build at work: its directory, and the trees that it copies from.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_dockerfile::Source;
use robot_env_dockerfile::ignore::Ignore;
use robot_env_engine::Engine;
use robot_env_oci::{Algorithm, ChainId, Digest, Hasher};
use robot_env_store::{OverlayXattr, SnapshotKey, SnapshotOptions, Store};
use robot_env_sys::fs::open_directory;
use robot_env_sys::mount::{self, OverlayRequest};
use robot_env_transfer::{Unpacker, commit_layer, ownership};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::copying::Target;
use crate::index::{self, Index};
use crate::solve::Build;
use crate::source::{IGNORE, read_ignore};
use crate::step::Mounted;
use crate::tree::Tree;

/// How often the directory of a build is tried to be made.
const ATTEMPTS: usize = 100;

/// The directory of a build at work; while it is locked, the build lives.
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    places: AtomicUsize,
    snapshots: AtomicUsize,
    _lock: File,
}

impl Room {
    pub(crate) fn open(engine: &Engine) -> Result<Room> {
        fs::create_dir_all(engine.paths().builds())
            .io_context(|| format!("cannot make `{}`", engine.paths().builds().display()))?;
        for _ in 0..ATTEMPTS {
            let mut bytes = [0u8; 8];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
                .io_context(|| "getrandom()".into())?;
            let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let path = engine.paths().builds().join(&name);
            let within = || format!("cannot make `{}`", path.display());
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700).create(&path).io_context(within)?;
            // Until it is locked another build may take it for a dead one's.
            let lock = match File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                lock => lock.io_context(within)?,
            };
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::AGAIN) => continue,
                locked => locked.io_context(within)?,
            }
            let own = lock.metadata().io_context(within)?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == own) {
                return Ok(Room {
                    name,
                    path,
                    places: AtomicUsize::new(0),
                    snapshots: AtomicUsize::new(0),
                    _lock: lock,
                });
            }
        }
        Err(Error::new(Kind::Internal, "cannot make a directory for a build: others remove it"))
    }

    /// A path in it that nobody else has.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}-{}", self.places.fetch_add(1, Ordering::Relaxed)))
    }

    /// An empty directory.
    pub(crate) fn empty(&self) -> Result<OwnedFd> {
        let path = self.path.join("empty");
        fs::create_dir_all(&path).io_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(open_directory(&path)?)
    }

    /// The merged tree of layers, read-only.
    pub(crate) fn open_layers(&self, store: &Store, chain: Option<&ChainId>) -> Result<OwnedFd> {
        let Some(chain) = chain else { return self.empty() };
        let record = store
            .layer(chain)?
            .ok_or_else(|| Error::not_found(format!("layer `{chain}` is not in the store")))?;
        let top = std::iter::once(chain).chain(record.ancestors.iter().rev());
        let mut lowers: Vec<OwnedFd> = top.map(|chain| store.layer_dir(chain)).collect::<Result<_>>()?;
        // Alone, a layer could show its whiteouts.
        lowers.push(self.empty()?);
        let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
        let userxattr = store.overlay_xattr() == OverlayXattr::User;
        Ok(mount::overlay(&OverlayRequest { lowers: &lowers, upper: None, volatile: false, userxattr })?)
    }

    /// The key of a snapshot that nobody else has.
    pub(crate) fn snapshot_key(&self) -> Result<SnapshotKey> {
        Engine::build_snapshot_key(&self.name, self.snapshots.fetch_add(1, Ordering::Relaxed))
    }

    /// A layer on top of `below`: `write` is called with the mounted root, `finish` with what it has
    /// written there, when that is mounted no longer. The chain with it, or `below` when that is nothing.
    pub(crate) fn write_layer(
        &self,
        store: &Store,
        below: Option<&ChainId>,
        write: &mut dyn FnMut(&mut Mounted<'_>) -> Result<()>,
        finish: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<Option<ChainId>> {
        let key = self.snapshot_key()?;
        let snapshot = store.prepare(&key, below, SnapshotOptions { volatile: true, durable: false })?;
        let made = || -> Result<Option<ChainId>> {
            let empty;
            let mut lowers: Vec<BorrowedFd<'_>> = snapshot.lowers.iter().map(AsFd::as_fd).collect();
            if lowers.is_empty() {
                empty = self.empty()?;
                lowers.push(empty.as_fd());
            }
            let root = mount::overlay(&OverlayRequest {
                lowers: &lowers,
                upper: Some((snapshot.upper.as_fd(), snapshot.work.as_fd())),
                volatile: true,
                userxattr: store.overlay_xattr() == OverlayXattr::User,
            })?;
            let target = Target::new(root.as_fd(), ownership());
            let mut mounted = Mounted { root: root.as_fd(), target };
            write(&mut mounted)?;
            drop(mounted);
            drop(root);
            finish(snapshot.upper.as_fd())?;
            commit_layer(&Unpacker::new(store, ownership()), &snapshot)
        }();
        let removed = store.remove_snapshot(&key);
        let chain = made?;
        removed?;
        Ok(chain)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A directory of the host's that files are copied from, and what is known of its files.
pub(crate) struct Context {
    pub(crate) path: PathBuf,
    root: OwnedFd,
    pub(crate) ignore: Ignore,
    /// What messages call the file with its patterns.
    pub(crate) ignore_name: String,
    pub(crate) index: Index,
}

impl Context {
    pub(crate) fn open(engine: &Engine, path: &Path, ignore: &str, ignore_name: &str) -> Result<Context> {
        let path =
            fs::canonicalize(path).io_context(|| format!("cannot open context `{}`", path.display()))?;
        let root = open_directory(&path)
            .map_err(Error::from)
            .within(|| format!("cannot open context `{}`", path.display()))?;
        let index = Index::open(index::path_of(engine, &path));
        let ignore_name = if ignore_name.is_empty() { IGNORE } else { ignore_name }.to_owned();
        let ignore = Ignore::parse(ignore).within(|| format!("cannot read `{ignore_name}`"))?;
        Ok(Context { path, root, ignore, ignore_name, index })
    }
}

/// A tree that was opened for copying, until the build is cancelled.
pub(crate) struct Opened {
    from: Place,
    cancel: Cancel,
}

enum Place {
    Directory(Arc<Context>),
    Layers(OwnedFd),
}

impl Opened {
    /// As a tree to copy from.
    pub(crate) fn tree(&self) -> Tree<'_> {
        let cancel = Some(&self.cancel);
        match &self.from {
            Place::Directory(context) => Tree {
                root: context.root.as_fd(),
                ignore: Some(&context.ignore).filter(|ignore| !ignore.is_empty()),
                foreign: true,
                cancel,
            },
            Place::Layers(root) => Tree { root: root.as_fd(), ignore: None, foreign: false, cancel },
        }
    }

    /// The directory of the host's that it is, if it is one.
    pub(crate) fn context(&self) -> Option<&Context> {
        match &self.from {
            Place::Directory(context) => Some(context),
            Place::Layers(_) => None,
        }
    }
}

impl Build<'_> {
    /// A named context that is a directory.
    pub(crate) fn named_context(&self, name: &str) -> Result<Option<Arc<Context>>> {
        let Some(path) = self.request.contexts.get(name) else { return Ok(None) };
        if path.starts_with("docker-image://") {
            return Ok(None);
        }
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = contexts.get(name) {
            return Ok(Some(known.clone()));
        }
        let directory = Path::new(path);
        let ignore = read_ignore(&directory.join(IGNORE))?.unwrap_or_default();
        let shown = format!("{}/{IGNORE}", directory.display());
        let context = Arc::new(Context::open(self.engine, directory, &ignore, &shown)?);
        contexts.insert(name.to_owned(), context.clone());
        Ok(Some(context))
    }

    /// Opens what `--from` names for `stage`; without it, the context.
    pub(crate) fn open(&self, from: Option<&Source>, stage: usize) -> Result<Opened> {
        let named = match from {
            None => Some(self.context.clone()),
            Some(Source::Image(name)) => self.named_context(name)?,
            Some(_) => None,
        };
        let from = match (named, from) {
            (Some(context), _) => Place::Directory(context),
            (None, from) => {
                let state = from.map(|from| self.state_of(from, stage)).transpose()?.flatten();
                let chain = state.and_then(|state| state.chain);
                Place::Layers(self.room.open_layers(self.store(), chain.as_ref())?)
            }
        };
        Ok(Opened { from, cancel: self.cancel.clone() })
    }

    /// What is known of the files of a tree.
    pub(crate) fn index_of<'s>(&'s self, opened: &'s Opened) -> &'s Index {
        opened.context().map_or(&self.layers_index, |context| &context.index)
    }

    /// Downloads into a file of the build's; the digest of what came, and when it was modified, in
    /// seconds since the Unix epoch, where that is known.
    pub(crate) fn download(&self, address: &str, path: &Path) -> Result<(Digest, Option<i64>)> {
        let within = || format!("cannot write `{}`", path.display());
        let (mut body, time) = self.fetch().download_with_time(address)?;
        let mut file = File::create(path).io_context(within)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            self.cancel.check()?;
            let n = body.read(&mut buffer).map_err(|error| {
                Error::new(Kind::Unavailable, format!("cannot read `{address}`")).because(error)
            })?;
            if n == 0 {
                return Ok((hasher.finish(), time));
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).io_context(within)?;
        }
    }
}
