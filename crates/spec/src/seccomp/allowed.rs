//! What the built-in profile allows.
//!
//! Everything that is not named here fails with EPERM; so do, among others, io_uring, the kernel's
//! keyrings, userfaultfd, and new user namespaces without CAP_SYS_ADMIN.
//!
//! Stricter than Docker's: `socketcall`, through which 32-bit programs reach all socket calls at
//! once, cannot make sockets (a filter cannot see which family it is asked for). C libraries use
//! `socket` itself since Linux 4.3; 32-bit x86 programs in Go do not and need a profile of their own.

use oci_spec::runtime::{Arch, Capability, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator};

use super::profile::{ArchFamily, Filter, Profile, Rule};

/// Allowed whatever the arguments, architecture and capabilities are; names between spaces.
const ALWAYS: &[&str] = &[
    // Files and directories by path or descriptor.
    "access chdir chmod chown chown32 creat dup dup2 dup3 faccessat faccessat2 fchdir fchmod fchmodat \
     fchmodat2 fchown fchown32 fchownat fcntl fcntl64 flock fstat fstat64 fstatat64 fstatfs fstatfs64 \
     getcwd getdents getdents64 ioctl lchown lchown32 link linkat lstat lstat64 mkdir mkdirat mknod \
     mknodat name_to_handle_at newfstatat open openat openat2 close close_range readlink readlinkat \
     rename renameat renameat2 rmdir stat stat64 statfs statfs64 statx symlink symlinkat umask unlink \
     unlinkat futimesat utime utimensat utimensat_time64 utimes listmount statmount",
    // Contents of files.
    "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek \
     copy_file_range fadvise64 fadvise64_64 fallocate ftruncate ftruncate64 truncate truncate64 \
     readahead sendfile sendfile64 splice tee vmsplice sync syncfs sync_file_range fsync fdatasync \
     cachestat io_setup io_submit io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64",
    // Extended attributes.
    "getxattr getxattrat fgetxattr lgetxattr setxattr setxattrat fsetxattr lsetxattr listxattr \
     listxattrat flistxattr llistxattr removexattr removexattrat fremovexattr lremovexattr",
    // Waiting for and watching descriptors.
    "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 \
     epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
     signalfd signalfd4 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark \
     pipe pipe2",
    // Sockets; making one depends on its family, see below.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair",
    // Memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall \
     mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
     pkey_mprotect process_mrelease remap_file_pages",
    // Processes and threads.
    "execve execveat exit exit_group fork vfork wait4 waitid waitpid getpgid getpgrp getpid getppid \
     getsid gettid setpgid setsid kill tgkill tkill pidfd_open pidfd_send_signal prctl rseq \
     set_tid_address get_robust_list set_robust_list get_thread_area set_thread_area futex \
     futex_requeue futex_time64 futex_wait futex_waitv futex_wake restart_syscall uretprobe \
     landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    // Signals.
    "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    // Users, groups and capabilities.
    "capget capset getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups \
     getgroups32 getresuid getresuid32 getresgid getresgid32 setuid setuid32 setgid setgid32 setgroups \
     setgroups32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32 \
     setfsuid setfsuid32 setfsgid setfsgid32",
    // Clocks and timers. `adjtimex` only reads without CAP_SYS_TIME.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer setitimer gettimeofday nanosleep \
     time times timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
     timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Scheduling and limits.
    "getcpu getpriority setpriority getrlimit ugetrlimit setrlimit prlimit64 getrusage ioprio_get \
     ioprio_set sched_getaffinity sched_getattr sched_getparam sched_get_priority_max \
     sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
     sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield",
    // System V and POSIX inter-process communication.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
     semtimedop_time64 shmat shmctl shmdt shmget",
    // The system.
    "getrandom sysinfo uname riscv_hwprobe",
];

/// Allowed on one of some architectures, by Docker's names.
const BY_ARCHITECTURE: &[(&[&str], &[&str])] = &[
    (&["amd64", "x32"], &["arch_prctl"]),
    (&["amd64", "x32", "x86"], &["modify_ldt"]),
    (
        &["arm", "arm64"],
        &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
    ),
    (&["ppc64le"], &["swapcontext", "sync_file_range2"]),
    (&["riscv64"], &["riscv_flush_icache"]),
    (&["s390", "s390x"], &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"]),
];

/// Allowed with a capability.
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::Bpf, &["bpf"]),
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::Perfmon, &["perf_event_open"]),
    (
        Capability::SysAdmin,
        &[
            // Namespaces.
            "clone",
            "clone3",
            "setns",
            "unshare",
            "sethostname",
            "setdomainname",
            // Mounts.
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "umount",
            "umount2",
            "quotactl",
            "quotactl_fd",
            // Looking into the kernel.
            "bpf",
            "fanotify_init",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "perf_event_open",
            "syslog",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::Syslog, &["syslog"]),
];

