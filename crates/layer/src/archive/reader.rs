use std::io::Read;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::Digest;

use super::header::Header;
use super::pax::Extensions;
use super::source::{Source, SourceOptions};
use super::sparse::{self, MapReader};
use super::{BLOCK, EXTENSION_LIMIT, Entry, EntryKind, Segment, Time, padding};

/// Listens to what is read: every byte of the stream reaches a tap exactly once and in order,
/// verbatim or as a reference to a payload that went into a file.
pub(crate) trait Tap {
    /// Bytes that are not in any file.
    fn verbatim(&mut self, bytes: &[u8]) -> Result<()>;
}

/// A tap for those who don't care.
pub(crate) struct NoTap;

impl Tap for NoTap {
    fn verbatim(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Reads a tar, entry by entry.
pub(crate) struct Reader<R, T> {
    source: Source<R>,
    pub(crate) tap: T,
    missing_end_ok: bool,
    missing_padding_ok: bool,
    /// Bytes of the current entry's payload that were not read yet, and the padding behind them.
    payload: u64,
    padding: u64,
}

impl<R: Read, T: Tap> Reader<R, T> {
    pub(crate) fn new(inner: R, options: SourceOptions, tap: T) -> Self {
        Reader {
            source: Source::new(inner, options),
            tap,
            missing_end_ok: options.missing_end_ok,
            missing_padding_ok: options.missing_padding_ok,
            payload: 0,
            padding: 0,
        }
    }

    /// Reads the next entry's headers into `entry`; false at the end of the archive, which is
    /// then read to the end of the stream.
    pub(crate) fn next(&mut self, entry: &mut Entry) -> Result<bool> {
        self.skip_payload()?;
        let start = self.source.offset();
        self.read_headers(entry).within(|| format!("cannot read the tar entry at byte {start}"))
    }

    /// The next bytes of the payload; empty at its end. They never reach the tap: whoever takes
    /// them answers for them.
    pub(crate) fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        let most = most.min(self.payload);
        if most == 0 {
            return Ok(&[]);
        }
        // Asked twice because of the borrow; the second call finds the buffer filled.
        if self.source.chunk(most)?.is_empty() {
            return Err(self.source.truncated());
        }
        self.source.chunk(most)
    }

    /// Bytes that were read so far, of the whole stream.
    pub(crate) fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// Drops `n` bytes that [`Reader::chunk`] showed.
    pub(crate) fn consume(&mut self, n: usize) {
        self.source.consume(n);
        self.payload -= n as u64;
    }

    /// Digest and length of the stream, after its end.
    pub(crate) fn finish(self) -> (Option<Digest>, u64, T) {
        let (digest, total) = self.source.finish();
        (digest, total, self.tap)
    }

    fn skip_payload(&mut self) -> Result<()> {
        let payload = std::mem::take(&mut self.payload);
        let padding = std::mem::take(&mut self.padding);
        self.pass(payload, false)?;
        // Docker's client ends a context that it has put files into behind the last one's content.
        self.pass(padding, self.missing_padding_ok)
    }

    /// Hands the next `n` bytes to the tap, or with `end_ok` those that there are.
    fn pass(&mut self, mut n: u64, end_ok: bool) -> Result<()> {
        while n > 0 {
            let chunk = self.source.chunk(n)?;
            if chunk.is_empty() {
                return if end_ok { Ok(()) } else { Err(self.source.truncated()) };
            }
            self.tap.verbatim(chunk)?;
            let length = chunk.len();
            self.source.consume(length);
            n -= length as u64;
        }
        Ok(())
    }

    fn read_headers(&mut self, entry: &mut Entry) -> Result<bool> {
        let mut extensions = Extensions::default();
        let mut block = [0; BLOCK];
        loop {
            if !self.block(&mut block)? {
                if self.missing_end_ok && extensions.is_empty() {
                    return Ok(false);
                }
                return Err(self.source.truncated());
            }
            if block == [0; BLOCK] {
                self.read_end(&mut block)?;
                return Ok(false);
            }
            let header = Header::check(&block)?;
            match header.typeflag() {
                b'x' | b'X' => {
                    let records = self.extension(header.size()?)?;
                    extensions.read(&records)?;
                }
                // Global records don't change how an entry is read here, as in other engines.
                b'g' => {
                    self.extension(header.size()?)?;
                }
                b'L' => extensions.gnu_path = Some(self.long_text(header.size()?)?),
                b'K' => extensions.gnu_link = Some(self.long_text(header.size()?)?),
                _ => {
                    self.read_entry(&block, extensions, entry)?;
                    return Ok(true);
                }
            }
        }
    }

    fn read_entry(
        &mut self,
        block: &[u8; BLOCK],
        mut extensions: Extensions,
        entry: &mut Entry,
    ) -> Result<()> {
        let header = Header(block);
        entry.clear();
        header.path(&mut entry.path);
        entry.link.extend_from_slice(header.link());
        entry.mode = header.mode()?;
        entry.uid = header.uid()?;
        entry.gid = header.gid()?;
        entry.mtime = Time { seconds: header.mtime()?, nanoseconds: 0 };
        let size = header.size()?;
        let typeflag = header.typeflag();
        entry.size = extensions.size.unwrap_or(size);
        extensions.apply(entry);
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(Error::new(Kind::Corrupt, "a name in the tar archive contains a NUL byte"));
        }
        entry.kind = match typeflag {
            0 if entry.path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::Hardlink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'4' => EntryKind::Block,
            // A GNU incremental dump's directory carries a list of names as its payload.
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'V' => EntryKind::Nothing,
            other => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the type {other:#04x} of the tar entry `{}` is not known", entry.name()),
                ));
            }
        };
        if matches!(entry.kind, EntryKind::Char | EntryKind::Block) {
            (entry.major, entry.minor) = header.device()?;
        }
        let has_payload = matches!(entry.kind, EntryKind::File | EntryKind::Nothing) || typeflag == b'D';
        if !has_payload {
            entry.size = 0;
        }
        self.payload = entry.size;
        self.padding = padding(entry.size);
        entry.real_size = entry.size;
        if entry.kind == EntryKind::File {
            self.read_sparse(block, &mut extensions, entry)?;
        }
        Ok(())
    }

    /// Finds out whether the file is sparse, and reads its map where it stands.
    fn read_sparse(
        &mut self,
        block: &[u8; BLOCK],
        extensions: &mut Extensions,
        entry: &mut Entry,
    ) -> Result<()> {
        let pax = &mut extensions.sparse;
        let map = if block[156] == b'S' {
            entry.real_size = super::header::number(&block[483..495])
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(sparse::bad)?;
            self.old_gnu_map(block)?
        } else if (pax.major, pax.minor) == (Some(1), Some(0)) {
            entry.real_size = pax.real_size.ok_or_else(sparse::bad)?;
            let map = self.payload_map()?;
            entry.size = self.payload;
            map
        } else if let Some(map) = pax.map.take() {
            entry.real_size = pax.real_size.ok_or_else(sparse::bad)?;
            map
        } else {
            return Ok(());
        };
        sparse::check(&map, entry.size, entry.real_size)?;
        entry.sparse = Some(map);
        Ok(())
    }

    fn old_gnu_map(&mut self, header: &[u8; BLOCK]) -> Result<Vec<Segment>> {
        let mut map = Vec::new();
        sparse::old_gnu_pairs(&header[386..482], &mut map)?;
        let mut more = header[482] != 0;
        let mut block = [0; BLOCK];
        while more {
            if !self.block(&mut block)? {
                return Err(self.source.truncated());
            }
            sparse::old_gnu_pairs(&block[..504], &mut map)?;
            more = block[504] != 0;
        }
        Ok(map)
    }

    fn payload_map(&mut self) -> Result<Vec<Segment>> {
        let mut reader = MapReader::default();
        let mut block = [0; BLOCK];
        loop {
            if self.payload < BLOCK as u64 {
                return Err(sparse::bad());
            }
            if !self.block(&mut block)? {
                return Err(self.source.truncated());
            }
            self.payload -= BLOCK as u64;
            if reader.feed(&block)? {
                return Ok(reader.finish());
            }
        }
    }

    /// The rest of the stream after the first of the two zero blocks that end an archive.
    fn read_end(&mut self, block: &mut [u8; BLOCK]) -> Result<()> {
        if !self.block(block)? {
            return if self.missing_end_ok { Ok(()) } else { Err(self.source.truncated()) };
        }
        if *block != [0; BLOCK] {
            return Err(Error::new(Kind::Corrupt, "the tar archive has a lone zero block"));
        }
        loop {
            let chunk = self.source.chunk(u64::MAX)?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.tap.verbatim(chunk)?;
            let length = chunk.len();
            self.source.consume(length);
        }
    }

    fn block(&mut self, out: &mut [u8; BLOCK]) -> Result<bool> {
        if !self.source.block(out)? {
            return Ok(false);
        }
        self.tap.verbatim(out)?;
        Ok(true)
    }

    fn long_text(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut text = self.extension(size)?;
        if let Some(end) = text.iter().position(|b| *b == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    /// The payload of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_LIMIT {
            return Err(Error::new(
                Kind::Corrupt,
                format!("an extended header of {size} bytes is longer than {EXTENSION_LIMIT} bytes"),
            ));
        }
        let mut out = Vec::new();
        let mut left = size;
        while left > 0 {
            let chunk = self.source.chunk(left)?;
            if chunk.is_empty() {
                return Err(self.source.truncated());
            }
            out.extend_from_slice(chunk);
            self.tap.verbatim(chunk)?;
            let length = chunk.len();
            self.source.consume(length);
            left -= length as u64;
        }
        self.pass(padding(size), false)?;
        Ok(out)
    }
}
