//! Containers on disk.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{self, Cgroup, Hierarchies};
use robot_env_sys::{fs as sys_fs, process};
use serde::{Deserialize, Serialize};

use crate::state::{State, Status};

/// A container as `state.json` has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) id: String,
    /// Its first process, in the pid namespace of whoever made it.
    pub(super) pid: i32,
    /// With the pid, names the process for good: clock ticks after boot.
    pub(super) start_time: u64,
    pub(super) bundle: PathBuf,
    /// Below the hierarchies; `None`: it has no cgroup of its own.
    pub(super) cgroup: Option<String>,
    pub(super) created: String,
    pub(super) owner: u32,
}

/// The directory of one container.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    id: String,
}

impl Directory {
    pub(super) fn of(root: &Path, id: &str) -> Directory {
        Directory { path: root.join(id), id: id.to_owned() }
    }

    /// Makes it: the id is taken from then on.
    pub(super) fn make(root: &Path, id: &str) -> Result<Directory> {
        let mut builder = fs::DirBuilder::new();
        builder
            .mode(0o711)
            .recursive(true)
            .create(root)
            .io_context(|| format!("cannot make `{}`", root.display()))?;
        let directory = Directory::of(root, id);
        match fs::DirBuilder::new().mode(0o700).create(&directory.path) {
            Ok(()) => Ok(directory),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::Conflict, format!("container with id exists: `{id}`")))
            }
            Err(error) => Err(error).io_context(|| format!("cannot make `{}`", directory.path.display())),
        }
    }

    pub(super) fn open(&self) -> Result<OwnedFd> {
        Ok(sys_fs::open_directory(&self.path)?)
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}"));
        let write = || -> std::io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            std::io::Write::write_all(&mut file, bytes)?;
            fs::rename(&temporary, &path)
        };
        write().io_context(|| format!("cannot write `{}`", path.display()))
    }

    pub(super) fn record(&self) -> Result<Record> {
        let path = self.path.join("state.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("container does not exist: `{}`", self.id);
                return Err(Error::not_found(message));
            }
            Err(error) => return Err(error).io_context(|| format!("cannot read `{}`", path.display())),
        };
        serde_json::from_slice(&bytes).context(Kind::Corrupt, || format!("cannot read `{}`", path.display()))
    }

    pub(super) fn spec(&self) -> Result<Spec> {
        read_spec(&self.path.join("config.json"))
    }

    /// Where it is in its life.
    pub(super) fn status(&self, record: &Record) -> Status {
        if !record.is_alive() {
            return Status::Stopped;
        }
        if self.path.join("gate.sock").exists() {
            return Status::Created;
        }
        match record.cgroup() {
            Some(cgroup) if cgroup.is_frozen() => Status::Paused,
            _ => Status::Running,
        }
    }

    pub(super) fn state(&self, record: &Record) -> State {
        let status = self.status(record);
        let spec = self.spec().unwrap_or_default();
        State {
            oci_version: spec.version().clone(),
            id: record.id.clone(),
            status,
            pid: if status == Status::Stopped { 0 } else { record.pid },
            bundle: record.bundle.clone(),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        }
    }

    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).io_context(|| format!("cannot remove `{}`", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Record {
    /// A descriptor of the first process, if it is still that process and not a zombie.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = process::pidfd_open(self.pid).ok()?;
        // Looked at after it was opened: a pid that was used again is found out.
        (process::start_time(self.pid) == Some(self.start_time) && !process::is_zombie(self.pid))
            .then_some(pidfd)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.pidfd().is_some()
    }

    /// Its descriptor, for what needs it to run.
    pub(super) fn running(&self) -> Result<OwnedFd> {
        self.pidfd()
            .ok_or_else(|| Error::new(Kind::Conflict, format!("container `{}` is not running", self.id)))
    }

    pub(super) fn cgroup(&self) -> Option<Cgroup> {
        let path = self.cgroup.as_deref()?;
        Some(hierarchies().cgroup(path, &[]))
    }
}

/// All controllers: callers look for a container's numbers below each.
pub(super) fn hierarchies() -> Hierarchies {
    cgroup::detect().with_every_controller()
}

/// Reads a runtime spec.
pub(super) fn read_spec(path: &Path) -> Result<Spec> {
    let bytes = fs::read(path).io_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&bytes)
        .context(Kind::InvalidInput, || "it is not a runtime spec".into())
        .within(|| format!("cannot read `{}`", path.display()))
}
