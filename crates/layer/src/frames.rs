//! Decompressing zstd frame by frame: how much memory a frame takes is known before it is taken.

use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::share::Share;

/// The largest zstd window that is accepted: 2^26 bytes (64 MiB) of memory a decoder.
const WINDOW_LOG_MAX: u32 = 26;
/// The longest header of a frame (RFC 8878, 3.1.1.1), with its magic number.
const HEADER: usize = 18;

/// The frames of a stream, one after the other.
pub(crate) struct Frames<'s, R> {
    input: R,
    decoder: Decoder<'static>,
    share: Option<&'s Share>,
    /// The largest window so far.
    window: usize,
    in_frame: bool,
    /// Bytes of the input from the start of a frame on, as many as a header may have.
    head: [u8; HEADER],
    at: usize,
    len: usize,
}

impl<'s, R: BufRead> Frames<'s, R> {
    pub(crate) fn new(input: R, share: Option<&'s Share>) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Frames { input, decoder, share, window: 0, in_frame: false, head: [0; HEADER], at: 0, len: 0 })
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Begins the next frame; false at the end of the input.
    fn begin(&mut self) -> io::Result<bool> {
        self.head.copy_within(self.at..self.len, 0);
        (self.at, self.len) = (0, self.len - self.at);
        while self.len < HEADER {
            match self.input.read(&mut self.head[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.len == 0 {
            return Ok(false);
        }
        let window = window(&self.head[..self.len]).min(1 << WINDOW_LOG_MAX) as usize;
        if let Some(share) = self.share
            && window > self.window
        {
            share.take(window - self.window).map_err(io::Error::other)?;
            self.window = window;
        }
        self.decoder.reinit()?;
        self.in_frame = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let mut output = OutBuffer::around(out);
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            let from_head = self.at < self.len;
            let bytes = if from_head { &self.head[self.at..self.len] } else { self.input.fill_buf()? };
            let ended = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let left = self.decoder.run(&mut input, &mut output)?;
            let used = input.pos();
            if from_head {
                self.at += used;
            } else {
                self.input.consume(used);
            }
            self.in_frame = left != 0;
            if output.pos() > 0 {
                return Ok(output.pos());
            }
            if ended && self.in_frame {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
            }
        }
    }
}

/// The size of the window that a frame's header asks for; 0 for what has none.
fn window(header: &[u8]) -> u64 {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = header else { return 0 };
    if descriptor & 0x20 == 0 {
        let byte = rest.first().copied().unwrap_or(0);
        let base = 1u64 << (10 + (byte >> 3));
        return base + base / 8 * u64::from(byte & 7);
    }
    // A single segment: the window is the content.
    let id = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let Some(field) = rest.get(id..id + length) else { return 0 };
    let mut bytes = [0; 8];
    bytes[..length].copy_from_slice(field);
    u64::from_le_bytes(bytes) + if length == 2 { 256 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use robot_env_diag::{Error, Kind};

    use super::*;

    fn frame(bytes: &[u8], window_log: u32, sized: bool) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        if sized {
            encoder.set_pledged_src_size(Some(bytes.len() as u64)).unwrap();
        }
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(blob: &[u8], share: Option<&Share>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // Whatever pieces they come in.
        for capacity in [1, 7, 4096] {
            out.clear();
            Frames::new(BufReader::with_capacity(capacity, blob), share)?.read_to_end(&mut out)?;
        }
        Ok(out)
    }

    #[test]
    fn headers_tell_the_window() {
        for log in [10, 17, 20, 26] {
            assert_eq!(window(&frame(&vec![7; 300_000], log, false)), 1 << log);
        }
        for length in [0, 1, 255, 256, 70_000] {
            assert_eq!(window(&frame(&vec![7; length], 20, true)), length as u64);
        }
        for none in [&b""[..], b"\x28\xb5", b"\x50\x2a\x4d\x18\x00\x00\x00\x00", b"\x28\xb5\x2f\xfd\x20"] {
            assert_eq!(window(none), 0);
        }
    }

    #[test]
    fn frames_follow_each_other() {
        let long = vec![9; 400_000];
        let blob = [
            frame(b"one", 10, true),
            frame(b"", 10, true),
            b"\x53\x2a\x4d\x18\x03\x00\x00\x00abc".to_vec(),
            frame(&long, 20, false),
            frame(b"end", 10, false),
        ]
        .concat();
        assert_eq!(read(&blob, None).unwrap(), [b"one", &long[..], b"end"].concat());
        assert_eq!(read(b"", None).unwrap(), b"");
        for cut in [1, 5, 14, blob.len() / 2, blob.len() - 1] {
            let error = read(&blob[..cut], None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}: {error}");
        }
        assert!(read(&[&blob[..], b"garbage"].concat(), None).is_err());
        assert!(read(&frame(&long, 27, false), None).is_err(), "a window of 128 MiB");
    }

    #[test]
    fn windows_are_taken_from_the_share_once() {
        let blob = frame(&vec![1; 100_000], 26, false).repeat(3);
        {
            // Three readers of 64 MiB each are more than a layer may take.
            let share = Share::new();
            let error = read(&blob, Some(&share)).unwrap_err();
            assert_eq!(error.downcast::<Error>().unwrap().kind(), Kind::Unsupported);
        }
        let mut out = Vec::new();
        let share = Share::new();
        Frames::new(&blob[..], Some(&share)).unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(out.len(), 300_000);
    }
}
