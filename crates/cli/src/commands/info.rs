use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::Engine;
use robot_env_engine::record::State;
use robot_env_engine::rootless::Identity;
use robot_env_spec::{CgroupVersion, HostFacts};
use robot_env_wire::{Info as Shape, Plugins, rfc3339};

use crate::app::App;
use crate::format::{Field, Template, Value, human};
use crate::verb::{Exit, Verb};

/// Show the engine's state and what this machine has for it
#[derive(Args)]
pub(crate) struct Info {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Verb for Info {
    const SPELLINGS: &'static [&'static str] = &["info", "system info"];

    fn run(self, app: &App) -> Result<Exit> {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(text) => Some(Template::parse(text)?),
        };
        let engine = app.engine()?;
        let info = collect(app, &engine)?;
        let text = match (&template, self.format.as_deref()) {
            (Some(template), _) => template.print(&value(&info))? + "\n",
            (None, Some("json")) => value(&info).to_json() + "\n",
            _ => text(&info) + &mode(&engine),
        };
        app.print(&text)?;
        for warning in info.warnings.iter().flatten() {
            app.say(warning);
        }
        Ok(Exit::SUCCESS)
    }
}

/// The facts, with those of the client that Docker puts beside them.
fn value(info: &Shape) -> Value {
    let mut value = Value::of(info);
    if let Value::Struct(fields) = &mut value {
        let client = Value::row([
            ("Debug", Value::Bool(false)),
            ("Version", env!("CARGO_PKG_VERSION").into()),
            ("Context", "default".into()),
            ("Plugins", Value::List(Vec::new())),
            ("Warnings", Value::Nil),
        ]);
        fields.push(Field { name: "ClientInfo".into(), value: client, in_json: true });
    }
    value
}

