//! Limits: `--memory`, `--cpus`, `--blkio-weight` and their kin, which `update` takes too.

use clap::Args;
use robot_env_config::LIMITS;
use robot_env_diag::{Error, Result};
use robot_env_spec::{DeviceRate, Resources, Ulimit};

use crate::quantity;

const MEMORY_MINIMUM: i64 = 6 << 20;

/// Flags that set cgroup limits.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LimitFlags {
    /// Block I/O weight, 10 to 1000; 0 sets none
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Block I/O weight for a device: DEVICE:WEIGHT
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    blkio_weight_device: Vec<String>,
    /// Length of a CPU period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// CPU time a period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Real-time period in microseconds (cgroup v1)
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<i64>,
    /// Real-time run time in microseconds (cgroup v1)
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "SHARES")]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// CPUs to run on, e.g. `0-3` or `0,1`
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, e.g. `0`
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit reads from a device in bytes a second: DEVICE:RATE
    #[arg(long, value_name = "DEVICE:RATE")]
    device_read_bps: Vec<String>,
    /// Limit reads from a device in operations a second: DEVICE:RATE
    #[arg(long, value_name = "DEVICE:RATE")]
    device_read_iops: Vec<String>,
    /// Limit writes to a device in bytes a second: DEVICE:RATE
    #[arg(long, value_name = "DEVICE:RATE")]
    device_write_bps: Vec<String>,
    /// Limit writes to a device in operations a second: DEVICE:RATE
    #[arg(long, value_name = "DEVICE:RATE")]
    device_write_iops: Vec<String>,
    /// Limit of kernel memory (cgroup v1)
    #[arg(long, value_name = "SIZE")]
    kernel_memory: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1: no limit
    #[arg(long, value_name = "SIZE")]
    memory_swap: Option<String>,
    /// Swappiness, 0 to 100 (cgroup v1)
    #[arg(long, value_name = "N")]
    memory_swappiness: Option<i64>,
    /// Limit of processes and threads; -1: no limit
    #[arg(long, value_name = "N")]
    pids_limit: Option<i64>,
}

impl LimitFlags {
    /// The limits that the flags ask for; what is not given is absent.
    pub(crate) fn resources(&self) -> Result<Resources> {
        let size = |flag: &str, text: &Option<String>, read: fn(&str) -> Result<i64>| {
            text.as_deref()
                .map(|text| read(text).map_err(|e| e.within(format!("invalid argument for --{flag}"))))
                .transpose()
        };
        let positive = |flag: &str, number: Option<i64>| match number {
            Some(n) if n < 0 => {
                Err(Error::invalid(format!("invalid argument `{n}` for --{flag}: it must not be negative")))
            }
            Some(0) | None => Ok(None),
            Some(n) => Ok(Some(n as u64)),
        };
        let set = |n: Option<i64>| n.filter(|n| *n != 0);
        let resources = Resources {
            memory: set(size("memory", &self.memory, quantity::bytes)?),
            memory_reservation: set(size("memory-reservation", &self.memory_reservation, quantity::bytes)?),
            memory_swap: set(size("memory-swap", &self.memory_swap, quantity::bytes_or_unlimited)?),
            memory_swappiness: self.memory_swappiness.filter(|n| *n != -1),
            kernel_memory: set(size("kernel-memory", &self.kernel_memory, quantity::bytes)?),
            nano_cpus: self.cpus.as_deref().map(nano_cpus).transpose()?.filter(|n| *n != 0),
            cpu_shares: positive("cpu-shares", self.cpu_shares)?,
            cpu_period: positive("cpu-period", self.cpu_period)?,
            cpu_quota: set(self.cpu_quota),
            cpu_realtime_period: positive("cpu-rt-period", self.cpu_rt_period)?,
            cpu_realtime_runtime: set(self.cpu_rt_runtime),
            cpuset_cpus: set_list("cpuset-cpus", self.cpuset_cpus.as_deref())?,
            cpuset_mems: set_list("cpuset-mems", self.cpuset_mems.as_deref())?,
            pids_limit: self.pids_limit,
            blkio_weight: self.blkio_weight.filter(|w| *w != 0),
            blkio_weight_device: rates("blkio-weight-device", &self.blkio_weight_device, |t| {
                t.parse().ok().filter(|w| matches!(w, 0 | 10..=1000))
            })?,
            device_read_bps: rates("device-read-bps", &self.device_read_bps, |t| {
                quantity::bytes(t).ok().map(|n| n as u64)
            })?,
            device_write_bps: rates("device-write-bps", &self.device_write_bps, |t| {
                quantity::bytes(t).ok().map(|n| n as u64)
            })?,
            device_read_iops: rates("device-read-iops", &self.device_read_iops, |t| t.parse().ok())?,
            device_write_iops: rates("device-write-iops", &self.device_write_iops, |t| t.parse().ok())?,
            oom_kill_disable: None,
            oom_score_adj: None,
        };
        check(&resources)?;
        Ok(resources)
    }
}

