//! What a running container uses.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use robot_env_diag::Result;
use robot_env_spec::NetworkMode;
use robot_env_sys::cgroup::{self, Usage, Version};
use robot_env_sys::process;

use crate::control::container_cgroup;
use crate::engine::Engine;
use crate::record::ProcessRecord;
use crate::records::Container;

/// What a container uses at one moment. Everything is 0 for one that does not run, and the cgroup's
/// numbers for one that has no cgroup of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When it was taken.
    pub time: Timestamp,
    /// Whether the container runs.
    pub running: bool,
    /// The cgroup's numbers; `None` without one.
    pub cgroup: Option<Usage>,
    /// CPU time that the whole machine has spent, idle time included, in nanoseconds.
    pub machine_nanoseconds: u64,
    /// CPUs that are on.
    pub cpus: u32,
    /// The machine's memory in bytes.
    pub machine_memory: u64,
    /// The network interfaces of the container, without the loopback one; none in the host's
    /// network.
    pub interfaces: Vec<Interface>,
}

/// What went through a network interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub received: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Receive errors.
    pub received_errors: u64,
    /// Packets dropped on receiving.
    pub received_dropped: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Send errors.
    pub sent_errors: u64,
    /// Packets dropped on sending.
    pub sent_dropped: u64,
}

impl Sample {
    /// The share of one CPU that was used since `earlier`, in percent: 100 is one CPU. This is
    /// Docker's formula.
    pub fn cpu_percent(&self, earlier: &Sample) -> f64 {
        let (Some(now), Some(before)) = (&self.cgroup, &earlier.cgroup) else { return 0.0 };
        let used = now.cpu_nanoseconds.saturating_sub(before.cpu_nanoseconds) as f64;
        let all = self.machine_nanoseconds.saturating_sub(earlier.machine_nanoseconds) as f64;
        if all > 0.0 { used / all * f64::from(self.cpus) * 100.0 } else { 0.0 }
    }

    /// Bytes of memory without file caches that nobody has used lately: what Docker shows.
    pub fn memory(&self) -> u64 {
        self.cgroup.map_or(0, |usage| usage.memory.saturating_sub(usage.memory_inactive_file))
    }

    /// Bytes of memory that it may use: its limit, or the machine's memory.
    pub fn memory_limit(&self) -> u64 {
        if !self.running {
            return 0;
        }
        let limit = self.cgroup.and_then(|usage| usage.memory_limit).unwrap_or(u64::MAX);
        limit.min(self.machine_memory)
    }
}

