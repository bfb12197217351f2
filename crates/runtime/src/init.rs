//! The child's side: from a fresh process in new namespaces to the program.

use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxPersonalityDomain, Spec};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies};
use robot_env_sys::mount::{self, Attributes, PropagationFlags};
use robot_env_sys::process::{self as sys_process, CloneRequest, Cloned};
use robot_env_sys::{namespace, netlink, poll, socket, terminal};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::hooks;
use crate::mounts::{self, Root};
use crate::process::{self, Last};
use crate::seccomp::Filter;
use crate::state::Status;
use crate::sync::{Message, Sync};
use crate::{Console, Rootfs, Stdio};

/// What the child was cloned with.
pub(crate) struct Context<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) spec: &'a Spec,
    pub(crate) linux: &'a Linux,
    pub(crate) anchor: &'a Path,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) console: Console,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) hierarchies: Option<&'a Hierarchies>,
    pub(crate) joins: &'a [(OwnedFd, namespace::Flags)],
    /// Namespaces that a child makes once `joins` are joined; 0: they are made already.
    pub(crate) later: namespace::Flags,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) preserve_fds: u32,
    pub(crate) init: bool,
    pub(crate) new_user_namespace: bool,
    /// The sources of binds by their place among the spec's mounts, for a new user namespace.
    pub(crate) sources: &'a [Option<OwnedFd>],
    pub(crate) gate: Option<&'a OwnedFd>,
    pub(crate) sync: &'a Sync,
}

/// Runs to the program, or tells the parent what went wrong and ends.
pub(crate) fn run(context: Context<'_>) -> ! {
    let sync = context.sync;
    match prepare(context) {
        Ok(never) => match never {},
        Err(error) => sync.failed(&error),
    }
    poll::exit_now(1)
}

fn prepare(context: Context<'_>) -> Result<Infallible> {
    let Context { spec, linux, sync, .. } = context;
    let process_spec =
        spec.process().as_ref().ok_or_else(|| Error::invalid("the runtime spec has no process"))?;
    sys_process::reset_signals();
    close_inherited(&context)?;
    // While it is still root of the caller's user namespace.
    if let Some(cgroup) = context.cgroup {
        cgroup.enter().map_err(Error::from).within(|| format!("cannot enter cgroup `{}`", cgroup.path()))?;
    }
    if let Some(score) = process_spec.oom_score_adj() {
        set_oom_score(score)?;
    }
    if context.new_user_namespace {
        match sync.receive()? {
            Message::Go => {}
            _ => return Err(Error::new(Kind::Internal, "the parent went away")),
        }
    }
    for (fd, flags) in context.joins {
        namespace::join(fd.as_fd(), *flags)
            .map_err(Error::from)
            .within(|| "cannot join a namespace".into())?;
    }
    // While it is still whoever the caller is.
    let anchor = open_anchor(&context)?;
    let joined_user = context.joins.iter().any(|(_, flag)| *flag == libc::CLONE_NEWUSER);
    if context.new_user_namespace || joined_user {
        // Root of that namespace, whatever the caller was.
        if has_root(linux) || joined_user {
            sys_process::set_group(0)?;
            sys_process::set_user(0)?;
        }
    }
    if context.later != 0 {
        hand_over(context.later, sync)?;
    }
    sys_process::new_session()?;
    // Until the program runs nobody inside may look at this process, whose program is the host's.
    sys_process::set_undumpable()?;
    let has_new = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind && n.path().is_none());
    if has_new(LinuxNamespaceType::Cgroup) {
        namespace::unshare(libc::CLONE_NEWCGROUP)?;
    }
    if has_new(LinuxNamespaceType::Network) {
        netlink::RouteSocket::open()?.loopback_up()?;
    }
    set_names(spec)?;
    write_sysctls(linux)?;

    let root = mount_root(&context, linux, anchor)?;
    let mut environment = mounts::Environment {
        root: &root,
        bundle: context.bundle,
        cgroup: context.cgroup,
        hierarchies: context.hierarchies,
        own_pids: has_new(LinuxNamespaceType::Pid),
        place: None,
        covered: None,
        sources: context.sources,
        deferred: Vec::new(),
    };
    for (index, entry) in spec.mounts().iter().flatten().enumerate() {
        environment
            .mount(index, entry)
            .within(|| format!("cannot mount `{}`", entry.destination().display()))?;
    }
    mounts::populate_dev(&root, spec, linux)?;
    let uid = process_spec.user().uid();
    set_up_console(&root, &context.console, uid, sync)?;
    environment.finish()?;
    let hooks_list = spec.hooks().clone().unwrap_or_default();
    #[allow(deprecated)]
    let outside = hooks_list.prestart().is_some() || hooks_list.create_runtime().is_some();
    if outside {
        sync.surroundings()?;
        match sync.receive()? {
            Message::Go => {}
            _ => return Err(Error::new(Kind::Interrupted, "the parent went away")),
        }
    }
    let state = |status| {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        hooks::state(spec, context.id, context.bundle, status, own)
    };
    hooks::run(hooks_list.create_container().as_deref(), "createContainer", &state(Status::Creating))?;
    mounts::mask(&root, linux)?;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        mounts::make_read_only(root.fd())?;
    }
    mount::pivot_root(root.fd())
        .map_err(Error::from)
        .within(|| "cannot enter the root file system".into())?;
    drop(root);
    if let Some(propagation) = mounts::propagation(linux.rootfs_propagation().as_deref().unwrap_or_default())
    {
        mount::set_propagation("/", propagation)?;
    }
    if let Some(personality) = linux.personality() {
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        };
        sys_process::set_personality(domain)?;
    }
    let start_hooks = hooks_list.start_container().clone();
    let before_program = || hooks::run(start_hooks.as_deref(), "startContainer", &state(Status::Created));
    let gate = context.gate.map(|gate| gate.as_fd());
    // `finish` closes what is open.
    std::mem::forget(context.console);
    process::finish(
        process_spec,
        &Last {
            filter: context.filter,
            preserve_fds: context.preserve_fds,
            init: context.init,
            sync,
            gate,
            before_program: &before_program,
        },
    )
}

