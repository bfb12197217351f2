//! An X server of the container's own (`--gui=isolated`): Xephyr in a window of the user's display, or
//! Xvfb where there is none. What a container does to it, it does to nobody else: no key is logged, no
//! window is looked at.
//!
//! The container's monitor is its parent; it ends with the container, and with the monitor.

use std::ffi::CString;
use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use robot_env_device::user::HostUser;
use robot_env_device::{HostRoot, Session, gui, xauth};
use robot_env_diag::{Context, Error, IoContext, Kind, Result};
use robot_env_sys::poll::{self, Fork};
use robot_env_sys::process;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;

use crate::create::random;
use crate::rootless::helper::install;
use crate::rootless::seed::find;

/// How long a server may take until it accepts clients.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number and cookie, in the container's run directory, for later processes.
const NOTE: &str = "display";
const LOG: &str = "display.log";

/// A running server.
pub(crate) struct NestedDisplay {
    /// It is `:number` of the host.
    pub(crate) number: u32,
    pub(crate) cookie: Vec<u8>,
    /// What the user should hear.
    pub(crate) warning: Option<String>,
    pidfd: OwnedFd,
}

impl NestedDisplay {
    /// Starts one, as the session's user, and waits until it accepts clients.
    ///
    /// # Errors
    /// `Unsupported` where no such server is installed; `Unavailable` with what it said where it ends.
    pub(crate) fn start(
        root: &HostRoot,
        session: &Session,
        run: &Path,
        name: &str,
        rootless: bool,
    ) -> Result<NestedDisplay> {
        let windows = gui::has_local_display(root, session);
        let xephyr = find("Xephyr", None).filter(|_| windows);
        let program = xephyr.clone().or_else(|| find("Xvfb", None)).ok_or_else(|| {
            let (what, package) = if windows {
                ("neither Xephyr nor Xvfb is installed, and --gui=isolated needs one", "xserver-xephyr")
            } else {
                ("there is no X display for Xephyr now, and Xvfb, which needs none, is not installed", "xvfb")
            };
            Error::new(Kind::Unsupported, what).with_hint(format!("sudo {}", install(package)))
        })?;
        let warning = xephyr.is_none().then(|| {
            let why = if windows { "Xephyr is not installed" } else { "there is no X display now" };
            format!("windows are on Xvfb, where nobody sees them: {why}")
        });
        let cookie = random::<16>()?.to_vec();
        // Read by the server through its own descriptor: the directory here is root's.
        let auth = rustix::fs::memfd_create("xauthority", MemfdFlags::CLOEXEC)
            .io_context(|| "memfd_create(xauthority)".into())?;
        rustix::io::write(&auth, &xauth::write(&[xauth::cookie(&cookie)]))
            .io_context(|| "write(memfd)".into())?;
        let (ready, told) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).io_context(|| "pipe()".into())?;
        let log = run.join(LOG);
        let output = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&log);
        let output = output.io_context(|| format!("cannot write `{}`", log.display()))?;
        let server =
            Server { program: program.clone(), root, session, name, windows: xephyr.is_some(), rootless };
        let parent = rustix::process::getpid();
        let pid = match poll::fork()? {
            Fork::Child => {
                let error = server.become_it(parent, &auth, &told, &output);
                let _ = std::io::Write::write_all(&mut &output, format!("{error}\n").as_bytes());
                poll::exit_now(127);
            }
            Fork::Parent(pid) => pid,
        };
        let pidfd = process::pidfd_open(pid)?;
        drop(told);
        let display = NestedDisplay { number: 0, cookie, warning, pidfd };
        let Some(number) = await_number(ready) else {
            display.end();
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
            return Err(Error::new(Kind::Unavailable, format!("`{}` does not start", program.display()))
                .because(Error::new(Kind::Unavailable, last.to_owned())));
        };
        let display = NestedDisplay { number, ..display };
        note(run, &display)?;
        Ok(display)
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        // SIGTERM lets it take its socket and its lock away.
        if process::signal(&self.pidfd, libc::SIGTERM).is_ok() {
            let mut waits = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let limit = rustix::time::Timespec { tv_sec: 2, tv_nsec: 0 };
            if !matches!(rustix::event::poll(&mut waits, Some(&limit)), Ok(1..)) {
                let _ = process::signal(&self.pidfd, libc::SIGKILL);
            }
            let _ = process::wait(&self.pidfd);
        }
    }
}

struct Server<'a> {
    program: PathBuf,
    root: &'a HostRoot,
    session: &'a Session,
    name: &'a str,
    /// Xephyr.
    windows: bool,
    /// Root of a user namespace is the user already.
    rootless: bool,
}

