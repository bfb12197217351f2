//! A directory on disk that is made like the one that a client describes, file by file.
//!
//! Nothing of the description is trusted: paths are clean, relative, in order, and each is below a
//! directory that was described before; every file is opened by its one name in an open directory,
//! and links are never followed. The number of files, the length of their names and the bytes of
//! their content are bounded.
//!
//! What is there already and looks the same (type, permissions, size, time of change) is kept, so
//! that only what has changed is transferred; what is not described goes.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use robot_env_diag::{Error, Escaped, Kind, Result};
use robot_env_sys::ErrnoContext;
use robot_env_sys::fs::{open_directory, remove_tree_at};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::messages::session::FileStat;

/// The most files.
const FILES: usize = 1 << 20;
/// The most bytes of their paths.
const PATHS: usize = 256 << 20;
/// The longest path.
const PATH: usize = 4096;
/// How many bytes more than it said of their sizes a client may send: files grow while they are read.
const GROWTH: u64 = 64 << 20;
/// The most files whose content arrives at the same time.
const AT_ONCE: usize = 64;

/// Bits of Go's `FileMode`.
pub(super) mod go {
    pub(in crate::buildkit) const DIRECTORY: u32 = 1 << 31;
    pub(in crate::buildkit) const SYMLINK: u32 = 1 << 27;
    pub(in crate::buildkit) const DEVICE: u32 = 1 << 26;
    pub(in crate::buildkit) const PIPE: u32 = 1 << 25;
    pub(in crate::buildkit) const SETUID: u32 = 1 << 23;
    pub(in crate::buildkit) const SETGID: u32 = 1 << 22;
    pub(in crate::buildkit) const CHARACTER: u32 = 1 << 21;
    pub(in crate::buildkit) const STICKY: u32 = 1 << 20;
    /// Those that say what it is; also sockets (24) and what is none of these (19).
    pub(super) const TYPE: u32 = DIRECTORY | SYMLINK | DEVICE | PIPE | 1 << 24 | CHARACTER | 1 << 19;
}

/// A directory that is being filled.
pub(super) struct Tree {
    root: OwnedFd,
    /// The root and the directories down to the last file.
    levels: Vec<Level>,
    files: usize,
    paths: usize,
    /// What is wanted, by number.
    wanted: HashMap<u32, Wanted>,
    open: HashMap<u32, OwnedFd>,
    /// Bytes that may still come.
    room: u64,
}

struct Level {
    path: String,
    directory: OwnedFd,
    last: String,
    names: HashSet<String>,
    modified: Option<i64>,
}

struct Wanted {
    path: String,
    mode: RawMode,
    modified: i64,
    /// Extended attributes.
    attributes: Vec<(String, Vec<u8>)>,
}

impl Tree {
    /// The tree at a path that is ours; there is a directory.
    pub(super) fn open(path: &Path) -> Result<Tree> {
        let root = open_directory(path)?;
        let top = Level {
            path: String::new(),
            directory: readable(root.as_fd(), c".")?,
            last: String::new(),
            names: HashSet::new(),
            modified: None,
        };
        Ok(Tree {
            root,
            levels: vec![top],
            files: 0,
            paths: 0,
            wanted: HashMap::new(),
            open: HashMap::new(),
            room: GROWTH,
        })
    }

