use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use robot_env_diag::{Context, Error, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies};
use robot_env_sys::namespace::{self, IdRange};
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::{seccomp as sys_seccomp, socket};

use crate::sync::{Message, Sync};
use crate::{Console, init, resources, seccomp};

/// Where the root file system is.
#[derive(Debug)]
pub enum Rootfs {
    /// A directory that the caller can see.
    Path(PathBuf),
    /// A detached mount.
    Mount(OwnedFd),
}

/// What [`create`] makes a container of.
pub struct Create<'a> {
    /// The runtime spec.
    pub spec: &'a Spec,
    /// A directory of the caller's that the root file system is mounted over, in the container's
    /// own mount namespace only.
    pub anchor: &'a Path,
    /// The root file system.
    pub rootfs: Rootfs,
    /// The standard streams.
    pub console: Console,
    /// The control groups, and the path below them of the container's own; `None`: it stays in the
    /// caller's.
    pub cgroup: Option<(&'a Hierarchies, &'a str)>,
    /// Where compiled seccomp filters are kept; `None`: compile every time.
    pub seccomp_cache: Option<&'a Path>,
    /// Descriptors from 3 on that the program inherits (`LISTEN_FDS`).
    pub preserve_fds: u32,
}

/// A container whose process waits for its start.
#[derive(Debug)]
pub struct Created {
    /// The process's pid.
    pub pid: i32,
    /// A descriptor of the process.
    pub pidfd: OwnedFd,
    /// The terminal's master, where there is one.
    pub master: Option<OwnedFd>,
    /// Its cgroup, where it has one.
    pub cgroup: Option<Cgroup>,
    gate: Gate,
}

struct Gate(Sync);

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
    /// The terminal's master, where there is one.
    pub master: Option<OwnedFd>,
    /// Its cgroup, where it has one.
    pub cgroup: Option<Cgroup>,
}

impl Created {
    /// Lets the process execute its program.
    ///
    /// # Errors
    /// [`Kind::CommandNotFound`] and [`Kind::CommandNotExecutable`] for what exec says; the process
    /// has ended and is reaped then.
    pub fn start(self) -> Result<Process> {
        self.gate.0.go()?;
        match self.gate.0.receive()? {
            Message::Closed => Ok(Process { pid: self.pid, pidfd: self.pidfd, master: self.master, cgroup: self.cgroup }),
            Message::Failed(report) => {
                let _ = process::wait(&self.pidfd);
                if let Some(cgroup) = &self.cgroup {
                    cgroup.remove();
                }
                Err(report.into())
            }
            _ => Err(Error::new(Kind::Internal, "the container's first process said something unexpected")),
        }
    }

    pub(crate) fn new(pid: i32, pidfd: OwnedFd, master: Option<OwnedFd>, cgroup: Option<Cgroup>, sync: Sync) -> Self {
        Created { pid, pidfd, master, cgroup, gate: Gate(sync) }
    }
}

