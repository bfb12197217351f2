//! What comes after a request's head, and the side of a connection that is read.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;

use super::head::Framing;

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;
/// The longest line that says how long a chunk is, and the most bytes of fields after the last one.
const LINE: usize = 256;
const TRAILERS: usize = 8 * 1024;

/// The side of a connection that is read, with what has arrived and was not used.
pub(crate) struct Input {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
}

impl Input {
    pub(crate) fn new(half: OwnedReadHalf) -> Input {
        Input { half, buffer: Vec::new(), start: 0 }
    }

    /// What has arrived.
    pub(crate) fn ready(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.buffer.len() {
            self.start = 0;
            // An idle connection keeps nothing.
            self.buffer = Vec::new();
        }
    }

    /// Waits for more; `false` at the end of the stream. Nothing is lost when the wait is given up.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.half.readable().await?;
        let before = self.buffer.len();
        self.buffer.resize(before + 8 * 1024, 0);
        let read = self.half.try_read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next bytes, whatever they are: now those that have arrived; `false` at the end of the
    /// stream. Nothing is lost when the wait is given up.
    pub(crate) async fn more(&mut self) -> io::Result<bool> {
        if self.ready().is_empty() { self.fill().await } else { Ok(true) }
    }

    /// Whether the client has closed both directions, as opposed to writing no more.
    pub(crate) fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stream: &tokio::net::UnixStream = self.half.as_ref();
        let mut fds = [PollFd::new(stream, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ready = self.ready();
        if ready.is_empty() {
            return Pin::new(&mut self.half).poll_read(context, into);
        }
        let count = ready.len().min(into.remaining());
        into.put_slice(&ready[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

/// A request's body: read by its handler, or drained afterwards.
pub(crate) struct Body<'c> {
    input: &'c mut Input,
    framing: Framing,
    /// Bytes left of the body or of the chunk.
    left: u64,
    over: bool,
    first: bool,
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl<'c> Body<'c> {
    pub(crate) fn new(input: &'c mut Input, framing: Framing) -> Body<'c> {
        let left = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
        };
        Body { input, framing, left, over: framing == Framing::Length(0), first: true }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.framing == Framing::Length(0)
    }

    /// Whether all of it was read.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The next bytes; none at its end.
    ///
    /// # Errors
    /// `UnexpectedEof` when the client goes before its end, `InvalidData` for malformed chunks.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.over {
            return Ok(None);
        }
        if self.framing == Framing::Chunked && self.left == 0 {
            if !std::mem::take(&mut self.first) && !self.line().await?.is_empty() {
                return Err(malformed("a chunk is longer than it says"));
            }
            self.left = chunk_length(&self.line().await?)?;
            if self.left == 0 {
                let mut trailers = 0;
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        self.over = true;
                        return Ok(None);
                    }
                    trailers += line.len();
                    if trailers > TRAILERS {
                        return Err(malformed("the fields after the body are too long"));
                    }
                }
            }
        }
        let want = self.left.min(PIECE as u64) as usize;
        while self.input.ready().is_empty() {
            if !self.input.fill().await? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let ready = self.input.ready();
        let piece = ready[..ready.len().min(want)].to_vec();
        self.input.consume(piece.len());
        self.left -= piece.len() as u64;
        self.over = self.left == 0 && self.framing != Framing::Chunked;
        Ok(Some(piece))
    }

    /// A line without its end.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let ready = self.input.ready();
            if let Some(end) = ready.iter().take(LINE).position(|byte| *byte == b'\n') {
                let line =
                    ready[..end].strip_suffix(b"\r").ok_or_else(|| malformed("a line ends without CR"))?;
                let line = line.to_vec();
                self.input.consume(end + 1);
                return Ok(line);
            }
            if ready.len() >= LINE {
                return Err(malformed("a line of the body is too long"));
            }
            if !self.input.fill().await? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// All of it, if it is not longer than `limit`: `None` if it is.
    pub(crate) async fn whole(&mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
            if all.len() > limit {
                return Ok(None);
            }
        }
        Ok(Some(all))
    }

    /// Does something that reads the body and blocks, on a thread of its own. What it leaves of the
    /// body is left.
    pub(crate) async fn feed<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(BlockingBody) -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = mpsc::channel(4);
        let reader = BlockingBody { receiver, piece: Vec::new(), at: 0, over: false };
        let mut working = tokio::task::spawn_blocking(move || work(reader));
        let mut sender = Some(sender);
        while let Some(open) = &sender {
            tokio::select! {
                biased;
                done = &mut working => return unpanicked(done),
                piece = self.next() => {
                    let (piece, last) = match piece {
                        Ok(Some(piece)) => (Ok(piece), false),
                        // Nothing stands for the end: without it the body was cut off.
                        Ok(None) => (Ok(Vec::new()), true),
                        Err(error) => (Err(error), true),
                    };
                    // The receiver is gone when the work needs no more.
                    if open.send(piece).await.is_err() || last {
                        sender = None;
                    }
                }
            }
        }
        unpanicked(working.await)
    }
}

