//! Layers made anew from layers: all of a build as one (`--squash`), or with other times
//! (`rewrite-timestamp`).
//!
//! Each new layer is written as any other is: on top of the layers below it, mounted; what was in the
//! old ones is put over that, in their order. So it has the whiteouts that it needs and no others.

use std::os::fd::{AsFd, BorrowedFd};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_engine::Engine;
use robot_env_oci::{ChainId, HistoryEntry, ImageConfig, RootFs, Verified};
use robot_env_store::{OverlayXattr, Store};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::copying::{CopyOptions, Target};
use crate::room::Room;
use crate::step::Mounted;
use crate::tree::{Entry, Tree};

/// How layers are made anew.
pub(crate) struct Relayer<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) room: &'a Room,
}

impl Relayer<'_> {
    /// The image with all layers above `base` as one.
    ///
    /// # Errors
    /// `Corrupt` when a layer is damaged; `NoSpace`.
    pub(crate) fn squash(
        &self,
        image: &ImageConfig,
        base: Option<&ChainId>,
        now: &str,
    ) -> Result<Verified<ImageConfig>> {
        let links = image.chain().links().to_vec();
        let kept = kept(&links, base)?;
        let above: Vec<ChainId> = links[kept..].iter().map(|(_, chain)| chain.clone()).collect();
        let mut squashed = image.clone();
        squashed.rootfs.diff_ids.truncate(kept);
        let chain = self.write(base, &above, None).within(|| "cannot squash the image".into())?;
        let made = chain.as_ref() != base;
        if made && let Some(chain) = &chain {
            let record = self.engine.store().layer(chain)?;
            let record = record.ok_or_else(|| Error::new(Kind::Internal, "the layer is gone"))?;
            squashed.rootfs.diff_ids.push(record.diff_id);
        }
        let mut layers = 0;
        for entry in &mut squashed.history {
            layers += usize::from(!entry.empty_layer);
            entry.empty_layer |= layers > kept;
        }
        squashed.history.push(HistoryEntry {
            created: Some(now.to_owned()),
            comment: "squashed".into(),
            empty_layer: !made,
            ..HistoryEntry::default()
        });
        self.put(squashed)
    }

    /// The image with layers above `base` in which nothing was modified after `epoch`, in seconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// `Corrupt` when a layer is damaged; `NoSpace`.
    pub(crate) fn rewrite(
        &self,
        image: &ImageConfig,
        base: Option<&ChainId>,
        epoch: i64,
    ) -> Result<Verified<ImageConfig>> {
        let links = image.chain().links().to_vec();
        let kept = kept(&links, base)?;
        let mut rewritten = image.clone();
        rewritten.rootfs =
            RootFs { diff_ids: image.rootfs.diff_ids[..kept].to_vec(), ..image.rootfs.clone() };
        let mut below = base.cloned();
        let mut empty = Vec::new();
        for (at, (_, chain)) in links.iter().enumerate().skip(kept) {
            let made = self
                .write(below.as_ref(), std::slice::from_ref(chain), Some(epoch))
                .within(|| "cannot rewrite the times of the image".into())?;
            if made == below {
                empty.push(at);
                continue;
            }
            below = made;
            if let Some(chain) = &below {
                let record = self.engine.store().layer(chain)?;
                let record = record.ok_or_else(|| Error::new(Kind::Internal, "the layer is gone"))?;
                rewritten.rootfs.diff_ids.push(record.diff_id);
            }
        }
        let layers = rewritten.history.iter_mut().filter(|entry| !entry.empty_layer);
        for (at, entry) in layers.enumerate() {
            entry.empty_layer = empty.contains(&at);
        }
        self.put(rewritten)
    }

    fn put(&self, config: ImageConfig) -> Result<Verified<ImageConfig>> {
        let config = Verified::make(config)?;
        self.engine.store().put_content(config.digest(), config.bytes())?;
        Ok(config)
    }

    /// One layer on top of `below` with what is in `layers`, lowest first: the chain with it, or
    /// `below` when nothing is.
    fn write(
        &self,
        below: Option<&ChainId>,
        layers: &[ChainId],
        epoch: Option<i64>,
    ) -> Result<Option<ChainId>> {
        let store = self.engine.store();
        let mut put = |mounted: &mut Mounted<'_>| {
            layers.iter().try_for_each(|layer| put_layer(store, layer, &mut mounted.target))
        };
        self.room
            .write_layer(store, below, &mut put, |upper| epoch.map_or(Ok(()), |epoch| clamp(upper, epoch, 0)))
    }
}

/// How many of the layers are the base's.
fn kept(links: &[(robot_env_oci::DiffId, ChainId)], base: Option<&ChainId>) -> Result<usize> {
    let Some(base) = base else { return Ok(0) };
    let at = links.iter().position(|(_, chain)| chain == base);
    at.map(|at| at + 1).ok_or_else(|| Error::new(Kind::Internal, "the image does not stand on its base"))
}

/// Puts what is in a layer over a tree, as an overlay of it would show it.
fn put_layer(store: &Store, layer: &ChainId, target: &mut Target<'_>) -> Result<()> {
    let dir = store.layer_dir(layer)?;
    let opaque = match store.overlay_xattr() {
        OverlayXattr::Trusted => c"trusted.overlay.opaque",
        OverlayXattr::User => c"user.overlay.opaque",
    };
    let tree = Tree { root: dir.as_fd(), ignore: None, foreign: false, cancel: None };
    let options = CopyOptions { replace: true, ..CopyOptions::default() };
    for found in tree.find(".")? {
        tree.walk(&found, None, &mut |entry| {
            if entry.path.is_empty() {
                return Ok(());
            }
            let at = [b"/", entry.path].concat();
            if is_whiteout(entry) || (entry.kind() == FileType::Directory && is_opaque(entry, opaque)) {
                target.remove(&at)?;
            }
            target.put(&tree, entry, &at, &options)
        })?;
    }
    target.set_times()
}

fn is_whiteout(entry: &Entry<'_>) -> bool {
    entry.kind() == FileType::CharacterDevice && entry.stat.st_rdev == 0
}

fn is_opaque(entry: &Entry<'_>, attribute: &std::ffi::CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty()) else { return false };
    let mut value = [0u8; 8];
    rustix::fs::fgetxattr(&dir, attribute, &mut value[..]).is_ok_and(|length| &value[..length] == b"y")
}

/// How deep directories may lie in each other.
const DEPTH: usize = 1000;

/// Sets back what was modified after `epoch`, in a directory and below it.
fn clamp(dir: BorrowedFd<'_>, epoch: i64, depth: usize) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::invalid(format!("directories lie more than {DEPTH} deep in each other")));
    }
    let within = || "cannot set times back".to_owned();
    let dir =
        rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(within)?;
    let time = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: epoch, tv_nsec: 0 },
    };
    for entry in Dir::read_from(&dir).io_context(within)? {
        let entry = entry.io_context(within)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).io_context(within)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(&dir, name, flags, Mode::empty()).io_context(within)?;
            clamp(below.as_fd(), epoch, depth + 1)?;
        }
        if (stat.st_mtime, stat.st_mtime_nsec) > (epoch, 0) {
            rustix::fs::utimensat(&dir, name, &time, AtFlags::SYMLINK_NOFOLLOW).io_context(within)?;
        }
    }
    Ok(())
}
