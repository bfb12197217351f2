//! From what a client sends to a [`ContainerSpec`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use robot_env_diag::{Error, Kind};
use robot_env_spec::{
    AttachStreams, CgroupnsMode, ContainerSpec, DeviceSpec, DnsConfig, EndpointSpec, GpuRequest, HostEntry,
    IpcMode, LogConfig, LogDriver, NetworkMode, PidMode, PortSpec, RestartPolicy, RobotSpec, SeccompSpec,
    SecuritySpec, VolumesFrom,
};
use robot_env_wire::{
    CreateContainer, DeviceRequest, EndpointRequest, HostConfigRequest, LogConfigRequest, PortRequest,
    RestartPolicyRequest,
};

use super::{limits, mounts};
use crate::failure::{Failure, Result};

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(400, message)
}

fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(501, message)
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// What a client wants, and what it should hear of it.
pub(crate) fn spec(wanted: CreateContainer) -> Result<(ContainerSpec, Vec<String>)> {
    if wanted.image.is_empty() {
        return Err(bad("no image was specified"));
    }
    let host = wanted.host_config;
    refuse(&host)?;
    let mut warnings = Vec::new();
    let (network, endpoints) =
        networks(&host.network_mode, wanted.networking_config.endpoints_config, &wanted.mac_address)?;
    let network = if wanted.network_disabled { NetworkMode::None } else { network };
    let on_networks = matches!(network, NetworkMode::Default | NetworkMode::Network(_));
    let mut publish = Vec::new();
    for (key, bindings) in &host.port_bindings {
        for binding in bindings.iter().flatten() {
            publish.push(port(key, binding)?);
        }
    }
    if !on_networks && (!publish.is_empty() || host.publish_all_ports) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    let mut expose = Vec::new();
    for key in wanted.exposed_ports.keys().chain(host.port_bindings.keys()) {
        let key = port_key(key)?;
        if !expose.contains(&key) {
            expose.push(key);
        }
    }
    let mut resources = limits::resources(&host.resources)?;
    resources.oom_score_adj = Some(host.oom_score_adj).filter(|score| *score != 0);
    let spec = ContainerSpec {
        image: wanted.image,
        // An empty list is no list for Docker.
        command: wanted.line.cmd.filter(|words| !words.is_empty()),
        entrypoint: wanted.line.entrypoint.map(|words| if words == [""] { Vec::new() } else { words }),
        env: wanted.env,
        user: some(wanted.user),
        group_add: host.group_add.clone(),
        working_dir: some(wanted.working_dir),
        tty: wanted.tty,
        stdin_open: wanted.open_stdin,
        stdin_once: wanted.stdin_once,
        attach: AttachStreams {
            stdin: wanted.attach_stdin,
            stdout: wanted.attach_stdout,
            stderr: wanted.attach_stderr,
        },
        init: host.init.unwrap_or(false),
        labels: wanted.labels,
        annotations: host.annotations.clone(),
        stop_signal: some(wanted.stop_signal),
        stop_timeout: wanted.stop_timeout,
        healthcheck: wanted.healthcheck.filter(|check| *check != robot_env_oci::Healthcheck::default()),
        restart: restart_policy(&host.restart_policy)?,
        auto_remove: host.auto_remove,
        hostname: some(wanted.hostname),
        domainname: some(wanted.domainname),
        endpoints,
        publish: if on_networks { publish } else { Vec::new() },
        publish_all: on_networks && host.publish_all_ports,
        network,
        add_hosts: host.extra_hosts.iter().map(|text| host_entry(text)).collect::<Result<_>>()?,
        dns: dns(&host)?,
        expose,
        ipc: ipc(&host.ipc_mode)?,
        pid: pid(&host.pid_mode)?,
        uts_host: host_only("UTS", &host.uts_mode)?,
        userns: host.userns_mode.parse()?,
        cgroupns: match host.cgroupns_mode.as_str() {
            "" => CgroupnsMode::Default,
            "private" => CgroupnsMode::Private,
            "host" => CgroupnsMode::Host,
            other => return Err(bad(format!("invalid cgroup namespace mode: {other}"))),
        },
        mounts: mounts::mounts(&host, &wanted.volumes)?,
        binds: host.binds.clone(),
        volumes_from: host.volumes_from.iter().map(|text| volumes_from(text)).collect::<Result<_>>()?,
        volume_driver: some(host.volume_driver.clone()),
        read_only: host.readonly_rootfs,
        shm_size: match host.shm_size {
            0 => None,
            size => Some(u64::try_from(size).map_err(|_| bad("SHM size can not be less than 0"))?),
        },
        storage_opt: host.storage_opt.clone(),
        cap_add: host.cap_add.iter().map(|text| capability(text)).collect(),
        cap_drop: host.cap_drop.iter().map(|text| capability(text)).collect(),
        privileged: host.privileged,
        security: security(&host)?,
        devices: host.resources.devices.iter().filter(|d| !is_cdi(&d.path_on_host)).map(device).collect(),
        robot: robot(&host)?,
        device_cgroup_rules: host.resources.device_cgroup_rules.clone(),
        sysctls: host.sysctls.clone(),
        ulimits: limits::ulimits(&host.resources)?,
        resources,
        cgroup_parent: some(host.resources.cgroup_parent.clone()),
        log: log_config(&host.log_config)?,
        runtime: some(host.runtime.clone()),
        cidfile: some(host.container_id_file.clone()),
        ..ContainerSpec::default()
    };
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        return Err(bad("can't create 'AutoRemove' container with restart policy"));
    }
    Ok((spec, warnings))
}

