//! The last steps before the program runs: limits, user, rights, the filter, the gate, execve.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxCapabilities, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::{capability, mount, poll, process as sys_process, reaper, seccomp as sys_seccomp};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::init;
use crate::seccomp::Filter;
use crate::sync::{Message, Sync};

/// The search path of a process whose environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What else the last steps need.
pub(crate) struct Last<'a> {
    pub(crate) filter: Option<&'a Filter>,
    /// Descriptors from 3 on that the program inherits.
    pub(crate) preserve_fds: u32,
    /// Whether this process stays, as the init of its pid namespace, and a child becomes the program.
    pub(crate) init: bool,
    pub(crate) sync: &'a Sync,
    /// A listening socket to wait at instead of `sync`.
    pub(crate) gate: Option<BorrowedFd<'a>>,
    /// Runs once the gate is open, before anything of the image does.
    pub(crate) before_program: &'a dyn Fn() -> Result<()>,
}

/// Gives the calling process, whose callers must not drop owners of descriptors any more, the identity and the rights of `process`, waits at the gate and
/// executes the program. Comes back only with a failure.
pub(crate) fn finish(process: &Process, last: &Last<'_>) -> Result<Infallible> {
    let args = process.args().as_deref().unwrap_or_default();
    let Some(name) = args.first() else {
        return Err(Error::invalid("the runtime spec's process has no args"));
    };
    // What is open of the host's would be one `/proc/self/fd/7` away from the working directory.
    let mut keep = vec![last.sync.as_fd().as_raw_fd()];
    keep.extend(last.gate.map(|gate| gate.as_raw_fd()));
    keep.extend((3..3 + last.preserve_fds).map(|number| number as RawFd));
    sys_process::close_all_but(&keep)?;
    set_limits(process)?;
    set_scheduling(process)?;
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !matches!(*p, "" | "unconfined"))
    {
        set_apparmor(profile)?;
    }
    // 0022 is what runc and crun start with.
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));

    // As root first: the directory may be open to root alone, or to the user alone.
    let entered = enter_directory(process.cwd());
    let sets = Sets::of(process.capabilities().as_ref())?;
    let (_, permitted, _) = capability::get()?;
    capability::limit_bounding(sets.bounding)?;
    capability::keep_over_setuid(true)?;
    set_identity(process)?;
    if entered.is_err() {
        enter_directory(process.cwd())?;
    }
    check_directory()?;

    // The filter may forbid what is needed up to here, so it comes as late as it can. Without
    // no_new_privs it needs CAP_SYS_ADMIN, which the program may not have: then the capabilities
    // are dropped behind it, as the one thing that it must allow beside execve.
    let no_new_privs = process.no_new_privileges().unwrap_or(false);
    let admin = capability::bit("CAP_SYS_ADMIN").unwrap_or(0);
    let filter_first = last.filter.is_some() && !no_new_privs && sets.effective & admin == 0;
    if filter_first && permitted & admin == 0 {
        return Err(Error::new(Kind::Denied, "a seccomp filter without no_new_privs needs CAP_SYS_ADMIN"));
    }
    let drop_capabilities = || -> Result<()> {
        capability::keep_over_setuid(false)?;
        capability::set(
            sets.effective & permitted,
            sets.permitted & permitted,
            sets.inheritable & permitted,
        )?;
        capability::set_ambient(sets.ambient & sets.permitted & sets.inheritable & permitted)?;
        Ok(())
    };
    if filter_first {
        // A change of the user id has cleared the effective set.
        capability::set(permitted, permitted, sets.inheritable & permitted)?;
    } else {
        drop_capabilities()?;
    }
    if no_new_privs {
        rustix::thread::set_no_new_privs(true).io_context(|| "cannot set no_new_privs".into())?;
    }
    let env = texts(process.env().as_deref().unwrap_or_default())?;
    let arguments = texts(args)?;
    let programs = find_program(name, process.env().as_deref().unwrap_or_default())?;
    sys_process::close_on_exec_from(3)?;
    for number in 3..3 + last.preserve_fds {
        sys_process::keep_over_exec_number(number as i32)?;
    }

    last.sync.ready()?;
    let go = || -> Result<Infallible> {
        (last.before_program)()?;
        if let Some(filter) = last.filter {
            sys_seccomp::install(&filter.program, filter.flags)
                .map_err(Error::from)
                .within(|| "cannot install the seccomp filter".into())?;
        }
        if filter_first {
            drop_capabilities()?;
        }
        if last.init {
            become_init()?;
        }
        // As execvp(3) does: one that may not be executed does not hide another one.
        let mut errno = Errno::NOENT;
        for program in &programs {
            errno = sys_process::execute(program, &arguments, &env).errno();
            if errno != Errno::ACCESS {
                break;
            }
        }
        Err(cannot_execute(name, errno))
    };
    let Some(gate) = last.gate else {
        return match last.sync.receive()? {
            Message::Go => go(),
            // Whoever should have started the program is gone; there is nobody to tell.
            _ => poll::exit_now(0),
        };
    };
    let starter = init::wait_at(gate)?;
    match go() {
        Ok(never) => match never {},
        Err(error) => starter.failed(&error),
    }
    poll::exit_now(1)
}

