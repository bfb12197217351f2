//! Records: small JSON files, one an object, replaced as a whole.

use std::os::fd::AsFd;

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::fs::{self, Durability};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Store, failpoint};

/// No record is larger, in bytes.
const LIMIT: u64 = 4 * 1024 * 1024;

impl Store {
    /// The path of something in the store, for error texts.
    pub(crate) fn shown(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }

    /// Opens the file at `path` below the root for reading; `None` when there is none.
    pub(crate) fn open_file(&self, path: &str) -> Result<Option<std::fs::File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.root, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                Err(robot_env_sys::CallError::new(format!("open({})", self.shown(path)), errno).into())
            }
        }
    }

    /// Reads the record at `path` below the root; `None` when there is none.
    pub(crate) fn read_record<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<Option<T>> {
        let bytes = match fs::read_bounded(&self.root, path, LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(Error::from(error).within(format!("cannot read {what}"))),
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                Err(Error::new(Kind::Corrupt, format!("cannot read {what}: its record is damaged"))
                    .because(Error::new(Kind::Corrupt, format!("{}: {error}", self.shown(path)))))
            }
        }
    }

    /// Writes the record `path` below the root, whole or not at all. The caller holds the store's
    /// lock shared, so that nobody collects the new file while it grows.
    pub(crate) fn write_record<T: Serialize>(
        &self,
        what: &str,
        path: &str,
        value: &T,
        durability: Durability,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(value)
            .map_err(|e| Error::new(Kind::Internal, format!("cannot write {what}")).because(e))?;
        self.write_file(what, path, &bytes, durability)
    }

    /// Like [`Store::write_record`], for bytes.
    pub(crate) fn write_file(
        &self,
        what: &str,
        path: &str,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<()> {
        failpoint!("store.record.before");
        let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
        let written = self.dir("staging").and_then(|staging| {
            let dir = self.dir(dir)?;
            Ok(fs::write_atomic(staging, dir, name, bytes, 0o600, durability)?)
        });
        failpoint!("store.record.written");
        written.map_err(|error| self.explain(error, what, path, bytes.len() as u64))
    }

    /// Names the path and the sizes when the disk is full.
    pub(crate) fn explain(&self, error: Error, what: &str, path: &str, size: u64) -> Error {
        if error.kind() != Kind::NoSpace {
            return error.within(format!("cannot write {what}"));
        }
        let left = fs::space(self.root.as_fd()).map_or_else(
            |_| String::new(),
            |space| format!(", {} bytes and {} inodes are free", space.available, space.inodes),
        );
        let message =
            format!("cannot write {what}: no space for `{}` ({size} bytes{left})", self.shown(path));
        Error::new(Kind::NoSpace, message).because(error)
    }

    /// Removes the record `path` and, when asked, waits until that is on the disk. False when there
    /// was none.
    pub(crate) fn remove_record(&self, what: &str, path: &str, durability: Durability) -> Result<bool> {
        match rustix::fs::unlinkat(&self.root, path, rustix::fs::AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => {
                let call = robot_env_sys::CallError::new(format!("unlink({})", self.shown(path)), errno);
                return Err(Error::from(call).within(format!("cannot remove {what}")));
            }
        }
        if durability == Durability::Sync {
            let (dir, _) = path.rsplit_once('/').unwrap_or((".", path));
            fs::sync_directory(self.dir(dir)?)?;
        }
        Ok(true)
    }

    /// The names of the JSON files in one of the store's directories, without `.json`, sorted.
    pub(crate) fn record_names(&self, dir: &str) -> Result<Vec<String>> {
        let mut names: Vec<String> = fs::names(self.dir(dir)?)?
            .into_iter()
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}
