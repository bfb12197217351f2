//! GPUs, display, devices and identity: `--gpus` and its kin.

mod enough;
mod ros;

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use robot_env_device::selector::Selector;
use robot_env_device::user::HostUser;
use robot_env_device::{HostRoot, Session, cdi};
use robot_env_diag::{Error, Result};
use robot_env_spec::{
    ContainerSpec, DeviceSelector, DeviceSpec, GpuRequest, GuiMode, HomeMode, MountSource, MountSpec,
    Propagation, ReadOnlyDepth, RobotSpec, Ulimit,
};

use super::mount::csv;
use super::{ContainerFlags, Wanted, security};
use crate::ambient::Ambient;

/// What a robot's developer wants of the host.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RobotFlags {
    /// Mount your git configuration, read-only
    #[arg(long)]
    gitconfig: bool,
    /// Show windows on your display, with sound and the GPU's nodes; `isolated`: on an X server of the
    /// container's own
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "shared")]
    gui: Option<String>,
    /// Your home directory at the same path: rw, ro, or private for one of the containers' own
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "rw")]
    home: Option<String>,
    /// Let threads inside have real-time priorities and lock memory
    #[arg(long)]
    realtime: bool,
    /// ROS across host and containers: network, IPC and user are the host's; `private`: all three are
    /// the container's own
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "host")]
    ros: Option<String>,
    /// Let programs inside use your SSH agent
    #[arg(long)]
    ssh_agent: bool,
    /// Whose identity the container's user has: `host` makes it you
    #[arg(long, value_name = "WHO")]
    user_map: Option<String>,
    /// Mount the working directory at the same path and start there
    #[arg(long)]
    workdir_mount: bool,
}

/// What the flags ask for beyond Docker's devices.
pub(super) fn robot(flags: &ContainerFlags) -> Result<RobotSpec> {
    let is_cdi = |text: &&String| cdi::qualified(text).is_some();
    let wanted = &flags.robot;
    Ok(RobotSpec {
        gpus: flags.gpus.iter().map(|text| gpus(text)).collect::<Result<_>>()?,
        cdi: flags.device.iter().filter(is_cdi).cloned().collect(),
        gui: match wanted.gui.as_deref() {
            None | Some("" | "none") => GuiMode::None,
            Some("shared") => GuiMode::Shared,
            Some("isolated") => GuiMode::Isolated,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "invalid mode `{other}` for --gui: it must be shared, isolated or none"
                )));
            }
        },
        user_map_host: match wanted.user_map.as_deref() {
            None | Some("" | "none") => false,
            Some("host") => true,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "invalid value `{other}` for --user-map: it must be host or none"
                )));
            }
        },
        home: match wanted.home.as_deref() {
            None | Some("" | "none") => None,
            Some("rw") => Some(HomeMode::Shared),
            Some("ro") => Some(HomeMode::ReadOnly),
            Some("private") => Some(HomeMode::Private),
            Some(other) => {
                return Err(Error::invalid(format!(
                    "invalid mode `{other}` for --home: it must be rw, ro or private"
                )));
            }
        },
        ssh_agent: wanted.ssh_agent,
        selectors: selectors(flags)?,
        realtime: wanted.realtime,
        gitconfig: wanted.gitconfig,
    })
}

/// Mounts the working directory, where that is wanted.
pub(super) fn mount_workdir(
    flags: &ContainerFlags,
    directory: &Path,
    spec: &mut ContainerSpec,
) -> Result<()> {
    if !flags.robot.workdir_mount {
        return Ok(());
    }
    let path = directory.to_str().ok_or_else(|| {
        Error::invalid(format!(
            "cannot mount the working directory `{}`: it is not valid UTF-8",
            directory.display()
        ))
    })?;
    if path == "/" {
        return Err(Error::invalid("cannot mount the working directory: it is the root directory"));
    }
    if spec.working_dir.is_none() {
        spec.working_dir = Some(path.to_owned());
    }
    if !spec.mounts.iter().any(|mount| mount.target == path) {
        spec.mounts.push(MountSpec {
            target: path.to_owned(),
            source: MountSource::Bind {
                source: path.to_owned(),
                create_source: false,
                propagation: Propagation::default(),
                recursive: true,
                read_only_depth: ReadOnlyDepth::default(),
            },
            read_only: false,
        });
    }
    Ok(())
}