/// The calling process becomes the init of its pid namespace for good; only its new child returns.
fn become_init() -> Result<()> {
    match poll::fork().map_err(Error::from).within(|| "cannot run an init process".into())? {
        poll::Fork::Child => {
            reaper::lead_terminal();
            Ok(())
        }
        poll::Fork::Parent(child) => {
            // The engine waits until nobody has its socket any more: the child alone decides that.
            let _ = sys_process::close_all_but(&[]);
            let _ = rustix::thread::set_name(c"init");
            reaper::serve(child)
        }
    }
}

fn texts(list: &[String]) -> Result<Vec<CString>> {
    list.iter()
        .map(|text| {
            CString::new(text.as_bytes())
                .map_err(|_| Error::invalid("an argument or variable contains a NUL byte"))
        })
        .collect()
}

/// In the words that Docker's users know.
fn cannot_execute(name: &str, errno: Errno) -> Error {
    let (kind, reason) = match errno {
        Errno::NOENT => (Kind::CommandNotFound, "no such file or directory".to_owned()),
        Errno::NOTDIR => (Kind::CommandNotFound, "not a directory".to_owned()),
        Errno::ACCESS | Errno::PERM => (Kind::CommandNotExecutable, "permission denied".to_owned()),
        Errno::NOEXEC => (Kind::CommandNotExecutable, "exec format error".to_owned()),
        // With the words by which Docker knows that it has to exit with 126.
        Errno::ISDIR => (Kind::CommandNotExecutable, "is a directory: permission denied".to_owned()),
        _ => (Kind::CommandNotExecutable, robot_env_sys::errno_name(errno)),
    };
    Error::new(kind, format!("exec: {name:?}: {reason}"))
}

/// The paths that the program `name` may have: itself if it has a slash, else the files of that
/// name below the directories of `PATH`.
fn find_program(name: &str, env: &[String]) -> Result<Vec<CString>> {
    let c_text = |path: &[u8]| {
        CString::new(path).map_err(|_| Error::invalid("the program's name contains a NUL byte"))
    };
    if name.contains('/') {
        return match rustix::fs::stat(name) {
            Ok(meta) if FileType::from_raw_mode(meta.st_mode) == FileType::Directory => {
                Err(cannot_execute(name, Errno::ISDIR))
            }
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => Err(cannot_execute(name, errno)),
            // With the rights that the program will have it may well be reachable: execve decides.
            _ => Ok(vec![c_text(name.as_bytes())?]),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut found = Vec::new();
    for directory in path.split(':').filter(|_| !name.is_empty()) {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        let is_file = rustix::fs::stat(&candidate)
            .is_ok_and(|meta| FileType::from_raw_mode(meta.st_mode) != FileType::Directory);
        if is_file {
            found.push(c_text(OsStr::as_bytes(candidate.as_os_str()))?);
        }
    }
    if found.is_empty() {
        return Err(Error::new(
            Kind::CommandNotFound,
            format!("exec: {name:?}: executable file not found in $PATH"),
        ));
    }
    Ok(found)
}

fn set_limits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        let number = sys_process::limit_number(&name)
            .ok_or_else(|| Error::invalid(format!("unknown resource limit `{name}`")))?;
        sys_process::set_limit(number, limit.soft(), limit.hard())
            .map_err(Error::from)
            .within(|| format!("cannot set limit `{name}`"))?;
    }
    Ok(())
}

