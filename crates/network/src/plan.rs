//! What a network and a container's place in it are, their checks, and the choice of addresses.
//! Pure: nothing here asks the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use robot_env_diag::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::subnet::Subnet;

/// The default network's bridge.
pub const DEFAULT_BRIDGE: &str = "robot-env0";
/// What the bridge of every other network begins with.
pub const BRIDGE_PREFIX: &str = "re-";

/// How a network reaches its containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the field's
pub enum Driver {
    #[default]
    Bridge,
    Macvlan,
    Ipvlan,
    Host,
    None,
}

impl Driver {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
            Driver::Host => "host",
            Driver::None => "none",
        }
    }
}

impl FromStr for Driver {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [Driver::Bridge, Driver::Macvlan, Driver::Ipvlan, Driver::Host, Driver::None]
            .into_iter()
            .find(|driver| driver.name() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "cannot use network driver `{text}`: there are bridge, macvlan, ipvlan, host and none"
                ))
            })
    }
}

/// A range of a network, and which part of it containers get addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The addresses that are on the link.
    pub subnet: Subnet,
    /// Where addresses are taken from when nobody asks for one; all of `subnet` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Subnet>,
    /// The bridge's address and the containers' default route; of an internal network only the
    /// bridge's address. `None`: the first address that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl Range {
    /// One of all of `subnet`, with its first address as the gateway.
    pub fn of(subnet: Subnet) -> Range {
        Range { subnet, pool: None, gateway: subnet.nth(1) }
    }
}

/// A network as its record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// What users call it.
    pub name: String,
    /// How it reaches its containers.
    #[serde(default)]
    pub driver: Driver,
    /// The bridge's name; empty for other drivers. See [`bridge_name`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bridge: String,
    /// Its addresses: of a bridge at least one range; at most one for each of IPv4 and IPv6.
    #[serde(default)]
    pub ranges: Vec<Range>,
    /// No way out and none in.
    #[serde(default)]
    pub internal: bool,
    /// Containers of it reach each other (`com.docker.network.bridge.enable_icc`).
    #[serde(default = "yes")]
    pub connected: bool,
    /// What leaves the host gets the host's address
    /// (`com.docker.network.bridge.enable_ip_masquerade`).
    #[serde(default = "yes")]
    pub masquerade: bool,
    /// The links' maximal transmission unit; the kernel's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The host's interface below macvlan and ipvlan (`parent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// `macvlan_mode` or `ipvlan_mode`; the driver's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Labels, for the user.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Driver options as the user gave them; [`Network::apply_options`] reads them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// The bridge of the network with this id: `re-` and the id's first 12 digits.
pub fn bridge_name(id: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", id.get(..12).unwrap_or(id))
}

