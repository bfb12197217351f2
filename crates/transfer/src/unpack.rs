//! From a layer's blob to a layer of the store: one pass, two threads.
//!
//! The calling thread takes the tar apart ([`robot_env_layer::apply`]: diff id, recipe and files in
//! the same pass); a second one reads the blob, hashes and decompresses it. So a single large
//! layer keeps two processors busy, and nothing is written that is not kept. A plain tar is its own
//! blob and is hashed once, by the second thread.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{
    Applied, ApplyOptions, Compression, Decoder, Overlay, Ownership, Share, apply_within, inherit_directories,
};
use robot_env_oci::{Algorithm, ChainId, Descriptor, DiffId, Digest, Hasher};
use robot_env_store::{LayerRecord, LayerSource, OverlayXattr, StagedLayer, Store};

/// Length of the pieces that go from one thread to the other, in bytes.
pub(crate) const PIECE: usize = 256 * 1024;
/// How many pieces may wait.
pub(crate) const PIECES: usize = 8;
/// How many bytes of unpacked layers wait before they are committed, if more are to come.
pub(crate) const BATCH: u64 = 64 * 1024 * 1024;
/// How much memory they may take meanwhile, in bytes.
pub(crate) const MEMORY: usize = 8 * 1024 * 1024;

/// The most memory of the directories of one layer that it has no entries for: they are held until it is
/// committed, with those of other layers.
const IMPLIED: usize = 12 << 20;

/// Whether this process can give files to the owners that layers name: root, or root of a user
/// namespace that has more than one id. Read from `/proc/self/uid_map`.
pub fn ownership() -> Ownership {
    let ids = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
    let ids: u64 = ids.lines().filter_map(count).sum();
    if rustix::process::geteuid().is_root() && ids > 1 { Ownership::Keep } else { Ownership::SingleId }
}

/// The layers of an archive that wait for each other, unpacked: what they take of the memory is bounded.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicUsize);

impl Waiting {
    /// The most, in bytes.
    const MOST: usize = 48 << 20;

    /// One more.
    pub(crate) fn add(&self, layer: &Unpacked<'_>) -> Result<()> {
        let memory = layer.memory();
        if self.0.fetch_add(memory, Ordering::Relaxed) + memory > Self::MOST {
            return Err(Error::new(
                Kind::Unsupported,
                "its layers have no entries for too many of their directories",
            ));
        }
        Ok(())
    }
}

/// Brings layers into a store.
#[derive(Clone, Copy, Debug)]
pub struct Unpacker<'a> {
    store: &'a Store,
    options: ApplyOptions,
}

/// What is known of a blob before it is read. What is known is checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'k> {
    /// Digest and size of the blob as it is read (compressed).
    pub blob: Option<&'k Descriptor>,
    /// The digest of its tar.
    pub diff_id: Option<&'k DiffId>,
}

/// A layer that was unpacked and checked, and is not in the store yet. Dropped, it is deleted.
#[derive(Debug)]
pub struct Unpacked<'a> {
    staged: StagedLayer<'a>,
    /// SHA-256 of the tar.
    pub diff_id: DiffId,
    /// What the tar said.
    pub applied: Applied,
    /// The digest and size of the blob, with the media type that its bytes stand for.
    pub blob: Descriptor,
    /// The layer that it goes on top of; set before [`Unpacker::commit`].
    pub parent: Option<ChainId>,
    /// Where the layer can be had; set before [`Unpacker::commit`].
    pub sources: Vec<LayerSource>,
}

/// Why a layer was not unpacked.
#[derive(Debug)]
pub struct UnpackError {
    /// The error.
    pub error: Error,
    /// The blob's bytes were not those of its digest: whoever served them is to blame, and another
    /// try may help. Otherwise the layer itself is bad, or something else stood in the way.
    pub damaged_blob: bool,
}

impl From<Error> for UnpackError {
    fn from(error: Error) -> Self {
        UnpackError { error, damaged_blob: false }
    }
}

