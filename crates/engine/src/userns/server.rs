//! Answers the kernel's questions about trees whose owners are translated. It never writes, follows
//! no link, and holds no descriptor of a file that nobody has open.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use robot_env_spec::UserMap;
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, IoSlice};

use super::view::Content;
use super::wire::{Answer, HEAD, Operation, Request, answer_head};

/// The directory in which the trees lie as `0`, `1` and so on.
const TOP: u64 = 1;
/// The kernel's buffers: a head and a page for each page that is written, and nothing is.
const REQUEST: usize = 64 * 1024;
/// The most that is read at once.
const READ: usize = 1 << 20;
/// What an id becomes that has no other.
const NOBODY: u32 = 65534;
/// A long time, for what never changes.
const ALWAYS: u64 = 365 * 24 * 3600;

const ASYNC_READ: u32 = 1;
const PARALLEL_DIRECTORIES: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
const CACHE_SYMLINKS: u32 = 1 << 23;
const KEEP_CACHE: u32 = 1 << 1;
const CACHE_DIRECTORY: u32 = 1 << 3;

struct Node {
    tree: usize,
    /// Below the tree's root; empty: the root itself.
    path: Vec<u8>,
    lookups: u64,
    inode: (usize, u64),
}

enum Handle {
    File(OwnedFd),
    Directory(Vec<(u64, u32, Vec<u8>)>),
}

/// The server's whole state.
pub(super) struct Server<'a> {
    trees: &'a [BorrowedFd<'a>],
    map: &'a UserMap,
    content: Content,
    nodes: HashMap<u64, Node>,
    /// Nodes by tree and inode: names of one file are one node.
    known: HashMap<(usize, u64), u64>,
    handles: HashMap<u64, Handle>,
    next: u64,
}

type Outcome = rustix::io::Result<Answer>;

