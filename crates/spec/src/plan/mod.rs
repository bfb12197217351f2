//! From intent to an OCI runtime spec.
//!
//! [`plan()`] is the only place where the meaning of a [`ContainerSpec`] is decided: which program
//! runs, as whom, with which mounts, capabilities, masks, limits and filters. It looks nothing up;
//! what it needs of the host comes in as [`HostFacts`] and [`Resolved`].

mod devices;
mod mounts;
mod process;
mod resources;
mod security;

use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Process, Root, Spec,
};
use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::RuntimeConfig;

use crate::{
    CgroupVersion, CgroupnsMode, ContainerSpec, HostFacts, NamespaceSource, NetworkMode, Resolved,
    ResolvedUser, SeccompSpec, seccomp, user_map,
};

pub use process::ProcessOverrides;

pub(crate) use devices::{check_permissions, parse_rule as parse_device_rule};
pub(crate) use process::{clean, relative_working_dir, rlimit_type};
pub use resources::LIMITS_LEFT_OUT;
pub(crate) use resources::check as check_resources;
pub(crate) use security::{check_sysctl_name, parse_capability};

/// A runtime spec and what the user should hear about it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The OCI runtime spec.
    pub spec: Spec,
    /// Things that were bent to fit the host, one line each.
    pub warnings: Vec<String>,
}

/// Plans a container's start.
///
/// # Errors
/// `InvalidInput` when the intent contradicts itself or the host's numbers (limits, sysctls,
/// capabilities, nothing to run), `Unsupported` when this host cannot do it.
pub fn plan(
    spec: &ContainerSpec,
    image: &RuntimeConfig,
    host: &HostFacts,
    resolved: &Resolved,
) -> Result<Planned> {
    let mut warnings = Vec::new();
    let hostname = hostname(spec, host, resolved);
    let capabilities = security::capabilities(spec, host)?;
    let process =
        process::process(spec, image, host, resolved, &capabilities, hostname.as_deref(), &mut warnings)?;
    let mounts = mounts::mounts(spec, host, resolved, &mut warnings)?;
    let (masked, read_only) = security::path_restrictions(spec, host, resolved);

    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(spec, host, resolved)))
        .set_uid_mappings(resolved.user_map.as_ref().map(|map| user_map::lines(&map.users)))
        .set_gid_mappings(resolved.user_map.as_ref().map(|map| user_map::lines(&map.groups)))
        .set_masked_paths(Some(masked).filter(|paths| !paths.is_empty()))
        .set_readonly_paths(Some(read_only).filter(|paths| !paths.is_empty()))
        .set_sysctl(Some(security::sysctls(spec, host, resolved)?).filter(|sysctls| !sysctls.is_empty()))
        .set_cgroups_path(resolved.cgroup_path.as_ref().map(PathBuf::from))
        .set_rootfs_propagation(mounts::rootfs_propagation(resolved))
        .set_devices(devices::nodes(host, resolved)?)
        .set_resources(resources::resources(spec, host, resolved, &mut warnings)?)
        .set_seccomp(system_call_filter(spec, host, &capabilities)?);

    let mut root = Root::default();
    root.set_path(resolved.rootfs.clone()).set_readonly(Some(spec.read_only));

    let mut out = Spec::default();
    out.set_version("1.2.0".into())
        .set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_process(Some(process))
        .set_hostname(hostname.filter(|_| resolved.uts == NamespaceSource::New))
        .set_domainname(spec.domainname.clone().filter(|_| resolved.uts == NamespaceSource::New))
        .set_annotations(
            Some(spec.annotations.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
                .filter(|annotations| !annotations.is_empty()),
        )
        .set_linux(Some(linux));
    Ok(Planned { spec: out, warnings })
}

/// Plans a further process in a container that `container` was the plan of.
///
/// The process gets the container's environment, working directory, limits and bounding set; its
/// home directory follows `user` where the container's was not set by anybody.
///
/// # Errors
/// `InvalidInput` when there is nothing to run or the working directory is not absolute,
/// `Unsupported` when the user has no id here.
pub fn plan_exec(
    container: &Spec,
    overrides: &ProcessOverrides,
    user: &ResolvedUser,
    host: &HostFacts,
) -> Result<Process> {
    process::exec(container, overrides, user, host)
}

/// The name that programs inside see as the host's.
fn hostname(spec: &ContainerSpec, host: &HostFacts, resolved: &Resolved) -> Option<String> {
    let shares_host =
        spec.uts_host || resolved.uts == NamespaceSource::Host || spec.network == NetworkMode::Host;
    match &spec.hostname {
        Some(name) if !name.is_empty() => Some(name.clone()),
        _ if shares_host => Some(host.hostname.clone()).filter(|name| !name.is_empty()),
        _ => Some(resolved.id.chars().take(12).collect::<String>()).filter(|name| !name.is_empty()),
    }
}

/// Whether the container's cgroup namespace is the host's. Private on version 2 and the host's on
/// version 1 unless the user says otherwise (Docker's rule).
fn shares_cgroup_namespace(spec: &ContainerSpec, host: &HostFacts) -> bool {
    match spec.cgroupns {
        CgroupnsMode::Private => false,
        CgroupnsMode::Host => true,
        CgroupnsMode::Default => host.cgroup != CgroupVersion::V2,
    }
}

fn namespaces(spec: &ContainerSpec, host: &HostFacts, resolved: &Resolved) -> Vec<LinuxNamespace> {
    let mut out = Vec::new();
    let mut add = |kind: LinuxNamespaceType, source: &NamespaceSource| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        match source {
            NamespaceSource::New => {}
            NamespaceSource::Path(path) => {
                namespace.set_path(Some(PathBuf::from(path)));
            }
            NamespaceSource::Host => return,
        }
        out.push(namespace);
    };
    add(LinuxNamespaceType::Mount, &NamespaceSource::New);
    if resolved.user_map.is_some() {
        add(LinuxNamespaceType::User, &NamespaceSource::New);
    }
    add(LinuxNamespaceType::Network, &resolved.network);
    add(LinuxNamespaceType::Uts, &resolved.uts);
    add(LinuxNamespaceType::Pid, &resolved.pid);
    add(LinuxNamespaceType::Ipc, &resolved.ipc);
    if !shares_cgroup_namespace(spec, host) {
        add(LinuxNamespaceType::Cgroup, &NamespaceSource::New);
    }
    out
}

/// The filter: none for `unconfined`, none for privileged containers unless a profile was named.
/// Neither devices nor added capabilities switch it off.
fn system_call_filter(
    spec: &ContainerSpec,
    host: &HostFacts,
    capabilities: &Capabilities,
) -> Result<Option<LinuxSeccomp>> {
    match &spec.security.seccomp {
        SeccompSpec::Unconfined => Ok(None),
        SeccompSpec::Default if spec.privileged => Ok(None),
        SeccompSpec::Default => {
            seccomp::default_filter(&host.architecture, capabilities, host.kernel).map(Some)
        }
        SeccompSpec::Profile(text) => {
            seccomp::resolve(text, &host.architecture, capabilities, host.kernel).map(Some)
        }
    }
}

/// What the spec's builders can only say through a bug of ours.
fn internal(error: oci_spec::OciSpecError) -> Error {
    Error::new(Kind::Internal, "cannot write the runtime spec").because(error)
}
