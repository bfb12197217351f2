//! Limits of the control group, with Docker's checks.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};
use robot_env_diag::{Error, Result};

use super::{devices, internal};
use crate::{CgroupVersion, ContainerSpec, DeviceRate, HostFacts, Resolved, Resources};

/// The warning where limits were asked for and no cgroup can be made.
pub const LIMITS_LEFT_OUT: &str =
    "limits of memory, CPU, processes and I/O are left out: no cgroup can be made here";

/// The least memory with which a container can start (Docker's number), bytes.
const LEAST_MEMORY: i64 = 6 << 20;

/// Processes and threads when nobody says otherwise.
const DEFAULT_PIDS: i64 = 2048;

/// Microseconds: the period in which `--cpus` is measured.
const CPU_PERIOD: u64 = 100_000;

/// Checks everything that needs no look at the host.
pub(crate) fn check(r: &Resources) -> Result<()> {
    let fail = |text: &str| Err(Error::invalid(text.to_owned()));
    let memory = r.memory.unwrap_or(0);
    let swap = r.memory_swap.unwrap_or(0);
    let reservation = r.memory_reservation.unwrap_or(0);
    if memory != 0 && memory < LEAST_MEMORY {
        return fail("invalid memory limit: the least is 6 MiB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return fail(
            "invalid memory-swap limit: it counts memory and swap together and must not be below the memory limit",
        );
    }
    if memory == 0 && swap > 0 {
        return fail("invalid memory-swap limit: it needs a memory limit too");
    }
    if swap < -1 {
        return fail("invalid memory-swap limit: it must be -1 for unlimited, or more");
    }
    if reservation != 0 && reservation < LEAST_MEMORY {
        return fail("invalid memory reservation: the least is 6 MiB");
    }
    if memory > 0 && reservation > memory {
        return fail("invalid memory reservation: it must not be above the memory limit");
    }
    if r.memory_swappiness.is_some_and(|n| !(-1..=100).contains(&n)) {
        return fail("invalid memory swappiness: it must be from 0 to 100");
    }
    if r.nano_cpus.is_some_and(|n| n != 0) {
        if r.cpu_period.is_some_and(|n| n > 0) {
            return fail("conflicting options: cpus and the CPU period cannot both be set");
        }
        if r.cpu_quota.is_some_and(|n| n > 0) {
            return fail("conflicting options: cpus and the CPU quota cannot both be set");
        }
        if r.nano_cpus.is_some_and(|n| n < 10_000_000) {
            return fail("invalid number of CPUs: the least is 0.01");
        }
    }
    if r.cpu_period.is_some_and(|n| n != 0 && !(1_000..=1_000_000).contains(&n)) {
        return fail("invalid CPU period: it must be from 1000 to 1000000 microseconds");
    }
    if r.cpu_quota.is_some_and(|n| n > 0 && n < 1_000) {
        return fail("invalid CPU quota: it must be at least 1000 microseconds");
    }
    if let (Some(runtime), Some(period)) = (r.cpu_realtime_runtime, r.cpu_realtime_period)
        && period > 0
        && runtime > period as i64
    {
        return fail("invalid CPU real-time runtime: it must not be above the real-time period");
    }
    for (list, word) in [(&r.cpuset_cpus, "cpuset cpus"), (&r.cpuset_mems, "cpuset mems")] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty())
            && !is_cpu_list(list)
        {
            return Err(Error::invalid(format!(
                "invalid value `{list}` for {word}: it must be like `0-3,5`"
            )));
        }
    }
    if r.blkio_weight.is_some_and(|n| n != 0 && !(10..=1000).contains(&n)) {
        return fail("invalid blkio weight: it must be from 10 to 1000");
    }
    for device in &r.blkio_weight_device {
        if device.rate != 0 && !(10..=1000).contains(&device.rate) {
            return Err(Error::invalid(format!(
                "invalid blkio weight {} for `{}`: it must be from 10 to 1000",
                device.rate, device.path
            )));
        }
    }
    if r.pids_limit.is_some_and(|n| n < -1) {
        return fail("invalid pids limit: it must be -1 for unlimited, or more");
    }
    if r.oom_score_adj.is_some_and(|n| !(-1000..=1000).contains(&n)) {
        return fail("invalid oom score adj: it must be from -1000 to 1000");
    }
    Ok(())
}

/// Whether `text` is a list of numbers and ascending ranges.
fn is_cpu_list(text: &str) -> bool {
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
        None => number(part).is_some(),
    })
}

