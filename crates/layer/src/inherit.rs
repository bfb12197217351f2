//! What a layer's tar left unsaid: the attributes of directories that are only implied.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Result, Within};
use robot_env_sys::ErrnoContext;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use crate::archive::Shown;
use crate::directories::open_directory;
use crate::lower::{Found, Lowers, Merged};
use crate::make;
use crate::options::{ApplyOptions, Ownership};
use crate::pack::{atime, mtime};
use crate::path;
use crate::remove::remove_tree;
use crate::walk::list;
use crate::xattr::{self, Place};

/// The most symbolic links in one resolution, as in the kernel.
const LINKS: usize = 40;

/// Completes a layer that [`crate::apply`] unpacked into `root`, before it is committed on top of
/// `lowers` (topmost first, all of them).
///
/// Each directory of `implied` gets mode, owner, xattrs and times of the one that the lower layers
/// show at its place. Where they show a symbolic link to a directory instead (`bin -> usr/bin`),
/// what the layer has in the implied directory moves to the link's target in the layer, resolved
/// inside the root, and the same link takes the directory's place: so the layer hides nothing, and
/// [`crate::assemble`] still finds the files. Where both places have a file of one name, the one at
/// the target wins. A layer that is opaque as a whole gets a whiteout for each name of the root
/// that it does not have itself: overlay heeds no opaque root.
pub fn inherit_directories(
    root: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    implied: &[Vec<u8>],
    options: &ApplyOptions,
) -> Result<()> {
    let opaque = options.xattr_namespace.opaque();
    let mut layer = Inherit {
        root,
        lowers: Lowers::new(lowers, opaque),
        opaque,
        keep_owner: options.ownership == Ownership::Keep,
        merged: BTreeMap::new(),
        moves: Vec::new(),
    };
    layer.whiteout_root()?;
    let mut implied: Vec<&[u8]> = implied.iter().map(Vec::as_slice).collect();
    implied.sort_unstable();
    for path in implied {
        layer
            .directory(path)
            .within(|| format!("cannot complete the directory `{}` of the layer", Shown(path)))?;
    }
    Ok(())
}

struct Inherit<'a> {
    root: BorrowedFd<'a>,
    lowers: Lowers<'a>,
    opaque: &'static [u8],
    keep_owner: bool,
    /// What of the lower layers shows in a directory of the layer.
    merged: BTreeMap<Vec<u8>, Merged>,
    /// Directories whose content went elsewhere.
    moves: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where a symbolic link of the lower layers leads.
struct Resolved {
    /// A directory, in this layer or below.
    target: Vec<u8>,
    /// The links on the way that this layer does not have.
    links: Vec<Vec<u8>>,
}

