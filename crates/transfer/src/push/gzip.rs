//! gzip by several threads: blocks are compressed apart, each with the end of the one before as its
//! dictionary, and put together into one member (RFC 1952), as pigz does it. The same bytes give
//! the same blob, however many threads there are.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use robot_env_diag::{Error, Kind, Result};

/// Length of a block in bytes. Part of the format of the blobs: another one gives other digests.
const BLOCK: usize = 1024 * 1024;
/// How far back deflate looks.
const WINDOW: usize = 32 * 1024;
/// As small as level 6 within half a percent, in four fifths of its time.
const LEVEL: u32 = 5;
/// The most threads of one layer; several layers are compressed at once.
const THREADS: usize = 4;
/// No name, no time, no system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A block to be compressed.
struct Job {
    before: Vec<u8>,
    block: Vec<u8>,
    last: bool,
    done: SyncSender<io::Result<Done>>,
}

/// A compressed block.
struct Done {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what `fill` writes, into `out`; gives `out` back.
pub(super) fn gzip<W: Write>(out: W, fill: impl FnOnce(&mut Blocks<'_, W>) -> Result<()>) -> Result<W> {
    let threads = available_parallelism().map_or(1, NonZero::get).min(THREADS);
    gzip_by(threads, out, fill)
}

fn gzip_by<W: Write>(
    threads: usize,
    out: W,
    fill: impl FnOnce(&mut Blocks<'_, W>) -> Result<()>,
) -> Result<W> {
    let (jobs, waiting) = sync_channel::<Job>(threads);
    let waiting = Mutex::new(waiting);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                // Nobody waits for it any more when the upload has ended.
                let _ = job.done.send(deflate(&job.before, &job.block, job.last));
            }
        };
        for _ in 0..threads {
            std::thread::Builder::new()
                .name("gzip".into())
                .spawn_scoped(scope, work)
                .map_err(|error| Error::new(Kind::of_io(&error), "cannot start a thread").because(error))?;
        }
        let mut blocks = Blocks {
            out,
            jobs: &jobs,
            ahead: 2 * threads,
            before: Vec::new(),
            block: Vec::with_capacity(BLOCK),
            pending: VecDeque::new(),
            crc: Crc::new(),
        };
        let filled = blocks
            .out
            .write_all(&HEADER)
            .map_err(robot_env_registry::error_of)
            .and_then(|()| fill(&mut blocks))
            .and_then(|()| blocks.finish().map_err(robot_env_registry::error_of));
        let out = blocks.out;
        // The threads end when there is nobody left who could give them work.
        drop(jobs);
        filled.map(|()| out)
    })
}

/// Takes what is to be compressed.
pub(super) struct Blocks<'j, W> {
    out: W,
    jobs: &'j SyncSender<Job>,
    /// How many blocks may be under way.
    ahead: usize,
    before: Vec<u8>,
    block: Vec<u8>,
    pending: VecDeque<Receiver<io::Result<Done>>>,
    crc: Crc,
}

impl<W: Write> Blocks<'_, W> {
    fn send(&mut self, last: bool) -> io::Result<()> {
        while self.pending.len() >= self.ahead {
            self.take()?;
        }
        let tail = self.block[self.block.len().saturating_sub(WINDOW)..].to_vec();
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(if last { 0 } else { BLOCK }));
        let before = std::mem::replace(&mut self.before, tail);
        let (done, coming) = sync_channel(1);
        self.jobs.send(Job { before, block, last, done }).map_err(|_| stopped())?;
        self.pending.push_back(coming);
        Ok(())
    }

    /// Waits for the oldest block and writes it.
    fn take(&mut self) -> io::Result<()> {
        let Some(coming) = self.pending.pop_front() else { return Ok(()) };
        let done = coming.recv().map_err(|_| stopped())??;
        self.crc.combine(&done.crc);
        self.out.write_all(&done.bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.send(true)?;
        while !self.pending.is_empty() {
            self.take()?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())
    }
}

impl<W: Write> Write for Blocks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        if self.block.len() == BLOCK {
            self.send(false)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stopped() -> io::Error {
    io::Error::other("a thread that compresses stopped")
}

/// One block as raw deflate that ends at a whole byte; the `last` one ends the stream.
fn deflate(before: &[u8], block: &[u8], last: bool) -> io::Result<Done> {
    let failed = |error| io::Error::other(format!("cannot compress: {error}"));
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    if !before.is_empty() {
        compress.set_dictionary(before).map_err(failed)?;
    }
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let read = usize::try_from(compress.total_in()).map_err(io::Error::other)?;
        let status = compress.compress_vec(&block[read..], &mut bytes, flush).map_err(failed)?;
        // Room that is left means that all was said.
        let whole = if last { status == Status::StreamEnd } else { bytes.len() < bytes.capacity() };
        if whole {
            break;
        }
        bytes.reserve(block.len() / 2 + 1024);
    }
    let mut crc = Crc::new();
    crc.update(block);
    Ok(Done { bytes, crc })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn compress(threads: usize, bytes: &[u8]) -> Vec<u8> {
        let fill = |out: &mut Blocks<'_, Vec<u8>>| out.write_all(bytes).map_err(robot_env_registry::error_of);
        gzip_by(threads, Vec::new(), fill).unwrap()
    }

    #[test]
    fn one_member_that_everyone_reads_and_the_same_for_any_threads() {
        let mut state = 1_u64;
        let mut noise = |length: usize| -> Vec<u8> {
            (0..length)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect()
        };
        let text: Vec<u8> = (0..900_000_u32).flat_map(|n| (n % 5003).to_le_bytes()).collect();
        let mixed = [&text[..], &noise(2 * BLOCK), &[0; 3 * BLOCK], &noise(7)].concat();
        for bytes in [&[][..], b"a", &text[..BLOCK - 1], &text[..BLOCK], &text[..=BLOCK], &text, &mixed] {
            let blob = compress(1, bytes);
            for threads in [2, 5] {
                assert_eq!(compress(threads, bytes), blob, "{} bytes", bytes.len());
            }
            let mut out = Vec::new();
            // The single-member decoder: all of it is in the first one.
            let mut decoder = flate2::bufread::GzDecoder::new(&blob[..]);
            decoder.read_to_end(&mut out).unwrap();
            assert!(out == bytes, "{} bytes", bytes.len());
            assert_eq!(decoder.into_inner().len(), 0);
            let mut alone = flate2::write::GzEncoder::new(Vec::new(), Compression::new(LEVEL));
            alone.write_all(bytes).unwrap();
            let alone = alone.finish().unwrap().len();
            assert!(blob.len() <= alone + alone / 50 + 64, "{} against {alone}", blob.len());
        }
    }

    #[test]
    fn a_failure_on_either_side_ends_it() {
        let error = gzip_by(2, Vec::new(), |_| Err(Error::new(Kind::Corrupt, "damaged"))).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let fill = |out: &mut Blocks<'_, Full>| {
            (0..40).try_for_each(|_| out.write_all(&[1; BLOCK])).map_err(robot_env_registry::error_of)
        };
        assert!(gzip_by(3, Full(5000), fill).is_err());
    }
}
