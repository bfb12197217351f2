use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::Engine;
use robot_env_engine::rootless::Identity;
use robot_env_wire::{Info as Shape, InfoSettings};

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
        let info = Shape::of(
            &engine,
            &InfoSettings {
                version: env!("CARGO_PKG_VERSION"),
                now: app.now(),
                path: app.ambient().variable("PATH").unwrap_or_default(),
                configuration: app.configuration(),
            },
        )?;
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
