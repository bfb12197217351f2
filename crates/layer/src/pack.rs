//! Writing entries of a tree as a tar stream.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::Digest;
use robot_env_sys::ErrnoContext;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::archive::{EntryKind, EntryWriter, Meta, Segment, Shown, Tap, Time, Xattr, io_error, padding};
use crate::hashing::Hashing;
use crate::make;
use crate::options::Skipped;
use crate::recipe::{RecipeWriter, next_extent};
use crate::xattr::{self, Place};

const BUFFER: usize = 256 * 1024;
/// A file is written as sparse when its holes have at least this many bytes,
const SPARSE_GAIN: u64 = 64 * 1024;
/// and at most this many pieces of data.
const SPARSE_PIECES: usize = 10_000;

/// What went out.
pub(crate) struct Packed {
    pub(crate) digest: Option<Digest>,
    pub(crate) size: u64,
    pub(crate) entries: u64,
    pub(crate) content_size: u64,
    pub(crate) skipped: Skipped,
}

/// Collects, hashes and writes a tar.
pub(crate) struct Packer<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    hashing: Option<Hashing>,
    recipe: Option<RecipeWriter<'a>>,
    headers: EntryWriter,
    /// First name in the tar of files with several links, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, hash: bool, recipe: Option<RecipeWriter<'a>>) -> Self {
        Packer {
            out,
            buffer: Vec::with_capacity(BUFFER),
            hashing: hash.then(Hashing::here),
            recipe,
            headers: EntryWriter::default(),
            links: HashMap::new(),
            packed: Packed {
                digest: None,
                size: 0,
                entries: 0,
                content_size: 0,
                skipped: Skipped::default(),
            },
        }
    }

    /// Hashes in a thread of its own; called before anything is added.
    pub(crate) fn hash_beside(&mut self) {
        self.hashing = Some(Hashing::beside());
    }

    /// Adds the entry `name` of `dir` (not an `O_PATH` descriptor's concern) under `tar_path`;
    /// `tree_path` is where a recipe finds it. What a tar cannot hold is counted and left out.
    pub(crate) fn add(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        tar_path: &[u8],
        tree_path: &[u8],
    ) -> Result<()> {
        let kind = match make::file_type(stat) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::Char,
            FileType::BlockDevice => EntryKind::Block,
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket | FileType::Unknown => {
                self.packed.skipped.names += 1;
                return Ok(());
            }
        };
        let meta = meta_of(kind, stat, tar_path);
        let id = (stat.st_dev, stat.st_ino);
        let has_links = kind != EntryKind::Directory && stat.st_nlink > 1;
        if has_links && let Some(first) = self.links.get(&id) {
            let headers = self.headers.headers(&Meta { kind: EntryKind::Hardlink, link: first, ..meta }).0;
            self.packed.entries += 1;
            return emit(&mut self.buffer, &mut self.recipe, headers);
        }
        match kind {
            EntryKind::File => self.add_file(dir, name, &meta, tree_path),
            EntryKind::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())
                    .call(|| format!("readlinkat({})", Shown(name)))?;
                let xattrs = xattr::all(Place::Entry(dir, name))?;
                self.header(&Meta { link: target.to_bytes(), xattrs: &xattrs, ..meta })
            }
            _ => {
                let xattrs = xattr::all(Place::Entry(dir, name))?;
                self.header(&Meta { xattrs: &xattrs, ..meta })
            }
        }?;
        if has_links {
            self.links.insert(id, tar_path.to_vec());
        }
        Ok(())
    }

    /// Adds an empty file that only has a name: a whiteout.
    pub(crate) fn add_mark(&mut self, tar_path: &[u8]) -> Result<()> {
        self.header(&Meta {
            kind: EntryKind::File,
            path: tar_path,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            major: 0,
            minor: 0,
            xattrs: &[],
            size: 0,
            sparse: None,
        })
    }

    pub(crate) fn skip_name(&mut self) {
        self.packed.skipped.names += 1;
    }

    /// The end mark; then everything is out.
    pub(crate) fn finish(mut self) -> Result<Packed> {
        emit(&mut self.buffer, &mut self.recipe, &[0; 1024])?;
        self.drain()?;
        self.out.flush().map_err(write_failed)?;
        if let Some(recipe) = self.recipe.take() {
            recipe.finish()?;
        }
        self.packed.digest = self.hashing.take().and_then(Hashing::finish);
        Ok(self.packed)
    }

    fn header(&mut self, meta: &Meta<'_>) -> Result<()> {
        self.packed.entries += 1;
        let headers = self.headers.headers(meta).0;
        emit(&mut self.buffer, &mut self.recipe, headers)?;
        self.drain_if_full()
    }

    fn add_file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        meta: &Meta<'_>,
        tree_path: &[u8],
    ) -> Result<()> {
        let open = |flags| {
            rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("openat({})", Shown(name)))
        };
        // A tree of which a layer is made stands still. In one that lives a device may have come in the
        // file's place, and to open one may do something: it is looked at first.
        let found = if self.hashing.is_none() {
            open(OFlags::PATH)?
        } else {
            open(OFlags::RDONLY | OFlags::NONBLOCK)?
        };
        let now = rustix::fs::fstat(&found).call(|| format!("fstat({})", Shown(name)))?;
        if make::file_type(&now) != FileType::RegularFile {
            return Err(Error::new(
                Kind::Conflict,
                format!("`{}` was replaced while it was read", Shown(tree_path)),
            ));
        }
        let file = if self.hashing.is_none() {
            let by_number = format!("/proc/self/fd/{}", found.as_raw_fd());
            rustix::fs::open(by_number, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("open({})", Shown(name)))?
        } else {
            found
        };
        let size = now.st_size.unsigned_abs();
        let xattrs = xattr::all(Place::Open(file.as_fd()))?;
        let segments = sparse_segments(file.as_fd(), size, &now)?;
        let meta = Meta { size, xattrs: &xattrs, sparse: segments.as_deref(), ..meta.clone() };
        let (headers, in_archive) = self.headers.headers(&meta);
        emit(&mut self.buffer, &mut self.recipe, headers)?;
        let whole = [Segment { offset: 0, length: size }];
        for segment in segments.as_deref().unwrap_or(&whole) {
            self.content(file.as_fd(), *segment, tree_path)?;
        }
        self.packed.entries += 1;
        self.packed.content_size = self.packed.content_size.saturating_add(size);
        emit(&mut self.buffer, &mut self.recipe, &[0; 512][..padding(in_archive) as usize])?;
        self.drain_if_full()
    }

    fn content(&mut self, file: BorrowedFd<'_>, segment: Segment, tree_path: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < segment.length {
            self.drain_if_full()?;
            let start = self.buffer.len();
            let want = usize::try_from(segment.length - done).unwrap_or(usize::MAX).min(BUFFER - start);
            self.buffer.resize(start + want, 0);
            let got = match rustix::io::pread(file, &mut self.buffer[start..], segment.offset + done) {
                Err(Errno::INTR) => {
                    self.buffer.truncate(start);
                    continue;
                }
                other => other.call(|| format!("pread({})", Shown(tree_path)))?,
            };
            self.buffer.truncate(start + got);
            if got == 0 {
                break;
            }
            done += got as u64;
        }
        if let Some(recipe) = &mut self.recipe
            && done > 0
        {
            recipe.payload(tree_path, segment.offset, done)?;
        }
        // A file of a running container that was cut meanwhile: the header has gone out, so its
        // end is zeros.
        while done < segment.length {
            let zeros = [0; 4096];
            let n = usize::try_from(segment.length - done).unwrap_or(usize::MAX).min(zeros.len());
            emit(&mut self.buffer, &mut self.recipe, &zeros[..n])?;
            self.drain()?;
            done += n as u64;
        }
        Ok(())
    }

    fn drain_if_full(&mut self) -> Result<()> {
        if self.buffer.len() >= BUFFER { self.drain() } else { Ok(()) }
    }

    fn drain(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer).map_err(write_failed)?;
        self.packed.size += self.buffer.len() as u64;
        match &mut self.hashing {
            Some(hashing) => hashing.take(&mut self.buffer),
            None => self.buffer.clear(),
        }
        if self.buffer.capacity() > 2 * BUFFER {
            self.buffer = Vec::with_capacity(BUFFER);
        }
        Ok(())
    }
}

