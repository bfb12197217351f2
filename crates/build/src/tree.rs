//! Trees that files are copied from: the context, a stage, an image.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_dockerfile::ignore::{Ignore, Matches};
use robot_env_oci::{Algorithm, Digest, Hasher};
use robot_env_sys::fs::{location, open_in_root};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::glob;
use crate::index::Index;

/// How deep directories may lie in each other.
const DEPTH: usize = 1000;

/// A tree to copy from. All of it is reached from its root; no link leads out of it.
pub(crate) struct Tree<'a> {
    pub(crate) root: BorrowedFd<'a>,
    /// What is not to be seen.
    pub(crate) ignore: Option<&'a Ignore>,
    /// Owners mean nothing: everything is root's.
    pub(crate) foreign: bool,
    /// Ends walks.
    pub(crate) cancel: Option<&'a Cancel>,
}

/// A file or directory that is copied as one.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// Where it really lies: relative to the root, without links; empty for the root.
    pub(crate) path: Vec<u8>,
    /// As it was asked for, relative to the root.
    pub(crate) asked: Vec<u8>,
    pub(crate) is_directory: bool,
    /// How many directories of `asked` stand before the `./` of `COPY --parents`.
    pub(crate) pivot: usize,
}

impl Match {
    /// The last part of the name that it was asked for by.
    pub(crate) fn name(&self) -> &[u8] {
        self.asked.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The part of the name that `COPY --parents` keeps.
    pub(crate) fn below_pivot(&self) -> &[u8] {
        let mut rest = &self.asked[..];
        for _ in 0..self.pivot {
            match rest.iter().position(|byte| *byte == b'/') {
                Some(at) => rest = &rest[at + 1..],
                None => return b"",
            }
        }
        rest
    }
}

/// One entry of a tree that is walked.
pub(crate) struct Entry<'a> {
    /// The directory that it lies in, open for reading.
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CString,
    /// Relative to where the walk began; empty for that itself.
    pub(crate) path: &'a [u8],
    pub(crate) stat: Stat,
}

impl Entry<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// A relative path without `.`, `..` and doubled slashes; `..` ends at the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Entries of a directory, sorted by their bytes.
pub(crate) fn sorted(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let within = || format!("cannot read directory `{}`", location(dir).display());
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).io_context(within)? {
        let name = entry.io_context(within)?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Tree<'_> {
    /// What a pattern or path means, in order. Links on the way are followed inside the tree.
    ///
    /// # Errors
    /// `NotFound` when there is nothing; `InvalidInput` for a malformed pattern.
    pub(crate) fn find(&self, text: &str) -> Result<Vec<Match>> {
        let wanted = clean(text);
        let parts: Vec<&[u8]> =
            wanted.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
        let mut asked: Vec<Vec<u8>> = vec![Vec::new()];
        for part in &parts {
            if !glob::is_pattern(part) {
                for path in &mut asked {
                    *path = join(path, part);
                }
                continue;
            }
            let mut next = Vec::new();
            for path in asked {
                let Ok(dir) = self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY) else { continue };
                for name in sorted(dir.as_fd())? {
                    let fits = glob::matches(part, name.as_bytes())
                        .ok_or_else(|| Error::invalid(format!("the pattern `{text}` is malformed")))?;
                    if fits {
                        next.push(join(&path, name.as_bytes()));
                    }
                }
            }
            asked = next;
        }
        let mut found = Vec::new();
        for asked in asked {
            match self.look(&asked) {
                Ok(Some(found_here)) => found.push(found_here),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            return Err(Error::not_found(format!("`{text}` is not there")));
        }
        Ok(found)
    }

    fn check(&self) -> Result<()> {
        self.cancel.map_or(Ok(()), Cancel::check)
    }

    fn open(&self, path: &[u8], flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        open_in_root(self.root, path, flags).map_err(|error| error.errno())
    }

    fn look(&self, asked: &[u8]) -> Result<Option<Match>> {
        let fd = match self.open(asked, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => {
                return Err(errno).io_context(|| format!("cannot open `{}`", String::from_utf8_lossy(asked)));
            }
        };
        let stat = rustix::fs::fstat(&fd).io_context(|| "fstat()".into())?;
        let (root, found) = (location(self.root), location(&fd));
        let path = found
            .strip_prefix(&root)
            .map_or_else(|_| asked.to_vec(), |path| path.as_os_str().as_bytes().to_vec());
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if let Some(ignore) = self.ignore
            && !path.is_empty()
        {
            let text = String::from_utf8_lossy(&path);
            if ignore.ignores(&text) && (!is_directory || ignore.skips_directory(&text)) {
                return Ok(None);
            }
        }
        Ok(Some(Match { path, asked: asked.to_vec(), is_directory, pivot: 0 }))
    }

    /// Shows one entry alone.
    pub(crate) fn visit(&self, path: &[u8], visit: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let dir = self
            .open(parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .io_context(|| format!("cannot open `{}`", String::from_utf8_lossy(parent)))?;
        let name = CString::new(name).map_err(|_| Error::invalid("a name has a zero byte"))?;
        let stat = stat(dir.as_fd(), &name)?;
        visit(&Entry { dir: dir.as_fd(), name: &name, path, stat })
    }

    /// Walks a match: itself first, then, for a directory, everything in it that is not ignored,
    /// sorted. `excludes` are further patterns, relative to the directory that is copied; of a file
    /// that is copied by itself they see the name.
    pub(crate) fn walk(
        &self,
        from: &Match,
        excludes: Option<&Ignore>,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<()>,
    ) -> Result<()> {
        let (parent, name) = match from.path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&from.path[..at], &from.path[at + 1..]),
            None => (&b""[..], &from.path[..]),
        };
        let dir = self
            .open(parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .io_context(|| format!("cannot open `{}`", String::from_utf8_lossy(parent)))?;
        let name = CString::new(if name.is_empty() { b"." } else { name })
            .map_err(|_| Error::invalid("a name has a zero byte"))?;
        let stat = stat(dir.as_fd(), &name)?;
        let mut walk = Walk { tree: self, excludes, visit, base: &from.path, pending: Vec::new() };
        let entry = Entry { dir: dir.as_fd(), name: &name, path: b"", stat };
        if entry.kind() != FileType::Directory {
            let name = String::from_utf8_lossy(name.as_bytes());
            if excludes.is_some_and(|excludes| excludes.ignores(&name)) {
                return Ok(());
            }
            return (walk.visit)(&entry);
        }
        (walk.visit)(&entry)?;
        let below = open_dir(dir.as_fd(), &name)?;
        walk.directory(below.as_fd(), b"", &Matches::default(), &Matches::default(), 0)
    }

    /// A digest of everything that copying these matches brings: names, kinds, modes, owners, links,
    /// content; not times.
    pub(crate) fn digest(
        &self,
        matches: &[Match],
        excludes: Option<&Ignore>,
        index: &Index,
    ) -> Result<Digest> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for found in matches {
            hasher.update(&(found.name().len() as u64).to_le_bytes());
            hasher.update(if found.is_directory { b"" } else { found.name() });
            self.walk(found, excludes, &mut |entry| {
                let owner = if self.foreign { (0, 0) } else { (entry.stat.st_uid, entry.stat.st_gid) };
                hasher.update(&(entry.path.len() as u64).to_le_bytes());
                hasher.update(entry.path);
                for number in [entry.stat.st_mode, owner.0, owner.1] {
                    hasher.update(&number.to_le_bytes());
                }
                match entry.kind() {
                    FileType::RegularFile => {
                        hasher.update(&(entry.stat.st_size as u64).to_le_bytes());
                        let check = &|| self.check();
                        hasher.update(&index.content(entry.dir, entry.name, &entry.stat, check)?);
                    }
                    FileType::Symlink => {
                        let target = rustix::fs::readlinkat(entry.dir, entry.name, Vec::new())
                            .io_context(|| format!("readlink({})", entry.name.to_string_lossy()))?;
                        hasher.update(target.as_bytes());
                    }
                    _ => hasher.update(&entry.stat.st_rdev.to_le_bytes()),
                }
                Ok(())
            })?;
        }
        Ok(hasher.finish())
    }
}

