//! The mounts of a container, in the order in which they are made.

use std::path::PathBuf;

use oci_spec::runtime::Mount;
use robot_env_diag::{Error, Kind, Result};

use super::process::clean;
use crate::{
    CgroupVersion, ContainerSpec, HostFacts, IpcMode, NamespaceSource, Propagation, ReadOnlyDepth, Resolved,
    ResolvedMount,
};

/// Bytes of `/dev/shm` when nobody says otherwise.
const DEFAULT_SHM: u64 = 64 << 20;

/// Read-only mounts with everything below them came with this kernel (mount_setattr(2)).
const RECURSIVE_READ_ONLY: (u32, u32) = (5, 12);

/// File systems of the kernel first, then devices and the user's mounts, all sorted by the depth of
/// their targets. What the user mounts over a standard mount replaces it.
pub(super) fn mounts(
    spec: &ContainerSpec,
    host: &HostFacts,
    resolved: &Resolved,
    warnings: &mut Vec<String>,
) -> Result<Vec<Mount>> {
    let mut wanted = Vec::new();
    for mount in &resolved.mounts {
        wanted.push((clean(&mount.target), mount));
    }
    let taken = |target: &str| wanted.iter().any(|(other, _)| other == target);

    let mut out = Vec::new();
    for mut mount in standard(spec, host, resolved, taken("/dev/shm"), warnings) {
        let target = mount.destination().to_string_lossy().into_owned();
        if taken(&target) || (taken("/dev") && target.starts_with("/dev/")) {
            continue;
        }
        let stays_writable =
            matches!(target.as_str(), "/proc" | "/dev" | "/dev/pts" | "/dev/shm" | "/dev/mqueue");
        let options = mount.options_mut().get_or_insert_default();
        if spec.read_only && !stays_writable && !options.iter().any(|o| o == "ro") {
            options.push("ro".into());
        }
        if spec.privileged && matches!(target.as_str(), "/sys" | "/sys/fs/cgroup") {
            options.retain(|o| o != "ro");
            options.push("rw".into());
        }
        out.push(mount);
    }
    if host.rootless && !taken("/dev") {
        // Device nodes cannot be made in a user namespace: the host's are mounted in.
        for device in &resolved.devices {
            out.push(bind(
                &device.host_path,
                &clean(&device.path),
                &["bind", "nosuid", "noexec", "rprivate"],
            ));
        }
    }
    for (target, mount) in &wanted {
        if target == "/" {
            return Err(Error::invalid("invalid mount target `/`: it is the container's root"));
        }
        out.push(user_mount(target, mount, host)?);
    }
    out.sort_by_key(|mount| mount.destination().components().count());
    Ok(out)
}

