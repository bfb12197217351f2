//! One file of a log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use super::LogEntry;

/// A record is at most 16 KiB of text, each byte of which is at most six in JSON. What is longer
/// is no record.
const LIMIT: u64 = 256 * 1024;

/// The name of a rotated file: 0 is the newest.
pub(crate) fn numbered(path: &Path, number: u32, compressed: bool) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    if compressed {
        name.push(".gz");
    }
    name.into()
}

/// For a compressed file the inode that it had before: its header says it.
fn original_inode(file: &File) -> io::Result<Option<u64>> {
    let mut magic = [0u8; 2];
    if file.read_at(&mut magic, 0)? < 2 || magic != [0x1f, 0x8b] {
        return Ok(None);
    }
    let mut copy = file.try_clone()?;
    copy.seek(SeekFrom::Start(0))?;
    let decoder = GzDecoder::new(BufReader::new(copy));
    let comment = decoder.header().and_then(|header| header.comment()).unwrap_or_default();
    let inode = std::str::from_utf8(comment).ok().and_then(|text| text.parse().ok());
    Ok(Some(inode.unwrap_or(0)))
}

enum Source {
    Plain(BufReader<File>),
    Compressed(Box<BufReader<GzDecoder<BufReader<File>>>>),
}

/// An open file of the log.
pub(super) struct LogFile {
    /// Its inode, which no other file gets while this one is open.
    pub(super) inode: u64,
    /// Of a compressed one, that of the file before; it may have been given to another since.
    original: Option<u64>,
    file: File,
    source: Source,
    /// What was read of a record that has not ended.
    partial: Vec<u8>,
}

/// Where the last lines of a file begin.
pub(super) enum Tail {
    /// At this offset of its content.
    At(u64),
    /// It has only so many.
    Fewer(u64),
}

