//! `info`, from the engine.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_config::Configuration;
use robot_env_diag::Result;
use robot_env_engine::record::State;
use robot_env_engine::rootless::Identity;
use robot_env_engine::{Engine, Machine};
use robot_env_spec::{CgroupVersion, HostFacts};

use super::{Info, Plugins};
use crate::rfc3339;

/// What `info` needs beside the engine.
#[derive(Clone, Copy, Debug)]
pub struct InfoSettings<'a> {
    /// The program's version.
    pub version: &'a str,
    /// The time.
    pub now: Timestamp,
    /// Where runtimes are looked for: `$PATH`.
    pub path: &'a str,
    /// What is configured.
    pub configuration: &'a Configuration,
}

impl Info {
    /// Asks the engine.
    ///
    /// # Errors
    /// A store or records that cannot be read.
    pub fn of(engine: &Engine, settings: &InfoSettings<'_>) -> Result<Info> {
        let host = engine.host_facts();
        let machine = engine.machine();
        let containers = engine.containers()?;
        let count = |wanted: fn(&State) -> bool| containers.iter().filter(|c| wanted(&c.state.state)).count();
        let running =
            count(|state| matches!(state, State::Running { paused: false, .. } | State::Restarting { .. }));
        let paused = count(|state| matches!(state, State::Running { paused: true, .. }));
        // What containers of an ordinary user can have is less than what the kernel has.
        let kept = host.cgroup_writable && engine.unlimited().is_none();
        let has = |controller: &str| kept && robot_env_engine::has_controller(controller);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let configured =
            |key: &str, otherwise: &str| settings.configuration.text(key).unwrap_or(otherwise).to_owned();
        let runtimes = engine.runtimes(settings.path, settings.configuration);
        Ok(Info {
            id: String::new(),
            containers: containers.len(),
            containers_running: running,
            containers_paused: paused,
            containers_stopped: containers.len() - running - paused,
            images: engine.store().image_ids()?.len(),
            driver: "overlay2".into(),
            driver_status: vec![
                ["Backing Filesystem".into(), machine.file_system.into()],
                ["userxattr".into(), engine.is_rootless().to_string()],
            ],
            plugins: Plugins {
                volume: names(&["local"]),
                network: names(if engine.is_rootless() {
                    &["bridge", "host", "none"]
                } else {
                    &["bridge", "host", "ipvlan", "macvlan", "none"]
                }),
                authorization: None,
                log: names(&["json-file", "local", "none"]),
            },
            memory_limit: has("memory"),
            swap_limit: kept && robot_env_engine::has_swap_limit(),
            cpu_shares: has("cpu"),
            cpu_set: has("cpuset"),
            pids_limit: has("pids"),
            ipv4_forwarding: machine.ipv4_forwarding,
            system_time: rfc3339(settings.now),
            logging_driver: configured("log-driver", "json-file"),
            cgroup_driver: if host.cgroup_writable { "cgroupfs".into() } else { "none".into() },
            cgroup_version: match host.cgroup {
                CgroupVersion::V1 => "1".into(),
                CgroupVersion::V2 => "2".into(),
                CgroupVersion::None => String::new(),
            },
            security_options: security(&host, &machine),
            kernel_version: machine.kernel,
            operating_system: machine.operating_system,
            os_version: machine.os_version,
            os_type: "linux".into(),
            architecture: machine.architecture,
            ncpu: host.cpus,
            mem_total: machine.memory,
            docker_root_dir: engine.store().path().to_string_lossy().into_owned(),
            name: host.hostname.clone(),
            labels: Vec::new(),
            experimental_build: false,
            server_version: settings.version.to_owned(),
            runtimes: runtimes
                .into_iter()
                .map(|(name, path)| {
                    (name, BTreeMap::from([("path".to_owned(), path.to_string_lossy().into_owned())]))
                })
                .collect(),
            default_runtime: configured("default-runtime", "robot-env"),
            // There is no daemon whose restart could end a container.
            live_restore_enabled: true,
            init_binary: String::new(),
            warnings: warnings(engine, &host, robot_env_engine::has_controller("memory")),
        })
    }
}

fn security(host: &HostFacts, machine: &Machine) -> Vec<String> {
    [
        (host.apparmor, "name=apparmor"),
        (machine.seccomp, "name=seccomp,profile=builtin"),
        (host.rootless, "name=rootless"),
        (machine.cgroup_namespaces, "name=cgroupns"),
    ]
    .into_iter()
    .filter(|(is, _)| *is)
    .map(|(_, option)| option.to_owned())
    .collect()
}

fn warnings(engine: &Engine, host: &HostFacts, memory: bool) -> Option<Vec<String>> {
    let mut warnings = Vec::new();
    let identity = if host.rootless { Identity::current().ok() } else { None };
    let user = identity.as_ref().map_or(0, |identity| identity.user);
    if let Some(unlimited) = engine.unlimited() {
        warnings.push(format!(
            "WARNING: limits of memory, CPU and processes are not kept: {} ({})",
            unlimited.because, unlimited.mend
        ));
    } else if !host.cgroup_writable {
        warnings.push("WARNING: no cgroup can be made here: limits, pause and stats do not work".to_owned());
    } else if !memory {
        warnings.push("WARNING: No memory limit support".to_owned());
    }
    if host.apparmor && !host.rootless && !engine.confines() {
        warnings.push(
            "WARNING: AppArmor is on, but containers have no profile: apparmor_parser is not installed"
                .to_owned(),
        );
    }
    if host.single_id {
        let hint = robot_env_engine::rootless::more_ids(user);
        warnings.push(format!("WARNING: only one user id is available to containers ({hint})"));
    }
    if host.rootless
        && let Err(error) = robot_env_engine::rootless::way_out()
    {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        warnings.push(format!("WARNING: containers do not reach the outside: {error}{hint}"));
    }
    if host.rootless
        && let Err(error) = robot_env_engine::check_shown_owners()
    {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        warnings.push(format!("WARNING: --userns keep-id, nomap and auto do not work: {error}{hint}"));
    }
    (!warnings.is_empty()).then_some(warnings)
}
