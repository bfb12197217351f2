//! Events: one JSON line each in `RUN/events.log`, appended by whichever process acts, so that
//! every command line and every API server sees the events of all.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use robot_env_diag::{IoContext, Result};
use serde::{Deserialize, Serialize};

use crate::watch::Watch;

/// Bytes after which the log starts anew; one older file is kept.
const LIMIT: u64 = 8 * 1024 * 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `volume` or `network`.
    pub kind: String,
    /// `create`, `start`, `die`, ...
    pub action: String,
    /// The object's id or name.
    pub id: String,
    /// What else is known: `image`, `name`, `exitCode`, labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub nanoseconds: i64,
}

impl Event {
    /// An event that happens now.
    pub fn now(
        kind: &str,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) -> Self {
        Event {
            kind: kind.to_owned(),
            action: action.into(),
            id: id.into(),
            attributes,
            nanoseconds: Timestamp::now().as_nanosecond() as i64,
        }
    }

    /// When it happened.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanosecond(self.nanoseconds.into()).unwrap_or_default()
    }
}

/// Adds an event. An event that cannot be written is lost: nothing that a user asked for may fail
/// because of it.
pub fn append(log: &Path, event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    let Ok(mut file) = OpenOptions::new().create(true).append(true).mode(0o640).open(log) else { return };
    // One write of an O_APPEND file: lines of several processes never mix.
    let _ = file.write_all(&line);
    if file.metadata().is_ok_and(|m| m.len() > LIMIT) {
        let _ = fs::rename(log, older(log));
    }
}

fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Reads events as they come.
pub struct EventReader {
    log: PathBuf,
    file: Option<BufReader<fs::File>>,
    inode: u64,
    partial: String,
    /// Whether the current file is known to be full, and was read to its end since.
    drained: bool,
    watch: Option<Watch>,
}

impl EventReader {
    /// A reader that begins with the oldest event that is kept, or, for `new_only`, with the next.
    pub fn open(log: PathBuf, new_only: bool) -> Result<Self> {
        let mut reader =
            EventReader { log, file: None, inode: 0, partial: String::new(), drained: false, watch: None };
        reader.reopen();
        if new_only && let Some(file) = &mut reader.file {
            file.seek(SeekFrom::End(0)).io_context(|| "cannot read events".into())?;
        }
        Ok(reader)
    }

    /// The events of the file before the current one, oldest first.
    pub fn older(&self) -> Vec<Event> {
        let text = fs::read_to_string(older(&self.log)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn reopen(&mut self) {
        if let Ok(file) = fs::File::open(&self.log) {
            self.inode = file.metadata().map_or(0, |m| m.ino());
            self.file = Some(BufReader::new(file));
        }
    }

    /// The next event that has been written; `None` when there is none now.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            let Some(file) = &mut self.file else {
                self.reopen();
                if self.file.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let n = file.read_line(&mut self.partial).io_context(|| "cannot read events".into())?;
            if n == 0 {
                let moved = fs::metadata(&self.log).is_ok_and(|m| m.ino() != self.inode);
                if !moved {
                    return Ok(None);
                }
                // What came between the end and the rotation is read first.
                if std::mem::replace(&mut self.drained, true) {
                    (self.file, self.drained) = (None, false);
                }
                continue;
            }
            if self.partial.ends_with('\n') {
                let line = std::mem::take(&mut self.partial);
                if let Ok(event) = serde_json::from_str(&line) {
                    return Ok(Some(event));
                }
            }
        }
    }

    /// Waits until there may be an event, `also` can be read, or `patience` is over.
    pub fn wait(&mut self, also: Option<BorrowedFd<'_>>, patience: Duration) {
        if let Some(watch) = &self.watch {
            return watch.wait(also, patience);
        }
        // What was written before the watch began is looked for first.
        self.watch = Some(Watch::new(self.log.parent().unwrap_or(Path::new("/"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_is_appended_and_follows_the_rotation() {
        let log = std::env::temp_dir().join(format!("re-events-{}", std::process::id()));
        let event = |action: &str| Event::now("container", action, "x", BTreeMap::new());
        append(&log, &event("create"));
        let (mut all, mut new) =
            (EventReader::open(log.clone(), false).unwrap(), EventReader::open(log.clone(), true).unwrap());
        assert_eq!(all.next_event().unwrap().unwrap().action, "create");
        assert!(all.next_event().unwrap().is_none() && new.next_event().unwrap().is_none());
        append(&log, &event("start"));
        assert_eq!(all.next_event().unwrap().unwrap().action, "start");
        assert_eq!(new.next_event().unwrap().unwrap().action, "start");
        fs::rename(&log, older(&log)).unwrap();
        append(&log, &event("die"));
        assert_eq!(new.next_event().unwrap().unwrap().action, "die");
        assert_eq!(all.older().len(), 2);
        fs::remove_file(older(&log)).unwrap();
        fs::remove_file(log).unwrap();
    }
}
