//! The table's chains, sets and rules: they are the same whatever networks there are. A network or
//! a published port is elements of sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use super::expression::Connection::{State, Status};
use super::expression::Expression::{
    Connection, Destination, DestinationKind, In, Is, IsNot, Map, Mask, Masquerade, Meta, Network, NotIn,
    Transport, Verdict,
};
use super::expression::{Expression, Meta as Fact};
use super::{Port, Protocol};
use crate::plan::{self, Driver};

const INTERFACE_NAME: usize = 16;
const LOCAL: u32 = 2; // RTN_LOCAL
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const DESTINATION_TRANSLATED: u32 = 1 << 5; // IPS_DST_NAT
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// A chain of a hook.
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// `nat` or `filter`.
    pub(super) kind: &'static str,
    /// `NF_INET_*`.
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) rules: Vec<Vec<Expression>>,
}

/// A set or map. Types are nft's, so that `nft list` can print what is in it.
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key: &'static [Field],
    /// What a map maps to; empty for a set.
    pub(super) data: &'static [Field],
    pub(super) interval: bool,
}

/// A field of a key: nft's type and the bytes that it takes in registers.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) kind: u32,
    pub(super) length: u32,
}

const V4: Field = Field { kind: 7, length: 4 };
const V6: Field = Field { kind: 8, length: 16 };
const PROTOCOL: Field = Field { kind: 12, length: 4 };
const SERVICE: Field = Field { kind: 13, length: 4 };
/// nft's type of interface names.
pub(super) const NAME_KIND: u32 = 41;
const NAME: Field = Field { kind: NAME_KIND, length: INTERFACE_NAME as u32 };

pub(super) const SETS: [Set; 11] = [
    // Bridges of ours.
    Set { name: "bridges", key: &[NAME], data: &[], interval: false },
    // Those that are internal.
    Set { name: "internal", key: &[NAME], data: &[], interval: false },
    // Pairs of one bridge where containers reach each other.
    Set { name: "within", key: &[NAME, NAME], data: &[], interval: false },
    // Networks' addresses, and those that leave the host with its own.
    Set { name: "subnets4", key: &[V4], data: &[], interval: true },
    Set { name: "subnets6", key: &[V6], data: &[], interval: true },
    Set { name: "masquerade4", key: &[V4], data: &[], interval: true },
    Set { name: "masquerade6", key: &[V6], data: &[], interval: true },
    // Ports published on one address and on every address of the host.
    Set { name: "ports4", key: &[V4, PROTOCOL, SERVICE], data: &[V4, SERVICE], interval: false },
    Set { name: "ports6", key: &[V6, PROTOCOL, SERVICE], data: &[V6, SERVICE], interval: false },
    Set { name: "ports4_any", key: &[PROTOCOL, SERVICE], data: &[V4, SERVICE], interval: false },
    Set { name: "ports6_any", key: &[PROTOCOL, SERVICE], data: &[V6, SERVICE], interval: false },
];

fn family(v6: bool) -> [Expression; 2] {
    [Meta(Fact::Family, 0), Is(vec![if v6 { 10 } else { 2 }])]
}

fn destination(v6: bool) -> Expression {
    if v6 { Network(24, 16, 0) } else { Network(16, 4, 0) }
}

fn source(v6: bool) -> Expression {
    if v6 { Network(8, 16, 0) } else { Network(12, 4, 0) }
}

fn connection(key: super::expression::Connection, mask: u32) -> [Expression; 3] {
    [Connection(key), Mask(mask), IsNot(vec![0; 4])]
}

fn incoming(set: &'static str) -> [Expression; 2] {
    [Meta(Fact::IncomingName, 0), In(set)]
}

fn outgoing(set: &'static str) -> [Expression; 2] {
    [Meta(Fact::OutgoingName, 0), In(set)]
}

fn rule<const N: usize>(parts: [&[Expression]; N]) -> Vec<Expression> {
    parts.concat()
}