fn check(resources: &Resources) -> Result<()> {
    if let Some(memory) = resources.memory {
        if memory < MEMORY_MINIMUM {
            return Err(Error::invalid("minimum memory limit allowed is 6MB"));
        }
        if resources.memory_swap.is_some_and(|swap| swap != -1 && swap < memory) {
            return Err(Error::invalid("minimum memoryswap limit should be larger than memory limit"));
        }
        if resources.memory_reservation.is_some_and(|soft| soft > memory) {
            return Err(Error::invalid("minimum memory limit can not be less than memory reservation limit"));
        }
    }
    if resources.memory_swappiness.is_some_and(|n| !(0..=100).contains(&n)) {
        return Err(Error::invalid("invalid memory swappiness: it must be between 0 and 100, or -1"));
    }
    if resources.nano_cpus.is_some() && (resources.cpu_period.is_some() || resources.cpu_quota.is_some()) {
        return Err(Error::invalid(
            "conflicting options: --cpus and --cpu-period or --cpu-quota cannot both be set",
        ));
    }
    if resources.cpu_period.is_some_and(|n| !(1000..=1_000_000).contains(&n)) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if resources.cpu_quota.is_some_and(|n| (1..1000).contains(&n)) {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if resources.blkio_weight.is_some_and(|w| !(10..=1000).contains(&w)) {
        return Err(Error::invalid("range of blkio weight is from 10 to 1000"));
    }
    Ok(())
}

fn nano_cpus(text: &str) -> Result<i64> {
    let bad =
        || Error::invalid(format!("invalid argument `{text}` for --cpus: it must be a number like 1.5"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if text.is_empty() || text == "." || !digits(whole) || !digits(fraction) || whole.len() > 6 {
        return Err(bad());
    }
    if fraction.len() > 9 && fraction[9..].bytes().any(|b| b != b'0') {
        return Err(Error::invalid(format!("invalid argument `{text}` for --cpus: value is too precise")));
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let fraction: i64 = format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().map_err(|_| bad())?;
    Ok(whole * 1_000_000_000 + fraction)
}

fn set_list(flag: &str, text: Option<&str>) -> Result<Option<String>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = |t: &str| t.parse::<u16>().ok();
    let fine = text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to),
        None => number(part).is_some(),
    });
    if fine {
        Ok(Some(text.to_owned()))
    } else {
        Err(Error::invalid(format!("invalid argument `{text}` for --{flag}"))
            .with_hint("write it like `0-3` or `0,2`"))
    }
}

fn rates(flag: &str, given: &[String], read: impl Fn(&str) -> Option<u64>) -> Result<Vec<DeviceRate>> {
    given
        .iter()
        .map(|text| {
            let bad = || {
                Error::invalid(format!(
                    "invalid argument `{text}` for --{flag}: it must be like /dev/sda:NUMBER"
                ))
            };
            let (path, rate) = text.split_once(':').ok_or_else(bad)?;
            if !path.starts_with("/dev/") {
                return Err(bad());
            }
            Ok(DeviceRate { path: path.to_owned(), rate: read(rate).ok_or_else(bad)? })
        })
        .collect()
}

