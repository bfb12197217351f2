//! The files of a log, as one.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use robot_env_diag::{IoContext, Result};

use super::LogEntry;
use super::file::{LogFile, Tail};

/// All files of a log, the oldest first, and those that come.
pub(crate) struct LogFiles {
    path: PathBuf,
    files: VecDeque<LogFile>,
    /// Whether the first of `files` is known to be a rotated one, and read to its end again since.
    drained: bool,
}

impl LogFiles {
    pub(crate) fn open(path: PathBuf) -> Result<LogFiles> {
        let fail = || format!("cannot read log `{}`", path.display());
        let mut files = VecDeque::new();
        for _ in 0..5 {
            files = open_all(&path).io_context(fail)?;
            let newest = std::fs::metadata(&path).map(|metadata| metadata.ino()).ok();
            // Otherwise the names were moving while they were looked at.
            if newest == files.back().map(|file| file.inode) {
                break;
            }
        }
        Ok(LogFiles { path, files, drained: false })
    }

    /// Leaves out all but the last `lines` lines.
    pub(crate) fn skip_to_tail(&mut self, lines: u64) -> Result<()> {
        self.find_tail(lines).io_context(|| format!("cannot read log `{}`", self.path.display()))
    }

    fn find_tail(&mut self, lines: u64) -> io::Result<()> {
        if lines == 0 {
            self.files.drain(..self.files.len().saturating_sub(1));
            return self.files.front_mut().map_or(Ok(()), LogFile::skip_to_end);
        }
        let (newest, mut left) = (self.files.len(), lines);
        for index in (0..newest).rev() {
            match self.files[index].tail(left, index + 1 == newest)? {
                Tail::At(offset) => {
                    self.files[index].skip_to(offset)?;
                    self.files.drain(..index);
                    return Ok(());
                }
                Tail::Fewer(count) => left = left.saturating_sub(count),
            }
        }
        Ok(())
    }

    /// The next piece of a line; `None` when there is none now.
    pub(crate) fn next_piece(&mut self) -> Result<Option<LogEntry>> {
        self.next().io_context(|| format!("cannot read log `{}`", self.path.display()))
    }

