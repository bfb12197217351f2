//! `docker inspect` of a container.

use std::collections::BTreeMap;

use robot_env_engine::{Container, Paths, Place};
use serde::Serialize;

use crate::config::Config;
use crate::host_config::HostConfig;
use crate::mount::MountPoint;
use crate::network::NetworkSettings;
use crate::time::{ZERO, rfc3339};

/// The name that `Runtime` has for the engine's own.
const RUNTIME: &str = "robot-env";
/// The name that clients know the way of storing by.
pub(crate) const DRIVER: &str = "overlay2";

/// What is known beside the container's own records.
#[derive(Clone, Debug)]
pub struct ContainerFacts<'a> {
    /// Where the engine keeps things.
    pub paths: &'a Paths,
    /// The host's name.
    pub host_name: &'a str,
    /// Bytes of the container's layer, and of it and its image together, where they were asked for.
    pub sizes: Option<(u64, u64)>,
    /// Its places in networks.
    pub places: &'a [Place],
    /// Its AppArmor profile.
    pub apparmor: Option<String>,
}

/// What has become of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct State {
    pub status: String,
    pub running: bool,
    pub paused: bool,
    pub restarting: bool,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub dead: bool,
    pub pid: i32,
    pub exit_code: i32,
    pub error: String,
    pub started_at: String,
    pub finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthState>,
}

/// A container's health.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct HealthState {
    pub status: String,
    pub failing_streak: u32,
    pub log: Vec<HealthLog>,
}

/// A check of health.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct HealthLog {
    pub start: String,
    pub end: String,
    pub exit_code: i32,
    pub output: String,
}

/// How the root file system is put together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct GraphDriver {
    pub data: Option<BTreeMap<String, String>>,
    pub name: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ContainerInspect {
    pub id: String,
    pub created: String,
    pub path: String,
    pub args: Vec<String>,
    pub state: State,
    pub image: String,
    pub resolv_conf_path: String,
    pub hostname_path: String,
    pub hosts_path: String,
    pub log_path: String,
    pub name: String,
    pub restart_count: u32,
    pub driver: String,
    pub platform: String,
    pub mount_label: String,
    pub process_label: String,
    pub app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    pub host_config: HostConfig,
    pub graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<u64>,
    pub mounts: Vec<MountPoint>,
    pub config: Config,
    pub network_settings: NetworkSettings,
}

impl State {
    /// From the engine's state.
    pub fn new(container: &Container) -> Self {
        use robot_env_engine::record::State as Engine;
        let state = &container.state.state;
        let mut out = State {
            status: state.word().into(),
            exit_code: state.exit_code(),
            started_at: ZERO.into(),
            finished_at: ZERO.into(),
            health: container.state.health.as_ref().map(HealthState::new),
            ..State::default()
        };
        match state {
            Engine::Created => {}
            Engine::Failed { error, .. } => out.error.clone_from(error),
            Engine::Running { process, started, paused } => {
                out.running = true;
                out.paused = *paused;
                out.pid = process.pid;
                out.started_at = rfc3339(*started);
            }
            Engine::Restarting { exit } | Engine::Exited { exit } => {
                // Docker counts a container that waits for its restart as running.
                out.restarting = matches!(state, Engine::Restarting { .. });
                out.running = out.restarting;
                out.oom_killed = exit.oom_killed;
                out.error = exit.error.clone().unwrap_or_default();
                out.started_at = rfc3339(exit.started);
                out.finished_at = rfc3339(exit.finished);
            }
        }
        out
    }
}

impl HealthState {
    fn new(health: &robot_env_engine::record::Health) -> Self {
        let log = health.log.iter().map(|check| HealthLog {
            start: rfc3339(check.start),
            end: rfc3339(check.end),
            exit_code: check.exit_code,
            output: check.output.clone(),
        });
        HealthState {
            status: health.status.as_str().into(),
            failing_streak: health.failing_streak,
            log: log.collect(),
        }
    }
}