/// Reads `--ulimit NAME=SOFT[:HARD]`.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit> {
    let bad = |why: String| Error::invalid(format!("invalid ulimit argument: `{text}`: {why}"));
    let (name, values) = text.split_once('=').ok_or_else(|| bad("it must be NAME=SOFT[:HARD]".into()))?;
    if !LIMITS.contains(&name) {
        return Err(bad(format!("there is no limit `{name}`"))
            .with_hint(format!("the limits are {}", LIMITS.join(", "))));
    }
    let number = |value: &str| match value.parse::<i64>() {
        Ok(n) if n >= -1 => Ok(n),
        _ => Err(bad(format!("`{value}` is not a number"))),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(bad(format!(
            "the soft limit must be less than or equal to the hard limit: {soft} > {hard}"
        )));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        for (text, want) in
            [("1", 1_000_000_000), ("1.5", 1_500_000_000), (".5", 500_000_000), ("0", 0), ("0.000000001", 1)]
        {
            assert_eq!(nano_cpus(text).unwrap(), want, "{text}");
        }
        for bad in ["", ".", "-1", "1e3", "a", "0.0000000001"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ulimits() {
        assert_eq!(
            ulimit("nofile=1024:2048").unwrap(),
            Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 }
        );
        assert_eq!(ulimit("core=-1").unwrap(), Ulimit { name: "core".into(), soft: -1, hard: -1 });
        assert_eq!(ulimit("rtprio=99:-1").unwrap(), Ulimit { name: "rtprio".into(), soft: 99, hard: -1 });
        for bad in
            ["", "nofile", "nofile=", "nofile=a", "nofile=2:1", "nofile=-1:1", "nope=1", "nofile=1:2:3"]
        {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_and_rates() {
        for good in ["0", "0-3", "0,2,4-5"] {
            assert_eq!(set_list("x", Some(good)).unwrap().as_deref(), Some(good));
        }
        for bad in ["a", "3-1", "1-", ",", "0-1-2"] {
            assert!(set_list("x", Some(bad)).is_err(), "{bad}");
        }
        let flags = LimitFlags { device_read_bps: vec!["/dev/sda:1mb".into()], ..LimitFlags::default() };
        assert_eq!(
            flags.resources().unwrap().device_read_bps,
            [DeviceRate { path: "/dev/sda".into(), rate: 1 << 20 }]
        );
        for bad in ["/dev/sda", "sda:1", "/dev/sda:x"] {
            let flags = LimitFlags { device_write_iops: vec![bad.into()], ..LimitFlags::default() };
            assert!(flags.resources().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_that_exclude_each_other() {
        let some = |t: &str| Some(t.to_owned());
        for flags in [
            LimitFlags { memory: some("1m"), ..LimitFlags::default() },
            LimitFlags { memory: some("1g"), memory_swap: some("512m"), ..LimitFlags::default() },
            LimitFlags { memory: some("1g"), memory_reservation: some("2g"), ..LimitFlags::default() },
            LimitFlags { cpus: some("1"), cpu_quota: Some(50000), ..LimitFlags::default() },
            LimitFlags { cpu_period: Some(5), ..LimitFlags::default() },
            LimitFlags { memory_swappiness: Some(101), ..LimitFlags::default() },
            LimitFlags { blkio_weight: Some(5), ..LimitFlags::default() },
            LimitFlags { cpu_shares: Some(-1), ..LimitFlags::default() },
        ] {
            assert!(flags.resources().is_err(), "{flags:?}");
        }
        let flags = LimitFlags { memory: some("1g"), memory_swap: some("-1"), ..LimitFlags::default() };
        assert_eq!(flags.resources().unwrap().memory_swap, Some(-1));
    }
}