impl Inherit<'_> {
    fn whiteout_root(&self) -> Result<()> {
        if !xattr::is_opaque(Place::Entry(self.root, b"."), self.opaque)? {
            return Ok(());
        }
        let times = rustix::fs::fstat(self.root).call(|| "fstat".to_owned())?;
        let open = self.lowers.open(&self.lowers.root(), b"")?;
        for name in self.lowers.names(&open)? {
            match make::stat(self.root, &name)? {
                None => {
                    rustix::fs::mknodat(self.root, &name[..], FileType::CharacterDevice, Mode::empty(), 0)
                        .call(|| format!("mknodat({}, 0:0)", Shown(&name)))?;
                }
                Some(stat) if make::file_type(&stat) == FileType::Directory => {
                    xattr::set(Place::Entry(self.root, &name), self.opaque, b"y")
                        .call(|| format!("setxattr({})", Shown(self.opaque)))?;
                }
                Some(_) => {}
            }
        }
        restore_times(self.root, &times)
    }

    fn directory(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            let merged = self.lowers.root();
            let open = self.lowers.open(&merged, b"")?;
            return match open.top() {
                Some(lower) => self.copy_attributes(lower, self.root),
                None => Ok(()),
            };
        }
        let path = self.moved(path);
        let (parent, name) = path::split(&path);
        let merged = self.merged(parent)?;
        if merged.is_empty() {
            return Ok(());
        }
        let open = self.lowers.open(&merged, parent)?;
        match self.lowers.find(&open, name)? {
            Found::Nothing => Ok(()),
            Found::Directory(..) => {
                let Some(holder) = open.holder(name)? else { return Ok(()) };
                let lower = open_directory(holder, name, OFlags::RDONLY)?;
                // It was moved away with its parent if it is not there any more.
                match open_directory(self.root, &path, OFlags::RDONLY) {
                    Ok(own) => self.copy_attributes(lower.as_fd(), own.as_fd()),
                    Err(call) if matches!(call.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(call) => Err(call.into()),
                }
            }
            Found::Other(stat) if make::file_type(&stat) == FileType::Symlink => self.move_behind_link(&path),
            Found::Other(_) => Ok(()),
        }
    }

    /// Where an implied directory is after the moves so far.
    fn moved(&self, path: &[u8]) -> Vec<u8> {
        let mut path = path.to_vec();
        for (from, to) in &self.moves {
            if path::is_within(&path, from) {
                path = [&to[..], &path[from.len()..]].concat();
            }
        }
        path
    }

    /// What of the lower layers shows in the layer's directory at `path`: nothing below one that
    /// is opaque or that covers something else.
    fn merged(&mut self, path: &[u8]) -> Result<Merged> {
        if path.is_empty() {
            return Ok(self.lowers.root());
        }
        if let Some(known) = self.merged.get(path) {
            return Ok(known.clone());
        }
        let mut merged = self.lowers.root();
        let mut at: &[u8] = b"";
        while at.len() < path.len() {
            let start = if at.is_empty() { 0 } else { at.len() + 1 };
            let end = path[start..].iter().position(|b| *b == b'/').map_or(path.len(), |n| start + n);
            let below = &path[..end];
            merged = if let Some(known) = self.merged.get(below) {
                known.clone()
            } else {
                let next = self.merged_step(&merged, at, below)?;
                self.merged.insert(below.to_vec(), next.clone());
                next
            };
            at = below;
        }
        Ok(merged)
    }

    fn merged_step(&self, merged: &Merged, parent: &[u8], path: &[u8]) -> Result<Merged> {
        if merged.is_empty() {
            return Ok(Merged::default());
        }
        let name = path::split(path).1;
        match open_directory(self.root, path, OFlags::RDONLY) {
            Ok(own) if xattr::is_opaque(Place::Open(own.as_fd()), self.opaque)? => {
                return Ok(Merged::default());
            }
            Ok(_) => {}
            Err(call) if call.errno() == Errno::NOENT => {}
            Err(_) => return Ok(Merged::default()),
        }
        let open = self.lowers.open(merged, parent)?;
        Ok(match self.lowers.find(&open, name)? {
            Found::Directory(_, merged) => merged,
            Found::Nothing | Found::Other(_) => Merged::default(),
        })
    }

    /// Moves the content of the implied directory at `path` to where the lower layers' symbolic
    /// link at its place leads. If that is no directory, the directory stays.
    fn move_behind_link(&mut self, path: &[u8]) -> Result<()> {
        let Some(Resolved { target, links }) = self.resolve(path)? else { return Ok(()) };
        if path::is_within(&target, path) || path::is_within(path, &target) && !target.is_empty() {
            return Ok(());
        }
        for end in
            target.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([target.len()])
        {
            if !target.is_empty() {
                self.make_from_lower(&target[..end])?;
            }
        }
        let (parent, name) = path::split(path);
        let parent_fd = open_directory(self.root, parent, OFlags::RDONLY)?;
        let parent_stat = rustix::fs::fstat(&parent_fd).call(|| "fstat".to_owned())?;
        let from = open_directory(self.root, path, OFlags::RDONLY)?;
        let to = open_directory(self.root, &target, OFlags::RDONLY)?;
        let to_stat = rustix::fs::fstat(&to).call(|| "fstat".to_owned())?;
        if xattr::is_opaque(Place::Open(from.as_fd()), self.opaque)? {
            xattr::set(Place::Open(to.as_fd()), self.opaque, b"y")
                .call(|| format!("setxattr({})", Shown(self.opaque)))?;
        }
        self.merge(from, to.as_fd())?;
        restore_times(to.as_fd(), &to_stat)?;
        rustix::fs::unlinkat(&parent_fd, name, AtFlags::REMOVEDIR)
            .call(|| format!("rmdir({})", Shown(name)))?;
        for link in links {
            self.copy_link(&link)?;
        }
        restore_times(parent_fd.as_fd(), &parent_stat)?;
        self.moves.push((path.to_vec(), target));
        Ok(())
    }

    /// Follows the link that the lower layers have at `path`, inside the root, as overlay would
    /// show it with this layer on top. None if it ends nowhere.
    fn resolve(&mut self, path: &[u8]) -> Result<Option<Resolved>> {
        let mut links = vec![path.to_vec()];
        let mut at = path::split(path).0.to_vec();
        let mut left: VecDeque<Vec<u8>> = VecDeque::new();
        let Some(target) = self.lower_link(path)? else { return Ok(None) };
        push_target(&target, &mut at, &mut left);
        let mut followed = 1;
        while let Some(name) = left.pop_front() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = path::split(&at).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let next = path::join(&at, &name);
            let own = match open_directory(self.root, &at, OFlags::PATH) {
                Ok(dir) => make::stat(&dir, &name)?,
                Err(call) if call.errno() == Errno::NOENT => None,
                Err(call) => return Err(call.into()),
            };
            // The directory that is being moved is not in the way of its own link.
            let own = own.filter(|_| next != path);
            let link = match own.as_ref().map(make::file_type) {
                Some(FileType::Directory) => {
                    at = next;
                    continue;
                }
                Some(FileType::Symlink) => {
                    let dir = open_directory(self.root, &at, OFlags::PATH)?;
                    read_link(dir.as_fd(), &name)?
                }
                Some(_) => return Ok(None),
                None => {
                    let merged = self.merged(&at)?;
                    let open = self.lowers.open(&merged, &at)?;
                    match self.lowers.find(&open, &name)? {
                        Found::Directory(..) => {
                            at = next;
                            continue;
                        }
                        Found::Other(stat) if make::file_type(&stat) == FileType::Symlink => {
                            let Some(link) = self.lower_link(&next)? else { return Ok(None) };
                            links.push(next);
                            link
                        }
                        Found::Other(_) | Found::Nothing => return Ok(None),
                    }
                }
            };
            followed += 1;
            if followed > LINKS {
                return Ok(None);
            }
            push_target(&link, &mut at, &mut left);
        }
        links.dedup();
        Ok(Some(Resolved { target: at, links }))
    }

    fn lower_link(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let (parent, name) = path::split(path);
        let merged = self.merged(parent)?;
        let open = self.lowers.open(&merged, parent)?;
        match open.holder(name)? {
            Some(holder) => read_link(holder, name).map(Some),
            None => Ok(None),
        }
    }

    /// Makes a directory that only the lower layers have, with their attributes.
    fn make_from_lower(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = path::split(path);
        let dir = open_directory(self.root, parent, OFlags::RDONLY)?;
        let parent_stat = rustix::fs::fstat(&dir).call(|| "fstat".to_owned())?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => return Ok(()),
            other => other.call(|| format!("mkdirat({})", Shown(name)))?,
        }
        restore_times(dir.as_fd(), &parent_stat)?;
        self.directory(path)
    }

    /// Puts a copy of the lower layers' symbolic link at `path` into the layer.
    fn copy_link(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = path::split(path);
        let merged = self.merged(parent)?;
        let open = self.lowers.open(&merged, parent)?;
        let Some(holder) = open.holder(name)? else { return Ok(()) };
        let target = read_link(holder, name)?;
        if !parent.is_empty() {
            for end in
                parent.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([parent.len()])
            {
                self.make_from_lower(&parent[..end])?;
            }
        }
        let dir = open_directory(self.root, parent, OFlags::RDONLY)?;
        let parent_stat = rustix::fs::fstat(&dir).call(|| "fstat".to_owned())?;
        match rustix::fs::symlinkat(&target[..], &dir, name) {
            Err(Errno::EXIST) => return Ok(()),
            other => other.call(|| format!("symlinkat({})", Shown(name)))?,
        }
        if let Some(stat) = make::stat(holder, name)? {
            if self.keep_owner {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .call(|| format!("fchownat({})", Shown(name)))?;
            }
            make::set_times(dir.as_fd(), name, &make::timestamps(atime(&stat), mtime(&stat)))?;
        }
        restore_times(dir.as_fd(), &parent_stat)
    }

    /// Moves everything in `from` into `to`, and leaves `from` empty.
    fn merge(&self, from: OwnedFd, to: BorrowedFd<'_>) -> Result<()> {
        for item in list(from.as_fd())? {
            let name = &item.name[..];
            match rustix::fs::renameat_with(&from, name, to, name, RenameFlags::NOREPLACE) {
                Ok(()) => continue,
                Err(Errno::EXIST) => {}
                Err(errno) => Err(errno).call(|| format!("renameat2({})", Shown(name)))?,
            }
            let Some(there) = make::stat(to, name)? else { continue };
            let directories = (make::file_type(&item.stat), make::file_type(&there));
            if directories == (FileType::Directory, FileType::Directory) {
                let inner_from = open_directory(from.as_fd(), name, OFlags::RDONLY)?;
                let inner_to = open_directory(to, name, OFlags::RDONLY)?;
                self.merge(inner_from, inner_to.as_fd())?;
                restore_times(inner_to.as_fd(), &there)?;
            } else if make::is_whiteout(&there) && !make::is_whiteout(&item.stat) {
                remove_tree(to, name, &mut |_| Ok(()))?;
                rustix::fs::renameat(&from, name, to, name).call(|| format!("renameat({})", Shown(name)))?;
                if directories.0 == FileType::Directory {
                    xattr::set(Place::Entry(to, name), self.opaque, b"y")
                        .call(|| format!("setxattr({})", Shown(self.opaque)))?;
                }
                continue;
            }
            remove_tree(from.as_fd(), name, &mut |_| Ok(()))?;
        }
        Ok(())
    }

    fn copy_attributes(&self, lower: BorrowedFd<'_>, own: BorrowedFd<'_>) -> Result<()> {
        let stat = rustix::fs::fstat(lower).call(|| "fstat".to_owned())?;
        let now = rustix::fs::fstat(own).call(|| "fstat".to_owned())?;
        if self.keep_owner && (stat.st_uid, stat.st_gid) != (now.st_uid, now.st_gid) {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(own, c".", Some(uid), Some(gid), AtFlags::empty())
                .call(|| format!("fchownat({}, {})", stat.st_uid, stat.st_gid))?;
        }
        for attribute in xattr::all(Place::Entry(lower, b"."))? {
            match xattr::set(Place::Entry(own, b"."), &attribute.name, &attribute.value) {
                // As when the lower layer was unpacked.
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(errno) => Err(errno).call(|| format!("setxattr({})", Shown(&attribute.name)))?,
            }
        }
        if stat.st_mode & 0o7777 != now.st_mode & 0o7777 {
            make::chmod_entry(own, b".", stat.st_mode & 0o7777)?;
        }
        restore_times(own, &stat)
    }
}

fn restore_times(dir: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    make::set_times(dir, b".", &make::timestamps(atime(stat), mtime(stat)))
}

fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())
        .call(|| format!("readlinkat({})", Shown(name)))?
        .into_bytes())
}

/// Puts a link's components in front of what is left to resolve.
fn push_target(target: &[u8], at: &mut Vec<u8>, left: &mut VecDeque<Vec<u8>>) {
    if target.starts_with(b"/") {
        at.clear();
    }
    for component in target.split(|b| *b == b'/').rev() {
        left.push_front(component.to_vec());
    }
}
