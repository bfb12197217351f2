//! What the host has for a container, looked up at each start: namespaces of other containers,
//! devices, files, the user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::{
    ContainerId, DeviceSpec, HostFacts, IpcMode, NamespaceSource, NetworkMode, PidMode, Propagation,
    ReadOnlyDepth, Resolved, ResolvedDevice, ResolvedMount, ResolvedUser, resolve_user,
};

use crate::engine::{Engine, cgroup_path};
use crate::network::{self, Joined, network_files};
use crate::record::ContainerRecord;
use crate::rootfs::Rootfs;

impl Engine {
    /// Everything that the plan of a start needs. Files below the container's run directory are
    /// written.
    pub(crate) fn resolve_start(
        &self,
        record: &ContainerRecord,
        rootfs: &Rootfs,
        host: &HostFacts,
        joined: &Joined,
    ) -> Result<Resolved> {
        let spec = &record.spec;
        let mut mounts = self.resolved_mounts(record)?;
        let network = match &spec.network {
            NetworkMode::Host => NamespaceSource::Host,
            NetworkMode::Container(id) => NamespaceSource::Path(self.namespace_of(id, "net")?),
            NetworkMode::Default | NetworkMode::None | NetworkMode::Network(_) => NamespaceSource::New,
        };
        let ipc = match &spec.ipc {
            IpcMode::Host => NamespaceSource::Host,
            IpcMode::Container(id) => NamespaceSource::Path(self.namespace_of(id, "ipc")?),
            IpcMode::Private | IpcMode::Shareable | IpcMode::None => NamespaceSource::New,
        };
        let pid = match &spec.pid {
            PidMode::Host => NamespaceSource::Host,
            PidMode::Container(id) => NamespaceSource::Path(self.namespace_of(id, "pid")?),
            PidMode::Private => NamespaceSource::New,
        };
        let uts = if spec.uts_host { NamespaceSource::Host } else { NamespaceSource::New };
        self.add_files(record, host, joined, &mut mounts)?;
        let mut devices = Vec::new();
        if spec.privileged {
            all_devices(Path::new("/dev"), Path::new("/dev"), "rwm", &mut devices);
        }
        for device in &spec.devices {
            devices.extend(resolve_device(device)?);
        }
        Ok(Resolved {
            id: record.id.as_str().to_owned(),
            user: Self::user_of(record, rootfs)?,
            mounts,
            devices,
            network,
            ipc,
            pid,
            uts,
            cgroup_path: host.cgroup_writable.then(|| format!("/{}", cgroup_path(record))),
            rootfs: self.paths.container_run(&record.id).join("rootfs"),
            block_devices: block_devices(record)?,
            user_map: record.user_map.clone(),
        })
    }

    /// The user that the container's process is.
    fn user_of(record: &ContainerRecord, rootfs: &Rootfs) -> Result<ResolvedUser> {
        let user = record.spec.user.clone().unwrap_or_else(|| record.image_config.user.clone());
        resolve_user(
            Some(&user),
            &record.spec.group_add,
            &rootfs.read("/etc/passwd")?,
            &rootfs.read("/etc/group")?,
        )
    }

    /// A namespace of a container that runs, by path.
    pub(crate) fn namespace_of(&self, id: &str, kind: &str) -> Result<String> {
        let container = self.container(id)?;
        let Some(process) = container.state.state.process() else {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot join {kind} of a non running container: {}", container.record.id),
            ));
        };
        Ok(format!("/proc/{}/ns/{kind}", process.pid))
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, unless the user mounts his own there.
    fn add_files(
        &self,
        record: &ContainerRecord,
        host: &HostFacts,
        joined: &Joined,
        mounts: &mut Vec<ResolvedMount>,
    ) -> Result<()> {
        // Whoever shares a network shares its files.
        let owner = match &record.spec.network {
            NetworkMode::Container(id) => Some(self.records.find(id)?),
            _ => None,
        };
        let directory = self.paths.container_run(owner.as_ref().unwrap_or(&record.id));
        if owner.is_none() {
            network::write_files(&directory, &network_files(record, host, joined.places()))?;
        }
        for name in ["hosts", "hostname", "resolv.conf"] {
            let (source, target) = (directory.join(name), format!("/etc/{name}"));
            if !mounts.iter().any(|mount| mount.target == target) && source.exists() {
                mounts.push(file_mount(&source.to_string_lossy(), &target));
            }
        }
        Ok(())
    }

    /// The container's own run directory.
    pub(crate) fn make_run_directory(&self, id: &ContainerId) -> Result<PathBuf> {
        let directory = self.paths.container_run(id);
        crate::paths::make_directory(&directory, 0o711)?;
        crate::paths::make_directory(&directory.join("rootfs"), 0o700)?;
        Ok(directory)
    }
}

