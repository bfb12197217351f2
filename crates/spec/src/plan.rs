//! From intent to an OCI runtime spec.

use std::collections::BTreeMap;

use oci_spec::runtime::{Process, Spec};
use robot_env_diag::Result;
use robot_env_oci::RuntimeConfig;

use crate::{ContainerSpec, HostFacts, Resolved, ResolvedUser};

/// A runtime spec and what the user should hear about it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The OCI runtime spec.
    pub spec: Spec,
    /// Things that were bent to fit the host, one line each.
    pub warnings: Vec<String>,
}

/// What `exec` changes about a container's process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessOverrides {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` or `NAME`, on top of the container's.
    pub env: Vec<String>,
    /// Absolute path; absent: the container's.
    pub working_dir: Option<String>,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether it gets every capability.
    pub privileged: bool,
}

/// Plans a container's start.
pub fn plan(_spec: &ContainerSpec, _image: &RuntimeConfig, _host: &HostFacts, _resolved: &Resolved) -> Result<Planned> {
    let _: BTreeMap<(), ()> = BTreeMap::new();
    Ok(Planned { spec: Spec::default(), warnings: Vec::new() })
}

/// Plans a further process in a container that `container` was the plan of.
pub fn plan_exec(container: &Spec, _overrides: &ProcessOverrides, _user: &ResolvedUser, _host: &HostFacts) -> Result<Process> {
    Ok(container.process().clone().unwrap_or_default())
}
