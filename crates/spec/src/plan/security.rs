//! Capabilities, masks, AppArmor, kernel parameters.

use std::collections::HashMap;

use oci_spec::runtime::{Capabilities, Capability};
use robot_env_diag::{Error, Kind, Result};

use crate::{ContainerSpec, HostFacts, NamespaceSource, NetworkMode, Resolved};

/// Docker's fourteen less MKNOD, NET_RAW and AUDIT_WRITE.
pub(crate) const DEFAULT_CAPABILITIES: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability that Linux has (capabilities(7)), by name, to list in an error.
const CAPABILITY_NAMES: &str = "AUDIT_CONTROL, AUDIT_READ, AUDIT_WRITE, BLOCK_SUSPEND, BPF, CHECKPOINT_RESTORE, \
    CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, IPC_LOCK, IPC_OWNER, KILL, LEASE, LINUX_IMMUTABLE, \
    MAC_ADMIN, MAC_OVERRIDE, MKNOD, NET_ADMIN, NET_BIND_SERVICE, NET_BROADCAST, NET_RAW, PERFMON, SETFCAP, SETGID, \
    SETPCAP, SETUID, SYSLOG, SYS_ADMIN, SYS_BOOT, SYS_CHROOT, SYS_MODULE, SYS_NICE, SYS_PACCT, SYS_PTRACE, \
    SYS_RAWIO, SYS_RESOURCE, SYS_TIME, SYS_TTY_CONFIG, WAKE_ALARM";

/// A capability, or all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CapabilityWord {
    All,
    One(Capability),
}

/// Reads a capability's name: any case, with or without `CAP_`; `ALL` for all.
pub(crate) fn parse_capability(text: &str) -> Result<CapabilityWord> {
    let upper = text.trim().to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(CapabilityWord::All);
    }
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    name.parse().map(CapabilityWord::One).map_err(|_| {
        Error::invalid(format!("invalid capability `{text}`: it must be ALL or one of {CAPABILITY_NAMES}"))
    })
}

/// What the engine has itself: more it cannot give.
pub(super) fn available(host: &HostFacts) -> Capabilities {
    let known = |name: &String| match parse_capability(name) {
        Ok(CapabilityWord::One(capability)) => Some(capability),
        // A capability of a newer kernel: nobody can have asked for it by name.
        Ok(CapabilityWord::All) | Err(_) => None,
    };
    host.capabilities.iter().filter_map(known).collect()
}

/// The bounding set: all of the engine's for privileged containers, else the defaults with what was
/// added and without what was dropped; `ALL` dropped leaves just what was added by name.
pub(super) fn capabilities(spec: &ContainerSpec, host: &HostFacts) -> Result<Capabilities> {
    let read = |words: &[String]| words.iter().map(|word| parse_capability(word)).collect::<Result<Vec<_>>>();
    let (added, dropped) = (read(&spec.cap_add)?, read(&spec.cap_drop)?);
    let available = available(host);
    if spec.privileged {
        return Ok(available);
    }
    for word in &added {
        if let CapabilityWord::One(capability) = word
            && !available.contains(capability)
        {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot add capability `CAP_{capability}`: this engine does not have it itself"),
            ));
        }
    }
    let mut out: Capabilities = if added.contains(&CapabilityWord::All) {
        available.clone()
    } else if dropped.contains(&CapabilityWord::All) {
        Capabilities::new()
    } else {
        DEFAULT_CAPABILITIES.into_iter().collect()
    };
    for word in &dropped {
        if let CapabilityWord::One(capability) = word {
            out.remove(capability);
        }
    }
    for word in added {
        if let CapabilityWord::One(capability) = word {
            out.insert(capability);
        }
    }
    out.retain(|capability| available.contains(capability));
    Ok(out)
}

/// Paths that show nothing inside (Docker's list).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that are read-only inside (Docker's list).
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked and the read-only paths.
pub(super) fn path_restrictions(
    spec: &ContainerSpec,
    host: &HostFacts,
    resolved: &Resolved,
) -> (Vec<String>, Vec<String>) {
    if spec.privileged || spec.security.unmasked_paths {
        return (Vec::new(), Vec::new());
    }
    let mut masked: Vec<String> = MASKED.map(str::to_owned).to_vec();
    if matches!(host.architecture.as_str(), "x86_64" | "x86") {
        // Counters that tell about the neighbours' load (CVE-2023-20583); only x86 has them.
        masked.extend((0..host.cpus).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")));
    }
    let mut read_only = READ_ONLY.map(str::to_owned).to_vec();
    if host.rootless && resolved.pid == NamespaceSource::Host {
        // There `/proc` is the host's, mounted with all that is below it: nothing in it can be
        // written that the user could not write outside.
        read_only.clear();
    }
    (masked, read_only)
}

/// The AppArmor profile, where the kernel has AppArmor.
pub(super) fn apparmor(spec: &ContainerSpec, host: &HostFacts, warnings: &mut Vec<String>) -> Option<String> {
    let Some(profile) = spec.security.apparmor.clone().filter(|profile| !profile.is_empty()) else {
        return host.apparmor_profile.clone().filter(|_| host.apparmor && !spec.privileged);
    };
    if host.apparmor {
        return Some(profile);
    }
    if profile != "unconfined" {
        warnings.push(format!("AppArmor profile `{profile}` is left out: this kernel has no AppArmor"));
    }
    None
}

/// Which namespace a kernel parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scope {
    Ipc,
    Network,
    Uts,
}

