//! Unpacking one layer, alone, into an empty directory.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::DiffId;
use robot_env_sys::{CallError, ErrnoContext};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::archive::{Entry, EntryKind, Reader, Shown, SourceOptions};
use crate::directories::{Directories, Finish, Id};
use crate::make::{self, Created, Maker, Owner};
use crate::options::{Applied, ApplyOptions, Ownership};
use crate::path;
use crate::recipe::RecipeWriter;
use crate::remove::{Removed, remove_tree};
use crate::share::Share;
use crate::xattr::Place;

/// Unpacks the layer `tar` (decompressed) into the empty directory `root`, with overlay's
/// conventions for whiteouts, in one pass, and writes the recipe from which [`crate::assemble`]
/// makes the same tar again.
///
/// What the layer's names can do is bounded: a parent is never a symbolic link; a hardlink's target
/// lies in this layer; what exists is replaced and never written through; overlay's attributes are
/// dropped, character devices 0:0 are refused and no `.wh.` name stays behind. A whiteout applies
/// to the lower layers only, wherever in the tar it stands; of entries with one name the last
/// counts. Files are synced by nobody here. Memory is below 2 MiB, and some 300 bytes a directory,
/// which are taken from a [`Share`]; a hostile layer can take 10 MiB and that share.
///
/// Fails with [`Kind::Corrupt`] for a damaged, truncated or hostile tar, with [`Kind::NoSpace`]
/// when space or inodes run out; `root` then holds a part of the layer.
pub fn apply(
    tar: impl Read,
    root: BorrowedFd<'_>,
    recipe: &mut dyn Write,
    options: &ApplyOptions,
) -> Result<Applied> {
    apply_within(tar, root, recipe, options, &Share::new())
}

/// [`apply`] with the share of a layer whose decompression takes from it, too.
pub fn apply_within(
    tar: impl Read,
    root: BorrowedFd<'_>,
    recipe: &mut dyn Write,
    options: &ApplyOptions,
    share: &Share,
) -> Result<Applied> {
    let stat = rustix::fs::fstat(root).call(|| "fstat".to_owned())?;
    if stat.st_mode & 0o2000 != 0 {
        // Otherwise all that is made in it would get its group.
        make::chmod_entry(root, b".", stat.st_mode & 0o5777)?;
    }
    let owner = match options.ownership {
        Ownership::Keep => Owner::Entry,
        Ownership::SingleId => Owner::Maker,
    };
    let source = SourceOptions {
        limit: options.size_limit,
        hash: options.hash,
        missing_end_ok: options.missing_end_ok,
        missing_padding_ok: false,
    };
    let mut layer = Layer {
        reader: Reader::new(tar, source, RecipeWriter::new(recipe)?),
        directories: Directories::new(root, options.xattr_namespace.opaque(), share)?,
        maker: Maker::new(owner, false),
        hardlinks: Hardlinks::default(),
        content_size: 0,
        path: Vec::new(),
        target: Vec::new(),
    };
    let mut entry = Entry::default();
    let mut entries = 0;
    while layer.reader.next(&mut entry)? {
        entries += 1;
        layer.entry(&entry).within(|| format!("cannot unpack `{}`", entry.name()))?;
    }
    let implied = layer
        .directories
        .finish()
        .within(|| "cannot set the attributes of the layer's directories".to_owned())?;
    let (digest, tar_size, recipe) = layer.reader.finish();
    recipe.finish()?;
    Ok(Applied {
        diff_id: digest.map(DiffId),
        tar_size,
        content_size: layer.content_size,
        entries,
        implied,
        skipped: layer.maker.skipped,
    })
}

struct Layer<'a, R> {
    reader: Reader<R, RecipeWriter<'a>>,
    directories: Directories<'a>,
    maker: Maker,
    hardlinks: Hardlinks,
    content_size: u64,
    /// Normalised name of the entry, and of its target if it is a hardlink.
    path: Vec<u8>,
    target: Vec<u8>,
}

