//! Copying trees.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::fs::location;
use crate::{CallResult, ErrnoContext};

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what is in the directory `from` into the directory `to`: directories, files and links
/// with owners, modes, times and extended attributes. Everything is reached from the descriptors,
/// nothing by a link. Sockets, fifos and devices are nobody's content and are left out; owners that
/// are not mapped here, and attributes that the target cannot have, too.
///
/// # Errors
/// EEXIST where `to` already has an entry of that name.
pub fn copy_tree(from: impl AsFd, to: impl AsFd) -> CallResult<()> {
    copy_directory(from.as_fd(), to.as_fd())
        .call(|| format!("copy({} -> {})", location(&from).display(), location(&to).display()))
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let from = rustix::fs::openat(from, ".", READ | OFlags::DIRECTORY, Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let below = rustix::fs::openat(to, name, READ | OFlags::DIRECTORY, Mode::empty())?;
                let source = rustix::fs::openat(&from, name, READ | OFlags::DIRECTORY, Mode::empty())?;
                copy_directory(source.as_fd(), below.as_fd())?;
                own(to, name, &stat)?;
                rustix::fs::fchmod(&below, mode)?;
                copy_attributes(source.as_fd(), below.as_fd());
                rustix::fs::futimens(&below, &times(&stat))?;
            }
            FileType::RegularFile => {
                let source = rustix::fs::openat(&from, name, READ, Mode::empty())?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                while rustix::fs::sendfile(&target, &source, None, 1 << 20)? > 0 {}
                own(to, name, &stat)?;
                rustix::fs::fchmod(&target, mode)?;
                copy_attributes(source.as_fd(), target.as_fd());
                rustix::fs::futimens(&target, &times(&stat))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
                own(to, name, &stat)?;
                rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

fn own(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // Ids that are not mapped cannot be kept.
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// Copies extended attributes, except those of overlay file systems, which describe layers.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let mut names = vec![0u8; 64 * 1024];
    let Ok(length) = rustix::fs::flistxattr(from, &mut names[..]) else { return };
    let mut value = vec![0u8; 64 * 1024];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        if let Ok(size) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_with_what_belongs_to_it() {
        let base = std::env::temp_dir().join(format!("re-copy-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("d/e")).unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(from.join("d/f"), "text").unwrap();
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/nowhere", from.join("d/l")).unwrap();
        let open = |path| crate::fs::open_directory(path).unwrap();
        copy_tree(open(&from), open(&to)).unwrap();
        assert_eq!(fs::read_to_string(to.join("d/f")).unwrap(), "text");
        let (a, b) = (fs::metadata(from.join("d/f")).unwrap(), fs::metadata(to.join("d/f")).unwrap());
        assert_eq!((a.mode(), a.mtime(), a.mtime_nsec()), (b.mode(), b.mtime(), b.mtime_nsec()));
        assert_eq!(fs::read_link(to.join("d/l")).unwrap().to_str(), Some("/nowhere"));
        assert!(to.join("d/e").is_dir());
        let again = copy_tree(open(&from), open(&to)).unwrap_err();
        assert_eq!(again.errno(), Errno::EXIST);
        fs::remove_dir_all(base).unwrap();
    }
}
