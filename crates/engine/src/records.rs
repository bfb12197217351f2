//! Containers on disk: their records, names, locks, and whether somebody cares for them.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_spec::ContainerId;
use robot_env_sys::fs::Durability;
use robot_env_sys::{fs as sys_fs, lock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::paths::{Paths, make_directory};
use crate::record::{ContainerRecord, StateRecord};

/// How hard a container's records are written: those of one that removes itself, and of a build's
/// step, need not survive a power cut.
fn durability_of(record: &ContainerRecord) -> Durability {
    let passing = record.spec.auto_remove || record.spec.step.is_some();
    if passing { Durability::NoSync } else { Durability::Sync }
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

    /// Begins a new container: its directory, locked. Nobody sees the container before
    /// [`Records::publish`]; when its maker is killed, the lock is free, and whoever sweeps finds a
    /// directory without a record that nobody holds.
    pub(crate) fn begin(&self, id: &ContainerId) -> Result<ContainerLock> {
        let directory = self.paths.container(id);
        // Between the two steps it looks like what a killed process left behind.
        let fail = || format!("cannot make container `{}`", id.short());
        let names = open_lock(&self.paths.names_lock(), true).io_context(fail)?;
        lock::lock_shared(names.as_fd()).context(Kind::Internal, fail)?;
        make_directory(&directory, 0o710)?;
        let lock = open_lock(&directory.join("lock"), true)
            .and_then(|file| {
                lock::lock_exclusive(file.as_fd()).map_err(std::io::Error::from)?;
                Ok(ContainerLock { file: file.into() })
            })
            .io_context(|| format!("cannot lock `{}`", directory.display()));
        if lock.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        lock
    }

    /// Makes a container that was begun visible: the last step of its making.
    pub(crate) fn publish(&self, record: &ContainerRecord) -> Result<()> {
        write_json(&self.paths.container(&record.id), "container.json", record, durability_of(record))
    }

    /// Takes a name for a container whose lock the caller holds.
    ///
    /// # Errors
    /// `Conflict` when it is another container's.
    pub(crate) fn take_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        let link = self.paths.names().join(name);
        let fail = || format!("cannot give container the name `{name}`");
        match symlink(link_target(id), &link) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            done => return done.io_context(fail),
        }
        // What a killed process left of a name is replaced by one at a time.
        let names = open_lock(&self.paths.names_lock(), true).io_context(fail)?;
        lock::lock_exclusive(names.as_fd()).context(Kind::Internal, fail)?;
        if let Some(owner) = self.holder_of(name)? {
            return Err(name_in_use(name, &owner));
        }
        match fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).io_context(|| format!("cannot free the name `{name}`"));
            }
            _ => {}
        }
        match symlink(link_target(id), &link) {
            // Somebody who found the name free was quicker.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => match self.target_of(name) {
                Some(owner) => Err(name_in_use(name, &owner)),
                None => Err(error).io_context(fail),
            },
            done => done.io_context(fail),
        }
    }

    /// The id that a name leads to, whether there is such a container or not.
    fn target_of(&self, name: &str) -> Option<ContainerId> {
        linked_id(&fs::read_link(self.paths.names().join(name)).ok()?)
    }

    /// Whose a name is: a container's that has it, or one's that is being made, renamed or removed
    /// just now. `None` for what a killed process left behind.
    fn holder_of(&self, name: &str) -> Result<Option<ContainerId>> {
        let Some(id) = self.target_of(name) else { return Ok(None) };
        let directory = self.paths.container(&id);
        let has_it = || match read_json::<ContainerRecord>(&directory.join("container.json")) {
            Ok(record) => record.is_some_and(|record| record.name == name),
            // A damaged one keeps what it may have had.
            Err(_) => true,
        };
        if has_it() {
            return Ok(Some(id));
        }
        let Ok(file) = open_lock(&directory.join("lock"), false) else { return Ok(None) };
        let free = lock::try_lock_exclusive(file.as_fd())
            .context(Kind::Internal, || format!("cannot lock container `{}`", id.short()))?;
        // Its maker may have ended between the two looks.
        Ok((!free || has_it()).then_some(id))
    }

    /// Whether a name leads to a container that has another one, or to none: for [`Engine::sweep`].
    ///
    /// [`Engine::sweep`]: crate::Engine::sweep
    pub(crate) fn free_stale_name(&self, name: &str) -> Result<()> {
        let link = self.paths.names().join(name);
        let names = open_lock(&self.paths.names_lock(), true)
            .io_context(|| format!("cannot free the name `{name}`"))?;
        lock::lock_exclusive(names.as_fd()).context(Kind::Internal, || "cannot lock the names".into())?;
        if self.holder_of(name)?.is_none() {
            let _ = fs::remove_file(link);
        }
        Ok(())
    }

    /// The lock of a container's directory that has no record, if nobody holds it: it is what a killed
    /// process left behind.
    pub(crate) fn lock_leftover(&self, id: &ContainerId) -> Option<ContainerLock> {
        let directory = self.paths.container(id);
        let file = match open_lock(&directory.join("lock"), false) {
            Ok(file) => file,
            Err(_) => {
                // Its maker may be about to lock it; without this lock held there is none.
                let names = open_lock(&self.paths.names_lock(), true).ok()?;
                lock::lock_exclusive(names.as_fd()).ok()?;
                open_lock(&directory.join("lock"), true).ok()?
            }
        };
        let free = lock::try_lock_exclusive(file.as_fd()).unwrap_or(false);
        (free && !directory.join("container.json").exists()).then(|| ContainerLock { file: file.into() })
    }

    /// The id behind a name, if its container exists.
    pub(crate) fn owner_of(&self, name: &str) -> Option<ContainerId> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return None;
        }
        let id = self.target_of(name)?;
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
        let record = self.load_record(id)?;
        let state = read_json::<StateRecord>(&self.paths.container(id).join("state.json"))?;
        Ok(Container { record, state: state.unwrap_or_default() })
    }

    /// What a container is, whatever has become of it.
    pub(crate) fn load_record(&self, id: &ContainerId) -> Result<ContainerRecord> {
        read_json(&self.paths.container(id).join("container.json"))?
            .ok_or_else(|| Error::not_found(format!("No such container: {id}")))
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
        let directory = self.paths.container(id);
        match write_json(&directory, "state.json", state, durability) {
            // A container that ends on a full disk is recorded all the same.
            Err(error) if error.kind() == Kind::NoSpace => {
                write_in_place(&directory.join("state.json"), state).map_err(|_| error)
            }
            done => done,
        }
    }

    /// Frees a name, if it is still this container's.
    pub(crate) fn free_name(&self, name: &str, id: &ContainerId) {
        let link = self.paths.names().join(name);
        if fs::read_link(&link).is_ok_and(|target| linked_id(&target).as_ref() == Some(id)) {
            let _ = fs::remove_file(link);
        }
    }

    /// All names that lead to a container.
    pub(crate) fn names_of(&self, id: &ContainerId) -> Vec<String> {
        let entries = fs::read_dir(self.paths.names()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| self.target_of(name).as_ref() == Some(id)).collect()
    }

    /// Gives a container, whose lock the caller holds, another name.
    pub(crate) fn rename(&self, record: &mut ContainerRecord, name: &str) -> Result<()> {
        self.take_name(name, &record.id)?;
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
        let file = open_lock(&path, true).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                Error::not_found(format!("No such container: {id}"))
            } else {
                Error::new(Kind::of_io(&error), format!("cannot lock container `{}`", id.short()))
                    .because(error)
            }
        })?;
        lock::lock_exclusive(file.as_fd())
            .context(Kind::Internal, || format!("cannot lock container `{}`", id.short()))?;
        // It may have been removed while this waited.
        if !self.paths.container(id).join("container.json").exists() {
            return Err(Error::not_found(format!("No such container: {id}")));
        }
        Ok(ContainerLock { file: file.into() })
    }

    /// [`Records::lock`] if nobody holds it; `None` otherwise.
    pub(crate) fn try_lock(&self, id: &ContainerId) -> Result<Option<ContainerLock>> {
        let directory = self.paths.container(id);
        let gone = || Error::not_found(format!("No such container: {id}"));
        let file = open_lock(&directory.join("lock"), true).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => gone(),
            _ => Error::new(Kind::of_io(&error), format!("cannot lock container `{}`", id.short()))
                .because(error),
        })?;
        let free = lock::try_lock_exclusive(file.as_fd())
            .context(Kind::Internal, || format!("cannot lock container `{}`", id.short()))?;
        if free && !directory.join("container.json").exists() {
            return Err(gone());
        }
        Ok(free.then(|| ContainerLock { file: file.into() }))
    }

    /// The lock of whoever freezes a running container for a commit, after those who do so now;
    /// `None` if it does not run.
    pub(crate) fn commit_lock(&self, id: &ContainerId) -> Result<Option<OwnedFd>> {
        let path = self.paths.container_run(id).join("commit.lock");
        let file = match open_lock(&path, true) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.io_context(|| format!("cannot open `{}`", path.display()))?,
        };
        lock::lock_exclusive(file.as_fd())
            .context(Kind::Internal, || format!("cannot lock `{}`", path.display()))?;
        Ok(Some(file.into()))
    }

    /// Whether somebody holds [`Records::commit_lock`].
    pub(crate) fn is_committed(&self, id: &ContainerId) -> bool {
        open_lock(&self.paths.container_run(id).join("commit.lock"), false)
            .is_ok_and(|file| !lock::try_lock_shared(file.as_fd()).unwrap_or(true))
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

    /// The pid of the monitor that cares for the container.
    pub(crate) fn monitor_of(&self, id: &ContainerId) -> Option<i32> {
        let text = fs::read_to_string(self.paths.container_run(id).join("monitor.lock")).ok()?;
        text.trim().parse().ok().filter(|_| self.has_monitor(id))
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

/// A container's lock; it is free when this and every copy of its descriptor are closed.
pub(crate) struct ContainerLock {
    file: OwnedFd,
}

impl AsFd for ContainerLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_lock(path: &Path, create: bool) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().create(create).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// What the link of a name says: the id's 32 bytes in URL-safe base64. File systems keep a link of up
/// to 59 bytes in the inode itself; the 64 digits would take a block.
fn link_target(id: &ContainerId) -> String {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    let bytes: Vec<u8> =
        id.as_str().as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    BASE64.encode(bytes)
}

/// The id that a link says.
fn linked_id(target: &Path) -> Option<ContainerId> {
    let bytes = BASE64.decode(target.to_str()?).ok()?;
    bytes.try_into().ok().map(ContainerId::from_random)
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

/// Reads a JSON document of at most 16 MiB; `None` if the file does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    const LIMIT: u64 = 16 << 20;
    let bytes = match sys_fs::read_bounded(rustix::fs::CWD, path, LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.errno() == Errno::NOENT => return Ok(None),
        Err(error) => {
            // A record that is no file, or a huge one, is not what was written.
            let kind = match error.errno() {
                Errno::FBIG | Errno::INVAL | Errno::LOOP => Kind::Corrupt,
                errno => Kind::of_errno(errno.raw_os_error()),
            };
            return Err(error).context(kind, || format!("cannot read `{}`", path.display()));
        }
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .context(Kind::Corrupt, || format!("cannot read `{}`", path.display()))
}

/// Writes a JSON document over the one that is there, where it has room in the same block: by one
/// call, and with spaces up to the old length, so that no moment has half of it.
fn write_in_place<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    const BLOCK: usize = 4096;
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len() as usize;
    let mut bytes = serde_json::to_vec(value)?;
    if length == 0 || bytes.len().max(length) > BLOCK {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    bytes.resize(bytes.len().max(length), b' ');
    (&file).write_all(&bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_an_id_in_few_bytes() {
        for bytes in [[0u8; 32], [0xff; 32], std::array::from_fn(|n| n as u8 * 7)] {
            let id = ContainerId::from_random(bytes);
            let target = link_target(&id);
            assert!(target.len() < 60);
            assert_eq!(linked_id(Path::new(&target)), Some(id));
        }
        for bad in ["", "x", "not base64!", "AAAA"] {
            assert_eq!(linked_id(Path::new(bad)), None, "{bad}");
        }
    }
}
