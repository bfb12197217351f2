use std::io::{self, Read};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{Algorithm, Digest, Hasher};

use super::{BLOCK, io_error};

/// Length of the read buffer in bytes.
const BUFFER: usize = 256 * 1024;

/// How a tar stream is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SourceOptions {
    /// The most bytes that the stream may have.
    pub(crate) limit: Option<u64>,
    /// Whether its SHA-256 is wanted.
    pub(crate) hash: bool,
    /// Whether it may end without two zero blocks.
    pub(crate) missing_end_ok: bool,
    /// Whether the archive may even end right behind the last file's content.
    pub(crate) missing_padding_ok: bool,
}

/// A buffered, counted and hashed byte stream.
pub(crate) struct Source<R> {
    inner: R,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    total: u64,
    limit: Option<u64>,
    hasher: Option<Hasher>,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(inner: R, options: SourceOptions) -> Self {
        Source {
            inner,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            at: 0,
            end: 0,
            total: 0,
            limit: options.limit,
            hasher: options.hash.then(|| Hasher::new(Algorithm::Sha256)),
        }
    }

    /// Bytes that were given out so far.
    pub(crate) fn offset(&self) -> u64 {
        self.total - (self.end - self.at) as u64
    }

    /// Up to `most` of the next bytes; empty only at the end of the stream.
    pub(crate) fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        if self.at == self.end {
            self.fill()?;
        }
        let available = self.end - self.at;
        let n = usize::try_from(most).unwrap_or(usize::MAX).min(available);
        Ok(&self.buffer[self.at..self.at + n])
    }

    /// Drops `n` bytes that [`Source::chunk`] showed.
    pub(crate) fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.end);
    }

    /// The next block; false at the end of the stream. A part of a block is an error.
    pub(crate) fn block(&mut self, out: &mut [u8; BLOCK]) -> Result<bool> {
        let mut have = 0;
        while have < BLOCK {
            let chunk = self.chunk((BLOCK - have) as u64)?;
            let n = chunk.len();
            if n == 0 {
                return if have == 0 { Ok(false) } else { Err(self.truncated()) };
            }
            out[have..have + n].copy_from_slice(chunk);
            self.consume(n);
            have += n;
        }
        Ok(true)
    }

    /// The error for a stream that ends too early.
    pub(crate) fn truncated(&self) -> Error {
        Error::new(Kind::Corrupt, format!("the tar archive is truncated after {} bytes", self.total))
    }

    /// Digest (if it was wanted) and length of the stream, which must have been read to its end.
    pub(crate) fn finish(self) -> (Option<Digest>, u64) {
        (self.hasher.map(Hasher::finish), self.total)
    }

    fn fill(&mut self) -> Result<()> {
        // Whole buffers make few and large calls: of the hash, and of write(2) behind it.
        self.at = 0;
        self.end = 0;
        while self.end < self.buffer.len() {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io_error(e, "cannot read the tar archive")),
            }
        }
        self.total += self.end as u64;
        if let Some(limit) = self.limit
            && self.total > limit
        {
            return Err(Error::new(Kind::Corrupt, format!("the tar archive is longer than {limit} bytes")));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buffer[..self.end]);
        }
        Ok(())
    }
}
