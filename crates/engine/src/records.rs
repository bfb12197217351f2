//! Containers on disk: their records, names, locks, and whether somebody cares for them.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_spec::ContainerId;
use robot_env_sys::fs::Durability;
use robot_env_sys::{fs as sys_fs, lock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::paths::{Paths, make_directory};
use crate::record::{ContainerRecord, StateRecord};

/// How hard a container's records are written: those of one that removes itself need not survive a
/// power cut.
fn durability_of(record: &ContainerRecord) -> Durability {
    if record.spec.auto_remove { Durability::NoSync } else { Durability::Sync }
}

/// A container and what has become of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// What it is.
    pub record: ContainerRecord,
    /// What has become of it.
    pub state: StateRecord,
}

/// The records below the engine's roots.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    paths: Paths,
}

impl Records {
    pub(crate) fn new(paths: Paths) -> Self {
        Records { paths }
    }

    /// Publishes a new container: its directory, its records, and last its name.
    pub(crate) fn create(&self, record: &ContainerRecord, durability: Durability) -> Result<()> {
        let directory = self.paths.container(&record.id);
        make_directory(&directory, 0o710)?;
        write_json(&directory, "container.json", record, durability)?;
        let link = self.paths.names().join(&record.name);
        loop {
            match symlink(record.id.as_str(), &link) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    if let Some(owner) = self.owner_of(&record.name) {
                        let _ = fs::remove_dir_all(&directory);
                        return Err(name_in_use(&record.name, &owner));
                    }
                    // A killed process left the name behind without a container.
                    fs::remove_file(&link)
                        .io_context(|| format!("cannot free the name `{}`", record.name))?;
                }
                Err(error) => {
                    let _ = fs::remove_dir_all(&directory);
                    return Err(error)
                        .io_context(|| format!("cannot give container the name `{}`", record.name));
                }
            }
        }
    }

    /// The id behind a name, if its container exists.
    pub(crate) fn owner_of(&self, name: &str) -> Option<ContainerId> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return None;
        }
        let target = fs::read_link(self.paths.names().join(name)).ok()?;
        let id: ContainerId = target.to_str()?.parse().ok()?;
        self.paths.container(&id).join("container.json").exists().then_some(id)
    }

    /// The container that `text` names: a whole id, a name (with or without a slash in front), or a
    /// unique prefix of an id, in this order.
    pub(crate) fn find(&self, text: &str) -> Result<ContainerId> {
        if let Ok(id) = text.parse::<ContainerId>()
            && self.paths.container(&id).join("container.json").exists()
        {
            return Ok(id);
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(id) = self.owner_of(name) {
            return Ok(id);
        }
        let prefix = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut found = Vec::new();
        if prefix {
            found = self.ids()?.into_iter().filter(|id| id.as_str().starts_with(text)).collect();
        }
        match found.len() {
            0 => Err(Error::not_found(format!("No such container: {text}"))),
            1 => Ok(found.remove(0)),
            n => Err(Error::invalid(format!(
                "container id prefix `{text}` is ambiguous: {n} containers start with it"
            ))),
        }
    }

    /// All ids, unordered.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>> {
        let directory = self.paths.containers();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).io_context(|| format!("cannot list `{}`", directory.display())),
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// One container.
    pub(crate) fn load(&self, id: &ContainerId) -> Result<Container> {
        let directory = self.paths.container(id);
        let record = read_json::<ContainerRecord>(&directory.join("container.json"))?
            .ok_or_else(|| Error::not_found(format!("No such container: {id}")))?;
        let state = read_json::<StateRecord>(&directory.join("state.json"))?.unwrap_or_default();
        Ok(Container { record, state })
    }

    pub(crate) fn save(&self, record: &ContainerRecord) -> Result<()> {
        write_json(&self.paths.container(&record.id), "container.json", record, durability_of(record))
    }

    pub(crate) fn save_state(
        &self,
        id: &ContainerId,
        state: &StateRecord,
        durability: Durability,
    ) -> Result<()> {
        write_json(&self.paths.container(id), "state.json", state, durability)
    }

    /// Frees a name, if it is still this container's.
    pub(crate) fn free_name(&self, name: &str, id: &ContainerId) {
        let link = self.paths.names().join(name);
        if fs::read_link(&link).is_ok_and(|target| target.as_os_str() == id.as_str()) {
            let _ = fs::remove_file(link);
        }
    }

    /// Gives a container another name.
    pub(crate) fn rename(&self, record: &mut ContainerRecord, name: &str) -> Result<()> {
        let link = self.paths.names().join(name);
        if let Err(error) = symlink(record.id.as_str(), &link) {
            match (error.kind(), self.owner_of(name)) {
                (std::io::ErrorKind::AlreadyExists, Some(owner)) => return Err(name_in_use(name, &owner)),
                (std::io::ErrorKind::AlreadyExists, None) => {
                    let _ = fs::remove_file(&link);
                    symlink(record.id.as_str(), &link)
                        .io_context(|| format!("cannot give container the name `{name}`"))?;
                }
                _ => return Err(error).io_context(|| format!("cannot give container the name `{name}`")),
            }
        }
        let old = std::mem::replace(&mut record.name, name.to_owned());
        match self.save(record) {
            Ok(()) => {
                self.free_name(&old, &record.id);
                Ok(())
            }
            Err(error) => {
                self.free_name(name, &record.id);
                record.name = old;
                Err(error)
            }
        }
    }

    /// Locks one container against other commands that change it. Never held across a wait for
    /// the container.
    pub(crate) fn lock(&self, id: &ContainerId) -> Result<ContainerLock> {
        let path = self.paths.container(id).join("lock");
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(
                |error| {
                    if error.kind() == std::io::ErrorKind::NotFound {
                        Error::not_found(format!("No such container: {id}"))
                    } else {
                        Error::new(Kind::of_io(&error), format!("cannot lock container `{}`", id.short()))
                            .because(error)
                    }
                },
            )?;
        lock::lock_exclusive(file.as_fd())
            .context(Kind::Internal, || format!("cannot lock container `{}`", id.short()))?;
        // It may have been removed while this waited.
        if !self.paths.container(id).join("container.json").exists() {
            return Err(Error::not_found(format!("No such container: {id}")));
        }
        Ok(ContainerLock { _file: file.into() })
    }

    /// Takes the lock that says "a monitor cares for this container"; `None` if one does already.
    /// It lasts until the descriptor, and every copy of it, is closed.
    pub(crate) fn monitor_lock(&self, id: &ContainerId) -> Result<Option<OwnedFd>> {
        let directory = self.paths.container_run(id);
        make_directory(&directory, 0o700)?;
        let path = directory.join("monitor.lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .io_context(|| format!("cannot open `{}`", path.display()))?;
        let taken = lock::try_lock_exclusive(file.as_fd())
            .context(Kind::Internal, || format!("cannot lock `{}`", path.display()))?;
        if taken {
            // For those who want to wake it.
            let _ =
                file.set_len(0).and_then(|()| (&file).write_all(std::process::id().to_string().as_bytes()));
        }
        Ok(taken.then(|| file.into()))
    }

    /// Whether a monitor cares for the container.
    pub(crate) fn has_monitor(&self, id: &ContainerId) -> bool {
        let path = self.paths.container_run(id).join("monitor.lock");
        match fs::OpenOptions::new().write(true).open(path) {
            Ok(file) => !lock::try_lock_exclusive(file.as_fd()).unwrap_or(false),
            Err(_) => false,
        }
    }
}

/// A container's lock; dropped, it is free.
pub(crate) struct ContainerLock {
    _file: OwnedFd,
}

fn name_in_use(name: &str, owner: &ContainerId) -> Error {
    Error::new(
        Kind::Conflict,
        format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
             You have to remove (or rename) that container to be able to reuse that name."
        ),
    )
}

/// Reads a JSON document; `None` if the file does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).io_context(|| format!("cannot read `{}`", path.display())),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .context(Kind::Corrupt, || format!("cannot read `{}`", path.display()))
}

/// Writes a JSON document whole or not at all.
pub(crate) fn write_json<T: Serialize>(
    directory: &Path,
    name: &str,
    value: &T,
    durability: Durability,
) -> Result<()> {
    let fail = || format!("cannot write `{}`", directory.join(name).display());
    let bytes = serde_json::to_vec(value).context(Kind::Internal, fail)?;
    let parent = sys_fs::open_directory(directory).map_err(Error::from).within(fail)?;
    sys_fs::write_atomic(&parent, &parent, name, &bytes, 0o640, durability).map_err(Error::from).within(fail)
}
