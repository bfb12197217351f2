//! Volumes: directories that outlive containers.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use jiff::Timestamp;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_spec::check_volume_name;
use robot_env_sys::fs::{self as sys_fs, Durability};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::create::random;
use crate::engine::Engine;
use crate::paths::make_directory;
use crate::prune::volume_bytes;
use crate::record::ContainerRecord;
use crate::records::{read_json, write_json};
use crate::rootfs::Rootfs;

/// A volume: `volumes/<name>/volume.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it was made for one container that did not name it.
    #[serde(default)]
    pub anonymous: bool,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The driver's options, as they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Its directory on the host.
    #[serde(skip)]
    pub path: PathBuf,
}

/// A volume to make.
#[derive(Clone, Debug, Default)]
pub struct VolumeRequest {
    /// Its name; absent: an anonymous one.
    pub name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

impl Engine {
    /// Makes a volume; one that exists with that name stays as it is.
    ///
    /// # Errors
    /// `InvalidInput` for a bad name, `Unsupported` for driver options, which nothing here has.
    pub fn create_volume(&self, request: VolumeRequest) -> Result<Volume> {
        let anonymous = request.name.is_none();
        let name = match request.name {
            Some(name) => name,
            None => random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        check_volume_name(&name)?;
        if let Some(option) = request.options.keys().next() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot create volume `{name}`: the driver local has no option `{option}` here"),
            ));
        }
        let directory = self.paths.volumes().join(&name);
        // Until its record is whole: see `sweep_volumes`.
        let _claim = self.claim(false)?;
        match self.volume(&name) {
            Ok(volume) => return Ok(volume),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        make_directory(&directory, 0o711)?;
        make_directory(&directory.join("_data"), 0o755)?;
        let volume = Volume {
            name: name.clone(),
            created: Timestamp::now(),
            anonymous,
            labels: request.labels,
            options: request.options,
            path: directory.join("_data"),
        };
        let durability = if anonymous { Durability::NoSync } else { Durability::Sync };
        write_json(&directory, "volume.json", &volume, durability)?;
        self.tell_of("volume", "create", &name, BTreeMap::from([("driver".into(), "local".into())]));
        Ok(volume)
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        let missing = || Error::not_found(format!("get {name}: no such volume"));
        check_volume_name(name).map_err(|_| missing())?;
        let directory = self.paths.volumes().join(name);
        let mut volume: Volume = read_json(&directory.join("volume.json"))?.ok_or_else(missing)?;
        volume.path = directory.join("_data");
        Ok(volume)
    }

