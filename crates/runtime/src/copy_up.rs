//! What a tmpfs begins with: a copy of the directory that it covers.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use robot_env_diag::{IoContext, Result};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// Copies what is in the directory `from` into the directory `to`: directories, files and links
/// with owners and modes. Everything is reached from the descriptors, nothing by a link.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    copy_directory(from, to).io_context(|| "cannot copy the image's files into the tmpfs".into())
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

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
            }
            FileType::RegularFile => {
                let source = rustix::fs::openat(&from, name, READ, Mode::empty())?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                while rustix::fs::sendfile(&target, &source, None, 1 << 20)? > 0 {}
                own(to, name, &stat)?;
                rustix::fs::fchmod(&target, mode)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
                own(to, name, &stat)?;
            }
            // Sockets, fifos and devices are nobody's content.
            _ => {}
        }
    }
    Ok(())
}

fn own(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // Ids that are not mapped cannot be kept.
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        other => other,
    }
}
