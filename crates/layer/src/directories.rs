//! The directories of a tree that is being unpacked, with a cache of open descriptors.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::{CallError, ErrnoContext};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::archive::Shown;
use crate::make;
use crate::path;
use crate::share::Share;

/// What a directory takes beside its path, which is held twice at the end, in bytes: a [`Node`], a
/// place in the index and in the list of those that the archive has no entry for, and what the
/// allocator adds.
const NODE: usize = 200;
/// How much of the share is taken at a time, in bytes.
const PIECE: usize = 64 * 1024;
/// Open descriptors that are kept.
const OPEN: usize = 64;

/// A directory, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

struct Node {
    path: Arc<[u8]>,
    parent: Id,
    /// What to set at the end; none: the archive has no entry for it.
    finish: Option<Finish>,
    /// It stands where the layer has a whiteout too: nothing of the lower layers shows in it.
    over_whiteout: bool,
    gone: bool,
}

/// What a directory gets when everything in it has been made.
pub(crate) struct Finish {
    pub(crate) times: Timestamps,
    /// Mode, if it has bits that the creation could not give it.
    pub(crate) mode: Option<u32>,
}

struct Open {
    id: Id,
    fd: Rc<OwnedFd>,
    used: u64,
}

/// The directories that were made in one root. Nobody else changes the tree meanwhile, and every
/// one was made here: so none of them is a symbolic link.
pub(crate) struct Directories<'s> {
    root: Rc<OwnedFd>,
    nodes: Vec<Node>,
    index: BTreeMap<Arc<[u8]>, Id>,
    share: &'s Share,
    /// What is left of what was taken of the share.
    room: usize,
    open: Vec<Open>,
    clock: u64,
    opaque: &'static [u8],
    /// The directory of the last look-up.
    last: Id,
}

impl<'s> Directories<'s> {
    pub(crate) const ROOT: Id = Id(0);

    pub(crate) fn new(root: BorrowedFd<'_>, opaque: &'static [u8], share: &'s Share) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(root, c".", flags, Mode::empty()).call(|| "openat(.)".to_owned())?;
        let path: Arc<[u8]> = Arc::from(&b""[..]);
        Ok(Directories {
            root: Rc::new(root),
            nodes: vec![Node {
                path: path.clone(),
                parent: Self::ROOT,
                finish: None,
                over_whiteout: false,
                gone: false,
            }],
            index: BTreeMap::from([(path, Self::ROOT)]),
            share,
            room: 0,
            open: Vec::with_capacity(OPEN),
            clock: 0,
            opaque,
            last: Self::ROOT,
        })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn node(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The directory at a normalised path, if there is one.
    pub(crate) fn find(&mut self, path: &[u8]) -> Option<Id> {
        if *self.nodes[self.last.0 as usize].path == *path && !self.nodes[self.last.0 as usize].gone {
            return Some(self.last);
        }
        let id = *self.index.get(path)?;
        self.last = id;
        Some(id)
    }

    /// The directory at a normalised path; it and its parents are made (0755) where they are
    /// missing.
    pub(crate) fn ensure(&mut self, path: &[u8]) -> Result<Id> {
        if let Some(id) = self.find(path) {
            return Ok(id);
        }
        // From the deepest directory that exists downwards.
        let mut known = path;
        let mut id = loop {
            known = path::split(known).0;
            if let Some(id) = self.find(known) {
                break id;
            }
        };
        while known.len() < path.len() {
            let start = if known.is_empty() { 0 } else { known.len() + 1 };
            let length = path[start..].iter().position(|b| *b == b'/').unwrap_or(path.len() - start);
            known = &path[..start + length];
            id = self.make_parent(id, known)?;
        }
        self.last = id;
        Ok(id)
    }

    fn make_parent(&mut self, parent: Id, path: &[u8]) -> Result<Id> {
        let dir = self.fd(parent)?;
        let name = path::split(path).1;
        match self.make(parent, path, 0o755) {
            Err(call) if call.errno() == Errno::EXIST => {
                let stat = make::stat(&dir, name)?;
                if stat.is_some_and(|stat| make::is_whiteout(&stat)) {
                    return self.replace_whiteout(parent, path, 0o755);
                }
                Err(Error::new(Kind::Corrupt, format!("its parent `{}` is not a directory", Shown(path))))
            }
            Err(call) => Err(make::out_of_space(&call).unwrap_or_else(|| call.into())),
            Ok(id) => Ok(id),
        }
    }

    /// Makes a directory, which must not exist (`EEXIST` otherwise).
    pub(crate) fn make(&mut self, parent: Id, path: &[u8], mode: u32) -> Result<Id, CallError> {
        let name = path::split(path).1;
        let full = || {
            CallError::new(
                format!("mkdirat({}): too many directories in one layer", Shown(name)),
                Errno::NOMEM,
            )
        };
        let needs = NODE + 2 * path.len();
        if self.room < needs {
            self.share.take(PIECE).map_err(|_| full())?;
            self.room += PIECE;
        }
        self.room -= needs;
        let dir = self.fd(parent)?;
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode & 0o777))
            .call(|| format!("mkdirat({}, {mode:o})", Shown(name)))?;
        let id = Id(self.nodes.len() as u32);
        let path: Arc<[u8]> = Arc::from(path);
        self.nodes.push(Node { path: path.clone(), parent, finish: None, over_whiteout: false, gone: false });
        self.index.insert(path, id);
        Ok(id)
    }

