//! A pipe between two threads of this process, in large pieces.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How many pieces may wait; they are as large as what is written at once.
const PIECES: usize = 8;

/// A pipe: its two ends. When one is dropped, the other sees the end, or a broken pipe.
pub(crate) fn pipe() -> (Sink, Source) {
    let (sender, receiver) = sync_channel(PIECES);
    (Sink(sender), Source { receiver, piece: Vec::new(), at: 0 })
}

/// Where bytes go in.
pub(crate) struct Sink(SyncSender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() && self.0.send(bytes.to_vec()).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where they come out.
pub(crate) struct Source {
    receiver: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = out.len().min(self.piece.len() - self.at);
        out[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_and_a_gone_reader_is_noticed() {
        let (mut sink, mut source) = pipe();
        let read = std::thread::scope(|scope| {
            scope.spawn(move || (0..100_u8).for_each(|n| sink.write_all(&[n; 1000]).unwrap()));
            let mut read = Vec::new();
            source.read_to_end(&mut read).unwrap();
            read
        });
        assert_eq!(read.len(), 100_000);
        assert!(read.chunks(1000).zip(0..).all(|(piece, n)| piece.iter().all(|byte| *byte == n)));
        let (mut sink, source) = pipe();
        drop(source);
        assert_eq!(sink.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
