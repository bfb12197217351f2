//! Writing a container's log: Docker's JSON lines, rotated by size.
//!
//! A line is `{"log":"text\n","stream":"stdout","time":"RFC 3339 with nanoseconds"}`. A line of
//! output longer than [`PIECE`] bytes is cut into pieces, all but the last without `\n`; readers
//! join them. A disk that is full drops lines and counts them; the container is never blocked, but
//! for the time in which a file of the driver `local` is compressed when the next one is full
//! before that is done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use robot_env_spec::{LogConfig, LogDriver};
use robot_env_sys::poll::{self, Fork};
use robot_env_sys::process;
use rustix::event::{PollFd, PollFlags};

use crate::logs::numbered;
use crate::stream::Stream;

const PIECE: usize = 16 * 1024;
const DEFAULT_SIZE: u64 = 10_000_000;
const DEFAULT_FILES: u32 = 3;

/// The log of one container.
pub(crate) struct LogWriter {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    limit: u64,
    files: u32,
    compresses: bool,
    /// The process that compresses the last file.
    compressor: Option<OwnedFd>,
    partial: [Vec<u8>; 2],
    /// Lines that could not be written.
    pub(crate) dropped: u64,
}

impl LogWriter {
    /// Opens the log at `path`; `None` for the driver `none`.
    pub(crate) fn open(path: &Path, config: &LogConfig) -> Option<LogWriter> {
        if config.driver == LogDriver::None {
            return None;
        }
        let mut writer = LogWriter {
            path: path.to_owned(),
            file: None,
            size: 0,
            limit: config.max_size.unwrap_or(DEFAULT_SIZE).max(1),
            files: config.max_file.unwrap_or(DEFAULT_FILES).max(1),
            compresses: config.driver == LogDriver::Local
                && config.as_given.get("compress").is_none_or(|value| value != "false"),
            compressor: None,
            partial: [Vec::new(), Vec::new()],
            dropped: 0,
        };
        writer.reopen();
        Some(writer)
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path).ok();
        self.size = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
    }

    /// Adds output; whole lines go to the file at once.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        let slot = stream as usize;
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.partial[slot].is_empty() {
                push_pieces(&mut lines, stream, line);
            } else {
                let mut whole = std::mem::take(&mut self.partial[slot]);
                whole.extend_from_slice(line);
                push_pieces(&mut lines, stream, &whole);
            }
        }
        self.partial[slot].extend_from_slice(bytes);
        while self.partial[slot].len() >= PIECE {
            let end = piece_end(&self.partial[slot]);
            let piece: Vec<u8> = self.partial[slot].drain(..end).collect();
            push_line(&mut lines, stream, &piece);
        }
        self.append(&lines);
    }

    /// Writes what has no newline yet: the container has ended.
    pub(crate) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                let mut lines = Vec::new();
                push_line(&mut lines, stream, &rest);
                self.append(&lines);
            }
        }
    }

    fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.size > 0 && self.size + lines.len() as u64 > self.limit {
            self.rotate();
        }
        let written = self.file.as_mut().is_some_and(|file| file.write_all(lines).is_ok());
        if written {
            self.size += lines.len() as u64;
        } else {
            self.dropped += lines.split_inclusive(|byte| *byte == b'\n').count() as u64;
            // Half a line would take the next one with it.
            if let Some(file) = &self.file {
                let _ = file.set_len(self.size);
            }
            self.reopen();
        }
    }

    fn rotate(&mut self) {
        if let Some(compressor) = self.compressor.take() {
            let _ = rustix::event::poll(&mut [PollFd::new(&compressor, PollFlags::IN)], None);
        }
        if self.files == 1 {
            let _ = fs::remove_file(&self.path);
            return self.reopen();
        }
        for number in (1..self.files).rev() {
            for compressed in [false, true] {
                let from = numbered(&self.path, number, compressed);
                if number + 1 < self.files {
                    let _ = fs::rename(from, numbered(&self.path, number + 1, compressed));
                } else {
                    let _ = fs::remove_file(from);
                }
            }
        }
        let _ = fs::rename(&self.path, numbered(&self.path, 1, false));
        self.reopen();
        if self.compresses {
            self.compressor = compress_aside(&self.path);
        }
    }
}