fn set_scheduling(process: &Process) -> Result<()> {
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        sys_process::set_io_priority(class, priority.priority() as u32)
            .map_err(Error::from)
            .within(|| "cannot set the I/O priority".into())?;
    }
    let Some(scheduler) = process.scheduler() else { return Ok(()) };
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let request = sys_process::Scheduling {
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0) as u32,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    };
    sys_process::set_scheduling(&request)
        .map_err(Error::from)
        .within(|| "cannot set the scheduling policy".into())
}

/// Asks AppArmor to confine what is executed next. The attribute is reached through a procfs of our
/// own, which nothing of the image can have replaced.
fn set_apparmor(profile: &str) -> Result<()> {
    let procfs = mount::procfs().map_err(Error::from).within(|| "cannot open a procfs".into())?;
    let value = format!("exec {profile}");
    let mut result = Err(Errno::NOENT);
    for path in ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"] {
        result = rustix::fs::openat(&procfs, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| rustix::io::write(&fd, value.as_bytes()).map(drop));
        if result != Err(Errno::NOENT) {
            break;
        }
    }
    result.io_context(|| format!("cannot use AppArmor profile `{profile}`"))
}

fn enter_directory(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    rustix::process::chdir(path).io_context(|| format!("cannot enter working directory `{}`", path.display()))
}

/// A descriptor of the host that leaked could have made the working directory one outside of the
/// container (`/proc/self/fd/7`, CVE-2024-21626): the kernel then has no path for it.
fn check_directory() -> Result<()> {
    let inside = rustix::process::getcwd(Vec::new()).is_ok_and(|path| path.to_bytes().starts_with(b"/"));
    if inside {
        Ok(())
    } else {
        Err(Error::new(Kind::Denied, "the working directory is outside of the container"))
    }
}

fn set_identity(process: &Process) -> Result<()> {
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    let denied =
        || std::fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() == "deny");
    match sys_process::set_groups(&groups) {
        Ok(()) => {}
        // A user namespace of one id without setgroups keeps the caller's groups: there is no way
        // to drop them, and none to get others.
        Err(error) if error.errno() == Errno::PERM && denied() => {}
        Err(error) => return Err(Error::from(error).within(format!("cannot join groups {groups:?}"))),
    }
    sys_process::set_group(user.gid())
        .map_err(Error::from)
        .within(|| format!("cannot become group {}", user.gid()))?;
    sys_process::set_user(user.uid())
        .map_err(Error::from)
        .within(|| format!("cannot become user {}", user.uid()))
}

/// The capability sets of a process, as bits.
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    fn of(capabilities: Option<&LinuxCapabilities>) -> Result<Sets> {
        let bits = |set: &Option<Capabilities>| -> Result<u64> {
            let mut bits = 0;
            for capability in set.iter().flatten() {
                let text = capability.to_string();
                let name = format!("CAP_{}", text.strip_prefix("CAP_").unwrap_or(&text));
                bits |= capability::bit(&name)
                    .ok_or_else(|| Error::invalid(format!("unknown capability `{name}`")))?;
            }
            Ok(bits)
        };
        let Some(c) = capabilities else {
            return Ok(Sets { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 });
        };
        Ok(Sets {
            bounding: bits(c.bounding())?,
            effective: bits(c.effective())?,
            permitted: bits(c.permitted())?,
            inheritable: bits(c.inheritable())?,
            ambient: bits(c.ambient())?,
        })
    }
}
