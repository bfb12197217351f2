//! Files by descriptor: resolution inside a root, atomic writes, syncing, removing whole trees.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{CallResult, ErrnoContext};

mod file;
mod tree;

pub use file::{
    Durability, Space, exchange, location, mkdir_all_at, names, open_dir_at, open_readable_dir_at,
    read_bounded, rename_noreplace, space, spread_directories_at, sync_directory, temporary_name, write_all,
    write_atomic,
};
pub use tree::{Removal, Usage, remove_tree_at, usage};

/// Opens a directory of the caller's by O_PATH.
pub fn open_directory(path: &Path) -> CallResult<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({})", path.display()))
}

/// Opens `path` inside the tree whose root is `root`: links are resolved inside it, magic links
/// never.
pub fn open_in_root(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> CallResult<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    for _ in 0..128 {
        match rustix::fs::openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other.call(|| format!("openat2({path}, IN_ROOT)")),
        }
    }
    Err(crate::CallError::new(format!("openat2({path}, IN_ROOT)"), Errno::AGAIN))
}

/// Reads a regular file inside the tree whose root is `root`, at most `limit` bytes; `None` when it
/// does not exist or is no regular file.
pub fn read_in_root(root: BorrowedFd<'_>, path: &str, limit: usize) -> CallResult<Option<Vec<u8>>> {
    let fd = match open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&fd).call(|| format!("fstat({path})"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
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
    // SAFETY: syncfs takes an open descriptor.
    let rc = unsafe { libc::syncfs(fd.as_raw_fd()) };
    if rc < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(crate::CallError::new("syncfs()", errno));
    }
    Ok(())
}

/// Asks ext4 to spread the directories made below `directory` over the disk, as top-level
/// directories are: creating files there does not search near recently deleted inodes then.
/// Other file systems have no such flag; nothing fails.
pub fn spread_directories(directory: &Path) {
    const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
    const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
    const TOPDIR: libc::c_long = 0x0002_0000;
    let Ok(fd) =
        rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    let mut flags: libc::c_long = 0;
    // SAFETY: the call writes one long.
    if unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFLAGS as _, &raw mut flags) } < 0 {
        return;
    }
    flags |= TOPDIR;
    // SAFETY: the call reads one long.
    unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_SETFLAGS as _, &raw const flags) };
}

/// Removes `path` and everything below it, by descriptor, never following a link. A missing path is
/// no failure. Directories that forbid reading are opened up first.
pub fn remove_tree(path: &Path) -> CallResult<()> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(crate::CallError::new(format!("unlink({})", path.display()), errno)),
    }
    remove_below(CWD, path)?;
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(crate::CallError::new(format!("rmdir({})", path.display()), errno)),
    }
}

/// Empties a directory. Depth costs descriptors, so very deep trees are flattened: a directory more
/// than 64 levels down is moved up and emptied from there.
fn remove_below(parent: impl AsFd, path: &Path) -> CallResult<()> {
    let open = |flags: OFlags| {
        rustix::fs::openat(
            &parent,
            path,
            flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let root = match open(OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            let _ = rustix::fs::chmodat(&parent, path, Mode::RWXU, AtFlags::empty());
            open(OFlags::RDONLY)
        }
        other => other,
    }
    .call(|| format!("open({})", path.display()))?;
    let mut moved = 0u64;
    empty(&root, &root, 0, &mut moved)
}

fn empty(root: &OwnedFd, directory: &OwnedFd, depth: usize, moved: &mut u64) -> CallResult<()> {
    loop {
        let mut again = false;
        let moved_before = *moved;
        let entries = Dir::read_from(directory).call(|| "getdents()".into())?;
        for entry in entries {
            let entry = entry.call(|| "getdents()".into())?;
            let name: CString = entry.file_name().to_owned();
            if name.as_c_str() == c"." || name.as_c_str() == c".." {
                continue;
            }
            if remove_entry(root, directory, &name, entry.file_type(), depth, moved)? {
                again = true;
            }
        }
        // What was moved up arrived in the root, maybe behind the point that was read.
        if depth == 0 && *moved != moved_before {
            again = true;
        }
        if !again {
            return Ok(());
        }
    }
}

/// Removes one entry; true when it was only moved up to the root of the tree.
fn remove_entry(
    root: &OwnedFd,
    directory: &OwnedFd,
    name: &CStr,
    kind: FileType,
    depth: usize,
    moved: &mut u64,
) -> CallResult<bool> {
    let describe = |what: &str| format!("{what}({})", name.to_string_lossy());
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(false),
            Err(Errno::ISDIR) => {}
            Err(Errno::ACCESS) => {
                let _ = rustix::fs::fchmod(directory, Mode::RWXU);
                rustix::fs::unlinkat(directory, name, AtFlags::empty()).call(|| describe("unlink"))?;
                return Ok(false);
            }
            Err(errno) => return Err(crate::CallError::new(describe("unlink"), errno)),
        }
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ACCESS) => {
            let _ = rustix::fs::fchmod(directory, Mode::RWXU);
        }
        Err(_) => {}
    }
    if depth >= 64 {
        *moved += 1;
        rustix::fs::renameat(directory, name, root, format!(".deep-{moved}")).call(|| describe("rename"))?;
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let child = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let _ = rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty());
            rustix::fs::openat(directory, name, flags, Mode::empty())
        }
        other => other,
    }
    .call(|| describe("open"))?;
    empty(root, &child, depth + 1, moved)?;
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        // Something was moved up into this very directory: another round.
        Err(Errno::NOTEMPTY) => Ok(true),
        Err(errno) => Err(crate::CallError::new(describe("rmdir"), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