pub(crate) fn file_mount(source: &str, target: &str) -> ResolvedMount {
    ResolvedMount {
        target: target.to_owned(),
        kind: "bind".into(),
        source: source.to_owned(),
        read_only: false,
        read_only_depth: ReadOnlyDepth::default(),
        propagation: Propagation::default(),
        recursive: true,
        options: Vec::new(),
    }
}

/// The devices behind `--device`: one, or those in a directory.
fn resolve_device(wanted: &DeviceSpec) -> Result<Vec<ResolvedDevice>> {
    let host = Path::new(&wanted.host);
    let metadata = fs::metadata(host).map_err(|error| {
        let failed = Error::new(
            Kind::of_io(&error),
            format!("error gathering device information while adding custom device \"{}\"", wanted.host),
        );
        let absent = error.kind() == std::io::ErrorKind::NotFound && wanted.host.starts_with("/dev/");
        let failed = failed.because(error);
        if !absent {
            return failed;
        }
        failed
            .with_hint(format!("`--device path:{}` waits for a device that is plugged in later", wanted.host))
    })?;
    let mut found = Vec::new();
    if metadata.is_dir() {
        all_devices(host, Path::new(&wanted.container), &wanted.permissions, &mut found);
    } else {
        found.extend(device(host, Path::new(&wanted.container), &wanted.permissions));
    }
    if found.is_empty() {
        return Err(Error::invalid(format!("cannot add device `{}`: not a device node", wanted.host)));
    }
    Ok(found)
}

fn device(host: &Path, container: &Path, permissions: &str) -> Option<ResolvedDevice> {
    let metadata = fs::metadata(host).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    let number = metadata.rdev();
    Some(ResolvedDevice {
        path: container.to_string_lossy().into_owned(),
        host_path: host.to_string_lossy().into_owned(),
        kind,
        major: i64::from(rustix::fs::major(number)),
        minor: i64::from(rustix::fs::minor(number)),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: permissions.to_owned(),
    })
}

/// The device nodes below a directory, without what a container has of its own.
fn all_devices(host: &Path, container: &Path, permissions: &str, out: &mut Vec<ResolvedDevice>) {
    const OWN: [&str; 8] = [
        "/dev/pts",
        "/dev/shm",
        "/dev/fd",
        "/dev/mqueue",
        "/dev/console",
        "/dev/ptmx",
        "/dev/.lxc",
        "/dev/.udev",
    ];
    let Ok(entries) = fs::read_dir(host) else { return };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort_unstable();
    for name in names {
        let path = host.join(&name);
        if OWN.iter().any(|own| path == Path::new(own)) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            all_devices(&path, &container.join(&name), permissions, out);
        } else if !metadata.file_type().is_symlink() {
            out.extend(device(&path, &container.join(&name), permissions));
        }
    }
}

/// The block devices that limits name, in numbers.
pub(crate) fn block_devices(record: &ContainerRecord) -> Result<BTreeMap<String, (i64, i64)>> {
    let resources = &record.spec.resources;
    let lists = [
        &resources.blkio_weight_device,
        &resources.device_read_bps,
        &resources.device_write_bps,
        &resources.device_read_iops,
        &resources.device_write_iops,
    ];
    let mut out = BTreeMap::new();
    for entry in lists.into_iter().flatten() {
        let path = Path::new(&entry.path);
        let found = device(path, path, "").filter(|device| device.kind == 'b').ok_or_else(|| {
            Error::invalid(format!("cannot limit device `{}`: it is no block device", entry.path))
        })?;
        out.insert(entry.path.clone(), (found.major, found.minor));
    }
    Ok(out)
}