impl From<UnpackError> for Error {
    fn from(failure: UnpackError) -> Self {
        failure.error
    }
}

impl Unpacked<'_> {
    /// Deletes it, and leaves to the trash what takes longer than `time`.
    pub(crate) fn discard(mut self, time: Duration) {
        self.staged.clean_within(time);
    }

    /// The memory that it takes until it is committed, in bytes.
    pub(crate) fn memory(&self) -> usize {
        implied(&self.applied)
    }

    /// Its name on top of its parent.
    pub fn chain_id(&self) -> ChainId {
        ChainId::of(self.parent.as_ref(), &self.diff_id)
    }
}

impl<'a> Unpacker<'a> {
    /// Unpacks into `store`. `ownership` says whether this process can give files to their owners.
    pub fn new(store: &'a Store, ownership: Ownership) -> Self {
        let xattr_namespace = match store.overlay_xattr() {
            OverlayXattr::Trusted => Overlay::Trusted,
            OverlayXattr::User => Overlay::User,
        };
        // A truncated tar has another diff id, which is checked.
        let options =
            ApplyOptions { ownership, xattr_namespace, missing_end_ok: true, ..ApplyOptions::default() };
        Unpacker { store, options }
    }

    /// The store.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// Unpacks the layer in `blob`, compressed or not, by itself.
    ///
    /// Fails with `Corrupt` when blob or tar are not what is `known` of them, or the tar is no
    /// layer; with `Unsupported` for a compression that is not known; with `NoSpace`. A reader that
    /// carries a [`diag::Error`](Error) in its I/O error keeps that error's kind. Nothing stays
    /// behind.
    pub fn unpack(&self, blob: impl Read + Send, known: Known<'_>) -> Result<Unpacked<'a>, UnpackError> {
        let staged = self.store.stage_layer()?;
        let mut recipe = staged.recipe()?;
        let algorithm = known.blob.map_or(Algorithm::Sha256, |blob| blob.digest.algorithm());
        // Without a diff id to compare with nothing else would notice a truncated tar.
        let mut options = ApplyOptions { missing_end_ok: known.diff_id.is_some(), ..self.options };
        let judge = AtomicBool::new(false);
        let share = Share::new();
        let (applied, blob) = std::thread::scope(|scope| {
            let (full, arriving) = sync_channel(PIECES);
            let (give_back, empty) = channel();
            let (sniffed, compression) = channel();
            let (judge, share) = (&judge, &share);
            let reading = std::thread::Builder::new().name("layer".into()).spawn_scoped(scope, move || {
                let mut source =
                    Hashed { inner: blob, hasher: Hasher::new(algorithm), size: 0, failed: false };
                let ended = decode(&mut source, &sniffed, &full, &empty, share);
                drop((full, sniffed));
                let wanted = matches!(ended, Ok((_, true))) || judge.load(Ordering::Acquire);
                source.judge(ended.map(|(compression, _)| compression), wanted)
            });
            let reading = match reading {
                Ok(reading) => reading,
                Err(error) => {
                    let error = Error::new(Kind::of_io(&error), "cannot start a thread").because(error);
                    return (Err(error), None);
                }
            };
            // Nothing comes where the blob's first bytes could not be read.
            let plain = compression.recv() == Ok(Compression::None);
            options.hash = !(plain && algorithm == Algorithm::Sha256);
            let mut tar = Pieces::new(arriving, give_back);
            let applied = apply_within(&mut tar, staged.fs(), &mut recipe, &options, share);
            if applied.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt) {
                judge.store(true, Ordering::Release);
            }
            drop(tar);
            (applied, reading.join().ok())
        });
        let Some(blob) = blob else {
            return Err(applied.err().unwrap_or_else(panicked).into());
        };
        if let (Some(wanted), Some((digest, size))) = (known.blob, &blob.identity) {
            check_blob(wanted, digest, *size).map_err(|error| UnpackError { error, damaged_blob: true })?;
        }
        let (applied, compression) = match (blob.ended, applied) {
            // What the other side says of it is only an echo.
            (Err(error), _) => {
                let damaged_blob = blob.broke && error.kind() == Kind::Corrupt;
                return Err(UnpackError { error, damaged_blob });
            }
            (Ok(_), Err(error)) => return Err(error.into()),
            (Ok(compression), Ok(applied)) => (applied, compression),
        };
        if implied(&applied) > IMPLIED {
            let reason = format!("it has no entries for {} of its directories", applied.implied.len());
            return Err(Error::new(Kind::Unsupported, reason).into());
        }
        let Some((digest, size)) = blob.identity else { return Err(panicked().into()) };
        let diff_id = applied.diff_id.clone().unwrap_or_else(|| DiffId(digest.clone()));
        if let Some(wanted) = known.diff_id
            && diff_id != *wanted
        {
            let reason = format!("its tar has the digest {diff_id} instead of {wanted}");
            return Err(Error::new(Kind::Corrupt, reason).into());
        }
        let media_type = known.blob.map_or(compression.media_type(), |blob| &blob.media_type);
        Ok(Unpacked {
            staged,
            diff_id,
            applied,
            blob: Descriptor::new(media_type, digest, size),
            parent: None,
            sources: Vec::new(),
        })
    }

