//! Files into the root file system of a step.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_dockerfile::ignore::Ignore;
use robot_env_layer::Ownership;
use robot_env_sys::fs::{Copier, copy_attributes, open_in_root, remove_tree_at};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::permissions::Permissions;
use crate::tree::{Entry, Match, Tree};

/// How files are copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CopyOptions<'a> {
    /// Who owns them; `None`: as in the tree, root for a foreign one.
    pub(crate) owner: Option<(u32, u32)>,
    /// Their permissions; `None`: as in the tree.
    pub(crate) permissions: Option<&'a Permissions>,
    /// Patterns of what is left out.
    pub(crate) excludes: Option<&'a Ignore>,
    /// When they were modified, in seconds since the Unix epoch; `None`: as in the tree.
    pub(crate) time: Option<i64>,
    /// Whether anything may stand in the place of anything else, links included: a layer goes on top
    /// of others.
    pub(crate) replace: bool,
}

/// The root file system of a step, mounted, and written into.
pub(crate) struct Target<'r> {
    root: BorrowedFd<'r>,
    ownership: Ownership,
    /// Files with more names than one: where the first one was put.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The directory that the last entry went into.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that get their times when all is in them.
    times: Vec<(Vec<u8>, Timestamps)>,
    copier: Copier,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn c_string(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::invalid("a name has a zero byte"))
}

impl<'r> Target<'r> {
    pub(crate) fn new(root: BorrowedFd<'r>, ownership: Ownership) -> Self {
        Target {
            root,
            ownership,
            links: HashMap::new(),
            last: None,
            times: Vec::new(),
            copier: Copier::default(),
        }
    }

    /// Whether there is a directory at `path`, links followed.
    pub(crate) fn is_directory(&self, path: impl AsRef<[u8]>) -> bool {
        open_in_root(self.root, path, DIRECTORY).is_ok()
    }

