//! Processes: clone3, pidfds, signals, limits, hygiene before exec.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::{CallError, CallResult};

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What a cloned process is to the caller.
pub enum Cloned {
    /// The caller is the parent of this process.
    Parent {
        /// Its pid.
        pid: i32,
        /// A descriptor of it.
        pidfd: OwnedFd,
    },
    /// The caller is the new process.
    Child,
}

/// How a process is cloned.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneRequest<'a> {
    /// New namespaces, `CLONE_NEW*`.
    pub namespaces: libc::c_int,
    /// A version 2 cgroup directory that the process is born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether the new process is a sibling: a child of the caller's parent.
    pub sibling: bool,
}

/// Fails with EBUSY when the caller has more than one thread: a process that is copied from one of
/// them could hang on a lock that another one held.
pub(crate) fn single_threaded(call: &str) -> CallResult<()> {
    // A directory has two links and one for each directory in it.
    let links = std::fs::metadata("/proc/self/task").map_or(3, |m| std::os::unix::fs::MetadataExt::nlink(&m));
    if links > 3 {
        return Err(CallError::new(format!("{call} with {} threads", links - 2), Errno::BUSY));
    }
    Ok(())
}

/// How many threads the calling process has.
#[derive(Clone, Copy, Debug)]
pub struct Threads(u64);

impl Threads {
    fn links() -> u64 {
        std::fs::metadata("/proc/self/task").map_or(0, |m| std::os::unix::fs::MetadataExt::nlink(&m))
    }

    /// As many as there are now.
    pub fn now() -> Threads {
        Threads(Threads::links())
    }

    /// Waits until those that were started since, and have been joined, are gone for the kernel, too:
    /// a moment later than for the C library. [`clone`] would refuse until then.
    pub fn await_return(self) {
        for _ in 0..5000 {
            if Threads::links() <= self.0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    }
}

/// Clones a single-threaded process by clone3, like fork.
///
/// # Errors
/// EBUSY when the process has more than one thread: the child could hang on a lock that another
/// thread held.
pub fn clone(request: &CloneRequest<'_>) -> CallResult<Cloned> {
    single_threaded("clone3()")?;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero clone_args is valid: a plain fork.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = request.namespaces as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if request.sibling {
        args.flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
    }
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM and no stack: the child gets a copy of everything and, as the process has one thread (checked above), may use all of it.
    let rc = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match rc {
        0 => Ok(Cloned::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel has stored a new descriptor there that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
        _ => match last_errno() {
            // A filter around this program (an old Docker's) answers so.
            Errno::NOSYS => clone_by_flags(request),
            errno => Err(CallError::new(format!("clone3(flags={:#x})", args.flags), errno)),
        },
    }
}

/// The same by clone(2). The new process moves itself into its cgroup, before anything else.
fn clone_by_flags(request: &CloneRequest<'_>) -> CallResult<Cloned> {
    let mut flags = request.namespaces | libc::CLONE_PIDFD;
    flags |= if request.sibling { libc::CLONE_PARENT } else { libc::SIGCHLD };
    let mut pidfd: RawFd = -1;
    // SAFETY: as in `clone`: no CLONE_VM and no stack, one thread. The third argument is where CLONE_PIDFD
    // stores; the last two, whose order differs between architectures, are 0.
    let rc = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    match rc {
        0 => {
            if let Some(cgroup) = request.cgroup {
                use rustix::fs::{Mode, OFlags};
                let file = rustix::fs::openat(
                    cgroup,
                    "cgroup.procs",
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                );
                if !file.is_ok_and(|file| rustix::io::write(&file, b"0").is_ok()) {
                    crate::poll::exit_now(125);
                }
            }
            Ok(Cloned::Child)
        }
        pid if pid > 0 => {
            // SAFETY: the kernel has stored a new descriptor there that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
        _ => Err(CallError::new(format!("clone(flags={flags:#x})"), last_errno())),
    }
}

/// Opens a descriptor of a process.
pub fn pidfd_open(pid: i32) -> CallResult<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(CallError::new(format!("pidfd_open({pid})"), last_errno()));
    }
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The pid of the process behind a pidfd, in the caller's pid namespace.
///
/// # Errors
/// ESRCH when it has ended and was reaped, or is not in that namespace.
pub fn pid_of(pidfd: impl AsFd) -> CallResult<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).map_err(|error| {
        CallError::new(format!("read({path})"), Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| CallError::new(format!("read({path}): no pid"), Errno::SRCH))
}

/// Sends a signal to the process behind a pidfd.
pub fn signal(pidfd: impl AsFd, signal: i32) -> CallResult<()> {
    // SAFETY: takes numbers and a null pointer for "as kill does".
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<u8>(),
            0,
        )
    };
    if rc < 0 { Err(CallError::new(format!("pidfd_send_signal({signal})"), last_errno())) } else { Ok(()) }
}

