//! What ROS programs trip over.

use robot_env_oci::RuntimeConfig;
use robot_env_spec::{ContainerSpec, IpcMode, NetworkMode};

/// Fast DDS prefers shared memory for whoever seems to be on the same host. With the host's network
/// a container seems so, and with an IPC namespace of its own it is not: topics are listed and no data
/// comes (eProsima/Fast-DDS#2956, #5396).
pub(crate) fn shared_memory_warning(spec: &ContainerSpec, image: &RuntimeConfig) -> Option<String> {
    let value = |name: &str| {
        let of = |list: &[String]| {
            let found = list.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned)
        };
        of(&spec.env).or_else(|| of(&image.env))
    };
    let distribution = value("ROS_DISTRO")?;
    let is_dds = !matches!(distribution.as_str(), "indigo" | "kinetic" | "lunar" | "melodic" | "noetic");
    let is_fast = value("RMW_IMPLEMENTATION").is_none_or(|name| name.contains("fastrtps"));
    let decided = value("FASTDDS_BUILTIN_TRANSPORTS").is_some()
        || value("FASTRTPS_DEFAULT_PROFILES_FILE").is_some()
        || value("FASTDDS_DEFAULT_PROFILES_FILE").is_some();
    let private = matches!(spec.ipc, IpcMode::Private | IpcMode::Shareable | IpcMode::None);
    (spec.network == NetworkMode::Host && private && is_dds && is_fast && !decided).then(|| {
        "with the host's network and an IPC namespace of its own, Fast DDS lists the topics of programs \
         outside the container but gets no data: add --ipc host (and the same user), or \
         -e FASTDDS_BUILTIN_TRANSPORTS=UDPv4"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fast_dds_on_the_hosts_network_is_warned() {
        let warns = |network: NetworkMode, ipc: IpcMode, image: &[&str], env: &[&str]| {
            let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
            let spec = ContainerSpec { network, ipc, env: words(env), ..ContainerSpec::default() };
            shared_memory_warning(&spec, &RuntimeConfig { env: words(image), ..RuntimeConfig::default() })
                .is_some()
        };
        let (host, private) = (NetworkMode::Host, IpcMode::Private);
        let humble = &["ROS_DISTRO=humble"][..];
        for (network, ipc, image, env, want) in [
            (host.clone(), private.clone(), humble, &[][..], true),
            (host.clone(), IpcMode::Host, humble, &[], false),
            (NetworkMode::Default, private.clone(), humble, &[], false),
            (host.clone(), private.clone(), &["ROS_DISTRO=noetic"], &[], false),
            (host.clone(), private.clone(), &[], &[], false),
            (host.clone(), private.clone(), humble, &["FASTDDS_BUILTIN_TRANSPORTS=UDPv4"], false),
            (host.clone(), private.clone(), humble, &["RMW_IMPLEMENTATION=rmw_cyclonedds_cpp"], false),
            (host, private, humble, &["RMW_IMPLEMENTATION=rmw_fastrtps_cpp"], true),
        ] {
            assert_eq!(warns(network, ipc, image, env), want, "{image:?} {env:?}");
        }
    }
}
