//! What the configuration says of every container.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use robot_env_config::Configuration;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_spec::{
    CgroupnsMode, ContainerSpec, IpcMode, LogConfig, LogDriver, NetworkMode, SeccompSpec, Ulimit,
};

use crate::monitor::is_own_runtime;
use crate::rootless::seed::find;

/// What a request said that its spec alone does not tell from nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// A log driver.
    pub log_driver: bool,
    /// An IPC mode.
    pub ipc: bool,
}

/// Fills in what the configuration says and the request does not.
///
/// # Errors
/// Where a seccomp profile that the configuration names cannot be read: a container must not run
/// with another filter than its administrator wants.
pub fn apply_defaults(spec: &mut ContainerSpec, configuration: &Configuration, given: Given) -> Result<()> {
    let list = |key: &str| -> Vec<String> {
        configuration.texts(key).into_iter().map(|(text, _)| text.to_owned()).collect()
    };
    if !matches!(spec.network, NetworkMode::Host | NetworkMode::Container(_)) {
        for (mine, key) in [
            (&mut spec.dns.servers, "dns"),
            (&mut spec.dns.options, "dns-opts"),
            (&mut spec.dns.search, "dns-search"),
        ] {
            if mine.is_empty() {
                *mine = list(key);
            }
        }
    }
    apply_addresses(spec, configuration);
    apply_log(spec, configuration, given.log_driver);
    for (name, soft, hard) in configuration.limits() {
        if !spec.ulimits.iter().any(|limit| limit.name == name) {
            spec.ulimits.push(Ulimit { name: name.to_owned(), soft, hard });
        }
    }
    if !given.ipc && configuration.text("default-ipc-mode") == Some("shareable") {
        spec.ipc = IpcMode::Shareable;
    }
    if spec.shm_size.is_none() && matches!(spec.ipc, IpcMode::Private | IpcMode::Shareable) {
        spec.shm_size = configuration.bytes("default-shm-size").filter(|bytes| *bytes > 0);
    }
    if spec.cgroupns == CgroupnsMode::Default {
        spec.cgroupns = match configuration.text("default-cgroupns-mode") {
            Some("private") => CgroupnsMode::Private,
            Some("host") => CgroupnsMode::Host,
            _ => CgroupnsMode::Default,
        };
    }
    spec.init |= configuration.truth("init").unwrap_or(false);
    let says = |word: &str| spec.security.as_given.iter().any(|option| option.starts_with(word));
    if !says("no-new-privileges") {
        spec.security.no_new_privileges |= configuration.truth("no-new-privileges").unwrap_or(false);
    }
    if !says("seccomp") && !spec.privileged {
        spec.security.seccomp = match configuration.text("seccomp-profile") {
            None | Some("" | "builtin") => SeccompSpec::Default,
            Some("unconfined") => SeccompSpec::Unconfined,
            Some(file) => SeccompSpec::Profile(profile(Path::new(file))?),
        };
    }
    if spec.cgroup_parent.is_none() {
        spec.cgroup_parent =
            configuration.text("cgroup-parent").filter(|path| !path.is_empty()).map(str::to_owned);
    }
    if spec.runtime.is_none() {
        let name = configuration.text("default-runtime").filter(|name| !is_dockers_own(name));
        spec.runtime = name.map(str::to_owned);
    }
    if let Some(name) = spec.runtime.as_deref().filter(|name| !is_own_runtime(name))
        && let Some(runtime) = configuration.runtime(name)
    {
        spec.runtime_command = std::iter::once(runtime.path).chain(runtime.arguments).collect();
    }
    check_runtime(spec)
}

/// Whether there is the program of another runtime: found missing when the container is made, and not by
/// its monitor.
fn check_runtime(spec: &ContainerSpec) -> Result<()> {
    let Some(name) = spec.runtime.as_deref().filter(|name| !is_own_runtime(name)) else { return Ok(()) };
    let program = spec.runtime_command.first().map_or(name, String::as_str);
    let is_there =
        if program.contains('/') { Path::new(program).exists() } else { find(program, None).is_some() };
    if is_there {
        return Ok(());
    }
    let why = if program == name {
        "there is no such program, and the configuration has none".into()
    } else {
        format!("its program `{program}` is missing")
    };
    Err(Error::invalid(format!("unknown or invalid runtime name: {name}"))
        .because(Error::not_found(why))
        .with_hint("`config show` lists the `runtimes` of the configuration; without --runtime robot-env's own is used"))
}