fn scope(name: &str) -> Option<Scope> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match name {
        _ if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some(Scope::Ipc),
        _ if name.starts_with("net.") => Some(Scope::Network),
        "kernel.domainname" => Some(Scope::Uts),
        _ => None,
    }
}

/// Checks what can be checked of a kernel parameter's name alone and gives it its dotted form.
pub(crate) fn check_sysctl_name(name: &str) -> Result<String> {
    let dotted = dotted(name);
    let tame = !dotted.split('.').any(str::is_empty)
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-' | ':' | '@' | '+'));
    if !tame || name.contains("..") {
        return Err(Error::invalid(format!("invalid sysctl `{name}`")));
    }
    if dotted == "kernel.hostname" {
        return Err(Error::invalid("invalid sysctl `kernel.hostname`: the host name is set by `--hostname`"));
    }
    if scope(&dotted).is_none() {
        return Err(Error::invalid(format!(
            "invalid sysctl `{name}`: it is not in a namespace of its own, so it would change the host"
        )));
    }
    Ok(dotted)
}

/// sysctl(8)'s two forms: the first separator decides which one it is (`net/ipv4/conf/eth0.1/x`).
fn dotted(name: &str) -> String {
    if name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/') {
        swapped(name)
    } else {
        name.to_owned()
    }
}

fn swapped(name: &str) -> String {
    let swap = |c: char| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    name.chars().map(swap).collect()
}

/// The user's kernel parameters, each checked against its namespace, after Docker's defaults for a
/// network namespace of the container's own.
pub(super) fn sysctls(
    spec: &ContainerSpec,
    host: &HostFacts,
    resolved: &Resolved,
) -> Result<HashMap<String, String>> {
    let mut out = HashMap::new();
    let own_network = resolved.network != NamespaceSource::Host
        && !matches!(spec.network, NetworkMode::Host | NetworkMode::Container(_));
    if own_network {
        out.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        if !host.rootless {
            // Inside a user namespace the whole range is not mapped and the kernel refuses it.
            out.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    for (name, value) in &spec.sysctls {
        let dotted = check_sysctl_name(name)?;
        let (source, word) = match scope(&dotted) {
            Some(Scope::Ipc) => (&resolved.ipc, "IPC"),
            Some(Scope::Network) => (&resolved.network, "network"),
            Some(Scope::Uts) => (&resolved.uts, "UTS"),
            None => return Err(Error::invalid(format!("invalid sysctl `{name}`"))),
        };
        if *source == NamespaceSource::Host {
            return Err(Error::invalid(format!(
                "cannot set sysctl `{name}`: the {word} namespace is the host's"
            )));
        }
        // With a dot in a part of the name (`eth0.1`) only the form with slashes is clear.
        let name = if dotted.contains('/') { swapped(&dotted) } else { dotted };
        out.insert(name, value.clone());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_name_no_profile_get_the_engines() {
        let on = HostFacts {
            apparmor: true,
            apparmor_profile: Some("robot-env-default".into()),
            ..HostFacts::default()
        };
        let missing = HostFacts { apparmor_profile: None, ..on.clone() };
        for (named, privileged, host, want) in [
            (None, false, &on, Some("robot-env-default")),
            (Some(""), false, &on, Some("robot-env-default")),
            (None, true, &on, None),
            (Some("unconfined"), false, &on, Some("unconfined")),
            (Some("mine"), true, &on, Some("mine")),
            (None, false, &missing, None),
            (None, false, &HostFacts::default(), None),
        ] {
            let mut spec = ContainerSpec { privileged, ..ContainerSpec::default() };
            spec.security.apparmor = named.map(str::to_owned);
            let (mut warnings, what) = (Vec::new(), format!("{named:?} {privileged}"));
            assert_eq!(apparmor(&spec, host, &mut warnings).as_deref(), want, "{what}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn capabilities_in_every_spelling() {
        for (text, want) in [
            ("NET_ADMIN", Some(CapabilityWord::One(Capability::NetAdmin))),
            ("cap_net_admin", Some(CapabilityWord::One(Capability::NetAdmin))),
            ("CAP_SYSLOG", Some(CapabilityWord::One(Capability::Syslog))),
            ("all", Some(CapabilityWord::All)),
            ("CAP_ALL", None),
            ("", None),
            ("CAP_", None),
            ("NETADMIN", None),
        ] {
            assert_eq!(parse_capability(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn every_listed_capability_is_one() {
        let names: Vec<&str> = CAPABILITY_NAMES.split(", ").collect();
        assert_eq!(names.len(), 41);
        for name in names {
            assert!(matches!(parse_capability(name), Ok(CapabilityWord::One(_))), "{name}");
        }
    }

    #[test]
    fn kernel_parameters_have_two_forms_and_a_namespace() {
        for (name, want) in [
            ("net.core.somaxconn", Some("net.core.somaxconn")),
            ("net/core/somaxconn", Some("net.core.somaxconn")),
            ("net/ipv4/conf/eth0.7/rp_filter", Some("net.ipv4.conf.eth0/7.rp_filter")),
            ("kernel.shm_rmid_forced", Some("kernel.shm_rmid_forced")),
            ("kernel.domainname", Some("kernel.domainname")),
            ("kernel.hostname", None),
            ("kernel.core_pattern", None),
            ("vm.overcommit_memory", None),
            ("fs.mqueue.", None),
            ("net..core", None),
            ("net.ipv4./../../kernel/core_pattern", None),
            ("net/../kernel/core_pattern", None),
            ("net.\0", None),
            ("", None),
        ] {
            assert_eq!(check_sysctl_name(name).ok().as_deref(), want, "{name}");
        }
    }
}
