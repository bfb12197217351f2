use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Process as ProcessSpec;
use robot_env_diag::{Context, Error, Kind, Result, Within};
use robot_env_sys::cgroup::Cgroup;
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::{namespace, poll, socket};
use rustix::fs::{Mode, OFlags};

use crate::console::Console;
use crate::create::Created;
use crate::init::terminal_in;
use crate::process::{Last, finish};
use crate::seccomp::Filter;
use crate::sync::{Message, Sync};

/// What [`exec`] makes a process of.
pub struct Exec<'a> {
    /// The container's first process.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: BorrowedFd<'a>,
    /// The process to make.
    pub process: &'a ProcessSpec,
    /// The container's cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// The container's system call filter, compiled.
    pub filter: Option<&'a Filter>,
    /// The standard streams.
    pub console: Console,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
}

const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Makes a further process in a running container, up to the point where its program would run.
/// It becomes a child of the caller.
pub fn exec(request: Exec<'_>) -> Result<Created> {
    let flags = foreign_namespaces(request.pid);
    let (near, far) = Sync::pair()?;
    let birthplace = match request.cgroup {
        Some(cgroup) => cgroup.birthplace()?,
        None => None,
    };
    // The first child joins; only a child of it can be in the pid namespace. That one is cloned as
    // a sibling, so that it is the caller's.
    match process::clone(&CloneRequest { cgroup: birthplace.as_ref().map(AsFd::as_fd), ..Default::default() })
        .context(Kind::Internal, || "cannot make a process".into())?
    {
        Cloned::Child => {
            drop(near);
            let error = match join_and_clone(request, flags, birthplace.as_ref(), &far) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            far.failed(&error);
            poll::exit_now(1)
        }
        Cloned::Parent { pidfd: joiner, .. } => {
            drop(far);
            let mut process_fd = None;
            let mut master = None;
            let result = loop {
                match near.receive()? {
                    Message::Descriptor(fd) if process_fd.is_none() => process_fd = Some(fd),
                    Message::Descriptor(fd) => master = Some(fd),
                    Message::Ready => break Ok(()),
                    Message::Failed(report) => break Err(Error::from(report)),
                    Message::Closed | Message::Go => break Err(Error::new(Kind::Internal, "the process died while it was made")),
                }
            };
            let _ = process::wait(&joiner);
            let pidfd = match (result, process_fd) {
                (Ok(()), Some(pidfd)) => pidfd,
                (Ok(()), None) => return Err(Error::new(Kind::Internal, "the process has no descriptor")),
                (Err(error), made) => {
                    if let Some(pidfd) = made {
                        let _ = process::signal(&pidfd, libc::SIGKILL);
                        let _ = process::wait(&pidfd);
                    }
                    return Err(error);
                }
            };
            if let Some(master) = &master {
                socket::set_nonblocking(master)?;
            }
            let pid = pid_of(&pidfd)?;
            Ok(Created::new(pid, pidfd, master, None, near))
        }
    }
}

/// The namespaces of the process that are not the caller's own.
fn foreign_namespaces(pid: i32) -> namespace::Flags {
    let link = |who: &str, name: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}")).ok();
    NAMESPACES
        .iter()
        .filter(|name| link(&pid.to_string(), name) != link("self", name))
        .filter_map(|name| namespace::flag(name))
        .fold(0, |all, flag| all | flag)
}

fn join_and_clone(
    request: Exec<'_>,
    flags: namespace::Flags,
    birthplace: Option<&OwnedFd>,
    sync: &Sync,
) -> Result<std::convert::Infallible> {
    // Until the program runs, nobody inside may look at this process.
    process::set_undumpable()?;
    process::reset_signals();
    if birthplace.is_none()
        && let Some(cgroup) = request.cgroup
    {
        cgroup.enter().map_err(Error::from).within(|| format!("cannot enter cgroup `{}`", cgroup.path()))?;
    }
    if flags != 0 {
        namespace::join(request.pidfd, flags).map_err(Error::from).within(|| "cannot enter the container's namespaces".into())?;
    }
    let clone = CloneRequest { sibling: true, ..Default::default() };
    match process::clone(&clone).context(Kind::Internal, || "cannot make a process in the container".into())? {
        Cloned::Parent { pidfd, .. } => {
            sync.descriptor(&pidfd)?;
            poll::exit_now(0)
        }
        Cloned::Child => {
            let error = match prepare(request, sync) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            sync.failed(&error);
            poll::exit_now(1)
        }
    }
}

fn prepare(request: Exec<'_>, sync: &Sync) -> Result<std::convert::Infallible> {
    process::new_session()?;
    match &request.console {
        Console::Pipes(stdio) => {
            poll::replace_stdio(0, &stdio.stdin)?;
            poll::replace_stdio(1, &stdio.stdout)?;
            poll::replace_stdio(2, &stdio.stderr)?;
        }
        Console::Terminal { size } => {
            let ptmx = rustix::fs::open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                .context(Kind::Internal, || "cannot open the container's terminals".into())?;
            let (master, slave) = terminal_in(ptmx)?;
            if *size != (0, 0) {
                let _ = robot_env_sys::terminal::set_size(&master, *size);
            }
            sync.descriptor(&master)?;
            process::set_controlling_terminal(slave.as_fd())?;
            for target in 0..3 {
                poll::replace_stdio(target, slave.as_fd())?;
            }
        }
    }
    let last = Last { filter: request.filter, preserve_fds: request.preserve_fds, sync, before_program: &|| Ok(()) };
    finish(request.process, &last)
}

/// The pid of the process behind a pidfd, in the caller's pid namespace.
fn pid_of(pidfd: &OwnedFd) -> Result<i32> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).context(Kind::Internal, || format!("cannot read `{path}`"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(|| Error::new(Kind::Internal, "the process has no pid"))
}
