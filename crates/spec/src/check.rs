//! What can be said about a [`ContainerSpec`] without looking anything up.

use std::collections::BTreeSet;
use std::net::IpAddr;

use robot_env_diag::{Error, Result};

use crate::plan::{
    check_permissions, check_resources, check_sysctl_name, clean, parse_capability, parse_device_rule,
    relative_working_dir, rlimit_type,
};
use crate::{
    ContainerSpec, DnsConfig, IpcMode, LogConfig, MountSource, MountSpec, NetworkMode, ReadOnlyDepth,
    RestartPolicy, Ulimit,
};

impl ContainerSpec {
    /// Checks everything that needs neither the host nor the image.
    ///
    /// # Errors
    /// `InvalidInput`, with the first thing found wrong.
    pub fn check(&self) -> Result<()> {
        if self.image.trim().is_empty() {
            return Err(Error::invalid("invalid image: its name is empty"));
        }
        self.check_process()?;
        self.check_names()?;
        self.check_network()?;
        self.check_mounts()?;
        self.check_security()?;
        for ulimit in &self.ulimits {
            check_ulimit(ulimit)?;
        }
        check_resources(&self.resources)?;
        check_log(&self.log)?;
        if self.auto_remove && self.restart != RestartPolicy::No {
            return Err(Error::invalid("conflicting options: a restart policy and automatic removal"));
        }
        Ok(())
    }

