//! `NetworkSettings` of containers, and networks themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use robot_env_engine::{LiveEndpoint, NetworkRecord, Place};
use robot_env_network::firewall::Port;
use robot_env_spec::NetworkMode;
use serde::Serialize;

use crate::null_if_empty;
use crate::time::rfc3339;

/// A port of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct PortBinding {
    pub host_ip: String,
    pub host_port: String,
}

/// A container's networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct NetworkSettings {
    pub bridge: String,
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    pub sandbox_key: String,
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    pub hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    pub link_local_ipv6_address: String,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    pub link_local_ipv6_prefix_len: u32,
    #[serde(rename = "SecondaryIPAddresses")]
    pub secondary_ip_addresses: Option<Vec<String>>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    pub secondary_ipv6_addresses: Option<Vec<String>>,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u32,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u32,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    pub mac_address: String,
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A container's place in one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<BTreeMap<String, String>>,
    pub links: Option<Vec<String>>,
    pub aliases: Option<Vec<String>>,
    pub mac_address: String,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub gw_priority: i64,
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub gateway: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u32,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u32,
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

/// `host`, `none`, `container:x`, or a network's name.
pub fn mode_word(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => robot_env_spec::DEFAULT_NETWORK.into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Host => "host".into(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Network(name) => name.clone(),
    }
}

impl EndpointSettings {
    /// From the engine's. The addresses are there while the container runs.
    pub fn new(place: &Place, container: &str) -> Self {
        let spec = &place.spec;
        let fixed: BTreeMap<String, String> = [
            ("IPv4Address", spec.ip.map(|ip| ip.to_string())),
            ("IPv6Address", spec.ip6.map(|ip| ip.to_string())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
        let mut out = EndpointSettings {
            ipam_config: (!fixed.is_empty()).then_some(fixed),
            aliases: null_if_empty(spec.aliases.clone()),
            mac_address: spec.mac.clone().unwrap_or_default(),
            gw_priority: spec.gateway_priority,
            network_id: place.network.as_ref().map(|n| n.network.id.clone()).unwrap_or_default(),
            ..EndpointSettings::default()
        };
        let Some(live) = &place.live else { return out };
        let endpoint = &live.attachment.endpoint;
        out.endpoint_id.clone_from(&live.id);
        out.mac_address = endpoint.mac.to_string();
        if place.network.as_ref().is_some_and(NetworkRecord::has_names) {
            out.dns_names = Some(live.names(container));
        }
        for gateway in &endpoint.gateways {
            match gateway {
                IpAddr::V4(v4) => out.gateway = v4.to_string(),
                IpAddr::V6(v6) => out.ipv6_gateway = v6.to_string(),
            }
        }
        for address in &endpoint.addresses {
            let (text, prefix) = (address.address.to_string(), u32::from(address.prefix));
            if address.address.is_ipv6() {
                (out.global_ipv6_address, out.global_ipv6_prefix_len) = (text, prefix);
            } else {
                (out.ip_address, out.ip_prefix_len) = (text, prefix);
            }
        }
        out
    }
}

impl PortBinding {
    /// Where a published port is on the host.
    pub fn new(port: &Port) -> Self {
        PortBinding { host_ip: port.host_address().to_string(), host_port: port.host_port.to_string() }
    }
}

impl NetworkSettings {
    /// The settings of a container. `exposed` are its ports, `places` its places in networks.
    pub fn new(
        container: &str,
        mode: &NetworkMode,
        exposed: impl IntoIterator<Item = String>,
        running: bool,
        places: &[Place],
    ) -> Self {
        // As in Docker the ports are there only while the container has a sandbox.
        let has_ports = running && !matches!(mode, NetworkMode::Host | NetworkMode::Container(_));
        let mut out = NetworkSettings {
            ports: exposed.into_iter().filter(|_| has_ports).map(|port| (port, None)).collect(),
            ..NetworkSettings::default()
        };
        for port in places.iter().filter_map(|p| p.live.as_ref()).flat_map(|l| &l.attachment.ports) {
            let key = format!("{}/{}", port.container_port, port.protocol.name());
            out.ports.entry(key).or_default().get_or_insert_default().push(PortBinding::new(port));
        }
        for place in places {
            let endpoint = EndpointSettings::new(place, container);
            if place.spec.network == robot_env_spec::DEFAULT_NETWORK {
                out.endpoint_id.clone_from(&endpoint.endpoint_id);
                out.gateway.clone_from(&endpoint.gateway);
                out.ip_address.clone_from(&endpoint.ip_address);
                out.ip_prefix_len = endpoint.ip_prefix_len;
                out.ipv6_gateway.clone_from(&endpoint.ipv6_gateway);
                out.global_ipv6_address.clone_from(&endpoint.global_ipv6_address);
                out.global_ipv6_prefix_len = endpoint.global_ipv6_prefix_len;
                out.mac_address.clone_from(&endpoint.mac_address);
            }
            out.networks.insert(place.spec.network.clone(), endpoint);
        }
        if places.is_empty() {
            let name = match mode {
                NetworkMode::Container(_) => None,
                NetworkMode::Default | NetworkMode::None => Some("none".to_owned()),
                other => Some(mode_word(other)),
            };
            out.networks.extend(name.map(|name| (name, EndpointSettings::default())));
        }
        out
    }
}

/// A range of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct IpamConfig {
    pub subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    pub ip_range: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// How a network gives addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct Ipam {
    pub driver: String,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Vec<IpamConfig>,
}

/// Where a network's configuration is from; nowhere here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ConfigFrom {
    pub network: String,
}