    /// Takes the description of a file.
    pub(super) fn describe(&mut self, id: u32, stat: &FileStat) -> Result<()> {
        let path = stat.path.as_str();
        let bad = |why: &str| Error::invalid(format!("the client describes `{}`, {why}", Escaped(path)));
        self.files += 1;
        self.paths += path.len() + stat.link.len();
        self.paths += stat.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.files > FILES || self.paths > PATHS {
            return Err(Error::invalid(format!(
                "the context has more than {FILES} files, or their names are longer than {PATHS} bytes in all"
            )));
        }
        if path.len() > PATH || stat.link.len() > PATH {
            return Err(bad("whose path is too long"));
        }
        if !is_clean(path) {
            return Err(bad("which is no clean relative path"));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        while self.levels.last().is_some_and(|level| level.path != parent) {
            if self.levels.len() == 1 {
                return Err(bad("whose directory it has not described"));
            }
            self.leave()?;
        }
        let Some(level) = self.levels.last_mut() else { return Err(bad("nowhere")) };
        if name <= level.last.as_str() {
            return Err(bad("which is out of order"));
        }
        name.clone_into(&mut level.last);
        level.names.insert(name.to_owned());
        let c_name = CString::new(name).map_err(|_| bad("which is no path"))?;
        let directory = level.directory.as_fd();
        let found = match rustix::fs::statat(directory, &c_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Some(found),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(call(path, "stat", errno)),
        };
        let mode = permissions(stat.mode);
        match stat.mode & go::TYPE {
            go::DIRECTORY => {
                let is_directory = found.as_ref().is_some_and(|found| kind(found) == FileType::Directory);
                if !is_directory {
                    replace(directory, name, found.is_some())?;
                    rustix::fs::mkdirat(directory, &c_name, Mode::from_raw_mode(0o700))
                        .map_err(|errno| call(path, "mkdir", errno))?;
                }
                let opened = readable(directory, &c_name)?;
                if found.is_none_or(|found| !is_directory || found.st_mode & 0o7777 != mode) {
                    rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode))
                        .map_err(|errno| call(path, "chmod", errno))?;
                }
                self.levels.push(Level {
                    path: path.to_owned(),
                    directory: opened,
                    last: String::new(),
                    names: HashSet::new(),
                    modified: Some(stat.modified),
                });
            }
            go::SYMLINK => {
                let target = found
                    .as_ref()
                    .filter(|found| kind(found) == FileType::Symlink)
                    .and_then(|_| rustix::fs::readlinkat(directory, &c_name, Vec::new()).ok());
                if target.is_none_or(|target| target.as_bytes() != stat.link.as_bytes()) {
                    replace(directory, name, found.is_some())?;
                    rustix::fs::symlinkat(stat.link.as_str(), directory, &c_name)
                        .map_err(|errno| call(path, "symlink", errno))?;
                }
                let _ = rustix::fs::utimensat(
                    directory,
                    &c_name,
                    &times(stat.modified),
                    AtFlags::SYMLINK_NOFOLLOW,
                );
            }
            go::PIPE => {
                if found.as_ref().is_none_or(|found| kind(found) != FileType::Fifo) {
                    replace(directory, name, found.is_some())?;
                    let made = Mode::from_raw_mode(mode);
                    rustix::fs::mknodat(directory, &c_name, FileType::Fifo, made, 0)
                        .map_err(|errno| call(path, "mknod", errno))?;
                }
            }
            0 if !stat.link.is_empty() => self.link(path, name, &stat.link)?,
            0 => {
                if found.as_ref().is_some_and(|found| is_same(found, stat, mode)) {
                    return Ok(());
                }
                replace(directory, name, found.is_some())?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(directory, &c_name, flags, Mode::from_raw_mode(0o600))
                    .map_err(|errno| call(path, "create", errno))?;
                let wanted = Wanted {
                    path: path.to_owned(),
                    mode,
                    modified: stat.modified,
                    attributes: stat
                        .xattrs
                        .iter()
                        .filter(|(name, _)| is_file_attribute(name))
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect(),
                };
                if stat.size == 0 {
                    wanted.settle(&made);
                    return Ok(());
                }
                self.room = self.room.saturating_add(stat.size.max(0) as u64);
                self.wanted.insert(id, wanted);
            }
            _ => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("a build's context cannot have `{}`: it is a device or a socket", Escaped(path)),
                ));
            }
        }
        Ok(())
    }

    /// A further name of a regular file that was described before.
    fn link(&self, path: &str, name: &str, target: &str) -> Result<()> {
        let why = |what: &str| {
            Error::invalid(format!(
                "the client describes `{}` as `{}`, {what}",
                Escaped(path),
                Escaped(target)
            ))
        };
        if !is_clean(target) {
            return Err(why("which is no clean relative path"));
        }
        let Some(level) = self.levels.last() else { return Err(why("nowhere")) };
        let directory = level.directory.as_fd();
        let found =
            self.beneath(target, OFlags::PATH | OFlags::NOFOLLOW).map_err(|_| why("which is not there"))?;
        let of = rustix::fs::fstat(&found).map_err(|errno| call(target, "stat", errno))?;
        if kind(&of) != FileType::RegularFile {
            return Err(why("which is no regular file"));
        }
        let known = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        if known.as_ref().is_ok_and(|known| (known.st_dev, known.st_ino) == (of.st_dev, of.st_ino)) {
            return Ok(());
        }
        replace(directory, name, known.is_ok())?;
        // By the descriptor, since the path might have become another file's.
        let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
        rustix::fs::linkat(rustix::fs::CWD, through, directory, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(|errno| call(path, "link", errno))
    }

    fn beneath(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// There are no more files: those that were not described go.
    pub(super) fn described(&mut self) -> Result<()> {
        while !self.levels.is_empty() {
            self.leave()?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let shown = || format!("readdir({})", level.path);
        let entries = rustix::fs::Dir::read_from(&level.directory).call(shown)?;
        for entry in entries {
            let entry = entry.call(shown)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let known = std::str::from_utf8(name).is_ok_and(|name| level.names.contains(name));
            if !known {
                let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
                remove_tree_at(&level.directory, name, || true)?;
            }
        }
        if let Some(modified) = level.modified {
            let _ = rustix::fs::futimens(&level.directory, &times(modified));
        }
        Ok(())
    }

    /// The numbers of the files whose content is wanted, in order.
    pub(super) fn wanted(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.wanted.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// Takes a piece of a file's content; an empty one is its end. Whether it was that.
    pub(super) fn write(&mut self, id: u32, data: &[u8]) -> Result<bool> {
        let unknown = || Error::invalid(format!("the client sends file {id}, which was not asked for"));
        let Some(wanted) = self.wanted.get(&id) else { return Err(unknown()) };
        self.room = self.room.checked_sub(data.len() as u64).ok_or_else(|| {
            Error::invalid(format!("the client sends more of `{}` than it said", Escaped(&wanted.path)))
        })?;
        if !self.open.contains_key(&id) {
            if self.open.len() >= AT_ONCE {
                return Err(Error::invalid("the client sends too many files at once"));
            }
            let file = self
                .beneath(&wanted.path, OFlags::WRONLY)
                .map_err(|errno| call(&wanted.path, "open", errno))?;
            self.open.insert(id, file);
        }
        if !data.is_empty() {
            let Some(file) = self.open.get(&id) else { return Err(unknown()) };
            robot_env_sys::fs::write_all(file, data).map_err(|errno| call(&wanted.path, "write", errno))?;
            return Ok(false);
        }
        if let (Some(file), Some(wanted)) = (self.open.remove(&id), self.wanted.remove(&id)) {
            wanted.settle(&file);
        }
        Ok(true)
    }
}

fn call(path: &str, what: &str, errno: Errno) -> Error {
    let cause = robot_env_sys::CallError::new(format!("{what}({path})"), errno);
    Error::new(Kind::of_io(&errno.into()), format!("cannot take `{}` into the context", Escaped(path)))
        .because(cause)
}

fn readable(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())
        .call(|| format!("open({})", name.to_string_lossy()))?)
}

fn replace(directory: BorrowedFd<'_>, name: &str, exists: bool) -> Result<()> {
    if exists {
        remove_tree_at(directory, name, || true)?;
    }
    Ok(())
}

impl Wanted {
    /// The last words on a file; until then it differs from what was described.
    fn settle(&self, file: &OwnedFd) {
        for (name, value) in &self.attributes {
            // Not every file system has them, and a build can do without.
            let _ = rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty());
        }
        let _ = rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode));
        let _ = rustix::fs::futimens(file, &times(self.modified));
    }
}