/// The chains. `guarded`: the host forwards only because of us, so what is not ours does not pass
/// (as Docker does it by the policy of `FORWARD`).
pub(super) fn chains(guarded: bool) -> Vec<Chain> {
    let mut published = Vec::new();
    for v6 in [false, true] {
        // Nothing that was sent to ::1 leaves the host; whoever listens there gets it.
        let routed = [destination(true), IsNot(Ipv6Addr::LOCALHOST.octets().to_vec())];
        let words = if v6 { 4 } else { 1 };
        let (one, any) = if v6 { ("ports6", "ports6_any") } else { ("ports4", "ports4_any") };
        published.push(rule([
            &family(v6),
            &[destination(v6), Meta(Fact::Protocol, words), Transport(2, 2, words + 1)],
            &[Map(one), Destination { v6 }],
        ]));
        published.push(rule([
            &family(v6),
            if v6 { &routed } else { &[] },
            &[DestinationKind, Is(LOCAL.to_ne_bytes().to_vec())],
            &[Meta(Fact::Protocol, 0), Transport(2, 2, 1), Map(any), Destination { v6 }],
        ]));
    }
    let mut forward = vec![
        rule([&connection(State, ESTABLISHED_OR_RELATED), &[Verdict(ACCEPT)]]),
        rule([&[Meta(Fact::IncomingName, 0), Meta(Fact::OutgoingName, 4), In("within"), Verdict(ACCEPT)]]),
        rule([&incoming("internal"), &[Verdict(DROP)]]),
        rule([&outgoing("internal"), &[Verdict(DROP)]]),
        rule([&outgoing("bridges"), &connection(Status, DESTINATION_TRANSLATED), &[Verdict(ACCEPT)]]),
        rule([&outgoing("bridges"), &[Verdict(DROP)]]),
    ];
    if guarded {
        forward.push(rule([&[Meta(Fact::IncomingName, 0), NotIn("bridges"), Verdict(DROP)]]));
    }
    let mut postrouting = Vec::new();
    for v6 in [false, true] {
        let (subnets, masquerade) =
            if v6 { ("subnets6", "masquerade6") } else { ("subnets4", "masquerade4") };
        // Out of the host.
        postrouting.push(rule([
            &family(v6),
            &[Meta(Fact::OutgoingName, 0), NotIn("bridges"), source(v6), In(masquerade), Masquerade],
        ]));
        // A published port, reached from a container: the answer must come back through the host
        // even where both are on one bridge.
        postrouting.push(rule([
            &family(v6),
            &outgoing("bridges"),
            &connection(Status, DESTINATION_TRANSLATED),
            &[source(v6), In(subnets), Masquerade],
        ]));
    }
    // A published port, reached from the host's 127.0.0.1.
    let loopback = [Network(12, 1, 0), Is(vec![127])];
    postrouting.push(rule([&family(false), &outgoing("bridges"), &loopback, &[Masquerade]]));
    // That needs route_localnet on the bridge, which must not let containers reach programs that
    // listen on the host's 127.0.0.1 (CVE-2020-8558).
    let raw = vec![rule([
        &family(false),
        &incoming("bridges"),
        &[Network(16, 1, 0), Is(vec![127]), Verdict(DROP)],
    ])];
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    vec![
        chain("guard", "filter", 0, -300, raw),
        chain("prerouting", "nat", 0, -100, published.clone()),
        chain("output", "nat", 3, -100, published),
        chain("forward", "filter", 2, 0, forward),
        chain("postrouting", "nat", 4, 100, postrouting),
    ]
}

/// An element: key, data (of a map), and whether it is the end of an interval.
///
/// They are ordered as the kernel wants to be given them: an interval's end before the start of the
/// next one at the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) data: Vec<u8>,
    pub(super) end: bool,
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.key, !self.end, &self.data).cmp(&(&other.key, !other.end, &other.data))
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Elements of the sets, by set.
pub(super) type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

