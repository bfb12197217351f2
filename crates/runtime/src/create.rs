use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies};
use robot_env_sys::namespace::{self, IdRange};
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::socket;

use crate::state::Status;
use crate::sync::{Message, Sync};
use crate::{Console, check, hooks, init, mounts, resources, seccomp};

/// `CLONE_NEWTIME`, which clone3 and setns know.
pub(crate) const CLONE_NEWTIME: namespace::Flags = 0x80;

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
    /// The container's id: hooks are told.
    pub id: &'a str,
    /// The runtime spec.
    pub spec: &'a Spec,
    /// The bundle: hooks are told, and relative paths of the spec's binds begin here.
    pub bundle: &'a Path,
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
    /// Whether the first process is an init of ours, which forwards signals, reaps orphans and ends as
    /// the program does; the program is its child then. For a pid namespace of the container's own.
    pub init: bool,
    /// A listening unix socket that whoever starts the container connects to; `None`:
    /// [`Created::start`] does it.
    pub gate: Option<OwnedFd>,
}

/// A container, or a further process of one, that waits for its start.
#[derive(Debug)]
pub struct Created {
    /// The process's pid.
    pub pid: i32,
    /// A descriptor of the process.
    pub pidfd: OwnedFd,
    /// The terminal's master, where there is one.
    pub master: Option<OwnedFd>,
    /// Its cgroup, where it has one of its own.
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
    /// Its cgroup, where it has one of its own.
    pub cgroup: Option<Cgroup>,
}

impl Created {
    /// Lets the process execute its program.
    ///
    /// # Errors
    /// [`Kind::CommandNotFound`] and [`Kind::CommandNotExecutable`] for what exec says; the process
    /// has ended and is reaped then, and its cgroup is removed.
    pub fn start(self) -> Result<Process> {
        match open_gate(&self.gate.0) {
            Ok(()) => {
                Ok(Process { pid: self.pid, pidfd: self.pidfd, master: self.master, cgroup: self.cgroup })
            }
            Err(error) => {
                let _ = process::signal(&self.pidfd, libc::SIGKILL);
                let _ = process::wait(&self.pidfd);
                if let Some(cgroup) = &self.cgroup {
                    cgroup.remove();
                }
                Err(error)
            }
        }
    }

    pub(crate) fn new(
        pid: i32,
        pidfd: OwnedFd,
        master: Option<OwnedFd>,
        cgroup: Option<Cgroup>,
        sync: Sync,
    ) -> Self {
        Created { pid, pidfd, master, cgroup, gate: Gate(sync) }
    }
}

pub(crate) fn open_gate(sync: &Sync) -> Result<()> {
    sync.go()?;
    match sync.receive()? {
        Message::Closed => Ok(()),
        Message::Failed(report) => Err(report.into()),
        _ => Err(Error::new(Kind::Internal, "the container's first process said something unexpected")),
    }
}

/// The namespaces that a spec asks for.
struct Namespaces {
    /// `CLONE_NEW*` of what clone3 makes.
    new: namespace::Flags,
    /// Existing ones that the child joins, a user namespace first.
    joins: Vec<(OwnedFd, namespace::Flags)>,
    /// An existing pid namespace, which only a child can be born into.
    pid: Option<OwnedFd>,
    /// Whether there is a new time namespace.
    time: bool,
}

impl Namespaces {
    fn of(linux: &Linux) -> Result<Namespaces> {
        let mut out = Namespaces { new: libc::CLONE_NEWNS, joins: Vec::new(), pid: None, time: false };
        for entry in linux.namespaces().iter().flatten() {
            let name = namespace_name(entry.typ());
            let flag = namespace::flag(name)
                .ok_or_else(|| Error::new(Kind::Unsupported, format!("unknown namespace `{name}`")))?;
            match entry.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => {
                    let fd = namespace::open(&path.to_string_lossy())?;
                    if flag == libc::CLONE_NEWNS {
                        return Err(Error::new(
                            Kind::Unsupported,
                            "a container needs a mount namespace of its own",
                        ));
                    }
                    match flag {
                        libc::CLONE_NEWPID => out.pid = Some(fd),
                        libc::CLONE_NEWUSER => out.joins.insert(0, (fd, flag)),
                        _ => out.joins.push((fd, flag)),
                    }
                }
                // The child makes its cgroup namespace once it is in its cgroup.
                None if flag == libc::CLONE_NEWCGROUP => {}
                None if flag == CLONE_NEWTIME => out.time = true,
                None => out.new |= flag,
            }
        }
        Ok(out)
    }

    fn joins_user(&self) -> bool {
        self.joins.iter().any(|(_, flag)| *flag == libc::CLONE_NEWUSER)
    }
}

