//! A tar as a box of files that is looked through and not unpacked: an archive of images.

use std::io::{self, Read, Write};

use robot_env_diag::{Error, Kind, Result};

use super::{Entry, EntryKind, EntryWriter, Meta, NoTap, Reader, SourceOptions, Time, io_error, padding};

/// What a member of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A file; its content follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link to an earlier member.
    Hardlink,
    /// A device, a FIFO, a sparse file: nothing that belongs into an archive of images.
    Other,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name as the archive has it: not normalised, not trusted.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Where a link leads: not trusted.
    pub link: Vec<u8>,
    /// Length of its content in bytes.
    pub size: u64,
    /// Where its content starts in what was given to [`Members::new`], in bytes.
    pub offset: u64,
}

impl Member {
    /// Where the next member's header starts, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.size).saturating_add(padding(self.size))
    }
}

/// Reads an archive member by member. Memory is bounded by 2 MiB, whatever the archive says.
///
/// [`Read`] gives the content of the member that came last, to its end.
pub struct Members<R: Read> {
    reader: Reader<R, NoTap>,
    entry: Entry,
}

impl<R: Read> Members<R> {
    /// `tar` is decompressed and stands at a header.
    pub fn new(tar: R) -> Self {
        let options =
            SourceOptions { limit: None, hash: false, missing_end_ok: true, missing_padding_ok: false };
        Members { reader: Reader::new(tar, options, NoTap), entry: Entry::default() }
    }

    /// The next member; `None` at the end, up to which `tar` was then read.
    ///
    /// Errors: `Corrupt` for what is no tar or ends too early.
    #[allow(clippy::should_implement_trait)] // It fails, and its reader is used between two calls.
    pub fn next(&mut self) -> Result<Option<Member>> {
        if !self.reader.next(&mut self.entry)? {
            return Ok(None);
        }
        let entry = &self.entry;
        let kind = match entry.kind {
            EntryKind::File if entry.sparse.is_none() => MemberKind::File,
            EntryKind::Directory => MemberKind::Directory,
            EntryKind::Symlink => MemberKind::Symlink,
            EntryKind::Hardlink => MemberKind::Hardlink,
            _ => MemberKind::Other,
        };
        Ok(Some(Member {
            path: entry.path.clone(),
            kind,
            link: entry.link.clone(),
            size: entry.size,
            offset: self.reader.offset(),
        }))
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let chunk = self.reader.chunk(out.len() as u64).map_err(io::Error::other)?;
        let n = chunk.len();
        out[..n].copy_from_slice(chunk);
        self.reader.consume(n);
        Ok(n)
    }
}

/// Writes an archive of plain files: owner 0, mode 0644, time 0, so that the same files always
/// give the same bytes.
pub struct MembersWriter<W: Write> {
    out: W,
    headers: EntryWriter,
    /// Bytes of the current file that are still to come, and the padding behind them.
    left: u64,
    padding: u64,
}

impl<W: Write> MembersWriter<W> {
    /// Nothing is written yet.
    pub fn new(out: W) -> Self {
        MembersWriter { out, headers: EntryWriter::default(), left: 0, padding: 0 }
    }

    /// Begins a file of `size` bytes; they are written next, by [`Write`], all of them.
    ///
    /// Errors: `Internal` when bytes of the file before are missing.
    pub fn begin(&mut self, path: &str, size: u64) -> Result<()> {
        self.end()?;
        let meta = Meta {
            kind: EntryKind::File,
            path: path.as_bytes(),
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            major: 0,
            minor: 0,
            xattrs: &[],
            size,
            sparse: None,
        };
        let (headers, in_archive) = self.headers.headers(&meta);
        self.out.write_all(headers).map_err(write_failed)?;
        (self.left, self.padding) = (in_archive, padding(in_archive));
        Ok(())
    }

    /// Writes a whole file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.begin(path, content.len() as u64)?;
        self.write_all(content).map_err(write_failed)
    }

    /// Writes the end mark and gives the output back, flushed.
    pub fn finish(mut self) -> Result<W> {
        self.end()?;
        self.out.write_all(&[0; 1024]).and_then(|()| self.out.flush()).map_err(write_failed)?;
        Ok(self.out)
    }

    fn end(&mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::new(Kind::Internal, "a file of the archive was not written to its end"));
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.out.write_all(&[0; super::BLOCK][..padding]).map_err(write_failed)
    }
}

impl<W: Write> Write for MembersWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other(Error::new(
                Kind::Internal,
                "a file of the archive is longer than was said",
            )));
        }
        let n = self.out.write(bytes)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_failed(error: io::Error) -> Error {
    io_error(error, "cannot write the archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = MembersWriter::new(Vec::new());
        let long = format!("blobs/{}", "x".repeat(300));
        writer.file("a", b"one").unwrap();
        writer.file(&long, &[7; 1000]).unwrap();
        writer.begin("empty", 0).unwrap();
        let bytes = writer.finish().unwrap();
        let mut members = Members::new(&bytes[..]);
        for (path, content) in [("a", &b"one"[..]), (&long, &[7; 1000]), ("empty", b"")] {
            let member = members.next().unwrap().unwrap();
            assert_eq!((member.path.as_slice(), member.kind), (path.as_bytes(), MemberKind::File));
            let start = member.offset as usize;
            assert_eq!(&bytes[start..start + member.size as usize], content);
            let mut read = Vec::new();
            members.read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
            // From its end on, it is an archive again.
            let mut rest = Members::new(&bytes[member.end() as usize..]);
            assert_eq!(rest.next().unwrap().is_none(), path == "empty");
        }
        assert!(members.next().unwrap().is_none());
    }

    #[test]
    fn a_file_has_the_length_that_was_said() {
        let mut writer = MembersWriter::new(Vec::new());
        writer.begin("a", 2).unwrap();
        assert!(writer.write_all(b"abc").is_err());
        assert!(writer.begin("b", 1).is_err());
    }
}
