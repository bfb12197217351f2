//! Files into the root file system of a step.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_dockerfile::ignore::Ignore;
use robot_env_layer::Ownership;
use robot_env_sys::fs::open_in_root;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::tree::{Entry, Match, Tree};

/// How files are copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CopyOptions<'a> {
    /// Who owns them; `None`: as in the tree, root for a foreign one.
    pub(crate) owner: Option<(u32, u32)>,
    /// Their permissions; `None`: as in the tree.
    pub(crate) mode: Option<u32>,
    /// Patterns of what is left out.
    pub(crate) excludes: Option<&'a Ignore>,
}

/// The root file system of a step, mounted, and written into.
pub(crate) struct Target<'r> {
    root: BorrowedFd<'r>,
    ownership: Ownership,
    /// Files with more names than one: where the first one was put.
    links: HashMap<(u64, u64), String>,
}

impl<'r> Target<'r> {
    pub(crate) fn new(root: BorrowedFd<'r>, ownership: Ownership) -> Self {
        Target { root, ownership, links: HashMap::new() }
    }

    /// Whether there is a directory at `path`, links followed.
    pub(crate) fn is_directory(&self, path: &str) -> bool {
        open_in_root(self.root, path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Opens the directory `path`; those that are missing on the way are made.
    pub(crate) fn make_directories(&self, path: &str, owner: Option<(u32, u32)>) -> Result<OwnedFd> {
        let mut done = String::new();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut parent = open_in_root(self.root, "", flags)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            done.push('/');
            done.push_str(name);
            match open_in_root(self.root, &done, flags) {
                Ok(found) => {
                    parent = found;
                    continue;
                }
                Err(error) if error.errno() == Errno::NOENT => {}
                Err(error) if error.errno() == Errno::NOTDIR => {
                    return Err(Error::invalid(format!("`{done}` is no directory")));
                }
                Err(error) => return Err(error.into()),
            }
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                // A link to nowhere.
                Err(Errno::EXIST) => return Err(Error::invalid(format!("`{done}` is no directory"))),
                Err(errno) => return Err(errno).io_context(|| format!("mkdir({done})")),
            }
            let name = CString::new(name).map_err(|_| Error::invalid("a name has a zero byte"))?;
            rustix::fs::chmodat(&parent, &name, Mode::from_raw_mode(0o755), AtFlags::empty())
                .io_context(|| format!("chmod({done})"))?;
            self.own(parent.as_fd(), &name, owner.unwrap_or((0, 0)))?;
            parent = open_in_root(self.root, &done, flags)?;
        }
        Ok(parent)
    }

    /// Copies a match to `path`: a file becomes that file, the content of a directory goes into that
    /// directory.
    pub(crate) fn copy(
        &mut self,
        tree: &Tree<'_>,
        from: &Match,
        path: &str,
        options: &CopyOptions<'_>,
    ) -> Result<()> {
        let path = path.trim_end_matches('/');
        let base =
            if from.is_directory { path } else { path.rsplit_once('/').map_or("", |(parent, _)| parent) };
        self.make_directories(base, options.owner)?;
        tree.walk(from, options.excludes, &mut |entry| {
            let inside = std::str::from_utf8(entry.path).map_err(|_| {
                Error::invalid(format!("`{}` is no UTF-8", String::from_utf8_lossy(entry.path)))
            })?;
            let at = if inside.is_empty() { path.to_owned() } else { format!("{path}/{inside}") };
            self.put(tree, entry, &at, options)
        })
    }

