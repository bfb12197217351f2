//! Reading a container's log: what [`crate::monitor`] writes, in the order in which it was written.
//!
//! The files are `<id>-json.log`, then `.1`, `.2` and so on, the older the higher; the driver
//! `local` compresses all but the newest (`.1.gz`). A reader holds them open, so that a rotation
//! meanwhile takes nothing from it, and finds its way from a rotated file to the next by inode.

mod file;
mod files;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::{ContainerId, LogDriver};
use serde::Deserialize;

pub(crate) use self::file::numbered;
use self::files::LogFiles;
use crate::engine::Engine;
use crate::stream::Stream;
use crate::watch::Watch;

/// A line of output longer than this is handed out in parts.
const LONGEST: usize = 1024 * 1024;
/// Pieces shorter than this and without a newline are the last words of a process.
const PIECE: usize = 16 * 1024 - 4;
/// How often a container is looked at while its log is silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked at while its log is not.
const BREATH: Duration = Duration::from_millis(100);

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogEntry {
    /// The line, with its newline if it had one.
    #[serde(rename = "log")]
    pub text: String,
    /// Where the container wrote it.
    pub stream: Stream,
    /// When it was heard.
    pub time: Timestamp,
}

/// What to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Nothing younger.
    pub until: Option<Timestamp>,
    /// Only so many lines from the end, before the other options choose; `None`: all.
    pub tail: Option<u64>,
    /// Go on with what is written from now on, until the container ends.
    pub follow: bool,
}

/// What [`LogReader::step`] came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// A line.
    Entry(LogEntry),
    /// Nothing now; see [`LogReader::wait`].
    Pending,
    /// Nothing will come any more.
    Ended,
}

/// Reads a log.
pub struct LogReader<'a> {
    engine: &'a Engine,
    id: ContainerId,
    options: LogOptions,
    files: LogFiles,
    joiner: Joiner,
    watch: Option<Watch>,
    /// Whether the container had ended before the last look at the files.
    over: bool,
    ended: bool,
    next_look: Instant,
    /// When `until` is reached, by a clock that nobody sets.
    until: Option<Instant>,
}

impl Engine {
    /// Reads the log of a container, running or not.
    ///
    /// # Errors
    /// `Unsupported` for the log driver `none`; `InvalidInput` when no stream is asked for.
    pub fn logs(&self, text: &str, options: LogOptions) -> Result<LogReader<'_>> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let container = self.container(text)?;
        if container.record.spec.log.driver == LogDriver::None {
            return Err(Error::new(Kind::Unsupported, "configured logging driver does not support reading"));
        }
        let id = container.record.id.clone();
        // The watch comes first: nothing falls between it and the first look.
        let watch = options.follow.then(|| Watch::new(&self.paths.container(&id)));
        let mut files = LogFiles::open(self.paths.log(&id))?;
        if let Some(lines) = options.tail {
            files.skip_to_tail(lines)?;
        }
        let until = options.until.and_then(|until| {
            let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
            // A time that no clock of ours reaches is none.
            Instant::now().checked_add(left)
        });
        Ok(LogReader {
            engine: self,
            id,
            options,
            files,
            joiner: Joiner::default(),
            watch,
            over: false,
            ended: false,
            next_look: Instant::now(),
            until,
        })
    }
}