/// Whether an extended attribute belongs to the file, and not to the client's machine.
fn is_file_attribute(name: &str) -> bool {
    name == "security.capability" || name.starts_with("user.") && !name.starts_with("user.overlay.")
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_same(found: &Stat, stat: &FileStat, mode: RawMode) -> bool {
    let modified = i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec);
    kind(found) == FileType::RegularFile
        && found.st_mode & 0o7777 == mode
        && found.st_size == stat.size
        && modified == i128::from(stat.modified)
}

fn times(nanoseconds: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: at, last_modification: at }
}

fn permissions(mode: u32) -> RawMode {
    let bit = |of: u32, to: RawMode| if mode & of == 0 { 0 } else { to };
    mode & 0o777 | bit(go::SETUID, 0o4000) | bit(go::SETGID, 0o2000) | bit(go::STICKY, 0o1000)
}

/// Whether a path is relative and has neither empty components nor `.` and `..`.
fn is_clean(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use robot_env_testkit::temporary::TemporaryDirectory;

    use super::*;

    fn file(path: &str, size: i64) -> FileStat {
        FileStat { path: path.into(), mode: 0o644, size, modified: 1_500_000_000_123, ..FileStat::default() }
    }

    fn directory(path: &str) -> FileStat {
        FileStat { path: path.into(), mode: go::DIRECTORY | 0o755, ..FileStat::default() }
    }

    fn link(path: &str, target: &str) -> FileStat {
        FileStat { path: path.into(), mode: go::SYMLINK | 0o777, link: target.into(), ..FileStat::default() }
    }

    fn describe(tree: &mut Tree, stats: &[FileStat]) -> Result<()> {
        for (id, stat) in stats.iter().enumerate() {
            tree.describe(id as u32, stat)?;
        }
        tree.described()
    }

    #[test]
    fn a_tree_becomes_what_is_described() {
        let place = TemporaryDirectory::new("tree");
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("old/deep")).unwrap();
        fs::write(at("b"), "a file where a directory comes").unwrap();
        fs::write(at("a"), "old content").unwrap();
        let stats = [
            file("a", 5),
            FileStat { mode: go::SETUID | 0o755, ..file("a.sh", 0) },
            directory("b"),
            file("b/c", 3),
            FileStat { link: "b/c".into(), ..file("b/d", 3) },
            link("z", "../../etc/passwd"),
        ];
        let mut tree = Tree::open(place.path()).unwrap();
        describe(&mut tree, &stats).unwrap();
        assert_eq!(tree.wanted(), [0, 3]);
        assert!(!tree.write(3, b"x").unwrap());
        assert!(!tree.write(0, b"hello").unwrap());
        assert!(!tree.write(3, b"yz").unwrap());
        assert!(tree.write(3, b"").unwrap() && tree.write(0, b"").unwrap());
        assert!(tree.wanted().is_empty());
        assert_eq!(fs::read(at("a")).unwrap(), b"hello");
        assert_eq!(fs::read(at("b/d")).unwrap(), b"xyz");
        assert_eq!(fs::metadata(at("b/d")).unwrap().ino(), fs::metadata(at("b/c")).unwrap().ino());
        assert_eq!(fs::metadata(at("a.sh")).unwrap().permissions().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(at("a")).unwrap().mtime_nsec(), 123);
        assert_eq!(fs::read_link(at("z")).unwrap(), Path::new("../../etc/passwd"));
        assert!(!at("old").exists());

        // The same again: nothing is wanted, nothing is touched.
        let before = fs::metadata(at("a")).unwrap().ino();
        let mut tree = Tree::open(place.path()).unwrap();
        describe(&mut tree, &stats).unwrap();
        assert!(tree.wanted().is_empty());
        assert_eq!(fs::metadata(at("a")).unwrap().ino(), before);
        // What has not arrived whole is wanted again.
        let mut tree = Tree::open(place.path()).unwrap();
        describe(&mut tree, &[file("a", 6)]).unwrap();
        tree.write(0, b"hell").unwrap();
        drop(tree);
        let mut tree = Tree::open(place.path()).unwrap();
        describe(&mut tree, &[file("a", 4)]).unwrap();
        assert_eq!(tree.wanted(), [0]);
    }

    #[test]
    fn descriptions_that_lead_elsewhere_are_refused() {
        for stats in [
            vec![file("../x", 1)],
            vec![file("/x", 1)],
            vec![file("", 1)],
            vec![file(".", 1)],
            vec![directory("a"), file("a/../../x", 1)],
            vec![directory("a"), file("a//x", 1)],
            vec![file("a/x", 1)],
            vec![file("a\0b", 1)],
            vec![file("b", 1), file("a", 1)],
            vec![file("a", 1), file("a", 1)],
            vec![link("a", "/etc"), file("a/x", 1)],
            vec![file("a", 1), file("a/x", 1)],
            vec![directory("a"), file("b", 1), file("a/x", 1)],
            vec![FileStat { link: "../x".into(), ..file("a", 1) }],
            vec![FileStat { link: "/etc/passwd".into(), ..file("a", 1) }],
            vec![link("a", "/etc/passwd"), FileStat { link: "a".into(), ..file("b", 1) }],
            vec![link("a", "/etc"), FileStat { link: "a/passwd".into(), ..file("b", 1) }],
            vec![FileStat { mode: go::DEVICE | 0o600, ..file("a", 0) }],
            vec![file(&"a/".repeat(3000), 1)],
        ] {
            let place = TemporaryDirectory::new("tree");
            let mut tree = Tree::open(place.path()).unwrap();
            assert!(describe(&mut tree, &stats).is_err(), "{stats:?}");
        }
    }

    #[test]
    fn what_lies_in_the_way_is_replaced_and_never_followed() {
        let (place, outside) = (TemporaryDirectory::new("tree"), TemporaryDirectory::new("outside"));
        let secret = outside.path().join("f");
        fs::write(&secret, "untouched").unwrap();
        symlink(outside.path(), place.path().join("a")).unwrap();
        symlink(&secret, place.path().join("b")).unwrap();
        let mut tree = Tree::open(place.path()).unwrap();
        describe(&mut tree, &[directory("a"), file("a/f", 3), file("b", 3)]).unwrap();
        for id in tree.wanted() {
            tree.write(id, b"new").unwrap();
            tree.write(id, b"").unwrap();
        }
        assert_eq!(fs::read(&secret).unwrap(), b"untouched");
        assert_eq!(fs::read(place.path().join("a/f")).unwrap(), b"new");
        assert!(!place.path().join("b").is_symlink());
    }

    #[test]
    fn content_is_bounded() {
        let place = TemporaryDirectory::new("tree");
        let mut tree = Tree::open(place.path()).unwrap();
        let stats: Vec<FileStat> = (0..=AT_ONCE).map(|number| file(&format!("{number:03}"), 1)).collect();
        describe(&mut tree, &stats).unwrap();
        assert!(tree.write(1000, b"x").is_err(), "not asked for");
        for id in 0..AT_ONCE as u32 {
            tree.write(id, b"x").unwrap();
        }
        assert!(tree.write(AT_ONCE as u32, b"x").is_err(), "too many at once");
        tree.room = 10;
        assert!(tree.write(0, b"elevenbytes").is_err());
        let long = FileStat { path: "x".into(), size: i64::MAX, ..file("x", 1) };
        let mut tree = Tree::open(place.path()).unwrap();
        describe(&mut tree, &[long]).unwrap();
        tree.paths = PATHS;
        assert!(tree.describe(9, &file("y", 1)).is_err());
    }
}
