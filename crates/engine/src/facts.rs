//! Facts about the host, read at every start and exec and never stored.

use std::collections::{BTreeMap, BTreeSet};

use robot_env_spec::{CgroupVersion, HostFacts};
use robot_env_sys::capability;
use robot_env_sys::cgroup::{self, Hierarchies};

/// Reads them. What cannot be read is as if it were not there.
pub(crate) fn read(rootless: bool, single_id: bool, cgroup: &Hierarchies) -> HostFacts {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    HostFacts {
        architecture: std::env::consts::ARCH.to_owned(),
        kernel: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        cgroup: match cgroup.version() {
            cgroup::Version::V1 => CgroupVersion::V1,
            cgroup::Version::V2 => CgroupVersion::V2,
            cgroup::Version::None => CgroupVersion::None,
        },
        cgroup_writable: cgroup.is_writable(),
        rootless,
        single_id,
        capabilities: capability::bounding().into_iter().collect::<BTreeSet<String>>(),
        hard_limits: hard_limits(),
        may_raise_limits: !rootless && capability::has_effective("CAP_SYS_RESOURCE"),
        apparmor: crate::apparmor::is_enabled(),
        apparmor_profile: None,
        cpus: rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count().max(1)),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        groups: rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect(),
    }
}

/// Hard limits by the names that `--ulimit` uses; unlimited ones are left out.
fn hard_limits() -> BTreeMap<String, u64> {
    let names = [
        ("Max cpu time", "cpu"),
        ("Max file size", "fsize"),
        ("Max data size", "data"),
        ("Max stack size", "stack"),
        ("Max core file size", "core"),
        ("Max resident set", "rss"),
        ("Max processes", "nproc"),
        ("Max open files", "nofile"),
        ("Max locked memory", "memlock"),
        ("Max address space", "as"),
        ("Max file locks", "locks"),
        ("Max pending signals", "sigpending"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
    ];
    let Ok(text) = robot_env_sys::fs::kernel_text("/proc/self/limits") else { return BTreeMap::new() };
    let mut limits = BTreeMap::new();
    for line in text.lines() {
        for (label, name) in names {
            if let Some(rest) = line.strip_prefix(label)
                && let Some(Ok(hard)) = rest.split_whitespace().nth(1).map(str::parse)
            {
                limits.insert(name.to_owned(), hard);
            }
        }
    }
    limits
}
