//! `start`, `kill`, `delete`, `pause`, `resume`, `update`.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Spec};
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_sys::{process, socket};

use super::Global;
use super::arguments::{Arguments, Flag};
use super::records::{Directory, Record, hierarchies};
use crate::create::open_gate;
use crate::state::Status;
use crate::sync::Sync;
use crate::{hooks, resources};

pub(super) fn start(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[], false)?;
    let directory = Directory::of(&global.root, arguments.only_id()?);
    let record = directory.record()?;
    let within = || format!("cannot start container `{}`", record.id);
    match directory.status(&record) {
        Status::Created => {}
        Status::Stopped => return Err(Error::new(Kind::Conflict, "it has stopped")).within(within),
        _ => return Err(Error::new(Kind::Conflict, "it is running already")).within(within),
    }
    let gate =
        socket::connect_at(directory.open()?.as_fd(), "gate.sock").map_err(Error::from).within(within)?;
    open_gate(&Sync::over(gate)).within(within)?;
    let spec = directory.spec()?;
    after_start(&directory, &record, &spec);
    Ok(0)
}

/// What follows a start: the gate is gone, the poststart hooks run. One that fails is told and
/// changes nothing (runtime.md, "Lifecycle").
pub(super) fn after_start(directory: &Directory, record: &Record, spec: &Spec) {
    let _ = fs::remove_file(directory.path.join("gate.sock"));
    if let Some(list) = spec.hooks() {
        let state = hooks::state(spec, &record.id, &record.bundle, Status::Running, record.pid);
        if let Err(error) = hooks::run(list.poststart().as_deref(), "poststart", &state) {
            warn(&error);
        }
    }
}

fn warn(error: &Error) {
    let line = robot_env_diag::Escaped(&error.in_one_line()).to_string();
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), format!("warning: {line}\n").as_bytes());
}

pub(super) fn kill(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[Flag::switch("all").short('a')], false)?;
    let (id, rest) = arguments.id_and_rest()?;
    let text = match rest {
        [] => "TERM".to_owned(),
        [signal] => signal.to_string_lossy().into_owned(),
        [_, extra, ..] => {
            return Err(Error::invalid(format!("unexpected argument `{}`", extra.to_string_lossy())));
        }
    };
    let signal =
        process::parse_signal(&text).ok_or_else(|| Error::invalid(format!("invalid signal `{text}`")))?;
    let directory = Directory::of(&global.root, id);
    let record = directory.record()?;
    let within = || format!("cannot kill container `{id}`");
    if arguments.has("all")
        && let Some(cgroup) = record.cgroup()
    {
        for pid in cgroup.processes() {
            if let Ok(pidfd) = process::pidfd_open(pid) {
                let _ = process::signal(&pidfd, signal);
            }
        }
        return Ok(0);
    }
    let pidfd = record.running().within(within)?;
    process::signal(&pidfd, signal).map_err(Error::from).within(within)?;
    // A frozen process dies when it is thawed.
    if signal == libc::SIGKILL
        && let Some(cgroup) = record.cgroup()
        && cgroup.is_frozen()
    {
        let _ = cgroup.freeze(false);
    }
    Ok(0)
}

pub(super) fn delete(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[Flag::switch("force").short('f')], false)?;
    let id = arguments.only_id()?;
    let force = arguments.has("force");
    let directory = Directory::of(&global.root, id);
    let record = match directory.record() {
        Ok(record) => record,
        Err(_) if force => {
            // One whose making was interrupted has a directory and no record.
            directory.remove()?;
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    if let Some(pidfd) = record.pidfd() {
        let status = directory.status(&record);
        if !force && status != Status::Created {
            let message =
                format!("cannot delete container `{id}` that is not stopped: {status:?}").to_lowercase();
            return Err(Error::new(Kind::Conflict, message));
        }
        process::signal(&pidfd, libc::SIGKILL)?;
        if let Some(cgroup) = record.cgroup() {
            let _ = cgroup.freeze(false);
        }
        wait_for_end(&pidfd, Duration::from_secs(10)).within(|| format!("cannot delete container `{id}`"))?;
    }
    clean_up(&directory, &record)?;
    Ok(0)
}

/// Waits for the end of a process that need not be a child of the caller.
fn wait_for_end(pidfd: &OwnedFd, patience: Duration) -> Result<()> {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(pidfd.as_fd(), rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&limit)) {
        Ok(0) => {
            Err(Error::new(Kind::Unavailable, format!("it did not end within {} s", patience.as_secs())))
        }
        Ok(_) => Ok(()),
        Err(errno) => Err(errno).io_context(|| "poll(pidfd)".into()),
    }
}