/// Socket families that Linux has beyond the first twelve and that may be used. Not among them:
/// AF_ALG (38, the kernel's ciphers) and AF_VSOCK (40, a way out of a virtual machine).
const FAMILIES: &[u64] =
    &[13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];

/// Below this number are the families that every Linux has (AF_UNIX, AF_INET, AF_INET6, ...).
const FIRST_FAMILIES: u64 = 12;

/// personality(2): Linux, 32-bit `uname` (PER_LINUX32), both with UNAME26, and the question what it
/// is.
const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Flags of clone(2) for new namespaces: mount, cgroup, UTS, IPC, user, pid, network.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The socketcall(2) number of `socket`.
const SOCKETCALL_SOCKET: u64 = 1;

/// "Function not implemented": what makes C libraries fall back from clone3 to clone, whose flags a
/// filter can see.
const ENOSYS: u32 = 38;

/// "Operation not permitted".
const EPERM: u32 = 1;

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn allow(names: &[&str]) -> Rule {
    Rule {
        name: String::new(),
        names: owned(names),
        action: LinuxSeccompAction::ScmpActAllow,
        errno_ret: None,
        args: Vec::new(),
        includes: Filter::default(),
        excludes: Filter::default(),
    }
}

/// A masked comparison has the mask as its value: (argument & value) == 0.
fn allow_if(name: &str, index: usize, op: LinuxSeccompOperator, value: u64) -> Rule {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(0u64);
    Rule { args: arg.build().into_iter().collect(), ..allow(&[name]) }
}

/// The profile.
pub(super) fn profile() -> Profile {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe};

    let mut rules = vec![allow(&ALWAYS.iter().flat_map(|names| names.split(' ')).collect::<Vec<_>>())];
    // Before 4.8 a traced process could get around a filter.
    rules.push(Rule {
        includes: Filter { min_kernel: Some("4.8".into()), ..Filter::default() },
        ..allow(&["process_vm_readv", "process_vm_writev", "ptrace"])
    });
    rules.push(allow_if("socket", 0, ScmpCmpLt, FIRST_FAMILIES));
    rules.extend(FAMILIES.iter().map(|&family| allow_if("socket", 0, ScmpCmpEq, family)));
    rules.push(allow_if("socketcall", 0, ScmpCmpNe, SOCKETCALL_SOCKET));
    rules.extend(PERSONALITIES.iter().map(|&personality| allow_if("personality", 0, ScmpCmpEq, personality)));
    for (arches, names) in BY_ARCHITECTURE {
        rules.push(Rule { includes: Filter { arches: owned(arches), ..Filter::default() }, ..allow(names) });
    }
    for (capability, names) in BY_CAPABILITY {
        rules
            .push(Rule { includes: Filter { caps: vec![*capability], ..Filter::default() }, ..allow(names) });
    }
    // Without CAP_SYS_ADMIN: threads and processes, but no namespaces. s390 has the flags second.
    let admin = vec![Capability::SysAdmin];
    rules.push(Rule {
        excludes: Filter { caps: admin.clone(), arches: owned(&["s390", "s390x"]), min_kernel: None },
        ..allow_if("clone", 0, ScmpCmpMaskedEq, CLONE_NAMESPACES)
    });
    rules.push(Rule {
        includes: Filter { arches: owned(&["s390", "s390x"]), ..Filter::default() },
        excludes: Filter { caps: admin.clone(), ..Filter::default() },
        ..allow_if("clone", 1, ScmpCmpMaskedEq, CLONE_NAMESPACES)
    });
    rules.push(Rule {
        action: LinuxSeccompAction::ScmpActErrno,
        errno_ret: Some(ENOSYS),
        excludes: Filter { caps: admin, ..Filter::default() },
        ..allow(&["clone3"])
    });

    Profile {
        default_action: LinuxSeccompAction::ScmpActErrno,
        default_errno_ret: Some(EPERM),
        architectures: Vec::new(),
        arch_map: families(),
        flags: Vec::new(),
        listener_path: None,
        listener_metadata: None,
        syscalls: rules,
    }
}

/// Which architectures' programs a kernel runs beside its own.
fn families() -> Vec<ArchFamily> {
    [
        (Arch::ScmpArchX86_64, vec![Arch::ScmpArchX86, Arch::ScmpArchX32]),
        (Arch::ScmpArchX86, vec![]),
        (Arch::ScmpArchAarch64, vec![Arch::ScmpArchArm]),
        (Arch::ScmpArchArm, vec![]),
        (Arch::ScmpArchMips64, vec![Arch::ScmpArchMips, Arch::ScmpArchMips64n32]),
        (Arch::ScmpArchPpc64le, vec![]),
        (Arch::ScmpArchS390x, vec![Arch::ScmpArchS390]),
        (Arch::ScmpArchRiscv64, vec![]),
        (Arch::ScmpArchLoongarch64, vec![]),
    ]
    .into_iter()
    .map(|(architecture, sub_architectures)| ArchFamily { architecture, sub_architectures })
    .collect()
}
