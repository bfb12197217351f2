//! A container's root file system: its snapshot, mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, IoContext, Result, Within};
use robot_env_store::{OverlayXattr, Snapshot};
use robot_env_sys::fs as sys_fs;
use robot_env_sys::mount::OverlayRequest;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::create::snapshot_options;
use crate::engine::{Engine, snapshot_key};
use crate::paths::make_directory;
use crate::record::ContainerRecord;

/// The whole lines in the first MiB of a file inside `root`, links followed inside; empty where it is
/// missing or no regular file. Half a line would be another one: `1000` cut to `10` is another user.
pub(crate) fn read_lines(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>> {
    const LIMIT: usize = 1 << 20;
    let mut bytes = sys_fs::read_in_root(root, path, LIMIT + 1)?.unwrap_or_default();
    if bytes.len() > LIMIT {
        let end = bytes[..LIMIT].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end);
    }
    Ok(bytes)
}

/// A mounted root file system that nobody sees: it is gone when this and its copies are dropped.
pub(crate) struct Rootfs {
    mount: OwnedFd,
}

impl Rootfs {
    /// The container's snapshot, mounted for writing. One that is mounted already must not be
    /// mounted again: the caller has made sure that the container does not run.
    pub(crate) fn of(engine: &Engine, record: &ContainerRecord) -> Result<Rootfs> {
        let snapshot = engine.open_snapshot(record)?;
        snapshot.clear_volatile_mark()?;
        let shifted = engine.shifted_lowers(record, &snapshot)?;
        let layers = shifted.as_ref().map_or(&snapshot.lowers, |shown| &shown.trees);
        let mut lowers: Vec<BorrowedFd<'_>> = layers.iter().map(AsFd::as_fd).collect();
        // An image without layers: an overlay needs one.
        let empty;
        if lowers.is_empty() {
            let path = engine.paths.run_root().join("empty");
            make_directory(&path, 0o755)?;
            empty = sys_fs::open_directory(&path)?;
            lowers.push(empty.as_fd());
        }
        let request = OverlayRequest {
            lowers: &lowers,
            upper: Some((snapshot.upper.as_fd(), snapshot.work.as_fd())),
            volatile: snapshot.record.options.volatile,
            userxattr: engine.store.overlay_xattr() == OverlayXattr::User,
        };
        let mount = engine
            .overlay_of(&request, shifted.as_ref())
            .within(|| format!("cannot mount the root file system of container `{}`", record.name))?;
        Ok(Rootfs { mount })
    }

    /// Its root directory.
    pub(crate) fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// The mount itself.
    pub(crate) fn into_mount(self) -> OwnedFd {
        self.mount
    }

    /// A file of it: see [`read_lines`].
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        read_lines(self.mount(), path)
    }

    /// Makes the directory `path` with those above it where they are missing, owned by `owner` in the
    /// engine's ids. Links are followed inside the tree.
    pub(crate) fn make_directory(&self, path: &str, owner: (u32, u32)) -> Result<()> {
        let mut done = String::new();
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            let parent = sys_fs::open_in_root(self.mount(), &done, OFlags::PATH | OFlags::DIRECTORY)?;
            done.push('/');
            done.push_str(name);
            if sys_fs::open_in_root(self.mount(), &done, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
                continue;
            }
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let _ = rustix::fs::chownat(
                        &parent,
                        name,
                        Some(Uid::from_raw(owner.0)),
                        Some(Gid::from_raw(owner.1)),
                        AtFlags::SYMLINK_NOFOLLOW,
                    );
                }
                Err(Errno::EXIST) => {
                    return Err(Error::invalid(format!("`{done}` in the image is no directory")));
                }
                Err(errno) => return Err(errno).io_context(|| format!("mkdir({done})")),
            }
        }
        Ok(())
    }
}

impl Engine {
    /// The container's snapshot; made now if it was lost before it was made.
    pub(crate) fn open_snapshot(&self, record: &ContainerRecord) -> Result<Snapshot> {
        let key = snapshot_key(&record.id);
        match self.store.snapshot(&key)? {
            Some(snapshot) => Ok(snapshot),
            None => {
                let snapshot = self.store.prepare(&key, record.chain.as_ref(), snapshot_options(record))?;
                Engine::adopt_snapshot(record, &snapshot)?;
                Ok(snapshot)
            }
        }
    }
}