/// Bytes that are in no file. The buffer may grow past its size, until it is drained.
fn emit(buffer: &mut Vec<u8>, recipe: &mut Option<RecipeWriter<'_>>, bytes: &[u8]) -> Result<()> {
    buffer.extend_from_slice(bytes);
    match recipe {
        Some(recipe) => recipe.verbatim(bytes),
        None => Ok(()),
    }
}

fn write_failed(error: std::io::Error) -> Error {
    io_error(error, "cannot write the tar archive")
}

fn meta_of<'a>(kind: EntryKind, stat: &Stat, path: &'a [u8]) -> Meta<'a> {
    let xattrs: &[Xattr] = &[];
    Meta {
        kind,
        path,
        link: b"",
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
        xattrs,
        size: 0,
        sparse: None,
    }
}

#[allow(clippy::unnecessary_cast)] // The fields' types differ between architectures.
pub(crate) fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 }
}

#[allow(clippy::unnecessary_cast)]
pub(crate) fn atime(stat: &Stat) -> Time {
    Time { seconds: stat.st_atime as i64, nanoseconds: stat.st_atime_nsec as u32 }
}

/// The data of a file whose holes are worth it, with GNU tar's empty segment at the end for a
/// last hole.
fn sparse_segments(file: BorrowedFd<'_>, size: u64, stat: &Stat) -> Result<Option<Vec<Segment>>> {
    let allocated = stat.st_blocks.unsigned_abs().saturating_mul(512);
    if allocated.saturating_add(SPARSE_GAIN) > size {
        return Ok(None);
    }
    let mut segments = Vec::new();
    let mut data = 0;
    let mut position = 0;
    while position < size
        && let Some((start, end)) = next_extent(file, position)?
    {
        let end = end.min(size);
        if start >= end {
            break;
        }
        if segments.len() == SPARSE_PIECES {
            return Ok(None);
        }
        segments.push(Segment { offset: start, length: end - start });
        data += end - start;
        position = end;
    }
    if size - data < SPARSE_GAIN {
        return Ok(None);
    }
    if position < size {
        segments.push(Segment { offset: size, length: 0 });
    }
    Ok(Some(segments))
}