/// What Docker has and there is not here.
fn refuse(host: &HostConfigRequest) -> Result<()> {
    if !host.links.is_empty() {
        return Err(unsupported(
            "links are not supported: containers of one network find each other by name",
        ));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(bad(format!("invalid isolation: {}", host.isolation)));
    }
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return Err(Failure::new(
            404,
            format!(
                "error looking up volume plugin {}: plugin \"{}\" not found",
                host.volume_driver, host.volume_driver
            ),
        ));
    }
    if !host.cgroup.is_empty() {
        return Err(unsupported("a container's cgroup cannot be another container's"));
    }
    Ok(())
}

/// The mode, and the places in networks with their settings.
fn networks(
    mode: &str,
    mut settings: BTreeMap<String, Option<EndpointRequest>>,
    mac: &str,
) -> Result<(NetworkMode, Vec<EndpointSpec>)> {
    let mode = match mode {
        // The only network that is named is the one.
        "" | "default" if settings.len() == 1 && !settings.contains_key("default") => {
            settings.keys().next().cloned().unwrap_or_default()
        }
        "" | "default" => robot_env_spec::DEFAULT_NETWORK.to_owned(),
        mode => mode.to_owned(),
    };
    if mode == "none" {
        return Ok((NetworkMode::None, Vec::new()));
    }
    if mode == "host" {
        return Ok((NetworkMode::Host, Vec::new()));
    }
    if let Some(other) = mode.strip_prefix("container:") {
        if other.is_empty() {
            return Err(bad("invalid container format container:<name|id>"));
        }
        return Ok((NetworkMode::Container(other.to_owned()), Vec::new()));
    }
    // Docker's clients write `default` for the bridge in one place and not in the other.
    let own = settings.remove(&mode).or_else(|| settings.remove("default")).flatten();
    let mut endpoints = vec![endpoint(&mode, own.unwrap_or_default())?];
    for (name, wanted) in settings {
        endpoints.push(endpoint(&name, wanted.unwrap_or_default())?);
    }
    if !mac.is_empty()
        && let Some(first) = endpoints.first_mut()
    {
        first.mac.get_or_insert(hardware_address(mac)?);
    }
    let plain = endpoints.len() == 1 && endpoints[0] == EndpointSpec::of(&mode);
    let network = if mode == robot_env_spec::DEFAULT_NETWORK {
        NetworkMode::Default
    } else {
        NetworkMode::Network(mode)
    };
    Ok((network, if plain { Vec::new() } else { endpoints }))
}

fn hardware_address(text: &str) -> Result<String> {
    let mac: robot_env_network::plan::Mac = text.parse()?;
    Ok(mac.to_string())
}