/// How a process ended, as a shell would say it: its exit code, or 128 + n for signal n.
pub fn wait(pidfd: impl AsFd) -> CallResult<i32> {
    loop {
        // SAFETY: an all-zero siginfo_t is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for writing; the descriptor is open. __WALL also takes children
        // that were cloned without an exit signal.
        let rc = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                pidfd.as_fd().as_raw_fd() as libc::id_t,
                &raw mut info,
                libc::WEXITED | libc::__WALL,
            )
        };
        if rc < 0 {
            match last_errno() {
                Errno::INTR => continue,
                errno => return Err(CallError::new("waitid(P_PIDFD)", errno)),
            }
        }
        // SAFETY: waitid succeeded, so the SIGCHLD fields are filled.
        let status = unsafe { info.si_status() };
        return Ok(if info.si_code == libc::CLD_EXITED { status } else { 128 + status });
    }
}

/// Reaps every child that has ended, but not the one with the pid `except`.
pub fn reap_others(except: i32) {
    loop {
        // SAFETY: an all-zero siginfo_t is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for writing; WNOWAIT leaves the child for the call below.
        let rc = unsafe {
            libc::waitid(
                libc::P_ALL,
                0,
                &raw mut info,
                libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL,
            )
        };
        // SAFETY: waitid succeeded or left the zeroed value.
        let pid = unsafe { info.si_pid() };
        if rc < 0 || pid == 0 || pid == except {
            return;
        }
        // SAFETY: a null status pointer is allowed; the pid is a child that has ended.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
    }
}

/// Makes the caller the reaper of orphans below it.
pub fn become_subreaper() -> CallResult<()> {
    // SAFETY: plain numbers.
    let rc = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if rc < 0 { Err(CallError::new("prctl(PR_SET_CHILD_SUBREAPER)", last_errno())) } else { Ok(()) }
}

/// Hides the caller from ptrace and `/proc/PID/{exe,fd,...}` of processes without CAP_SYS_PTRACE,
/// until the next exec.
pub fn set_undumpable() -> CallResult<()> {
    // SAFETY: plain numbers.
    let rc = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if rc < 0 { Err(CallError::new("prctl(PR_SET_DUMPABLE, 0)", last_errno())) } else { Ok(()) }
}