impl<'a> Server<'a> {
    pub(super) fn new(trees: &'a [BorrowedFd<'a>], map: &'a UserMap, content: Content) -> Self {
        Server {
            trees,
            map,
            content,
            nodes: HashMap::new(),
            known: HashMap::new(),
            handles: HashMap::new(),
            next: TOP + 1,
        }
    }

    /// Answers until the mount is gone.
    pub(super) fn run(&mut self, device: BorrowedFd<'_>) {
        let mut buffer = vec![0u8; REQUEST];
        loop {
            let length = match rustix::io::read(device, &mut buffer) {
                Ok(length) => length,
                // A request that was taken back meanwhile.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                Err(_) => return,
            };
            let Some(request) = Request::parse(&buffer[..length]) else { return };
            let answer = match request.operation {
                Operation::Forget => {
                    self.forget(request.node, request.u64(0));
                    continue;
                }
                Operation::ForgetMany => {
                    request.forgotten().for_each(|(node, count)| self.forget(node, count));
                    continue;
                }
                Operation::Interrupt => continue,
                _ => self.answer(&request),
            };
            let (error, body) = match &answer {
                Ok(answer) => (0, answer.0.as_slice()),
                Err(errno) => (-errno.raw_os_error(), &[][..]),
            };
            let head = answer_head(request.unique, error, body.len());
            // ENOENT: nobody waits for it any more.
            let _ = rustix::io::writev(device, &[IoSlice::new(&head), IoSlice::new(body)]);
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Outcome {
        match request.operation {
            Operation::Init => Ok(Self::init(request)),
            Operation::Lookup => self.lookup(request.node, request.name(0)),
            Operation::GetAttributes => self.attributes(request.node),
            Operation::ReadLink => self.read_link(request.node),
            Operation::Open => self.open(request.node),
            Operation::Read => {
                self.read(request.node, request.u64(0), request.u64(8), request.u32(16) as usize)
            }
            Operation::OpenDirectory => self.open_directory(request.node),
            Operation::ReadDirectory => self.list(request.u64(0), request.u64(8), request.u32(16) as usize),
            Operation::Release | Operation::ReleaseDirectory => {
                self.handles.remove(&request.u64(0));
                Ok(Answer::default())
            }
            Operation::GetXattr => {
                let name = request.name(8);
                // What access lists would allow is not asked here.
                if name.starts_with(b"system.") {
                    return Err(Errno::OPNOTSUPP);
                }
                let path = self.magic(request.node)?;
                bounded(request.u32(0) as usize, |buffer| rustix::fs::getxattr(path.1.as_str(), name, buffer))
            }
            Operation::ListXattr => {
                let path = self.magic(request.node)?;
                bounded(request.u32(0) as usize, |buffer| rustix::fs::listxattr(path.1.as_str(), buffer))
            }
            Operation::FileSystem => self.file_system(),
            Operation::Destroy => Ok(Answer::default()),
            _ => Err(Errno::NOSYS),
        }
    }

    fn init(request: &Request<'_>) -> Answer {
        let (minor, ahead, flags) = (request.u32(4), request.u32(8), request.u32(12));
        let mut answer = Answer::default();
        let wanted = ASYNC_READ | PARALLEL_DIRECTORIES | MAX_PAGES | CACHE_SYMLINKS;
        answer.u32(7).u32(minor.min(31)).u32(ahead).u32(flags & wanted).u16(0).u16(0);
        answer.u32(4096).u32(1).u16((READ / 4096) as u16).u16(0);
        answer.0.resize(64, 0);
        answer
    }

    fn valid(&self) -> u64 {
        if self.content == Content::Fixed { ALWAYS } else { 0 }
    }

    /// Opens a node's file; links are not followed anywhere.
    fn open_node(&self, node: u64, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let node = self.nodes.get(&node).ok_or(Errno::STALE)?;
        self.open_path(node.tree, &node.path, flags)
    }

    fn open_path(&self, tree: usize, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(self.trees[tree], path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// A path that leads to a node's file itself, and what keeps it.
    fn magic(&self, node: u64) -> rustix::io::Result<(OwnedFd, String)> {
        if node == TOP {
            return Err(Errno::NODATA);
        }
        let file = self.open_node(node, OFlags::PATH)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok((file, path))
    }

    fn lookup(&mut self, parent: u64, name: &[u8]) -> Outcome {
        let (tree, path) = if parent == TOP {
            let number: usize =
                std::str::from_utf8(name).ok().and_then(|t| t.parse().ok()).ok_or(Errno::NOENT)?;
            if number >= self.trees.len() {
                return Err(Errno::NOENT);
            }
            (number, Vec::new())
        } else {
            let parent = self.nodes.get(&parent).ok_or(Errno::STALE)?;
            let mut path = parent.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            (parent.tree, path)
        };
        let missing = |errno| if errno == Errno::LOOP { Errno::NOENT } else { errno };
        let stat = match self.open_path(tree, &path, OFlags::PATH).map_err(missing) {
            Ok(file) => rustix::fs::fstat(&file)?,
            Err(Errno::NOENT) if self.content == Content::Fixed => {
                // That there is nothing is kept, too.
                let mut answer = Answer::default();
                answer.u64(0).u64(0).u64(ALWAYS).u64(0).u32(0).u32(0);
                answer.0.resize(128, 0);
                return Ok(answer);
            }
            Err(errno) => return Err(errno),
        };
        let inode = (tree, stat.st_ino);
        let number = match self.known.get(&inode) {
            Some(number) => *number,
            None => {
                let number = self.next;
                self.next += 1;
                self.known.insert(inode, number);
                self.nodes.insert(number, Node { tree, path: path.clone(), lookups: 0, inode });
                number
            }
        };
        if let Some(node) = self.nodes.get_mut(&number) {
            node.lookups += 1;
            // Of what changes the latest name is the one that leads there.
            node.path = path;
        }
        let mut answer = Answer::default();
        answer.u64(number).u64(0).u64(self.valid()).u64(self.valid()).u32(0).u32(0);
        self.write_attributes(&mut answer, &stat);
        Ok(answer)
    }

    fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 {
            let inode = node.inode;
            self.nodes.remove(&number);
            self.known.remove(&inode);
        }
    }

    fn attributes(&self, node: u64) -> Outcome {
        let mut answer = Answer::default();
        answer.u64(self.valid()).u32(0).u32(0);
        if node == TOP {
            let mut top = rustix::fs::fstat(self.trees[0])?;
            (top.st_ino, top.st_mode) = (TOP, 0o040_755);
            self.write_attributes(&mut answer, &top);
        } else {
            let stat = rustix::fs::fstat(&self.open_node(node, OFlags::PATH)?)?;
            self.write_attributes(&mut answer, &stat);
        }
        Ok(answer)
    }

    #[allow(clippy::unnecessary_cast)] // The fields' types differ between architectures.
    fn write_attributes(&self, answer: &mut Answer, stat: &Stat) {
        let (user, group) = self.map.outside(stat.st_uid, stat.st_gid);
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let device = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        answer.u64(stat.st_ino).u64(stat.st_size as u64).u64(stat.st_blocks as u64);
        answer.u64(stat.st_atime as u64).u64(stat.st_mtime as u64).u64(stat.st_ctime as u64);
        answer.u32(stat.st_atime_nsec as u32).u32(stat.st_mtime_nsec as u32).u32(stat.st_ctime_nsec as u32);
        answer.u32(stat.st_mode).u32(stat.st_nlink as u32);
        answer.u32(user.unwrap_or(NOBODY)).u32(group.unwrap_or(NOBODY));
        answer.u32(device).u32(stat.st_blksize as u32).u32(0);
    }

    fn read_link(&self, node: u64) -> Outcome {
        let file = self.open_node(node, OFlags::PATH)?;
        Ok(Answer(rustix::fs::readlinkat(&file, "", Vec::new())?.into_bytes()))
    }

    /// `flags` hold for what never changes.
    fn keep(&mut self, handle: Handle, flags: u32) -> Answer {
        let number = self.next;
        self.next += 1;
        self.handles.insert(number, handle);
        let mut answer = Answer::default();
        answer.u64(number).u32(if self.content == Content::Fixed { flags } else { 0 }).u32(0);
        answer
    }

    /// Of what never changes the kernel need not tell that a file is opened or closed: it hears once that
    /// nobody answers that, and keeps what was read.
    fn open(&mut self, node: u64) -> Outcome {
        if self.content == Content::Fixed {
            return Err(Errno::NOSYS);
        }
        let file = self.open_file(node)?;
        Ok(self.keep(Handle::File(file), 0))
    }

    fn open_file(&self, node: u64) -> rustix::io::Result<OwnedFd> {
        self.open_node(node, OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK)
    }

    fn read(&self, node: u64, handle: u64, offset: u64, size: usize) -> Outcome {
        let opened;
        let file = match self.handles.get(&handle) {
            Some(Handle::File(file)) => file,
            None if self.content == Content::Fixed => {
                opened = self.open_file(node)?;
                &opened
            }
            _ => return Err(Errno::BADF),
        };
        let mut bytes = vec![0; size.min(READ)];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(file, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        bytes.truncate(filled);
        Ok(Answer(bytes))
    }

    fn open_directory(&mut self, node: u64) -> Outcome {
        let mut entries = vec![(TOP, 4, b".".to_vec()), (TOP, 4, b"..".to_vec())];
        if node == TOP {
            for number in 0..self.trees.len() {
                entries.push((TOP, 4, number.to_string().into_bytes()));
            }
        } else {
            let directory = self.open_node(node, OFlags::RDONLY | OFlags::DIRECTORY)?;
            entries[0].0 = rustix::fs::fstat(&directory)?.st_ino;
            for entry in Dir::new(directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    let kind = entry.file_type().as_raw_mode() >> 12;
                    entries.push((entry.ino(), kind, name.to_vec()));
                }
            }
        }
        Ok(self.keep(Handle::Directory(entries), KEEP_CACHE | CACHE_DIRECTORY))
    }

    fn list(&self, handle: u64, offset: u64, size: usize) -> Outcome {
        let Some(Handle::Directory(entries)) = self.handles.get(&handle) else { return Err(Errno::BADF) };
        let mut answer = Answer::default();
        let rest = entries.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for (index, (inode, kind, name)) in rest {
            if !answer.entry(size.min(READ), *inode, index as u64 + 1, *kind, name) {
                break;
            }
        }
        Ok(answer)
    }

    #[allow(clippy::unnecessary_cast)]
    fn file_system(&self) -> Outcome {
        let stat = rustix::fs::fstatfs(self.trees[0].as_fd())?;
        let mut answer = Answer::default();
        answer.u64(stat.f_blocks as u64).u64(stat.f_bfree as u64).u64(stat.f_bavail as u64);
        answer.u64(stat.f_files as u64).u64(stat.f_ffree as u64);
        answer.u32(stat.f_bsize as u32).u32(255).u32(stat.f_bsize as u32);
        answer.0.resize(80, 0);
        Ok(answer)
    }
}

/// The answer to a question whose answer has at most `size` bytes; 0: its length is asked for.
fn bounded(size: usize, get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Outcome {
    let mut buffer = vec![0; if size == 0 { 0 } else { size.min(64 * 1024) }];
    let length = get(&mut buffer)?;
    if size == 0 {
        let mut answer = Answer::default();
        answer.u32(length as u32).u32(0);
        return Ok(answer);
    }
    buffer.truncate(length);
    Ok(Answer(buffer))
}

const _: () = assert!(HEAD < REQUEST);