/// What Docker's configuration calls its own default.
fn is_dockers_own(name: &str) -> bool {
    matches!(name, "" | "runc" | "io.containerd.runc.v2")
}

/// Where ports are published, and what `host-gateway` means.
fn apply_addresses(spec: &mut ContainerSpec, configuration: &Configuration) {
    if let Some(address) = configuration.text("ip").and_then(|text| text.parse::<IpAddr>().ok())
        && !address.is_unspecified()
    {
        for port in spec.publish.iter_mut().filter(|port| port.host.is_none()) {
            port.host = Some(address);
        }
    }
    let several = configuration.texts("host-gateway-ips").into_iter().map(|(text, _)| text);
    let several: Vec<&str> = several.collect();
    let first = several.iter().find(|text| text.parse::<Ipv4Addr>().is_ok()).or(several.first()).copied();
    if let Some(address) = first.or(configuration.text("host-gateway-ip")) {
        for entry in spec.add_hosts.iter_mut().filter(|entry| entry.address == "host-gateway") {
            address.clone_into(&mut entry.address);
        }
    }
}

/// Docker's rule: the driver of the configuration where none was given, and the options of the
/// configuration where its driver is used, each unless it was given.
fn apply_log(spec: &mut ContainerSpec, configuration: &Configuration, given: bool) {
    let driver = match configuration.text("log-driver") {
        Some("local") => LogDriver::Local,
        Some("none") => LogDriver::None,
        _ => LogDriver::JsonFile,
    };
    if !given && spec.log.as_given.is_empty() {
        spec.log = LogConfig { driver, ..LogConfig::default() };
    }
    if spec.log.driver != driver || driver == LogDriver::None {
        return;
    }
    for (key, value) in configuration.map("log-opts") {
        if spec.log.as_given.contains_key(&key) {
            continue;
        }
        match key.as_str() {
            "max-size" if value == "-1" => spec.log.max_size = Some(u64::MAX),
            "max-size" => match robot_env_config::bytes(&value) {
                Some(bytes) if bytes > 0 => spec.log.max_size = Some(bytes),
                _ => continue,
            },
            "max-file" => match value.parse() {
                Ok(count) if count > 0 => spec.log.max_file = Some(count),
                _ => continue,
            },
            _ => continue,
        }
        spec.log.as_given.insert(key, value);
    }
}

