//! The rules: one nf_tables table, `inet robot-env`, by messages of our own.
//!
//! Its chains and rules are always the same; a network or a published port is an element of a set
//! or map, so that a container's start costs one small transaction and the packets' path does not
//! grow with the containers. What the table does:
//!
//! - published ports: destination translation by a map, before routing and on the host's own output
//!   (127.0.0.1 too, for IPv4), from outside, from the host and from any container;
//! - what leaves the host is masqueraded; so is a published port reached from a container;
//! - a container is reached from outside its network only through a published port; an internal
//!   network has no way in or out; containers of different networks don't reach each other;
//! - containers don't reach the host's 127.0.0.1.
//!
//! What the kernel cannot translate ([`Port::is_relayed`]: IPv6 of the host to IPv4 of a container, and
//! `::1`) is left to whoever listens at the port.
//!
//! Beside other firewalls: an accept of ours does not overrule a drop of another table, so a chain
//! of another program that drops what it forwards (Docker's and ufw's `FORWARD` policy) gets four
//! accepting rules for our bridges, in `DOCKER-USER` where that exists; our table still isolates.
//! See [`obstacle`] for what cannot be mended like that (firewalld, legacy iptables).
//!
//! Everything is a transaction: all or nothing, whenever the caller dies.

mod expression;
mod message;
pub mod obstacle;
mod ruleset;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::netlink::{CREATE, NetlinkSocket};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::plan::Network;
use crate::sysctl;
use message::{NFNL_SUBSYS_NFTABLES, delete_elements, insert_elements};
use ruleset::Elements;

pub use message::TABLE;

/// The protocols that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A published port. One of both families is two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The host's address; `None`: every one of the container address's family. Of the other family
    /// it is always said, every one of them by `0.0.0.0` or `::`.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The container's address.
    pub container: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

impl Port {
    /// `0.0.0.0:8080/tcp`, for messages.
    pub fn name(&self) -> String {
        let host = match self.host_address() {
            IpAddr::V6(v6) => format!("[{v6}]"),
            IpAddr::V4(v4) => v4.to_string(),
        };
        format!("{host}:{}/{}", self.host_port, self.protocol.name())
    }

    /// The host's address; the unspecified one stands for every address of its family.
    pub fn host_address(&self) -> IpAddr {
        self.host.unwrap_or(any(self.container.is_ipv6()))
    }

    /// The same place on the host, which leads to a container of these addresses: to one of the
    /// host's family if there is one. `None` without any address.
    #[must_use]
    pub fn leading_to(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Option<Port> {
        let at = self.host_address();
        let container = addresses.into_iter().min_by_key(|address| address.is_ipv6() != at.is_ipv6())?;
        let plain = at.is_unspecified() && at.is_ipv6() == container.is_ipv6();
        Some(Port { host: (!plain).then_some(at), container, ..*self })
    }

    /// Does the table translate it? The kernel neither translates between families nor routes `::1`.
    pub fn is_translated(&self) -> bool {
        let at = self.host_address();
        at.is_ipv6() == self.container.is_ipv6() && !(at.is_ipv6() && at.is_loopback())
    }

    /// Is there a way to it that the table does not translate, so that somebody has to listen for it?
    pub fn is_relayed(&self) -> bool {
        !self.is_translated() || self.host_address() == any(true)
    }

    fn of_loopback(&self) -> bool {
        let at = self.host_address();
        self.is_translated() && at.is_ipv4() && (at.is_unspecified() || at.is_loopback())
    }
}

/// The address that stands for all of its family.
fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Everything the table should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The networks; other drivers than bridge have no rules.
    pub networks: Vec<Network>,
    /// The ports of the containers that run.
    pub ports: Vec<Port>,
    /// The host forwards only because of us ([`Firewall::forwarding`] said so): packets between
    /// interfaces that are not ours are dropped.
    pub guarded: bool,
}

impl Desired {
    fn elements(&self) -> Elements {
        let mut elements = Elements::new();
        for network in &self.networks {
            ruleset::of_network(network, &mut elements);
        }
        for (set, all) in of_ports(&self.ports) {
            elements.entry(set).or_default().extend(all);
        }
        elements
    }
}

