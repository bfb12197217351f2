//! `HostConfig`: what was asked for and concerns the host.

use std::collections::BTreeMap;

use robot_env_spec::{CgroupnsMode, ContainerSpec, DeviceRate, IpcMode, LogDriver, PidMode, PortSpec};
use serde::Serialize;

use crate::mount::{MountOptions, asked};
use crate::network::{PortBinding, mode_word};
use crate::null_if_empty;

/// Bytes of `/dev/shm` when nothing was asked for.
const DEFAULT_SHM: u64 = 64 << 20;

/// Where the output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names are Docker's
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Config")]
    pub config: BTreeMap<String, String>,
}

/// What happens when the process ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct RestartPolicy {
    pub name: String,
    pub maximum_retry_count: u32,
}

/// A device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    pub cgroup_permissions: String,
}

/// GPUs, or devices of CDI files, that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct DeviceAsk {
    pub driver: String,
    pub count: i64,
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    pub capabilities: Option<Vec<Vec<String>>>,
    pub options: Option<BTreeMap<String, String>>,
}

/// A block device's weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct WeightDevice {
    pub path: String,
    pub weight: u64,
}

/// A block device's rate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ThrottleDevice {
    pub path: String,
    pub rate: u64,
}

/// The ports that were asked for, as `-p` had them.
fn port_bindings(ports: &[PortSpec]) -> BTreeMap<String, Vec<PortBinding>> {
    let mut out: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in ports {
        let host_port = match port.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let host_ip = port.host.map(|host| host.to_string()).unwrap_or_default();
        out.entry(port.key()).or_default().push(PortBinding { host_ip, host_port });
    }
    out
}

/// A resource limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct UlimitLimit {
    pub name: String,
    pub hard: i64,
    pub soft: i64,
}

/// What was asked for and concerns the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct HostConfig {
    pub binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    pub log_config: LogConfig,
    pub network_mode: String,
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub volume_driver: String,
    pub volumes_from: Option<Vec<String>>,
    pub console_size: [u32; 2],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub cap_add: Option<Vec<String>>,
    pub cap_drop: Option<Vec<String>>,
    pub cgroupns_mode: String,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Option<Vec<String>>,
    pub group_add: Option<Vec<String>>,
    pub ipc_mode: String,
    pub cgroup: String,
    pub links: Option<Vec<String>>,
    pub oom_score_adj: i32,
    pub pid_mode: String,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_opt: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub shm_size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    pub runtime: String,
    pub isolation: String,
    pub cpu_shares: u64,
    pub memory: i64,
    pub nano_cpus: i64,
    pub cgroup_parent: String,
    pub blkio_weight: u16,
    pub blkio_weight_device: Vec<WeightDevice>,
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    pub cpu_period: u64,
    pub cpu_quota: i64,
    pub cpu_realtime_period: u64,
    pub cpu_realtime_runtime: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub devices: Vec<DeviceMapping>,
    pub device_cgroup_rules: Option<Vec<String>>,
    pub device_requests: Option<Vec<DeviceAsk>>,
    pub memory_reservation: i64,
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    pub ulimits: Vec<UlimitLimit>,
    pub cpu_count: u64,
    pub cpu_percent: u64,
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountOptions>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
}