    /// Completes layers from those below them and commits them, with one sync of the disk for all.
    /// Each layer's parent must be in the store or stand before it in `layers`.
    pub fn commit(&self, layers: Vec<Unpacked<'a>>) -> Result<()> {
        let mut trees: HashMap<ChainId, OwnedFd> = HashMap::new();
        let mut ancestors: HashMap<ChainId, Vec<ChainId>> = HashMap::new();
        for layer in &layers {
            let chain = layer.chain_id();
            let below = match &layer.parent {
                None => Vec::new(),
                Some(parent) => match ancestors.get(parent) {
                    Some(known) => [&known[..], std::slice::from_ref(parent)].concat(),
                    None => self.in_store(parent, &mut trees)?,
                },
            };
            self.complete(layer, &below, &trees)
                .within(|| format!("cannot complete layer `{}`", chain.short()))?;
            let tree = layer.staged.fs().try_clone_to_owned().map_err(|error| {
                Error::new(Kind::of_io(&error), "cannot keep a layer's tree open").because(error)
            })?;
            trees.insert(chain.clone(), tree);
            ancestors.insert(chain, below);
        }
        drop(trees);
        let records = layers.into_iter().map(|layer| {
            let mut record = LayerRecord::new(layer.parent, layer.diff_id);
            record.tar_size = layer.applied.tar_size;
            record.content_size = layer.applied.content_size;
            record.entries = layer.applied.entries;
            record.sources = layer.sources;
            (layer.staged, record)
        });
        self.store.commit_layers(records.collect())
    }

    /// The chain up to `top`, lowest first, all of which is in the store; their trees are opened.
    fn in_store(&self, top: &ChainId, trees: &mut HashMap<ChainId, OwnedFd>) -> Result<Vec<ChainId>> {
        let record = self.store.layer(top)?.ok_or_else(|| {
            Error::new(Kind::Conflict, format!("the layer below, `{top}`, is not in the store"))
        })?;
        let mut chain = record.ancestors;
        chain.push(top.clone());
        for id in &chain {
            // Those that were unpacked just now count, not the damaged ones that they replace.
            if !trees.contains_key(id) {
                trees.insert(id.clone(), self.store.layer_dir(id)?);
            }
        }
        Ok(chain)
    }

    fn complete(
        &self,
        layer: &Unpacked<'_>,
        below: &[ChainId],
        trees: &HashMap<ChainId, OwnedFd>,
    ) -> Result<()> {
        let lowers: Vec<BorrowedFd<'_>> =
            below.iter().rev().filter_map(|chain| trees.get(chain)).map(AsFd::as_fd).collect();
        if lowers.len() != below.len() {
            return Err(Error::new(Kind::Internal, "a layer below is not there"));
        }
        inherit_directories(layer.staged.fs(), &lowers, &layer.applied.implied, &self.options)
    }
}