/// What the caller's children are born into, put back when dropped.
struct Birth(Vec<(OwnedFd, namespace::Flags)>);

impl Birth {
    fn into(namespaces: &Namespaces, linux: &Linux) -> Result<Birth> {
        let mut birth = Birth(Vec::new());
        if let Some(fd) = &namespaces.pid {
            birth.0.push((namespace::open("/proc/self/ns/pid")?, libc::CLONE_NEWPID));
            namespace::join(fd.as_fd(), libc::CLONE_NEWPID)?;
        }
        if namespaces.time {
            birth.0.push((namespace::open("/proc/self/ns/time")?, CLONE_NEWTIME));
            namespace::unshare(CLONE_NEWTIME)?;
            let mut offsets = String::new();
            for (clock, offset) in linux.time_offsets().iter().flatten() {
                let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
                let _ = writeln!(offsets, "{clock} {seconds} {nanoseconds}");
            }
            if !offsets.is_empty() {
                std::fs::write("/proc/self/timens_offsets", &offsets)
                    .io_context(|| format!("write(/proc/self/timens_offsets, {offsets:?})"))?;
            }
        }
        Ok(birth)
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        for (fd, flag) in &self.0 {
            let _ = namespace::join(fd.as_fd(), *flag);
        }
    }
}

/// Makes a container up to the point where its program would run. The process is a child of the
/// caller, which must have one thread.
pub fn create(request: Create<'_>) -> Result<Created> {
    check::check(request.spec)?;
    let linux = request.spec.linux().clone().unwrap_or_default();
    let filter = match linux.seccomp() {
        Some(profile) => Some(seccomp::compile_cached(profile, request.seccomp_cache)?),
        None => None,
    };
    let namespaces = Namespaces::of(&linux)?;
    let cgroup = match request.cgroup {
        Some((hierarchies, path)) => Some(make_cgroup(hierarchies, path, &linux)?),
        None => None,
    };
    let undo = CgroupGuard(cgroup.as_ref());
    let birthplace = match &cgroup {
        Some(cgroup) => cgroup.birthplace()?,
        None => None,
    };
    let new_user_namespace = namespaces.new & libc::CLONE_NEWUSER != 0;
    let sources = if new_user_namespace {
        give_streams(&request.console, request.spec, &linux);
        // What only the caller may reach is opened before the caller is somebody else.
        mounts::sources(request.spec, request.bundle)?
    } else {
        Vec::new()
    };
    let (near, far) = Sync::pair()?;
    let birth =
        Birth::into(&namespaces, &linux).within(|| "cannot prepare the container's namespaces".into())?;
    let plain = namespaces.joins_user();
    let clone = CloneRequest {
        // In a joined user namespace the others are made by a child of the one that has joined it.
        namespaces: if plain { 0 } else { namespaces.new },
        cgroup: birthplace.as_ref().map(AsFd::as_fd),
        sibling: false,
    };
    let cloned =
        process::clone(&clone).context(Kind::Internal, || "cannot make the container's first process".into());
    if matches!(cloned, Ok(Cloned::Child)) {
        std::mem::forget(birth);
    } else {
        drop(birth);
    }
    match cloned? {
        Cloned::Child => {
            drop(near);
            init::run(init::Context {
                id: request.id,
                bundle: request.bundle,
                spec: request.spec,
                linux: &linux,
                anchor: request.anchor,
                rootfs: &request.rootfs,
                console: request.console,
                cgroup: cgroup.as_ref(),
                hierarchies: request.cgroup.map(|(hierarchies, _)| hierarchies),
                joins: &namespaces.joins,
                later: if plain { namespaces.new } else { 0 },
                filter: filter.as_deref(),
                preserve_fds: request.preserve_fds,
                init: request.init,
                new_user_namespace,
                sources: &sources,
                gate: request.gate.as_ref(),
                sync: &far,
            })
        }
        Cloned::Parent { pid, pidfd } => {
            drop(far);
            let mut child = ChildGuard(Some(pidfd));
            let mut pid = pid;
            if new_user_namespace {
                write_maps(pid, &linux)?;
                near.go()?;
            }
            let mut master = None;
            let (mut ready, mut successor, mut failure) = (false, plain, None);
            // With a successor two children send, in any order; after a failure both end.
            while !ready || successor {
                match near.receive()? {
                    Message::Successor(fd) => {
                        successor = false;
                        if let Some(joiner) = child.0.replace(fd) {
                            let _ = process::wait(&joiner);
                        }
                        if let Some(pidfd) = &child.0 {
                            pid = process::pid_of(pidfd)?;
                        }
                    }
                    Message::Terminal(fd) => master = Some(fd),
                    Message::Surroundings => {
                        if let Some(list) = request.spec.hooks() {
                            let state =
                                hooks::state(request.spec, request.id, request.bundle, Status::Creating, pid);
                            #[allow(deprecated)]
                            hooks::run(list.prestart().as_deref(), "prestart", &state)?;
                            hooks::run(list.create_runtime().as_deref(), "createRuntime", &state)?;
                        }
                        near.go()?;
                    }
                    Message::Ready => ready = true,
                    Message::Failed(report) => failure = Some(Error::from(report)),
                    Message::Closed | Message::Go => {
                        let died = || {
                            Error::new(Kind::Internal, "the container's first process died while it was made")
                        };
                        return Err(failure.unwrap_or_else(died));
                    }
                }
            }
            if let Some(master) = &master {
                socket::set_nonblocking(master)?;
            }
            let pidfd =
                child.0.take().ok_or_else(|| Error::new(Kind::Internal, "the process has no descriptor"))?;
            undo.disarm();
            Ok(Created::new(pid, pidfd, master, cgroup, near))
        }
    }
}