/// Whatever the parent had open stays outside: with a shared pid namespace the container's
/// processes could look at this one.
fn close_inherited(context: &Context<'_>) -> Result<()> {
    let mut keep = context.console.numbers();
    keep.push(context.sync.as_fd().as_raw_fd());
    keep.extend(context.gate.map(AsRawFd::as_raw_fd));
    keep.extend(context.joins.iter().map(|(fd, _)| fd.as_raw_fd()));
    keep.extend(context.sources.iter().flatten().map(AsRawFd::as_raw_fd));
    if let Rootfs::Mount(fd) = context.rootfs {
        keep.push(fd.as_raw_fd());
    }
    keep.extend((3..3 + context.preserve_fds).map(|number| number as RawFd));
    Ok(sys_process::close_all_but(&keep)?)
}

/// Clones the process that goes on in new namespaces of the user namespace that was joined; the
/// caller of this function ends.
fn hand_over(flags: namespace::Flags, sync: &Sync) -> Result<()> {
    match sys_process::clone(&CloneRequest { namespaces: flags, cgroup: None, sibling: true })? {
        Cloned::Parent { pidfd, .. } => {
            sync.successor(&pidfd)?;
            poll::exit_now(0)
        }
        Cloned::Child => Ok(()),
    }
}

/// Mounts the root file system over the anchor; nothing that is mounted from here on is seen
/// outside.
fn mount_root(context: &Context<'_>, linux: &Linux, anchor: Option<OwnedFd>) -> Result<Root> {
    let shared = matches!(linux.rootfs_propagation().as_deref(), Some("shared" | "rshared"));
    // A container whose mounts are to reach the host must stay a peer of the host's.
    if !shared {
        mount::set_propagation("/", PropagationFlags::DOWNSTREAM | PropagationFlags::REC)?;
    }
    let tree = match context.rootfs {
        Rootfs::Path(path) => mount::clone_path(&path.to_string_lossy(), true)
            .map_err(Error::from)
            .within(|| format!("cannot use root file system `{}`", path.display()))?,
        Rootfs::Mount(fd) => {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).io_context(|| "cannot copy a descriptor".into())?
        }
    };
    let anchor = match anchor {
        Some(anchor) => anchor,
        None => open_directory(context.anchor)?,
    };
    if shared {
        // pivot_root refuses a shared parent: the mount that the anchor is on becomes private.
        mounts::make_private(&anchor)?;
    }
    mount::attach(tree.as_fd(), anchor.as_fd())
        .map_err(Error::from)
        .within(|| "cannot mount the root file system".into())?;
    if !shared {
        mounts::set_propagation(tree.as_fd(), PropagationFlags::PRIVATE, true)?;
    }
    Ok(Root::new(tree))
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).io_context(|| format!("cannot open `{}`", path.display()))
}

/// The anchor, for a new user namespace, whose root may not reach it.
fn open_anchor(context: &Context<'_>) -> Result<Option<OwnedFd>> {
    let reach = context.new_user_namespace && context.later == 0;
    reach.then(|| open_directory(context.anchor)).transpose()
}