/// The memory of the names of the directories that a layer has no entries for, in bytes.
fn implied(applied: &Applied) -> usize {
    applied.implied.iter().map(|path| path.len() + 48).sum()
}

fn panicked() -> Error {
    Error::new(Kind::Internal, "the layer's reader stopped")
}

fn check_blob(blob: &Descriptor, digest: &Digest, size: u64) -> Result<()> {
    if *digest == blob.digest && size == blob.size {
        return Ok(());
    }
    let reason = if size == blob.size {
        format!("its bytes have the digest {digest}")
    } else {
        format!("it has {size} bytes and not the {} that are declared", blob.size)
    };
    Err(Error::new(Kind::Corrupt, format!("content does not match its digest `{}`", blob.digest))
        .because(Error::new(Kind::Corrupt, reason)))
}

/// A blob that was read, as far as it went.
struct Blob {
    /// How decompression ended.
    ended: Result<Compression>,
    /// Whether the blob itself could not be read.
    broke: bool,
    /// Digest and size of the whole blob, if it was read to its end.
    identity: Option<(Digest, u64)>,
}

/// Decompresses `source` into pieces, until its end (true) or until nobody wants them any more.
fn decode(
    source: &mut Hashed<impl Read>,
    sniffed: &Sender<Compression>,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
    share: &Share,
) -> Result<(Compression, bool)> {
    // The other side must not take a broken layer for one that ended.
    let fail = |error: Error| {
        let _ = full.send(Err(io::Error::other(Error::from(error.to_report()))));
        error
    };
    let mut decoder = Decoder::within(source, share).map_err(fail)?;
    let compression = decoder.compression();
    let _ = sniffed.send(compression);
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match decoder.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fail(read_error(error))),
            }
        }
        let ended = filled < PIECE;
        piece.truncate(filled);
        if filled > 0 && full.send(Ok(piece)).is_err() {
            return Ok((compression, false));
        }
        if ended {
            return Ok((compression, true));
        }
    }
}

/// The [`Error`] that an I/O error of a layer's blob carries; one of a decoder means a broken blob.
fn read_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => {
            let kind = match Kind::of_io(&error) {
                Kind::Internal if error.raw_os_error().is_none() => Kind::Corrupt,
                kind => kind,
            };
            Error::new(kind, "cannot decompress the layer").because(error)
        }
    }
}

/// Hashes and counts what is read.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
    failed: bool,
}

impl<R: Read> Hashed<R> {
    /// Reads what is left, where that tells a damaged blob from a bad layer: after damage of the
    /// compressed stream, and where it is `wanted`.
    fn judge(mut self, ended: Result<Compression>, wanted: bool) -> Blob {
        let damaged = ended.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt);
        if self.failed || !(damaged || wanted) {
            return Blob { ended, broke: self.failed, identity: None };
        }
        match io::copy(&mut self, &mut io::sink()) {
            Ok(_) => Blob { ended, broke: false, identity: Some((self.hasher.finish(), self.size)) },
            Err(error) => Blob { ended: Err(read_error(error)), broke: true, identity: None },
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(n) => {
                self.hasher.update(&buffer[..n]);
                self.size += n as u64;
                Ok(n)
            }
            Err(error) => {
                self.failed |= error.kind() != io::ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}

/// Reads the pieces that the other thread sends, and gives their memory back.
pub(crate) struct Pieces {
    arriving: Receiver<io::Result<Vec<u8>>>,
    give_back: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Pieces {
    pub(crate) fn new(arriving: Receiver<io::Result<Vec<u8>>>, give_back: Sender<Vec<u8>>) -> Self {
        Pieces { arriving, give_back, piece: Vec::new(), at: 0 }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let next = match self.arriving.recv() {
                Ok(next) => next?,
                Err(_) => return Ok(0),
            };
            let _ = self.give_back.send(std::mem::replace(&mut self.piece, next));
            self.at = 0;
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
