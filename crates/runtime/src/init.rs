//! The child's side: from a fresh process in new namespaces to the program.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use robot_env_diag::{Context as _, Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies};
use robot_env_sys::mount::{self, Attributes, PropagationFlags};
use robot_env_sys::{namespace, netlink, poll, process as sys_process};
use rustix::fs::{Mode, OFlags};

use crate::mounts::{self, Root};
use crate::process;
use crate::seccomp::Filter;
use crate::sync::{Message, Sync};
use crate::{Console, Rootfs};

/// What the child was cloned with.
pub(crate) struct Context<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) linux: &'a Linux,
    pub(crate) anchor: &'a Path,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) console: Console,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) hierarchies: Option<&'a Hierarchies>,
    pub(crate) joins: &'a [(OwnedFd, namespace::Flags)],
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) preserve_fds: u32,
    pub(crate) new_user_namespace: bool,
    pub(crate) sync: &'a Sync,
}

/// Runs to the program, or tells the parent what went wrong and ends.
pub(crate) fn run(context: Context<'_>) -> ! {
    let sync = context.sync;
    let error = match prepare(context) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    sync.failed(&error);
    poll::exit_now(1)
}

fn prepare(context: Context<'_>) -> Result<std::convert::Infallible> {
    let Context { spec, linux, sync, .. } = context;
    let process_spec = spec.process().as_ref().ok_or_else(|| Error::invalid("the runtime spec has no process"))?;
    sys_process::reset_signals();
    sys_process::new_session()?;
    if context.new_user_namespace {
        match sync.receive()? {
            Message::Go => {}
            _ => return Err(Error::new(Kind::Internal, "the parent went away")),
        }
    }
    for (fd, flags) in context.joins {
        namespace::join(fd.as_fd(), *flags)?;
    }
    if context.new_user_namespace {
        // Root of the new namespace, whatever the caller was.
        sys_process::set_group(0)?;
        sys_process::set_user(0)?;
    } else if let Some(cgroup) = context.cgroup {
        cgroup.enter().map_err(Error::from).within(|| format!("cannot enter cgroup `{}`", cgroup.path()))?;
    }
    let has_new = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind && n.path().is_none());
    if has_new(LinuxNamespaceType::Cgroup) {
        namespace::unshare(libc::CLONE_NEWCGROUP)?;
    }
    if has_new(LinuxNamespaceType::Network) {
        netlink::RouteSocket::open()?.loopback_up()?;
    }
    if let Some(score) = process_spec.oom_score_adj() {
        set_oom_score(score)?;
    }

    // Nothing that is mounted from here on is seen outside.
    let propagation = match linux.rootfs_propagation().as_deref() {
        Some("shared" | "rshared") => PropagationFlags::SHARED | PropagationFlags::REC,
        _ => PropagationFlags::DOWNSTREAM | PropagationFlags::REC,
    };
    mount::set_propagation("/", PropagationFlags::DOWNSTREAM | PropagationFlags::REC)?;
    let tree = match context.rootfs {
        Rootfs::Path(path) => mount::clone_path(&path.to_string_lossy(), true)?,
        Rootfs::Mount(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 3).io_context(|| "cannot copy a descriptor".into())?,
    };
    let anchor = rustix::fs::open(context.anchor, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .io_context(|| format!("cannot open `{}`", context.anchor.display()))?;
    mount::attach(tree.as_fd(), anchor.as_fd()).map_err(Error::from).within(|| "cannot mount the root file system".into())?;
    mount::set_attributes(tree.as_fd(), Attributes::empty(), Attributes::empty(), Some(PropagationFlags::PRIVATE), true).or_else(
        |error| if error.errno() == rustix::io::Errno::NOSYS { Ok(()) } else { Err(error) },
    )?;
    let root = Root::new(tree);
    let mut environment = mounts::Environment { root: &root, cgroup: context.cgroup, hierarchies: context.hierarchies, deferred: Vec::new() };
    for entry in spec.mounts().iter().flatten() {
        environment.mount(entry).within(|| format!("cannot mount `{}`", entry.destination().display()))?;
    }
    mounts::populate_dev(&root, spec, linux)?;
    if let Some(console) = open_console(&root, &context.console)? {
        sync.descriptor(&console.0)?;
        if let Console::Terminal { size } = &context.console
            && *size != (0, 0)
        {
            let _ = robot_env_sys::terminal::set_size(&console.0, *size);
        }
        mounts::bind_console(&root, console.1.as_fd())?;
        sys_process::set_controlling_terminal(console.1.as_fd())?;
        for target in 0..3 {
            poll::replace_stdio(target, console.1.as_fd())?;
        }
    } else if let Console::Pipes(stdio) = &context.console {
        poll::replace_stdio(0, &stdio.stdin)?;
        poll::replace_stdio(1, &stdio.stdout)?;
        poll::replace_stdio(2, &stdio.stderr)?;
    }
    write_sysctls(linux)?;
    let null = mounts::open_null()?;
    environment.finish()?;

    mount::pivot_root(root.fd()).map_err(Error::from).within(|| "cannot enter the root file system".into())?;
    if propagation.contains(PropagationFlags::SHARED) {
        mount::set_propagation("/", propagation)?;
    }
    mounts::mask(&root, linux, null.as_fd())?;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        mounts::make_read_only(root.fd())?;
    }
    drop(root);
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).io_context(|| format!("cannot set host name `{name}`"))?;
    }
    if let Some(name) = spec.domainname() {
        rustix::system::setdomainname(name.as_bytes()).io_context(|| format!("cannot set domain name `{name}`"))?;
    }
    let last = process::Last { filter: context.filter, preserve_fds: context.preserve_fds, sync, before_program: &|| Ok(()) };
    process::finish(process_spec, &last)
}