/// Clock ticks after boot at which a process started (`/proc/PID/stat`, field 22): with the pid it
/// names a process for good.
pub fn start_time(pid: i32) -> Option<u64> {
    let text = crate::fs::kernel_text(format!("/proc/{pid}/stat")).ok()?;
    // The command name may contain anything; the fields begin behind its last parenthesis.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a process has ended and waits for its parent to take notice; false for one that is gone.
pub fn is_zombie(pid: i32) -> bool {
    let text = crate::fs::kernel_text(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> CallResult<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only sets flags of descriptors.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if rc == 0 {
        return Ok(());
    }
    // Kernels before 5.11 know the call without the flag.
    let entries =
        std::fs::read_dir("/proc/self/fd").map_err(|_| CallError::new("close_range()", last_errno()))?;
    for fd in entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<RawFd>().ok())
        .filter(|fd| *fd >= first as RawFd)
    {
        // SAFETY: sets a flag; a descriptor that has been closed meanwhile only makes it fail.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Closes every descriptor from 3 on except `keep`, in a cloned child that never returns to its
/// caller: whatever the parent had open must not be reachable through the child.
///
/// Owners of the closed descriptors in this process must never be dropped: the child may only
/// execute a program or end by [`crate::poll::exit_now`].
pub fn close_all_but(keep: &[RawFd]) -> CallResult<()> {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd >= 3).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for end in keep.into_iter().map(Some).chain([None]) {
        let last = end.map_or(libc::c_uint::MAX, |fd| fd.wrapping_sub(1));
        if end.is_none_or(|fd| fd > first) {
            close_range(first, last)?;
        }
        first = end.map_or(first, |fd| fd + 1);
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> CallResult<()> {
    // SAFETY: plain numbers; see the contract of `close_all_but`.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if rc == 0 {
        return Ok(());
    }
    match last_errno() {
        // Kernels before 5.9.
        Errno::NOSYS => {
            let entries = std::fs::read_dir("/proc/self/fd")
                .map_err(|_| CallError::new("close_range()", last_errno()))?;
            let numbers: Vec<u32> =
                entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
            for fd in numbers.into_iter().filter(|fd| (first..=last).contains(fd)) {
                // SAFETY: see the contract of `close_all_but`; the directory's own is closed already.
                unsafe { libc::close(fd as RawFd) };
            }
            Ok(())
        }
        errno => Err(CallError::new(format!("close_range({first}, {last})"), errno)),
    }
}

/// Lets a descriptor survive the next exec.
pub fn keep_over_exec(fd: BorrowedFd<'_>) -> CallResult<()> {
    // SAFETY: sets a flag of an open descriptor.
    let rc = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    if rc < 0 { Err(CallError::new("fcntl(F_SETFD, 0)", last_errno())) } else { Ok(()) }
}

/// Lets the descriptor `number`, which the caller has only by number, survive the next exec.
///
/// # Errors
/// EBADF when it is not open.
pub fn keep_over_exec_number(number: RawFd) -> CallResult<()> {
    // SAFETY: sets a flag; a number that is not open only makes the call fail.
    let rc = unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
    if rc < 0 { Err(CallError::new(format!("fcntl({number}, F_SETFD, 0)"), last_errno())) } else { Ok(()) }
}

/// Takes over a descriptor that this process was executed with, by number, and marks it
/// close-on-exec.
///
/// # Errors
/// EBADF when it is not open. Descriptors that this process opened itself must not be named: they
/// have their owners.
pub fn take_descriptor(number: RawFd) -> CallResult<OwnedFd> {
    // SAFETY: sets a flag; a number that is not open only makes the call fail.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(CallError::new(format!("fcntl({number}, F_SETFD)"), last_errno()));
    }
    // SAFETY: it is open, and the caller says that nobody in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What [`spawn`] starts.
pub struct SpawnRequest<'a> {
    /// The program's path; `/proc/self/fd/N` will do.
    pub program: &'a CStr,
    /// Its arguments, the first of which is its name.
    pub args: &'a [CString],
    /// Its environment.
    pub env: &'a [CString],
    /// What its three standard streams are.
    pub stdio: BorrowedFd<'a>,
    /// Further descriptors that it inherits, by the same numbers. All others close, even those that
    /// the caller inherited without the close-on-exec mark.
    pub keep: &'a [BorrowedFd<'a>],
}

/// Starts a program without copying the caller's memory (posix_spawn(3)): the caller waits until the
/// program is executed. Signals that the caller ignores or blocks stay so. The caller reaps it, or
/// leaves that to its own reaper.
pub fn spawn(request: &SpawnRequest<'_>) -> CallResult<i32> {
    let what = || format!("posix_spawn({})", request.program.to_string_lossy());
    let check = |code: libc::c_int| match code {
        0 => Ok(()),
        code => Err(CallError::new(what(), Errno::from_raw_os_error(code))),
    };
    close_on_exec_from(3)?;
    let (args, env) = (pointers(request.args), pointers(request.env));
    let mut actions = std::mem::MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    // SAFETY: initialises `actions`.
    check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
    let null = request.stdio.as_raw_fd();
    let pairs = (0..3).map(|target| (null, target));
    let kept = request.keep.iter().map(|fd| (fd.as_raw_fd(), fd.as_raw_fd()));
    let mut done = Ok(());
    for (from, to) in pairs.chain(kept) {
        // SAFETY: `actions` was initialised. A pair of equal numbers clears the close-on-exec mark.
        done = done
            .and(check(unsafe { libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), from, to) }));
    }
    let mut pid = 0;
    let done = done.and_then(|()| {
        // SAFETY: `actions` was initialised, both arrays end with a null pointer, and everything
        // outlives the call, which returns only after the program was executed or has failed to be.
        check(unsafe {
            libc::posix_spawn(
                &raw mut pid,
                request.program.as_ptr(),
                actions.as_ptr(),
                std::ptr::null(),
                args.as_ptr().cast(),
                env.as_ptr().cast(),
            )
        })
    });
    // SAFETY: initialised above and used no more.
    unsafe { libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr()) };
    done.map(|()| pid)
}