    /// Makes a directory where the layer has a whiteout: it is opaque.
    pub(crate) fn replace_whiteout(&mut self, parent: Id, path: &[u8], mode: u32) -> Result<Id> {
        let dir = self.fd(parent)?;
        let name = path::split(path).1;
        rustix::fs::unlinkat(&dir, name, AtFlags::empty()).call(|| format!("unlinkat({})", Shown(name)))?;
        let id = self.make(parent, path, mode)?;
        self.cover_whiteout(id)?;
        Ok(id)
    }

    /// Notes that the layer has a whiteout of the directory's name.
    pub(crate) fn cover_whiteout(&mut self, id: Id) -> Result<()> {
        self.node(id).over_whiteout = true;
        self.make_opaque(id)
    }

    pub(crate) fn make_opaque(&mut self, id: Id) -> Result<()> {
        let fd = self.fd(id)?;
        let opaque = self.opaque;
        crate::xattr::set(crate::xattr::directory(&*fd), opaque, b"y")
            .call(|| format!("setxattr({})", Shown(opaque)))?;
        Ok(())
    }

    pub(crate) fn finish_with(&mut self, id: Id, finish: Finish) {
        self.node(id).finish = Some(finish);
    }

    /// Forgets a directory that is being removed, and all below it.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        let mut start = path.to_vec();
        start.push(b'/');
        let mut end = path.to_vec();
        end.push(b'/' + 1);
        let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        let mut gone: Vec<Id> = self.index.range::<[u8], _>(range).map(|(_, id)| *id).collect();
        gone.extend(self.index.get(path));
        for id in gone {
            let path = self.node(id).path.clone();
            self.index.remove(&path);
            let node = self.node(id);
            node.gone = true;
            node.finish = None;
            self.open.retain(|open| open.id != id);
        }
        self.last = Self::ROOT;
    }

    /// An `O_PATH` descriptor of a directory.
    pub(crate) fn fd(&mut self, id: Id) -> Result<Rc<OwnedFd>, CallError> {
        self.clock += 1;
        let clock = self.clock;
        if id == Self::ROOT {
            return Ok(self.root.clone());
        }
        if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
            open.used = clock;
            return Ok(open.fd.clone());
        }
        // From the nearest parent that is open.
        let mut above = self.nodes[id.0 as usize].parent;
        let from = loop {
            if above == Self::ROOT {
                break self.root.clone();
            }
            if let Some(open) = self.open.iter().find(|open| open.id == above) {
                break open.fd.clone();
            }
            above = self.nodes[above.0 as usize].parent;
        };
        let path = &self.nodes[id.0 as usize].path;
        let skip = self.nodes[above.0 as usize].path.len();
        let relative = if skip == 0 { &path[..] } else { &path[skip + 1..] };
        let fd = Rc::new(open_directory(from.as_fd(), relative, OFlags::PATH)?);
        if self.open.len() == OPEN
            && let Some(oldest) = (0..OPEN).min_by_key(|i| self.open[*i].used)
        {
            self.open.swap_remove(oldest);
        }
        self.open.push(Open { id, fd: fd.clone(), used: clock });
        Ok(fd)
    }

    /// Sets the modes and times that had to wait, and returns the paths of the directories for
    /// which the archive has no entry (and no whiteout), sorted.
    pub(crate) fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        for index in 0..self.nodes.len() {
            let Some(finish) = self.nodes[index].finish.take() else { continue };
            let id = Id(index as u32);
            self.node(id).finish = None;
            let set = |dir: BorrowedFd<'_>, name: &[u8]| -> Result<()> {
                if let Some(mode) = finish.mode {
                    make::chmod_entry(dir, name, mode)?;
                }
                make::set_times(dir, name, &finish.times)
            };
            if id == Self::ROOT {
                set(self.root.as_fd(), b".")?;
            } else {
                let parent = self.node(id).parent;
                let dir = self.fd(parent)?;
                set(dir.as_fd(), path::split(&self.nodes[index].path).1)?;
            }
            self.node(id).gone = true;
        }
        self.index = BTreeMap::new();
        let implied = self.nodes.iter().filter(|node| !node.gone && !node.over_whiteout);
        let mut implied: Vec<Vec<u8>> = implied.map(|node| node.path.to_vec()).collect();
        implied.sort_unstable();
        Ok(implied)
    }
}

/// Opens a directory below `dir` through real directories only.
pub(crate) fn open_directory(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, CallError> {
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            // Something was renamed at the same time.
            Err(Errno::AGAIN) => {}
            Err(errno) => {
                return Err(CallError::new(format!("openat2({}, BENEATH|NO_SYMLINKS)", Shown(path)), errno));
            }
        }
    }
}