    /// Opens the directory `path`; those that are missing on the way are made.
    pub(crate) fn make_directories(
        &self,
        path: impl AsRef<[u8]>,
        owner: Option<(u32, u32)>,
    ) -> Result<OwnedFd> {
        let path = path.as_ref();
        match open_in_root(self.root, path, DIRECTORY) {
            Err(error) if error.errno() == Errno::NOENT => {}
            Err(error) if error.errno() == Errno::NOTDIR => {}
            found => return Ok(found?),
        }
        let mut done = Vec::new();
        let mut parent = open_in_root(self.root, "", DIRECTORY)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            done.push(b'/');
            done.extend_from_slice(name);
            match open_in_root(self.root, &done, DIRECTORY) {
                Ok(found) => {
                    parent = found;
                    continue;
                }
                Err(error) if error.errno() == Errno::NOENT => {}
                Err(error) if error.errno() == Errno::NOTDIR => {
                    return Err(Error::invalid(format!("`{}` is no directory", shown(&done))));
                }
                Err(error) => return Err(error.into()),
            }
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                // A link to nowhere.
                Err(Errno::EXIST) => {
                    return Err(Error::invalid(format!("`{}` is no directory", shown(&done))));
                }
                Err(errno) => return Err(errno).io_context(|| format!("mkdir({})", shown(&done))),
            }
            let name = c_string(name)?;
            rustix::fs::chmodat(&parent, &name, Mode::from_raw_mode(0o755), AtFlags::empty())
                .io_context(|| format!("chmod({})", shown(&done)))?;
            self.own(parent.as_fd(), &name, owner.unwrap_or((0, 0)))?;
            parent = open_in_root(self.root, &done, DIRECTORY)?;
        }
        Ok(parent)
    }

    /// Copies a match to `path`: a file becomes that file, the content of a directory goes into that
    /// directory.
    pub(crate) fn copy(
        &mut self,
        tree: &Tree<'_>,
        from: &Match,
        path: impl AsRef<[u8]>,
        options: &CopyOptions<'_>,
    ) -> Result<()> {
        let mut path = path.as_ref();
        while let [rest @ .., b'/'] = path {
            path = rest;
        }
        let base = if from.is_directory { path } else { split(path).0 };
        self.make_directories(base, options.owner)?;
        tree.walk(from, options.excludes, &mut |entry| {
            let at = if entry.path.is_empty() { path.to_vec() } else { [path, b"/", entry.path].concat() };
            self.put(tree, entry, &at, options)
        })?;
        self.set_times()
    }

    /// Makes the directories above a match as they are in the tree: `path` is where the match goes,
    /// as much of it as the match's name has below its pivot stands in the tree, too.
    pub(crate) fn copy_parents(
        &mut self,
        tree: &Tree<'_>,
        from: &Match,
        path: &[u8],
        options: &CopyOptions<'_>,
    ) -> Result<()> {
        let kept = from.below_pivot();
        let base = &path[..path.len() - kept.len()];
        self.make_directories(base, options.owner)?;
        let skipped = from.asked.len() - kept.len();
        let mut end = 0;
        loop {
            let start = if end == 0 { 0 } else { end + 1 };
            let Some(length) = kept[start.min(kept.len())..].iter().position(|byte| *byte == b'/') else {
                // The directory itself, which `copy` does not touch.
                if from.is_directory && !kept.is_empty() {
                    tree.visit(&from.asked, &mut |entry| self.put(tree, entry, path, options))?;
                }
                return self.set_times();
            };
            end = start + length;
            let at = [base, &kept[..end]].concat();
            tree.visit(&from.asked[..skipped + end], &mut |entry| self.put(tree, entry, &at, options))?;
        }
    }

    /// Puts one entry of a tree at `at`.
    pub(crate) fn put(
        &mut self,
        tree: &Tree<'_>,
        entry: &Entry<'_>,
        at: &[u8],
        options: &CopyOptions<'_>,
    ) -> Result<()> {
        let (parent, name) = split(at);
        let within = || format!("cannot write `{}`", shown(at));
        let stat = &entry.stat;
        let kind = entry.kind();
        if kind == FileType::Directory && entry.path.is_empty() {
            // Only what is in it is copied.
            return Ok(());
        }
        let dir = match self.last.take() {
            Some((last, dir)) if last == parent => dir,
            _ => open_in_root(self.root, parent, DIRECTORY)?,
        };
        let name = c_string(name)?;
        let owner = options.owner.unwrap_or(if tree.foreign { (0, 0) } else { (stat.st_uid, stat.st_gid) });
        let own_mode = stat.st_mode & 0o7777;
        let mode = options
            .permissions
            .map_or(own_mode, |permissions| permissions.apply(own_mode, kind == FileType::Directory));
        let mode = Mode::from_raw_mode(mode);
        if kind == FileType::Directory {
            self.directory(dir.as_fd(), &name, at, options)?;
            let there = if options.replace {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&dir, &name, flags, Mode::empty()).io_context(within)?
            } else {
                open_in_root(self.root, at, OFlags::RDONLY | OFlags::DIRECTORY)?
            };
            if self.ownership == Ownership::Keep {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                rustix::fs::fchown(&there, Some(uid), Some(gid)).io_context(within)?;
            }
            rustix::fs::fchmod(&there, mode).io_context(within)?;
            if let Ok(source) = open_directory(entry) {
                copy_attributes(source.as_fd(), there.as_fd());
            }
            self.times.push((at.to_vec(), times(stat, options.time)));
            return Ok(());
        }
        Self::clear(dir.as_fd(), &name, at, options.replace)?;
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            let (first_parent, first_name) = split(first);
            let from = open_in_root(self.root, first_parent, DIRECTORY)?;
            rustix::fs::linkat(&from, first_name, &dir, &name, AtFlags::empty()).io_context(within)?;
            self.last = Some((parent.to_vec(), dir));
            return Ok(());
        }
        match kind {
            FileType::RegularFile => self.file(entry, dir.as_fd(), &name, at, owner, mode, options)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(entry.dir, entry.name, Vec::new()).io_context(within)?;
                rustix::fs::symlinkat(target.as_c_str(), &dir, &name).io_context(within)?;
                self.own(dir.as_fd(), &name, owner)?;
                rustix::fs::utimensat(&dir, &name, &times(stat, options.time), AtFlags::SYMLINK_NOFOLLOW)
                    .io_context(within)?;
            }
            // Nobody listens on a copied socket; a whiteout is no file.
            FileType::Socket => return Ok(()),
            FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(()),
            kind => {
                rustix::fs::mknodat(&dir, &name, kind, mode, stat.st_rdev).io_context(within)?;
                self.own(dir.as_fd(), &name, owner)?;
                rustix::fs::chmodat(&dir, &name, mode, AtFlags::empty()).io_context(within)?;
                rustix::fs::utimensat(&dir, &name, &times(stat, options.time), AtFlags::SYMLINK_NOFOLLOW)
                    .io_context(within)?;
            }
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), at.to_vec());
        }
        self.last = Some((parent.to_vec(), dir));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // all of them are about one file
    fn file(
        &mut self,
        entry: &Entry<'_>,
        dir: BorrowedFd<'_>,
        name: &CStr,
        at: &[u8],
        owner: (u32, u32),
        mode: Mode,
        options: &CopyOptions<'_>,
    ) -> Result<()> {
        let within = || format!("cannot write `{}`", shown(at));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty()).map_err(|errno| {
            let error = Error::new(
                Kind::of_errno(errno.raw_os_error()),
                format!("cannot read `{}`", shown(entry.path)),
            );
            error.because(errno)
        })?;
        let target = Self::create(dir, name).io_context(within)?;
        self.copier.content(source.as_fd(), target.as_fd(), &entry.stat).io_context(within)?;
        self.finish(target.as_fd(), owner, mode, within)?;
        copy_attributes(source.as_fd(), target.as_fd());
        rustix::fs::futimens(&target, &times(&entry.stat, options.time)).io_context(within)
    }

    /// Sees to a directory at a place.
    fn directory(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        at: &[u8],
        options: &CopyOptions<'_>,
    ) -> Result<()> {
        let within = || format!("cannot write `{}`", shown(at));
        let make = || rustix::fs::mkdirat(dir, name, Mode::RWXU);
        match make() {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).io_context(within),
        }
        if options.replace {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).io_context(within)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                rustix::fs::unlinkat(dir, name, AtFlags::empty()).io_context(within)?;
                make().io_context(within)?;
            }
            return Ok(());
        }
        match open_in_root(self.root, at, DIRECTORY) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.errno(), Errno::NOTDIR | Errno::NOENT) => {
                Err(Error::invalid(format!("cannot copy a directory over the file `{}`", shown(at))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives directories that were copied their times, those inside first.
    pub(crate) fn set_times(&mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times).iter().rev() {
            let found = open_in_root(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::futimens(&found, times).io_context(|| format!("utimens({})", shown(path)))?;
        }
        Ok(())
    }

    /// Takes away what is at `path`, whatever it is.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<()> {
        self.last = None;
        let (parent, name) = split(path);
        let dir = match open_in_root(self.root, parent, DIRECTORY) {
            Ok(dir) => dir,
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        remove(dir.as_fd(), &c_string(name)?)
    }

    /// Writes a file with this content, modified at `time` (seconds since the Unix epoch; `None`: now).
    pub(crate) fn write(
        &mut self,
        at: impl AsRef<[u8]>,
        content: &mut dyn Read,
        owner: Option<(u32, u32)>,
        mode: u32,
        time: Option<i64>,
    ) -> Result<()> {
        let at = at.as_ref();
        let within = || format!("cannot write `{}`", shown(at));
        let (parent, name) = split(at);
        let dir = self.make_directories(parent, owner)?;
        let name = c_string(name)?;
        Self::clear(dir.as_fd(), &name, at, false)?;
        let target = Self::create(dir.as_fd(), &name).io_context(within)?;
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            let n = content.read(&mut buffer).io_context(within)?;
            if n == 0 {
                break;
            }
            robot_env_sys::fs::write_all(&target, &buffer[..n]).io_context(within)?;
        }
        self.finish(target.as_fd(), owner.unwrap_or((0, 0)), Mode::from_raw_mode(mode), within)?;
        match time {
            Some(seconds) => rustix::fs::futimens(&target, &at_time(seconds)).io_context(within),
            None => Ok(()),
        }
    }

    fn create(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
    }

    fn finish(
        &self,
        file: BorrowedFd<'_>,
        owner: (u32, u32),
        mode: Mode,
        within: impl Fn() -> String,
    ) -> Result<()> {
        // Giving a file away takes its set-user-id bit: the mode comes last.
        if self.ownership == Ownership::Keep {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            rustix::fs::fchown(file, Some(uid), Some(gid)).io_context(&within)?;
        }
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
    fn clear(dir: BorrowedFd<'_>, name: &CStr, at: &[u8], replace: bool) -> Result<()> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) if replace => remove(dir, name),
            Err(Errno::ISDIR) => {
                Err(Error::invalid(format!("cannot copy a file over the directory `{}`", shown(at))))
            }
            Err(errno) => Err(errno).io_context(|| format!("unlink({})", shown(at))),
        }
    }
}

fn remove(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
    match remove_tree_at(dir, path, || true) {
        Ok(_) => Ok(()),
        Err(error) if error.errno() == Errno::NOENT => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_directory(entry: &Entry<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty())
}

fn at_time(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time }
}

fn times(stat: &Stat, time: Option<i64>) -> Timestamps {
    if let Some(seconds) = time {
        return at_time(seconds);
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}
