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
usage: [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND

commands:
  create [-b DIR] [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] ID
  start ID
  state ID
  kill [--all] ID [SIGNAL]
  delete [--force] ID
  run [-d] [create's options] ID
  exec [-d] [-t] [-u UID[:GID]] [-e NAME=VALUE] [--cwd DIR] [-p FILE] [--pid-file FILE] ID COMMAND...
  list [-q] [-f table|json]
  ps [-f table|json] ID [PS OPTION...]
  pause ID
  resume ID
  update [-r FILE] [--memory N] [--pids-limit N] ... ID
  events --stats ID
  features
  spec [-b DIR] [--rootless]
";

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
    if global.has("version") {
        let version = env!("CARGO_PKG_VERSION");
        return print(&format!("robot-env runtime version {version}\nspec: {}\n", report::SPEC_VERSION));
    }
    if global.has("help") || global.rest.is_empty() {
        return print(USAGE);
    }
    let name = global.rest.remove(0);
    let rest = global.rest;
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

/// One line with the causes behind it: what callers look for known words in.
fn one_line(error: &Error) -> String {
    let mut line = error.to_string();
    for cause in error.causes() {
        line.push_str(": ");
        line.push_str(&cause);
    }
    line
}

fn report(error: &Error, log: Option<&PathBuf>, json: bool) {
    let line = one_line(error);
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