impl HostConfig {
    /// What `spec` asks for. `default_runtime` is the name of our own runtime.
    pub fn new(spec: &ContainerSpec, default_runtime: &str) -> Self {
        let mounts = asked(&spec.mounts);
        let resources = &spec.resources;
        let rates = |rates: &[DeviceRate]| {
            rates.iter().map(|r| ThrottleDevice { path: r.path.clone(), rate: r.rate }).collect()
        };
        HostConfig {
            binds: null_if_empty(if spec.binds.is_empty() { mounts.binds } else { spec.binds.clone() }),
            container_id_file: spec.cidfile.clone().unwrap_or_default(),
            log_config: log_config(&spec.log),
            network_mode: mode_word(&spec.network),
            port_bindings: port_bindings(&spec.publish),
            publish_all_ports: spec.publish_all,
            restart_policy: restart_policy(spec.restart),
            auto_remove: spec.auto_remove,
            volume_driver: spec.volume_driver.clone().unwrap_or_default(),
            volumes_from: null_if_empty(spec.volumes_from.iter().map(volumes_from).collect()),
            annotations: spec.annotations.clone(),
            cap_add: null_if_empty(spec.cap_add.clone()),
            cap_drop: null_if_empty(spec.cap_drop.clone()),
            cgroupns_mode: match spec.cgroupns {
                CgroupnsMode::Default => "",
                CgroupnsMode::Private => "private",
                CgroupnsMode::Host => "host",
            }
            .into(),
            dns: spec.dns.servers.clone(),
            dns_options: spec.dns.options.clone(),
            dns_search: spec.dns.search.clone(),
            extra_hosts: null_if_empty(
                spec.add_hosts.iter().map(|host| format!("{}:{}", host.name, host.address)).collect(),
            ),
            group_add: null_if_empty(spec.group_add.clone()),
            ipc_mode: match &spec.ipc {
                IpcMode::Private => "private".into(),
                IpcMode::Shareable => "shareable".into(),
                IpcMode::None => "none".into(),
                IpcMode::Host => "host".into(),
                IpcMode::Container(name) => format!("container:{name}"),
            },
            oom_score_adj: resources.oom_score_adj.unwrap_or(0),
            pid_mode: match &spec.pid {
                PidMode::Private => String::new(),
                PidMode::Host => "host".into(),
                PidMode::Container(name) => format!("container:{name}"),
            },
            privileged: spec.privileged,
            readonly_rootfs: spec.read_only,
            security_opt: null_if_empty(spec.security.as_given.clone()),
            storage_opt: spec.storage_opt.clone(),
            tmpfs: mounts.tmpfs,
            uts_mode: if spec.uts_host { "host".into() } else { String::new() },
            userns_mode: spec.userns.to_string(),
            shm_size: spec.shm_size.unwrap_or(DEFAULT_SHM),
            sysctls: spec.sysctls.clone(),
            runtime: spec.runtime.clone().unwrap_or_else(|| default_runtime.to_owned()),
            cpu_shares: resources.cpu_shares.unwrap_or(0),
            memory: resources.memory.unwrap_or(0),
            nano_cpus: resources.nano_cpus.unwrap_or(0),
            cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
            blkio_weight: resources.blkio_weight.unwrap_or(0),
            blkio_weight_device: resources
                .blkio_weight_device
                .iter()
                .map(|device| WeightDevice { path: device.path.clone(), weight: device.rate })
                .collect(),
            blkio_device_read_bps: rates(&resources.device_read_bps),
            blkio_device_write_bps: rates(&resources.device_write_bps),
            blkio_device_read_iops: rates(&resources.device_read_iops),
            blkio_device_write_iops: rates(&resources.device_write_iops),
            cpu_period: resources.cpu_period.unwrap_or(0),
            cpu_quota: resources.cpu_quota.unwrap_or(0),
            cpu_realtime_period: resources.cpu_realtime_period.unwrap_or(0),
            cpu_realtime_runtime: resources.cpu_realtime_runtime.unwrap_or(0),
            cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
            devices: spec
                .devices
                .iter()
                .map(|device| DeviceMapping {
                    path_on_host: device.host.clone(),
                    path_in_container: device.container.clone(),
                    cgroup_permissions: device.permissions.clone(),
                })
                .collect(),
            device_cgroup_rules: null_if_empty(spec.device_cgroup_rules.clone()),
            device_requests: null_if_empty(device_asks(spec)),
            memory_reservation: resources.memory_reservation.unwrap_or(0),
            memory_swap: resources.memory_swap.unwrap_or(0),
            memory_swappiness: resources.memory_swappiness,
            oom_kill_disable: resources.oom_kill_disable,
            pids_limit: resources.pids_limit,
            ulimits: spec
                .ulimits
                .iter()
                .map(|u| UlimitLimit { name: u.name.clone(), hard: u.hard, soft: u.soft })
                .collect(),
            mounts: mounts.mounts,
            init: spec.init,
            ..HostConfig::default()
        }
    }
}

