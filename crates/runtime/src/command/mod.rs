//! The runtime as a command line, in the form that runc gave it and that containerd, CRI-O, Docker
//! and Podman call: `create`, `start`, `state`, `kill`, `delete`, `exec`, `run`, `list`, `ps`,
//! `pause`, `resume`, `update`, `events`, `features`, `spec`.
//!
//! On disk, below `--root` (default `/run/robot-env-runtime`, or the same name in
//! `$XDG_RUNTIME_DIR` for an ordinary user), a directory a container, 0700:
//! - `state.json`: what [`records::Record`] says, written when the process is there;
//! - `config.json`: the bundle's, as it was when the container was made;
//! - `gate.sock`: where the first process waits for its start; gone afterwards.
//!
//! No locks: making the directory is what makes an id taken, and every other file is renamed into
//! place.

mod arguments;
mod control;
mod create;
mod exec;
mod foreground;
mod records;
mod report;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use robot_env_diag::{Error, Result};

use self::arguments::{Arguments, Flag};

/// Options before the command.
struct Global {
    root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
    /// `linux.cgroupsPath` is `slice:prefix:name`.
    systemd: bool,
}

/// runc's global flags; those that say how it should work, not what to do, are taken and unused.
const GLOBAL: &[Flag] = &[
    Flag::value("root"),
    Flag::value("log"),
    Flag::value("log-format"),
    Flag::switch("systemd-cgroup"),
    Flag::switch("debug"),
    Flag::value("rootless"),
    Flag::value("criu"),
    Flag::switch("help").short('h'),
    Flag::switch("version").short('v'),
];

const USAGE: &str = "\
usage: robot-env runtime [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND

An OCI runtime with runc's command line: from a bundle (a directory with config.json and a root
file system) to a container. Other engines call it:
  docker run --runtime robot-env IMAGE     after `dockerd --add-runtime robot-env=PROGRAM`
  podman --runtime PROGRAM run IMAGE
where PROGRAM is a link to robot-env that is named robot-env-runtime.