/// A place in a network.
pub(crate) fn endpoint(network: &str, wanted: EndpointRequest) -> Result<EndpointSpec> {
    if !wanted.links.is_empty() {
        return Err(unsupported(
            "links are not supported: containers of one network find each other by name",
        ));
    }
    let addresses = wanted.ipam_config.unwrap_or_default();
    if !addresses.link_local_ips.is_empty() {
        return Err(unsupported("link-local addresses are not supported"));
    }
    let wrong = |text: &str| bad(format!("invalid address: {text}"));
    Ok(EndpointSpec {
        network: network.to_owned(),
        aliases: wanted.aliases,
        ip: some(addresses.ipv4_address).map(|ip| ip.parse().map_err(|_| wrong(&ip))).transpose()?,
        ip6: some(addresses.ipv6_address).map(|ip| ip.parse().map_err(|_| wrong(&ip))).transpose()?,
        mac: some(wanted.mac_address).map(|mac| hardware_address(&mac)).transpose()?,
        gateway_priority: wanted.gw_priority,
    })
}

/// `80/tcp`, from that or `80`.
fn port_key(text: &str) -> Result<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    match port.parse::<u16>() {
        Ok(port) if port > 0 && matches!(protocol.as_str(), "tcp" | "udp" | "sctp") => {
            Ok(format!("{port}/{protocol}"))
        }
        _ => Err(bad(format!("invalid port specification: \"{text}\""))),
    }
}

fn port(key: &str, binding: &PortRequest) -> Result<PortSpec> {
    let key = port_key(key)?;
    let (port, protocol) = key.split_once('/').unwrap_or((&key, "tcp"));
    let wrong = || bad(format!("invalid port specification: \"{}\"", binding.host_port));
    let host_ports = match binding.host_port.as_str() {
        "" | "0" => None,
        text => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some((first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?))
        }
    };
    let host = match binding.host_ip.as_str() {
        "" => None,
        text => match text.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() && address.is_ipv4() => None,
            Ok(address) => Some(address),
            Err(_) => return Err(bad(format!("invalid IP address: {text}"))),
        },
    };
    Ok(PortSpec { host, host_ports, port: port.parse().map_err(|_| wrong())?, protocol: protocol.to_owned() })
}

pub(crate) fn host_entry(text: &str) -> Result<HostEntry> {
    match text.split_once([':', '=']) {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
                return Err(bad(format!("invalid IP address in add-host: \"{address}\"")));
            }
            Ok(HostEntry { name: name.to_owned(), address: address.to_owned() })
        }
        _ => Err(bad(format!("bad format for add-host: \"{text}\""))),
    }
}

fn dns(host: &HostConfigRequest) -> Result<DnsConfig> {
    for server in &host.dns {
        server.parse::<IpAddr>().map_err(|_| bad(format!("invalid IP address: {server}")))?;
    }
    Ok(DnsConfig {
        servers: host.dns.clone(),
        search: host.dns_search.clone(),
        options: host.dns_options.clone(),
    })
}

fn ipc(mode: &str) -> Result<IpcMode> {
    Ok(match mode {
        "" | "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "none" => IpcMode::None,
        "host" => IpcMode::Host,
        other => match other.strip_prefix("container:").filter(|name| !name.is_empty()) {
            Some(name) => IpcMode::Container(name.to_owned()),
            None => return Err(bad(format!("invalid IPC mode: {other}"))),
        },
    })
}

fn pid(mode: &str) -> Result<PidMode> {
    Ok(match mode {
        "" | "private" => PidMode::Private,
        "host" => PidMode::Host,
        other => match other.strip_prefix("container:").filter(|name| !name.is_empty()) {
            Some(name) => PidMode::Container(name.to_owned()),
            None => return Err(bad(format!("invalid PID mode: {other}"))),
        },
    })
}

fn host_only(what: &str, mode: &str) -> Result<bool> {
    match mode {
        "" | "private" => Ok(false),
        "host" => Ok(true),
        other => Err(bad(format!("invalid {what} mode: {other}"))),
    }
}

fn volumes_from(text: &str) -> Result<VolumesFrom> {
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = mode.split(',').filter(|word| !word.is_empty()).collect();
    if container.is_empty() || words.iter().any(|word| !matches!(*word, "ro" | "rw" | "z" | "Z")) {
        return Err(bad(format!("invalid volumes-from specification: {text}")));
    }
    Ok(VolumesFrom { container: container.to_owned(), read_only: words.contains(&"ro") })
}