fn set_oom_score(score: i32) -> Result<()> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Lowering it below one's own needs CAP_SYS_RESOURCE: clamp instead of failing.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        other => other.io_context(|| format!("cannot set oom_score_adj to {score}")),
    }
}

/// Master and slave of a new terminal of the container's own devpts.
fn open_console(root: &Root, console: &Console) -> Result<Option<(OwnedFd, OwnedFd)>> {
    if !matches!(console, Console::Terminal { .. }) {
        return Ok(None);
    }
    terminal_in(root.open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?).map(Some)
}

pub(crate) fn terminal_in(master: OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    let slave = sys_process::terminal_peer(master.as_fd()).context(Kind::Internal, || "cannot open the container's terminal".into())?;
    Ok((master, slave))
}

/// Kernel parameters, through a procfs of this process's own pid namespace that nobody else has
/// touched.
fn write_sysctls(linux: &Linux) -> Result<()> {
    let Some(sysctls) = linux.sysctl().as_ref().filter(|s| !s.is_empty()) else { return Ok(()) };
    let procfs = mount::filesystem("proc", "proc", &[], Attributes::empty())
        .or_else(|_| mount::clone_path("/proc", false))
        .context(Kind::Denied, || "cannot open a procfs to set kernel parameters".into())?;
    for (name, value) in sysctls {
        let path = format!("sys/{}", name.replace('.', "/"));
        write_below(procfs.as_fd(), &path, value).within(|| format!("cannot set kernel parameter `{name}`"))?;
    }
    Ok(())
}

fn write_below(directory: BorrowedFd<'_>, path: &str, value: &str) -> Result<()> {
    let fd = rustix::fs::openat2(
        directory,
        path,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS,
    )
    .io_context(|| format!("open({path})"))?;
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    let magic = rustix::fs::fstatfs(&fd).io_context(|| "fstatfs()".into())?.f_type as u64;
    if magic != PROC_SUPER_MAGIC {
        return Err(Error::new(Kind::Denied, format!("`{path}` is not on a procfs")));
    }
    rustix::io::write(&fd, value.as_bytes()).map(drop).io_context(|| format!("write({path}, {value:?})"))
}
