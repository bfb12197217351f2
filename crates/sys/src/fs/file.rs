//! Whole files: bounded reads, atomic writes, renames that refuse to replace.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::{CallError, CallResult, ErrnoContext};

/// Whether a write waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The file and its directory are on the disk when the call returns.
    Sync,
    /// The kernel writes them when it likes.
    NoSync,
}

/// Where a descriptor points, for error texts only; never opened again.
pub fn location(fd: impl AsFd) -> PathBuf {
    let raw = fd.as_fd().as_raw_fd();
    if raw == rustix::fs::CWD.as_raw_fd() {
        return PathBuf::from(".");
    }
    std::fs::read_link(format!("/proc/self/fd/{raw}")).unwrap_or_else(|_| PathBuf::from(format!("fd {raw}")))
}

fn shown(dir: impl AsFd, name: &Path) -> String {
    location(dir).join(name).display().to_string()
}

/// Opens the directory `path` below `dir` by O_PATH; `path` is trusted, its last component is not
/// followed.
pub fn open_dir_at(dir: impl AsFd, path: impl AsRef<Path>) -> CallResult<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&dir, path, flags, Mode::empty())
        .call(|| format!("open({}, O_PATH)", shown(&dir, path)))
}

/// Like [`open_dir_at`], but for reading its entries, syncing and locking.
pub fn open_readable_dir_at(dir: impl AsFd, path: impl AsRef<Path>) -> CallResult<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&dir, path, flags, Mode::empty()).call(|| format!("open({})", shown(&dir, path)))
}

/// Makes the directories of `path` below `dir` that do not exist yet (a trusted path: links in it
/// are refused), and opens the last one by O_PATH.
pub fn mkdir_all_at(dir: impl AsFd, path: impl AsRef<Path>, mode: u32) -> CallResult<OwnedFd> {
    let mut at = open_dir_at(&dir, ".")?;
    for component in path.as_ref().components() {
        let std::path::Component::Normal(name) = component else { continue };
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(CallError::new(format!("mkdir({})", shown(&at, name.as_ref())), errno)),
        }
        at = open_dir_at(&at, name)?;
    }
    Ok(at)
}

/// Reads a text that the kernel makes up (procfs, sysfs): such files tell no size, and what a read has no
/// room for costs another one.
pub fn kernel_text(path: impl AsRef<Path>) -> std::io::Result<String> {
    let mut text = String::with_capacity(4096);
    std::io::Read::read_to_string(&mut std::fs::File::open(path)?, &mut text)?;
    Ok(text)
}

/// Reads the regular file `name` below `dir`, of at most `limit` bytes: a link, a device or a pipe
/// is refused (ELOOP, EINVAL) without waiting on it, a longer file too (EFBIG).
pub fn read_bounded(dir: impl AsFd, name: impl AsRef<Path>, limit: u64) -> CallResult<Vec<u8>> {
    let name = name.as_ref();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, name, flags, Mode::empty())
        .call(|| format!("open({})", shown(&dir, name)))?;
    let stat = rustix::fs::fstat(&file).call(|| format!("fstat({})", shown(&dir, name)))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(CallError::new(
            format!("read({}), which is no regular file", shown(&dir, name)),
            Errno::INVAL,
        ));
    }
    let too_big =
        || CallError::new(format!("read({}, at most {limit} bytes)", shown(&dir, name)), Errno::FBIG);
    if stat.st_size as u64 > limit {
        return Err(too_big());
    }
    // One byte more than it has: a short read then says that the end was reached.
    let mut bytes = vec![0; stat.st_size as usize + 1];
    let mut length = 0;
    loop {
        match rustix::io::read(&file, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(CallError::new(format!("read({})", shown(&dir, name)), errno)),
        }
        if length as u64 > limit {
            return Err(too_big());
        }
        if length < bytes.len() {
            break;
        }
        bytes.resize(length + 4096, 0);
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// A name that no other process or thread uses now: `.tmp-` and more.
pub fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".tmp-{}-{next}-{:x}{:08x}", std::process::id(), now.tv_sec, now.tv_nsec)
}