/// A container in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct NetworkContainer {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub mac_address: String,
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// A network: `docker network inspect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct Network {
    pub name: String,
    pub id: String,
    pub created: String,
    pub scope: String,
    pub driver: String,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_from: ConfigFrom,
    pub config_only: bool,
    pub containers: BTreeMap<String, NetworkContainer>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

impl Network {
    /// From the engine's; `endpoints` are the containers in it now, by id.
    pub fn new(record: &NetworkRecord, endpoints: &BTreeMap<String, LiveEndpoint>) -> Self {
        let network = &record.network;
        let config = network.ranges.iter().map(|range| {
            let reserved = record.reserved.iter().filter(|(_, address)| range.subnet.contains(**address));
            IpamConfig {
                subnet: range.subnet.to_string(),
                ip_range: range.pool.map(|pool| pool.to_string()).unwrap_or_default(),
                gateway: range.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
                auxiliary_addresses: reserved.map(|(key, value)| (key.clone(), value.to_string())).collect(),
            }
        });
        Network {
            name: network.name.clone(),
            id: network.id.clone(),
            created: rfc3339(record.created),
            scope: "local".into(),
            driver: if network.driver.name() == "none" { "null" } else { network.driver.name() }.into(),
            enable_ipv4: true,
            enable_ipv6: record.ipv6 || network.ranges.iter().any(|range| range.subnet.is_v6()),
            ipam: Ipam { driver: "default".into(), options: None, config: config.collect() },
            internal: network.internal,
            attachable: record.attachable,
            containers: endpoints
                .iter()
                .map(|(id, live)| (id.clone(), NetworkContainer::new(live)))
                .collect(),
            options: network.options.clone(),
            labels: network.labels.clone(),
            ..Network::default()
        }
    }
}

impl NetworkContainer {
    fn new(live: &LiveEndpoint) -> Self {
        let endpoint = &live.attachment.endpoint;
        let address = |v6: bool| {
            let found = endpoint.addresses.iter().find(|address| address.address.is_ipv6() == v6);
            found.map(|address| format!("{}/{}", address.address, address.prefix)).unwrap_or_default()
        };
        NetworkContainer {
            name: live.name.clone(),
            endpoint_id: live.id.clone(),
            mac_address: endpoint.mac.to_string(),
            ipv4_address: address(false),
            ipv6_address: address(true),
        }
    }
}