    fn next(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            let Some(current) = self.files.front_mut() else {
                // Nothing had been written when the log was opened.
                self.files = open_all(&self.path)?;
                if self.files.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(piece) = current.next_piece()? {
                return Ok(Some(piece));
            }
            let (inode, rotated) = (current.inode, current.is_compressed());
            if self.files.len() > 1 {
                self.files.pop_front();
                self.drained = false;
                continue;
            }
            match std::fs::metadata(&self.path) {
                Ok(metadata) if rotated || metadata.ino() != inode => {}
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
            // It was rotated; what came between the end and the rotation is read first.
            if !std::mem::replace(&mut self.drained, true) {
                continue;
            }
            self.drained = false;
            let Some(current) = self.files.pop_front() else { continue };
            match self.successor(&current)? {
                Some(next) => self.files.push_back(next),
                None => self.files.push_back(current),
            }
        }
    }

    /// The file that was begun when `current` was full; if that was thrown away meanwhile, the
    /// oldest there is.
    fn successor(&self, current: &LogFile) -> io::Result<Option<LogFile>> {
        for _ in 0..5 {
            let mut younger: Option<LogFile> = None;
            for number in 0.. {
                let Some(file) = LogFile::open(&self.path, number)? else { break };
                if current.is(&file) {
                    return Ok(younger);
                }
                younger = Some(file);
            }
            // The names may have been moving while they were looked at.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(open_all(&self.path)?.pop_front())
    }
}

/// Opens every file, the newest first: a rotation meanwhile shows one twice, but hides none.
fn open_all(path: &Path) -> io::Result<VecDeque<LogFile>> {
    let mut files: VecDeque<LogFile> = VecDeque::new();
    let mut gaps = 0;
    for number in 0.. {
        match LogFile::open(path, number)? {
            Some(file) if files.front().is_some_and(|known| known.is(&file)) => {}
            Some(file) => files.push_front(file),
            None if gaps == 0 => gaps += 1,
            None => break,
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use robot_env_spec::{LogConfig, LogDriver};
    use robot_env_testkit::temporary::TemporaryDirectory;

    use super::*;
    use crate::logs::numbered;
    use crate::monitor::LogWriter;
    use crate::stream::Stream;

    /// A log of small files.
    fn writer(path: &Path, driver: LogDriver, files: u32) -> LogWriter {
        let config =
            LogConfig { driver, max_size: Some(2000), max_file: Some(files), ..LogConfig::default() };
        LogWriter::open(path, &config).unwrap()
    }

    fn write(log: &mut LogWriter, lines: std::ops::Range<u32>) {
        for line in lines {
            log.write(Stream::Stdout, format!("line {line}\n").as_bytes());
        }
    }

    fn rest(files: &mut LogFiles) -> Vec<u32> {
        let mut out = Vec::new();
        while let Some(piece) = files.next_piece().unwrap() {
            out.push(piece.text.trim_end().strip_prefix("line ").unwrap().parse().unwrap());
        }
        out
    }

    #[test]
    fn rotated_files_are_read_in_order_compressed_or_not() {
        for driver in [LogDriver::JsonFile, LogDriver::Local] {
            let directory = TemporaryDirectory::new("logs");
            let path = directory.join("log");
            write(&mut writer(&path, driver, 5), 0..80);
            let compressed = driver == LogDriver::Local;
            assert_eq!(numbered(&path, 2, true).exists(), compressed);
            assert_eq!(numbered(&path, 2, false).exists(), !compressed);
            let all = rest(&mut LogFiles::open(path.clone()).unwrap());
            assert_eq!(all, (0..80).collect::<Vec<_>>(), "{driver:?}");
            for lines in [0, 1, 2, 10, 27, 28, 29, 79, 80, 1000] {
                let mut files = LogFiles::open(path.clone()).unwrap();
                files.skip_to_tail(lines).unwrap();
                let want: Vec<u32> = (80u32.saturating_sub(lines as u32)..80).collect();
                assert_eq!(rest(&mut files), want, "{driver:?} {lines}");
            }
        }
    }

    #[test]
    fn files_that_are_too_many_go() {
        let directory = TemporaryDirectory::new("logs");
        let path = directory.join("log");
        write(&mut writer(&path, LogDriver::Local, 3), 0..200);
        assert!(numbered(&path, 2, true).exists() && !numbered(&path, 3, true).exists());
        let all = rest(&mut LogFiles::open(path).unwrap());
        assert_eq!(all.last(), Some(&199));
        assert!(all.len() < 100 && all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{all:?}");
    }

    #[test]
    fn a_reader_follows_through_any_number_of_rotations() {
        for driver in [LogDriver::JsonFile, LogDriver::Local] {
            for step in [1, 7, 26, 27, 60] {
                let directory = TemporaryDirectory::new("logs");
                let path = directory.join("log");
                let mut files = LogFiles::open(path.clone()).unwrap();
                assert_eq!(rest(&mut files), Vec::<u32>::new());
                let mut log = writer(&path, driver, 5);
                let mut got = Vec::new();
                for start in (0..300).step_by(step as usize) {
                    write(&mut log, start..(start + step).min(300));
                    got.extend(rest(&mut files));
                }
                assert_eq!(got, (0..300).collect::<Vec<_>>(), "{driver:?}, {step} lines at a time");
            }
        }
    }

    #[test]
    fn what_was_thrown_away_is_passed_over() {
        let directory = TemporaryDirectory::new("logs");
        let path = directory.join("log");
        let mut log = writer(&path, LogDriver::Local, 3);
        write(&mut log, 0..5);
        let mut files = LogFiles::open(path).unwrap();
        files.next_piece().unwrap().unwrap();
        write(&mut log, 5..300);
        let got = rest(&mut files);
        assert_eq!(got[0], 1, "the open file is read to its end");
        assert_eq!(got.last(), Some(&299));
        assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "{got:?}");
    }

    #[test]
    fn damage_is_passed_over() {
        let directory = TemporaryDirectory::new("logs");
        let path = directory.join("log");
        let mut log = writer(&path, LogDriver::Local, 5);
        write(&mut log, 0..3);
        let mut text = std::fs::read(&path).unwrap();
        text.extend([0; 300]);
        text.extend_from_slice(b"{\"log\":\"torn\n");
        std::fs::write(&path, &text).unwrap();
        let mut log = writer(&path, LogDriver::Local, 5);
        write(&mut log, 3..60);
        assert_eq!(rest(&mut LogFiles::open(path.clone()).unwrap()), (0..60).collect::<Vec<_>>());
        // A compressed file that was cut short gives what is in it.
        let oldest = (1..5).map(|n| numbered(&path, n, true)).rfind(|path| path.exists()).unwrap();
        let whole = std::fs::read(&oldest).unwrap();
        std::fs::write(&oldest, &whole[..whole.len() - 9]).unwrap();
        let got = rest(&mut LogFiles::open(path.clone()).unwrap());
        assert_eq!(got.last(), Some(&59));
        let mut files = LogFiles::open(path).unwrap();
        files.skip_to_tail(30).unwrap();
        assert_eq!(rest(&mut files), (30..60).collect::<Vec<_>>());
    }
}