impl ContainerInspect {
    /// From the engine's records.
    pub fn new(container: &Container, facts: ContainerFacts<'_>) -> Self {
        let record = &container.record;
        let spec = &record.spec;
        let directory = facts.paths.container(&record.id);
        let file = |name: &str| directory.join(name).display().to_string();
        let mut line = record.command_line();
        let path = if line.is_empty() { String::new() } else { line.remove(0) };
        let config = Config::of_container(spec, &record.image_config, record.id.short(), facts.host_name);
        let exposed: Vec<String> = config.exposed_ports.keys().cloned().collect();
        ContainerInspect {
            id: record.id.to_string(),
            created: rfc3339(record.created),
            path,
            args: line,
            state: State::new(container),
            image: record.image.to_string(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: match spec.log.driver {
                robot_env_spec::LogDriver::None => String::new(),
                _ => facts.paths.log(&record.id).display().to_string(),
            },
            name: format!("/{}", record.name),
            restart_count: container.state.restart_count,
            driver: DRIVER.into(),
            platform: "linux".into(),
            mount_label: String::new(),
            process_label: String::new(),
            app_armor_profile: facts.apparmor.unwrap_or_default(),
            exec_ids: None,
            host_config: HostConfig::new(spec, RUNTIME),
            graph_driver: GraphDriver { data: None, name: DRIVER.into() },
            size_rw: facts.sizes.map(|(own, _)| own),
            size_root_fs: facts.sizes.map(|(_, all)| all),
            mounts: record.mounts.iter().filter(|m| m.kind != "tmpfs").map(MountPoint::new).collect(),
            network_settings: NetworkSettings::new(
                record.id.as_str(),
                &spec.network,
                exposed,
                container.state.state.is_running(),
                facts.places,
            ),
            config,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use robot_env_engine::record::{
        ContainerRecord, ExitRecord, ProcessRecord, State as Engine, StateRecord,
    };
    use robot_env_oci::{Digest, ImageId, RuntimeConfig};
    use robot_env_spec::{ContainerId, ContainerSpec, NetworkMode};
    use serde_json::json;

    use super::*;

    fn inspect(state: Engine) -> serde_json::Value {
        let container = Container {
            record: ContainerRecord {
                id: ContainerId::from_random([0xab; 32]),
                name: "web".into(),
                created: Timestamp::UNIX_EPOCH,
                spec: ContainerSpec {
                    image: "ros".into(),
                    command: Some(vec!["sleep".into(), "1".into()]),
                    network: NetworkMode::Host,
                    ..ContainerSpec::default()
                },
                image: ImageId(Digest::of(b"")),
                chain: None,
                image_config: RuntimeConfig::default(),
                mounts: Vec::new(),
                user_map: None,
                starts_at_once: false,
            },
            state: StateRecord { state, ..StateRecord::default() },
        };
        let paths = Paths::new("/d".into(), "/r".into());
        let facts =
            ContainerFacts { paths: &paths, host_name: "box", sizes: None, places: &[], apparmor: None };
        serde_json::to_value(ContainerInspect::new(&container, facts)).unwrap()
    }

    #[test]
    fn clients_find_what_they_look_for() {
        let process = ProcessRecord { pid: 7, start_time: 1, monitor: 6, cgroup: None, runtime: None };
        let started = Timestamp::from_second(1).unwrap();
        let got = inspect(Engine::Running { process, started, paused: false });
        let id = "ab".repeat(32);
        for (pointer, want) in [
            ("/Id", json!(id)),
            ("/Name", json!("/web")),
            ("/Path", json!("sleep")),
            ("/Args", json!(["1"])),
            ("/State/Running", json!(true)),
            ("/State/Pid", json!(7)),
            ("/State/StartedAt", json!("1970-01-01T00:00:01Z")),
            ("/State/FinishedAt", json!(ZERO)),
            ("/Config/Image", json!("ros")),
            ("/Config/Hostname", json!("box")),
            ("/HostConfig/NetworkMode", json!("host")),
            ("/NetworkSettings/Networks/host/IPAddress", json!("")),
            ("/LogPath", json!(format!("/d/containers/{id}/{id}-json.log"))),
        ] {
            assert_eq!(got.pointer(pointer), Some(&want), "{pointer}");
        }
        assert!(got["State"].get("Health").is_none());
        assert!(got["Image"].as_str().unwrap().starts_with("sha256:"));
    }

    #[test]
    fn every_state_has_dockers_words() {
        let (started, finished) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let exit = ExitRecord { code: 137, oom_killed: true, started, finished, error: None };
        for (state, status, running, code) in [
            (Engine::Created, "created", false, 0),
            (Engine::Failed { code: 127, error: "x".into(), finished }, "created", false, 127),
            (Engine::Restarting { exit: exit.clone() }, "restarting", true, 137),
            (Engine::Exited { exit }, "exited", false, 137),
        ] {
            let got = inspect(state);
            assert_eq!(got["State"]["Status"], status);
            assert_eq!(got["State"]["Running"], running);
            assert_eq!(got["State"]["ExitCode"], code);
        }
    }
}
