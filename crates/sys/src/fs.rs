//! Files by descriptor: resolution inside a root, atomic writes, syncing, removing whole trees.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{CallResult, ErrnoContext};

mod copy;
mod file;
mod kind;
mod tree;

pub use copy::{Copier, copy_attributes, copy_tree};
pub use file::{
    Durability, Space, exchange, kernel_text, location, mkdir_all_at, names, open_dir_at,
    open_readable_dir_at, read_bounded, rename_noreplace, space, spread_directories_at, sync_directory,
    temporary_name, write_all, write_atomic,
};
pub use kind::is_kernel_file_system;
pub use tree::{Removal, Usage, remove_tree_at, usage};

/// Opens a directory of the caller's by O_PATH.
pub fn open_directory(path: &Path) -> CallResult<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({})", path.display()))
}

/// Opens `path` inside the tree whose root is `root`: links are resolved inside it, magic links
/// never.
pub fn open_in_root(root: BorrowedFd<'_>, path: impl AsRef<[u8]>, flags: OFlags) -> CallResult<OwnedFd> {
    let path = if path.as_ref().is_empty() { b"." } else { path.as_ref() };
    let shown = || String::from_utf8_lossy(path);
    for _ in 0..128 {
        match rustix::fs::openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other.call(|| format!("openat2({}, IN_ROOT)", shown())),
        }
    }
    Err(crate::CallError::new(format!("openat2({}, IN_ROOT)", shown()), Errno::AGAIN))
}

/// Reads a regular file inside the tree whose root is `root`, at most `limit` bytes; `None` when it
/// does not exist or is no regular file.
pub fn read_in_root(root: BorrowedFd<'_>, path: &str, limit: usize) -> CallResult<Option<Vec<u8>>> {
    // Opening a device does something, opening a pipe waits: it is looked at first.
    let found = match open_in_root(root, path, OFlags::PATH) {
        Ok(fd) => fd,
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&found).call(|| format!("fstat({path})"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let by_number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    let fd = rustix::fs::open(by_number, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({path})"))?;
    let mut bytes = vec![0; limit.min(stat.st_size.max(0) as usize + 1)];
    let mut length = 0;
    while length < bytes.len() {
        match rustix::io::read(&fd, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(crate::CallError::new(format!("read({path})"), errno)),
        }
    }
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// Writes everything that is dirty on the file system of `fd` to disk.
pub fn sync_filesystem(fd: BorrowedFd<'_>) -> CallResult<()> {
    rustix::fs::syncfs(fd).call(|| format!("syncfs({})", location(fd).display()))
}

/// Like [`spread_directories_at`], by path.
pub fn spread_directories(directory: &Path) {
    if let Ok(fd) = open_directory(directory) {
        spread_directories_at(fd);
    }
}

/// Removes `path` and everything below it: see [`remove_tree_at`].
pub fn remove_tree(path: &Path) -> CallResult<()> {
    remove_tree_at(CWD, path, || true).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn temporary(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("re-fs-{name}-{}", std::process::id()));
        let _ = remove_tree(&path);
        std::fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn links_are_resolved_inside_the_root() {
        let root = temporary("root");
        std::fs::create_dir(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../../../../etc/passwd", root.join("climbing")).unwrap();
        let fd = open_directory(&root).unwrap();
        for name in ["absolute", "climbing", "/etc/passwd", "../etc/passwd"] {
            assert_eq!(
                read_in_root(fd.as_fd(), name, 100).unwrap().as_deref(),
                Some(&b"inside"[..]),
                "{name}"
            );
        }
        assert_eq!(read_in_root(fd.as_fd(), "etc", 100).unwrap(), None);
        assert_eq!(read_in_root(fd.as_fd(), "nothing", 100).unwrap(), None);
        assert_eq!(read_in_root(fd.as_fd(), "etc/passwd", 3).unwrap().as_deref(), Some(&b"ins"[..]));
        remove_tree(&root).unwrap();
    }

    #[test]
    fn deep_and_closed_trees_go_and_links_are_not_followed() {
        let root = temporary("tree");
        let outside = temporary("outside");
        std::fs::write(outside.join("keep"), "").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        let mut directory = open_directory(&root).unwrap();
        for _ in 0..600 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory =
                rustix::fs::openat(&directory, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        std::fs::create_dir(root.join("closed")).unwrap();
        std::fs::write(root.join("closed/file"), "").unwrap();
        std::fs::set_permissions(root.join("closed"), std::fs::Permissions::from_mode(0o0)).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists() && outside.join("keep").exists());
        remove_tree(&outside).unwrap();
        remove_tree(&root).unwrap();
    }
}