fn profile(file: &Path) -> Result<String> {
    let what = || format!("cannot read seccomp profile `{}`, which the configuration names", file.display());
    let text = robot_env_config::read_text(file).within(what)?;
    let text = text.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOENT)).io_context(what)?;
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if value.is_object() => Ok(text),
        Ok(_) => Err(Error::invalid(what()).because(Error::invalid("it is not a JSON object"))),
        Err(error) => Err(Error::new(Kind::InvalidInput, what()).because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_config::Source;
    use robot_env_spec::{HostEntry, PortSpec};

    fn applied(text: &str, mut spec: ContainerSpec, given: Given) -> ContainerSpec {
        let source = Source { path: "/etc/docker/daemon.json".into(), own: false };
        let configuration = Configuration::of_text(&source, text);
        assert_eq!(configuration.findings, []);
        apply_defaults(&mut spec, &configuration, given).unwrap();
        spec
    }

    const DAEMON: &str = r#"{"dns": ["10.0.0.1"], "dns-search": ["lab"], "log-driver": "local",
        "log-opts": {"max-size": "1m", "max-file": 2}, "default-shm-size": "1G", "init": true,
        "default-ulimits": {"memlock": {"Soft": -1, "Hard": -1}, "core": {"Soft": 0, "Hard": 0}},
        "default-runtime": "kata", "runtimes": {"kata": {"path": "/bin/sh", "runtimeArgs": ["--x"]}},
        "no-new-privileges": true, "cgroup-parent": "/robots", "default-cgroupns-mode": "host",
        "default-ipc-mode": "shareable"}"#;

    #[test]
    fn what_is_not_asked_for_comes_from_the_configuration() {
        let spec = applied(DAEMON, ContainerSpec::default(), Given::default());
        assert_eq!((spec.dns.servers, spec.dns.search), (vec!["10.0.0.1".into()], vec!["lab".into()]));
        assert_eq!(
            (spec.log.driver, spec.log.max_size, spec.log.max_file),
            (LogDriver::Local, Some(1 << 20), Some(2))
        );
        assert_eq!((spec.shm_size, spec.init, spec.ipc), (Some(1 << 30), true, IpcMode::Shareable));
        assert_eq!(spec.ulimits.len(), 2);
        assert_eq!(
            (spec.runtime.as_deref(), spec.runtime_command),
            (Some("kata"), vec!["/bin/sh".into(), "--x".into()])
        );
        assert!(spec.security.no_new_privileges);
        assert_eq!((spec.cgroup_parent.as_deref(), spec.cgroupns), (Some("/robots"), CgroupnsMode::Host));
    }

    #[test]
    fn what_is_asked_for_counts() {
        let asked = ContainerSpec {
            ipc: IpcMode::Host,
            ulimits: vec![Ulimit { name: "core".into(), soft: 1, hard: 1 }],
            runtime: Some("nvidia".into()),
            cgroup_parent: Some("/own".into()),
            network: NetworkMode::Host,
            ..ContainerSpec::default()
        };
        let spec = applied(DAEMON, asked, Given { log_driver: true, ipc: true });
        assert_eq!((spec.log.driver, spec.log.max_size), (LogDriver::JsonFile, None));
        assert_eq!((spec.shm_size, spec.ipc, spec.dns.servers.len()), (None, IpcMode::Host, 0));
        assert_eq!(spec.ulimits[0].soft, 1);
        assert_eq!((spec.runtime.as_deref(), spec.runtime_command.len()), (Some("nvidia"), 0));
        assert_eq!(spec.cgroup_parent.as_deref(), Some("/own"));
    }

    #[test]
    fn ports_and_the_hosts_address() {
        let text = r#"{"ip": "127.0.0.1", "host-gateway-ips": ["fd00::1", "10.9.9.1"]}"#;
        let port = |host: Option<&str>| PortSpec {
            host: host.map(|text| text.parse().unwrap()),
            host_ports: None,
            port: 80,
            protocol: "tcp".into(),
        };
        let host = |address: &str| HostEntry { name: "h".into(), address: address.into() };
        let asked = ContainerSpec {
            publish: vec![port(None), port(Some("10.0.0.5"))],
            add_hosts: vec![host("host-gateway"), host("1.2.3.4")],
            ..ContainerSpec::default()
        };
        let spec = applied(text, asked, Given::default());
        assert_eq!(spec.publish, [port(Some("127.0.0.1")), port(Some("10.0.0.5"))]);
        assert_eq!(spec.add_hosts, [host("10.9.9.1"), host("1.2.3.4")]);
    }

    #[test]
    fn nothing_said_changes_nothing() {
        let runc =
            r#"{"default-runtime": "runc", "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}"#;
        for text in ["{}", runc] {
            assert_eq!(
                applied(text, ContainerSpec::default(), Given::default()),
                ContainerSpec::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_runtime_that_is_nowhere_is_an_error() {
        let source = Source { path: "/x/daemon.json".into(), own: false };
        let text = r#"{"runtimes": {"gone": {"path": "/nonexistent/runtime"}, "here": {"path": "/bin/sh"}}}"#;
        let configuration = Configuration::of_text(&source, text);
        for (name, says) in [
            ("gone", Some("`/nonexistent/runtime` is missing")),
            ("nowhere-to-be-found", Some("there is no such program")),
            ("here", None),
            ("nvidia", None),
            ("robot-env", None),
        ] {
            let mut spec = ContainerSpec { runtime: Some(name.into()), ..ContainerSpec::default() };
            let done = apply_defaults(&mut spec, &configuration, Given::default());
            match (done, says) {
                (Ok(()), None) => {}
                (Err(error), Some(says)) => {
                    let text = error.to_report().to_string();
                    assert!(
                        text.contains("unknown or invalid runtime name") && text.contains(says),
                        "{text}"
                    );
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_an_error() {
        let source = Source { path: "/x/daemon.json".into(), own: false };
        let configuration =
            Configuration::of_text(&source, r#"{"seccomp-profile": "/nonexistent/profile.json"}"#);
        let mut spec = ContainerSpec::default();
        let error = apply_defaults(&mut spec, &configuration, Given::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        spec.privileged = true;
        apply_defaults(&mut spec, &configuration, Given::default()).unwrap();
    }
}
