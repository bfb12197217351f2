//! What a monitor and its clients say to each other over a unix socket.
//!
//! A frame is a kind (one byte), a length (four bytes, little endian, at most
//! [`FRAME_LIMIT`]) and that many bytes. A client first sends [`Frame::Hello`]; the monitor answers
//! [`Frame::Attached`], then output until [`Frame::Exit`], and closes.

use robot_env_diag::{Error, Kind, Report, Result};
use serde::{Deserialize, Serialize};

/// The most bytes that one frame carries.
pub const FRAME_LIMIT: usize = 64 * 1024;

/// Which of a container's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; the only one where there is a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// To write standard input.
    pub stdin: bool,
    /// To read standard output.
    pub stdout: bool,
    /// To read standard error.
    pub stderr: bool,
}

/// How the container's process ended, as a client hears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNotice {
    /// Its exit code; 128 + n for signal n.
    pub code: i32,
    /// What went wrong beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Report>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Client: the first frame.
    Hello(Hello),
    /// Client: bytes for standard input.
    Stdin(Vec<u8>),
    /// Client: no more standard input.
    StdinEnd,
    /// Client: the terminal has so many rows and columns now.
    Resize(u16, u16),
    /// Monitor: nothing that comes from now on is missed.
    Attached,
    /// Monitor: bytes of an output stream.
    Output(Stream, Vec<u8>),
    /// Monitor: the process has ended and everything that it wrote was sent.
    Exit(ExitNotice),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Stdin(_) => 2,
            Frame::StdinEnd => 3,
            Frame::Resize(..) => 4,
            Frame::Attached => 16,
            Frame::Output(Stream::Stdout, _) => 17,
            Frame::Output(Stream::Stderr, _) => 18,
            Frame::Exit(_) => 19,
        }
    }

    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let json;
        let payload: &[u8] = match self {
            Frame::Hello(hello) => {
                json = serde_json::to_vec(hello).unwrap_or_default();
                &json
            }
            Frame::Exit(notice) => {
                json = serde_json::to_vec(notice).unwrap_or_default();
                &json
            }
            Frame::Stdin(bytes) | Frame::Output(_, bytes) => bytes,
            Frame::Resize(rows, columns) => {
                json = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
                &json
            }
            Frame::StdinEnd | Frame::Attached => &[],
        };
        out.push(self.kind());
        out.extend((payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
    }
}

/// Puts frames together from the pieces in which they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > FRAME_LIMIT {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// A frame that is too long, of an unknown kind, or malformed: the peer cannot be talked to.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let bad = |why: &str| Error::new(Kind::Corrupt, format!("cannot read the monitor's stream: {why}"));
        let Some(head) = self.buffer.get(self.start..self.start + 5) else { return Ok(None) };
        let (kind, length) = (head[0], u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if length > FRAME_LIMIT {
            return Err(bad("a frame is too long"));
        }
        let Some(payload) = self.buffer.get(self.start + 5..self.start + 5 + length) else { return Ok(None) };
        let frame = match kind {
            1 => {
                Frame::Hello(serde_json::from_slice(payload).map_err(|e| bad("malformed hello").because(e))?)
            }
            2 => Frame::Stdin(payload.to_vec()),
            3 => Frame::StdinEnd,
            4 => match payload {
                [a, b, c, d] => Frame::Resize(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])),
                _ => return Err(bad("malformed resize")),
            },
            16 => Frame::Attached,
            17 => Frame::Output(Stream::Stdout, payload.to_vec()),
            18 => Frame::Output(Stream::Stderr, payload.to_vec()),
            19 => Frame::Exit(serde_json::from_slice(payload).map_err(|e| bad("malformed exit").because(e))?),
            _ => return Err(bad("unknown kind of frame")),
        };
        self.start += 5 + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let frames = [
            Frame::Hello(Hello { stdin: true, stdout: true, stderr: false }),
            Frame::Stdin(b"ls\n".to_vec()),
            Frame::StdinEnd,
            Frame::Resize(24, 80),
            Frame::Attached,
            Frame::Output(Stream::Stdout, vec![0; 70_000 % FRAME_LIMIT]),
            Frame::Output(Stream::Stderr, b"x".to_vec()),
            Frame::Exit(ExitNotice { code: 3, error: None }),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(&mut bytes);
        }
        for step in [1, 3, 7, bytes.len()] {
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(step) {
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames);
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in
            [&[99u8, 0, 0, 0, 0][..], &[2, 255, 255, 255, 255], &[1, 1, 0, 0, 0, b'x'], &[4, 1, 0, 0, 0, 1]]
        {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            assert!(decoder.next_frame().is_err());
        }
    }
}