/// Compresses the file that was rotated last, in a process of its own: the container's output goes
/// on meanwhile. Where this process may not fork it is done here. What fails leaves the file as it
/// is, and readers cope.
fn compress_aside(path: &Path) -> Option<OwnedFd> {
    let Ok(Fork::Parent(pid)) = poll::fork().map(|fork| match fork {
        Fork::Parent(pid) => Fork::Parent(pid),
        Fork::Child => {
            // The monitor's lock and the container's pipes must not outlive the monitor here.
            let _ = process::close_all_but(&[0, 1, 2]);
            let _ = rustix::process::nice(10);
            let _ = compress(path);
            poll::exit_now(0)
        }
    }) else {
        let _ = compress(path);
        return None;
    };
    process::pidfd_open(pid).ok()
}

/// Makes `.1.gz` of `.1`. The header says which file it was, for readers that have that one open.
fn compress(path: &Path) -> io::Result<()> {
    let from = numbered(path, 1, false);
    let mut source = File::open(&from)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".compressing");
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o640).open(&unfinished)?;
    let header = GzBuilder::new().comment(source.metadata()?.ino().to_string());
    let mut encoder = header.write(file, Compression::fast());
    let done = io::copy(&mut source, &mut encoder)
        .and_then(|_| encoder.finish())
        .and_then(|_| fs::rename(&unfinished, numbered(path, 1, true)))
        .and_then(|()| fs::remove_file(&from));
    if done.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    done
}

/// Where a piece ends: [`PIECE`] bytes, or a little less so that no character is cut in two.
fn piece_end(bytes: &[u8]) -> usize {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (PIECE - 3..=PIECE).rev().find(|end| !continues(*end)).unwrap_or(PIECE)
}

fn push_pieces(lines: &mut Vec<u8>, stream: Stream, line: &[u8]) {
    let mut rest = line;
    while rest.len() > PIECE {
        let (piece, tail) = rest.split_at(piece_end(rest));
        push_line(lines, stream, piece);
        rest = tail;
    }
    push_line(lines, stream, rest);
}

fn push_line(lines: &mut Vec<u8>, stream: Stream, text: &[u8]) {
    lines.extend_from_slice(b"{\"log\":");
    let _ = serde_json::to_writer(&mut *lines, &String::from_utf8_lossy(text));
    lines.extend_from_slice(match stream {
        Stream::Stdout => b",\"stream\":\"stdout\",\"time\":\"",
        Stream::Stderr => b",\"stream\":\"stderr\",\"time\":\"",
    });
    let _ = write!(lines, "{:.9}", Timestamp::now());
    lines.extend_from_slice(b"\"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_are_whole_cut_and_rotated() {
        let path = std::env::temp_dir().join(format!("re-log-{}", std::process::id()));
        let config = LogConfig { max_size: Some(100_000), max_file: Some(2), ..Default::default() };
        let mut log = LogWriter::open(&path, &config).unwrap();
        log.write(Stream::Stdout, b"a\nb");
        log.write(Stream::Stderr, b"e\n");
        log.write(Stream::Stdout, b"c\nrest");
        assert_eq!(texts(&path), ["a\n", "e\n", "bc\n"]);
        log.write(Stream::Stdout, &[b'x'; 20_000]);
        log.finish();
        let lengths: Vec<usize> = texts(&path).iter().map(String::len).collect();
        assert_eq!(lengths, [2, 2, 3, PIECE, 20_004 - PIECE]);
        log.write(Stream::Stdout, &[b'\n'; 2000]);
        let rotated = path.with_extension("1");
        let rotated = if rotated.exists() { rotated } else { PathBuf::from(format!("{}.1", path.display())) };
        assert!(rotated.exists(), "the full file was rotated away");
        assert_eq!(texts(&path).len(), 2000);
        fs::remove_file(rotated).unwrap();
        fs::remove_file(path).unwrap();
    }
}
