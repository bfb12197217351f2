//! Limits, as clients send them.

use robot_env_spec::{DeviceRate, Resources, Ulimit};
use robot_env_wire::{DeviceNumber, ResourcesRequest};

use crate::failure::{Failure, Result};

/// Zero is Docker's word for "nothing was asked for".
fn set<T: Default + PartialEq + Copy>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// cgroup limits.
pub(crate) fn resources(wanted: &ResourcesRequest) -> Result<Resources> {
    let rates = |devices: &[DeviceNumber]| {
        devices.iter().map(|device| DeviceRate { path: device.path.clone(), rate: device.rate }).collect()
    };
    if wanted.memory != 0 && wanted.memory < 6 << 20 {
        return Err(Failure::new(400, "Minimum memory limit allowed is 6MB"));
    }
    if wanted.nano_cpus < 0 {
        return Err(Failure::new(400, "range of CPUs is from 0.01 to the number of CPUs"));
    }
    Ok(Resources {
        memory: set(wanted.memory),
        memory_reservation: set(wanted.memory_reservation),
        memory_swap: set(wanted.memory_swap),
        memory_swappiness: wanted.memory_swappiness.filter(|n| *n != -1),
        kernel_memory: set(wanted.kernel_memory),
        nano_cpus: set(wanted.nano_cpus),
        cpu_shares: set(wanted.cpu_shares),
        cpu_period: set(wanted.cpu_period),
        cpu_quota: set(wanted.cpu_quota),
        cpu_realtime_period: set(wanted.cpu_realtime_period),
        cpu_realtime_runtime: set(wanted.cpu_realtime_runtime),
        cpuset_cpus: text(&wanted.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems),
        pids_limit: wanted.pids_limit.filter(|n| *n != 0),
        blkio_weight: set(wanted.blkio_weight),
        blkio_weight_device: wanted
            .blkio_weight_device
            .iter()
            .map(|device| DeviceRate { path: device.path.clone(), rate: device.weight })
            .collect(),
        device_read_bps: rates(&wanted.blkio_device_read_bps),
        device_write_bps: rates(&wanted.blkio_device_write_bps),
        device_read_iops: rates(&wanted.blkio_device_read_iops),
        device_write_iops: rates(&wanted.blkio_device_write_iops),
        oom_kill_disable: wanted.oom_kill_disable.filter(|on| *on),
        oom_score_adj: None,
    })
}

/// Resource limits of the process.
pub(crate) fn ulimits(wanted: &ResourcesRequest) -> Result<Vec<Ulimit>> {
    let limits = wanted.ulimits.iter().map(|limit| {
        if limit.soft > limit.hard && limit.hard != -1 {
            return Err(Failure::new(
                400,
                format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                ),
            ));
        }
        Ok(Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
    });
    limits.collect()
}

/// `10m`, `1.5g`, `512`: bytes, in units of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..].trim_end_matches('b').trim_end_matches('i');
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let number: f64 = digits.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?;
    Some((number * 1024f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("10m", Some(10 << 20)),
            ("1.5k", Some(1536)),
            ("7", Some(7)),
            ("2GiB", Some(2 << 30)),
            ("x", None),
            ("-1", None),
            ("1x", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }

    #[test]
    fn zeros_ask_for_nothing() {
        assert_eq!(resources(&ResourcesRequest::default()).unwrap(), Resources::default());
        let wanted = ResourcesRequest { memory: 1 << 20, ..ResourcesRequest::default() };
        assert!(resources(&wanted).is_err());
        let wanted = ResourcesRequest {
            pids_limit: Some(0),
            memory_swappiness: Some(-1),
            ..ResourcesRequest::default()
        };
        assert_eq!(resources(&wanted).unwrap(), Resources::default());
    }
}