/// What [`Firewall::ensure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All was there.
    Intact,
    /// Something was missing, changed or left over, and the table was made anew.
    Restored,
}

/// The table, of the network namespace that it was opened in.
pub struct Firewall {
    socket: NetlinkSocket,
    table: String,
}

impl Firewall {
    /// Opens it. Changes nothing. `tag` tells apart the tables of engines that have roots of their
    /// own on one host: `inet robot-env` without one, `inet robot-env-TAG` with one.
    pub fn open(tag: Option<&str>) -> Result<Firewall> {
        let table = tag.map_or_else(|| TABLE.to_owned(), |tag| format!("{TABLE}-{tag}"));
        Ok(Firewall { socket: NetlinkSocket::open(libc::NETLINK_NETFILTER)?, table })
    }

    /// Is the table there? One question, for the path of a start: somebody may have flushed the
    /// rules since the last one.
    pub fn is_there(&mut self) -> Result<bool> {
        message::has_table(&mut self.socket, &self.table)
    }

    /// Turns on the host's forwarding, for IPv6 too if one of the networks has it. True if IPv4's
    /// was off: then the caller keeps that in its records as [`Desired::guarded`], so that the host
    /// does not become a router for others.
    pub fn forwarding(networks: &[Network]) -> Result<bool> {
        let mut turned = false;
        let ranges = || networks.iter().flat_map(|network| &network.ranges);
        if ranges().any(|range| !range.subnet.is_v6()) {
            turned |= sysctl::forward_v4()?;
        }
        if ranges().any(|range| range.subnet.is_v6()) {
            turned |= sysctl::forward_v6()?;
        }
        Ok(turned)
    }

    /// Makes the table what `desired` says, in one transaction, unless it is that already.
    pub fn ensure(&mut self, desired: &Desired) -> Result<Found> {
        let elements = desired.elements();
        if self.is_intact(desired.guarded, &elements)? {
            return Ok(Found::Intact);
        }
        let mut messages = message::replacement(&self.table, desired.guarded, &elements);
        self.commit(&mut messages, "cannot write the firewall table")?;
        Ok(Found::Restored)
    }

