//! Whole trees by descriptor: removing and measuring, at any depth, with a bounded number of open
//! descriptors, never following a link and never crossing into another mount.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file::location;
use crate::{CallError, CallResult, ErrnoContext};

/// Levels of a descent whose directories stay open; those above are found again by `..`.
const OPEN_LEVELS: usize = 32;

struct Level {
    dir: Option<OwnedFd>,
    identity: (u64, u64),
    /// Its name in the level above.
    name: CString,
    /// Directories in it that wait.
    pending: Vec<CString>,
}

/// A walk down a tree that holds at most [`OPEN_LEVELS`] descriptors.
struct Descent {
    levels: Vec<Level>,
}

fn identity(fd: &OwnedFd) -> CallResult<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).call(|| "fstat()".to_owned())?;
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// Opens a directory for reading; one that forbids it is opened up when `force` is set.
fn open_child(parent: impl AsFd, name: &CStr, force: bool) -> CallResult<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let open = |flags: OFlags| {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&parent, name, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    };
    let opened = match open(OFlags::RDONLY) {
        Err(Errno::ACCESS) if force => {
            let by_path = open(OFlags::PATH).call(|| format!("open({}, O_PATH)", name.to_string_lossy()))?;
            let this = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&by_path));
            rustix::fs::chmod(this, Mode::RWXU).call(|| format!("chmod({})", name.to_string_lossy()))?;
            open(OFlags::RDONLY)
        }
        other => other,
    };
    opened.call(|| format!("open({})", location(&parent).join(name.to_string_lossy().as_ref()).display()))
}

impl Descent {
    fn push(&mut self, name: CString, dir: OwnedFd, pending: Vec<CString>) -> CallResult<()> {
        self.levels.push(Level { identity: identity(&dir)?, dir: Some(dir), name, pending });
        if self.levels.len() > OPEN_LEVELS + 1 {
            // The first level stays open: it is the way in.
            let at = self.levels.len() - 1 - OPEN_LEVELS;
            if at > 0 {
                self.levels[at].dir = None;
            }
        }
        Ok(())
    }

    fn top(&mut self) -> Option<&mut Level> {
        self.levels.last_mut()
    }

    /// Leaves the lowest level; the one above is open afterwards.
    fn pop(&mut self) -> CallResult<Option<CString>> {
        let Some(left) = self.levels.pop() else { return Ok(None) };
        if let (Some(above), Some(dir)) = (self.levels.last_mut(), left.dir)
            && above.dir.is_none()
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent =
                rustix::fs::openat(&dir, "..", flags, Mode::empty()).call(|| "open(..)".to_owned())?;
            if identity(&parent)? != above.identity {
                return Err(CallError::new("open(..) of a directory that was moved", Errno::STALE));
            }
            above.dir = Some(parent);
        }
        Ok(Some(left.name))
    }
}

/// How [`remove_tree_at`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Nothing is left.
    Done,
    /// `go_on` said no; the rest is still there.
    Interrupted,
}

/// Removes `name` below `dir` and everything below it. A missing one, also one that somebody else
/// removes at the same time, is no failure. Directories that forbid reading or writing are opened
/// up; immutable files are made mutable. A mount point inside is an error (EBUSY or EXDEV).
/// `go_on` is asked before each entry.
pub fn remove_tree_at(
    dir: impl AsFd,
    name: impl AsRef<Path>,
    mut go_on: impl FnMut() -> bool,
) -> CallResult<Removal> {
    use std::os::unix::ffi::OsStrExt;
    let name = name.as_ref();
    let c_name = CString::new(name.as_os_str().as_bytes())
        .map_err(|_| CallError::new(format!("unlink({})", name.display()), Errno::INVAL))?;
    if !remove_file(&dir, &c_name)? {
        return Ok(Removal::Done);
    }
    // `name` itself may be any path of the caller's; what is below is opened name by name.
    let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (dir, c_name) = match name.file_name() {
        Some(last) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&dir, parent, flags, Mode::empty())
                .call(|| format!("open({})", parent.display()))?;
            (opened, CString::new(last.as_bytes()).unwrap_or_default())
        }
        None => return Err(CallError::new(format!("rmdir({})", name.display()), Errno::INVAL)),
    };
    let top = match open_child(&dir, &c_name, true) {
        Err(error) if error.errno() == Errno::NOENT => return Ok(Removal::Done),
        other => other?,
    };
    let mut descent = Descent { levels: Vec::new() };
    let Some(pending) = empty_of_files(&top, &mut go_on)? else { return Ok(Removal::Interrupted) };
    descent.push(c_name, top, pending)?;
    let mut rounds = 0;
    while let Some(level) = descent.top() {
        let Some(here) = level.dir.as_ref() else {
            return Err(CallError::new("remove_tree()", Errno::BADF));
        };
        if let Some(child) = level.pending.pop() {
            if !go_on() {
                return Ok(Removal::Interrupted);
            }
            match open_child(here, &child, true) {
                Ok(fd) => {
                    let Some(pending) = empty_of_files(&fd, &mut go_on)? else {
                        return Ok(Removal::Interrupted);
                    };
                    descent.push(child, fd, pending)?;
                }
                Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    remove_file(here, &child)?;
                }
                Err(error) => return Err(error),
            }
            continue;
        }
        let left = descent.pop()?.unwrap_or_default();
        let removed = match descent.top().and_then(|level| level.dir.as_ref()) {
            Some(parent) => remove_directory(parent, &left)?,
            None => remove_directory(&dir, &left)?,
        };
        if !removed {
            // Somebody made an entry meanwhile.
            rounds += 1;
            if rounds > 1000 {
                return Err(CallError::new(format!("rmdir({})", left.to_string_lossy()), Errno::NOTEMPTY));
            }
            let fd = match descent.top().and_then(|level| level.dir.as_ref()) {
                Some(parent) => open_child(parent, &left, true)?,
                None => open_child(&dir, &left, true)?,
            };
            let Some(pending) = empty_of_files(&fd, &mut go_on)? else { return Ok(Removal::Interrupted) };
            descent.push(left, fd, pending)?;
        }
    }
    Ok(Removal::Done)
}

