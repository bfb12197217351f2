//! One layer's blob on its way into a registry, by the cheapest way that there is.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{Compression, Encoder, assemble};
use robot_env_oci::{Algorithm, Descriptor, Digest, Hasher, Repository};
use robot_env_registry::{Client, Expected};
use robot_env_store::{LayerRecord, Store};

use super::Outgoing;
use super::gzip::gzip;
use crate::unpack::{PIECE, PIECES, Pieces};
use crate::{Amount, Observer};

/// The least time between two words about one layer.
const PAUSE: Duration = Duration::from_millis(100);

/// Brings one layer's blob into a repository.
pub(super) struct Sender<'a> {
    pub(super) store: &'a Store,
    pub(super) client: &'a Client,
    pub(super) target: &'a Repository,
    pub(super) observer: &'a dyn Observer,
    pub(super) stop: &'a AtomicBool,
    /// Registries that could not be reached when a blob was to be fetched from them.
    pub(super) unreachable: &'a Mutex<Vec<String>>,
    pub(super) layer: &'a Outgoing,
}

impl Sender<'_> {
    /// Does it; gives the blob that the target then has.
    pub(super) fn send(&self) -> Result<Descriptor> {
        let candidates = self.candidates();
        for blob in &candidates {
            if self.client.blob_exists(self.target, &blob.digest)? {
                self.say("Layer already exists");
                return Ok((*blob).clone());
            }
        }
        for blob in &candidates {
            for from in self.repositories(blob).filter(|from| from.domain() == self.target.domain()) {
                if from != *self.target && self.client.mount_blob(self.target, &blob.digest, &from)? {
                    self.say(&format!("Mounted from {}", from.path()));
                    return Ok((*blob).clone());
                }
            }
        }
        // Only for an image that is to keep its digest is a blob fetched from elsewhere: what is
        // here is nearer.
        if let Some(blob) = &self.layer.wanted {
            for from in self.repositories(blob) {
                if self.pass_on(blob, &from)? {
                    self.say("Pushed");
                    return Ok(blob.clone());
                }
            }
        }
        let blob = self.make()?;
        self.say("Pushed");
        Ok(blob)
    }

    fn say(&self, what: &str) {
        self.observer.step(self.layer.item(), what, None);
    }

    /// The blobs that would do: the manifest's, or any that is known of the layer.
    fn candidates(&self) -> Vec<&Descriptor> {
        if let Some(wanted) = &self.layer.wanted {
            return vec![wanted];
        }
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for source in &self.layer.record.sources {
            let known = blobs.iter().any(|blob| blob.digest == source.descriptor.digest);
            if !known && Compression::from_media_type(&source.descriptor.media_type).is_some() {
                blobs.push(&source.descriptor);
            }
        }
        blobs
    }

    /// The repositories that are known to have had `blob`.
    fn repositories<'s>(&'s self, blob: &'s Descriptor) -> impl Iterator<Item = Repository> + 's {
        let sources = self.layer.record.sources.iter();
        sources
            .filter(|source| source.descriptor.digest == blob.digest)
            .filter_map(|source| source.repository.parse().ok())
    }

    /// Reads the blob from the registry that it came from and sends it on; false when it cannot be
    /// had there. A registry that cannot be reached is asked once, and not for every layer.
    fn pass_on(&self, blob: &Descriptor, from: &Repository) -> Result<bool> {
        let unreachable = |domain: &str| {
            self.unreachable
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .any(|known| known == domain)
        };
        if unreachable(from.domain()) {
            return Ok(false);
        }
        let expected = Expected { digest: Some(blob.digest.clone()), size: Some(blob.size) };
        let not_had: Mutex<Option<Kind>> = Mutex::new(None);
        let fail = |error: Error| {
            not_had.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.kind());
            // The reader has tried often enough; the upload must not start over because of it.
            match error.kind() {
                Kind::Unavailable => {
                    let message = error.message().to_owned();
                    Error::new(Kind::NotFound, message).because(error)
                }
                _ => error,
            }
        };
        let mut open = || -> Result<Box<dyn Read + '_>> {
            let inner = self.client.blob(from, blob, 0).map_err(fail)?;
            Ok(Box::new(Passed { inner, stop: self.stop, fail: &fail }))
        };
        let sent = self.client.push_blob(self.target, &expected, &mut open, &mut self.progress(blob.size));
        let not_had = not_had.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (sent, not_had) {
            (Ok(_), _) => Ok(true),
            (Err(error), _) if error.kind() == Kind::Interrupted => Err(error),
            (Err(_), Some(kind)) => {
                if kind == Kind::Unavailable && !unreachable(from.domain()) {
                    let mut hosts = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
                    hosts.push(from.domain().to_owned());
                }
                Ok(false)
            }
            // The bytes came, and were not what they should be.
            (Err(error), None) if error.kind() == Kind::Corrupt => Ok(false),
            (Err(error), None) => Err(error),
        }
    }

    /// Makes the layer's tar from its recipe, compresses it, and sends that.
    fn make(&self) -> Result<Descriptor> {
        let record = &self.layer.record;
        let kind = self.layer.wanted.as_ref().map(|wanted| wanted.media_type.as_str());
        let compression = kind.and_then(Compression::from_media_type).unwrap_or(Compression::Gzip);
        // Its compressed length is not known: the bar shows how much of the tar has gone.
        let done = Arc::new(AtomicU64::new(0));
        let pushed = std::thread::scope(|scope| {
            let mut open = || -> Result<Box<dyn Read>> {
                Ok(Box::new(self.compressed(scope, compression, Arc::clone(&done))?))
            };
            let mut said = None::<Instant>;
            let mut progress = |_| {
                if said.is_none_or(|said| said.elapsed() >= PAUSE) {
                    said = Some(Instant::now());
                    let amount = Amount { done: done.load(Ordering::Relaxed), total: record.tar_size };
                    self.observer.step(self.layer.item(), "Pushing", Some(amount));
                }
            };
            self.client.push_blob(self.target, &Expected::default(), &mut open, &mut progress)
        })?;
        let media_type = kind.unwrap_or(compression.media_type());
        Ok(Descriptor::new(media_type, pushed.digest, pushed.size))
    }

    /// The layer's compressed tar, made by another thread.
    fn compressed<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        compression: Compression,
        done: Arc<AtomicU64>,
    ) -> Result<Pieces> {
        let (full, arriving) = sync_channel(PIECES);
        let (give_back, empty) = channel();
        let work = move || {
            let tar = Tar { store: self.store, record: &self.layer.record, stop: self.stop };
            let result = tar.compress(compression, &full, &empty, &done);
            if let Err(error) = result {
                let _ = full.send(Err(io::Error::other(error)));
            }
        };
        std::thread::Builder::new()
            .name("compress".into())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::new(Kind::of_io(&error), "cannot start a thread").because(error))?;
        Ok(Pieces::new(arriving, give_back))
    }

    fn progress(&self, total: u64) -> impl FnMut(u64) + '_ {
        let mut said = None::<Instant>;
        move |done| {
            if said.is_none_or(|said| said.elapsed() >= PAUSE) {
                said = Some(Instant::now());
                self.observer.step(self.layer.item(), "Pushing", Some(Amount { done, total }));
            }
        }
    }
}