/// What a blocking task gave; its panic goes on here.
pub(crate) fn unpanicked<T>(done: Result<T, tokio::task::JoinError>) -> T {
    match done {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// How many bytes a chunk has: hexadecimal digits, then extensions, which mean nothing.
fn chunk_length(line: &[u8]) -> io::Result<u64> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(digits).unwrap_or_default().trim_end();
    if text.is_empty() || text.len() > 15 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(malformed("a chunk's length is no number"));
    }
    u64::from_str_radix(text, 16).map_err(|_| malformed("a chunk's length is no number"))
}

/// A body for code that blocks.
pub(crate) struct BlockingBody {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    over: bool,
}

impl io::Read for BlockingBody {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.over {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => {
                    self.over = piece.is_empty();
                    (self.piece, self.at) = (piece, 0);
                }
                Some(Err(error)) => return Err(error),
                None => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = into.len().min(self.piece.len() - self.at);
        into[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn read(bytes: &[u8], framing: Framing) -> io::Result<(Vec<u8>, Vec<u8>)> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (near, far) = tokio::net::UnixStream::pair().unwrap();
            let bytes = bytes.to_vec();
            tokio::spawn(async move {
                let mut far = far;
                for piece in bytes.chunks(3) {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let (half, _write) = near.into_split();
            let mut input = Input::new(half);
            let all = Body::new(&mut input, framing).whole(1 << 20).await?.unwrap();
            let mut rest = input.ready().to_vec();
            while input.fill().await? {
                rest = input.ready().to_vec();
            }
            Ok((all, rest))
        })
    }

    #[test]
    fn bodies_end_where_they_say() {
        for (bytes, framing, want, rest) in [
            ("hello GET", Framing::Length(5), "hello", " GET"),
            ("5\r\nhello\r\n0\r\n\r\nGET", Framing::Chunked, "hello", "GET"),
            ("3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n", Framing::Chunked, "abcde", ""),
            ("", Framing::Length(0), "", ""),
        ] {
            let (got, left) = read(bytes.as_bytes(), framing).unwrap();
            assert_eq!((got.as_slice(), left.as_slice()), (want.as_bytes(), rest.as_bytes()), "{bytes}");
        }
    }

    #[test]
    fn malformed_bodies_are_errors() {
        for bytes in [
            "x\r\n",
            "-1\r\n",
            "\r\n",
            "5\nhello",
            "2\r\nhello\r\n",
            "5\r\nhel",
            "0x1\r\na\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert!(read(bytes.as_bytes(), Framing::Chunked).is_err(), "{bytes}");
        }
        assert!(read(b"abc", Framing::Length(4)).is_err());
        assert!(read("0".repeat(300).as_bytes(), Framing::Chunked).is_err());
    }
}