fn capability(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// The security options, whose profiles are texts here, and what is not masked.
pub(crate) fn security(host: &HostConfigRequest) -> Result<SecuritySpec> {
    let mut out = SecuritySpec { as_given: host.security_opt.clone(), ..SecuritySpec::default() };
    for option in &host.security_opt {
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((key, value)) => (key, Some(value)),
            None => (option.as_str(), None),
        };
        let wrong = || bad(format!("invalid --security-opt: \"{option}\""));
        match (key, value) {
            ("no-new-privileges", None | Some("true" | "1")) => out.no_new_privileges = true,
            ("no-new-privileges", Some("false" | "0")) => out.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => out.seccomp = SeccompSpec::Unconfined,
            ("seccomp", Some("builtin")) => out.seccomp = SeccompSpec::Default,
            ("seccomp", Some(text)) => {
                let value: serde_json::Value = serde_json::from_str(text)
                    .map_err(|error| bad(format!("Decoding seccomp profile failed: {error}")))?;
                if !value.is_object() {
                    return Err(wrong());
                }
                out.seccomp = SeccompSpec::Profile(text.to_owned());
            }
            ("apparmor", Some(profile)) if !profile.is_empty() => out.apparmor = Some(profile.to_owned()),
            ("systempaths", Some("unconfined")) => out.unmasked_paths = true,
            ("label", Some("disable")) => {}
            ("label", _) => return Err(unsupported("SELinux labels are not supported")),
            _ => return Err(wrong()),
        }
    }
    // The client turns `systempaths=unconfined` into two empty lists.
    match (&host.masked_paths, &host.readonly_paths) {
        (None, None) => {}
        (Some(masked), Some(read_only)) if masked.is_empty() && read_only.is_empty() => {
            out.unmasked_paths = true;
        }
        _ => return Err(unsupported("masked and read-only paths can only be the default ones or none")),
    }
    Ok(out)
}

fn is_cdi(path: &str) -> bool {
    !path.starts_with('/') && path.contains('=')
}

fn device(device: &robot_env_wire::DeviceRequestPath) -> DeviceSpec {
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    DeviceSpec {
        host: device.path_on_host.clone(),
        container: or(&device.path_in_container, &device.path_on_host),
        permissions: or(&device.cgroup_permissions, "rwm"),
    }
}

/// GPUs and CDI devices.
fn robot(host: &HostConfigRequest) -> Result<RobotSpec> {
    let mut robot = RobotSpec::default();
    for request in &host.resources.device_requests {
        if request.driver == "cdi" {
            robot.cdi.extend(request.device_ids.iter().cloned());
        } else {
            robot.gpus.push(gpu(request)?);
        }
    }
    let named = host.resources.devices.iter().map(|device| &device.path_on_host);
    robot.cdi.extend(named.filter(|path| is_cdi(path)).cloned());
    Ok(robot)
}

fn gpu(request: &DeviceRequest) -> Result<GpuRequest> {
    // Alternatives; one that names GPUs is taken.
    let words = request.capabilities.iter().find(|words| words.iter().any(|word| word == "gpu"));
    let Some(words) = words else {
        let all: Vec<String> =
            request.capabilities.iter().map(|words| format!("[{}]", words.join(" "))).collect();
        return Err(Error::new(
            Kind::InvalidInput,
            format!(
                "could not select device driver \"{}\" with capabilities: [{}]",
                request.driver,
                all.join(" ")
            ),
        )
        .into());
    };
    if request.count != 0 && !request.device_ids.is_empty() {
        return Err(bad("cannot set both Count and DeviceIDs on device request"));
    }
    Ok(GpuRequest {
        driver: request.driver.clone(),
        count: (request.count != 0).then_some(request.count),
        ids: request.device_ids.clone(),
        capabilities: words.iter().filter(|word| *word != "gpu").cloned().collect(),
        options: request.options.clone(),
    })
}

