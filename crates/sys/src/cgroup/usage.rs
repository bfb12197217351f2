//! What a cgroup uses.

use super::{Cgroup, Version};

/// Numbers of a cgroup at one moment; 0 for what the kernel or a missing controller does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its processes.
    pub cpu_nanoseconds: u64,
    /// Of it, in the kernel.
    pub cpu_kernel_nanoseconds: u64,
    /// Of it, outside.
    pub cpu_user_nanoseconds: u64,
    /// Periods of a CPU quota that have passed.
    pub periods: u64,
    /// Of them, those in which the quota ran out.
    pub throttled_periods: u64,
    /// How long it was held up by its quota.
    pub throttled_nanoseconds: u64,
    /// Bytes of memory, caches included.
    pub memory: u64,
    /// The most bytes so far.
    pub memory_peak: u64,
    /// Limit in bytes; `None`: unlimited.
    pub memory_limit: Option<u64>,
    /// Of `memory`, the bytes of file caches.
    pub memory_cache: u64,
    /// Of `memory_cache`, those that nobody has used lately: what `docker stats` does not count.
    pub memory_inactive_file: u64,
    /// Processes that the kernel has killed for memory.
    pub oom_kills: u64,
    /// Number of tasks.
    pub processes: u64,
    /// Their limit; `None`: unlimited.
    pub processes_limit: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to them.
    pub written_bytes: u64,
}

/// The number behind a word in a file of lines `word number`.
fn field(text: &str, word: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// Bytes read and written in `io.stat`: `8:0 rbytes=1 wbytes=2 ...` a line.
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Bytes read and written in `blkio.throttle.io_service_bytes`: `8:0 Read 1` a line.
fn io_service_bytes(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let value = |line: &str| {
            let mut words = line.split(' ').skip(1);
            (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
        };
        text.lines().filter_map(value).sum()
    };
    (sum("Read"), sum("Write"))
}

impl Cgroup {
    /// Reads what it uses.
    pub fn usage(&self) -> Usage {
        let text = |controller: &str, file: &str| self.read(controller, file).unwrap_or_default();
        let number = |controller: &str, file: &str| self.number(controller, file);
        if self.version == Version::V2 {
            let (cpu, memory) = (text("", "cpu.stat"), text("", "memory.stat"));
            let (read_bytes, written_bytes) = io_stat(&text("", "io.stat"));
            return Usage {
                cpu_nanoseconds: field(&cpu, "usage_usec") * 1000,
                cpu_kernel_nanoseconds: field(&cpu, "system_usec") * 1000,
                cpu_user_nanoseconds: field(&cpu, "user_usec") * 1000,
                periods: field(&cpu, "nr_periods"),
                throttled_periods: field(&cpu, "nr_throttled"),
                throttled_nanoseconds: field(&cpu, "throttled_usec") * 1000,
                memory: number("", "memory.current").unwrap_or(0),
                memory_peak: number("", "memory.peak").unwrap_or(0),
                memory_limit: number("", "memory.max"),
                memory_cache: field(&memory, "file"),
                memory_inactive_file: field(&memory, "inactive_file"),
                oom_kills: self.oom_kills(),
                processes: number("", "pids.current").unwrap_or(0),
                processes_limit: number("", "pids.max"),
                read_bytes,
                written_bytes,
            };
        }
        let (cpu, memory) = (text("cpu", "cpu.stat"), text("memory", "memory.stat"));
        let split = text("cpuacct", "cpuacct.stat");
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let (read_bytes, written_bytes) = io_service_bytes(&text("blkio", "blkio.throttle.io_service_bytes"));
        // "Unlimited" is the largest multiple of the page size.
        let memory_limit = number("memory", "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62);
        Usage {
            cpu_nanoseconds: number("cpuacct", "cpuacct.usage").unwrap_or(0),
            cpu_kernel_nanoseconds: field(&split, "system") * tick,
            cpu_user_nanoseconds: field(&split, "user") * tick,
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_nanoseconds: field(&cpu, "throttled_time"),
            memory: number("memory", "memory.usage_in_bytes").unwrap_or(0),
            memory_peak: number("memory", "memory.max_usage_in_bytes").unwrap_or(0),
            memory_limit,
            memory_cache: field(&memory, "total_cache"),
            memory_inactive_file: field(&memory, "total_inactive_file"),
            oom_kills: self.oom_kills(),
            processes: number("pids", "pids.current").unwrap_or(0),
            processes_limit: number("pids", "pids.max"),
            read_bytes,
            written_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        assert_eq!(io_stat("8:0 rbytes=10 wbytes=2 rios=1\n7:1 rbytes=5 wbytes=1\n"), (15, 3));
        assert_eq!(
            io_service_bytes("8:0 Read 10\n8:0 Write 3\n8:0 Total 13\n7:0 Read 1\nTotal 14\n"),
            (11, 3)
        );
        let text = "usage_usec 12\nuser_usec 7\nnr_periods 3\n";
        assert_eq!((field(text, "usage_usec"), field(text, "user_usec"), field(text, "usec")), (12, 7, 0));
    }
}