/// Adds what `--realtime`, `--ros` and `--privileged` stand for.
pub(super) fn widen(flags: &ContainerFlags, ambient: &Ambient, wanted: &mut Wanted) -> Result<()> {
    if flags.robot.realtime {
        real_time(&mut wanted.spec);
    }
    match flags.robot.ros.as_deref() {
        None | Some("" | "none") => {}
        Some("host") => ros::apply(flags, ambient, false, wanted),
        Some("private") => ros::apply(flags, ambient, true, wanted),
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid mode `{other}` for --ros: it must be host or private"
            )));
        }
    }
    if wanted.spec.privileged {
        wanted.warnings.push(enough::instead_of_privileged(&wanted.spec, ambient));
    }
    Ok(())
}

fn real_time(spec: &mut ContainerSpec) {
    for (name, limit) in [("rtprio", 99), ("memlock", -1)] {
        if !spec.ulimits.iter().any(|ulimit| ulimit.name == name) {
            spec.ulimits.push(Ulimit { name: name.into(), soft: limit, hard: limit });
        }
    }
    let capability = "CAP_SYS_NICE".to_owned();
    if !spec.cap_add.contains(&capability) {
        spec.cap_add.push(capability);
    }
}

/// Adds what depends on who the user is: a home directory that is a volume.
pub(crate) fn complete(spec: &mut ContainerSpec, session: &Session) {
    if spec.robot.home == Some(HomeMode::Private) {
        let user = HostUser::of(&HostRoot::system(), session);
        let letters =
            user.name.chars().map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' });
        let name = format!("home-{}", letters.collect::<String>());
        if !spec.mounts.iter().any(|mount| mount.target == user.home) {
            spec.mounts.push(MountSpec {
                target: user.home,
                source: MountSource::Volume {
                    name: Some(name),
                    no_copy: false,
                    subpath: None,
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                },
                read_only: false,
            });
        }
    }
}

/// The devices that are paths.
pub(super) fn plain_devices(flags: &ContainerFlags) -> Result<Vec<DeviceSpec>> {
    let others = flags.device.iter().filter(|text| cdi::qualified(text).is_none());
    let mut out = Vec::new();
    for text in others {
        if selector(text)?.is_none() {
            out.push(security::device(text)?);
        }
    }
    Ok(out)
}

fn selectors(flags: &ContainerFlags) -> Result<Vec<DeviceSelector>> {
    let others = flags.device.iter().filter(|text| cdi::qualified(text).is_none());
    others.filter_map(|text| selector(text).transpose()).collect()
}

/// Reads `WHAT[,name=PATH][,permissions=RWM]`; `None` for one of Docker's device paths.
pub(crate) fn selector(text: &str) -> Result<Option<DeviceSelector>> {
    let mut fields = text.split(',');
    let first = fields.next().unwrap_or_default();
    let mut out = DeviceSelector { what: first.to_owned(), alias: None, permissions: "rwm".into() };
    let mut has_fields = false;
    for field in fields {
        has_fields = true;
        let bad = || {
            Error::invalid(format!("invalid device `{text}`: `{field}` must be name=PATH or permissions=RWM"))
        };
        match field.split_once('=') {
            Some(("name", name)) if !name.is_empty() => {
                let path = if name.starts_with('/') { name.to_owned() } else { format!("/dev/{name}") };
                let fine = path.starts_with("/dev/")
                    && !path.split('/').any(|part| part == "..")
                    && path.len() < 4096;
                if !fine {
                    return Err(Error::invalid(format!(
                        "invalid device `{text}`: the name must be below /dev"
                    )));
                }
                out.alias = Some(path);
            }
            Some(("permissions", letters)) if security::is_permissions(letters) => {
                letters.clone_into(&mut out.permissions);
            }
            _ => return Err(bad()),
        }
    }
    match Selector::parse(first)? {
        Some(_) => Ok(Some(out)),
        // A path with a name beside it.
        None if has_fields && first.starts_with("/dev/") && !first.contains(':') => {
            out.what = format!("path:{first}");
            Ok(Some(out))
        }
        None => Ok(None),
    }
}

