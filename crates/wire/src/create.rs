//! `POST /containers/create`: what clients send. Every field that Docker has is read, so that whoever
//! makes a container of it can refuse what he cannot do; unknown ones mean nothing to Docker either.

use std::collections::BTreeMap;

use robot_env_oci::Healthcheck;
use serde::{Deserialize, Deserializer};

use crate::null_default;

/// A list of words, or one word.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(from)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* } $($flat:ident: $flat_kind:ty)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        #[allow(missing_docs)] // the names are Docker's
        pub struct $name {
            $($(#[$field_doc])* #[serde(deserialize_with = "null_default")] pub $field: $kind,)*
            // Never null: it has no name of its own.
            $(#[serde(flatten)] pub $flat: $flat_kind,)?
        }
    };
}

request! {
    /// A port of the host, as it is asked for.
    PortRequest { host_ip: String, host_port: String, }
}

request! {
    /// A place in a network, as it is asked for.
    EndpointRequest {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointAddresses>,
        links: Vec<String>,
        aliases: Vec<String>,
        mac_address: String,
        gw_priority: i64,
        driver_opts: BTreeMap<String, String>,
    }
}

request! {
    /// Fixed addresses.
    EndpointAddresses {
        #[serde(rename = "IPv4Address")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        ipv6_address: String,
        #[serde(rename = "LinkLocalIPs")]
        link_local_ips: Vec<String>,
    }
}

request! {
    /// Where the output goes.
    LogConfigRequest {
        #[serde(rename = "Type")]
        kind: String,
        config: BTreeMap<String, String>,
    }
}

request! {
    /// What happens when the process ends.
    RestartPolicyRequest { name: String, maximum_retry_count: i64, }
}

request! {
    /// A device of the host.
    DeviceRequestPath { path_on_host: String, path_in_container: String, cgroup_permissions: String, }
}

request! {
    /// GPUs, or CDI devices.
    DeviceRequest {
        driver: String,
        count: i64,
        #[serde(rename = "DeviceIDs")]
        device_ids: Vec<String>,
        capabilities: Vec<Vec<String>>,
        options: BTreeMap<String, String>,
    }
}

request! {
    /// A block device and a number.
    DeviceNumber { path: String, weight: u64, rate: u64, }
}

request! {
    /// A resource limit.
    UlimitRequest { name: String, soft: i64, hard: i64, }
}

request! {
    /// Options of a bind.
    BindRequest {
        propagation: String,
        non_recursive: bool,
        create_mountpoint: bool,
        read_only_non_recursive: bool,
        read_only_force_recursive: bool,
    }
}

request! {
    /// A volume's driver.
    VolumeDriverRequest { name: String, options: BTreeMap<String, String>, }
}

request! {
    /// Options of a volume.
    VolumeMountRequest {
        no_copy: bool,
        labels: BTreeMap<String, String>,
        subpath: String,
        driver_config: Option<VolumeDriverRequest>,
    }
}

request! {
    /// Options of a tmpfs.
    TmpfsRequest { size_bytes: i64, mode: u32, options: Vec<Vec<String>>, }
}

request! {
    /// Options of an image's mount.
    ImageMountRequest { subpath: String, }
}

request! {
    /// A mount in its long form.
    MountRequest {
        #[serde(rename = "Type")]
        kind: String,
        source: String,
        target: String,
        read_only: bool,
        consistency: String,
        bind_options: Option<BindRequest>,
        volume_options: Option<VolumeMountRequest>,
        tmpfs_options: Option<TmpfsRequest>,
        image_options: Option<ImageMountRequest>,
    }
}

request! {
    /// Limits: those of `HostConfig`, and what `POST /containers/{id}/update` changes.
    ResourcesRequest {
        cpu_shares: u64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Vec<DeviceNumber>,
        blkio_device_read_bps: Vec<DeviceNumber>,
        blkio_device_write_bps: Vec<DeviceNumber>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Vec<DeviceNumber>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Vec<DeviceNumber>,
        cpu_period: u64,
        cpu_quota: i64,
        cpu_realtime_period: u64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Vec<DeviceRequestPath>,
        device_cgroup_rules: Vec<String>,
        device_requests: Vec<DeviceRequest>,
        kernel_memory: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Vec<UlimitRequest>,
    }
}

request! {
    /// `HostConfig`.
    HostConfigRequest {
        binds: Vec<String>,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfigRequest,
        network_mode: String,
        port_bindings: BTreeMap<String, Option<Vec<PortRequest>>>,
        restart_policy: RestartPolicyRequest,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: Vec<String>,
        console_size: Option<[u32; 2]>,
        annotations: BTreeMap<String, String>,
        cap_add: Vec<String>,
        cap_drop: Vec<String>,
        cgroupns_mode: String,
        dns: Vec<String>,
        dns_options: Vec<String>,
        dns_search: Vec<String>,
        extra_hosts: Vec<String>,
        group_add: Vec<String>,
        ipc_mode: String,
        cgroup: String,
        links: Vec<String>,
        oom_score_adj: i32,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: Vec<String>,
        storage_opt: BTreeMap<String, String>,
        tmpfs: BTreeMap<String, String>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        sysctls: BTreeMap<String, String>,
        runtime: String,
        isolation: String,
        mounts: Vec<MountRequest>,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        init: Option<bool>,
    } resources: ResourcesRequest
}

request! {
    /// `NetworkingConfig`.
    NetworkingConfigRequest { endpoints_config: BTreeMap<String, Option<EndpointRequest>>, }
}

request! {
    /// The whole document.
    CreateContainer {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        exposed_ports: BTreeMap<String, serde_json::Value>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Vec<String>,
        healthcheck: Option<Healthcheck>,
        image: String,
        volumes: BTreeMap<String, serde_json::Value>,
        working_dir: String,
        mac_address: String,
        network_disabled: bool,
        labels: BTreeMap<String, String>,
        stop_signal: String,
        stop_timeout: Option<i64>,
        host_config: HostConfigRequest,
        networking_config: NetworkingConfigRequest,
    } line: CommandLine
}

/// The program and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // the names are Docker's
pub struct CommandLine {
    #[serde(deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
}

request! {
    /// `POST /containers/{id}/update`.
    UpdateContainer {
        restart_policy: Option<RestartPolicyRequest>,
    } resources: ResourcesRequest
}

request! {
    /// `POST /volumes/create`.
    CreateVolume {
        name: String,
        driver: String,
        driver_opts: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    }
}

request! {
    /// A range of a network.
    IpamConfigRequest {
        subnet: String,
        #[serde(rename = "IPRange")]
        ip_range: String,
        gateway: String,
        #[serde(alias = "AuxAddress")]
        auxiliary_addresses: BTreeMap<String, String>,
    }
}

request! {
    /// How a network gives addresses.
    IpamRequest { driver: String, config: Vec<IpamConfigRequest>, options: BTreeMap<String, String>, }
}

request! {
    /// `POST /networks/create`.
    CreateNetwork {
        name: String,
        check_duplicate: bool,
        driver: String,
        scope: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        ipam: IpamRequest,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_only: bool,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    }
}

request! {
    /// `POST /networks/{id}/connect` and `/disconnect`.
    ConnectNetwork { container: String, endpoint_config: Option<EndpointRequest>, force: bool, }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_single_words_are_read() {
        let text = r#"{"Image":"a","Cmd":"sh","Entrypoint":null,"Env":null,"Labels":null,
            "Healthcheck":{"Test":["CMD","true"],"Interval":1,"Timeout":null,"StartPeriod":null,"Retries":null},
            "HostConfig":{"Binds":null,"Memory":5,"PidsLimit":null,"BlkioDeviceReadIOps":[{"Path":"/dev/x","Rate":3}],
            "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"81/tcp":null}},"NetworkingConfig":null,"Unknown":1}"#;
        let got: CreateContainer = serde_json::from_str(text).unwrap();
        assert_eq!(got.healthcheck.unwrap().interval, 1);
        assert_eq!((got.line.cmd, got.line.entrypoint), (Some(vec!["sh".into()]), None));
        assert_eq!((got.host_config.resources.memory, got.host_config.resources.pids_limit), (5, None));
        assert_eq!(got.host_config.resources.blkio_device_read_iops[0].rate, 3);
        assert_eq!(got.host_config.port_bindings["80/tcp"].as_ref().unwrap()[0].host_port, "8080");
        assert!(serde_json::from_str::<CreateContainer>(r#"{"Cmd":1}"#).is_err());
        assert!(serde_json::from_str::<CreateContainer>(r#"{"HostConfig":[]}"#).is_err());
    }
}