impl LogFile {
    /// The file that has that number now, plain or compressed; `None` where there is none.
    pub(super) fn open(path: &Path, number: u32) -> io::Result<Option<LogFile>> {
        for compressed in [false, true] {
            match File::open(numbered(path, number, compressed)) {
                Ok(file) => return LogFile::of(file).map(Some),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn of(file: File) -> io::Result<LogFile> {
        let original = original_inode(&file)?;
        let mut found = LogFile {
            inode: file.metadata()?.ino(),
            original,
            source: Source::Plain(BufReader::new(file.try_clone()?)),
            file,
            partial: Vec::new(),
        };
        found.rewind()?;
        Ok(found)
    }

    /// Whether `other`, found under a number at least as high, is this one: the same file, or what
    /// it was compressed to.
    pub(super) fn is(&self, other: &LogFile) -> bool {
        self.inode == other.inode || (self.original.is_none() && other.original == Some(self.inode))
    }

    /// Whether it is known to have been rotated: nobody writes to it any more.
    pub(super) fn is_compressed(&self) -> bool {
        self.original.is_some()
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let reader = BufReader::with_capacity(64 * 1024, self.file.try_clone()?);
        self.source = if self.is_compressed() {
            Source::Compressed(Box::new(BufReader::new(GzDecoder::new(reader))))
        } else {
            Source::Plain(reader)
        };
        Ok(())
    }

    /// The next record. `None` at the end of what is written; more may come later. What is no
    /// record (a crash of the machine leaves zeros) is passed over.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<LogEntry>> {
        while self.fill()? {
            let line = std::mem::take(&mut self.partial);
            let start = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
            if let Ok(entry) = serde_json::from_slice(&line[start..]) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Reads up to the next newline; false when it is not there yet.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            let room = LIMIT - self.partial.len() as u64;
            let done = match &mut self.source {
                Source::Plain(source) => source.take(room).read_until(b'\n', &mut self.partial),
                // One that was cut short ends where it was cut.
                Source::Compressed(source) => {
                    source.take(room).read_until(b'\n', &mut self.partial).or(Ok(0))
                }
            };
            done?;
            if self.partial.ends_with(b"\n") {
                return Ok(true);
            }
            if (self.partial.len() as u64) < LIMIT {
                return Ok(false);
            }
            self.partial.clear();
        }
    }

    /// Finds where the last `lines` lines begin. In the `newest` file an unfinished line counts.
    pub(super) fn tail(&mut self, lines: u64, newest: bool) -> io::Result<Tail> {
        match self.source {
            Source::Plain(_) => self.tail_backwards(lines, newest),
            Source::Compressed(_) => self.tail_forwards(lines),
        }
    }

    /// Goes on at this offset of the content.
    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.source {
            Source::Plain(source) => source.seek(SeekFrom::Start(offset)).map(drop),
            Source::Compressed(source) => io::copy(&mut source.take(offset), &mut io::sink()).map(drop),
        }
    }

    /// Goes on at the end.
    pub(super) fn skip_to_end(&mut self) -> io::Result<()> {
        match &mut self.source {
            Source::Plain(source) => source.seek(SeekFrom::End(0)).map(drop),
            Source::Compressed(source) => io::copy(source, &mut io::sink()).map(drop).or(Ok(())),
        }
    }

    fn tail_backwards(&self, lines: u64, newest: bool) -> io::Result<Tail> {
        const BLOCK: u64 = 64 * 1024;
        let mut position = self.file.metadata()?.len();
        let mut count = 0;
        // Bytes from `position` on, up to the record that was looked at last.
        let mut held: Vec<u8> = Vec::new();
        let mut first = true;
        loop {
            // The newline that ends the record before the one that was looked at last.
            let searched = held.len().saturating_sub(1);
            if let Some(at) = held[..searched].iter().rposition(|byte| *byte == b'\n') {
                let record = &held[at + 1..];
                if is_end(record) {
                    if count == lines {
                        return Ok(Tail::At(position + held.len() as u64));
                    }
                    count += 1;
                } else if first && newest {
                    count += 1;
                }
                first = false;
                held.truncate(at + 1);
                continue;
            }
            if position == 0 {
                let end = !held.is_empty() && is_end(&held);
                if end && count == lines {
                    return Ok(Tail::At(held.len() as u64));
                }
                let unfinished = first && newest && !held.is_empty();
                return Ok(Tail::Fewer(count + u64::from(end || unfinished)));
            }
            let size = BLOCK.min(position);
            position -= size;
            let mut block = vec![0u8; size as usize];
            self.file.read_exact_at(&mut block, position)?;
            block.extend_from_slice(&held);
            held = block;
        }
    }

    fn tail_forwards(&mut self, lines: u64) -> io::Result<Tail> {
        let mut ends: VecDeque<u64> = VecDeque::new();
        let mut offset = 0u64;
        while self.fill()? {
            let record = std::mem::take(&mut self.partial);
            offset += record.len() as u64;
            if is_end(&record) {
                ends.push_back(offset);
                if ends.len() as u64 > lines + 1 {
                    ends.pop_front();
                }
            }
        }
        self.partial.clear();
        self.rewind()?;
        let found = ends.len() as u64;
        Ok(if found > lines { Tail::At(ends[0]) } else { Tail::Fewer(found) })
    }
}

/// Whether a record holds the end of a line: its text ends with an escaped newline. A quotation
/// mark in the text would be escaped, so the key behind it is found without reading the JSON.
fn is_end(record: &[u8]) -> bool {
    const KEY: &[u8] = b"\",\"stream\":\"";
    let Some(at) = record.windows(KEY.len()).rposition(|window| window == KEY) else { return false };
    let Some(text) = record[..at].strip_suffix(b"n") else { return false };
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_lines_are_told_from_what_looks_like_them() {
        for (text, want) in [
            ("a\n", true),
            ("a", false),
            ("a\\n", false),
            ("a\\\n", true),
            ("\",\"stream\":\"\n", true),
            ("n", false),
            ("\n", true),
        ] {
            let record = format!(
                "{{\"log\":{},\"stream\":\"stdout\",\"time\":\"2024-01-01T00:00:00Z\"}}\n",
                serde_json::to_string(text).unwrap()
            );
            assert_eq!(is_end(record.as_bytes()), want, "{record}");
        }
        assert!(!is_end(b"junk\n"));
    }
}