/// A restart policy by its name.
pub(super) fn restart_policy(policy: &RestartPolicyRequest) -> Result<RestartPolicy> {
    let count = policy.maximum_retry_count;
    if count != 0 && policy.name != "on-failure" {
        return Err(bad("invalid restart policy: maximum retry count can only be used with 'on-failure'"));
    }
    Ok(match policy.name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure {
            maximum: u32::try_from(count)
                .map_err(|_| bad("invalid restart policy: maximum retry count cannot be negative"))?,
        },
        other => {
            return Err(bad(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    })
}

fn log_config(wanted: &LogConfigRequest) -> Result<LogConfig> {
    let name = if wanted.kind.is_empty() { "json-file" } else { &wanted.kind };
    let driver = match name {
        "json-file" => LogDriver::JsonFile,
        "local" => LogDriver::Local,
        "none" => LogDriver::None,
        other => {
            return Err(bad(format!("logger: no log driver named '{other}' is registered")));
        }
    };
    let (mut max_size, mut max_file) = (None, None);
    for (key, value) in &wanted.config {
        let wrong = || bad(format!("invalid value for {key}: {value}"));
        match key.as_str() {
            "max-size" if value == "-1" => max_size = Some(u64::MAX),
            "max-size" => max_size = Some(limits::bytes(value).filter(|n| *n > 0).ok_or_else(wrong)?),
            "max-file" => max_file = Some(value.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?),
            "compress" if value == "false" || (driver == LogDriver::Local && value == "true") => {}
            "mode" if value == "non-blocking" => {}
            _ => return Err(bad(format!("unknown log opt '{key}' for {name} log driver"))),
        }
    }
    Ok(LogConfig { driver, max_size, max_file, as_given: wanted.config.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ContainerSpec> {
        spec(serde_json::from_str(text).unwrap()).map(|(spec, _)| spec)
    }

    #[test]
    fn networks_as_clients_write_them() {
        for (text, mode, places) in [
            (r#"{"Image":"a"}"#, NetworkMode::Default, &["bridge"][..]),
            (
                r#"{"Image":"a","HostConfig":{"NetworkMode":"default"},"NetworkingConfig":{"EndpointsConfig":{"default":{}}}}"#,
                NetworkMode::Default,
                &["bridge"],
            ),
            (r#"{"Image":"a","HostConfig":{"NetworkMode":"bridge"}}"#, NetworkMode::Default, &["bridge"]),
            (r#"{"Image":"a","HostConfig":{"NetworkMode":"host"}}"#, NetworkMode::Host, &[]),
            (
                r#"{"Image":"a","HostConfig":{"NetworkMode":"n"},"NetworkingConfig":{"EndpointsConfig":{"n":{"Aliases":["web"]},"m":null}}}"#,
                NetworkMode::Network("n".into()),
                &["n", "m"],
            ),
            (
                r#"{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"n":{}}}}"#,
                NetworkMode::Network("n".into()),
                &["n"],
            ),
        ] {
            let got = read(text).unwrap();
            let names: Vec<String> = got.places().into_iter().map(|place| place.network).collect();
            assert_eq!(
                (&got.network, names),
                (&mode, places.iter().map(|p| (*p).to_owned()).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn ports_and_lines() {
        let got = read(
            r#"{"Image":"a","Cmd":[],"Entrypoint":[""],"ExposedPorts":{"90":{}},"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"127.0.0.1","HostPort":"9000-9010"}],"53/udp":[{"HostPort":""}]}}}"#,
        )
        .unwrap();
        assert_eq!((got.command, got.entrypoint), (None, Some(Vec::new())));
        assert_eq!(got.expose, ["90/tcp", "53/udp", "80/tcp"]);
        let ports: Vec<_> = got.publish.iter().map(|p| (p.key(), p.host.is_some(), p.host_ports)).collect();
        assert_eq!(
            ports,
            [
                ("53/udp".to_owned(), false, None),
                ("80/tcp".to_owned(), false, Some((8080, 8080))),
                ("80/tcp".to_owned(), true, Some((9000, 9010)))
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, status) in [
            ("{}", 400),
            (r#"{"Image":"a","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}"#, 400),
            (r#"{"Image":"a","HostConfig":{"RestartPolicy":{"Name":"sometimes"}}}"#, 400),
            (r#"{"Image":"a","HostConfig":{"Links":["a:b"]}}"#, 501),
            (r#"{"Image":"a","HostConfig":{"PortBindings":{"x":[{}]}}}"#, 400),
            (r#"{"Image":"a","HostConfig":{"LogConfig":{"Type":"syslog"}}}"#, 400),
            (r#"{"Image":"a","HostConfig":{"SecurityOpt":["seccomp=/a/path"]}}"#, 400),
            (r#"{"Image":"a","HostConfig":{"MaskedPaths":["/x"]}}"#, 501),
            (r#"{"Image":"a","HostConfig":{"IpcMode":"x"}}"#, 400),
            (r#"{"Image":"a","HostConfig":{"DeviceRequests":[{"Capabilities":[["tpu"]]}]}}"#, 400),
        ] {
            assert_eq!(read(text).map_err(|failure| failure.status).err(), Some(status), "{text}");
        }
    }
}
