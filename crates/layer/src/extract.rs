//! A plain tar into a directory that is in use.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_sys::{CallError, ErrnoContext};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::archive::{Entry, EntryKind, NoTap, Reader, Shown, SourceOptions};
use crate::make::{self, Created, Maker, Owner};
use crate::options::Skipped;
use crate::path;
use crate::remove::remove_tree;
use crate::xattr::Place;

/// Who owns what is extracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExtractOwner {
    /// The users and groups that the tar names (`docker cp -a`).
    #[default]
    Keep,
    /// This user and group, by number.
    Fixed(u32, u32),
    /// The one that extracts.
    Caller,
}

/// How a tar is extracted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractOptions {
    /// Whether a directory may replace something else and something else a directory; otherwise
    /// that is a [`Kind::Conflict`].
    pub overwrite_dir_non_dir: bool,
    /// Who owns what is extracted.
    pub owner: ExtractOwner,
    /// Whether nothing that is extracted may give rights that its maker need not have had: no
    /// device nodes, no set-user-ID and set-group-ID bits, no extended attributes but `user.*`. For
    /// what a container wrote, on its way to the host.
    pub plain: bool,
    /// The most bytes that the tar may have; an error beyond.
    pub size_limit: Option<u64>,
    /// Whether the tar may end behind its last file's content, without padding and final blocks.
    pub missing_end_ok: bool,
}

/// A tar that was extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Length of the tar in bytes.
    pub tar_size: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// Sum of the lengths of all files in bytes.
    pub content_size: u64,
    /// What was left out.
    pub skipped: Skipped,
}

/// Directories whose times are set at the end; those beyond get theirs at once.
const LATER_LIMIT: usize = 1 << 18;

/// Extracts `tar` (decompressed) into the directory `dest`, merging directories and replacing
/// everything else. No name has a meaning as a whiteout. Names and the parents of hardlink targets
/// may pass symbolic links that stay inside `dest`; one that leads out is refused with
/// [`Kind::Denied`], whatever a container does meanwhile. Missing parents are made (0755). `dest`
/// itself stays as it is, whatever an entry `./` says of it, as Docker has it.
pub fn extract(tar: impl Read, dest: BorrowedFd<'_>, options: &ExtractOptions) -> Result<Extracted> {
    extract_as(tar, dest, options, &|uid, gid| (uid, gid))
}

/// [`extract`], with other owners of the files: `owners` says which ids stand for the tar's, or for
/// those that the options name.
pub fn extract_as(
    tar: impl Read,
    dest: BorrowedFd<'_>,
    options: &ExtractOptions,
    owners: &dyn Fn(u32, u32) -> (u32, u32),
) -> Result<Extracted> {
    let mut options = *options;
    if let ExtractOwner::Fixed(uid, gid) = &mut options.owner {
        (*uid, *gid) = owners(*uid, *gid);
    }
    let options = &options;
    let owner = match options.owner {
        ExtractOwner::Keep => Owner::Entry,
        ExtractOwner::Fixed(uid, gid) => Owner::Fixed(uid, gid),
        ExtractOwner::Caller => Owner::Maker,
    };
    let source = SourceOptions {
        limit: options.size_limit,
        hash: false,
        missing_end_ok: options.missing_end_ok,
        missing_padding_ok: options.missing_end_ok,
    };
    let mut extraction = Extraction {
        reader: Reader::new(tar, source, NoTap),
        dest,
        options,
        maker: Maker::new(owner, true),
        last: None,
        later: Vec::new(),
        content_size: 0,
    };
    let mut entry = Entry::default();
    let mut name = Vec::new();
    let mut entries = 0;
    while extraction.reader.next(&mut entry)? {
        entries += 1;
        (entry.uid, entry.gid) = owners(entry.uid, entry.gid);
        if options.plain && !make_plain(&mut entry, &mut extraction.maker.skipped) {
            continue;
        }
        path::normalise(&entry.path, &mut name)
            .and_then(|()| extraction.entry(&name, &entry))
            .within(|| format!("cannot extract `{}`", entry.name()))?;
    }
    // Deepest first: making something in a directory changes its times.
    for (path, times) in std::mem::take(&mut extraction.later).iter().rev() {
        extraction.set_directory_times(path, times)?;
    }
    let Extraction { reader, maker, content_size, .. } = extraction;
    let (_, tar_size, NoTap) = reader.finish();
    Ok(Extracted { tar_size, entries, content_size, skipped: maker.skipped })
}

