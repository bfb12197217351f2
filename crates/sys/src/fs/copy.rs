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
    copy_directory(from.as_fd(), to.as_fd(), &mut Copier::default())
        .call(|| format!("copy({} -> {})", location(&from).display(), location(&to).display()))
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, copier: &mut Copier) -> rustix::io::Result<()> {
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
                copy_directory(source.as_fd(), below.as_fd(), copier)?;
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
                copier.content(source.as_fd(), target.as_fd(), &stat)?;
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

/// Copies extended attributes, except those of overlay file systems, which describe layers. What
/// the target cannot have is left out.
pub fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    // Most files have none, or few.
    let mut few = [0u8; 256];
    let mut many;
    let names = match rustix::fs::flistxattr(from, &mut few[..]) {
        Ok(0) => return,
        Ok(length) => &few[..length],
        Err(Errno::RANGE) => {
            many = vec![0u8; 64 * 1024];
            let Ok(length) = rustix::fs::flistxattr(from, &mut many[..]) else { return };
            &many[..length]
        }
        Err(_) => return,
    };
    let mut value = vec![0u8; 64 * 1024];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        if let Ok(size) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty());
        }
    }
}

/// Copies the content of files by the cheapest way that the file systems have: a clone of their
/// blocks, a copy inside the kernel, a copy. It remembers what they do not have.
#[derive(Debug)]
pub struct Copier {
    clones: bool,
    ranges: bool,
    buffer: Vec<u8>,
}

/// Files up to this length are read and written; in bytes.
const SMALL: usize = 64 * 1024;

impl Default for Copier {
    fn default() -> Self {
        Copier { clones: true, ranges: true, buffer: Vec::new() }
    }
}

impl Copier {
    /// Copies the content of the regular file `from`, of which `stat` is known, into the empty file
    /// `to`. Holes stay holes. Of a file that grows meanwhile the length in `stat` is copied.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn content(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        stat: &Stat,
    ) -> rustix::io::Result<()> {
        let size = stat.st_size as u64;
        if size == 0 {
            // A file of the kernel's says so, too.
            return self.by_buffer(from, to, u64::MAX).map(drop);
        }
        if size > SMALL as u64 && self.clones {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                    self.clones = false;
                }
                Err(errno) => return Err(errno),
            }
        }
        let holes = size > SMALL as u64 && (stat.st_blocks as u64).saturating_mul(512) < size;
        if !holes {
            return self.range(from, to, 0, size).map(drop);
        }
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(data))?.min(size);
            if data >= end {
                break;
            }
            rustix::fs::seek(from, rustix::fs::SeekFrom::Start(data))?;
            rustix::fs::seek(to, rustix::fs::SeekFrom::Start(data))?;
            if !self.range(from, to, data, end)? {
                break;
            }
            at = end;
        }
        rustix::fs::ftruncate(to, size)
    }

    /// Copies bytes from `start` to `end`, where both files stand. False when the file ended before.
    fn range(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        start: u64,
        end: u64,
    ) -> rustix::io::Result<bool> {
        let mut left = end - start;
        if left <= SMALL as u64 {
            return self.by_buffer(from, to, left);
        }
        while left > 0 && self.ranges {
            let most = left.min(1 << 30) as usize;
            match rustix::fs::copy_file_range(from, None, to, None, most) {
                Ok(0) => return Ok(false),
                Ok(n) => left -= n as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => self.ranges = false,
                Err(errno) => return Err(errno),
            }
        }
        while left > 0 {
            match rustix::fs::sendfile(to, from, None, left.min(1 << 30) as usize) {
                Ok(0) => return Ok(false),
                Ok(n) => left -= n as u64,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    fn by_buffer(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        mut left: u64,
    ) -> rustix::io::Result<bool> {
        self.buffer.resize(SMALL, 0);
        while left > 0 {
            let most = left.min(SMALL as u64) as usize;
            match rustix::io::read(from, &mut self.buffer[..most]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    super::write_all(to, &self.buffer[..n])?;
                    left -= n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

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
        let open = |path: &Path| crate::fs::open_directory(path).unwrap();
        copy_tree(open(&from), open(&to)).unwrap();
        assert_eq!(fs::read_to_string(to.join("d/f")).unwrap(), "text");
        let (a, b) = (fs::metadata(from.join("d/f")).unwrap(), fs::metadata(to.join("d/f")).unwrap());
        assert_eq!((a.mode(), a.mtime(), a.mtime_nsec()), (b.mode(), b.mtime(), b.mtime_nsec()));
        assert_eq!(fs::read_link(to.join("d/l")).unwrap().to_str(), Some("/nowhere"));
        assert!(to.join("d/e").is_dir());
        let sparse = fs::File::create(from.join("d/sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 100_000], 5_000_000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"head", 0).unwrap();
        sparse.set_len(9_000_000).unwrap();
        fs::create_dir_all(to.join("s")).unwrap();
        copy_tree(open(&from), open(to.join("s").as_path())).unwrap();
        let (a, b) = (from.join("d/sparse"), to.join("s/d/sparse"));
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
        assert_eq!(fs::metadata(&b).unwrap().blocks(), fs::metadata(&a).unwrap().blocks());
        let again = copy_tree(open(&from), open(&to)).unwrap_err();
        assert_eq!(again.errno(), Errno::EXIST);
        fs::remove_dir_all(base).unwrap();
    }
}