/// Writes all of `bytes`.
pub fn write_all(file: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes `name` below `dir` so that a reader, and the disk after a crash when `durability` is
/// [`Durability::Sync`], has the old file or the whole new one. `temporaries` is the directory on
/// the same file system in which the new file grows (often `dir` itself); a crash may leave a file
/// with a [`temporary_name`] there.
pub fn write_atomic(
    temporaries: impl AsFd,
    dir: impl AsFd,
    name: impl AsRef<Path>,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> CallResult<()> {
    let name = name.as_ref();
    let temporary = temporary_name();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let describe = |what: &str| format!("{what}({}, {} bytes)", shown(&dir, name), bytes.len());
    let file = rustix::fs::openat(&temporaries, &temporary, flags, Mode::from_raw_mode(mode))
        .call(|| describe("create"))?;
    let written = write_all(&file, bytes)
        .call(|| describe("write"))
        .and_then(|()| match durability {
            Durability::Sync => rustix::fs::fsync(&file).call(|| describe("fsync")),
            Durability::NoSync => Ok(()),
        })
        .and_then(|()| {
            rustix::fs::renameat(&temporaries, &temporary, &dir, name).call(|| describe("rename"))
        });
    if let Err(error) = written {
        let _ = rustix::fs::unlinkat(&temporaries, &temporary, AtFlags::empty());
        return Err(error);
    }
    match durability {
        Durability::Sync => sync_directory(&dir),
        Durability::NoSync => Ok(()),
    }
}

/// Waits until the entries of a directory are on the disk. An O_PATH descriptor will do.
pub fn sync_directory(dir: impl AsFd) -> CallResult<()> {
    let readable = open_readable_dir_at(&dir, ".")?;
    rustix::fs::fsync(&readable).call(|| format!("fsync({})", location(&dir).display()))
}

/// Renames; an existing target is never replaced: false then.
pub fn rename_noreplace(
    from: impl AsFd,
    name: impl AsRef<Path>,
    to: impl AsFd,
    new_name: impl AsRef<Path>,
) -> CallResult<bool> {
    let (name, new_name) = (name.as_ref(), new_name.as_ref());
    match rustix::fs::renameat_with(&from, name, &to, new_name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(CallError::new(
            format!("rename({} -> {}, NOREPLACE)", shown(&from, name), shown(&to, new_name)),
            errno,
        )),
    }
}

/// Makes two names change places in one step.
pub fn exchange(
    a: impl AsFd,
    name: impl AsRef<Path>,
    b: impl AsFd,
    other: impl AsRef<Path>,
) -> CallResult<()> {
    let (name, other) = (name.as_ref(), other.as_ref());
    rustix::fs::renameat_with(&a, name, &b, other, RenameFlags::EXCHANGE)
        .call(|| format!("rename({} <-> {}, EXCHANGE)", shown(&a, name), shown(&b, other)))
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, in bytes.
    pub total: u64,
    /// What an ordinary process may still write, in bytes.
    pub available: u64,
    /// Inodes left; 0 also where a file system does not count them.
    pub inodes: u64,
}

/// The room on the file system of `fd`.
pub fn space(fd: impl AsFd) -> CallResult<Space> {
    let stat = rustix::fs::fstatvfs(&fd).call(|| format!("fstatvfs({})", location(&fd).display()))?;
    Ok(Space {
        total: stat.f_blocks * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_favail,
    })
}

/// The names in a directory, without `.` and `..`, unsorted; those that are not UTF-8 are left out.
pub fn names(dir: impl AsFd) -> CallResult<Vec<String>> {
    let readable = open_readable_dir_at(&dir, ".")?;
    let describe = || format!("getdents({})", location(&dir).display());
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(readable).call(describe)? {
        let entry = entry.call(describe)?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Asks ext4 to spread the directories made in `dir` over the disk (EXT4_TOPDIR_FL), so that files
/// in them are not made near recently deleted inodes. Nothing fails where there is no such flag.
pub fn spread_directories_at(dir: impl AsFd) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(readable) = open_readable_dir_at(dir, ".")
        && let Ok(flags) = ioctl_getflags(&readable)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&readable, flags | IFlags::TOPDIR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Removal, remove_tree_at, usage};
    use rustix::fs::CWD;

    fn temporary(name: &str) -> (PathBuf, OwnedFd) {
        let path = std::env::temp_dir().join(format!("re-file-{name}-{}", std::process::id()));
        remove_tree_at(CWD, &path, || true).unwrap();
        std::fs::create_dir(&path).unwrap();
        let fd = open_dir_at(CWD, &path).unwrap();
        (path, fd)
    }

    #[test]
    fn only_regular_files_within_the_bound_are_read() {
        let (path, dir) = temporary("bounded");
        std::fs::write(path.join("file"), "0123456789").unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        rustix::fs::mknodat(&dir, "pipe", FileType::Fifo, Mode::RWXU, 0).unwrap();
        for (name, limit, expected) in [
            ("file", 10, Ok(&b"0123456789"[..])),
            ("file", 9, Err(Errno::FBIG)),
            ("link", 10, Err(Errno::LOOP)),
            ("pipe", 10, Err(Errno::INVAL)),
            (".", 10, Err(Errno::INVAL)),
            ("none", 10, Err(Errno::NOENT)),
        ] {
            let got = read_bounded(&dir, name, limit);
            assert_eq!(got.as_deref().map_err(CallError::errno), expected, "{name} {limit}");
        }
        remove_tree_at(CWD, &path, || true).unwrap();
    }

    #[test]
    fn a_write_replaces_whole_files_and_leaves_no_temporary() {
        let (path, dir) = temporary("atomic");
        for durability in [Durability::NoSync, Durability::Sync] {
            write_atomic(&dir, &dir, "a", b"one", 0o600, durability).unwrap();
            write_atomic(&dir, &dir, "a", b"two", 0o600, durability).unwrap();
            assert_eq!(read_bounded(&dir, "a", 10).unwrap(), b"two");
        }
        std::fs::create_dir(path.join("taken")).unwrap();
        assert!(write_atomic(&dir, &dir, "taken", b"x", 0o600, Durability::NoSync).is_err());
        let mut left = names(&dir).unwrap();
        left.sort();
        assert_eq!(left, ["a", "taken"]);
        remove_tree_at(CWD, &path, || true).unwrap();
    }

    #[test]
    fn renames_refuse_or_exchange() {
        let (path, dir) = temporary("rename");
        std::fs::write(path.join("a"), "a").unwrap();
        std::fs::write(path.join("b"), "b").unwrap();
        assert!(!rename_noreplace(&dir, "a", &dir, "b").unwrap());
        exchange(&dir, "a", &dir, "b").unwrap();
        assert_eq!(read_bounded(&dir, "a", 1).unwrap(), b"b");
        assert!(rename_noreplace(&dir, "a", &dir, "c").unwrap());
        remove_tree_at(CWD, &path, || true).unwrap();
    }

    #[test]
    fn deep_trees_are_measured_and_removed_with_few_descriptors() {
        let (path, dir) = temporary("deep");
        let mut at = open_dir_at(&dir, ".").unwrap();
        for depth in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            if depth % 500 == 0 {
                rustix::fs::mkdirat(&at, "e", Mode::RWXU).unwrap();
            }
            at = open_dir_at(&at, "d").unwrap();
        }
        drop(at);
        mkdir_all_at(&dir, "x/y", 0o000).unwrap();
        assert_eq!(usage(&dir).unwrap().inodes, 3000 + 6 + 2 + 1);
        let mut budget = 100;
        let stopped = remove_tree_at(CWD, &path, || {
            budget -= 1;
            budget > 0
        });
        assert_eq!(stopped.unwrap(), Removal::Interrupted);
        assert_eq!(remove_tree_at(CWD, &path, || true).unwrap(), Removal::Done);
        assert!(!path.exists());
    }

    #[test]
    fn two_may_remove_the_same_tree() {
        let (path, dir) = temporary("two");
        for n in 0..200 {
            let sub = mkdir_all_at(&dir, format!("{}/{}", n % 10, n), 0o700).unwrap();
            rustix::fs::mknodat(&sub, "f", FileType::RegularFile, Mode::RWXU, 0).unwrap();
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| remove_tree_at(CWD, &path, || true).unwrap())).collect();
            for worker in workers {
                assert_eq!(worker.join().unwrap(), Removal::Done);
            }
        });
        assert!(!path.exists());
    }
}
