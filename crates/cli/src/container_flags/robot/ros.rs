//! `--ros`: what DDS and ROS need to find each other, and to carry data once they have.
//!
//! Fast DDS lists topics over shared memory but carries no data where the IPC namespace or the user
//! differ (Fast-DDS#2956, #5396). So either all of it is the host's, or shared memory is not used.

use std::fs;
use std::path::Path;

use robot_env_spec::{IpcMode, NetworkMode};

use super::super::{ContainerFlags, Wanted};
use crate::ambient::Ambient;

/// Variables of ROS 1 and 2 that a container gets as the caller has them.
const PASSED: [&str; 10] = [
    "ROS_DOMAIN_ID",
    "ROS_MASTER_URI",
    "ROS_IP",
    "ROS_HOSTNAME",
    "ROS_NAMESPACE",
    "ROS_LOCALHOST_ONLY",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "RMW_IMPLEMENTATION",
];
const UDP_ONLY: &str = "FASTDDS_BUILTIN_TRANSPORTS=UDPv4";
/// Bytes of `/dev/shm`: an image of a camera does not fit into the usual 64 MiB many times.
const SHARED_MEMORY: u64 = 512 << 20;
/// Domains whose ports do not collide with those that Linux hands out: 0 to 101; 0 is everybody's.
const DOMAINS: u64 = 101;

/// Adds what is not given by other flags, which always win.
pub(super) fn apply(flags: &ContainerFlags, ambient: &Ambient, private: bool, wanted: &mut Wanted) {
    let spec = &mut wanted.spec;
    if !private {
        if spec.network == NetworkMode::Default && flags.network.is_empty() {
            spec.network = NetworkMode::Host;
        }
        if flags.ipc.is_none() && flags.shm_size.is_none() {
            spec.ipc = IpcMode::Host;
        }
        if flags.user.is_none() && flags.robot.user_map.is_none() {
            spec.robot.user_map_host = true;
        }
    }
    let shares = spec.network == NetworkMode::Host && spec.ipc == IpcMode::Host;
    let mut variables: Vec<String> = PASSED
        .into_iter()
        .filter_map(|name| {
            Some(format!("{name}={}", ambient.variable(name).filter(|value| !value.is_empty())?))
        })
        .collect();
    if !variables.iter().any(|entry| entry.starts_with("ROS_DOMAIN_ID=")) {
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        variables.push(format!("ROS_DOMAIN_ID={}", domain(machine.trim(), &project(&ambient.directory))));
    }
    if !shares {
        variables.push(UDP_ONLY.into());
        if flags.shm_size.is_none() && spec.ipc == IpcMode::Private {
            spec.shm_size = Some(SHARED_MEMORY);
        }
        if !private && spec.network == NetworkMode::Host {
            wanted.warnings.push(
                "ROS: the network is the host's but the IPC namespace is not: Fast DDS uses UDP only, other DDS may list topics without data".into(),
            );
        }
    }
    for entry in variables {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        let given = |had: &String| had.split_once('=').map_or(had.as_str(), |(other, _)| other) == name;
        if !spec.env.iter().any(given) {
            spec.env.push(entry);
        }
    }
}

/// The directory that a project is known by: the nearest one above that is a repository or a
/// workspace, else the working directory.
fn project(directory: &Path) -> String {
    let is_project = |path: &&Path| {
        [".git", "robot-env.toml", ".devcontainer", ".catkin_workspace"]
            .iter()
            .any(|name| path.join(name).exists())
    };
    directory.ancestors().find(is_project).unwrap_or(directory).to_string_lossy().into_owned()
}

/// A project's domain on one machine (FNV-1a of both).
fn domain(machine: &str, project: &str) -> u64 {
    let bytes = machine.bytes().chain([0]).chain(project.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    1 + hash % DOMAINS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_stable_and_in_range() {
        assert_eq!(domain("m", "/home/ann/ws"), domain("m", "/home/ann/ws"));
        assert_ne!(domain("m", "/home/ann/ws"), domain("m", "/home/ann/other"));
        assert_ne!(domain("m", "/home/ann/ws"), domain("n", "/home/ann/ws"));
        for number in 0..1000 {
            assert!((1..=101).contains(&domain("m", &number.to_string())));
        }
    }
}
