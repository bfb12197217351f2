//! From `linux.resources` to files of control groups.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use robot_env_diag::{Error, Result, Within};
use robot_env_sys::cgroup::{Cgroup, DeviceRule, Setting, Version};

fn required(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { controller, file: file.into(), value: value.to_string(), optional: false }
}

fn optional(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { optional: true, ..required(controller, file, value) }
}

/// The settings that `resources` stands for, in the order in which they must be written; devices
/// of version 2 are a program, see [`restrict_devices`].
pub fn settings(resources: &LinuxResources, version: Version) -> Result<Vec<Setting>> {
    let mut out = match version {
        Version::V1 => version_1(resources),
        Version::V2 => version_2(resources),
        Version::None => Vec::new(),
    };
    if version == Version::V2 {
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') {
                return Err(Error::invalid(format!("invalid cgroup file `{file}`")));
            }
            out.push(required("", file.as_str(), value));
        }
    }
    Ok(out)
}

/// A limit that is set: callers write 0 into an update for what is to stay as it is.
fn set_limit(limit: Option<i64>) -> Option<i64> {
    limit.filter(|limit| *limit != 0)
}

fn version_1(resources: &LinuxResources) -> Vec<Setting> {
    let mut out = Vec::new();
    if let Some(memory) = resources.memory() {
        if let Some(limit) = set_limit(memory.limit()) {
            out.push(required("memory", "memory.limit_in_bytes", limit));
        }
        if let Some(swap) = set_limit(memory.swap()) {
            // Kernels without swap accounting have no such file.
            out.push(optional("memory", "memory.memsw.limit_in_bytes", swap));
        }
        if let Some(reservation) = set_limit(memory.reservation()) {
            out.push(required("memory", "memory.soft_limit_in_bytes", reservation));
        }
        if let Some(swappiness) = memory.swappiness() {
            out.push(required("memory", "memory.swappiness", swappiness));
        }
        if memory.disable_oom_killer() == Some(true) {
            out.push(required("memory", "memory.oom_control", 1));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|s| *s > 0) {
            out.push(required("cpu", "cpu.shares", shares));
        }
        if let Some(period) = cpu.period().filter(|p| *p > 0) {
            out.push(required("cpu", "cpu.cfs_period_us", period));
        }
        if let Some(quota) = cpu.quota().filter(|q| *q != 0) {
            out.push(required("cpu", "cpu.cfs_quota_us", quota));
        }
        if let Some(period) = cpu.realtime_period().filter(|p| *p > 0) {
            out.push(required("cpu", "cpu.rt_period_us", period));
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
            out.push(required("cpu", "cpu.rt_runtime_us", runtime));
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
            out.push(required("cpuset", "cpuset.cpus", cpus));
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|m| !m.is_empty()) {
            out.push(required("cpuset", "cpuset.mems", mems));
        }
    }
    if let Some(limit) = resources.pids().as_ref().and_then(|pids| set_limit(Some(pids.limit()))) {
        out.push(required("pids", "pids.max", number_or_max(limit)));
    }
    if let Some(io) = resources.block_io() {
        if let Some(weight) = io.weight().filter(|w| *w > 0) {
            out.push(required("blkio", "blkio.bfq.weight", weight));
        }
        for device in io.weight_device().iter().flatten() {
            out.push(required(
                "blkio",
                "blkio.bfq.weight_device",
                format!("{}:{} {}", device.major(), device.minor(), device.weight().unwrap_or(0)),
            ));
        }
        for (list, file) in [
            (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
            (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
            (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
            (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device"),
        ] {
            out.extend(
                list.iter()
                    .flatten()
                    .map(|d| required("blkio", file, format!("{}:{} {}", d.major(), d.minor(), d.rate()))),
            );
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        out.push(required("hugetlb", format!("hugetlb.{}.limit_in_bytes", limit.page_size()), limit.limit()));
    }
    out
}

fn version_2(resources: &LinuxResources) -> Vec<Setting> {
    let mut out = Vec::new();
    if let Some(memory) = resources.memory() {
        let limit = set_limit(memory.limit());
        if let Some(limit) = limit {
            out.push(required("memory", "memory.max", number_or_max(limit)));
        }
        // The spec counts memory and swap together, the kernel swap alone.
        match (memory.swap(), limit) {
            (Some(-1), _) => out.push(optional("memory", "memory.swap.max", "max")),
            (Some(swap), Some(limit)) if swap >= limit => {
                out.push(optional("memory", "memory.swap.max", swap - limit));
            }
            _ => {}
        }
        if let Some(reservation) = set_limit(memory.reservation()) {
            out.push(required("memory", "memory.low", number_or_max(reservation)));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|s| *s > 0) {
            // 2..262144 to 1..10000, as runc's cgroup manager does.
            out.push(required("cpu", "cpu.weight", 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142));
        }
        let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p > 0));
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
            out.push(required("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
            out.push(required("cpuset", "cpuset.cpus", cpus));
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|m| !m.is_empty()) {
            out.push(required("cpuset", "cpuset.mems", mems));
        }
    }
    if let Some(limit) = resources.pids().as_ref().and_then(|pids| set_limit(Some(pids.limit()))) {
        out.push(required("pids", "pids.max", number_or_max(limit)));
    }
    if let Some(io) = resources.block_io() {
        if let Some(weight) = io.weight().filter(|w| *w > 0) {
            out.push(optional("io", "io.bfq.weight", weight));
        }
        for (list, word) in [
            (io.throttle_read_bps_device(), "rbps"),
            (io.throttle_write_bps_device(), "wbps"),
            (io.throttle_read_iops_device(), "riops"),
            (io.throttle_write_iops_device(), "wiops"),
        ] {
            out.extend(list.iter().flatten().map(|d| {
                required("io", "io.max", format!("{}:{} {word}={}", d.major(), d.minor(), d.rate()))
            }));
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        out.push(required("hugetlb", format!("hugetlb.{}.max", limit.page_size()), limit.limit()));
    }
    out
}

fn number_or_max(number: i64) -> String {
    if number < 0 { "max".into() } else { number.to_string() }
}

/// Device nodes that every container may use, whatever its rules say: those of its `/dev`, its
/// terminals, and making (not using) any.
fn always_usable() -> impl Iterator<Item = DeviceRule> {
    let node = |kind, major, minor, use_it| DeviceRule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        read: use_it,
        write: use_it,
        make: true,
    };
    let known = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    [node('c', None, None, false), node('b', None, None, false), node('c', Some(136), None, true)]
        .into_iter()
        .chain(known.map(|(major, minor)| node('c', Some(major), Some(minor), true)))
}

/// The rules that `resources` stands for; none when they take nothing away.
pub fn device_rules(resources: &LinuxResources) -> Vec<DeviceRule> {
    let rules = resources.devices().as_deref().unwrap_or_default();
    let mut out: Vec<DeviceRule> = rules.iter().map(device_rule).collect();
    // What comes before a rule about everything does not count.
    if let Some(at) = out.iter().rposition(|rule| rule.kind.is_none()) {
        out.drain(..at);
    }
    if out.iter().all(|rule| rule.allow) {
        return Vec::new();
    }
    let denied = |node: &DeviceRule| {
        out.iter().any(|rule| {
            !rule.allow
                && rule.kind == node.kind
                && rule.major.is_some()
                && (rule.major, rule.minor) == (node.major, node.minor)
        })
    };
    let always: Vec<DeviceRule> = always_usable().filter(|node| !denied(node)).collect();
    out.extend(always);
    out
}

fn device_rule(rule: &LinuxDeviceCgroup) -> DeviceRule {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Some('b'),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some('c'),
        _ => None,
    };
    let number = |number: Option<i64>| number.and_then(|n| u32::try_from(n).ok());
    let has =
        |letter| rule.access().as_ref().is_none_or(|access| access.is_empty() || access.contains(letter));
    DeviceRule {
        allow: rule.allow(),
        kind,
        major: number(rule.major()),
        minor: number(rule.minor()),
        read: has('r'),
        write: has('w'),
        make: has('m'),
    }
}

/// Limits which device nodes may be used. Where the kernel does not let the caller do that (in a
/// user namespace), the nodes themselves are out of reach too.
pub(crate) fn restrict_devices(cgroup: &Cgroup, resources: Option<&LinuxResources>) -> Result<()> {
    let rules = resources.map(device_rules).unwrap_or_default();
    match cgroup.restrict_devices(&rules) {
        Err(error)
            if error.errno() == rustix::io::Errno::PERM && robot_env_sys::namespace::is_user_namespace() =>
        {
            Ok(())
        }
        other => other.map_err(Error::from).within(|| "cannot limit the container's devices".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

    #[test]
    fn both_versions_get_the_same_limits() {
        let resources = LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().limit(100i64).swap(150i64).build().unwrap())
            .cpu(
                LinuxCpuBuilder::default()
                    .shares(1024u64)
                    .quota(50_000i64)
                    .period(100_000u64)
                    .build()
                    .unwrap(),
            )
            .pids(LinuxPidsBuilder::default().limit(7i64).build().unwrap())
            .build()
            .unwrap();
        let texts = |version| {
            settings(&resources, version)
                .unwrap()
                .into_iter()
                .map(|s| format!("{}={}", s.file, s.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts(Version::V1),
            [
                "memory.limit_in_bytes=100",
                "memory.memsw.limit_in_bytes=150",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "pids.max=7"
            ]
        );
        assert_eq!(
            texts(Version::V2),
            ["memory.max=100", "memory.swap.max=50", "cpu.weight=39", "cpu.max=50000 100000", "pids.max=7"]
        );
    }

    #[test]
    fn zero_leaves_a_limit_as_it_is() {
        // What Docker sends for `update --cpu-shares 512`.
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 0, "reservation": 0, "swap": 0, "kernel": 0},
            "cpu": {"shares": 512, "quota": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0,
                "cpus": "", "mems": ""},
            "pids": {"limit": 0},
            "blockIO": {"weight": 0},
        }))
        .unwrap();
        for (version, want) in [(Version::V1, "cpu.shares"), (Version::V2, "cpu.weight")] {
            let settings = settings(&resources, version).unwrap();
            let files: Vec<&str> = settings.iter().map(|setting| setting.file.as_str()).collect();
            assert_eq!(files, [want]);
        }
    }
}