impl LogReader<'_> {
    /// The next line; waits for it when the log is followed. `None`: the log has ended.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>> {
        loop {
            match self.step()? {
                LogStep::Entry(entry) => return Ok(Some(entry)),
                LogStep::Pending => self.wait(None),
                LogStep::Ended => return Ok(None),
            }
        }
    }

    /// The next line, if there is one now. Does not wait.
    pub fn step(&mut self) -> Result<LogStep> {
        loop {
            while let Some(entry) = self.joiner.ready.pop_front() {
                if self.options.until.is_some_and(|until| entry.time > until) {
                    self.ended |= self.options.follow;
                } else if self.options.since.is_none_or(|since| entry.time >= since) && self.wants(&entry) {
                    return Ok(LogStep::Entry(entry));
                }
            }
            if self.ended {
                return Ok(LogStep::Ended);
            }
            if let Some(piece) = self.files.next_piece()? {
                self.joiner.add(piece);
            } else if !self.options.follow || self.over {
                self.joiner.finish();
                self.ended = true;
            } else if self.is_over() {
                // What was written before it ended is read yet.
                self.over = true;
            } else {
                return Ok(LogStep::Pending);
            }
        }
    }

    /// Waits until a look is worth it, or `also` can be read.
    pub fn wait(&self, also: Option<BorrowedFd<'_>>) {
        let Some(watch) = &self.watch else { return };
        let now = Instant::now();
        let mut patience =
            self.next_look.checked_duration_since(now).map_or(PATIENCE, |left| left.max(BREATH));
        if let Some(until) = self.until {
            patience = patience.min(until.saturating_duration_since(now) + Duration::from_millis(1));
        }
        watch.wait(also, patience);
    }

    /// What can be read when the log has grown or ended, for whoever waits for many logs at once; he
    /// looks again after a second at the latest, and calls [`LogReader::wait`] when it could be read.
    /// `None` without `follow`, and where the kernel has no watch to give.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref()?.descriptor()
    }

    fn wants(&self, entry: &LogEntry) -> bool {
        match entry.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        }
    }

    /// Whether nobody will write any more: the container has ended, or `until` has passed.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        if self.until.is_some_and(|until| now > until) {
            return true;
        }
        if now < self.next_look {
            return false;
        }
        self.next_look = now + BREATH;
        self.engine.container_by_id(&self.id).map_or(true, |container| !container.state.state.is_active())
    }
}

/// Puts the pieces of long lines together again.
#[derive(Debug, Default)]
struct Joiner {
    /// A line of each stream whose end has not come.
    begun: [Option<LogEntry>; 2],
    ready: VecDeque<LogEntry>,
}

impl Joiner {
    fn add(&mut self, piece: LogEntry) {
        let slot = &mut self.begun[piece.stream as usize];
        let last = piece.text.ends_with('\n') || piece.text.len() < PIECE;
        let entry = match slot.take() {
            Some(mut entry) => {
                entry.text.push_str(&piece.text);
                entry
            }
            None => piece,
        };
        if last || entry.text.len() >= LONGEST {
            self.ready.push_back(entry);
        } else {
            *slot = Some(entry);
        }
    }

    /// Lines whose end will not come.
    fn finish(&mut self) {
        let mut rest: Vec<LogEntry> = self.begun.iter_mut().filter_map(Option::take).collect();
        rest.sort_by_key(|entry| entry.time);
        self.ready.extend(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: Stream, text: &str) -> LogEntry {
        LogEntry { text: text.to_owned(), stream, time: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn pieces_become_lines() {
        let long = "x".repeat(16 * 1024);
        let mut joiner = Joiner::default();
        joiner.add(piece(Stream::Stdout, &long));
        joiner.add(piece(Stream::Stderr, "e\n"));
        joiner.add(piece(Stream::Stdout, "end\n"));
        joiner.add(piece(Stream::Stdout, "last words"));
        joiner.add(piece(Stream::Stdout, "next run\n"));
        joiner.add(piece(Stream::Stdout, &long));
        joiner.finish();
        let texts: Vec<&str> = joiner.ready.iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(texts, ["e\n", &format!("{long}end\n"), "last words", "next run\n", &long]);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut joiner = Joiner::default();
        for _ in 0..200 {
            joiner.add(piece(Stream::Stdout, &"x".repeat(16 * 1024)));
            assert!(joiner.begun[0].as_ref().is_none_or(|entry| entry.text.len() < LONGEST));
        }
        assert!(joiner.ready.len() >= 3);
    }
}
