//! System call filters: the built-in profile and profiles of the user's.
//!
//! A *profile* says what is allowed depending on the architecture, the capabilities and the
//! kernel; [`resolve`] decides those conditions and gives what the OCI runtime spec has, a list of
//! rules. A profile's JSON is either Docker's form (conditions, `archMap`) or the OCI's own
//! (`linux.seccomp`), which is the same without conditions.
//!
//! The facts of the built-in profile, which calls are allowed under what condition, follow Docker's
//! default (moby/profiles, `seccomp/default.json`, as of 2026); `allowed` arranges them by what they
//! are for, and says where it is stricter.

mod allowed;
mod profile;

use oci_spec::runtime::{Capabilities, LinuxSeccomp};
use robot_env_diag::{Context, Kind, Result};

/// The built-in profile, for a container with `capabilities` as its bounding set.
///
/// `architecture` is Rust's name of it (`x86_64`), `kernel` is (major, minor).
///
/// # Errors
/// `Unsupported` for an architecture that seccomp has no name for.
pub fn default_filter(
    architecture: &str,
    capabilities: &Capabilities,
    kernel: (u32, u32),
) -> Result<LinuxSeccomp> {
    allowed::profile().resolve(architecture, capabilities, kernel)
}

/// A profile's JSON, in Docker's or the OCI's form, for a container with `capabilities` as its
/// bounding set.
///
/// # Errors
/// `InvalidInput` for a profile that does not parse or contradicts itself, `Unsupported` for an
/// architecture that seccomp has no name for.
pub fn resolve(
    json: &str,
    architecture: &str,
    capabilities: &Capabilities,
    kernel: (u32, u32),
) -> Result<LinuxSeccomp> {
    let profile: profile::Profile = serde_json::from_str(json)
        .context(Kind::InvalidInput, || "cannot read the seccomp profile".into())?;
    profile.resolve(architecture, capabilities, kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSyscall};

    fn capabilities(names: &[&str]) -> Capabilities {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn rules<'a>(filter: &'a LinuxSeccomp, name: &str) -> Vec<&'a LinuxSyscall> {
        filter.syscalls().iter().flatten().filter(|rule| rule.names().iter().any(|n| n == name)).collect()
    }

    fn allowed_always(filter: &LinuxSeccomp, name: &str) -> bool {
        rules(filter, name)
            .iter()
            .any(|r| r.action() == LinuxSeccompAction::ScmpActAllow && r.args().is_none())
    }

    const KERNEL: (u32, u32) = (6, 18);

    /// Whether the first argument may be `value`.
    fn allows_argument(filter: &LinuxSeccomp, name: &str, value: u64) -> bool {
        use oci_spec::runtime::LinuxSeccompOperator::*;
        let fits = |rule: &&LinuxSyscall| {
            rule.args().iter().flatten().all(|arg| match arg.op() {
                ScmpCmpLt => value < arg.value(),
                ScmpCmpEq => value == arg.value(),
                ScmpCmpNe => value != arg.value(),
                ScmpCmpMaskedEq => value & arg.value() == arg.value_two().unwrap_or(0),
                other => panic!("{other:?} is not used"),
            })
        };
        rules(filter, name).iter().filter(|r| r.action() == LinuxSeccompAction::ScmpActAllow).any(fits)
    }

    #[test]
    fn the_built_in_filter_denies_what_it_promises_to() {
        // Nothing of this comes back with any capability but those that are named below.
        let many = capabilities(&["NET_ADMIN", "NET_RAW", "MKNOD", "SYS_RAWIO", "SYS_NICE"]);
        for capabilities in [Capabilities::new(), many] {
            let filter = default_filter("x86_64", &capabilities, KERNEL).unwrap();
            assert_eq!(filter.default_action(), LinuxSeccompAction::ScmpActErrno);
            assert_eq!(filter.default_errno_ret(), Some(1));
            for name in [
                "io_uring_setup",
                "io_uring_enter",
                "io_uring_register",
                "keyctl",
                "add_key",
                "request_key",
                "userfaultfd",
                "unshare",
                "setns",
                "mount",
                "umount2",
                "pivot_root",
                "kexec_load",
                "init_module",
                "bpf",
                "perf_event_open",
                "open_by_handle_at",
                "reboot",
                "swapon",
                "syslog",
                "clock_settime",
                "acct",
                "chroot",
                "nfsservctl",
                "fsopen",
            ] {
                assert!(rules(&filter, name).is_empty(), "{name}");
            }
            for (family, want) in [
                (1, true),
                (2, true),
                (10, true),
                (16, true),
                (17, true),
                (29, true),
                (38, false),
                (40, false),
                (12, false),
                (46, false),
            ] {
                assert_eq!(allows_argument(&filter, "socket", family), want, "family {family}");
            }
            assert!(!allows_argument(&filter, "socketcall", 1));
            assert!(allows_argument(&filter, "socketcall", 3));
            for (flags, want) in [
                (0x0001_1200, true),
                (0x1000_0000, false),
                (0x0002_0000, false),
                (0x4000_0011, false),
                (0x0200_0000, false),
            ] {
                assert_eq!(allows_argument(&filter, "clone", flags), want, "clone {flags:#x}");
            }
            for (personality, want) in [(0, true), (0xffff_ffff, true), (0x0004_0000, false)] {
                assert_eq!(
                    allows_argument(&filter, "personality", personality),
                    want,
                    "personality {personality:#x}"
                );
            }
            let clone3 = rules(&filter, "clone3");
            assert_eq!(clone3.len(), 1);
            assert_eq!(
                (clone3[0].action(), clone3[0].errno_ret()),
                (LinuxSeccompAction::ScmpActErrno, Some(38))
            );
        }
    }

    #[test]
    fn the_built_in_filter_allows_what_programs_need() {
        let filter = default_filter("x86_64", &Capabilities::new(), KERNEL).unwrap();
        for name in [
            "read",
            "openat",
            "openat2",
            "execve",
            "futex",
            "mmap",
            "rseq",
            "clock_gettime",
            "epoll_pwait2",
            "statx",
            "ptrace",
            "sched_setattr",
            "mlockall",
            "memfd_create",
            "arch_prctl",
            "modify_ldt",
            "fchmodat2",
            "futex_waitv",
            "close_range",
        ] {
            assert!(allowed_always(&filter, name), "{name}");
        }
        let mut names: Vec<&String> = filter
            .syscalls()
            .iter()
            .flatten()
            .filter(|r| r.args().is_none())
            .flat_map(oci_spec::runtime::LinuxSyscall::names)
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "each is named once");
    }

    #[test]
    fn capabilities_architecture_and_kernel_decide_conditions() {
        type Words = &'static [&'static str];
        type Case = (&'static str, Words, (u32, u32), &'static str, bool);
        let cases: [Case; 16] = [
            ("x86_64", &["SYS_ADMIN"], KERNEL, "mount", true),
            ("x86_64", &["SYS_ADMIN"], KERNEL, "clone3", true),
            ("x86_64", &["SYS_ADMIN"], KERNEL, "io_uring_setup", false),
            ("x86_64", &["SYS_ADMIN"], KERNEL, "userfaultfd", false),
            ("x86_64", &["SYS_CHROOT"], KERNEL, "chroot", true),
            ("x86_64", &["SYS_PTRACE"], (4, 4), "ptrace", true),
            ("x86_64", &[], (4, 4), "ptrace", false),
            ("x86_64", &[], (4, 8), "ptrace", true),
            ("x86_64", &["BPF"], KERNEL, "bpf", true),
            ("x86_64", &["PERFMON"], KERNEL, "perf_event_open", true),
            ("x86_64", &["SYSLOG"], KERNEL, "syslog", true),
            ("aarch64", &[], KERNEL, "arch_prctl", false),
            ("aarch64", &[], KERNEL, "sync_file_range2", true),
            ("x86_64", &[], KERNEL, "sync_file_range2", false),
            ("riscv64", &[], KERNEL, "riscv_flush_icache", true),
            ("x86_64", &["DAC_READ_SEARCH"], KERNEL, "open_by_handle_at", true),
        ];
        for (architecture, names, kernel, call, want) in cases {
            let filter = default_filter(architecture, &capabilities(names), kernel).unwrap();
            assert_eq!(allowed_always(&filter, call), want, "{architecture} {names:?} {kernel:?} {call}");
        }
        let filter = default_filter("aarch64", &Capabilities::new(), KERNEL).unwrap();
        assert_eq!(filter.architectures().as_deref(), Some(&[Arch::ScmpArchAarch64, Arch::ScmpArchArm][..]));
        assert!(default_filter("vax", &Capabilities::new(), KERNEL).is_err());
        // s390 has clone's flags in its second argument.
        let filter = default_filter("s390x", &Capabilities::new(), KERNEL).unwrap();
        let clone = rules(&filter, "clone");
        assert_eq!(clone.len(), 1);
        assert_eq!(clone[0].args().as_ref().unwrap()[0].index(), 1);
    }

    #[test]
    fn profiles_in_docker_s_form() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
                       {"architecture":"SCMP_ARCH_RISCV64","subArchitectures":null}],
            "flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[
              {"names":["a"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{}},
              {"name":"b","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_KILL","CAP_CHOWN"]}},
              {"names":["c"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_KILL","CAP_SYS_ADMIN"]}},
              {"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64"],"minKernel":"5.0"}},
              {"names":["e"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["amd64"]}},
              {"names":["f"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"5.0"}},
              {"names":["g"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"args":[{"index":1,"value":2,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let names = |architecture: &str, names: &[&str], kernel| {
            let filter = resolve(json, architecture, &capabilities(names), kernel).unwrap();
            let rules = filter.syscalls().clone().unwrap();
            rules.iter().flat_map(|rule| rule.names().clone()).collect::<String>()
        };
        assert_eq!(names("x86_64", &[], (4, 19)), "acfg");
        assert_eq!(names("x86_64", &[], (5, 0)), "acdg");
        assert_eq!(names("x86_64", &["KILL"], (6, 1)), "adg");
        assert_eq!(names("x86_64", &["KILL", "CHOWN"], (6, 1)), "abdg");
        assert_eq!(names("aarch64", &[], (6, 1)), "aceg");
        let filter = resolve(json, "x86_64", &Capabilities::new(), KERNEL).unwrap();
        assert_eq!(filter.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..]));
        let last = filter.syscalls().as_ref().unwrap().last().unwrap().clone();
        assert_eq!(last.errno_ret(), Some(38));
        assert_eq!(last.args().as_ref().unwrap()[0].value_two(), Some(3));
        assert_eq!(filter.flags().as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn profiles_in_the_oci_s_form() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
        let filter = resolve(json, "x86_64", &Capabilities::new(), KERNEL).unwrap();
        assert_eq!(filter.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64][..]));
        assert_eq!(filter.syscalls().as_ref().unwrap()[0].action(), LinuxSeccompAction::ScmpActKillProcess);
        // What resolving gives is itself a profile.
        let again = serde_json::to_string(&filter).unwrap();
        assert_eq!(resolve(&again, "x86_64", &Capabilities::new(), KERNEL).unwrap(), filter);
    }

    #[test]
    fn profiles_that_are_wrong_say_why() {
        for (json, want) in [
            ("", "cannot read the seccomp profile"),
            ("{}", "cannot read the seccomp profile"),
            (r#"{"defaultAction":"ALLOW"}"#, "cannot read the seccomp profile"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ALLOW"}]}"#,
                "invalid seccomp profile: a rule names no system call",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
                "invalid seccomp profile: a rule has both `name` (`a`) and `names`",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "invalid seccomp profile: `a` has no argument 6, only 0 to 5",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}]}"#,
                "invalid kernel version `new` in the seccomp profile: it must be like `4.8`",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "invalid seccomp profile: use either `architectures` or `archMap`",
            ),
        ] {
            let error = resolve(json, "x86_64", &Capabilities::new(), KERNEL).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::InvalidInput, want), "{json}");
        }
    }
}