/// Is an interface of this name a bridge of ours?
pub fn is_our_bridge(name: &str) -> bool {
    name == DEFAULT_BRIDGE
        || name.strip_prefix(BRIDGE_PREFIX).is_some_and(|rest| {
            rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
}

impl Network {
    /// A bridge network with the defaults.
    pub fn bridge(id: &str, name: &str, ranges: Vec<Range>) -> Network {
        Network {
            id: id.to_owned(),
            name: name.to_owned(),
            driver: Driver::Bridge,
            bridge: bridge_name(id),
            ranges,
            internal: false,
            connected: true,
            masquerade: true,
            mtu: None,
            parent: None,
            mode: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }

    /// Reads the driver options into the fields that they stand for. An option that nothing reads
    /// is refused: it would be a promise that nobody keeps.
    pub fn apply_options(&mut self) -> Result<()> {
        for (key, value) in self.options.clone() {
            let wrong =
                |reason: &str| Error::invalid(format!("cannot use network option `{key}={value}`: {reason}"));
            let truth = || match value.as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(wrong("neither true nor false")),
            };
            match (self.driver, key.as_str()) {
                (_, "mtu" | "com.docker.network.driver.mtu") => {
                    self.mtu = Some(value.parse().map_err(|_| wrong("not a number"))?);
                }
                (Driver::Bridge, "com.docker.network.bridge.enable_icc") => self.connected = truth()?,
                (Driver::Bridge, "com.docker.network.bridge.enable_ip_masquerade") => {
                    self.masquerade = truth()?;
                }
                (Driver::Bridge, "com.docker.network.bridge.name") => {
                    return Err(wrong("a bridge of robot-env has a name that the network's id gives"));
                }
                (Driver::Macvlan | Driver::Ipvlan, "parent") => self.parent = Some(value.clone()),
                (Driver::Macvlan, "mode" | "macvlan_mode") | (Driver::Ipvlan, "mode" | "ipvlan_mode") => {
                    self.mode = Some(value.clone());
                }
                _ => {
                    return Err(wrong(&format!("driver {} has no such option", self.driver.name())));
                }
            }
        }
        Ok(())
    }

    /// Is the network's configuration one that can be made?
    pub fn check(&self) -> Result<()> {
        let wrong =
            |reason: String| Error::invalid(format!("cannot create network `{}`: {reason}", self.name));
        check_name(&self.name)?;
        match self.driver {
            Driver::Bridge if self.ranges.is_empty() => return Err(wrong("it has no subnet".into())),
            Driver::Bridge if !is_our_bridge(&self.bridge) => {
                return Err(wrong(format!("`{}` is not a bridge's name", self.bridge)));
            }
            Driver::Macvlan | Driver::Ipvlan if self.parent.is_none() => {
                return Err(wrong("it needs the host's interface: -o parent=NAME".into()));
            }
            Driver::Host | Driver::None if !self.ranges.is_empty() || self.internal => {
                return Err(wrong(format!("driver {} has no addresses", self.driver.name())));
            }
            _ => {}
        }
        mode_number(self.driver, self.mode.as_deref())?;
        if let Some(mtu) = self.mtu
            && !(68..=65535).contains(&mtu)
        {
            return Err(wrong(format!("an mtu of {mtu} is not between 68 and 65535")));
        }
        if self.ranges.iter().any(|range| range.subnet.is_v6()) && self.mtu.is_some_and(|mtu| mtu < 1280) {
            return Err(wrong("IPv6 needs an mtu of at least 1280".into()));
        }
        for (at, range) in self.ranges.iter().enumerate() {
            let Range { subnet, pool, gateway } = *range;
            if self.ranges[..at].iter().any(|other| other.subnet.is_v6() == subnet.is_v6()) {
                return Err(wrong(format!(
                    "it has more than one IPv{} subnet",
                    if subnet.is_v6() { 6 } else { 4 }
                )));
            }
            if subnet.host_mask() < 3 && self.driver == Driver::Bridge {
                return Err(wrong(format!("subnet {subnet} has no room for a gateway and a container")));
            }
            let address = subnet.address();
            if address.is_loopback() || address.is_multicast() || subnet.prefix() == 0 {
                return Err(wrong(format!("subnet {subnet} is not one for containers")));
            }
            if let Some(pool) = pool
                && !subnet.covers(pool)
            {
                return Err(wrong(format!("ip range {pool} is not inside subnet {subnet}")));
            }
            if let Some(gateway) = gateway
                && (!subnet.contains(gateway) || subnet.reserves(gateway))
            {
                return Err(wrong(format!("gateway {gateway} is not an address of subnet {subnet}")));
            }
        }
        Ok(())
    }

    /// The network with a gateway for each range that had none: its first address, or for a pool
    /// that begins there the same. An internal network that is not a bridge needs none.
    #[must_use]
    pub fn with_gateways(mut self) -> Network {
        for range in &mut self.ranges {
            if range.gateway.is_none() && (self.driver == Driver::Bridge || !self.internal) {
                range.gateway = range.subnet.nth(1);
            }
        }
        self
    }

    /// Chooses the addresses of a container in this network. `taken` are the addresses of its other
    /// endpoints (the gateways are known here); `from` is where in the pool to look first, behind the place that the one before got
    /// ([`Network::place_of`]): a place is not given again at once, because a namespace that is dying
    /// may still answer.
    pub fn allocate(&self, request: &Request, taken: &BTreeSet<IpAddr>, from: u64) -> Result<Endpoint> {
        let mut addresses = Vec::new();
        for (wanted, v6) in [(request.ip.map(IpAddr::V4), false), (request.ip6.map(IpAddr::V6), true)] {
            let range = self.ranges.iter().find(|range| range.subnet.is_v6() == v6);
            match (range, wanted) {
                (Some(range), Some(wanted)) => addresses.push((self.claim(range, wanted, taken)?, range)),
                (Some(range), None) => addresses.push((self.next(range, taken, from)?, range)),
                (None, Some(wanted)) => {
                    return Err(Error::invalid(format!(
                        "cannot use address {wanted} in network `{}`: it has no IPv{} subnet",
                        self.name,
                        if v6 { 6 } else { 4 }
                    )));
                }
                (None, None) => {}
            }
        }
        let mac = match request.mac {
            Some(mac) => mac,
            None => Mac::of(addresses.iter().map(|(address, _)| *address)),
        };
        Ok(Endpoint {
            addresses: addresses
                .iter()
                .map(|(address, range)| Address { address: *address, prefix: range.subnet.prefix() })
                .collect(),
            gateways: if self.internal {
                Vec::new()
            } else {
                addresses.iter().filter_map(|(_, range)| range.gateway).collect()
            },
            mac,
            aliases: request.aliases.clone(),
        })
    }

    fn claim(&self, range: &Range, wanted: IpAddr, taken: &BTreeSet<IpAddr>) -> Result<IpAddr> {
        let wrong = |kind, reason: String| {
            Error::new(kind, format!("cannot use address {wanted} in network `{}`: {reason}", self.name))
        };
        if !range.subnet.contains(wanted) {
            return Err(wrong(Kind::InvalidInput, format!("it is not in subnet {}", range.subnet)));
        }
        if range.subnet.reserves(wanted) {
            return Err(wrong(Kind::InvalidInput, "no interface can have it".into()));
        }
        if range.gateway == Some(wanted) {
            return Err(wrong(Kind::Conflict, "it is the gateway's".into()));
        }
        if taken.contains(&wanted) {
            return Err(wrong(Kind::Conflict, "another container has it".into()));
        }
        Ok(wanted)
    }

    /// The place of an address in its range's pool, for the next [`Network::allocate`].
    pub fn place_of(&self, address: IpAddr) -> Option<u64> {
        let range = self.ranges.iter().find(|range| range.subnet.contains(address))?;
        range.pool.unwrap_or(range.subnet).offset(address)?.try_into().ok()
    }

    /// The first free address of the range's pool from the place `from` on, or before it.
    /// The walk is over what is taken, so a full /8 costs as much as its containers.
    fn next(&self, range: &Range, taken: &BTreeSet<IpAddr>, from: u64) -> Result<IpAddr> {
        let pool = range.pool.unwrap_or(range.subnet);
        let from = u128::from(from);
        (from..=pool.host_mask())
            .chain(0..from.min(pool.host_mask().saturating_add(1)))
            .map_while(|offset| pool.nth(offset))
            .find(|address| {
                !range.subnet.reserves(*address)
                    && range.gateway != Some(*address)
                    && !taken.contains(address)
            })
            .ok_or_else(|| {
                Error::new(
                    Kind::Unavailable,
                    format!(
                        "cannot give a container an address in network `{}`: all of {pool} are taken",
                        self.name
                    ),
                )
            })
    }
}

/// A name: letters, digits, `_`, `.`, `-`, the first of them a letter or a digit.
fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let good = name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || matches!(b, b'_' | b'.' | b'-'));
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "cannot name a network `{}`: a name has letters, digits, `_`, `.` and `-` and begins with a letter or a digit",
        name.escape_default()
    )))
}

