//! Walking a tree by descriptors, in a fixed order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Result, Within};
use robot_env_sys::ErrnoContext;
use rustix::fs::{Dir, FileType, OFlags, Stat};

use crate::archive::Shown;
use crate::directories::open_directory;
use crate::make;
use crate::path;

/// Levels whose descriptors stay open.
const OPEN: usize = 64;

/// An entry of a directory.
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) stat: Stat,
}

/// What a walk shows: an entry with the directory that it is in.
pub(crate) struct Visit<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) item: &'a Item,
    /// Path below the walk's root.
    pub(crate) path: &'a [u8],
    /// Number of slashes in the path.
    pub(crate) depth: usize,
}

impl Visit<'_> {
    pub(crate) fn is_directory(&self) -> bool {
        make::file_type(&self.item.stat) == FileType::Directory
    }
}

/// The entries of a directory, sorted by the bytes of their names.
pub(crate) fn list(dir: BorrowedFd<'_>) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    // A descriptor of our own: that one may be an `O_PATH` one, and has a position.
    let own = open_directory(dir, b"", OFlags::RDONLY)?;
    for entry in Dir::new(own).call(|| "openat(.)".to_owned())? {
        let entry = entry.call(|| "getdents64".to_owned())?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        // One that went away meanwhile is not there.
        if let Some(stat) = make::stat(dir, name)? {
            items.push(Item { name: name.to_vec(), stat });
        }
    }
    items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

struct Frame {
    path: Vec<u8>,
    fd: Option<OwnedFd>,
    items: std::vec::IntoIter<Item>,
}

/// Visits everything below `root`, a directory before what is in it, never through a symbolic
/// link. `visit` answers whether to go into a directory.
pub(crate) fn walk(root: BorrowedFd<'_>, visit: &mut dyn FnMut(&Visit<'_>) -> Result<bool>) -> Result<()> {
    let mut frames = vec![frame(root, Vec::new())?];
    loop {
        let depth = frames.len() - 1;
        let frame_now = &mut frames[depth];
        let Some(item) = frame_now.items.next() else {
            frames.pop();
            if frames.is_empty() {
                return Ok(());
            }
            continue;
        };
        let fd = match frame_now.fd.take() {
            Some(fd) => fd,
            None => open_directory(root, &frame_now.path, OFlags::RDONLY)?,
        };
        let path = path::join(&frame_now.path, &item.name);
        let visited = Visit { dir: fd.as_fd(), item: &item, path: &path, depth };
        let inside = visit(&visited)? && visited.is_directory();
        frame_now.fd = Some(fd);
        if inside {
            if depth >= OPEN {
                frames[depth - OPEN].fd = None;
            }
            // Directories that vanish while a running container is looked at are no failure.
            match frame(root, path) {
                Ok(frame) => frames.push(frame),
                Err(error) if error.kind() == robot_env_diag::Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn frame(root: BorrowedFd<'_>, path: Vec<u8>) -> Result<Frame> {
    let fd = open_directory(root, &path, OFlags::RDONLY)?;
    let items = list(fd.as_fd()).within(|| format!("cannot list the directory `{}`", Shown(&path)))?;
    Ok(Frame { path, fd: Some(fd), items: items.into_iter() })
}