/// Sets the calling process's I/O priority: class 1 real-time, 2 best effort, 3 idle; `level` 0 to 7.
pub fn set_io_priority(class: u32, level: u32) -> CallResult<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain numbers; 0 is the caller.
    let rc = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, (class << 13) | (level & 0x1fff)) };
    if rc < 0 { Err(CallError::new(format!("ioprio_set({class}, {level})"), last_errno())) } else { Ok(()) }
}

/// A scheduling policy with its parameters, as sched_setattr(2) takes them; times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// SCHED_OTHER 0, FIFO 1, RR 2, BATCH 3, IDLE 5, DEADLINE 6.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// For OTHER and BATCH.
    pub nice: i32,
    /// For FIFO and RR.
    pub priority: u32,
    /// For DEADLINE.
    pub runtime: u64,
    /// For DEADLINE.
    pub deadline: u64,
    /// For DEADLINE.
    pub period: u64,
}

/// Sets the calling thread's scheduling policy.
pub fn set_scheduling(request: &Scheduling) -> CallResult<()> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: request.policy,
        flags: request.flags,
        nice: request.nice,
        priority: request.priority,
        runtime: request.runtime,
        deadline: request.deadline,
        period: request.period,
    };
    // SAFETY: `attr` has the layout of version 0 of sched_attr and says its size; 0 is the caller.
    let rc = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if rc < 0 { Err(CallError::new(format!("sched_setattr({request:?})"), last_errno())) } else { Ok(()) }
}

/// Sets the execution domain of the calling process (personality(2)).
pub fn set_personality(domain: u64) -> CallResult<()> {
    // SAFETY: plain number.
    let rc = unsafe { libc::personality(domain as libc::c_ulong) };
    if rc < 0 { Err(CallError::new(format!("personality({domain:#x})"), last_errno())) } else { Ok(()) }
}

