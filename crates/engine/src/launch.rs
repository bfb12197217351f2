//! Starting a monitor: the program executes itself, shielded, in a session of its own.
//!
//! The front and the monitor share a socket pair. The front sends the container's id, with the
//! container's lock, and what the monitor is to do (one JSON document, then end of file); the monitor answers with one [`Answer`] when the process
//! runs, or cannot, and closes. A second socket, if there is one, becomes the monitor's first
//! client, so that not a byte of the process's output is missed. A container's monitor also
//! inherits the container's lock, until its state says that it runs: when the front is killed
//! meanwhile, nobody else can start or remove the container.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use robot_env_diag::{Context, Error, Kind, Report, Result, Within};
use robot_env_runtime::shield;
use robot_env_spec::ContainerId;
use robot_env_sys::process::{self, SpawnRequest};
use robot_env_sys::socket;
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::engine::{Engine, EngineOptions};
use crate::records::ContainerLock;

/// The first argument of a process that is a monitor. Users never write it.
pub const MONITOR: &str = "monitor";

/// What a monitor cares for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A container's first process.
    Container,
    /// A further process in it.
    Exec,
}

/// What the monitor says once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// The program runs, as the process with this pid.
    Running {
        /// The pid as the engine sees it.
        pid: i32,
        /// What the user should hear, one line each.
        warnings: Vec<String>,
    },
    /// It does not.
    Failed(Report),
}

/// A monitor that has been executed and waits for its orders. Dropped, it ends.
///
/// To execute a program takes longer than anything else that a front does, so it is begun before
/// the container is looked up or made.
pub(crate) struct Launch {
    control: OwnedFd,
}

impl Engine {
    /// Reaps the monitors that this process has started and that have ended. A command ends soon and
    /// need not; whoever stays calls it at SIGCHLD. Other children are left alone.
    pub fn reap_monitors(&self) {
        use rustix::process::{Pid, WaitOptions, waitpid};
        let Ok(mut monitors) = self.monitors.lock() else { return };
        monitors.retain(|pid| {
            matches!(Pid::from_raw(*pid).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG)), Some(Ok(None)))
        });
    }
}

impl Launch {
    /// Executes a monitor. `client` is its end of a stream.
    pub(crate) fn begin(engine: &Engine, role: Role, client: Option<OwnedFd>) -> Result<Launch> {
        execute(engine, role, client).map(|control| Launch { control })
    }

    /// Says what is to be done, and waits until the process runs: its pid, and what the user should
    /// hear. `lock` is the container's; the monitor holds it until the state says that it runs.
    pub(crate) fn finish(
        self,
        id: &ContainerId,
        request: &impl Serialize,
        lock: Option<&ContainerLock>,
    ) -> Result<(i32, Vec<String>)> {
        let request =
            serde_json::to_vec(request).context(Kind::Internal, || "cannot write the request".into())?;
        match socket::send_with_fd(&self.control, id.as_str().as_bytes(), lock.map(AsFd::as_fd)) {
            // The monitor has died: its silence says so.
            Err(error) if matches!(error.errno(), Errno::PIPE | Errno::CONNRESET) => {}
            sent => sent?,
        }
        send(&self.control, &request)?;
        match receive(&self.control).within(|| "cannot start a monitor".into())? {
            Some(Answer::Running { pid, warnings }) => Ok((pid, warnings)),
            Some(Answer::Failed(report)) => Err(report.into()),
            None => Err(Error::new(Kind::Internal, "the container's monitor ended before its process ran")),
        }
    }
}