/// Takes from an entry what gives rights; false for one that is nothing else.
fn make_plain(entry: &mut Entry, skipped: &mut Skipped) -> bool {
    const SET_IDS: u32 = 0o6000;
    if matches!(entry.kind, EntryKind::Char | EntryKind::Block) {
        skipped.devices += 1;
        return false;
    }
    let capable = entry.xattrs.iter().any(|attribute| attribute.name.starts_with(b"security.capability"));
    let sets_ids = entry.mode & SET_IDS != 0 && entry.kind != EntryKind::Directory;
    skipped.rights += u64::from(capable || sets_ids);
    entry.mode &= !SET_IDS;
    entry.xattrs.retain(|attribute| attribute.name.starts_with(b"user."));
    true
}

struct Extraction<'a, R> {
    reader: Reader<R, NoTap>,
    dest: BorrowedFd<'a>,
    options: &'a ExtractOptions,
    maker: Maker,
    /// The parent of the last entry.
    last: Option<(Vec<u8>, OwnedFd)>,
    later: Vec<(Vec<u8>, Timestamps)>,
    content_size: u64,
}

impl<R: Read> Extraction<'_, R> {
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if entry.kind == EntryKind::Nothing {
            return Ok(());
        }
        if path.is_empty() {
            if entry.kind != EntryKind::Directory {
                return Err(Error::new(Kind::Corrupt, "it has no name"));
            }
            return Ok(());
        }
        let (parent, name) = path::split(path);
        let dir = match self.last.take() {
            Some((last, fd)) if last == parent => fd,
            _ => self.parent(parent)?,
        };
        let result = match entry.kind {
            EntryKind::Directory => self.make_directory(dir.as_fd(), path, name, entry),
            EntryKind::Hardlink => self.hardlink(dir.as_fd(), name, entry),
            EntryKind::Char if (entry.major, entry.minor) == (0, 0) => {
                Err(Error::new(Kind::Corrupt, "a character device 0:0 is an overlay whiteout"))
            }
            _ => self.node(dir.as_fd(), name, entry),
        };
        self.last = Some((parent.to_vec(), dir));
        result
    }

    /// Opens a directory below `dest`, and makes what is missing of it.
    fn parent(&self, path: &[u8]) -> Result<OwnedFd> {
        match self.open(path) {
            Err(call) if call.errno() == Errno::NOENT => {}
            Err(call) if call.errno() == Errno::NOTDIR => {
                return Err(Error::new(Kind::Conflict, "a part of its path is not a directory").because(call));
            }
            other => return other.map_err(outside),
        }
        let mut end = 0;
        let mut dir = self.open(b"").map_err(outside)?;
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            end = path[start..].iter().position(|b| *b == b'/').map_or(path.len(), |n| start + n);
            let name = &path[start..end];
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    if let ExtractOwner::Fixed(uid, gid) = self.options.owner {
                        self.maker.own_entry(dir.as_fd(), name, uid, gid)?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(CallError::new(format!("mkdirat({})", Shown(name)), errno))),
            }
            dir = self.open(&path[..end]).map_err(outside)?;
        }
        Ok(dir)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, CallError> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..64 {
            match rustix::fs::openat2(self.dest, path, flags, Mode::empty(), resolve) {
                // Something was renamed at the same time.
                Err(Errno::AGAIN) => {}
                other => return other.call(|| format!("openat2({}, BENEATH)", Shown(path))),
            }
        }
        Err(CallError::new(format!("openat2({}, BENEATH)", Shown(path)), Errno::AGAIN))
    }

    fn make_directory(&mut self, dir: BorrowedFd<'_>, path: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let make = || {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(entry.mode & 0o777))
                .call(|| format!("mkdirat({})", Shown(name)))
        };
        let mut existed = false;
        match make() {
            Err(call) if call.errno() == Errno::EXIST => {
                let stat = make::stat(dir, name)?;
                if stat.is_some_and(|stat| make::file_type(&stat) == FileType::Directory) {
                    existed = true;
                } else {
                    self.make_room(dir, name, true)?;
                    make().map_err(failed)?;
                }
            }
            other => other.map_err(failed)?,
        }
        self.directory(dir, path, name, entry, existed)
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
        existed: bool,
    ) -> Result<()> {
        if existed {
            self.maker.own_again(dir, name, entry.uid, entry.gid)?;
        } else {
            self.maker.own_entry(dir, name, entry.uid, entry.gid)?;
        }
        self.maker.set_xattrs(Place::Entry(dir, name), entry)?;
        if existed || self.maker.needs_chmod(entry.mode) {
            // Through a descriptor: the name may be a link by now.
            let fd = open_entry(dir, name)?;
            make::chmod_entry(fd.as_fd(), b".", entry.mode)?;
        }
        let times = make::times(entry);
        if self.later.len() < LATER_LIMIT {
            self.later.push((path.to_vec(), times));
            return Ok(());
        }
        make::set_times(dir, name, &times)
    }

    fn set_directory_times(&self, path: &[u8], times: &Timestamps) -> Result<()> {
        match self.open(path) {
            Ok(fd) => make::set_times(fd.as_fd(), b".", times),
            // A later entry or the container has put something else there.
            Err(call) if matches!(call.errno(), Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => {
                Ok(())
            }
            Err(call) => Err(call.into()),
        }
    }

    fn node(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
        let created = match self.maker.create(dir, name, entry) {
            Err(call) if call.errno() == Errno::EXIST => {
                self.make_room(dir, name, false)?;
                self.maker.create(dir, name, entry)
            }
            other => other,
        };
        match created.map_err(failed)? {
            Created::Refused => Ok(()),
            Created::Node => self.maker.finish_node(dir, name, entry),
            Created::File(file) => {
                self.content_size = self.content_size.saturating_add(entry.real_size);
                make::write_payload(&mut self.reader, file.as_fd(), entry)?;
                self.maker.finish_file(file.as_fd(), entry)
            }
        }
    }

    fn hardlink(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
        let mut target = Vec::new();
        path::normalise(&entry.link, &mut target)?;
        let (target_parent, target_name) = path::split(&target);
        let shown = || format!("cannot make a hardlink to `{}`", Shown(&entry.link));
        let from = self.open(target_parent).map_err(outside).within(shown)?;
        let to_stat = make::stat(dir, name)?;
        let target = make::stat(&from, target_name)?;
        if target.is_none() && self.options.plain && self.maker.skipped.devices > 0 {
            // A further name of a device.
            self.maker.skipped.devices += 1;
            return Ok(());
        }
        let from_stat =
            target.ok_or_else(|| Error::new(Kind::NotFound, "the target does not exist")).within(shown)?;
        if let Some(to) = to_stat {
            if (to.st_dev, to.st_ino) == (from_stat.st_dev, from_stat.st_ino) {
                return Ok(());
            }
            self.make_room(dir, name, false)?;
        }
        rustix::fs::linkat(&from, target_name, dir, name, AtFlags::empty())
            .call(|| format!("linkat({}, {})", Shown(target_name), Shown(name)))
            .map_err(failed)
    }

    /// Removes what stands in the way.
    fn make_room(&self, dir: BorrowedFd<'_>, name: &[u8], for_directory: bool) -> Result<()> {
        let Some(stat) = make::stat(dir, name)? else { return Ok(()) };
        let is_directory = make::file_type(&stat) == FileType::Directory;
        if is_directory != for_directory && !self.options.overwrite_dir_non_dir {
            let reason = if is_directory {
                "there is a directory, and the new one is not"
            } else {
                "there is something that is not a directory, and the new one is"
            };
            return Err(Error::new(Kind::Conflict, reason));
        }
        remove_tree(dir, name, &mut |_| Ok(()))
    }
}

fn open_entry(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty()).call(|| format!("openat({})", Shown(name)))?)
}

fn failed(call: CallError) -> Error {
    make::out_of_space(&call).unwrap_or_else(|| call.into())
}

fn outside(call: CallError) -> Error {
    match call.errno() {
        Errno::XDEV => {
            Error::new(Kind::Denied, "a symbolic link in its path leads out of the destination").because(call)
        }
        _ => failed(call),
    }
}
