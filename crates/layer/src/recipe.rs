//! How to make the very same tar again from the tree that was unpacked from it.
//!
//! ```text
//! recipe    := zstd(main) [zstd(replaced)] trailer
//! main      := "robot-env recipe 1\n" { verbatim | payload } varint(0)
//! verbatim  := varint(2 * length) bytes             length > 0
//! payload   := varint(2 * length of path + 1) path varint(offset) varint(length)
//! replaced  := { varint(length of path) path varint(number) { extent } varint(0) } varint(0)
//! extent    := varint(length) varint(offset) bytes  length > 0
//! trailer   := u64, little endian: where `replaced` starts, 0 if it is missing; "RE-RECIP"
//! ```
//! A payload is `length` bytes at `offset` of the file at `path`, which is relative to the root
//! of the tree (it may pass through symbolic links, which are resolved inside the root). Payloads
//! are numbered from 0. A layer may have several entries of one name, of which the last wins; what
//! the others held stands under `replaced`: for payloads of `path` whose number is below `number`
//! (and not below that of an earlier replacement) the extents count and not the tree; bytes
//! between extents are zero. A varint has seven bits a byte, the lowest first.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_sys::ErrnoContext;
use rustix::fs::{Mode, OFlags, ResolveFlags, SeekFrom as At};
use rustix::io::Errno;

use crate::archive::{Shown, Tap, io_error};

const MAGIC: &[u8] = b"robot-env recipe 1\n";
const TRAILER_MAGIC: &[u8; 8] = b"RE-RECIP";
/// zstd level: headers are so repetitive that a higher one gains little and costs much.
const LEVEL: i32 = 1;
/// Verbatim bytes that are collected before they are written as one record.
const COLLECT: usize = 64 * 1024;
/// The longest verbatim record or path that is read.
const RECORD_LIMIT: u64 = 2 * 1024 * 1024;
const COPY: usize = 256 * 1024;

/// Writes a recipe while a tar is read or made.
pub(crate) struct RecipeWriter<'a> {
    main: zstd::stream::write::Encoder<'static, Counted<'a>>,
    verbatim: Vec<u8>,
    payloads: u64,
    replaced: Option<File>,
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_failed(error: io::Error) -> Error {
    io_error(error, "cannot write the layer's recipe")
}

impl<'a> RecipeWriter<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Result<Self> {
        let mut main =
            zstd::stream::write::Encoder::new(Counted { out, written: 0 }, LEVEL).map_err(write_failed)?;
        main.write_all(MAGIC).map_err(write_failed)?;
        Ok(RecipeWriter { main, verbatim: Vec::with_capacity(COLLECT), payloads: 0, replaced: None })
    }

    /// The next `length` bytes of the tar are in the file at `path`.
    pub(crate) fn payload(&mut self, path: &[u8], offset: u64, length: u64) -> Result<()> {
        self.flush_verbatim()?;
        let mut record = Vec::with_capacity(path.len() + 24);
        put_varint(&mut record, path.len() as u64 * 2 + 1);
        record.extend_from_slice(path);
        put_varint(&mut record, offset);
        put_varint(&mut record, length);
        self.payloads += 1;
        self.main.write_all(&record).map_err(write_failed)
    }

    /// Keeps what `file` at `path` holds, because the tree will not hold it any longer. `root` is
    /// where a temporary file may be made.
    pub(crate) fn keep(&mut self, root: BorrowedFd<'_>, path: &[u8], file: &File) -> Result<()> {
        if self.replaced.is_none() {
            self.replaced = Some(temporary_file(root)?);
        }
        let Some(replaced) = &mut self.replaced else { return Ok(()) };
        let failed = |e| io_error(e, "cannot keep a replaced file of the layer");
        let mut record = Vec::new();
        put_varint(&mut record, path.len() as u64);
        record.extend_from_slice(path);
        put_varint(&mut record, self.payloads);
        replaced.write_all(&record).map_err(failed)?;
        let mut buffer = vec![0; COPY];
        let mut position = 0;
        while let Some((start, end)) = next_extent(file.as_fd(), position)? {
            position = start;
            while position < end {
                let want = buffer.len().min(usize::try_from(end - position).unwrap_or(usize::MAX));
                let n = file.read_at(&mut buffer[..want], position).map_err(failed)?;
                if n == 0 {
                    break;
                }
                record.clear();
                put_varint(&mut record, n as u64);
                put_varint(&mut record, position);
                replaced.write_all(&record).map_err(failed)?;
                replaced.write_all(&buffer[..n]).map_err(failed)?;
                position += n as u64;
            }
        }
        replaced.write_all(&[0]).map_err(failed)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush_verbatim()?;
        self.main.write_all(&[0]).map_err(write_failed)?;
        let mut counted = self.main.finish().map_err(write_failed)?;
        let mut start = 0;
        if let Some(mut replaced) = self.replaced {
            start = counted.written;
            replaced.seek(SeekFrom::Start(0)).map_err(write_failed)?;
            let mut encoder = zstd::stream::write::Encoder::new(&mut counted, LEVEL).map_err(write_failed)?;
            io::copy(&mut replaced, &mut encoder).map_err(write_failed)?;
            encoder.write_all(&[0]).map_err(write_failed)?;
            encoder.finish().map_err(write_failed)?;
        }
        counted.write_all(&start.to_le_bytes()).map_err(write_failed)?;
        counted.write_all(TRAILER_MAGIC).map_err(write_failed)?;
        counted.flush().map_err(write_failed)
    }

    fn flush_verbatim(&mut self) -> Result<()> {
        if !self.verbatim.is_empty() {
            let mut length = Vec::with_capacity(10);
            put_varint(&mut length, self.verbatim.len() as u64 * 2);
            self.main.write_all(&length).map_err(write_failed)?;
            self.main.write_all(&self.verbatim).map_err(write_failed)?;
            self.verbatim.clear();
        }
        Ok(())
    }
}