/// Makes a container up to the point where its program would run.
pub fn create(request: Create<'_>) -> Result<Created> {
    let linux = request.spec.linux().clone().unwrap_or_default();
    let filter = match linux.seccomp() {
        Some(profile) => Some(seccomp::compile_cached(profile, request.seccomp_cache)?),
        None => None,
    };
    let cgroup = match request.cgroup {
        Some((hierarchies, path)) => {
            let settings = match linux.resources() {
                Some(resources) => resources::settings(resources, hierarchies.version())?,
                None => Vec::new(),
            };
            let cgroup = hierarchies.create(path, &settings).within_cgroup(path)?;
            resources::restrict_devices(&cgroup, linux.resources().as_ref(), hierarchies.version())?;
            Some(cgroup)
        }
        None => None,
    };
    let undo = CgroupGuard(cgroup.as_ref());

    let mut flags = 0;
    let mut joins = Vec::new();
    let mut pid_namespace = None;
    for entry in linux.namespaces().iter().flatten() {
        let name = namespace_name(entry.typ());
        let flag = namespace::flag(name).unwrap_or(0);
        match entry.path() {
            Some(path) => {
                let fd = namespace::open(&path.to_string_lossy())?;
                if flag == libc::CLONE_NEWPID { pid_namespace = Some(fd) } else { joins.push((fd, flag)) }
            }
            // The cgroup namespace is made by the child once it is in its cgroup.
            None if flag != libc::CLONE_NEWCGROUP => flags |= flag,
            None => {}
        }
    }
    flags |= libc::CLONE_NEWNS;

    let birthplace = match &cgroup {
        Some(cgroup) => cgroup.birthplace()?,
        None => None,
    };
    let (near, far) = Sync::pair()?;
    let restore = match &pid_namespace {
        Some(fd) => {
            let own = namespace::open("/proc/self/ns/pid")?;
            namespace::join(fd.as_fd(), libc::CLONE_NEWPID)?;
            Some(own)
        }
        None => None,
    };
    let clone = CloneRequest { namespaces: flags, cgroup: birthplace.as_ref().map(AsFd::as_fd), sibling: false };
    let cloned = process::clone(&clone).context(Kind::Internal, || "cannot make the container's first process".into());
    if let Some(own) = restore {
        // Children of this process must not end up in the container's pid namespace from now on.
        let back = namespace::join(own.as_fd(), libc::CLONE_NEWPID);
        if matches!(cloned, Ok(Cloned::Parent { .. })) {
            back?;
        }
    }
    match cloned? {
        Cloned::Child => {
            drop(near);
            let context = init::Context {
                spec: request.spec,
                linux: &linux,
                anchor: request.anchor,
                rootfs: &request.rootfs,
                console: request.console,
                cgroup: cgroup.as_ref(),
                hierarchies: request.cgroup.map(|(hierarchies, _)| hierarchies),
                joins: &joins,
                filter: filter.as_deref(),
                preserve_fds: request.preserve_fds,
                new_user_namespace: flags & libc::CLONE_NEWUSER != 0,
                sync: &far,
            };
            init::run(context)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(far);
            let mut child = ChildGuard(Some(&pidfd));
            if flags & libc::CLONE_NEWUSER != 0 {
                let ranges = |list: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
                    list.iter()
                        .flatten()
                        .map(|m| IdRange { inside: m.container_id(), outside: m.host_id(), count: m.size() })
                        .collect::<Vec<_>>()
                };
                namespace::write_id_maps(pid, &ranges(linux.uid_mappings()), &ranges(linux.gid_mappings()), false)?;
                if let Some(cgroup) = &cgroup
                    && birthplace.is_none()
                {
                    cgroup.add(pid)?;
                }
                near.go()?;
            }
            let mut master = None;
            loop {
                match near.receive()? {
                    Message::Descriptor(fd) => master = Some(fd),
                    Message::Ready => break,
                    Message::Failed(report) => return Err(report.into()),
                    Message::Closed | Message::Go => {
                        return Err(Error::new(Kind::Internal, "the container's first process died while it was made"));
                    }
                }
            }
            child.0 = None;
            drop(child);
            undo.disarm();
            if let Some(master) = &master {
                socket::set_nonblocking(master)?;
            }
            Ok(Created::new(pid, pidfd, master, cgroup, near))
        }
    }
}

/// Kills and reaps the child unless it is disarmed.
struct ChildGuard<'a>(Option<&'a OwnedFd>);

impl Drop for ChildGuard<'_> {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0 {
            let _ = process::signal(pidfd, libc::SIGKILL);
            let _ = process::wait(pidfd);
        }
    }
}

/// Removes the cgroup unless it is disarmed.
struct CgroupGuard<'a>(Option<&'a Cgroup>);

impl CgroupGuard<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CgroupGuard<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0 {
            cgroup.remove();
        }
    }
}

trait WithinCgroup<T> {
    fn within_cgroup(self, path: &str) -> Result<T>;
}

impl<T> WithinCgroup<T> for robot_env_sys::CallResult<T> {
    fn within_cgroup(self, path: &str) -> Result<T> {
        self.map_err(Error::from).within(|| format!("cannot make cgroup `{path}`"))
    }
}

/// The name below `/proc/PID/ns`.
pub(crate) fn namespace_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

/// A compiled filter.
pub(crate) type Filter = [sys_seccomp::Instruction];
