//! From flags to a [`ContainerSpec`].

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_engine::attach::DetachKeys;
use robot_env_spec::{CgroupnsMode, ContainerSpec, IpcMode, PidMode, RestartPolicy};

use super::{ContainerFlags, Wanted, environment, limits, mount, network, process, robot, security, volume};
use crate::ambient::Ambient;
use crate::quantity;

pub(super) fn wanted(flags: &ContainerFlags, ambient: &Ambient) -> Result<Wanted> {
    refuse_what_is_not_there(flags)?;
    let directory = &ambient.directory;
    let attach = process::attach(flags)?;
    let mut mounts = Vec::new();
    for text in &flags.volume {
        mounts.push(volume::volume(text, directory)?);
    }
    for text in &flags.mount {
        mounts.push(mount::mount(text, directory)?);
    }
    for text in &flags.tmpfs {
        mounts.push(volume::tmpfs(text)?);
    }
    check_targets(&mounts)?;
    let mut resources = flags.limits.resources()?;
    resources.oom_kill_disable = flags.oom_kill_disable.then_some(true);
    resources.oom_score_adj = flags.oom_score_adj.filter(|n| *n != 0);
    if resources.oom_score_adj.is_some_and(|n| !(-1000..=1000).contains(&n)) {
        return Err(Error::invalid("invalid value for --oom-score-adj: it must be between -1000 and 1000"));
    }
    let spec = ContainerSpec {
        image: flags.image.clone(),
        platform: flags.platform.as_deref().filter(|text| !text.is_empty()).map(str::parse).transpose()?,
        command: (!flags.command.is_empty()).then(|| flags.command.clone()),
        entrypoint: flags
            .entrypoint
            .as_ref()
            .map(|word| if word.is_empty() { Vec::new() } else { vec![word.clone()] }),
        env: environment::environment(&flags.env_file, &flags.env, ambient)?,
        user: flags.user.clone().filter(|user| !user.is_empty()),
        group_add: flags.group_add.clone(),
        working_dir: working_directory(flags.workdir.as_deref())?,
        tty: flags.tty,
        stdin_open: flags.interactive,
        stdin_once: flags.interactive && attach.stdin,
        attach,
        init: flags.init,
        labels: environment::labels(&flags.label_file, &flags.label, ambient)?,
        annotations: environment::map(&flags.annotation, "annotation")?,
        stop_signal: flags.stop_signal.clone(),
        stop_timeout: flags.stop_timeout,
        healthcheck: process::healthcheck(flags)?,
        restart: flags.restart.as_deref().map_or(Ok(RestartPolicy::No), process::restart_policy)?,
        auto_remove: flags.rm,
        hostname: flags.hostname.clone().filter(|name| !name.is_empty()).map(checked_hostname).transpose()?,
        domainname: flags.domainname.clone().filter(|name| !name.is_empty()),
        ipc: ipc(flags.ipc.as_deref().unwrap_or_default())?,
        pid: pid(flags.pid.as_deref().unwrap_or_default())?,
        uts_host: host_only("uts", flags.uts.as_deref())?,
        userns: flags.userns.as_deref().unwrap_or_default().parse()?,
        cgroupns: match flags.cgroupns.as_deref() {
            None | Some("") => CgroupnsMode::Default,
            Some("private") => CgroupnsMode::Private,
            Some("host") => CgroupnsMode::Host,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "invalid cgroup mode `{other}`: it must be host or private"
                )));
            }
        },
        mounts,
        volumes_from: flags
            .volumes_from
            .iter()
            .map(|text| volume::volumes_from(text))
            .collect::<Result<_>>()?,
        volume_driver: flags.volume_driver.clone().filter(|driver| !driver.is_empty()),
        read_only: flags.read_only,
        shm_size: flags.shm_size.as_deref().map(shm_size).transpose()?,
        storage_opt: environment::map(&flags.storage_opt, "storage option")?,
        cap_add: flags.cap_add.iter().map(|text| security::capability(text)).collect(),
        cap_drop: flags.cap_drop.iter().map(|text| security::capability(text)).collect(),
        privileged: flags.privileged,
        security: security::security(&flags.security_opt, directory)?,
        devices: robot::plain_devices(flags)?,
        robot: robot::robot(flags)?,
        device_cgroup_rules: flags
            .device_cgroup_rule
            .iter()
            .map(|text| security::device_rule(text))
            .collect::<Result<_>>()?,
        sysctls: sysctls(&flags.sysctl)?,
        ulimits: flags.ulimit.iter().map(|text| limits::ulimit(text)).collect::<Result<_>>()?,
        resources,
        cgroup_parent: flags.cgroup_parent.clone().filter(|path| !path.is_empty()),
        log: process::log_config(flags.log_driver.as_deref(), &flags.log_opt)?,
        runtime: flags.runtime.clone().filter(|name| !name.is_empty()),
        cidfile: flags.cidfile.clone().filter(|path| !path.is_empty()),
        ..ContainerSpec::default()
    };
    let mut wanted = Wanted { spec, warnings: Vec::new() };
    robot::mount_workdir(flags, directory, &mut wanted.spec)?;
    network::apply(flags, &mut wanted)?;
    robot::widen(flags, ambient, &mut wanted)?;
    check_combinations(&wanted.spec)?;
    Ok(wanted)
}