fn name_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(INTERFACE_NAME, 0);
    key
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A network's elements.
pub(super) fn of_network(network: &plan::Network, out: &mut Elements) {
    if network.driver != Driver::Bridge {
        return;
    }
    let name = name_key(&network.bridge);
    let element = |key| Element { key, data: Vec::new(), end: false };
    out.entry("bridges").or_default().insert(element(name.clone()));
    if network.internal {
        out.entry("internal").or_default().insert(element(name.clone()));
    }
    if network.connected {
        out.entry("within").or_default().insert(element([name.clone(), name].concat()));
    }
    for range in &network.ranges {
        let v6 = range.subnet.is_v6();
        let mut interval = |set| {
            let into = out.entry(set).or_default();
            into.insert(element(octets(range.subnet.address())));
            let mut end = octets(range.subnet.last());
            // The end is the first address behind it.
            for byte in end.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
            // Behind the last address of all there is none: the kernel knows that end itself.
            if end.iter().all(|byte| *byte == 0) {
                return;
            }
            into.insert(Element { key: end, data: Vec::new(), end: true });
        };
        interval(if v6 { "subnets6" } else { "subnets4" });
        if network.masquerade && !network.internal {
            interval(if v6 { "masquerade6" } else { "masquerade4" });
        }
    }
}

/// A published port's element.
pub(super) fn of_port(port: &Port) -> (&'static str, Element) {
    let service = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, 0, 0]
    };
    let protocol = match port.protocol {
        Protocol::Tcp => [6, 0, 0, 0],
        Protocol::Udp => [17, 0, 0, 0],
    };
    let mut key = port.host.map(octets).unwrap_or_default();
    key.extend(protocol);
    key.extend(service(port.host_port));
    let mut data = octets(port.container);
    data.extend(service(port.container_port));
    let set = match (port.container.is_ipv6(), port.host.is_some()) {
        (false, true) => "ports4",
        (false, false) => "ports4_any",
        (true, true) => "ports6",
        (true, false) => "ports6_any",
    };
    (set, Element { key, data, end: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Network, Range};

    #[test]
    fn elements_of_networks_and_ports() {
        let mut network =
            Network::bridge("0123456789abcdef", "x", vec![Range::of("10.7.255.0/24".parse().unwrap())]);
        let mut elements = Elements::new();
        of_network(&network, &mut elements);
        let subnets: Vec<_> = elements["subnets4"].iter().map(|e| (e.key.clone(), e.end)).collect();
        assert_eq!(subnets, [(vec![10, 7, 255, 0], false), (vec![10, 8, 0, 0], true)]);
        assert_eq!(elements["within"].iter().next().unwrap().key.len(), 32);
        assert!(elements.contains_key("masquerade4") && !elements.contains_key("internal"));
        network.internal = true;
        network.connected = false;
        elements.clear();
        of_network(&network, &mut elements);
        assert_eq!(elements.keys().copied().collect::<Vec<_>>(), ["bridges", "internal", "subnets4"]);

        let port = Port {
            host: None,
            host_port: 8080,
            protocol: Protocol::Udp,
            container: "10.7.255.2".parse().unwrap(),
            container_port: 80,
        };
        let (set, element) = of_port(&port);
        assert_eq!((set, element.key), ("ports4_any", vec![17, 0, 0, 0, 0x1f, 0x90, 0, 0]));
        assert_eq!(element.data, [10, 7, 255, 2, 0, 80, 0, 0]);
    }

    #[test]
    fn rules_name_sets_that_there_are() {
        for chain in chains(true) {
            for expression in chain.rules.iter().flatten() {
                if let In(set) | NotIn(set) | Map(set) = expression {
                    let found = SETS.iter().find(|known| known.name == *set).expect(set);
                    assert_eq!(matches!(expression, Map(_)), !found.data.is_empty(), "{set}");
                }
            }
        }
    }
}
