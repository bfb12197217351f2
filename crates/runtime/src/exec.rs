use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, Process as ProcessSpec};
use robot_env_diag::{Context, Error, Kind, Result, Within};
use robot_env_sys::cgroup::Cgroup;
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::{errand, namespace, poll, socket};
use rustix::fs::{Mode, OFlags};

use crate::console::Console;
use crate::create::{CLONE_NEWTIME, Created, namespace_name};
use crate::process::{Last, finish};
use crate::seccomp::{self, Filter};
use crate::sync::{Message, Sync};
use crate::{init, mounts};

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
    /// The container's system call filter.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// Where compiled seccomp filters are kept; `None`: compile every time.
    pub seccomp_cache: Option<&'a Path>,
    /// The standard streams.
    pub console: Console,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
}

/// The child's view of [`Exec`].
struct Joiner<'a> {
    request: &'a Exec<'a>,
    foreign: namespace::Flags,
    /// Version 2: the cgroup's directory.
    birthplace: Option<OwnedFd>,
    filter: Option<&'a Filter>,
    sync: &'a Sync,
}

/// Makes a further process in a running container, up to the point where its program would run.
/// It joins every namespace of the container's first process that is not the caller's own, and is
/// a child of the caller, which must have one thread.
pub fn exec(request: Exec<'_>) -> Result<Created> {
    if !request.process.cwd().is_absolute() {
        let message = format!("working directory `{}` is not absolute", request.process.cwd().display());
        return Err(Error::invalid(message));
    }
    let filter = match request.seccomp {
        Some(profile) => Some(seccomp::compile_cached(profile, request.seccomp_cache)?),
        None => None,
    };
    let foreign = foreign_namespaces(request.pid)?;
    // Checked after the namespaces were looked at: the pid was the container's all the time.
    process::signal(request.pidfd, 0).map_err(|_| Error::new(Kind::Conflict, "the container has stopped"))?;
    let (near, far) = Sync::pair()?;
    let birthplace = match request.cgroup {
        Some(cgroup) => cgroup.birthplace()?,
        None => None,
    };
    // Somebody joins; only a child of theirs can be in the pid namespace. That one is cloned as a sibling,
    // so that it is the caller's.
    let joiner = Joiner { request: &request, foreign, birthplace, filter: filter.as_deref(), sync: &far };
    let mut joined = Err(Error::new(Kind::Internal, "the process died while it was made"));
    errand::run(&mut || joined = joiner.join_and_clone())
        .context(Kind::Internal, || "cannot make a process".into())?;
    let pid = joined?;
    // Nobody has reaped it, so the pid is its.
    let pidfd = process::pidfd_open(pid)?;
    drop(joiner);
    drop(far);
    match await_readiness(&near) {
        Ok(master) => Ok(Created::new(pid, pidfd, master, None, near)),
        Err(error) => {
            let _ = process::signal(&pidfd, libc::SIGKILL);
            let _ = process::wait(&pidfd);
            Err(error)
        }
    }
}

/// Waits until the process waits for its start: its terminal.
fn await_readiness(near: &Sync) -> Result<Option<OwnedFd>> {
    let mut master = None;
    loop {
        match near.receive()? {
            Message::Terminal(fd) => master = Some(fd),
            Message::Ready => break,
            Message::Failed(report) => return Err(report.into()),
            Message::Closed | Message::Go | Message::Surroundings | Message::Successor(_) => {
                return Err(Error::new(Kind::Internal, "the process died while it was made"));
            }
        }
    }
    if let Some(master) = &master {
        socket::set_nonblocking(master)?;
    }
    Ok(master)
}

fn enter_namespaces(pidfd: BorrowedFd<'_>, flags: namespace::Flags) -> Result<()> {
    if flags == 0 {
        return Ok(());
    }
    namespace::join(pidfd, flags)
        .map_err(Error::from)
        .within(|| "cannot enter the container's namespaces".into())
}