/// `linux.resources`. Where no cgroup can be made the limits are left out, with one warning if any
/// was asked for.
pub(super) fn resources(
    spec: &ContainerSpec,
    host: &HostFacts,
    resolved: &Resolved,
    warnings: &mut Vec<String>,
) -> Result<Option<LinuxResources>> {
    let r = &spec.resources;
    check(r)?;
    if let Some(nano) = r.nano_cpus
        && host.cpus > 0
        && nano > i64::from(host.cpus) * 1_000_000_000
    {
        return Err(Error::invalid(format!(
            "invalid number of CPUs: it must be from 0.01 to {}.00, as only {} are available",
            host.cpus, host.cpus
        )));
    }
    let rules = devices::rules(spec, resolved)?;
    if host.cgroup == CgroupVersion::None || !host.cgroup_writable {
        if r.need_cgroup() {
            warnings.push(LIMITS_LEFT_OUT.into());
        }
        return Ok(None);
    }
    let mut pids = LinuxPids::default();
    pids.set_limit(match r.pids_limit {
        None => DEFAULT_PIDS,
        Some(limit) if limit <= 0 => -1,
        Some(limit) => limit,
    });
    let mut out = LinuxResources::default();
    out.set_devices(Some(rules).filter(|_| !host.rootless))
        .set_memory(memory(r, host, warnings))
        .set_cpu(cpu(r, host, warnings))
        .set_pids(Some(pids))
        .set_block_io(block_io(r, resolved)?);
    Ok(Some(out))
}

fn memory(r: &Resources, host: &HostFacts, warnings: &mut Vec<String>) -> Option<LinuxMemory> {
    let mut out = LinuxMemory::default();
    let version_2 = host.cgroup == CgroupVersion::V2;
    let limit = r.memory.filter(|n| *n > 0);
    let swap = r.memory_swap.filter(|n| *n != 0).or(limit.map(|limit| limit.saturating_mul(2)));
    out.set_limit(limit).set_swap(swap).set_reservation(r.memory_reservation.filter(|n| *n > 0));
    if let Some(swappiness) = r.memory_swappiness.filter(|n| *n >= 0) {
        if version_2 {
            warnings.push("memory swappiness is left out: cgroup v2 has none".into());
        } else {
            out.set_swappiness(Some(swappiness as u64));
        }
    }
    if r.kernel_memory.is_some_and(|n| n > 0) {
        warnings.push("the kernel memory limit is left out: kernels since 5.4 have none".into());
    }
    if r.oom_kill_disable == Some(true) {
        if version_2 {
            warnings.push("disabling the OOM killer is left out: cgroup v2 cannot".into());
        } else {
            if limit.is_none() {
                warnings.push(
                    "the OOM killer is disabled without a memory limit: the host may run out of memory"
                        .into(),
                );
            }
            out.set_disable_oom_killer(Some(true));
        }
    }
    (out != LinuxMemory::default()).then_some(out)
}

fn cpu(r: &Resources, host: &HostFacts, warnings: &mut Vec<String>) -> Option<LinuxCpu> {
    let mut out = LinuxCpu::default();
    let positive = |n: &u64| *n > 0;
    out.set_shares(r.cpu_shares.filter(positive))
        .set_period(r.cpu_period.filter(positive))
        .set_quota(r.cpu_quota.filter(|n| *n != 0))
        .set_cpus(r.cpuset_cpus.clone().filter(|list| !list.is_empty()))
        .set_mems(r.cpuset_mems.clone().filter(|list| !list.is_empty()));
    if let Some(nano) = r.nano_cpus.filter(|n| *n > 0) {
        out.set_period(Some(CPU_PERIOD));
        out.set_quota(Some((i128::from(nano) * i128::from(CPU_PERIOD) / 1_000_000_000) as i64));
    }
    let realtime = (r.cpu_realtime_period.filter(positive), r.cpu_realtime_runtime.filter(|n| *n != 0));
    if realtime != (None, None) {
        if host.cgroup == CgroupVersion::V2 {
            warnings.push("CPU real-time limits are left out: cgroup v2 has none".into());
        } else {
            out.set_realtime_period(realtime.0).set_realtime_runtime(realtime.1);
        }
    }
    (out != LinuxCpu::default()).then_some(out)
}

