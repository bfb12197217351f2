//! `--realtime`: whether this host lets the container's threads have real-time priorities, and what
//! stands in the way.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Spec;
use robot_env_spec::HostFacts;
use robot_env_sys::cgroup::{Hierarchies, Version};
use robot_env_sys::errno_name;
use robot_env_sys::process::{Scheduling, set_scheduling};

const BUDGET: &str = "cpu.rt_runtime_us";
/// Of each second, what the cgroup above all containers may use, and one container, in microseconds.
const ALL: i64 = 900_000;
const ONE: i64 = 400_000;

/// Gives the plan a share of real time where the kernel divides it among cgroups, and says what
/// stands in the way.
pub(crate) fn prepare(
    path: Option<&str>,
    hierarchies: &Hierarchies,
    host: &HostFacts,
    plan: &mut Spec,
) -> Vec<String> {
    let cpu = hierarchies.mounts().get("cpu").filter(|_| hierarchies.version() == Version::V1);
    if let (Some(path), Some(cpu)) = (path, cpu)
        && cpu.join(BUDGET).exists()
    {
        return share(path, cpu, plan).into_iter().collect();
    }
    try_it(host).into_iter().collect()
}

/// With CONFIG_RT_GROUP_SCHED a new cgroup has no real time at all.
fn share(path: &str, cpu: &Path, plan: &mut Spec) -> Option<String> {
    let mut at = cpu.to_path_buf();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        at.push(part);
        let _ = fs::create_dir(&at);
        let file = at.join(BUDGET);
        let has =
            fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(0);
        if has == 0 && fs::write(&file, ALL.to_string()).is_err() {
            return Some(format!(
                "no real-time priorities: this kernel divides real time among cgroups (CONFIG_RT_GROUP_SCHED), and {} cannot have any",
                file.display()
            ));
        }
    }
    let linux = plan.linux_mut().get_or_insert_default();
    let resources = linux.resources_mut().get_or_insert_default();
    let cpu = resources.cpu_mut().get_or_insert_default();
    if cpu.realtime_runtime().is_none_or(|runtime| runtime == 0) {
        cpu.set_realtime_runtime(Some(ONE));
    }
    None
}

/// Tries it on this very thread.
fn try_it(host: &HostFacts) -> Option<String> {
    const FIFO: u32 = 1;
    let tried = set_scheduling(&Scheduling { policy: FIFO, priority: 1, ..Scheduling::default() });
    let _ = set_scheduling(&Scheduling::default());
    let refusal = tried.err()?.errno();
    let why = if host.rootless {
        let most = host.hard_limits.get("rtprio").copied().unwrap_or(u64::MAX);
        format!(
            "this user's limit of real-time priority is {most}; write `USER - rtprio 99` and `USER - memlock unlimited` into /etc/security/limits.d/realtime.conf and log in again"
        )
    } else if host.capabilities.contains("CAP_SYS_NICE") {
        "the kernel refuses it; /proc/sys/kernel/sched_rt_runtime_us may be 0".into()
    } else {
        "the engine itself has no CAP_SYS_NICE".into()
    };
    Some(format!("no real-time priorities: {why} (sched_setattr: {})", errno_name(refusal)))
}