impl Tap for RecipeWriter<'_> {
    fn verbatim(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(COLLECT) {
            if self.verbatim.len() + piece.len() > COLLECT {
                self.flush_verbatim()?;
            }
            self.verbatim.extend_from_slice(piece);
        }
        Ok(())
    }
}

/// Writes to `out` the tar that `recipe` describes, bit for bit, with the file contents of the
/// tree at `root`, which was unpacked from it (and may since have been through
/// [`crate::inherit_directories`]).
///
/// Fails with [`Kind::Corrupt`] when the recipe is damaged or a file is missing or too short. A
/// file whose bytes changed is not noticed here: compare the digest of what was written.
pub fn assemble(mut recipe: impl Read + Seek, root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<()> {
    let replaced = read_replaced(&mut recipe, root)?;
    recipe.seek(SeekFrom::Start(0)).io_context(|| "cannot read the layer's recipe".to_owned())?;
    let decoder = zstd::stream::read::Decoder::new(recipe).map_err(read_failed)?.single_frame();
    let mut main = BufReader::with_capacity(COLLECT, decoder);
    let mut magic = [0; MAGIC.len()];
    main.read_exact(&mut magic).map_err(read_failed)?;
    if magic != MAGIC {
        return Err(Error::new(Kind::Corrupt, "the layer's recipe does not start as one"));
    }
    let mut out = Buffered { out, buffer: vec![0; COPY].into_boxed_slice(), filled: 0 };
    let mut number = 0;
    let mut path = Vec::new();
    loop {
        let tag = get_varint(&mut main)?;
        if tag == 0 {
            break;
        }
        let length = tag / 2;
        if length > RECORD_LIMIT {
            return Err(damaged());
        }
        if tag % 2 == 0 {
            out.copy(length, &mut main)?;
            continue;
        }
        path.resize(length as usize, 0);
        main.read_exact(&mut path).map_err(read_failed)?;
        let offset = get_varint(&mut main)?;
        let length = get_varint(&mut main)?;
        match replaced.find(&path, number) {
            Some(version) => replaced.copy(version, offset, length, &mut out)?,
            None => copy_file(root, &path, offset, length, &mut out)?,
        }
        number += 1;
    }
    out.flush()
}

fn copy_file(
    root: BorrowedFd<'_>,
    path: &[u8],
    offset: u64,
    length: u64,
    out: &mut Buffered<'_>,
) -> Result<()> {
    let file = rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let file = match file {
        Err(errno @ (Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the file `{}` of the layer is missing", Shown(path)),
            )
            .because(std::io::Error::from(errno)));
        }
        other => other.call(|| format!("openat2({}, RESOLVE_IN_ROOT)", Shown(path)))?,
    };
    let mut file = File::from(file);
    if offset != 0 {
        file.seek(SeekFrom::Start(offset)).io_context(|| format!("cannot read `{}`", Shown(path)))?;
    }
    out.copy_from(length, &mut file, |e| {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            Error::new(Kind::Corrupt, format!("the file `{}` of the layer is too short", Shown(path)))
        } else {
            io_error(e, format!("cannot read `{}`", Shown(path)))
        }
    })
}

/// What the recipe holds of files that the tree lost.
struct Replaced {
    content: Option<File>,
    versions: HashMap<Vec<u8>, Vec<Version>>,
}

struct Version {
    below: u64,
    extents: Vec<Extent>,
}

struct Extent {
    offset: u64,
    length: u64,
    /// Where it is in the temporary file.
    at: u64,
}

impl Replaced {
    /// The content that payload `number` of `path` had, if the tree does not have it.
    fn find(&self, path: &[u8], number: u64) -> Option<&Version> {
        if self.versions.is_empty() {
            return None;
        }
        self.versions.get(path)?.iter().find(|version| number < version.below)
    }