struct Walk<'w> {
    tree: &'w Tree<'w>,
    excludes: Option<&'w Ignore>,
    visit: &'w mut dyn FnMut(&Entry<'_>) -> Result<()>,
    base: &'w [u8],
    /// Ignored directories that show as soon as something in them does.
    pending: Vec<(OwnedFd, CString, Vec<u8>, Stat)>,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        ignored: &Matches,
        excluded: &Matches,
        depth: usize,
    ) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::invalid(format!("directories lie more than {DEPTH} deep in each other")));
        }
        for name in sorted(dir)? {
            self.tree.check()?;
            let below = join(path, name.as_bytes());
            let full = join(self.base, &below);
            let text = String::from_utf8_lossy(&full);
            let (mut hidden, mut matches) = (false, Matches::default());
            let mut opens = true;
            if let Some(ignore) = self.tree.ignore {
                (hidden, matches) = ignore.ignores_entry(&text, ignored);
                opens &= !hidden || !ignore.skips_directory(&text);
            }
            let mut excluded_below = Matches::default();
            if let Some(excludes) = self.excludes {
                let text = String::from_utf8_lossy(&below);
                let (gone, matches) = excludes.ignores_entry(&text, excluded);
                excluded_below = matches;
                hidden |= gone;
                opens &= !gone || !excludes.skips_directory(&text);
            }
            let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Somebody works in there.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno).io_context(|| format!("cannot look at `{text}`")),
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if hidden {
                if is_directory && opens {
                    let own = dir.try_clone_to_owned().io_context(|| "dup()".into())?;
                    self.pending.push((own, name.clone(), below.clone(), stat));
                    let before = self.pending.len();
                    let open = open_dir(dir, &name)?;
                    self.directory(open.as_fd(), &below, &matches, &excluded_below, depth + 1)?;
                    if self.pending.len() == before {
                        self.pending.pop();
                    }
                }
                continue;
            }
            for (dir, name, path, stat) in std::mem::take(&mut self.pending) {
                (self.visit)(&Entry { dir: dir.as_fd(), name: &name, path: &path, stat })?;
            }
            (self.visit)(&Entry { dir, name: &name, path: &below, stat })?;
            if is_directory {
                let open = open_dir(dir, &name)?;
                self.directory(open.as_fd(), &below, &matches, &excluded_below, depth + 1)?;
            }
        }
        Ok(())
    }
}

fn stat(dir: BorrowedFd<'_>, name: &CString) -> Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .io_context(|| format!("cannot look at `{}`", name.to_string_lossy()))
}

fn open_dir(dir: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => Err(Error::new(
            Kind::Denied,
            format!("cannot read directory `{}`: permission denied", name.to_string_lossy()),
        )
        .with_hint("keep it out with a line in .dockerignore")),
        other => other.io_context(|| format!("cannot open `{}`", name.to_string_lossy())),
    }
}