fn block_io(r: &Resources, resolved: &Resolved) -> Result<Option<LinuxBlockIo>> {
    let number =
        |path: &str| {
            resolved.block_devices.get(path).copied().ok_or_else(|| {
                Error::invalid(format!("cannot limit I/O of `{path}`: it is not a block device"))
            })
        };
    let throttles = |list: &[DeviceRate]| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        let mut out = Vec::new();
        for device in list {
            let (major, minor) = number(&device.path)?;
            let entry = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(device.rate);
            out.push(entry.build().map_err(internal)?);
        }
        Ok(Some(out).filter(|list| !list.is_empty()))
    };
    let mut weights = Vec::new();
    for device in &r.blkio_weight_device {
        let (major, minor) = number(&device.path)?;
        let weight = device.rate.min(1000) as u16;
        let entry = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight);
        weights.push(entry.build().map_err(internal)?);
    }
    let mut out = LinuxBlockIo::default();
    out.set_weight(r.blkio_weight.filter(|n| *n > 0))
        .set_weight_device(Some(weights).filter(|list| !list.is_empty()))
        .set_throttle_read_bps_device(throttles(&r.device_read_bps)?)
        .set_throttle_write_bps_device(throttles(&r.device_write_bps)?)
        .set_throttle_read_iops_device(throttles(&r.device_read_iops)?)
        .set_throttle_write_iops_device(throttles(&r.device_write_iops)?);
    Ok((out != LinuxBlockIo::default()).then_some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        for (text, want) in [
            ("0", true),
            ("0-3", true),
            ("0-3,5,7-9", true),
            ("3-0", false),
            ("", false),
            ("0,", false),
            ("a", false),
            ("0-", false),
            ("-1", false),
            ("0-1-2", false),
            ("99999999", false),
            ("0, 1", false),
            ("+1", false),
        ] {
            assert_eq!(is_cpu_list(text), want, "{text}");
        }
    }

    type Change = fn(&mut Resources);

    #[test]
    fn docker_s_checks() {
        const MIB: i64 = 1 << 20;
        let cases: [(Change, Option<&str>); 24] = [
            (|_| {}, None),
            (|r| r.memory = Some(6 * MIB), None),
            (|r| r.memory = Some(6 * MIB - 1), Some("invalid memory limit: the least is 6 MiB")),
            (|r| r.memory = Some(-1), Some("invalid memory limit: the least is 6 MiB")),
            (
                |r| {
                    r.memory = Some(8 * MIB);
                    r.memory_swap = Some(7 * MIB);
                },
                Some(
                    "invalid memory-swap limit: it counts memory and swap together and must not be below the memory limit",
                ),
            ),
            (
                |r| {
                    r.memory = Some(8 * MIB);
                    r.memory_swap = Some(-1);
                },
                None,
            ),
            (
                |r| r.memory_swap = Some(8 * MIB),
                Some("invalid memory-swap limit: it needs a memory limit too"),
            ),
            (|r| r.memory_swap = Some(-1), None),
            (
                |r| {
                    r.memory = Some(8 * MIB);
                    r.memory_reservation = Some(9 * MIB);
                },
                Some("invalid memory reservation: it must not be above the memory limit"),
            ),
            (
                |r| r.memory_swappiness = Some(101),
                Some("invalid memory swappiness: it must be from 0 to 100"),
            ),
            (|r| r.memory_swappiness = Some(-1), None),
            (
                |r| {
                    r.nano_cpus = Some(1_000_000_000);
                    r.cpu_period = Some(100_000);
                },
                Some("conflicting options: cpus and the CPU period cannot both be set"),
            ),
            (
                |r| {
                    r.nano_cpus = Some(1_000_000_000);
                    r.cpu_quota = Some(100_000);
                },
                Some("conflicting options: cpus and the CPU quota cannot both be set"),
            ),
            (|r| r.nano_cpus = Some(-1), Some("invalid number of CPUs: the least is 0.01")),
            (
                |r| r.cpu_period = Some(999),
                Some("invalid CPU period: it must be from 1000 to 1000000 microseconds"),
            ),
            (|r| r.cpu_quota = Some(999), Some("invalid CPU quota: it must be at least 1000 microseconds")),
            (|r| r.cpu_quota = Some(-1), None),
            (
                |r| {
                    r.cpu_realtime_runtime = Some(3);
                    r.cpu_realtime_period = Some(2);
                },
                Some("invalid CPU real-time runtime: it must not be above the real-time period"),
            ),
            (
                |r| r.cpuset_cpus = Some("1-0".into()),
                Some("invalid value `1-0` for cpuset cpus: it must be like `0-3,5`"),
            ),
            (
                |r| r.cpuset_mems = Some("x".into()),
                Some("invalid value `x` for cpuset mems: it must be like `0-3,5`"),
            ),
            (|r| r.blkio_weight = Some(9), Some("invalid blkio weight: it must be from 10 to 1000")),
            (
                |r| r.blkio_weight_device = vec![DeviceRate { path: "/dev/x".into(), rate: 1001 }],
                Some("invalid blkio weight 1001 for `/dev/x`: it must be from 10 to 1000"),
            ),
            (|r| r.pids_limit = Some(-2), Some("invalid pids limit: it must be -1 for unlimited, or more")),
            (|r| r.oom_score_adj = Some(1001), Some("invalid oom score adj: it must be from -1000 to 1000")),
        ];
        for (at, (change, want)) in cases.into_iter().enumerate() {
            let mut resources = Resources::default();
            change(&mut resources);
            assert_eq!(check(&resources).err().map(|e| e.to_string()).as_deref(), want, "case {at}");
        }
    }
}