impl<R: Read> Layer<'_, R> {
    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let mut path = std::mem::take(&mut self.path);
        let result = path::normalise(&entry.path, &mut path).and_then(|()| self.named_entry(&path, entry));
        self.path = path;
        result
    }

    fn named_entry(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if entry.kind == EntryKind::Nothing {
            return Ok(());
        }
        let (parent, name) = path::split(path);
        if is_reserved(parent) {
            self.maker.skipped.names += 1;
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent, hidden);
        }
        if path.is_empty() {
            return match entry.kind {
                EntryKind::Directory => {
                    self.directory(Directories::ROOT, Directories::ROOT, b".", entry, false)
                }
                _ => Err(Error::new(Kind::Corrupt, "the root must be a directory")),
            };
        }
        let parent = self.directories.ensure(parent)?;
        match entry.kind {
            EntryKind::Directory => {
                let (id, fresh) = match self.directories.find(path) {
                    Some(id) => (id, false),
                    None => (self.make_directory(parent, path, entry)?, true),
                };
                self.directory(parent, id, name, entry, fresh)
            }
            EntryKind::Hardlink => self.hardlink(parent, path, entry),
            EntryKind::Char if (entry.major, entry.minor) == (0, 0) => Err(Error::new(
                Kind::Corrupt,
                "a character device 0:0 is an overlay whiteout, which no layer may contain",
            )),
            _ => self.node(parent, path, entry),
        }
    }

    fn make_directory(&mut self, parent: Id, path: &[u8], entry: &Entry) -> Result<Id> {
        match self.directories.make(parent, path, entry.mode) {
            Ok(id) => Ok(id),
            Err(call) if call.errno() == Errno::EXIST => {
                let dir = self.directories.fd(parent)?;
                let stat = make::stat(&dir, path::split(path).1)?;
                if stat.is_some_and(|stat| make::is_whiteout(&stat)) {
                    return self.directories.replace_whiteout(parent, path, entry.mode);
                }
                self.clear(parent, path)?;
                Ok(self.directories.make(parent, path, entry.mode)?)
            }
            Err(call) => Err(failed(call)),
        }
    }

    /// Owner and xattrs of a directory at once, mode and times at the end. A `fresh` one was just
    /// made with the entry's mode.
    fn directory(&mut self, parent: Id, id: Id, name: &[u8], entry: &Entry, fresh: bool) -> Result<()> {
        let dir = self.directories.fd(parent)?;
        if fresh {
            self.maker.own_entry(dir.as_fd(), name, entry.uid, entry.gid)?;
        } else {
            self.maker.own_again(dir.as_fd(), name, entry.uid, entry.gid)?;
        }
        if !entry.xattrs.is_empty() {
            let fd = self.directories.fd(id)?;
            self.maker.set_xattrs(Place::Directory(fd.as_fd()), entry)?;
        }
        let mode = (!fresh || self.maker.needs_chmod(entry.mode)).then_some(entry.mode);
        self.directories.finish_with(id, Finish { times: make::times(entry), mode });
        Ok(())
    }

    fn node(&mut self, parent: Id, path: &[u8], entry: &Entry) -> Result<()> {
        let dir = self.directories.fd(parent)?;
        let name = path::split(path).1;
        let created = match self.maker.create(dir.as_fd(), name, entry) {
            Err(call) if call.errno() == Errno::EXIST => {
                self.clear(parent, path)?;
                self.maker.create(dir.as_fd(), name, entry)
            }
            other => other,
        };
        match created.map_err(failed)? {
            Created::Refused => Ok(()),
            Created::Node => self.maker.finish_node(dir.as_fd(), name, entry),
            Created::File(file) => {
                self.content_size = self.content_size.saturating_add(entry.real_size);
                let whole = [crate::archive::Segment { offset: 0, length: entry.size }];
                for segment in entry.sparse.as_deref().unwrap_or(&whole) {
                    if segment.length > 0 {
                        self.reader.tap.payload(path, segment.offset, segment.length)?;
                    }
                }
                make::write_payload(&mut self.reader, file.as_fd(), entry)?;
                self.maker.finish_file(file.as_fd(), entry)
            }
        }
    }

    fn hardlink(&mut self, parent: Id, path: &[u8], entry: &Entry) -> Result<()> {
        let mut target = std::mem::take(&mut self.target);
        let result = path::normalise(&entry.link, &mut target)
            .and_then(|()| self.hardlink_to(&target, parent, path))
            .within(|| format!("cannot make a hardlink to `{}`", Shown(&entry.link)));
        self.target = target;
        result
    }

    fn hardlink_to(&mut self, target: &[u8], parent: Id, path: &[u8]) -> Result<()> {
        if target == path {
            return Ok(());
        }
        let missing = || Error::new(Kind::Corrupt, "the target is not a file of this layer");
        let (target_parent, target_name) = path::split(target);
        let target_dir = self.directories.find(target_parent).ok_or_else(missing)?;
        let from = self.directories.fd(target_dir)?;
        match make::stat(&from, target_name)? {
            Some(stat) if make::file_type(&stat) != FileType::Directory && !make::is_whiteout(&stat) => {}
            _ => return Err(missing()),
        }
        let to = self.directories.fd(parent)?;
        let name = path::split(path).1;
        let link = || {
            rustix::fs::linkat(&from, target_name, &to, name, AtFlags::empty())
                .call(|| format!("linkat({}, {})", Shown(target_name), Shown(name)))
        };
        match link() {
            Err(call) if call.errno() == Errno::EXIST => {
                self.clear(parent, path)?;
                link().map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        self.hardlinks.insert(path);
        Ok(())
    }

    /// `.wh.<hidden>` in `parent`.
    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> Result<()> {
        if hidden == b".wh..opq" {
            let id = self.directories.ensure(parent)?;
            return self.directories.make_opaque(id);
        }
        if hidden.starts_with(b".wh.") {
            // aufs keeps its own things under such names.
            self.maker.skipped.names += 1;
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::new(Kind::Corrupt, "the whiteout names nothing"));
        }
        let path = path::join(parent, hidden);
        if let Some(id) = self.directories.find(&path) {
            return self.directories.cover_whiteout(id);
        }
        let id = self.directories.ensure(parent)?;
        let dir = self.directories.fd(id)?;
        match rustix::fs::mknodat(&dir, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            // The layer has this name itself.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed(CallError::new(format!("mknodat({}, 0:0)", Shown(hidden)), errno))),
        }
    }

    /// Removes what stands in the way of an entry. What the recipe refers to is kept in it.
    fn clear(&mut self, parent: Id, path: &[u8]) -> Result<()> {
        let dir = self.directories.fd(parent)?;
        let name = path::split(path).1;
        let is_directory = self.directories.find(path).is_some();
        if is_directory {
            self.directories.forget(path);
        }
        let Layer { reader, directories, hardlinks, .. } = self;
        let root = directories.root();
        remove_tree(dir.as_fd(), name, &mut |removed: Removed<'_>| {
            let below = path::join(path, removed.below);
            let path = if removed.below.is_empty() { path } else { &below };
            if removed.stat.st_size == 0 || make::file_type(removed.stat) != FileType::RegularFile {
                return Ok(());
            }
            if hardlinks.remove(path) {
                return Ok(());
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(removed.dir, removed.name, flags, Mode::empty())
                .call(|| format!("openat({})", Shown(removed.name)))?;
            reader.tap.keep(root, path, &File::from(file))
        })
        .within(|| "cannot replace an earlier entry of the same name".to_owned())
    }
}

fn failed(call: CallError) -> Error {
    make::out_of_space(&call).unwrap_or_else(|| call.into())
}

/// Whether a path goes through a name that is reserved for whiteouts.
fn is_reserved(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').any(|component| component.starts_with(b".wh."))
}

/// The paths that were made as hardlinks: the recipe refers to their content by another name.
/// Kept as keyed hashes.
#[derive(Default)]
struct Hardlinks {
    keys: RandomState,
    paths: HashSet<u64>,
}

impl Hardlinks {
    /// The most that are remembered; the content of one more is kept needlessly if it is replaced.
    const LIMIT: usize = 1 << 17;

    fn insert(&mut self, path: &[u8]) {
        if self.paths.len() < Self::LIMIT {
            self.paths.insert(self.keys.hash_one(path));
        }
    }

    fn remove(&mut self, path: &[u8]) -> bool {
        !self.paths.is_empty() && self.paths.remove(&self.keys.hash_one(path))
    }
}