/// Reads `--gpus` (docker/cli `opts/gpus.go`).
fn gpus(text: &str) -> Result<GpuRequest> {
    let bad = |why: String| Error::invalid(format!("invalid argument \"{text}\" for \"--gpus\" flag: {why}"));
    if text.is_empty() {
        return Err(bad("it is empty".into()).with_hint("write all, a number, or device=0,1 in quotes"));
    }
    let fields = csv(text).ok_or_else(|| bad("its quotes do not match".into()))?;
    let mut out = GpuRequest::default();
    let mut seen: Vec<String> = Vec::new();
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (field.clone(), None),
        };
        let name = if value.is_none() { "count".to_owned() } else { key.clone() };
        if seen.contains(&name) {
            return Err(bad(format!("gpu request key '{key}' can be specified only once")));
        }
        seen.push(name);
        match (key.as_str(), value) {
            (count, None) => out.count = Some(parse_count(count).map_err(bad)?),
            ("count", Some(value)) => out.count = Some(parse_count(&value).map_err(bad)?),
            ("driver", Some(value)) => out.driver = value,
            ("device", Some(value)) => out.ids = list(&value),
            ("capabilities", Some(value)) => {
                out.capabilities = list(&value).into_iter().filter(|word| word != "gpu").collect();
            }
            ("options", Some(value)) => {
                let options = csv(&value).ok_or_else(|| bad("its quotes do not match".into()))?;
                out.options = options
                    .into_iter()
                    .map(|option| match option.split_once('=') {
                        Some((key, value)) => (key.to_owned(), value.to_owned()),
                        None => (option, String::new()),
                    })
                    .collect::<BTreeMap<_, _>>();
            }
            (key, Some(_)) => return Err(bad(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    if out.count.is_some_and(|count| count != 0) && !out.ids.is_empty() {
        return Err(bad("cannot set both Count and DeviceIDs on device request".into()));
    }
    if out.count.is_none() && out.ids.is_empty() {
        out.count = Some(1);
    }
    if let Some(option) = out.options.keys().next() {
        return Err(bad(format!("there is no driver option `{option}`")));
    }
    Ok(out)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn parse_count(text: &str) -> std::result::Result<i64, String> {
    match text {
        "all" => Ok(-1),
        digits => digits
            .parse::<i64>()
            .ok()
            .filter(|count| *count >= -1)
            .ok_or_else(|| format!("count ({digits}) must be an integer, or all")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn devices_by_what_they_are() {
        let made = |what: &str, alias: Option<&str>, permissions: &str| {
            Some(DeviceSelector {
                what: what.into(),
                alias: alias.map(str::to_owned),
                permissions: permissions.into(),
            })
        };
        for (text, want) in [
            ("serial", made("serial", None, "rwm")),
            ("usb:0403:6001,name=lidar", made("usb:0403:6001", Some("/dev/lidar"), "rwm")),
            ("camera,name=/dev/eye,permissions=r", made("camera", Some("/dev/eye"), "r")),
            ("/dev/ttyUSB0,name=lidar", made("path:/dev/ttyUSB0", Some("/dev/lidar"), "rwm")),
            ("/dev/ttyUSB0", None),
            ("/dev/ttyUSB0:/dev/x:rw", None),
        ] {
            assert_eq!(selector(text).unwrap(), want, "{text}");
        }
        for bad in [
            "lidar",
            "serial,name=",
            "serial,name=/etc/x",
            "serial,name=../x",
            "serial,permissions=q",
            "serial,what=x",
        ] {
            assert!(selector(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn docker_s_grammar_of_gpus() {
        let request = GpuRequest::default;
        for (text, want) in [
            ("all", GpuRequest { count: Some(-1), ..request() }),
            ("2", GpuRequest { count: Some(2), ..request() }),
            ("count=all", GpuRequest { count: Some(-1), ..request() }),
            ("\"device=0,2\"", GpuRequest { ids: words(&["0", "2"]), ..request() }),
            ("device=GPU-3a", GpuRequest { ids: words(&["GPU-3a"]), ..request() }),
            ("driver=nvidia,count=1", GpuRequest { driver: "nvidia".into(), count: Some(1), ..request() }),
            (
                "all,\"capabilities=compute,utility\"",
                GpuRequest { count: Some(-1), capabilities: words(&["compute", "utility"]), ..request() },
            ),
            ("capabilities=gpu", GpuRequest { count: Some(1), ..request() }),
        ] {
            assert_eq!(gpus(text).unwrap(), want, "{text}");
        }
        for (text, says) in [
            ("", "it is empty"),
            ("x", "count (x) must be an integer"),
            ("-2", "must be an integer"),
            ("all,count=1", "only once"),
            ("driver=a,driver=b", "only once"),
            ("wheels=4", "unexpected key 'wheels'"),
            ("2,device=0", "cannot set both Count and DeviceIDs"),
            ("\"device=0", "quotes"),
            ("all,options=a=b", "no driver option"),
        ] {
            assert!(
                gpus(text).unwrap_err().to_string().contains(says),
                "{text}: {}",
                gpus(text).unwrap_err()
            );
        }
    }
}