    /// All volumes, by name, without those whose records cannot be read: see
    /// [`Engine::volumes_and_damage`].
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        Ok(self.volumes_and_damage()?.0)
    }

    /// All volumes, by name, and what is wrong with those whose records cannot be read.
    pub fn volumes_and_damage(&self) -> Result<(Vec<Volume>, Vec<Error>)> {
        let directory = self.paths.volumes();
        let entries =
            fs::read_dir(&directory).io_context(|| format!("cannot list `{}`", directory.display()))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_unstable();
        let (mut all, mut damage) = (Vec::new(), Vec::new());
        for name in &names {
            match self.volume(name) {
                Ok(volume) => all.push(volume),
                // It is being made or removed, or is none.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    let corrupt = error.kind() == Kind::Corrupt;
                    let mut error = error.within(format!("cannot read volume `{name}`"));
                    if corrupt {
                        error = error.with_hint(format!("`volume rm {name}` removes it, with what is in it"));
                    }
                    damage.push(error);
                }
            }
        }
        Ok((all, damage))
    }

    /// Removes a volume with what is in it; the space comes back when the store's trash is emptied.
    ///
    /// # Errors
    /// `Conflict` while a container, running or not, has it; `NotFound` without it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        match self.volume(name) {
            // It is to go, whatever its record says.
            Err(error) if error.kind() == Kind::Corrupt => {}
            found => drop(found?),
        }
        let _claim = self.claim(true)?;
        if let Some(user) = self.volume_users()?.get(name).and_then(|users| users.first()) {
            return Err(Error::new(Kind::Conflict, format!("remove {name}: volume is in use - [{user}]")));
        }
        self.check_records().within(|| format!("cannot remove volume `{name}`"))?;
        self.discard_volume(name, true)
    }

    /// Which containers have which volumes, by id.
    pub fn volume_users(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in self.records.ids()? {
            let Ok(record) = self.records.load_record(&id) else { continue };
            for name in record.mounts.iter().filter_map(|m| m.volume.as_ref()) {
                users.entry(name.clone()).or_default().push(id.as_str().to_owned());
            }
        }
        Ok(users)
    }

    /// Takes a volume away without asking: into the store's trash, at once. The caller has claimed
    /// all volumes. With `undo`, it is kept as long as the engine keeps what is removed.
    pub(crate) fn discard_volume(&self, name: &str, undo: bool) -> Result<()> {
        let fail = || format!("cannot remove volume `{name}`");
        let directory = self.paths.volumes().join(name);
        if undo
            && !self.undo.is_zero()
            && let Ok(volume) = self.volume(name)
            && self.keep_volume(name, &directory, volume_bytes(&volume))
        {
            self.tell_of("volume", "destroy", name, BTreeMap::from([("driver".into(), "local".into())]));
            return Ok(());
        }
        let trash: String = random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        match fs::rename(&directory, self.paths.root().join("trash").join(trash)) {
            // Somebody has put it on a file system of its own; its record goes first: half of a
            // volume is none.
            Err(error) if matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::ResourceBusy) => {
                let _ = fs::remove_file(directory.join("volume.json"));
                sys_fs::remove_tree(&directory).map_err(|error| Error::from(error).within(fail()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            done => done.io_context(fail)?,
        }
        self.tell_of("volume", "destroy", name, BTreeMap::from([("driver".into(), "local".into())]));
        Ok(())
    }

    /// Fills the container's empty volumes with what its image has where they are mounted.
    pub(crate) fn fill_volumes(&self, record: &ContainerRecord) -> Result<()> {
        let mut rootfs = None;
        for mount in record.mounts.iter().filter(|m| m.kind == "volume" && m.copies()) {
            let Some(name) = &mount.volume else { continue };
            let volume = self.volume(name)?;
            finish_filling(&volume)?;
            let data = sys_fs::open_directory(&volume.path)?;
            if !sys_fs::names(&data)?.is_empty() {
                continue;
            }
            if rootfs.is_none() {
                rootfs = Some(Rootfs::of(self, record)?);
            }
            let Some(root) = &rootfs else { continue };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let Ok(source) = sys_fs::open_in_root(root.mount(), &mount.target, flags) else { continue };
            fill(&volume, record, source.as_fd(), data.as_fd())
                .within(|| format!("cannot fill volume `{name}`"))?;
            let stat = rustix::fs::fstat(&source).io_context(|| format!("fstat({})", mount.target))?;
            let data = rustix::fs::open(&volume.path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                .io_context(|| format!("open({})", volume.path.display()))?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
            let _ = rustix::fs::fchown(&data, Some(uid), Some(gid));
            let _ = rustix::fs::fchmod(&data, Mode::from_raw_mode(stat.st_mode & 0o7777));
            finish_filling(&volume)?;
        }
        Ok(())
    }
}

/// Where a whole copy of what a volume is filled with waits to be moved into it.
const READY: &str = ".ready";

/// Copies `source` beside the volume's directory; [`finish_filling`] moves it in. Somebody who is
/// killed meanwhile leaves a volume that is still empty, never half of one.
fn fill(
    volume: &Volume,
    record: &ContainerRecord,
    source: BorrowedFd<'_>,
    data: BorrowedFd<'_>,
) -> Result<()> {
    let Some(directory) = volume.path.parent() else { return Ok(()) };
    let device = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| stat.st_dev);
    let parent = sys_fs::open_directory(directory)?;
    if device(parent.as_fd()) != device(data) {
        // The volume is a file system of its own: nothing can be moved into it.
        return Ok(sys_fs::copy_tree(source, data)?);
    }
    let copy = directory.join(format!(".fill-{}", record.id));
    make_directory(&copy, 0o700)?;
    let done = sys_fs::open_directory(&copy)
        .and_then(|to| sys_fs::copy_tree(source, &to))
        .map_err(Error::from)
        .and_then(|()| match fs::rename(&copy, directory.join(READY)) {
            // Somebody else has filled it at the same time.
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                Ok(sys_fs::remove_tree(&copy)?)
            }
            renamed => renamed.io_context(|| format!("rename({})", copy.display())),
        });
    if done.is_err() {
        let _ = sys_fs::remove_tree(&copy);
    }
    done
}

/// Moves what is [`READY`] into the volume: also what somebody who was killed has left of it. What
/// has a name that the volume has already stays out.
fn finish_filling(volume: &Volume) -> Result<()> {
    let Some(ready) = volume.path.parent().map(|directory| directory.join(READY)) else { return Ok(()) };
    let entries = match fs::read_dir(&ready) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.io_context(|| format!("cannot list `{}`", ready.display()))?,
    };
    let (from, to) = (sys_fs::open_directory(&ready)?, sys_fs::open_directory(&volume.path)?);
    for entry in entries.flatten() {
        match sys_fs::rename_noreplace(&from, entry.file_name(), &to, entry.file_name()) {
            // Somebody else moves it, too.
            Err(error) if error.errno() == rustix::io::Errno::NOENT => {}
            moved => drop(moved?),
        }
    }
    Ok(sys_fs::remove_tree(&ready)?)
}

/// Takes away what killed makers of volumes have left of their records. The caller has claimed all
/// volumes: nobody is writing one.
pub(crate) fn sweep_volumes(volumes: &std::path::Path) {
    for volume in fs::read_dir(volumes).into_iter().flatten().flatten() {
        for entry in fs::read_dir(volume.path()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Takes away what killed makers of containers have left of copies for volumes; `lives` tells whether
/// a container is still being made.
pub(crate) fn sweep_fillings(volumes: &std::path::Path, lives: impl Fn(&str) -> bool) {
    for volume in fs::read_dir(volumes).into_iter().flatten().flatten() {
        for entry in fs::read_dir(volume.path()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().and_then(|name| name.strip_prefix(".fill-")).is_some_and(|id| !lives(id)) {
                let _ = sys_fs::remove_tree(&entry.path());
            }
        }
    }
}