fn make_cgroup(hierarchies: &Hierarchies, path: &str, linux: &Linux) -> Result<Cgroup> {
    let version = hierarchies.version();
    let settings = match linux.resources() {
        Some(resources) => resources::settings(resources, version)?,
        None => Vec::new(),
    };
    let cgroup = hierarchies
        .create(path, &settings)
        .map_err(Error::from)
        .within(|| format!("cannot make cgroup `{path}`"))?;
    let undo = CgroupGuard(Some(&cgroup));
    resources::restrict_devices(&cgroup, linux.resources().as_ref())?;
    undo.disarm();
    Ok(cgroup)
}

fn write_maps(pid: i32, linux: &Linux) -> Result<()> {
    let ranges = |list: &Option<Vec<LinuxIdMapping>>| {
        list.iter()
            .flatten()
            .map(|m| IdRange { inside: m.container_id(), outside: m.host_id(), count: m.size() })
            .collect::<Vec<_>>()
    };
    let groups = ranges(linux.gid_mappings());
    // The kernel lets an ordinary user map the own group alone, and only where nobody can leave it.
    let alone = !rustix::process::geteuid().is_root()
        && matches!(groups[..], [IdRange { outside, count: 1, .. }] if outside == rustix::process::getegid().as_raw());
    namespace::write_id_maps(pid, &ranges(linux.uid_mappings()), &groups, alone)
        .map_err(Error::from)
        .within(|| "cannot map the container's users".into())
}

/// Lets the user of a new user namespace open its own streams again: its ids are the caller's to give.
fn give_streams(console: &Console, spec: &Spec, linux: &Linux) {
    let Some(process) = spec.process() else { return };
    let uid = process.user().uid();
    let lines = linux.uid_mappings().iter().flatten();
    let outside =
        lines.map(|m| (m.container_id(), m.host_id(), m.size())).find_map(|(inside, outside, size)| {
            let offset = uid.checked_sub(inside).filter(|offset| *offset < size)?;
            Some(outside + offset)
        });
    if let (Console::Pipes(stdio), Some(outside)) = (console, outside) {
        init::give_pipes(stdio, outside);
    }
}

/// Kills and reaps the child unless it is taken out.
struct ChildGuard(Option<OwnedFd>);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
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