/// The namespaces of the process that are not the caller's own.
fn foreign_namespaces(pid: i32) -> Result<namespace::Flags> {
    use oci_spec::runtime::LinuxNamespaceType as Type;
    let kinds =
        [Type::User, Type::Mount, Type::Pid, Type::Network, Type::Ipc, Type::Uts, Type::Cgroup, Type::Time];
    let mut flags = 0;
    for name in kinds.map(namespace_name) {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}"));
        let path = format!("/proc/{pid}/ns/{name}");
        match (own, std::fs::read_link(&path)) {
            (Ok(own), Ok(other)) if own == other => {}
            (Ok(_), Ok(_)) => flags |= namespace::flag(name).unwrap_or(0),
            // A kernel without this kind has it for neither.
            (Err(_), Err(_)) => {}
            (_, Err(error)) | (Err(error), _) => {
                let stopped = !Path::new(&format!("/proc/{pid}")).exists();
                return Err(if stopped {
                    Error::new(Kind::Conflict, "the container has stopped")
                } else {
                    Error::new(Kind::of_io(&error), format!("cannot read `{path}`")).because(error)
                });
            }
        }
    }
    Ok(flags)
}

/// Namespaces that who shares the caller's memory cannot join, or that decide where a process may be born:
/// the new process joins them itself.
const LATE: namespace::Flags = libc::CLONE_NEWCGROUP | CLONE_NEWTIME;

impl Joiner<'_> {
    /// Joins the container and clones the process; its pid. In a child that shares the caller's memory:
    /// nothing that the caller owns is dropped.
    fn join_and_clone(&self) -> Result<i32> {
        let Joiner { request, foreign, sync, .. } = self;
        process::reset_signals();
        let mut keep = request.console.numbers();
        keep.extend([sync.as_fd().as_raw_fd(), request.pidfd.as_raw_fd()]);
        keep.extend(self.birthplace.as_ref().map(AsRawFd::as_raw_fd));
        keep.extend((3..3 + request.preserve_fds).map(|number| number as RawFd));
        process::close_all_but(&keep)?;
        init::set_oom_score_of(request.process)?;
        // Until the program runs, nobody inside may look at this process.
        process::set_undumpable()?;
        if let Some(cgroup) = request.cgroup {
            cgroup
                .enter()
                .map_err(Error::from)
                .within(|| format!("cannot enter cgroup `{}`", cgroup.path()))?;
        }
        enter_namespaces(request.pidfd, foreign & !LATE)?;
        let cgroup = self.birthplace.as_ref().map(AsFd::as_fd);
        let clone = CloneRequest { cgroup, sibling: true, ..Default::default() };
        let cloned = process::clone(&clone)
            .context(Kind::Internal, || "cannot make a process in the container".into())?;
        match cloned {
            Cloned::Parent { pid, .. } => Ok(pid),
            Cloned::Child => {
                match self.prepare() {
                    Ok(never) => match never {},
                    Err(error) => sync.failed(&error),
                }
                poll::exit_now(1)
            }
        }
    }

    fn prepare(&self) -> Result<Infallible> {
        let Joiner { request, foreign, filter, sync, .. } = self;
        process::new_session()?;
        enter_namespaces(request.pidfd, foreign & LATE)?;
        if foreign & libc::CLONE_NEWUSER != 0 {
            process::set_group(0)?;
            process::set_user(0)?;
        }
        let uid = request.process.user().uid();
        match &request.console {
            Console::Pipes(stdio) => {
                init::give_pipes(stdio, uid);
                poll::replace_stdio(0, &stdio.stdin)?;
                poll::replace_stdio(1, &stdio.stdout)?;
                poll::replace_stdio(2, &stdio.stderr)?;
            }
            Console::Terminal { size } => {
                let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .context(Kind::Internal, || "cannot open the container's root".into())?;
                let master = mounts::Root::new(root)
                    .open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)
                    .within(|| "cannot open the container's terminals".into())?;
                init::terminal_in(master, *size, uid, sync)?;
            }
        }
        finish(
            request.process,
            &Last {
                filter: *filter,
                preserve_fds: request.preserve_fds,
                init: false,
                sync,
                gate: None,
                before_program: &|| Ok(()),
            },
        )
    }
}