/// Writes a layer's tar, compressed, into `out`, and gives it back. The tar is made from the layer's
/// tree and recipe, and checked.
pub(crate) fn pack<W: Write>(
    store: &Store,
    record: &LayerRecord,
    compression: Compression,
    out: W,
) -> Result<W> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    Tar { store, record, stop: &stop }.pack(compression, out, &done)
}

/// A layer's tar, made from its tree and recipe.
struct Tar<'a> {
    store: &'a Store,
    record: &'a LayerRecord,
    stop: &'a AtomicBool,
}

impl Tar<'_> {
    /// Makes and compresses it. Its digest is checked: a damaged layer does not leave this machine.
    fn compress(
        &self,
        compression: Compression,
        full: &SyncSender<io::Result<Vec<u8>>>,
        empty: &Receiver<Vec<u8>>,
        done: &AtomicU64,
    ) -> Result<()> {
        let out = Packed { full, empty, piece: Vec::with_capacity(PIECE), stop: self.stop };
        self.pack(compression, out, done)?.flush().map_err(robot_env_registry::error_of)
    }

    fn pack<W: Write>(&self, compression: Compression, out: W, done: &AtomicU64) -> Result<W> {
        let chain = &self.record.chain_id;
        let what = || format!("cannot read layer `{}`", chain.short());
        let recipe = self.store.open_recipe(chain)?.ok_or_else(|| {
            Error::new(Kind::Corrupt, what()).because(Error::new(Kind::Corrupt, "its recipe is missing"))
        })?;
        let tree = self.store.layer_dir(chain)?;
        done.store(0, Ordering::Relaxed);
        let fill = |out: &mut dyn Write| -> Result<()> {
            let mut tar = HashedTar { out, hasher: Hasher::new(Algorithm::Sha256), done };
            assemble(recipe, tree.as_fd(), &mut tar).within(what)?;
            self.check(&tar.hasher.finish())
        };
        if compression == Compression::Gzip {
            gzip(out, |out| fill(out))
        } else {
            let mut encoder = Encoder::new(out, compression)?;
            fill(&mut encoder)?;
            encoder.finish()
        }
    }

    fn check(&self, digest: &Digest) -> Result<()> {
        if digest == self.record.diff_id.digest() {
            return Ok(());
        }
        let chain = &self.record.chain_id;
        let reason = format!("its tar has the digest {digest} instead of {}", self.record.diff_id);
        Err(Error::new(Kind::Corrupt, format!("layer `{}` is damaged", chain.short()))
            .because(Error::new(Kind::Corrupt, reason)))
    }
}

/// Hashes the tar on its way to the compressor.
struct HashedTar<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    done: &'a AtomicU64,
}

impl Write for HashedTar<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends what the compressor gives in pieces.
struct Packed<'a> {
    full: &'a SyncSender<io::Result<Vec<u8>>>,
    empty: &'a Receiver<Vec<u8>>,
    piece: Vec<u8>,
    stop: &'a AtomicBool,
}

impl Write for Packed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(stopped()));
        }
        if !self.piece.is_empty() {
            let mut next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
            next.clear();
            let piece = std::mem::replace(&mut self.piece, next);
            self.full.send(Ok(piece)).map_err(|_| io::Error::other(stopped()))?;
        }
        Ok(())
    }
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "the upload ended")
}

/// A blob that is read in one registry and sent to another: whose failure it was is remembered.
struct Passed<'a, R> {
    inner: R,
    stop: &'a AtomicBool,
    fail: &'a (dyn Fn(Error) -> Error + 'a),
}

impl<R: Read> Read for Passed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(stopped()));
        }
        match self.inner.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(io::Error::other((self.fail)(robot_env_registry::error_of(error))))
            }
            other => other,
        }
    }
}