fn collect(app: &App, engine: &Engine) -> Result<Shape> {
    let host = engine.host_facts();
    let containers = engine.containers()?;
    let count = |wanted: fn(&State) -> bool| containers.iter().filter(|c| wanted(&c.state.state)).count();
    let running =
        count(|state| matches!(state, State::Running { paused: false, .. } | State::Restarting { .. }));
    let paused = count(|state| matches!(state, State::Running { paused: true, .. }));
    let uname = rustix::system::uname();
    let release = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let has = |controller: &str| robot_env_engine::has_controller(controller);
    let sysinfo = rustix::system::sysinfo();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Ok(Shape {
        id: String::new(),
        containers: containers.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: containers.len() - running - paused,
        images: engine.store().image_ids()?.len(),
        driver: "overlay2".into(),
        driver_status: vec![
            ["Backing Filesystem".into(), file_system(engine.store().path())],
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
        swap_limit: robot_env_engine::has_swap_limit(),
        cpu_shares: has("cpu"),
        cpu_set: has("cpuset"),
        pids_limit: has("pids"),
        system_time: rfc3339(app.now()),
        logging_driver: app.configuration().text("log-driver").unwrap_or("json-file").to_owned(),
        cgroup_driver: if host.cgroup_writable { "cgroupfs".into() } else { "none".into() },
        cgroup_version: match host.cgroup {
            CgroupVersion::V1 => "1".into(),
            CgroupVersion::V2 => "2".into(),
            CgroupVersion::None => String::new(),
        },
        kernel_version: uname.release().to_string_lossy().into_owned(),
        operating_system: field(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
        os_version: field(&release, "VERSION_ID").unwrap_or_default(),
        os_type: "linux".into(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        ncpu: host.cpus,
        mem_total: u64::from(sysinfo.mem_unit.max(1)).saturating_mul(sysinfo.totalram),
        docker_root_dir: engine.store().path().to_string_lossy().into_owned(),
        name: host.hostname.clone(),
        labels: Vec::new(),
        experimental_build: false,
        server_version: env!("CARGO_PKG_VERSION").into(),
        runtimes: runtimes(app),
        default_runtime: app.configuration().text("default-runtime").unwrap_or("robot-env").to_owned(),
        // There is no daemon whose restart could end a container.
        live_restore_enabled: true,
        init_binary: String::new(),
        security_options: security(&host, Path::new("/proc")),
        warnings: warnings(engine, &host, has("memory")),
    })
}

/// Our own runtime, and others that are on the path.
fn runtimes(app: &App) -> BTreeMap<String, BTreeMap<String, String>> {
    let own = std::env::current_exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let entry = |path: String| BTreeMap::from([("path".to_owned(), path)]);
    let mut found = BTreeMap::from([("robot-env".to_owned(), entry(own))]);
    for name in ["crun", "kata-runtime", "runc", "runsc", "youki"] {
        let directories = app.ambient().variable("PATH").unwrap_or_default().split(':');
        let mut paths = directories.filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(name));
        if let Some(path) = paths.find(|path| path.is_file()) {
            found.insert(name.to_owned(), entry(path.to_string_lossy().into_owned()));
        }
    }
    for name in app.configuration().runtimes() {
        if let Some(runtime) = app.configuration().runtime(name) {
            found.insert(name.to_owned(), entry(runtime.path));
        }
    }
    found
}

fn security(host: &HostFacts, proc: &Path) -> Vec<String> {
    let mut options = Vec::new();
    if host.apparmor {
        options.push("name=apparmor".to_owned());
    }
    if proc.join("sys/kernel/seccomp").exists() {
        options.push("name=seccomp,profile=builtin".to_owned());
    }
    if host.rootless {
        options.push("name=rootless".to_owned());
    }
    if proc.join("self/ns/cgroup").exists() {
        options.push("name=cgroupns".to_owned());
    }
    options
}

/// Who the engine is here, and what is in force for its containers. What would be better is among the
/// warnings.
fn mode(engine: &Engine) -> String {
    if !engine.is_rootless() {
        return " Mode: root's\n".to_owned();
    }
    let Ok(identity) = Identity::current() else { return String::new() };
    let (users, groups) = identity.counts();
    let way_out = robot_env_engine::rootless::way_out().unwrap_or("none");
    let limits = if engine.unlimited().is_none() { "kept" } else { "not kept" };
    format!(
        " Mode: ordinary user {}\n  Ids: {} of users, {} of groups\n  Way Out: {way_out}\n  Limits: {limits}\n",
        identity.user, users, groups
    )
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

/// A field of os-release(5).
fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The name of the file system at `path`, in the words of Docker.
fn file_system(path: &Path) -> String {
    let magic = rustix::fs::statfs(path).map_or(0, |stat| stat.f_type as u64 & 0xffff_ffff);
    match magic {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        _ => "<unknown>",
    }
    .into()
}

/// What `info` prints, in the order of Docker's.
fn text(info: &Shape) -> String {
    let mut out = format!(
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer: (none: the command is the engine)\n",
        info.server_version
    );
    let mut line = |depth: usize, text: String| out.push_str(&format!("{}{text}\n", " ".repeat(depth)));
    line(1, format!("Containers: {}", info.containers));
    line(2, format!("Running: {}", info.containers_running));
    line(2, format!("Paused: {}", info.containers_paused));
    line(2, format!("Stopped: {}", info.containers_stopped));
    line(1, format!("Images: {}", info.images));
    line(1, format!("Server Version: {}", info.server_version));
    line(1, format!("Storage Driver: {}", info.driver));
    for [name, value] in &info.driver_status {
        line(2, format!("{name}: {value}"));
    }
    line(1, format!("Logging Driver: {}", info.logging_driver));
    line(1, format!("Cgroup Driver: {}", info.cgroup_driver));
    if !info.cgroup_version.is_empty() {
        line(1, format!("Cgroup Version: {}", info.cgroup_version));
    }
    line(1, "Plugins:".into());
    line(2, format!("Volume: {}", info.plugins.volume.join(" ")));
    line(2, format!("Network: {}", info.plugins.network.join(" ")));
    line(2, format!("Log: {}", info.plugins.log.join(" ")));
    line(1, format!("Runtimes: {}", info.runtimes.keys().cloned().collect::<Vec<_>>().join(" ")));
    line(1, format!("Default Runtime: {}", info.default_runtime));
    line(1, "Security Options:".into());
    for option in &info.security_options {
        let mut parts = option.split(',').map(|part| part.split_once('=').unwrap_or(("", part)));
        line(2, parts.next().map_or("", |(_, name)| name).to_owned());
        for (key, value) in parts {
            line(3, format!("{}: {value}", if key == "profile" { "Profile" } else { key }));
        }
    }
    line(1, format!("Kernel Version: {}", info.kernel_version));
    line(1, format!("Operating System: {}", info.operating_system));
    line(1, format!("OSType: {}", info.os_type));
    line(1, format!("Architecture: {}", info.architecture));
    line(1, format!("CPUs: {}", info.ncpu));
    line(1, format!("Total Memory: {}", human::binary(info.mem_total)));
    line(1, format!("Name: {}", info.name));
    line(1, format!("Docker Root Dir: {}", info.docker_root_dir));
    line(1, "Debug Mode: false".into());
    line(1, format!("Experimental: {}", info.experimental_build));
    line(1, format!("Live Restore Enabled: {}", info.live_restore_enabled));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\nVERSION_ID='13'\n";
        assert_eq!(field(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 13"));
        assert_eq!(field(text, "VERSION_ID").as_deref(), Some("13"));
        assert_eq!(field(text, "NAME").as_deref(), Some("x"));
        assert_eq!(field(text, "ID"), None);
    }

    #[test]
    fn the_text_is_dockers() {
        let info = Shape {
            security_options: vec!["name=seccomp,profile=builtin".into()],
            cgroup_version: "2".into(),
            mem_total: 8_232_000_000,
            ..Shape::default()
        };
        let text = text(&info);
        for line in [
            " Cgroup Version: 2\n",
            "\n  seccomp\n   Profile: builtin\n",
            " Total Memory: 7.667GiB\n",
            "\n  Running: 0\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let json = value(&info).to_json();
        assert!(json.contains("\"ClientInfo\":{\"Debug\":false") && json.contains("\"CgroupVersion\":\"2\""));
    }
}