    fn is_intact(&mut self, guarded: bool, elements: &Elements) -> Result<bool> {
        if message::rule_marks(&mut self.socket, &self.table)? != message::expected_marks(guarded) {
            return Ok(false);
        }
        let none = BTreeSet::new();
        for set in &ruleset::SETS {
            let there = message::elements_of(&mut self.socket, &self.table, set.name)?;
            if there.as_ref() != Some(elements.get(set.name).unwrap_or(&none)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds a network. [`Kind::NotFound`]: the table is not there; call [`Firewall::ensure`].
    pub fn add_network(&mut self, network: &Network) -> Result<()> {
        let mut elements = Elements::new();
        ruleset::of_network(network, &mut elements);
        let mut messages = insert_elements(&self.table, &elements, CREATE);
        self.commit(&mut messages, &format!("cannot add network `{}` to the firewall", network.name))
    }

    /// Lets a bridge take answers for the host's 127.0.0.1, if one of `ports` is published there.
    /// The table's first chain keeps containers from using that.
    pub(crate) fn allow_loopback(bridge: &str, ports: &[Port]) -> Result<()> {
        if ports.iter().any(Port::of_loopback) {
            sysctl::set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")?;
        }
        Ok(())
    }

    /// Publishes ports, all or none. [`Kind::Conflict`]: another container has one of them, and the
    /// error names it. [`Kind::NotFound`]: the table is not there, somebody flushed the rules; call
    /// [`Firewall::ensure`] with everything.
    pub fn publish(&mut self, bridge: &str, ports: &[Port]) -> Result<()> {
        if !ports.iter().any(Port::is_translated) {
            return Ok(());
        }
        Self::allow_loopback(bridge, ports)?;
        // Not exclusively: the very same element is ours, put there by a reconcile that read the
        // record of this start. One that leads elsewhere is refused.
        let mut messages = insert_elements(&self.table, &of_ports(ports), CREATE);
        match self.socket.transaction(NFNL_SUBSYS_NFTABLES, &mut messages) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.errno(), Errno::EXIST | Errno::BUSY) => {
                let taken = self.taken(ports)?;
                let names: Vec<String> = taken.iter().map(Port::name).collect();
                Err(Error::new(
                    Kind::Conflict,
                    format!("cannot publish port `{}`: another container has it", names.join("`, `")),
                ))
            }
            Err(error) => Err(Error::from(error).within("cannot publish ports")),
        }
    }

    /// Those of `ports` whose place leads elsewhere in the table.
    pub fn taken(&mut self, ports: &[Port]) -> Result<Vec<Port>> {
        let mut out = Vec::new();
        for set in ["ports4", "ports6", "ports4_any", "ports6_any"] {
            let there = message::elements_of(&mut self.socket, &self.table, set)?.unwrap_or_default();
            out.extend(ports.iter().filter(|port| port.is_translated()).filter(|port| {
                let (of, element) = ruleset::of_port(port);
                of == set && there.iter().any(|other| other.key == element.key && other.data != element.data)
            }));
        }
        Ok(out)
    }

    /// Leaves the socket open until the process ends. Its closing would wait until what was taken out
    /// of the table is freed, which is an RCU grace period (some 10 ms) after it was.
    pub fn leave_open(self) {
        std::mem::forget(self);
    }

    /// Takes ports back. That one is not there is no error.
    pub fn withdraw(&mut self, ports: &[Port]) -> Result<()> {
        if ports.iter().any(Port::is_translated) { self.delete(&of_ports(ports)) } else { Ok(()) }
    }

    /// Takes a network out. That it is not there is no error.
    pub fn remove_network(&mut self, network: &Network) -> Result<()> {
        let mut elements = Elements::new();
        ruleset::of_network(network, &mut elements);
        self.delete(&elements)
    }

    fn delete(&mut self, elements: &Elements) -> Result<()> {
        match self.socket.transaction(NFNL_SUBSYS_NFTABLES, &mut delete_elements(&self.table, elements)) {
            Err(error) if error.errno() == Errno::NOENT => {}
            other => return Ok(other?),
        }
        // One of them is missing: the rest one after another. An interval is a pair.
        for (set, all) in elements {
            let all: Vec<_> = all.iter().cloned().collect();
            let step = if all.iter().any(|element| element.end) { 2 } else { 1 };
            for part in all.chunks(step) {
                let one = Elements::from([(*set, part.iter().cloned().collect())]);
                match self.socket.transaction(NFNL_SUBSYS_NFTABLES, &mut delete_elements(&self.table, &one)) {
                    Err(error) if error.errno() == Errno::NOENT => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Removes the table. Our rules in other tables go by [`Firewall::close_obstacles`].
    pub fn remove(&mut self) -> Result<()> {
        match self.socket.transaction(NFNL_SUBSYS_NFTABLES, &mut [message::delete_table(&self.table)]) {
            Err(error) if error.errno() == Errno::NOENT => Ok(()),
            other => other.map_err(|error| Error::from(error).within("cannot remove the firewall table")),
        }
    }

    fn commit(&mut self, messages: &mut [robot_env_sys::netlink::Message], what: &str) -> Result<()> {
        self.socket.transaction(NFNL_SUBSYS_NFTABLES, messages).map_err(|error| match error.errno() {
            Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => {
                Error::new(Kind::Unsupported, format!("{what}: this kernel lacks a part of nf_tables"))
                    .because(error)
            }
            _ => Error::from(error).within(what),
        })
    }
}

fn of_ports(ports: &[Port]) -> Elements {
    let mut elements = Elements::new();
    for port in ports.iter().filter(|port| port.is_translated()) {
        let (set, element) = ruleset::of_port(port);
        elements.entry(set).or_default().insert(element);
    }
    elements
}