/// Docker's standard mounts.
fn standard(
    spec: &ContainerSpec,
    host: &HostFacts,
    resolved: &Resolved,
    shm_given: bool,
    warnings: &mut Vec<String>,
) -> Vec<Mount> {
    let mut out = Vec::new();
    if host.rootless && resolved.pid == NamespaceSource::Host {
        // A user namespace may not make a procfs of a pid namespace that is not its own.
        out.push(bind("/proc", "/proc", &["rbind", "nosuid", "noexec", "nodev"]));
    } else {
        out.push(entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]));
    }
    out.push(entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
    let mut pts = entry(
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    );
    if !host.single_id {
        pts.options_mut().get_or_insert_default().push("gid=5".into());
    }
    out.push(pts);
    out.push(entry("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]));
    if host.cgroup != CgroupVersion::None {
        // The runtime makes of it what the host's version and the cgroup namespace allow.
        out.push(entry("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]));
    }
    if !(host.rootless && resolved.ipc == NamespaceSource::Host) {
        // A user namespace may mount the queues of an IPC namespace of its own only; the system
        // calls work without.
        out.push(entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    }
    let own_shm = || {
        let size = format!("size={}", spec.shm_size.filter(|size| *size > 0).unwrap_or(DEFAULT_SHM));
        entry("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size])
    };
    match &spec.ipc {
        IpcMode::None => {}
        IpcMode::Private | IpcMode::Shareable => out.push(own_shm()),
        IpcMode::Host => {
            out.push(bind("/dev/shm", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev", "rprivate"]));
        }
        IpcMode::Container(name) => {
            if !shm_given {
                warnings.push(format!("container `{name}` shares no /dev/shm: this container gets its own"));
            }
            out.push(own_shm());
        }
    }
    out
}

fn entry(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut out = Mount::default();
    out.set_destination(PathBuf::from(target))
        .set_typ(Some(kind.into()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|&o| o.to_owned()).collect()));
    out
}

fn bind(source: &str, target: &str, options: &[&str]) -> Mount {
    entry(target, "bind", source, options)
}

fn user_mount(target: &str, mount: &ResolvedMount, host: &HostFacts) -> Result<Mount> {
    let mut options: Vec<String> = Vec::new();
    match mount.kind.as_str() {
        "bind" => {
            options.push(if mount.recursive { "rbind" } else { "bind" }.into());
            options.push(access(mount, host)?.into());
            options.push(mount.propagation.word().into());
            options.extend(mount.options.iter().cloned());
        }
        "tmpfs" => {
            let defaults = ["noexec", "nosuid", "nodev", "rprivate"].map(str::to_owned);
            options = merge_tmpfs_options(defaults.iter().chain(&mount.options));
            if !options.iter().any(|o| o.starts_with("mode=")) {
                options.push("mode=1777".into());
            }
            if mount.read_only && !options.iter().any(|o| o == "ro") {
                options.retain(|o| o != "rw");
                options.push("ro".into());
            }
        }
        _ => {
            options.extend(mount.options.iter().cloned());
            if mount.read_only && !options.iter().any(|o| o == "ro") {
                options.push("ro".into());
            }
        }
    }
    let source =
        if mount.kind == "tmpfs" && mount.source.is_empty() { "tmpfs" } else { mount.source.as_str() };
    let mut out = entry(target, &mount.kind, source, &[]);
    out.set_options(Some(options));
    Ok(out)
}

/// `rw`, `ro`, or `rro` where the mounts below are to be read-only too.
fn access(mount: &ResolvedMount, host: &HostFacts) -> Result<&'static str> {
    if !mount.read_only {
        return Ok("rw");
    }
    let can = host.kernel >= RECURSIVE_READ_ONLY;
    Ok(match mount.read_only_depth {
        ReadOnlyDepth::TopOnly => "ro",
        ReadOnlyDepth::RecursiveIfPossible => {
            if can && mount.recursive {
                "rro"
            } else {
                "ro"
            }
        }
        ReadOnlyDepth::RecursiveOrFail => {
            if !mount.recursive {
                return Err(Error::invalid(format!(
                    "invalid mount `{}`: a recursively read-only bind must be recursive",
                    mount.target
                )));
            }
            if !can {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "cannot mount `{}` recursively read-only: kernel {}.{} is older than 5.12",
                        mount.target, host.kernel.0, host.kernel.1
                    ),
                ));
            }
            "rro"
        }
    })
}

/// Of options that exclude each other the last one counts, and of those with a value too.
fn merge_tmpfs_options<'a>(options: impl Iterator<Item = &'a String>) -> Vec<String> {
    const OPPOSITES: [(&str, &str); 8] = [
        ("ro", "rw"),
        ("exec", "noexec"),
        ("suid", "nosuid"),
        ("dev", "nodev"),
        ("atime", "noatime"),
        ("diratime", "nodiratime"),
        ("async", "sync"),
        ("relatime", "strictatime"),
    ];
    const PROPAGATIONS: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];
    let excludes = |new: &str, old: &str| {
        let name = |option: &str| option.split_once('=').map(|(name, _)| name.to_owned());
        new == old
            || OPPOSITES.iter().any(|&(a, b)| (new == a && old == b) || (new == b && old == a))
            || (name(new).is_some() && name(new) == name(old))
            || (PROPAGATIONS.contains(&new) && PROPAGATIONS.contains(&old))
    };
    let mut out: Vec<String> = Vec::new();
    for option in options {
        out.retain(|old| !excludes(option, old));
        out.push(option.clone());
    }
    out
}

/// What the root must be for the binds that share their mounts with the host (Docker's rule).
pub(super) fn rootfs_propagation(resolved: &Resolved) -> Option<String> {
    let any = |wanted: &[Propagation]| {
        resolved.mounts.iter().any(|m| m.kind == "bind" && wanted.contains(&m.propagation))
    };
    if any(&[Propagation::Shared, Propagation::Rshared]) {
        Some("shared".into())
    } else if any(&[Propagation::Slave, Propagation::Rslave]) {
        Some("rslave".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_tmpfs_options_the_last_one_counts() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&["noexec", "nosuid", "exec"], &["nosuid", "exec"]),
            (&["size=1k", "mode=700", "size=2k"], &["mode=700", "size=2k"]),
            (&["rprivate", "shared"], &["shared"]),
            (&["ro", "rw", "ro"], &["ro"]),
            (&["uid=1", "gid=2"], &["uid=1", "gid=2"]),
        ];
        for (given, want) in cases {
            let given: Vec<String> = given.iter().map(|&o| o.to_owned()).collect();
            assert_eq!(merge_tmpfs_options(given.iter()), want, "{given:?}");
        }
    }
}
