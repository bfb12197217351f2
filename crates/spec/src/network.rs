//! What a container wants of networks: its places in them and the ports that it publishes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use robot_env_diag::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{ContainerSpec, NetworkMode};

/// A container's place in one network, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// The network's name.
    pub network: String,
    /// Names beside the container's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// A fixed IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// A fixed hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The network with the highest one has the default route; of equals the first.
    pub gateway_priority: i64,
}

impl EndpointSpec {
    /// One that asks for nothing more.
    pub fn of(network: &str) -> EndpointSpec {
        EndpointSpec { network: network.to_owned(), ..EndpointSpec::default() }
    }
}

/// A port to publish: `-p [host:][ports:]port[/protocol]`, one container port each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// The host's address; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The first and last of the host's ports to choose from; absent: a random free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ports: Option<(u16, u16)>,
    /// The container's port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

impl PortSpec {
    /// `80/tcp`, as lists and records name it.
    pub fn key(&self) -> String {
        format!("{}/{}", self.port, self.protocol)
    }
}

/// The network that a container gets when nobody names one.
pub const DEFAULT_NETWORK: &str = "bridge";

impl ContainerSpec {
    /// Its places in networks, in order: none with the host's network, no network, or another
    /// container's.
    pub fn places(&self) -> Vec<EndpointSpec> {
        let name = match &self.network {
            NetworkMode::Default => DEFAULT_NETWORK,
            NetworkMode::Network(name) => name,
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => return Vec::new(),
        };
        if self.endpoints.is_empty() { vec![EndpointSpec::of(name)] } else { self.endpoints.clone() }
    }

    pub(crate) fn check_places(&self) -> Result<()> {
        let networked = matches!(self.network, NetworkMode::Default | NetworkMode::Network(_));
        if !networked && !self.endpoints.is_empty() {
            return Err(Error::invalid("conflicting options: a network's settings and the network mode"));
        }
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            if self.endpoints[..at].iter().any(|other| other.network == endpoint.network) {
                return Err(Error::invalid(format!(
                    "conflicting options: network `{}` is named twice",
                    endpoint.network
                )));
            }
            for alias in &endpoint.aliases {
                let bad = |b: u8| b.is_ascii_control() || b.is_ascii_whitespace();
                if alias.is_empty() || alias.len() > 253 || alias.bytes().any(bad) {
                    return Err(Error::invalid(format!(
                        "invalid network alias `{}`",
                        alias.escape_default()
                    )));
                }
            }
        }
        if !self.can.is_empty() && matches!(self.network, NetworkMode::Host | NetworkMode::Container(_)) {
            return Err(Error::invalid(
                "conflicting options: a CAN interface and a container without a network namespace of its own",
            ));
        }
        for name in &self.can {
            if name.is_empty() || name.len() > 15 || name.contains(|c: char| c == '/' || c.is_whitespace()) {
                return Err(Error::invalid(format!("invalid CAN interface `{}`", name.escape_default())));
            }
        }
        for port in &self.publish {
            if !matches!(port.protocol.as_str(), "tcp" | "udp") || port.port == 0 {
                return Err(Error::invalid(format!("invalid port `{}`: it cannot be published", port.key())));
            }
            if port.host_ports.is_some_and(|(first, last)| first == 0 || first > last) {
                return Err(Error::invalid(format!(
                    "invalid host port for `{}`: it is not a range",
                    port.key()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_mode() {
        let spec = |network, endpoints: &[&str]| ContainerSpec {
            network,
            endpoints: endpoints.iter().map(|name| EndpointSpec::of(name)).collect(),
            ..ContainerSpec::default()
        };
        let names =
            |spec: &ContainerSpec| spec.places().into_iter().map(|place| place.network).collect::<Vec<_>>();
        for (network, endpoints, want) in [
            (NetworkMode::Default, &[][..], &["bridge"][..]),
            (NetworkMode::Network("a".into()), &[], &["a"]),
            (NetworkMode::Network("a".into()), &["a", "b"], &["a", "b"]),
            (NetworkMode::Host, &[], &[]),
            (NetworkMode::None, &[], &[]),
            (NetworkMode::Container("c".into()), &[], &[]),
        ] {
            let spec = spec(network, endpoints);
            assert_eq!(names(&spec), want, "{:?}", spec.network);
            assert!(spec.check_places().is_ok());
        }
        assert!(spec(NetworkMode::Host, &["a"]).check_places().is_err());
        assert!(spec(NetworkMode::Network("a".into()), &["a", "a"]).check_places().is_err());
    }
}