/// Removes everything but directories from `dir` and gives the directories' names; `None` when
/// `go_on` said no.
fn empty_of_files(dir: &OwnedFd, go_on: &mut impl FnMut() -> bool) -> CallResult<Option<Vec<CString>>> {
    let mut directories = Vec::new();
    let describe = || format!("getdents({})", location(dir).display());
    for entry in Dir::read_from(dir).call(describe)? {
        let entry = entry.call(describe)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !go_on() {
            return Ok(None);
        }
        if entry.file_type() == FileType::Directory || remove_file(dir, name)? {
            directories.push(name.to_owned());
        }
    }
    Ok(Some(directories))
}

/// Removes an entry that is no directory; true when it is one.
fn remove_file(dir: impl AsFd, name: &CStr) -> CallResult<bool> {
    let mut errno = match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => return Ok(true),
        Err(errno) => errno,
    };
    if matches!(errno, Errno::ACCESS | Errno::PERM) {
        open_up(&dir);
        make_mutable(&dir, name);
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(false),
            Err(Errno::ISDIR) => return Ok(true),
            Err(other) => errno = other,
        }
    }
    let path = location(&dir).join(name.to_string_lossy().as_ref());
    Err(CallError::new(format!("unlink({})", path.display()), errno))
}

/// Removes an empty directory; false when it is not empty.
fn remove_directory(dir: impl AsFd, name: &CStr) -> CallResult<bool> {
    let mut errno = match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
        Err(errno) => errno,
    };
    if matches!(errno, Errno::ACCESS | Errno::PERM) {
        open_up(&dir);
        make_mutable(&dir, name);
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(other) => errno = other,
        }
    }
    let path = location(&dir).join(name.to_string_lossy().as_ref());
    Err(CallError::new(format!("rmdir({})", path.display()), errno))
}

/// Makes a directory writable for its owner and drops its immutable and append-only flags.
fn open_up(dir: impl AsFd) {
    let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
    clear_flags(&dir);
}

fn make_mutable(dir: impl AsFd, name: &CStr) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Only files and directories have the flags; opening a device could do something.
    let regular = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| {
        matches!(FileType::from_raw_mode(s.st_mode), FileType::RegularFile | FileType::Directory)
    });
    if regular && let Ok(file) = rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        clear_flags(&file);
    }
}

fn clear_flags(file: impl AsFd) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(flags) = ioctl_getflags(&file)
        && flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
    {
        let _ = ioctl_setflags(&file, flags - (IFlags::IMMUTABLE | IFlags::APPEND));
    }
}

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk; a file with several names counts once.
    pub bytes: u64,
    /// Sum of the lengths of all but directories: what Docker calls the size.
    pub length: u64,
    /// Inodes, the directory itself included.
    pub inodes: u64,
}

/// Measures the tree below `dir` (O_PATH will do). What vanishes meanwhile is left out.
pub fn usage(dir: impl AsFd) -> CallResult<Usage> {
    let top = open_child(&dir, c".", false)?;
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut descent = Descent { levels: Vec::new() };
    let mut count = |stat: &rustix::fs::Stat| {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if directory || stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
            usage.bytes += stat.st_blocks as u64 * 512;
            if !directory {
                usage.length = usage.length.saturating_add(stat.st_size.unsigned_abs());
            }
            usage.inodes += 1;
        }
    };
    count(&rustix::fs::fstat(&top).call(|| "fstat()".to_owned())?);
    let mut measure = |here: &OwnedFd| -> CallResult<Vec<CString>> {
        let mut directories = Vec::new();
        let describe = || format!("getdents({})", location(here).display());
        for entry in Dir::read_from(here).call(describe)? {
            let entry = entry.call(describe)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            count(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(name.to_owned());
            }
        }
        Ok(directories)
    };
    let pending = measure(&top)?;
    descent.push(CString::default(), top, pending)?;
    while let Some(level) = descent.top() {
        let Some(here) = level.dir.as_ref() else { return Err(CallError::new("usage()", Errno::BADF)) };
        match level.pending.pop() {
            Some(child) => match open_child(here, &child, false) {
                Ok(fd) => {
                    let pending = measure(&fd)?;
                    descent.push(child, fd, pending)?;
                }
                Err(error)
                    if matches!(
                        error.errno(),
                        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS
                    ) => {}
                Err(error) => return Err(error),
            },
            None => {
                descent.pop()?;
            }
        }
    }
    Ok(usage)
}
