//! Removing a tree by descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::Result;
use robot_env_sys::ErrnoContext;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::archive::Shown;
use crate::make;
use crate::path;

/// Something that is about to be removed and is not a directory.
pub(crate) struct Removed<'a> {
    /// The directory that it is in (not an `O_PATH` descriptor if it is below the tree's top).
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a [u8],
    /// Its path below the tree's top; "" for the top itself.
    pub(crate) below: &'a [u8],
    pub(crate) stat: &'a Stat,
}

/// Removes the entry `name` of `dir` and all below it, never through a symbolic link, with two
/// descriptors whatever the depth. Nobody else may change the tree meanwhile. `before` sees
/// everything that is not a directory before it goes.
pub(crate) fn remove_tree(
    dir: BorrowedFd<'_>,
    name: &[u8],
    before: &mut dyn FnMut(Removed<'_>) -> Result<()>,
) -> Result<()> {
    let Some(stat) = make::stat(dir, name)? else { return Ok(()) };
    if make::file_type(&stat) != FileType::Directory {
        before(Removed { dir, name, below: b"", stat: &stat })?;
        return unlink(dir, name, AtFlags::empty());
    }
    let mut current = open(dir, name)?;
    let mut below: Vec<u8> = Vec::new();
    loop {
        if let Some(child) = empty_but_directories(current.as_fd(), &below, before)? {
            let inner = open(current.as_fd(), &child)?;
            below = path::join(&below, &child);
            current = inner;
        } else if below.is_empty() {
            return unlink(dir, name, AtFlags::REMOVEDIR);
        } else {
            let above = open(current.as_fd(), b"..")?;
            let (parent, last) = path::split(&below);
            unlink(above.as_fd(), last, AtFlags::REMOVEDIR)?;
            below = parent.to_vec();
            current = above;
        }
    }
}

/// Removes all in `dir` up to a directory, whose name it returns.
fn empty_but_directories(
    dir: BorrowedFd<'_>,
    below: &[u8],
    before: &mut dyn FnMut(Removed<'_>) -> Result<()>,
) -> Result<Option<Vec<u8>>> {
    for item in Dir::read_from(dir).call(|| "getdents64".to_owned())? {
        let item = item.call(|| "getdents64".to_owned())?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let Some(stat) = make::stat(dir, name)? else { continue };
        if make::file_type(&stat) == FileType::Directory {
            return Ok(Some(name.to_vec()));
        }
        before(Removed { dir, name, below: &path::join(below, name), stat: &stat })?;
        unlink(dir, name, AtFlags::empty())?;
    }
    Ok(None)
}

fn open(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty()).call(|| format!("openat({})", Shown(name)))?)
}

fn unlink(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, flags).call(|| format!("unlinkat({})", Shown(name)))?)
}