fn device_asks(spec: &ContainerSpec) -> Vec<DeviceAsk> {
    let gpus = spec.robot.gpus.iter().map(|gpu| {
        // Docker's client puts this word last.
        let words = gpu.capabilities.iter().cloned().chain(["gpu".to_owned()]);
        DeviceAsk {
            driver: gpu.driver.clone(),
            count: gpu.count.unwrap_or(0),
            device_ids: null_if_empty(gpu.ids.clone()),
            capabilities: Some(vec![words.collect()]),
            options: Some(gpu.options.clone()),
        }
    });
    let cdi = (!spec.robot.cdi.is_empty()).then(|| DeviceAsk {
        driver: "cdi".into(),
        device_ids: Some(spec.robot.cdi.clone()),
        ..DeviceAsk::default()
    });
    gpus.chain(cdi).collect()
}

fn log_config(log: &robot_env_spec::LogConfig) -> LogConfig {
    let kind = match log.driver {
        LogDriver::JsonFile => "json-file",
        LogDriver::Local => "local",
        LogDriver::None => "none",
    };
    LogConfig { kind: kind.into(), config: log.as_given.clone() }
}

fn volumes_from(from: &robot_env_spec::VolumesFrom) -> String {
    if from.read_only { format!("{}:ro", from.container) } else { from.container.clone() }
}

fn restart_policy(policy: robot_env_spec::RestartPolicy) -> RestartPolicy {
    use robot_env_spec::RestartPolicy as Policy;
    let (name, maximum_retry_count) = match policy {
        Policy::No => ("no", 0),
        Policy::Always => ("always", 0),
        Policy::UnlessStopped => ("unless-stopped", 0),
        Policy::OnFailure { maximum } => ("on-failure", maximum),
    };
    RestartPolicy { name: name.into(), maximum_retry_count }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_was_asked_for_is_echoed() {
        let spec = ContainerSpec {
            cap_add: vec!["CAP_SYS_PTRACE".into()],
            restart: robot_env_spec::RestartPolicy::OnFailure { maximum: 3 },
            network: robot_env_spec::NetworkMode::Host,
            ..ContainerSpec::default()
        };
        let got = serde_json::to_value(HostConfig::new(&spec, "robot-env")).unwrap();
        for (field, want) in [
            ("CapAdd", json!(["CAP_SYS_PTRACE"])),
            ("RestartPolicy", json!({"Name": "on-failure", "MaximumRetryCount": 3})),
            ("NetworkMode", json!("host")),
            ("Runtime", json!("robot-env")),
            ("Binds", Value::Null),
            ("Devices", json!([])),
            ("ShmSize", json!(67_108_864)),
        ] {
            assert_eq!(got[field], want, "{field}");
        }
        assert!(got.get("Init").is_none() && got.get("Mounts").is_none());
    }
}

#[cfg(test)]
mod device_tests {
    use super::*;
    use robot_env_spec::GpuRequest;

    #[test]
    fn what_was_asked_of_gpus_is_shown_as_docker_shows_it() {
        let mut spec = ContainerSpec::default();
        assert!(device_asks(&spec).is_empty());
        spec.robot.gpus = vec![
            GpuRequest { count: Some(-1), ..GpuRequest::default() },
            GpuRequest {
                ids: vec!["0".into()],
                capabilities: vec!["compute".into()],
                ..GpuRequest::default()
            },
        ];
        spec.robot.cdi = vec!["vendor.example/lidar=0".into()];
        let text = serde_json::to_string(&device_asks(&spec)).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"[{"Driver":"","Count":-1,"DeviceIDs":null,"Capabilities":[["gpu"]],"Options":{}},"#,
                r#"{"Driver":"","Count":0,"DeviceIDs":["0"],"Capabilities":[["compute","gpu"]],"Options":{}},"#,
                r#"{"Driver":"cdi","Count":0,"DeviceIDs":["vendor.example/lidar=0"],"Capabilities":null,"Options":null}]"#,
            )
        );
    }
}