/// Whether the new user namespace has a root. One with other ids only has all rights all the same.
fn has_root(linux: &Linux) -> bool {
    linux.uid_mappings().iter().flatten().any(|m| m.container_id() == 0 && m.size() > 0)
}

fn set_oom_score(score: i32) -> Result<()> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Lowering it below one's own needs CAP_SYS_RESOURCE: clamp instead of failing.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        other => other.io_context(|| format!("cannot set oom_score_adj to {score}")),
    }
}

pub(crate) fn set_oom_score_of(process: &oci_spec::runtime::Process) -> Result<()> {
    process.oom_score_adj().map_or(Ok(()), set_oom_score)
}

fn set_names(spec: &Spec) -> Result<()> {
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        rustix::system::sethostname(name.as_bytes())
            .io_context(|| format!("cannot set host name `{name}`"))?;
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        rustix::system::setdomainname(name.as_bytes())
            .io_context(|| format!("cannot set domain name `{name}`"))?;
    }
    Ok(())
}

fn set_up_console(root: &Root, console: &Console, uid: u32, sync: &Sync) -> Result<()> {
    match console {
        Console::Pipes(stdio) => {
            give_pipes(stdio, uid);
            poll::replace_stdio(0, &stdio.stdin)?;
            poll::replace_stdio(1, &stdio.stdout)?;
            poll::replace_stdio(2, &stdio.stderr)?;
        }
        Console::Terminal { size } => {
            let master = root.open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?;
            let slave = terminal_in(master, *size, uid, sync)?;
            mounts::bind_console(root, slave.as_fd())?;
        }
    }
    Ok(())
}

/// Lets the user open its own streams again (`/dev/stderr`): pipes belong to whoever made them.
pub(crate) fn give_pipes(stdio: &Stdio, uid: u32) {
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != uid {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// Sends the terminal's master to the parent and makes its slave the standard streams and the
/// controlling terminal.
pub(crate) fn terminal_in(master: OwnedFd, size: terminal::Size, uid: u32, sync: &Sync) -> Result<OwnedFd> {
    let slave = sys_process::terminal_peer(master.as_fd())
        .map_err(Error::from)
        .within(|| "cannot open the container's terminal".into())?;
    if size != (0, 0) {
        let _ = terminal::set_size(&master, size);
    }
    sync.terminal(&master)?;
    // It belongs to whoever uses it, as after a login.
    let _ = rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None);
    sys_process::set_controlling_terminal(slave.as_fd())?;
    for target in 0..3 {
        poll::replace_stdio(target, slave.as_fd())?;
    }
    Ok(slave)
}

/// Waits until somebody connects to `gate` and says go; the answer goes to whoever did.
pub(crate) fn wait_at(gate: BorrowedFd<'_>) -> Result<Sync> {
    loop {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(gate, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).io_context(|| "poll(gate)".into()),
        }
        if let Some(connection) = socket::accept(gate)? {
            rustix::io::ioctl_fionbio(&connection, false).io_context(|| "ioctl(FIONBIO)".into())?;
            let sync = Sync::over(connection);
            // Whoever connects and says nothing has not started anything.
            if let Ok(Message::Go) = sync.receive() {
                return Ok(sync);
            }
        }
    }
}

/// Kernel parameters, through a procfs of this process's own pid namespace that nobody else has
/// touched.
fn write_sysctls(linux: &Linux) -> Result<()> {
    let Some(sysctls) = linux.sysctl().as_ref().filter(|s| !s.is_empty()) else { return Ok(()) };
    let procfs = mount::procfs().map_err(Error::from).within(|| "cannot open a procfs".into())?;
    for (name, value) in sysctls {
        // A name with slashes has its dots as they are (`net/ipv4/conf/eth0.1/forwarding`).
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        write_below(procfs.as_fd(), &format!("sys/{path}"), value)
            .within(|| format!("cannot set kernel parameter `{name}`"))?;
    }
    Ok(())
}

fn write_below(directory: BorrowedFd<'_>, path: &str, value: &str) -> Result<()> {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let fd = rustix::fs::openat2(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
        .io_context(|| format!("open({path})"))?;
    let magic = rustix::fs::fstatfs(&fd).io_context(|| "fstatfs()".into())?.f_type as u64;
    if magic != PROC_SUPER_MAGIC {
        return Err(Error::new(Kind::Denied, format!("`{path}` is not on a procfs")));
    }
    rustix::io::write(&fd, value.as_bytes()).map(drop).io_context(|| format!("write({path}, {value:?})"))
}

/// What a mount's read-only form is called.
pub(crate) const READ_ONLY: Attributes = Attributes::MOUNT_ATTR_RDONLY;