    fn put(&mut self, tree: &Tree<'_>, entry: &Entry<'_>, at: &str, options: &CopyOptions<'_>) -> Result<()> {
        let (parent, name) = at.rsplit_once('/').unwrap_or(("", at));
        let within = || format!("cannot write `{at}`");
        let stat = &entry.stat;
        let kind = entry.kind();
        if kind == FileType::Directory && entry.path.is_empty() {
            // Only what is in it is copied.
            return Ok(());
        }
        let dir = open_in_root(self.root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let dir = dir.as_fd();
        let name = CString::new(name).map_err(|_| Error::invalid("a name has a zero byte"))?;
        let owner = options.owner.unwrap_or(if tree.foreign { (0, 0) } else { (stat.st_uid, stat.st_gid) });
        let mode = Mode::from_raw_mode(options.mode.unwrap_or(stat.st_mode & 0o7777));
        if kind == FileType::Directory {
            let there = open_in_root(self.root, at, OFlags::PATH | OFlags::DIRECTORY);
            match there {
                Ok(_) => {}
                Err(error) if error.errno() == Errno::NOENT => {
                    rustix::fs::mkdirat(dir, &name, Mode::RWXU).io_context(within)?;
                }
                Err(error) if error.errno() == Errno::NOTDIR => {
                    return Err(Error::invalid(format!("cannot copy a directory over the file `{at}`")));
                }
                Err(error) => return Err(error.into()),
            }
            self.own(dir, &name, owner)?;
            let made = open_in_root(self.root, at, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::fchmod(&made, mode).io_context(within)?;
            return Ok(());
        }
        Self::clear(dir, &name, at)?;
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            let (first_parent, first_name) = first.rsplit_once('/').unwrap_or(("", first));
            let from = open_in_root(self.root, first_parent, OFlags::PATH | OFlags::DIRECTORY)?;
            return rustix::fs::linkat(&from, first_name, dir, &name, AtFlags::empty()).io_context(within);
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source =
                    rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty()).map_err(|errno| {
                        let error = Error::new(
                            Kind::of_errno(errno.raw_os_error()),
                            format!("cannot read `{}`", String::from_utf8_lossy(entry.path)),
                        );
                        error.because(errno)
                    })?;
                let target = Self::create(dir, &name).io_context(within)?;
                while rustix::fs::sendfile(&target, &source, None, 1 << 24).io_context(within)? > 0 {}
                self.finish(target.as_fd(), dir, &name, owner, mode, within)?;
                copy_attributes(source.as_fd(), target.as_fd());
                rustix::fs::futimens(&target, &times(stat)).io_context(within)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(entry.dir, entry.name, Vec::new()).io_context(within)?;
                rustix::fs::symlinkat(target.as_c_str(), dir, &name).io_context(within)?;
                self.own(dir, &name, owner)?;
                rustix::fs::utimensat(dir, &name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
                    .io_context(within)?;
            }
            // Nobody listens on a copied socket.
            FileType::Socket => return Ok(()),
            kind => {
                rustix::fs::mknodat(dir, &name, kind, mode, stat.st_rdev).io_context(within)?;
                self.own(dir, &name, owner)?;
                rustix::fs::chmodat(dir, &name, mode, AtFlags::empty()).io_context(within)?;
            }
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), at.to_owned());
        }
        Ok(())
    }

    /// Writes a file with this content.
    pub(crate) fn write(
        &mut self,
        at: &str,
        content: &mut dyn Read,
        owner: Option<(u32, u32)>,
        mode: u32,
    ) -> Result<()> {
        let within = || format!("cannot write `{at}`");
        let (parent, name) = at.rsplit_once('/').unwrap_or(("", at));
        let dir = self.make_directories(parent, owner)?;
        let dir = dir.as_fd();
        let name = CString::new(name).map_err(|_| Error::invalid("a name has a zero byte"))?;
        Self::clear(dir, &name, at)?;
        let target = Self::create(dir, &name).io_context(within)?;
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            let n = content.read(&mut buffer).io_context(within)?;
            if n == 0 {
                break;
            }
            robot_env_sys::fs::write_all(&target, &buffer[..n]).io_context(within)?;
        }
        self.finish(target.as_fd(), dir, &name, owner.unwrap_or((0, 0)), Mode::from_raw_mode(mode), within)
    }

    fn create(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
    }

    fn finish(
        &self,
        file: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &CStr,
        owner: (u32, u32),
        mode: Mode,
        within: impl Fn() -> String,
    ) -> Result<()> {
        // Giving a file away takes its set-user-id bit: the mode comes last.
        self.own(dir, name, owner)?;
        rustix::fs::fchmod(file, mode).io_context(within)
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &CStr, owner: (u32, u32)) -> Result<()> {
        if self.ownership == Ownership::SingleId {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .io_context(|| format!("chown({}, {}:{})", name.to_string_lossy(), owner.0, owner.1))
    }

    /// Takes a file away that stands where another one goes.
    fn clear(dir: BorrowedFd<'_>, name: &CStr, at: &str) -> Result<()> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).io_context(|| format!("cannot look at `{at}`")),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(Error::invalid(format!("cannot copy a file over the directory `{at}`")))
            }
            Ok(_) => rustix::fs::unlinkat(dir, name, AtFlags::empty()).io_context(|| format!("unlink({at})")),
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// Copies extended attributes, except those that describe layers.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let mut names = vec![0u8; 64 * 1024];
    let Ok(length) = rustix::fs::flistxattr(from, &mut names[..]) else { return };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0u8; 64 * 1024];
        if let Ok(size) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty());
        }
    }
}