impl Server<'_> {
    /// Makes the calling process, a fresh child, the server. Gives what went wrong.
    fn become_it(
        &self,
        parent: rustix::process::Pid,
        auth: &OwnedFd,
        told: &OwnedFd,
        output: &fs::File,
    ) -> Error {
        match self.prepare(parent, auth, told, output) {
            Ok((path, args, env)) => process::execute(&path, &args, &env).into(),
            Err(error) => error,
        }
    }

    fn prepare(
        &self,
        parent: rustix::process::Pid,
        auth: &OwnedFd,
        told: &OwnedFd,
        output: &fs::File,
    ) -> Result<(CString, Vec<CString>, Vec<CString>)> {
        process::new_session()?;
        let null =
            fs::OpenOptions::new().read(true).open("/dev/null").io_context(|| "open(/dev/null)".into())?;
        poll::replace_stdio(0, &null)?;
        poll::replace_stdio(1, output)?;
        poll::replace_stdio(2, output)?;
        process::reset_signals();
        let user = HostUser::of(self.root, self.session);
        if !self.rootless && user.uid != 0 && !user.name.is_empty() {
            let groups: Vec<u32> = user.groups.iter().map(|(_, gid)| *gid).collect();
            process::set_groups(&groups)?;
            process::set_group(user.gid)?;
            process::set_user(user.uid)?;
        }
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .context(Kind::Internal, || "prctl(PR_SET_PDEATHSIG)".into())?;
        if rustix::process::getppid() != Some(parent) {
            return Err(Error::new(Kind::Interrupted, "the container's monitor has ended"));
        }
        process::close_on_exec_from(3)?;
        process::keep_over_exec(auth.as_fd())?;
        process::keep_over_exec(told.as_fd())?;
        let text = |text: String| CString::new(text).unwrap_or_default();
        let mut args = vec![
            self.program.to_string_lossy().into_owned(),
            "-displayfd".into(),
            told.as_raw_fd().to_string(),
            "-auth".into(),
            format!("/proc/self/fd/{}", auth.as_raw_fd()),
            "-nolisten".into(),
            "tcp".into(),
            "-noreset".into(),
        ];
        let more: &[&str] = if self.windows {
            &["-resizeable", "-no-host-grab", "-screen", "1600x900", "-title", self.name]
        } else {
            &["-screen", "0", "1920x1080x24"]
        };
        args.extend(more.iter().map(|word| (*word).to_owned()));
        let home = self.session.get("HOME").unwrap_or("/");
        let mut env = vec![format!("HOME={home}"), "PATH=/usr/local/bin:/usr/bin:/bin".to_owned()];
        if self.windows {
            for name in ["DISPLAY", "XAUTHORITY"] {
                env.extend(self.session.get(name).map(|value| format!("{name}={value}")));
            }
        }
        let path = CString::new(self.program.as_os_str().as_bytes()).unwrap_or_default();
        Ok((path, args.into_iter().map(text).collect(), env.into_iter().map(text).collect()))
    }
}

/// The display's number, which the server writes when it accepts clients; `None` when it ends, or takes
/// too long.
fn await_number(ready: OwnedFd) -> Option<u32> {
    let deadline = Instant::now() + PATIENCE;
    let mut file = fs::File::from(ready);
    let mut text = String::new();
    while !text.ends_with('\n') {
        let left = deadline.checked_duration_since(Instant::now())?;
        let limit =
            rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut waits = [PollFd::new(&file, PollFlags::IN)];
        match rustix::event::poll(&mut waits, Some(&limit)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        }
        let mut bytes = [0; 64];
        match file.read(&mut bytes) {
            Ok(0) | Err(_) => return None,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
        }
    }
    text.trim().parse().ok()
}

fn note(run: &Path, display: &NestedDisplay) -> Result<()> {
    let path = run.join(NOTE);
    let cookie: String = display.cookie.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|file| {
        std::io::Write::write_all(&mut &file, format!("{} {cookie}", display.number).as_bytes())
    })
    .io_context(|| format!("cannot write `{}`", path.display()))
}

/// Number and cookie of the server of the container with this run directory.
pub(crate) fn noted(run: &Path) -> Option<(u32, Vec<u8>)> {
    let text = fs::read_to_string(run.join(NOTE)).ok()?;
    let (number, cookie) = text.split_once(' ')?;
    let byte = |at: usize| u8::from_str_radix(cookie.get(at * 2..at * 2 + 2)?, 16).ok();
    Some((number.parse().ok()?, (0..cookie.len() / 2).map(byte).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    #[test]
    fn what_is_noted_is_found_again() {
        let run = TemporaryDirectory::new("nested-note");
        assert_eq!(noted(run.path()), None);
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let display = NestedDisplay {
            number: 7,
            cookie: vec![0, 255, 16],
            warning: None,
            pidfd: process::pidfd_open(own).unwrap(),
        };
        note(run.path(), &display).unwrap();
        assert_eq!(noted(run.path()), Some((7, vec![0, 255, 16])));
    }

    #[test]
    fn a_number_comes_whole_or_not_at_all() {
        for (written, want) in [("12\n", Some(12)), ("12", None), ("", None), ("x\n", None)] {
            let (ready, told) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&told, written.as_bytes()).unwrap();
            drop(told);
            assert_eq!(await_number(ready), want, "{written:?}");
        }
    }
}