    fn check_process(&self) -> Result<()> {
        for entry in &self.env {
            let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
            if name.is_empty() || entry.contains('\0') {
                return Err(Error::invalid(format!("invalid environment variable: {entry}")));
            }
        }
        for word in self.command.iter().chain(&self.entrypoint).flatten() {
            no_nul(word, "argument")?;
        }
        if let Some(dir) = self.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
            no_nul(dir, "working directory")?;
            if !dir.starts_with('/') {
                return Err(relative_working_dir(dir));
            }
        }
        if let Some(signal) = &self.stop_signal
            && !is_signal(signal)
        {
            return Err(Error::invalid(format!("invalid signal: {signal}")));
        }
        if self.stop_timeout.is_some_and(|seconds| seconds < -1) {
            return Err(Error::invalid("invalid stop timeout: it must be -1 for no limit, or more"));
        }
        let Some(health) = &self.healthcheck else { return Ok(()) };
        for (nanoseconds, name) in [
            (health.interval, "interval"),
            (health.timeout, "timeout"),
            (health.start_period, "start period"),
            (health.start_interval, "start interval"),
        ] {
            if nanoseconds != 0 && nanoseconds < 1_000_000 {
                return Err(Error::invalid(format!(
                    "invalid health check: its {name} must be 0 or at least 1ms"
                )));
            }
        }
        if health.retries < 0 {
            return Err(Error::invalid("invalid health check: its retries must not be negative"));
        }
        Ok(())
    }

    fn check_names(&self) -> Result<()> {
        if let Some(name) = self.hostname.as_deref().filter(|name| !name.is_empty()) {
            check_hostname(name)?;
        }
        if let Some(name) = self.domainname.as_deref().filter(|name| !name.is_empty())
            && (name.len() > 64 || name.contains(['\0', '\n', ' ']))
        {
            return Err(Error::invalid(format!(
                "invalid domain name `{name}`: at most 64 characters without spaces"
            )));
        }
        if self.uts_host && (self.hostname.is_some() || self.domainname.is_some()) {
            return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
        }
        for (key, value) in self.labels.iter().chain(&self.annotations) {
            if key.is_empty() {
                return Err(Error::invalid(format!("invalid label `={value}`: its name is empty")));
            }
        }
        if let Some(parent) = &self.cgroup_parent {
            no_nul(parent, "cgroup parent")?;
            if parent.split('/').any(|part| part == "..") {
                return Err(Error::invalid(format!(
                    "invalid cgroup parent `{parent}`: it must not contain `..`"
                )));
            }
        }
        Ok(())
    }

    fn check_network(&self) -> Result<()> {
        self.check_places()?;
        let joins_container = match &self.network {
            NetworkMode::Container(name) => {
                check_target_name(name, "network")?;
                true
            }
            _ => false,
        };
        if let crate::PidMode::Container(name) = &self.pid {
            check_target_name(name, "pid")?;
        }
        if let IpcMode::Container(name) = &self.ipc {
            check_target_name(name, "IPC")?;
        }
        if joins_container {
            for (set, what) in [
                (self.hostname.is_some(), "hostname"),
                (self.dns != DnsConfig::default(), "dns"),
                (!self.add_hosts.is_empty(), "custom host-to-IP mapping"),
                (!self.expose.is_empty(), "port exposing"),
                (!self.publish.is_empty() || self.publish_all, "port publishing"),
            ] {
                if set {
                    return Err(Error::invalid(format!("conflicting options: {what} and the network mode")));
                }
            }
        }
        for server in &self.dns.servers {
            if server.parse::<IpAddr>().is_err() {
                return Err(Error::invalid(format!(
                    "invalid DNS server `{server}`: it must be an IP address"
                )));
            }
        }
        for host in &self.add_hosts {
            let fine = host.address == "host-gateway" || host.address.parse::<IpAddr>().is_ok();
            if !fine
                || host.name.is_empty()
                || host.name.contains(|c: char| c.is_whitespace() || c.is_control())
            {
                return Err(Error::invalid(format!("invalid host entry `{}:{}`", host.name, host.address)));
            }
        }
        for word in self.dns.search.iter().chain(&self.dns.options) {
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(Error::invalid(format!("invalid DNS search domain or option `{word}`")));
            }
        }
        Ok(())
    }

    fn check_mounts(&self) -> Result<()> {
        let mut targets = BTreeSet::new();
        for mount in &self.mounts {
            check_mount(mount)?;
            let target = clean(&mount.target);
            if !targets.insert(target.clone()) {
                return Err(Error::invalid(format!("Duplicate mount point: {target}")));
            }
        }
        for from in &self.volumes_from {
            check_target_name(&from.container, "volumes-from")?;
        }
        if self.shm_size == Some(0) {
            return Err(Error::invalid("invalid shm size: it must be greater than 0"));
        }
        if self.shm_size.is_some() && matches!(self.ipc, IpcMode::Host | IpcMode::Container(_)) {
            return Err(Error::invalid("conflicting options: shm size and the IPC mode"));
        }
        if let Some(driver) = self.volume_driver.as_deref().filter(|driver| !matches!(*driver, "" | "local"))
        {
            return Err(Error::invalid(format!("invalid volume driver `{driver}`: only `local` exists")));
        }
        Ok(())
    }

    fn check_security(&self) -> Result<()> {
        for word in self.cap_add.iter().chain(&self.cap_drop) {
            parse_capability(word)?;
        }
        for name in self.sysctls.keys() {
            check_sysctl_name(name)?;
        }
        for device in &self.devices {
            if !device.container.starts_with('/') {
                return Err(Error::invalid(format!(
                    "invalid device path `{}`: it must be absolute",
                    device.container
                )));
            }
            if !check_permissions(&device.permissions) {
                return Err(Error::invalid(format!(
                    "invalid device permissions `{}`: they must be of the letters `rwm`",
                    device.permissions
                )));
            }
        }
        for rule in &self.device_cgroup_rules {
            parse_device_rule(rule)?;
        }
        Ok(())
    }
}

fn no_nul(text: &str, what: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!("invalid {what}: it contains a NUL character")));
    }
    Ok(())
}

/// The name or id of another container.
fn check_target_name(name: &str, what: &str) -> Result<()> {
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() || !name.bytes().all(is_name_byte) {
        return Err(Error::invalid(format!("invalid {what} container `{name}`")));
    }
    Ok(())
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')
}

/// Checks a container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 255 characters.
///
/// # Errors
/// `InvalidInput`.
pub fn check_name(name: &str) -> Result<()> {
    let fine = (2..=255).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(is_name_byte);
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid container name `{name}`: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// RFC 1123 with the underscore, which Linux and Docker allow too: labels of at most 63 characters,
/// 64 (the kernel's limit) in all.
pub(crate) fn check_hostname(name: &str) -> Result<()> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid hostname `{name}`: it must be at most 64 letters, digits, `-` and `.`, with parts of 1 to 63 characters"
    )))
}

