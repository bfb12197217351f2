//! From what a container wrote to an image.
//!
//! The layer's diff id names a tar, so the tar has to be made and hashed once, whatever happens to
//! the files; its recipe falls out of the same pass. What differs is where the files go:
//! - **By rename**, where nothing of the snapshot is mounted: the upper directory itself becomes the
//!   layer's tree ([`Store::adopt_upper`](robot_env_store::Store::adopt_upper)), and the snapshot
//!   goes on top of it with an empty one. No byte is copied and nothing large is synced, so a commit
//!   costs one read and one hash of what was written. The container sees the same files, in a layer
//!   more.
//! - **By copy**, where the container goes on running (it should be paused): its upper directory is
//!   read only, and the tar is unpacked into a layer of its own while it is made.
//!
//! Always to copy would be simpler, and three to five times slower; always to rename is impossible
//! under a mounted overlay. Hard links instead of copies would let the container write into the
//! image.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{Overlay, WriteOptions, Written, write_layer};
use robot_env_oci::{
    ChainId, DiffId, HistoryEntry, ImageConfig, Platform, Reference, RootFs, RuntimeConfig, Verified,
};
use robot_env_store::{ImageRecord, LayerRecord, OverlayXattr, Snapshot, Store};

use crate::pipe::pipe;
use crate::{Change, Known, Unpacker, apply_changes};

/// How long the layer stays without an image.
const LEASE: Duration = Duration::from_secs(60 * 60);

/// Where the files of the new layer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// The upper directory becomes the layer; nothing of the snapshot is mounted, and nobody mounts
    /// it meanwhile. The snapshot is changed: open it again.
    Rename,
    /// The upper directory is copied; nothing writes into it meanwhile.
    Copy,
}

/// What the new image says of itself.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// The image that the container was made from; `None` for one without.
    pub parent: Option<ImageRecord>,
    /// How the container runs: what the image inherits.
    pub config: RuntimeConfig,
    /// What is changed of it, in this order.
    pub changes: Vec<Change>,
    /// Who made it.
    pub author: String,
    /// The comment in its history.
    pub message: String,
    /// The command that the container ran, for the history.
    pub created_by: String,
    /// When it is made.
    pub created: Timestamp,
    /// Its name.
    pub reference: Option<Reference>,
}

/// Makes an image of a snapshot: the layers below it, and what was written into it as one more. If
/// nothing was, there is no further layer. The name comes last.
///
/// Errors: `InvalidInput` for a change that cannot be applied, before anything is done; `Corrupt`
/// when a layer below is damaged; `NoSpace`. The snapshot is then as it was.
pub fn commit(
    unpacker: &Unpacker<'_>,
    snapshot: &Snapshot,
    mode: CommitMode,
    options: &CommitOptions,
) -> Result<ImageRecord> {
    make(unpacker, snapshot, mode, options)
        .within(|| format!("cannot commit container `{}`", snapshot.record.key))
}

fn make(
    unpacker: &Unpacker<'_>,
    snapshot: &Snapshot,
    mode: CommitMode,
    options: &CommitOptions,
) -> Result<ImageRecord> {
    if options.reference.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(Error::invalid("the image's name must not have a digest"));
    }
    let mut runtime = options.config.clone();
    apply_changes(&mut runtime, &options.changes)?;
    let store = unpacker.store();
    let _lease = store.lease(LEASE)?;
    let mut below = Vec::with_capacity(snapshot.record.layers.len());
    for chain in &snapshot.record.layers {
        let layer = store
            .layer(chain)?
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("layer `{chain}` is not in the store")))?;
        below.push(layer.diff_id);
    }
    let parent = match &options.parent {
        Some(parent) => Some(store.config(&parent.id)?.into_value()),
        None => None,
    };
    let layer = match mode {
        CommitMode::Rename => by_rename(unpacker, snapshot, Afterwards::Needed)?,
        CommitMode::Copy => by_copy(unpacker, snapshot)?,
    };
    let config = Verified::make(config(parent, below, layer.as_ref(), runtime, options))?;
    store.put_content(config.digest(), config.bytes())?;
    let mut record = ImageRecord::new(&config);
    record.parent = options.parent.as_ref().map(|parent| parent.id.clone());
    record.origin = "commit".into();
    let name = options.reference.as_ref().map(|name| (name, None));
    store.put_named_image(&record, name.as_slice())
}

/// Makes a layer of what was written into a snapshot that can only be removed afterwards: the id of the
/// chain with it on top, or the chain below when nothing was written. It is on the disk when an image
/// with it is put ([`Store::consume_upper`]).
///
/// Errors: `Corrupt` when a layer below is damaged; `NoSpace`. The snapshot is then as it was.
pub fn commit_layer(unpacker: &Unpacker<'_>, snapshot: &Snapshot) -> Result<Option<ChainId>> {
    let parent = snapshot.record.parent.as_ref();
    let made = by_rename(unpacker, snapshot, Afterwards::Removed).within(|| "cannot make a layer".into())?;
    Ok(made.map(|diff_id| ChainId::of(parent, &diff_id)).or_else(|| parent.cloned()))
}