/// Removes what is left of a container whose first process has ended: other processes (with a
/// shared pid namespace), the cgroup, the directory; then the poststop hooks run.
pub(super) fn clean_up(directory: &Directory, record: &Record) -> Result<()> {
    if let Some(cgroup) = record.cgroup() {
        if !cgroup.processes().is_empty() {
            cgroup.kill();
        }
        cgroup.remove();
    }
    let spec = directory.spec().unwrap_or_default();
    directory.remove()?;
    if let Some(list) = spec.hooks() {
        let state = hooks::state(&spec, &record.id, &record.bundle, Status::Stopped, 0);
        for hook in list.poststop().iter().flatten() {
            if let Err(error) = hooks::run(Some(std::slice::from_ref(hook)), "poststop", &state) {
                warn(&error);
            }
        }
    }
    Ok(())
}

pub(super) fn freeze(global: &Global, args: &[OsString], frozen: bool) -> Result<i32> {
    let arguments = Arguments::parse(args, &[], false)?;
    let directory = Directory::of(&global.root, arguments.only_id()?);
    let record = directory.record()?;
    let verb = if frozen { "pause" } else { "resume" };
    let within = || format!("cannot {verb} container `{}`", record.id);
    match (directory.status(&record), frozen) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => {}
        (Status::Paused, true) => {
            return Err(Error::new(Kind::Conflict, "it is paused already")).within(within);
        }
        (Status::Stopped, _) => return Err(Error::new(Kind::Conflict, "it has stopped")).within(within),
        (_, false) => return Err(Error::new(Kind::Conflict, "it is not paused")).within(within),
        (_, true) => return Err(Error::new(Kind::Conflict, "it is not running")).within(within),
    }
    let cgroup =
        record.cgroup().ok_or_else(|| Error::new(Kind::Unsupported, "it has no cgroup")).within(within)?;
    cgroup.freeze(frozen).map_err(Error::from).within(within)?;
    Ok(0)
}

const UPDATE: &[Flag] = &[
    Flag::value("resources").short('r'),
    Flag::value("memory"),
    Flag::value("memory-reservation"),
    Flag::value("memory-swap"),
    Flag::value("pids-limit"),
    Flag::value("cpu-share"),
    Flag::value("cpu-shares"),
    Flag::value("cpu-period"),
    Flag::value("cpu-quota"),
    Flag::value("cpuset-cpus"),
    Flag::value("cpuset-mems"),
    Flag::value("blkio-weight"),
    Flag::value("cpu-rt-period"),
    Flag::value("cpu-rt-runtime"),
];

pub(super) fn update(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, UPDATE, false)?;
    let directory = Directory::of(&global.root, arguments.only_id()?);
    let record = directory.record()?;
    let within = || format!("cannot update container `{}`", record.id);
    record.running().within(within)?;
    let cgroup =
        record.cgroup().ok_or_else(|| Error::new(Kind::Unsupported, "it has no cgroup")).within(within)?;
    let wanted = wanted_resources(&arguments)?;
    let settings = resources::settings(&wanted, hierarchies().version())?;
    cgroup.update(&settings).map_err(Error::from).within(within)?;
    Ok(0)
}

fn wanted_resources(arguments: &Arguments) -> Result<LinuxResources> {
    if let Some(path) = arguments.text("resources")? {
        let mut bytes = Vec::new();
        if path == "-" {
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .io_context(|| "cannot read standard input".into())?;
        } else {
            bytes = fs::read(path).io_context(|| format!("cannot read `{path}`"))?;
        }
        return serde_json::from_slice(&bytes)
            .context(Kind::InvalidInput, || format!("`{path}` has no resources"));
    }
    let mut json = serde_json::json!({"memory": {}, "cpu": {}, "blockIO": {}});
    let numbers = [
        ("memory", "memory", "limit"),
        ("memory-reservation", "memory", "reservation"),
        ("memory-swap", "memory", "swap"),
        ("cpu-share", "cpu", "shares"),
        ("cpu-shares", "cpu", "shares"),
        ("cpu-period", "cpu", "period"),
        ("cpu-quota", "cpu", "quota"),
        ("cpu-rt-period", "cpu", "realtimePeriod"),
        ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
        ("blkio-weight", "blockIO", "weight"),
    ];
    for (flag, group, field) in numbers {
        if let Some(number) = arguments.number::<i64>(flag)? {
            json[group][field] = number.into();
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = arguments.text(flag)? {
            json["cpu"][field] = text.into();
        }
    }
    if let Some(limit) = arguments.number::<i64>("pids-limit")? {
        json["pids"] = serde_json::json!({"limit": limit});
    }
    serde_json::from_value(json).context(Kind::InvalidInput, || "a value is out of range".into())
}
