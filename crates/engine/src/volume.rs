//! Volumes: directories that outlive containers.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
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

    /// All volumes, by name.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        let directory = self.paths.volumes();
        let entries =
            fs::read_dir(&directory).io_context(|| format!("cannot list `{}`", directory.display()))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_unstable();
        Ok(names.iter().filter_map(|name| self.volume(name).ok()).collect())
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
        self.discard_volume(name)
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
    /// all volumes.
    pub(crate) fn discard_volume(&self, name: &str) -> Result<()> {
        let fail = || format!("cannot remove volume `{name}`");
        let directory = self.paths.volumes().join(name);
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
            sys_fs::copy_tree(source.as_fd(), data.as_fd())
                .map_err(|error| Error::from(error).within(format!("cannot fill volume `{name}`")))?;
            let stat = rustix::fs::fstat(&source).io_context(|| format!("fstat({})", mount.target))?;
            let data = rustix::fs::open(&volume.path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                .io_context(|| format!("open({})", volume.path.display()))?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
            let _ = rustix::fs::fchown(&data, Some(uid), Some(gid));
            let _ = rustix::fs::fchmod(&data, Mode::from_raw_mode(stat.st_mode & 0o7777));
        }
        Ok(())
    }
}
