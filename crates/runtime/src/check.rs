//! What a spec must not ask for, found before anything is made.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use robot_env_diag::{Error, Kind, Result};

/// Kernel parameters of the IPC namespace.
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

/// Refuses a spec that contradicts itself or would reach the host.
pub(crate) fn check(spec: &Spec) -> Result<()> {
    let Some(process) = spec.process() else {
        return Err(Error::invalid("the runtime spec has no process"));
    };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("the runtime spec's process has no args"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(format!(
            "working directory `{}` is not absolute",
            process.cwd().display()
        )));
    }
    if process.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return Err(Error::new(Kind::Unsupported, "SELinux labels are not supported"));
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    let has = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind);
    let is_new = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind && n.path().is_none());
    if spec.hostname().as_ref().is_some_and(|name| !name.is_empty()) && !has(LinuxNamespaceType::Uts) {
        return Err(Error::invalid("a host name needs a UTS namespace"));
    }
    if is_new(LinuxNamespaceType::User) && linux.uid_mappings().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("a new user namespace needs uidMappings"));
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name.replace('/', ".")) {
        let needs = match name.as_str() {
            name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => LinuxNamespaceType::Ipc,
            name if name.starts_with("net.") => LinuxNamespaceType::Network,
            "kernel.domainname" => LinuxNamespaceType::Uts,
            name if name.starts_with("user.") => LinuxNamespaceType::User,
            _ => return Err(Error::new(Kind::Denied, format!("kernel parameter `{name}` is the host's"))),
        };
        if !has(needs) {
            let message = format!("kernel parameter `{name}` needs a namespace of type {needs}");
            return Err(Error::new(Kind::Denied, message));
        }
    }
    Ok(())
}