impl Engine {
    /// What a container uses now.
    pub fn sample(&self, container: &Container) -> Sample {
        let time = Timestamp::now();
        let Some(process) = container.state.state.process() else {
            return Sample { time, ..Sample::default() };
        };
        let (machine_nanoseconds, cpus) = machine_cpu(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let own_network = !matches!(container.record.spec.network, NetworkMode::Host | NetworkMode::None);
        Sample {
            time,
            running: true,
            cgroup: container_cgroup(container).map(|cgroup| cgroup.usage()),
            machine_nanoseconds,
            cpus,
            machine_memory: machine_memory(),
            interfaces: if own_network { interfaces(process) } else { Vec::new() },
        }
    }

    /// The container of that name, with what it uses now.
    pub fn stats(&self, text: &str) -> Result<(Container, Sample)> {
        let container = self.container(text)?;
        let sample = self.sample(&container);
        Ok((container, sample))
    }
}

/// CPU time of the whole machine (`/proc/stat`) in nanoseconds, and how many CPUs there are. Guests'
/// time is part of the users' already.
fn machine_cpu(text: &str) -> (u64, u32) {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let all = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: u64 = all.split_whitespace().take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
    let is_cpu = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    (ticks * tick, text.lines().filter(is_cpu).count() as u32)
}

/// Whether containers' cgroups can have a controller: `memory`, `pids`, `cpu`, ...
pub fn has_controller(name: &str) -> bool {
    let hierarchies = cgroup::detect();
    let mounts = hierarchies.mounts();
    match hierarchies.version() {
        Version::V1 => mounts.contains_key(name),
        Version::V2 => mounts.get("").is_some_and(|unified| {
            let text = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().any(|found| found == name)
        }),
        Version::None => false,
    }
}

/// Whether swap of containers can be limited.
pub fn has_swap_limit() -> bool {
    let hierarchies = cgroup::detect();
    match hierarchies.version() {
        Version::V1 => hierarchies
            .mounts()
            .get("memory")
            .is_some_and(|memory| memory.join("memory.memsw.limit_in_bytes").exists()),
        // Every cgroup but the root has the file, if the kernel counts swap.
        Version::V2 => hierarchies.mounts().get("").is_some_and(|unified| {
            let children = fs::read_dir(unified).into_iter().flatten().flatten();
            children.map(|child| child.path().join("memory.swap.max")).any(|file| file.exists())
        }),
        Version::None => false,
    }
}

/// Whether containers' share of time can have a limit (`--cpus`, `--cpu-quota`), as opposed to a weight.
pub fn has_cpu_bandwidth() -> bool {
    let hierarchies = cgroup::detect();
    match hierarchies.version() {
        Version::V1 => {
            hierarchies.mounts().get("cpu").is_some_and(|cpu| cpu.join("cpu.cfs_quota_us").exists())
        }
        // The root has no such file, and its children only where the controller is delegated.
        Version::V2 => {
            has_controller("cpu") && Path::new("/proc/sys/kernel/sched_cfs_bandwidth_slice_us").exists()
        }
        Version::None => false,
    }
}

/// The machine's memory in bytes.
pub(crate) fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit.max(1)).saturating_mul(info.totalram)
}

/// The interfaces that a process sees, if it is still that one.
fn interfaces(process: &ProcessRecord) -> Vec<Interface> {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", process.pid)).unwrap_or_default();
    // Asked behind the reading: the file was this process's.
    if process::start_time(process.pid) != Some(process.start_time) {
        return Vec::new();
    }
    read_interfaces(&text)
}

/// The lines of `/proc/net/dev` behind its two of headings.
fn read_interfaces(text: &str) -> Vec<Interface> {
    let read = |line: &str| -> Option<Interface> {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied();
        Some(Interface {
            name: name.trim().to_owned(),
            received: at(0)?,
            received_packets: at(1)?,
            received_errors: at(2)?,
            received_dropped: at(3)?,
            sent: at(8)?,
            sent_packets: at(9)?,
            sent_errors: at(10)?,
            sent_dropped: at(11)?,
        })
    };
    text.lines().filter_map(read).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes    packets errs\n    \
                    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
                    eth0:1024 2 0 1 0 0 0 0 2048 3 1 0 0 0 0 0\n";
        let found = read_interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].received, found[0].sent, found[0].received_dropped),
            ("eth0", 1024, 2048, 1)
        );
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let stat = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 1 1 1\ncpu1 0 1 2 3\nintr 5\n";
        assert_eq!(machine_cpu(stat), (36 * tick, 2));
    }

    #[test]
    fn a_busy_cpu_is_a_hundred_percent() {
        let sample = |cpu: u64, machine: u64| Sample {
            running: true,
            cgroup: Some(Usage {
                cpu_nanoseconds: cpu,
                memory: 100,
                memory_inactive_file: 40,
                ..Usage::default()
            }),
            machine_nanoseconds: machine,
            cpus: 4,
            machine_memory: 1000,
            ..Sample::default()
        };
        // One of four CPUs, for a second.
        assert!(
            (sample(1_500_000_000, 4_000_000_000).cpu_percent(&sample(500_000_000, 0)) - 100.0).abs() < 1e-9
        );
        assert!(sample(5, 0).cpu_percent(&sample(0, 0)).abs() < 1e-9);
        assert_eq!((sample(0, 0).memory(), sample(0, 0).memory_limit()), (60, 1000));
        assert_eq!((Sample::default().memory(), Sample::default().memory_limit()), (0, 0));
    }
}
