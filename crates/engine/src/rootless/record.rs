//! The record of the user's namespace, and finding a process in it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use robot_env_diag::Result;
use robot_env_sys::fs::{Durability, names, open_directory, read_bounded, write_atomic};
use robot_env_sys::namespace::{self, IdRange};
use rustix::fs::{AtFlags, statat};
use serde::{Deserialize, Serialize};

const NAME: &str = "rootless.json";
/// More processes than this are not recorded: one that lives is enough.
const PROCESSES: usize = 16;

/// Which namespace: where nsfs keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The user namespace of a process (`PID` or `self`), if one may know.
    fn of(process: &str) -> Option<Self> {
        let stat = fs::metadata(format!("/proc/{process}/ns/user")).ok()?;
        Some(NamespaceId { device: stat.dev(), inode: stat.ino() })
    }

    /// The caller's own.
    pub(super) fn own() -> Self {
        // A kernel without user namespaces has no such file, and no record equals this.
        NamespaceId::of("self").unwrap_or(NamespaceId { device: 0, inode: 0 })
    }
}

/// `rootless.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) namespace: NamespaceId,
    /// Inside, outside, count.
    pub(super) users: Vec<(u32, u32, u32)>,
    pub(super) groups: Vec<(u32, u32, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) single_id_because: Option<String>,
    /// Processes in it, the latest last.
    pub(super) processes: Vec<u32>,
}

/// Ranges as the record has them.
pub(super) fn lines(ranges: &[IdRange]) -> Vec<(u32, u32, u32)> {
    ranges.iter().map(|r| (r.inside, r.outside, r.count)).collect()
}

/// The record's form as ranges.
pub(super) fn ranges(lines: &[(u32, u32, u32)]) -> Vec<IdRange> {
    lines
        .iter()
        .map(|(inside, outside, count)| IdRange { inside: *inside, outside: *outside, count: *count })
        .collect()
}

impl Record {
    /// The record below a run root; `None` where there is none that can be read.
    pub(super) fn load(run: &Path) -> Option<Self> {
        let bytes = read_bounded(open_directory(run).ok()?, NAME, 64 * 1024).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub(super) fn save(&self, run: &Path) -> Result<()> {
        let directory = open_directory(run)?;
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Ok(write_atomic(&directory, &directory, NAME, &bytes, 0o600, Durability::NoSync)?)
    }

    /// Adds a process; those that are gone make room.
    pub(super) fn add(&mut self, process: u32) {
        self.processes.retain(|p| *p != process);
        if self.processes.len() >= PROCESSES {
            let namespace = Some(self.namespace);
            self.processes.retain(|p| NamespaceId::of(&p.to_string()) == namespace);
            let surplus = (self.processes.len() + 1).saturating_sub(PROCESSES);
            self.processes.drain(..surplus);
        }
        self.processes.push(process);
    }
}

/// The namespace of `process`, if it is the record's.
fn open(record: &Record, process: &str) -> Option<OwnedFd> {
    let fd = namespace::open(&format!("/proc/{process}/ns/user")).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    let found = NamespaceId { device: stat.st_dev, inode: stat.st_ino };
    if found != record.namespace {
        return None;
    }
    let (users, groups) = super::maps_of(process).ok()?;
    (lines(&users) == record.users && lines(&groups) == record.groups).then_some(fd)
}

/// The namespace by one of the processes that the record lists.
pub(super) fn find_listed(record: &Record) -> Option<OwnedFd> {
    record.processes.iter().rev().find_map(|process| open(record, &process.to_string()))
}

/// The namespace by any process that is in it, and the process.
pub(super) fn find_any(record: &Record) -> Option<(OwnedFd, u32)> {
    let proc = open_directory(Path::new("/proc")).ok()?;
    let numbers = names(&proc).ok()?.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    // A process in the namespace belongs to a mapped id (proc(5): also one that is not dumpable);
    // asking for the owner costs a fraction of looking at the namespace.
    let mapped = |user: u32| {
        record.users.iter().any(|(_, first, count)| user.checked_sub(*first).is_some_and(|n| n < *count))
    };
    numbers
        .filter(|name| statat(&proc, name.as_str(), AtFlags::empty()).is_ok_and(|stat| mapped(stat.st_uid)))
        .filter(|name| NamespaceId::of(name) == Some(record.namespace))
        .find_map(|name| Some((open(record, &name)?, name.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let (users, groups) = super::super::maps_of("self").unwrap();
        Record {
            namespace: NamespaceId::own(),
            users: lines(&users),
            groups: lines(&groups),
            single_id_because: Some("because".into()),
            processes: vec![std::process::id()],
        }
    }

    #[test]
    fn a_record_survives_and_rubbish_is_none() {
        let run = robot_env_testkit::temporary::TemporaryDirectory::new("rootless-record");
        assert_eq!(Record::load(run.path()), None);
        record().save(run.path()).unwrap();
        assert_eq!(Record::load(run.path()), Some(record()));
        for rubbish in ["", "{}", "null", "{\"namespace\":{}}"] {
            fs::write(run.join(NAME), rubbish).unwrap();
            assert_eq!(Record::load(run.path()), None, "{rubbish}");
        }
        fs::remove_file(run.join(NAME)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", run.join(NAME)).unwrap();
        assert_eq!(Record::load(run.path()), None, "a link is not followed");
    }

    #[test]
    fn a_process_is_found_only_with_the_same_namespace_and_maps() {
        let good = record();
        assert!(find_listed(&good).is_some());
        let elsewhere = Record { processes: vec![u32::MAX], ..record() };
        assert!(find_listed(&elsewhere).is_none());
        let (_, process) = find_any(&elsewhere).expect("this process at least is in it");
        assert!(Path::new(&format!("/proc/{process}")).exists());
        for bad in [
            Record { namespace: NamespaceId { inode: 1, ..good.namespace }, ..record() },
            Record { users: vec![(0, 77, 1)], ..record() },
            Record { groups: vec![(0, 77, 1)], ..record() },
        ] {
            assert!(find_listed(&bad).is_none() && find_any(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn processes_that_are_gone_make_room() {
        let mut record = record();
        record.processes = (0..PROCESSES as u32).map(|n| u32::MAX - n).collect();
        record.processes[3] = std::process::id();
        record.add(4_000_000_001);
        assert_eq!(record.processes, [std::process::id(), 4_000_000_001]);
        record.add(std::process::id());
        assert_eq!(record.processes, [4_000_000_001, std::process::id()]);
    }
}