/// Whether `text` names a signal: `TERM`, `SIGTERM`, `15`, `RTMIN`, `RTMIN+3`, `RTMAX-1`; any case.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits.parse::<u32>().is_ok_and(|n| n <= 30),
        None => rest.is_empty(),
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|rest| offset(rest, '+'))
        || name.strip_prefix("RTMAX").is_some_and(|rest| offset(rest, '-'))
}

fn check_mount(mount: &MountSpec) -> Result<()> {
    let target = &mount.target;
    no_nul(target, "mount target")?;
    if !target.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount target `{target}`: it must be an absolute path")));
    }
    if clean(target) == "/" {
        return Err(Error::invalid(format!("invalid mount target `{target}`: it is the container's root")));
    }
    let inside = |subpath: &Option<String>| match subpath {
        Some(path) if path.starts_with('/') || path.split('/').any(|part| part == "..") => {
            Err(Error::invalid(format!(
                "invalid subpath `{path}` of mount `{target}`: it must be relative, without `..`"
            )))
        }
        _ => Ok(()),
    };
    match &mount.source {
        MountSource::Bind { source, recursive, read_only_depth, .. } => {
            no_nul(source, "mount source")?;
            if !source.starts_with('/') {
                return Err(Error::invalid(format!(
                    "invalid mount source `{source}`: it must be an absolute path"
                )));
            }
            if *read_only_depth != ReadOnlyDepth::RecursiveIfPossible && !mount.read_only {
                return Err(Error::invalid(format!(
                    "invalid mount `{target}`: a depth of read-only needs read-only"
                )));
            }
            if *read_only_depth == ReadOnlyDepth::RecursiveOrFail && !recursive {
                return Err(Error::invalid(format!(
                    "invalid mount `{target}`: recursively read-only needs a recursive bind"
                )));
            }
        }
        MountSource::Volume { name, subpath, .. } => {
            if let Some(name) = name {
                check_volume_name(name)?;
            }
            inside(subpath)?;
        }
        MountSource::Tmpfs { mode, .. } => {
            if mode.is_some_and(|mode| mode > 0o7777) {
                return Err(Error::invalid(format!(
                    "invalid mode of tmpfs `{target}`: it must be at most 7777 (octal)"
                )));
            }
        }
        MountSource::Image { image, subpath } => {
            if image.is_empty() {
                return Err(Error::invalid(format!("invalid mount `{target}`: the image's name is empty")));
            }
            inside(subpath)?;
        }
    }
    Ok(())
}

/// Checks a volume's name, which has the same grammar as a container's.
///
/// # Errors
/// `InvalidInput`.
pub fn check_volume_name(name: &str) -> Result<()> {
    check_name(name).map_err(|_| {
        let error = Error::invalid(format!(
            "invalid volume name `{name}`: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ));
        if name.contains('/') {
            error.with_hint("to mount a host directory, write an absolute path")
        } else {
            error
        }
    })
}

fn check_ulimit(ulimit: &Ulimit) -> Result<()> {
    let name = &ulimit.name;
    if rlimit_type(name).is_none() {
        return Err(Error::invalid(format!("invalid ulimit type: {name}")));
    }
    if ulimit.soft < -1 || ulimit.hard < -1 {
        return Err(Error::invalid(format!("invalid ulimit `{name}`: it must be -1 for unlimited, or more")));
    }
    let above = ulimit.hard != -1 && (ulimit.soft == -1 || ulimit.soft > ulimit.hard);
    if above {
        return Err(Error::invalid(format!(
            "invalid ulimit `{name}`: the soft limit must not be above the hard limit ({} > {})",
            ulimit.soft, ulimit.hard
        )));
    }
    Ok(())
}

fn check_log(log: &LogConfig) -> Result<()> {
    if log.max_size == Some(0) {
        return Err(Error::invalid("invalid log option max-size: it must be greater than 0"));
    }
    if log.max_file == Some(0) {
        return Err(Error::invalid("invalid log option max-file: it must be at least 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