    fn copy(&self, version: &Version, mut offset: u64, length: u64, out: &mut Buffered<'_>) -> Result<()> {
        let Some(content) = &self.content else { return Err(damaged()) };
        let end = offset.checked_add(length).ok_or_else(damaged)?;
        for extent in &version.extents {
            let extent_end = extent.offset + extent.length;
            if extent_end <= offset || extent.offset >= end {
                continue;
            }
            if extent.offset > offset {
                out.copy(extent.offset - offset, &mut io::repeat(0))?;
                offset = extent.offset;
            }
            let n = extent_end.min(end) - offset;
            let mut part = content;
            part.seek(SeekFrom::Start(extent.at + (offset - extent.offset))).map_err(read_failed)?;
            out.copy(n, &mut part)?;
            offset += n;
        }
        out.copy(end - offset, &mut io::repeat(0))
    }
}

fn read_replaced(recipe: &mut (impl Read + Seek), root: BorrowedFd<'_>) -> Result<Replaced> {
    let mut replaced = Replaced { content: None, versions: HashMap::new() };
    recipe.seek(SeekFrom::End(-16)).map_err(read_failed)?;
    let mut trailer = [0; 16];
    recipe.read_exact(&mut trailer).map_err(read_failed)?;
    let (start, magic) = trailer.split_at(8);
    if magic != TRAILER_MAGIC {
        return Err(damaged());
    }
    let start = start.try_into().map_or(0, u64::from_le_bytes);
    if start == 0 {
        return Ok(replaced);
    }
    recipe.seek(SeekFrom::Start(start)).map_err(read_failed)?;
    let decoder = zstd::stream::read::Decoder::new(recipe).map_err(read_failed)?.single_frame();
    let mut records = BufReader::with_capacity(COLLECT, decoder);
    let mut content = temporary_file(root)?;
    let mut at = 0;
    loop {
        let length = get_varint(&mut records)?;
        if length == 0 {
            break;
        }
        if length > RECORD_LIMIT {
            return Err(damaged());
        }
        let mut path = vec![0; length as usize];
        records.read_exact(&mut path).map_err(read_failed)?;
        let below = get_varint(&mut records)?;
        let mut extents: Vec<Extent> = Vec::new();
        loop {
            let length = get_varint(&mut records)?;
            if length == 0 {
                break;
            }
            let offset = get_varint(&mut records)?;
            if offset.checked_add(length).is_none() || length > COPY as u64 {
                return Err(damaged());
            }
            let copied = io::copy(&mut records.by_ref().take(length), &mut content).map_err(read_failed)?;
            if copied != length {
                return Err(damaged());
            }
            match extents.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                Some(last) if last.offset + last.length > offset => return Err(damaged()),
                _ => extents.push(Extent { offset, length, at }),
            }
            at += length;
        }
        replaced.versions.entry(path).or_default().push(Version { below, extents });
    }
    replaced.content = Some(content);
    Ok(replaced)
}

/// An unnamed file beside the tree, or in memory where its file system has none.
fn temporary_file(root: BorrowedFd<'_>) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(root, c".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(_) => Ok(rustix::fs::memfd_create("replaced", rustix::fs::MemfdFlags::CLOEXEC)
            .call(|| "memfd_create(replaced)".to_owned())?
            .into()),
    }
}

/// The next stretch of data in a file at or behind `position`: start and end.
pub(crate) fn next_extent(file: BorrowedFd<'_>, position: u64) -> Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, At::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno).call(|| "lseek(SEEK_DATA)".to_owned())?,
    };
    let end = rustix::fs::seek(file, At::Hole(start)).call(|| "lseek(SEEK_HOLE)".to_owned())?;
    Ok(Some((start, end)))
}

/// Collects small pieces into large writes.
struct Buffered<'a> {
    out: &'a mut dyn Write,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Buffered<'_> {
    fn copy(&mut self, length: u64, from: &mut impl Read) -> Result<()> {
        self.copy_from(length, from, read_failed)
    }

    fn copy_from(
        &mut self,
        mut length: u64,
        from: &mut impl Read,
        failed: impl Fn(io::Error) -> Error,
    ) -> Result<()> {
        while length > 0 {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let room = self.buffer.len() - self.filled;
            let want = usize::try_from(length).unwrap_or(usize::MAX).min(room);
            match from.read(&mut self.buffer[self.filled..self.filled + want]) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => {
                    self.filled += n;
                    length -= n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let filled = std::mem::take(&mut self.filled);
        self.out.write_all(&self.buffer[..filled]).map_err(|e| io_error(e, "cannot write the layer's tar"))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_varint(from: &mut impl Read) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte).map_err(read_failed)?;
        let bits = u64::from(byte[0] & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn read_failed(error: io::Error) -> Error {
    io_error(error, "cannot read the layer's recipe")
}

fn damaged() -> Error {
    Error::new(Kind::Corrupt, "the layer's recipe is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(get_varint(&mut &bytes[..]).unwrap(), value);
            assert!(get_varint(&mut &bytes[..bytes.len() - 1]).is_err());
        }
        assert!(get_varint(&mut &[0xff_u8; 11][..]).is_err());
        assert!(get_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]).is_err());
    }
}