fn config(
    parent: Option<ImageConfig>,
    mut diff_ids: Vec<DiffId>,
    layer: Option<&DiffId>,
    runtime: RuntimeConfig,
    options: &CommitOptions,
) -> ImageConfig {
    let created = options.created.to_string();
    let (platform, mut history, own) = match parent {
        Some(parent) => (parent.platform, parent.history, parent.rootfs.diff_ids.len()),
        None => (Platform::host(), Vec::new(), 0),
    };
    // Layers that earlier commits of this container made.
    let earlier = diff_ids.len().saturating_sub(own);
    history.extend((0..earlier).map(|_| HistoryEntry {
        created: Some(created.clone()),
        comment: "committed before".into(),
        ..HistoryEntry::default()
    }));
    diff_ids.extend(layer.cloned());
    history.push(HistoryEntry {
        created: Some(created.clone()),
        created_by: options.created_by.clone(),
        author: options.author.clone(),
        comment: options.message.clone(),
        empty_layer: layer.is_none(),
    });
    ImageConfig {
        created: Some(created),
        author: options.author.clone(),
        platform,
        config: runtime,
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        history,
        ..ImageConfig::default()
    }
}

/// What becomes of the snapshot that a layer was made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    Needed,
    Removed,
}

/// The new layer; `None` when nothing was written.
fn by_rename(unpacker: &Unpacker<'_>, snapshot: &Snapshot, afterwards: Afterwards) -> Result<Option<DiffId>> {
    let store = unpacker.store();
    let staged = store.stage_layer()?;
    let mut recipe = staged.recipe()?;
    let written = write(store, snapshot, &mut io::sink(), Some(&mut recipe))?;
    drop(recipe);
    if written.entries == 0 {
        return Ok(None);
    }
    if written.skipped.names > 0 {
        // Sockets and reserved names are not in the tar, and so must not be in the layer.
        drop(staged);
        return by_copy(unpacker, snapshot);
    }
    let mut record = LayerRecord::new(snapshot.record.parent.clone(), written.diff_id.clone());
    record.tar_size = written.tar_size;
    record.content_size = written.content_size;
    record.entries = written.entries;
    match afterwards {
        Afterwards::Needed => store.adopt_upper(&snapshot.record.key, staged, record)?,
        Afterwards::Removed => store.consume_upper(&snapshot.record.key, staged, record)?,
    };
    Ok(Some(written.diff_id))
}

/// Like [`by_rename`], and the snapshot stays as it is.
fn by_copy(unpacker: &Unpacker<'_>, snapshot: &Snapshot) -> Result<Option<DiffId>> {
    let store = unpacker.store();
    let (mut sink, source) = pipe();
    let (written, unpacked) = std::thread::scope(|scope| {
        let writing = scope.spawn(move || write(store, snapshot, &mut sink, None));
        let unpacked = unpacker.unpack(source, Known::default());
        (writing.join(), unpacked)
    });
    let written = match (written, unpacked.as_ref()) {
        // A writer that found nobody to write for is only an echo.
        (Ok(Err(_)), Err(failure)) if failure.error.kind() != Kind::Corrupt => None,
        (Ok(written), _) => Some(written?),
        (Err(_), _) => return Err(Error::new(Kind::Internal, "a thread of commit panicked")),
    };
    let mut unpacked = unpacked.map_err(Error::from)?;
    if written.is_none_or(|written| written.diff_id != unpacked.diff_id) {
        return Err(Error::new(Kind::Internal, "the copy differs from what was written"));
    }
    if unpacked.applied.entries == 0 {
        return Ok(None);
    }
    let diff_id = unpacked.diff_id.clone();
    let parent = snapshot.record.parent.clone();
    let chain = ChainId::of(parent.as_ref(), &diff_id);
    if !store.layer(&chain).is_ok_and(|known| known.is_some()) {
        unpacked.parent = parent;
        unpacker.commit(vec![unpacked])?;
    }
    Ok(Some(diff_id))
}

fn write(
    store: &Store,
    snapshot: &Snapshot,
    out: &mut dyn io::Write,
    recipe: Option<&mut dyn io::Write>,
) -> Result<Written> {
    let lowers: Vec<BorrowedFd<'_>> = snapshot.lowers.iter().map(AsFd::as_fd).collect();
    let xattr_namespace = match store.overlay_xattr() {
        OverlayXattr::Trusted => Overlay::Trusted,
        OverlayXattr::User => Overlay::User,
    };
    let options = WriteOptions { xattr_namespace, hash_beside: true };
    write_layer(snapshot.upper.as_fd(), &lowers, out, recipe, &options)
}