commands:
  create [-b DIR] [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] ID
  start ID
  state ID
  kill [--all] ID [SIGNAL]
  delete [--force] ID
  run [-d] [--keep] [create's options] ID
  exec [-d] [-t] [-u UID[:GID]] [-e NAME=VALUE] [--cwd DIR] [-p FILE] [--pid-file FILE] ID COMMAND...
  list [-q] [-f table|json]
  ps [-f table|json] ID [PS OPTION...]
  pause ID
  resume ID
  update [-r FILE] [--memory N] [--pids-limit N] [--cpu-quota N] [--cpuset-cpus LIST] ... ID
  events [--stats] [--interval SECONDS] ID
  features
  spec [-b DIR] [--rootless]

options:
  --root DIR         where the containers' state is kept; default /run/robot-env-runtime, for an
                     ordinary user $XDG_RUNTIME_DIR/robot-env-runtime
  --log FILE         where failures are written, beside standard error
  --log-format FORM  text or json
  --systemd-cgroup   linux.cgroupsPath is slice:prefix:name: systemd, root's or the user's, makes the scope
  --debug, --rootless, --criu are taken for runc's sake and change nothing
";

/// The names under which a program that holds this command line is the runtime and nothing else.
pub const NAMES: [&str; 2] = ["robot-env-runtime", "runc"];

/// Whether the command puts a process into a container, so that the program has to be shielded
/// first ([`crate::shield::enter`]). `args` as for [`main`].
pub fn enters_container(args: &[OsString]) -> bool {
    Arguments::parse(args, GLOBAL, true).is_ok_and(|global| {
        global.rest.first().is_some_and(|verb| verb == "create" || verb == "run" || verb == "exec")
    })
}

/// Runs one command; `args` come without the program's own name. Returns the exit code.
///
/// What a command prints goes to standard output, a failure to standard error and to `--log`.
pub fn main(args: &[OsString]) -> i32 {
    let mut log = (None, false);
    match dispatch(args, &mut log) {
        Ok(code) => code,
        Err(error) => {
            report(&error, log.0.as_ref(), log.1);
            1
        }
    }
}

fn dispatch(args: &[OsString], log: &mut (Option<PathBuf>, bool)) -> Result<i32> {
    let mut global = Arguments::parse(args, GLOBAL, true)?;
    let options = Global {
        root: global.value("root").map_or_else(default_root, PathBuf::from),
        log: global.value("log").map(PathBuf::from),
        log_json: global.value("log-format").is_some_and(|format| format == "json"),
        systemd: global.has("systemd-cgroup"),
    };
    *log = (options.log.clone(), options.log_json);
    if let Some(format) = global.text("log-format")?.filter(|format| !matches!(*format, "text" | "json")) {
        return Err(Error::invalid(format!("unknown log format `{format}`: it is text or json")));
    }
    if global.has("version") {
        let version = env!("CARGO_PKG_VERSION");
        return print(&format!("robot-env runtime version {version}\nspec: {}\n", report::SPEC_VERSION));
    }
    if global.has("help") || global.rest.is_empty() {
        return print(USAGE);
    }
    let name = global.rest.remove(0);
    let rest = global.rest;
    if matches!(rest.first().and_then(|word| word.to_str()), Some("--help" | "-h" | "-help")) {
        return print(&usage_of(&name.to_string_lossy()));
    }
    match name.to_str().unwrap_or_default() {
        "create" => create::create(&options, &rest),
        "run" => create::run(&options, &rest),
        "start" => control::start(&options, &rest),
        "kill" => control::kill(&options, &rest),
        "delete" => control::delete(&options, &rest),
        "pause" => control::freeze(&options, &rest, true),
        "resume" => control::freeze(&options, &rest, false),
        "update" => control::update(&options, &rest),
        "exec" => exec::exec(&options, &rest),
        "state" => report::state(&options, &rest),
        "list" => report::list(&options, &rest),
        "ps" => report::ps(&options, &rest),
        "events" => report::events(&options, &rest),
        "features" => report::features(),
        "spec" => report::spec(&rest),
        "help" => print(USAGE),
        other => Err(Error::invalid(format!("unknown command `{other}`"))),
    }
}

/// How one command is called; everything for one that is unknown.
fn usage_of(name: &str) -> String {
    let commands = USAGE.lines().skip_while(|line| *line != "commands:").take_while(|line| !line.is_empty());
    let mut lines = commands.filter_map(|line| line.strip_prefix("  "));
    match lines.find(|line| line.split(' ').next() == Some(name)) {
        Some(line) => format!("usage: robot-env runtime {line}\n"),
        None => USAGE.to_owned(),
    }
}

fn default_root() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    base.map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("robot-env-runtime")
}

/// Writes to standard output; a reader that is gone is no failure.
#[expect(clippy::unnecessary_wraps, reason = "what every command returns")]
fn print(text: &str) -> Result<i32> {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(0)
}

fn report(error: &Error, log: Option<&PathBuf>, json: bool) {
    // Callers look for known words in it, those of the causes too.
    let line = error.in_one_line();
    if let Some(path) = log
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let entry = if json {
            serde_json::json!({"level": "error", "msg": line, "time": time}).to_string()
        } else {
            format!("time={time:?} level=error msg={line:?}")
        };
        let _ = writeln!(file, "{entry}");
    }
    let shown = robot_env_diag::Escaped(&line).to_string();
    let _ = writeln!(std::io::stderr().lock(), "{shown}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
    }

    #[test]
    fn what_enters_a_container_is_known_before_it_is_read() {
        for (line, want) in [
            ("create -b /x c", true),
            ("--root /x --log=/y --log-format json --systemd-cgroup exec c sh", true),
            ("--debug run c", true),
            ("start c", false),
            ("state run", false),
            ("--root run state c", false),
            ("--nope run c", false),
            ("", false),
        ] {
            assert_eq!(enters_container(&words(line)), want, "{line}");
        }
    }

    #[test]
    fn every_command_has_its_usage() {
        for name in ["create", "exec", "delete", "features", "spec", "events"] {
            let usage = usage_of(name);
            assert!(usage.starts_with(&format!("usage: robot-env runtime {name}")), "{usage}");
            assert_eq!(usage.lines().count(), 1);
        }
        assert_eq!(usage_of("--log"), USAGE);
    }
}