/// The kernel's number of a macvlan or ipvlan mode.
pub(crate) fn mode_number(driver: Driver, mode: Option<&str>) -> Result<u32> {
    Ok(match (driver, mode) {
        (Driver::Macvlan, None | Some("bridge")) => 4,
        (Driver::Macvlan, Some("private")) => 1,
        (Driver::Macvlan, Some("vepa")) => 2,
        (Driver::Macvlan, Some("passthru")) => 8,
        (Driver::Ipvlan, None | Some("l2")) => 0,
        (Driver::Ipvlan, Some("l3")) => 1,
        (Driver::Ipvlan, Some("l3s")) => 2,
        (_, None) => 0,
        (driver, Some(mode)) => {
            return Err(Error::invalid(format!(
                "cannot use mode `{mode}`: driver {} has no such mode",
                driver.name()
            )));
        }
    })
}

/// What a user asks of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `--ip`.
    pub ip: Option<Ipv4Addr>,
    /// `--ip6`.
    pub ip6: Option<Ipv6Addr>,
    /// `--mac-address`.
    pub mac: Option<Mac>,
    /// `--network-alias`.
    pub aliases: Vec<String>,
}

/// An address with its subnet's prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The subnet's prefix length.
    pub prefix: u8,
}

/// A container's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// At most one of each family.
    pub addresses: Vec<Address>,
    /// Where its default routes go; none in an internal network.
    pub gateways: Vec<IpAddr>,
    /// The interface's hardware address.
    pub mac: Mac,
    /// Names beside the container's own.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// A hardware address, written `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that belongs to a container's addresses. It follows from them, so that neighbours
    /// which knew the address before have the right entry when the next container gets it.
    fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Mac {
        match addresses.into_iter().next() {
            Some(IpAddr::V4(v4)) => {
                let [a, b, c, d] = v4.octets();
                Mac([0x02, 0x42, a, b, c, d])
            }
            Some(IpAddr::V6(v6)) => {
                let bytes = v6.octets();
                let [a, b, c, d] = [bytes[12], bytes[13], bytes[14], bytes[15]];
                Mac([0x02, 0x46, a, b, c, d])
            }
            None => Mac::random(),
        }
    }

    /// A random one of the locally administered, individual kind.
    pub fn random() -> Mac {
        let mut bytes = random::<6>();
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Mac(bytes)
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    // getrandom gives up to 256 bytes at once; it fails only before the machine has booted.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&pairs.join(":"))
    }
}

impl FromStr for Mac {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason| Error::invalid(format!("cannot use MAC address `{text}`: {reason}"));
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| wrong("it is not six pairs of hexadecimal digits"))?;
        }
        if parts.next().is_some() {
            return Err(wrong("it is not six pairs of hexadecimal digits"));
        }
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(wrong("it does not name one interface"));
        }
        Ok(Mac(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