/// Gives the calling process the lowest ordinary priority, for good.
pub fn yield_to_others() {
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Gives freed heap memory back to the kernel (malloc_trim(3)).
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; safe at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sets every signal to its default and unblocks all: what a program expects at its start.
pub fn reset_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is always valid; numbers that cannot be set only make it fail.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is then initialised by sigemptyset.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` is valid; the old mask is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Lets a write to a pipe or socket that nobody reads fail with EPIPE instead of killing the caller.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is always valid.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Replaces this program. Returns only if that fails.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> CallError {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their texts outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    CallError::new(format!("execve({})", path.to_string_lossy()), last_errno())
}

/// Replaces this program by the one behind a descriptor. Returns only if that fails.
pub fn execute_fd(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> CallError {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: the path is an empty C string, both arrays end with a null pointer, and their texts
    // outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    CallError::new("execveat()", last_errno())
}

/// Starts a new session.
pub fn new_session() -> CallResult<()> {
    // SAFETY: no arguments.
    if unsafe { libc::setsid() } < 0 { Err(CallError::new("setsid()", last_errno())) } else { Ok(()) }
}

/// Makes a terminal the controlling one of this session.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> CallResult<()> {
    // SAFETY: TIOCSCTTY takes a number.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) };
    if rc < 0 { Err(CallError::new("ioctl(TIOCSCTTY)", last_errno())) } else { Ok(()) }
}

/// Opens the other side of a pseudo-terminal's master without a path (TIOCGPTPEER).
pub fn terminal_peer(master: BorrowedFd<'_>) -> CallResult<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let rc = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    if rc < 0 {
        return Err(CallError::new("ioctl(TIOCSPTLCK, 0)", last_errno()));
    }
    // SAFETY: TIOCGPTPEER takes open flags as a number.
    let fd = unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    };
    if fd < 0 {
        return Err(CallError::new("ioctl(TIOCGPTPEER)", last_errno()));
    }
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Numbers of resource limits by the names of the OCI runtime spec (`RLIMIT_NOFILE`).
pub fn limit_number(name: &str) -> Option<u32> {
    Some(match name {
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        _ => return None,
    })
}

/// Sets a resource limit. Where the hard limit may not be raised, both are clamped to it.
pub fn set_limit(number: u32, soft: u64, hard: u64) -> CallResult<()> {
    let set = |soft: u64, hard: u64| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: `limit` is valid for reading; an unknown number only makes the call fail.
        if unsafe { libc::setrlimit(number as _, &raw const limit) } < 0 { Err(last_errno()) } else { Ok(()) }
    };
    match set(soft, hard) {
        Err(Errno::PERM) => {
            let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `now` is valid for writing.
            unsafe { libc::getrlimit(number as _, &raw mut now) };
            set(soft.min(now.rlim_max), hard.min(now.rlim_max))
        }
        other => other,
    }
    .map_err(|errno| CallError::new(format!("setrlimit({number}, {soft}, {hard})"), errno))
}

/// Sets all three user ids.
pub fn set_user(uid: u32) -> CallResult<()> {
    // SAFETY: the process is single-threaded where this is used; plain numbers.
    let rc = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    if rc < 0 { Err(CallError::new(format!("setresuid({uid})"), last_errno())) } else { Ok(()) }
}

/// Sets all three group ids.
pub fn set_group(gid: u32) -> CallResult<()> {
    // SAFETY: as in `set_user`.
    let rc = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    if rc < 0 { Err(CallError::new(format!("setresgid({gid})"), last_errno())) } else { Ok(()) }
}

/// Whose the files are that the calling thread makes from now on (setfsuid(2), setfsgid(2)). Its
/// effective capabilities stay.
pub fn set_file_owner(uid: u32, gid: u32) -> CallResult<()> {
    let (effective, permitted, inheritable) = crate::capability::get()?;
    // SAFETY: plain numbers; both calls change the calling thread only.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
    // Leaving 0 takes the rights over files away.
    crate::capability::set(effective, permitted, inheritable)?;
    // SAFETY: an id that cannot be changes nothing; the calls return the one there was.
    let user = unsafe { libc::setfsuid(u32::MAX) };
    // SAFETY: as above.
    let group = unsafe { libc::setfsgid(u32::MAX) };
    if (user as u32, group as u32) == (uid, gid) {
        Ok(())
    } else {
        Err(CallError::new(format!("setfsuid({uid}), setfsgid({gid})"), Errno::PERM))
    }
}

/// Sets the supplementary groups.
pub fn set_groups(groups: &[u32]) -> CallResult<()> {
    // SAFETY: the pointer and length describe `groups`; gid_t is u32.
    let rc = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if rc < 0 { Err(CallError::new(format!("setgroups({groups:?})"), last_errno())) } else { Ok(()) }
}

/// Signals by name, without `SIG`; numbers of the generic ABI (x86, arm, riscv).
const SIGNALS: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads a signal: `TERM`, `SIGTERM`, `15`, `RTMIN`, `RTMIN+3`, `RTMAX-1`; any case.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    // Docker counts real-time signals as the C library shows them: 34 to 64.
    let (base, rest, sign) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (34, rest, '+'),
        (_, Some(rest)) => (64, rest, '-'),
        _ => return None,
    };
    let offset: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix(sign)?.parse().ok()? };
    let number = if sign == '+' { base + offset } else { base - offset };
    (34..=64).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, want) in [
            ("TERM", Some(15)),
            ("sigterm", Some(15)),
            ("9", Some(9)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX+1", None),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIG", None),
            ("NOPE", None),
        ] {
            assert_eq!(parse_signal(text), want, "{text}");
        }
    }

    #[test]
    fn the_start_time_names_a_process() {
        assert!(start_time(std::process::id() as i32).is_some());
        assert_eq!(start_time(-1), None);
    }
}