fn refuse_what_is_not_there(flags: &ContainerFlags) -> Result<()> {
    if flags.use_api_socket {
        return Err(Error::new(
            Kind::Unsupported,
            "--use-api-socket is not supported: there is no API socket",
        ));
    }
    if !flags.disable_content_trust {
        return Err(Error::new(
            Kind::Unsupported,
            "--disable-content-trust=false is not supported: image signatures are not checked",
        ));
    }
    if flags.isolation.as_deref().is_some_and(|name| !matches!(name, "" | "default")) {
        return Err(Error::new(Kind::Unsupported, "--isolation is for Windows: only `default` exists here"));
    }
    if flags.volume_driver.as_deref().is_some_and(|name| !matches!(name, "" | "local")) {
        return Err(Error::new(Kind::Unsupported, "there is only the volume driver `local`"));
    }
    if !matches!(flags.pull.as_str(), "always" | "missing" | "never") {
        return Err(Error::invalid(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            flags.pull
        )));
    }
    if let Some(keys) = &flags.detach_keys {
        DetachKeys::parse(keys)?;
    }
    if let Some(name) = &flags.name {
        check_container_name(name)?;
    }
    Ok(())
}

/// Docker's rule for container names.
pub(crate) fn check_container_name(name: &str) -> Result<()> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = name.bytes();
    let fine = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine && (2..=255).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

fn check_combinations(spec: &ContainerSpec) -> Result<()> {
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        return Err(Error::invalid("conflicting options: cannot specify both --restart and --rm"));
    }
    if spec.uts_host && (spec.hostname.is_some() || spec.domainname.is_some()) {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    if matches!(spec.ipc, IpcMode::Host | IpcMode::Container(_)) && spec.shm_size.is_some() {
        return Err(Error::invalid("conflicting options: --shm-size and the IPC mode"));
    }
    Ok(())
}

fn check_targets(mounts: &[robot_env_spec::MountSpec]) -> Result<()> {
    for (at, mount) in mounts.iter().enumerate() {
        if mounts[..at].iter().any(|earlier| earlier.target == mount.target) {
            return Err(Error::invalid(format!("duplicate mount point: {}", mount.target)));
        }
    }
    Ok(())
}

fn working_directory(text: Option<&str>) -> Result<Option<String>> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(path) if path.starts_with('/') => Ok(Some(volume::clean(std::path::Path::new(path)))),
        Some(path) => Err(Error::invalid(format!(
            "the working directory '{path}' is invalid, it needs to be an absolute path"
        ))),
    }
}

fn checked_hostname(name: String) -> Result<String> {
    let fine = name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fine {
        Ok(name)
    } else {
        Err(Error::invalid(format!(
            "invalid hostname `{name}`: up to 64 letters, digits, `.`, `-` and `_` are allowed"
        )))
    }
}

pub(crate) fn shm_size(text: &str) -> Result<u64> {
    match quantity::bytes(text).within(|| "invalid argument for --shm-size".into())? {
        0 => Err(Error::invalid("invalid argument for --shm-size: it must be more than 0")),
        bytes => Ok(bytes as u64),
    }
}

fn sysctls(given: &[String]) -> Result<std::collections::BTreeMap<String, String>> {
    for word in given {
        if !word.contains('=') {
            return Err(Error::invalid(format!(
                "invalid argument `{word}` for --sysctl: it must be KEY=VALUE"
            )));
        }
    }
    environment::map(given, "sysctl")
}

fn ipc(text: &str) -> Result<IpcMode> {
    Ok(match text.split_once(':') {
        Some(("container", name)) if !name.is_empty() => IpcMode::Container(name.to_owned()),
        None if matches!(text, "" | "private") => IpcMode::Private,
        None if text == "shareable" => IpcMode::Shareable,
        None if text == "none" => IpcMode::None,
        None if text == "host" => IpcMode::Host,
        _ => return Err(Error::invalid(format!("invalid IPC mode: {text}"))),
    })
}

fn pid(text: &str) -> Result<PidMode> {
    Ok(match text.split_once(':') {
        Some(("container", name)) if !name.is_empty() => PidMode::Container(name.to_owned()),
        None if matches!(text, "" | "private") => PidMode::Private,
        None if text == "host" => PidMode::Host,
        _ => return Err(Error::invalid(format!("--pid: invalid PID mode: {text}"))),
    })
}

fn host_only(flag: &str, text: Option<&str>) -> Result<bool> {
    match text {
        None | Some("" | "private") => Ok(false),
        Some("host") => Ok(true),
        Some(other) => Err(Error::invalid(format!("--{flag}: invalid mode `{other}`: only host is known"))),
    }
}
