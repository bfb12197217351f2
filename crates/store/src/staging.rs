//! Layers in the making.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::ChainId;
use robot_env_sys::CallError;
use robot_env_sys::fs::{self, Durability, Removal};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::layer::{path_of, this_boot};
use crate::{LayerRecord, SnapshotKey, Store, failpoint, now, random_name};

/// How long dropping a staged layer may delete before it leaves the rest to the trash.
const CLEANING: Duration = Duration::from_secs(1);

/// A layer in the making: a directory that the collector leaves alone as long as this process
/// lives, and that is deleted when this is dropped without a commit.
#[derive(Debug)]
pub struct StagedLayer<'a> {
    store: &'a Store,
    staging: OwnedFd,
    name: String,
    /// Locked, open for reading since before the first write: a failed write-back is seen here.
    dir: OwnedFd,
    opened: Instant,
    fs: OwnedFd,
    moved: bool,
    cleaning: Duration,
    /// The snapshot whose upper directory `fs` is: it gets it back unless this is committed.
    origin: Option<SnapshotKey>,
}

impl Store {
    /// An empty layer to be filled.
    pub fn stage_layer(&self) -> Result<StagedLayer<'_>> {
        self.stage(None).map_err(|error| self.explain(error, "staged layer", "staging", 4096))
    }

    fn stage(&self, from: Option<(BorrowedFd<'_>, &str)>) -> Result<StagedLayer<'_>> {
        // The collector cannot come between making the directory and locking it.
        let _lock = self.lock_shared()?;
        let staging = self.dir("staging")?;
        let name = random_name()?;
        let made = |what: &str, errno| {
            CallError::new(format!("mkdir({})", self.shown(&format!("staging/{what}"))), errno)
        };
        rustix::fs::mkdirat(&staging, &name, Mode::RWXU).map_err(|errno| made(&name, errno))?;
        let opened = Instant::now();
        let dir = fs::open_readable_dir_at(&staging, &name)?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            CallError::new(format!("flock({})", self.shown(&format!("staging/{name}"))), errno)
        })?;
        match from {
            None => {
                rustix::fs::mkdirat(&dir, "fs", Mode::from_raw_mode(0o755))
                    .map_err(|errno| made("fs", errno))?;
                // Whatever the umask is: containers without root must be able to pass.
                rustix::fs::chmodat(&dir, "fs", Mode::from_raw_mode(0o755), AtFlags::empty())
                    .map_err(|errno| CallError::new("chmod(fs, 0755)", errno))?;
            }
            Some((parent, source)) => rustix::fs::renameat(parent, source, &dir, "fs").map_err(|errno| {
                let from = fs::location(parent).join(source).display().to_string();
                CallError::new(
                    format!("rename({from} -> {})", self.shown(&format!("staging/{name}/fs"))),
                    errno,
                )
            })?,
        }
        let fs = fs::open_dir_at(&dir, "fs")?;
        failpoint!("store.stage.made");
        Ok(StagedLayer {
            store: self,
            staging,
            name,
            dir,
            opened,
            fs,
            moved: false,
            cleaning: CLEANING,
            origin: None,
        })
    }

    /// Commits several layers, those below first, with one sync of the file system. When one of
    /// them cannot be committed, those before it stay.
    pub fn commit_layers(&self, layers: Vec<(StagedLayer<'_>, LayerRecord)>) -> Result<()> {
        self.commit_staged(layers, Durability::Sync)
    }

    /// Without a sync the layers are marked so: see [`Store::consume_upper`].
    pub(crate) fn commit_staged(
        &self,
        layers: Vec<(StagedLayer<'_>, LayerRecord)>,
        durability: Durability,
    ) -> Result<()> {
        let boot = match durability {
            Durability::NoSync => this_boot(),
            Durability::Sync => None,
        };
        let durability = if boot.is_some() { Durability::NoSync } else { Durability::Sync };
        if layers.is_empty() {
            return Ok(());
        }
        let mut staged: Vec<(StagedLayer<'_>, LayerRecord)> = Vec::with_capacity(layers.len());
        for (layer, mut record) in layers {
            let what = format!("layer `{}`", record.chain_id);
            if ChainId::of(record.parent.as_ref(), &record.diff_id) != record.chain_id {
                return Err(Error::new(
                    Kind::Internal,
                    format!("cannot commit {what}: its chain id does not fit"),
                ));
            }
            record.ancestors = match &record.parent {
                None => Vec::new(),
                Some(parent) => {
                    let known = staged
                        .iter()
                        .map(|(_, below)| below)
                        .find(|below| below.chain_id == *parent)
                        .cloned();
                    let below = match known {
                        Some(below) => below,
                        None => self.layer(parent)?.ok_or_else(|| {
                            Error::new(
                                Kind::Conflict,
                                format!(
                                    "cannot commit {what}: the layer below, `{parent}`, is not in the store"
                                ),
                            )
                        })?,
                    };
                    let mut ancestors = below.ancestors;
                    ancestors.push(parent.clone());
                    ancestors
                }
            };
            if record.created == 0 {
                record.created = now();
            }
            record.boot = boot.map(str::to_owned);
            let bytes = serde_json::to_vec(&record)
                .map_err(|e| Error::new(Kind::Internal, format!("cannot commit {what}")).because(e))?;
            fs::write_atomic(&layer.dir, &layer.dir, "layer.json", &bytes, 0o600, Durability::NoSync)
                .map_err(|error| {
                    self.explain(
                        error.into(),
                        &what,
                        &format!("staging/{}/layer.json", layer.name),
                        bytes.len() as u64,
                    )
                })?;
            staged.push((layer, record));
        }
        failpoint!("store.commit.described");
        // Once for all: by the directory that was opened first, which sees every failed write-back
        // since then.
        if durability == Durability::Sync
            && let Some((layer, record)) = staged.iter().min_by_key(|(layer, _)| layer.opened)
        {
            rustix::fs::syncfs(&layer.dir).map_err(|errno| {
                let path = format!("staging/{}", layer.name);
                let error = CallError::new(format!("syncfs({})", self.shown(&path)), errno);
                self.explain(error.into(), &format!("layer `{}`", record.chain_id), &path, record.tar_size)
            })?;
        }
        failpoint!("store.commit.synced");
        let _lock = self.lock_shared()?;
        let layers_dir = self.dir("layers")?;
        for (layer, record) in &mut staged {
            self.pin_layer(&record.chain_id)?;
            layer.move_to(&layers_dir, record, durability)?;
            failpoint!("store.commit.renamed");
        }
        if durability == Durability::Sync {
            fs::sync_directory(&layers_dir)?;
        }
        failpoint!("store.commit.durable");
        Ok(())
    }
}

impl<'a> StagedLayer<'a> {
    /// Stages the existing directory `name` of `dir`, on the same file system, by renaming it: the
    /// upper directory of a snapshot becomes a layer.
    pub fn from_directory(store: &'a Store, dir: impl AsFd, name: &str) -> Result<StagedLayer<'a>> {
        store
            .stage(Some((dir.as_fd(), name)))
            .map_err(|error| store.explain(error, "staged layer", "staging", 4096))
    }

    /// How long dropping it may delete before it leaves the rest to the trash; a second by default.
    pub fn clean_within(&mut self, time: Duration) {
        self.cleaning = time;
    }

    /// The tree, by O_PATH.
    pub fn fs(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }

    /// Makes the file for the recipe; an earlier one is emptied.
    pub fn recipe(&self) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = format!("staging/{}/recipe.zst", self.name);
        rustix::fs::openat(&self.dir, "recipe.zst", flags, Mode::RUSR | Mode::WUSR).map(File::from).map_err(
            |errno| {
                let error = CallError::new(format!("create({})", self.store.shown(&path)), errno);
                self.store.explain(error.into(), "recipe of a layer", &path, 0)
            },
        )
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the upper directory of a snapshot for its tree.
    pub(crate) fn take_upper(&mut self, key: &SnapshotKey) -> Result<()> {
        let upper = format!("{}/upper", crate::snapshot::path_of(key));
        rustix::fs::unlinkat(&self.dir, "fs", AtFlags::REMOVEDIR)
            .map_err(|errno| CallError::new("rmdir(fs)", errno))?;
        self.origin = Some(key.clone());
        rustix::fs::renameat(&self.store.root, &upper, &self.dir, "fs")
            .map_err(|errno| CallError::new(format!("rename({} -> fs)", self.store.shown(&upper)), errno))?;
        self.fs = fs::open_dir_at(&self.dir, "fs")?;
        Ok(())
    }

    /// Commits one layer: see [`Store::commit_layers`].
    pub fn commit(self, record: LayerRecord) -> Result<()> {
        let store = self.store;
        store.commit_layers(vec![(self, record)])
    }

    fn move_to(&mut self, layers: &OwnedFd, record: &LayerRecord, durability: Durability) -> Result<()> {
        let chain = &record.chain_id;
        let failed = |error: CallError| {
            self.store.explain(error.into(), &format!("layer `{chain}`"), &path_of(chain), record.tar_size)
        };
        for _ in 0..3 {
            if fs::rename_noreplace(&self.staging, &self.name, layers, chain.hex()).map_err(failed)? {
                self.moved = true;
                if durability == Durability::NoSync {
                    return Ok(());
                }
                // Its entry `..` changed with the move.
                return rustix::fs::fsync(&self.dir)
                    .map_err(|errno| failed(CallError::new("fsync()", errno)));
            }
            // Somebody else brought the same layer; ours is then dropped, unless theirs is damaged.
            if matches!(self.store.read_layer(chain), Ok(Some(_))) {
                return Ok(());
            }
            self.store.move_layer_aside(chain)?;
        }
        Err(Error::new(
            Kind::Conflict,
            format!("cannot commit layer `{chain}`: another one comes in its place again and again"),
        ))
    }
}

impl Drop for StagedLayer<'_> {
    fn drop(&mut self) {
        let given_back = match &self.origin {
            Some(key) if !self.moved => {
                let upper = format!("{}/upper", crate::snapshot::path_of(key));
                fs::rename_noreplace(&self.dir, "fs", &self.store.root, upper).is_ok()
            }
            _ => true,
        };
        // What could not be given back stays for whoever settles the snapshot.
        if !self.moved && given_back {
            // To the trash, from where it is found again should this take too long; and then the
            // space is given back at once if it can be.
            let started = Instant::now();
            let go_on = || started.elapsed() < self.cleaning;
            let removed = match self.store.trash(&self.staging, &self.name) {
                Ok(Some(name)) => self.store.dir("trash").map(|trash| fs::remove_tree_at(trash, name, go_on)),
                _ => Ok(fs::remove_tree_at(&self.staging, &self.name, go_on)),
            };
            // A failure is no news: the collector takes what is left.
            let _: Result<std::result::Result<Removal, CallError>> = removed;
        }
        let _ = rustix::fs::flock(&self.dir, FlockOperation::Unlock);
    }
}