fn execute(engine: &Engine, role: Role, client: Option<OwnedFd>) -> Result<OwnedFd> {
    let program = shield::program()?;
    let (near, far) = socket::pair()?;
    let text = |text: &std::ffi::OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let number = |fd: Option<RawFd>| OsString::from(fd.map_or_else(|| "-".to_owned(), |fd| fd.to_string()));
    let flags = format!(
        "{}{}{}",
        if role == Role::Exec { "e" } else { "c" },
        if engine.rootless { "r" } else { "" },
        if engine.single_id { "1" } else { "" }
    );
    let args: Vec<CString> = [
        "robot-env".into(),
        MONITOR.into(),
        OsString::from(flags),
        engine.paths.root().as_os_str().to_owned(),
        engine.paths.run_root().as_os_str().to_owned(),
        number(Some(far.as_raw_fd())),
        number(client.as_ref().map(AsRawFd::as_raw_fd)),
    ]
    .iter()
    .map(|arg: &OsString| text(arg))
    .collect();
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| {
        Error::new(Kind::of_errno(errno.raw_os_error()), "cannot open `/dev/null`").because(errno)
    })?;
    let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd())).unwrap_or_default();
    let mut keep = vec![far.as_fd()];
    keep.extend(client.as_ref().map(AsFd::as_fd));
    let env = environment();
    let request = SpawnRequest { program: &path, args: &args, env: &env, stdio: null.as_fd(), keep: &keep };
    let pid = process::spawn(&request).context(Kind::Internal, || "cannot start a monitor".into())?;
    if let Ok(mut monitors) = engine.monitors.lock() {
        monitors.push(pid);
    }
    Ok(near)
}

/// A monitor inherits no environment; only one of a debug build what makes tests see another time
/// (libfaketime).
fn environment() -> Vec<CString> {
    if !cfg!(debug_assertions) {
        return Vec::new();
    }
    let wanted = |name: &str| name == "LD_PRELOAD" || name.starts_with("FAKETIME");
    std::env::vars()
        .filter(|(name, _)| wanted(name))
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect()
}

fn send(socket: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // The monitor has died: its silence says so.
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(errno) => return Err(errno).context(Kind::Internal, || "cannot talk to the monitor".into()),
        }
    }
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
    Ok(())
}

/// One JSON document up to the end of file; `None` when there is nothing.
fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> Result<Option<T>> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 16 * 1024];
    loop {
        match rustix::io::read(socket, &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(Kind::Internal, || "cannot talk to the monitor".into()),
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).context(Kind::Corrupt, || "cannot read the request".into())
}

/// A monitor's view of what it was started with.
pub(crate) struct Orders {
    pub(crate) role: Role,
    pub(crate) options: EngineOptions,
    /// The first client.
    pub(crate) client: Option<OwnedFd>,
    control: OwnedFd,
}

impl Orders {
    /// Reads the arguments that [`execute`] wrote (those behind [`MONITOR`]).
    pub(crate) fn parse(args: &[OsString]) -> Result<Orders> {
        let bad = || Error::invalid("`monitor` is for the program itself");
        let [flags, root, run, control, client] = args else { return Err(bad()) };
        let flags = flags.to_str().ok_or_else(bad)?;
        let descriptor = |arg: &OsString| -> Result<Option<OwnedFd>> {
            let text = arg.to_str().ok_or_else(bad)?;
            if text == "-" {
                return Ok(None);
            }
            let number: RawFd = text.parse().ok().filter(|n| *n > 2).ok_or_else(bad)?;
            robot_env_sys::process::take_descriptor(number).map(Some).map_err(|_| bad())
        };
        Ok(Orders {
            role: if flags.contains('e') { Role::Exec } else { Role::Container },
            options: EngineOptions {
                root: root.into(),
                run_root: run.into(),
                rootless: flags.contains('r'),
                single_id: flags.contains('1'),
            },
            control: descriptor(control)?.ok_or_else(bad)?,
            client: descriptor(client)?,
        })
    }

    /// Waits for the container's id and, for a start, its lock. `None`: the front has changed its mind.
    pub(crate) fn subject(&self) -> Result<Option<(ContainerId, Option<OwnedFd>)>> {
        let mut bytes = [0u8; ContainerId::LENGTH];
        let (mut filled, mut lock) = (0, None);
        while filled < bytes.len() {
            let (count, fd) = socket::receive_with_fd(&self.control, &mut bytes[filled..])?;
            if count == 0 {
                return Ok(None);
            }
            filled += count;
            lock = lock.or(fd);
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::invalid("the container's id is none"))?;
        Ok(Some((text.parse()?, lock)))
    }

    /// What the front wants.
    pub(crate) fn request<T: DeserializeOwned>(&self) -> Result<T> {
        receive(&self.control)?.ok_or_else(|| Error::new(Kind::Interrupted, "the front has gone"))
    }

    /// Tells the front, once. One that has gone does not matter.
    pub(crate) fn answer(self, answer: &Answer) -> Option<OwnedFd> {
        if let Ok(bytes) = serde_json::to_vec(answer) {
            let _ = send(&self.control, &bytes);
        }
        self.client
    }
}
