//! `exec`.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, Capability, Process, Spec};
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};

use super::arguments::{Arguments, Flag};
use super::create::{console, send_master, write_pid};
use super::records::{self, Directory};
use super::{Global, foreground};
use crate::state::Status;
use crate::systemd::{Manager, Scope};
use crate::{Exec, exec as make};

const FLAGS: &[Flag] = &[
    Flag::value("console-socket"),
    Flag::value("cwd"),
    Flag::value("env").short('e'),
    Flag::switch("tty").short('t'),
    Flag::value("user").short('u'),
    Flag::value("additional-gids").short('g'),
    Flag::value("process").short('p'),
    Flag::switch("detach").short('d'),
    Flag::value("pid-file"),
    Flag::value("process-label"),
    Flag::value("apparmor"),
    Flag::switch("no-new-privs"),
    Flag::value("cap").short('c'),
    Flag::value("preserve-fds"),
    Flag::value("cgroup"),
    Flag::switch("ignore-paused"),
    Flag::value("pidfd-socket"),
];

pub(super) fn exec(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, FLAGS, true)?;
    let (id, command) = arguments.id_and_rest()?;
    let directory = Directory::of(&global.root, id);
    let record = directory.record()?;
    let within = || format!("exec failed in container `{id}`");
    match directory.status(&record) {
        Status::Running | Status::Created => {}
        Status::Paused if arguments.has("ignore-paused") => {}
        Status::Paused => return Err(Error::new(Kind::Conflict, "it is paused")).within(within),
        _ => return Err(Error::new(Kind::Conflict, "it is not running")).within(within),
    }
    let pidfd = record.running().within(within)?;
    let spec = directory.spec()?;
    let process = process(&arguments, command, &spec)?;
    let terminal = process.terminal().unwrap_or(false);
    let socket = arguments.value("console-socket").map(Path::new);
    let detach = arguments.has("detach");
    if terminal && detach && socket.is_none() {
        return Err(Error::invalid("a detached terminal needs `--console-socket`"));
    }
    let cgroup = record.cgroup();
    if cgroup.is_some() && records::hierarchies().is_outside() {
        come_inside(id).within(within)?;
    }
    let created = make(Exec {
        pid: record.pid,
        pidfd: pidfd.as_fd(),
        process: &process,
        cgroup: cgroup.as_ref(),
        seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
        seccomp_cache: Some(&global.root),
        console: console(Some(&process), terminal)?,
        preserve_fds: arguments.number("preserve-fds")?.unwrap_or(0),
    })
    .within(within)?;
    if let (Some(path), Some(master)) = (socket, &created.master) {
        send_master(path, master)?;
    }
    let running = created.start().within(within)?;
    if let Some(path) = arguments.value("pid-file") {
        write_pid(Path::new(path), running.pid)?;
    }
    if detach {
        return Ok(0);
    }
    foreground::attend(&running.pidfd, if socket.is_some() { None } else { running.master })
}

/// Has the user's service manager move this process to where it can put others into the user's cgroups.
fn come_inside(id: &str) -> Result<()> {
    let missing = || Error::new(Kind::Unsupported, "its cgroup cannot be entered from this session's");
    let pid = std::process::id();
    Manager::of_caller().ok_or_else(missing)?.start(&Scope {
        name: &format!("robot-env-exec-{pid}.scope"),
        slice: Some("app.slice"),
        description: &format!("robot-env: exec in container {id}"),
        pid,
    })
}

/// The process that is asked for: a file's, or the container's with other words.
fn process(arguments: &Arguments, command: &[OsString], spec: &Spec) -> Result<Process> {
    if let Some(path) = arguments.value("process") {
        let path = Path::new(path);
        let bytes = fs::read(path).io_context(|| format!("cannot read `{}`", path.display()))?;
        return serde_json::from_slice(&bytes)
            .context(Kind::InvalidInput, || format!("`{}` is not a process", path.display()));
    }
    if command.is_empty() {
        return Err(Error::invalid("a command is missing"));
    }
    let mut process = spec.process().clone().unwrap_or_default();
    let text = |word: &OsString| {
        word.to_str().map(str::to_owned).ok_or_else(|| Error::invalid("an argument is not UTF-8"))
    };
    process.set_args(Some(command.iter().map(text).collect::<Result<_>>()?));
    process.set_terminal(Some(arguments.has("tty")));
    if let Some(cwd) = arguments.text("cwd")? {
        process.set_cwd(PathBuf::from(cwd));
    }
    let mut env = process.env().clone().unwrap_or_default();
    for entry in arguments.values("env") {
        env.push(entry.to_str().map(str::to_owned).ok_or_else(|| Error::invalid("a variable is not UTF-8"))?);
    }
    process.set_env(Some(env));
    if let Some(user) = arguments.text("user")? {
        let number = |text: &str| {
            let bad = |_| Error::invalid(format!("invalid user `{user}`: numbers are needed"));
            text.parse::<u32>().map_err(bad)
        };
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        let mut to = process.user().clone();
        to.set_uid(number(uid)?);
        if let Some(gid) = gid {
            to.set_gid(number(gid)?);
        }
        process.set_user(to);
    }
    let gids = arguments
        .values("additional-gids")
        .map(|gid| {
            gid.to_str().and_then(|gid| gid.parse().ok()).ok_or_else(|| Error::invalid("invalid group id"))
        })
        .collect::<Result<Vec<u32>>>()?;
    if !gids.is_empty() {
        let mut user = process.user().clone();
        user.set_additional_gids(Some(gids));
        process.set_user(user);
    }
    if arguments.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = arguments.text("apparmor")? {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if arguments.value("process-label").is_some_and(|label| !label.is_empty()) {
        return Err(Error::new(Kind::Unsupported, "SELinux labels are not supported"));
    }
    add_capabilities(&mut process, arguments)?;
    Ok(process)
}

fn add_capabilities(process: &mut Process, arguments: &Arguments) -> Result<()> {
    for name in arguments.values("cap") {
        let name = name.to_string_lossy();
        let unknown = || Error::invalid(format!("unknown capability `{name}`"));
        let capability: Capability =
            serde_json::from_value(serde_json::Value::String(name.to_uppercase())).map_err(|_| unknown())?;
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    Ok(())
}
