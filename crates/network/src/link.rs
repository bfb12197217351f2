//! Links by route messages: bridges, veth pairs whose far end is born in the container, macvlan
//! and ipvlan; and reading of links, addresses and routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::CallError;
use robot_env_sys::netlink::{CREATE, DUMP, EXCLUSIVE, Message, RouteSocket, attributes};
use rustix::io::Errno;

use crate::plan::{Driver, Endpoint, Mac, Network, is_our_bridge, mode_number, random};
use crate::subnet::Subnet;
use crate::sysctl;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

/// `NLM_F_REPLACE`: a default route through another network gives way.
const REPLACE: u16 = 0x100;
const NESTED: u16 = 0x8000;
const IFF_UP: u32 = 1;
const LOOPBACK: u32 = 1;

/// What hosts' ends of veth pairs begin with.
pub const VETH_PREFIX: &str = "rv-";

/// A link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The index of the bridge that it is a port of; 0 for none.
    pub master: u32,
    /// Its maximal transmission unit.
    pub mtu: u32,
    /// Is it up?
    pub up: bool,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

pub(crate) fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0u8; 16]; // family, padding, type: 0
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&change.to_ne_bytes());
    body
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(v6: bool) -> u8 {
    (if v6 { libc::AF_INET6 } else { libc::AF_INET }) as u8
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn new_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let v6 = address.is_ipv6();
    // Without duplicate address detection: the address is ours to give, and an address that is
    // tentative for a second would refuse a program's first bind.
    let mut body = vec![family(v6), prefix, if v6 { IFA_F_NODAD } else { 0 }, 0];
    body.extend(index.to_ne_bytes());
    let mut message =
        Message::new(RTM_NEWADDR, CREATE | EXCLUSIVE, format!("RTM_NEWADDR({address}/{prefix})"))
            .fixed(&body);
    message.attribute(IFA_LOCAL, &octets(address)).attribute(IFA_ADDRESS, &octets(address));
    if let (false, Some(subnet)) = (v6, Subnet::containing(address, prefix))
        && prefix < 31
    {
        message.attribute(IFA_BROADCAST, &octets(subnet.last()));
    }
    message
}

fn default_route(index: u32, gateway: IpAddr) -> Message {
    let mut message =
        Message::new(RTM_NEWROUTE, CREATE | REPLACE, format!("RTM_NEWROUTE(default via {gateway})")).fixed(
            &[family(gateway.is_ipv6()), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0],
        );
    message.attribute(RTA_GATEWAY, &octets(gateway)).number(RTA_OIF, index);
    message
}

/// Below this a link has no IPv6 at all.
const V6_MTU: u32 = 1280;

fn has_v6() -> bool {
    std::fs::metadata("/proc/sys/net/ipv6").is_ok()
}

/// No link-local IPv6 address (and its traffic) on a link of an IPv4 network.
fn without_link_local(message: &mut Message) {
    let families = message.begin(IFLA_AF_SPEC | NESTED);
    let six = message.begin(libc::AF_INET6 as u16 | NESTED);
    message.attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
    message.end(six);
    message.end(families);
}

/// Links, addresses and routes of the network namespace that it was opened in.
pub struct Links {
    route: RouteSocket,
}

impl Links {
    /// Opens the host's.
    pub fn open() -> Result<Links> {
        Ok(Links { route: RouteSocket::open()? })
    }

    /// Those of another network namespace.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Links> {
        Ok(Links { route: RouteSocket::open_in(namespace)? })
    }

    /// Whether a default route leads over the link `name`.
    pub fn has_default_route(&mut self, name: &str) -> Result<bool> {
        let Some(link) = self.find(name)? else { return Ok(false) };
        let message = Message::new(RTM_GETROUTE, DUMP, "RTM_GETROUTE(all)").fixed(&[0; 12]);
        let routes = self.route.socket().ask(message)?;
        Ok(routes.iter().any(|answer| {
            let fields = || attributes(answer.get(12..).unwrap_or_default());
            let over = fields().find(|(kind, _)| *kind == RTA_OIF).map(|(_, bytes)| read_u32(bytes, 0));
            answer.get(1) == Some(&0)
                && over == Some(link.index)
                && fields().any(|(kind, _)| kind == RTA_GATEWAY)
        }))
    }

    /// All links, by name.
    pub fn all(&mut self) -> Result<BTreeMap<String, Link>> {
        let socket = self.route.socket();
        let mut links: BTreeMap<u32, Link> = socket
            .ask(Message::new(RTM_GETLINK, DUMP, "RTM_GETLINK(all)").fixed(&[0; 16]))?
            .iter()
            .filter_map(|answer| read_link(answer))
            .map(|link| (link.index, link))
            .collect();
        for answer in socket.ask(Message::new(RTM_GETADDR, DUMP, "RTM_GETADDR(all)").fixed(&[0; 8]))? {
            let (prefix, index) = (answer.get(1).copied().unwrap_or(0), read_u32(&answer, 4));
            let all: BTreeMap<u16, &[u8]> = attributes(answer.get(8..).unwrap_or_default()).collect();
            let value = all.get(&IFA_LOCAL).or_else(|| all.get(&IFA_ADDRESS));
            if let (Some(link), Some(address)) =
                (links.get_mut(&index), value.and_then(|bytes| read_address(bytes)))
            {
                link.addresses.push((address, prefix));
            }
        }
        Ok(links.into_values().map(|link| (link.name.clone(), link)).collect())
    }

    /// The link of this name, without its addresses.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::new(RTM_GETLINK, 0, format!("RTM_GETLINK({name})")).fixed(&[0; 16]);
        message.text(IFLA_IFNAME, name);
        match self.route.socket().ask(message) {
            Ok(answers) => Ok(answers.first().and_then(|answer| read_link(answer))),
            Err(error) if error.errno() == Errno::NODEV => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The ranges that the host knows a way to: its routes and the subnets of its addresses. A new
    /// network keeps clear of them; that covers VPNs that are up and other engines' bridges.
    /// Default routes and link-local ranges are left out.
    pub fn occupied(&mut self) -> Result<Vec<Subnet>> {
        let mut out: Vec<Subnet> = self
            .all()?
            .values()
            .flat_map(|link| &link.addresses)
            .filter_map(|(address, prefix)| Subnet::containing(*address, *prefix))
            .collect();
        let message = Message::new(RTM_GETROUTE, DUMP, "RTM_GETROUTE(all)").fixed(&[0; 12]);
        for answer in self.route.socket().ask(message)? {
            let prefix = answer.get(1).copied().unwrap_or(0);
            let target = attributes(answer.get(12..).unwrap_or_default())
                .find(|(kind, _)| *kind == RTA_DST)
                .and_then(|(_, bytes)| read_address(bytes));
            out.extend(target.and_then(|address| Subnet::containing(address, prefix)));
        }
        let link_local = |subnet: &Subnet| match subnet.address() {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
        };
        out.retain(|subnet| subnet.prefix() > 0 && !link_local(subnet));
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    /// Makes the bridge of a network, or completes one that is there: addresses, mtu, kernel
    /// settings, up.
    pub fn ensure_bridge(&mut self, network: &Network) -> Result<()> {
        let name = network.bridge.as_str();
        let context = |error: Error| error.within(format!("cannot make bridge `{name}`"));
        if self.find(name).map_err(context)?.is_none() {
            match self.make_bridge(network) {
                Ok(()) => {}
                Err(error) if error.errno() == Errno::EXIST => {} // another command was faster
                Err(error) => return Err(context(error.into())),
            }
        }
        let links = self.all().map_err(context)?;
        let link = links.get(name).ok_or_else(|| context(Error::not_found("it vanished")))?;
        let v6 = network.ranges.iter().any(|range| range.subnet.is_v6());
        if v6 {
            sysctl::set_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), "0").map_err(context)?;
        }
        sysctl::set_if_there(&format!("ipv6/conf/{name}/accept_ra"), "0").map_err(context)?;
        let wanted: Vec<(IpAddr, u8)> =
            network.ranges.iter().filter_map(|range| Some((range.gateway?, range.subnet.prefix()))).collect();
        let mut messages: Vec<Message> = wanted
            .iter()
            .filter(|pair| !link.addresses.contains(pair))
            .map(|(address, prefix)| new_address(link.index, *address, *prefix))
            .collect();
        let mut up = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({name}, up)"))
            .fixed(&interface(link.index, IFF_UP, IFF_UP));
        if let Some(mtu) = network.mtu {
            up.number(IFLA_MTU, mtu);
        }
        messages.push(up);
        self.route.socket().request(&mut messages).map_err(|error| context(error.into()))
    }

    fn make_bridge(&mut self, network: &Network) -> Result<(), CallError> {
        let name = network.bridge.as_str();
        let mut message =
            Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, format!("RTM_NEWLINK({name}, bridge)"))
                .fixed(&interface(0, 0, 0));
        message.text(IFLA_IFNAME, name).text(IFLA_IFALIAS, &format!("robot-env network {}", network.name));
        // An address of its own: otherwise the bridge takes its lowest port's and changes it as
        // containers come and go.
        message.attribute(IFLA_ADDRESS, &Mac::random().0);
        let info = message.begin(IFLA_LINKINFO);
        message.text(IFLA_INFO_KIND, "bridge");
        let data = message.begin(IFLA_INFO_DATA);
        // DDS discovers by multicast; snooping without a querier on the link loses it.
        message.attribute(IFLA_BR_MCAST_SNOOPING, &[0]);
        message.end(data);
        message.end(info);
        let mut messages = vec![message];
        if !network.ranges.iter().any(|range| range.subnet.is_v6())
            && has_v6()
            && network.mtu.is_none_or(|mtu| mtu >= V6_MTU)
        {
            // In a message of its own: a link that is being made has no IPv6 part yet, and newer
            // kernels refuse its settings then (EAFNOSUPPORT).
            let mut quiet =
                Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({name}, no link-local address)"))
                    .fixed(&interface(0, 0, 0));
            quiet.text(IFLA_IFNAME, name);
            without_link_local(&mut quiet);
            messages.push(quiet);
        }
        self.route.socket().request(&mut messages)
    }

    /// Removes a bridge; that there is none is no error. Refuses the name of anything else.
    pub fn remove_bridge(&mut self, name: &str) -> Result<()> {
        if !is_our_bridge(name) {
            return Err(Error::invalid(format!("cannot remove bridge `{name}`: it is not one of robot-env")));
        }
        self.remove(name)
    }

    /// Removes a veth pair by the name of the host's end, as `disconnect` from a running container
    /// does. It waits for an RCU grace period (about 20 ms): a container that ends takes its pair
    /// with it, so nothing on that path calls this.
    pub fn remove_veth(&mut self, name: &str) -> Result<()> {
        if !name.starts_with(VETH_PREFIX) {
            return Err(Error::invalid(format!("cannot remove link `{name}`: it is not one of robot-env")));
        }
        self.remove(name)
    }

    /// Does the kernel know links of this kind? It is asked to make one that cannot be.
    pub fn has_kind(&mut self, kind: &str) -> Result<bool> {
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, format!("RTM_NEWLINK({kind})"))
            .fixed(&interface(0, 0, 0));
        // A name that no link can have: nothing is made whatever the kind is.
        message.text(IFLA_IFNAME, "no/link");
        let info = message.begin(IFLA_LINKINFO);
        message.text(IFLA_INFO_KIND, kind);
        message.end(info);
        match self.route.socket().request(&mut [message]) {
            Err(error) if error.errno() == Errno::OPNOTSUPP => Ok(false),
            _ => Ok(true),
        }
    }

    /// Makes a veth's end a port of a bridge again, which somebody had removed meanwhile.
    pub(crate) fn join_bridge(&mut self, name: &str, bridge: &str) -> Result<()> {
        let Some(bridge) = self.find(bridge)? else { return Ok(()) };
        let mut message =
            Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({name}, master {})", bridge.name))
                .fixed(&interface(0, 0, 0));
        message.text(IFLA_IFNAME, name).number(IFLA_MASTER, bridge.index);
        Ok(self.route.socket().request(&mut [message])?)
    }

    /// Gives a container's default routes to its interface `eth<number>`.
    pub fn route_inside(namespace: BorrowedFd<'_>, number: u32, gateways: &[IpAddr]) -> Result<()> {
        let mut inside = Links { route: RouteSocket::open_in(namespace)? };
        let Some(link) = inside.find(&format!("eth{number}"))? else { return Ok(()) };
        for gateway in gateways {
            inside.route.socket().request(&mut [default_route(link.index, *gateway)])?;
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        let mut message =
            Message::new(RTM_DELLINK, 0, format!("RTM_DELLINK({name})")).fixed(&interface(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.route.socket().request(&mut [message]) {
            Err(error) if error.errno() != Errno::NODEV => {
                Err(Error::from(error).within(format!("cannot remove link `{name}`")))
            }
            _ => Ok(()),
        }
    }

    /// Removes an interface of a container by its number (`eth1` is 1), for a macvlan's or ipvlan's
    /// `disconnect`.
    pub fn remove_inside(namespace: BorrowedFd<'_>, number: u32) -> Result<()> {
        let name = format!("eth{number}");
        let mut message =
            Message::new(RTM_DELLINK, 0, format!("RTM_DELLINK({name})")).fixed(&interface(0, 0, 0));
        message.text(IFLA_IFNAME, &name);
        match RouteSocket::open_in(namespace)?.socket().request(&mut [message]) {
            Err(error) if error.errno() != Errno::NODEV => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Makes a veth pair: the host's end is up and a port of `network`'s bridge, the far end is
    /// born as `eth<number>` in the namespace. One message, one more for a network whose
    /// containers don't reach each other and for a container that publishes ports.
    pub fn make_veth(&mut self, network: &Network, wire: &Wire<'_>) -> Result<()> {
        let bridge = self.find(&network.bridge)?.ok_or_else(|| {
            Error::not_found(format!("cannot connect to network `{}`: it has no bridge", network.name))
        })?;
        let mut message = Message::new(
            RTM_NEWLINK,
            CREATE | EXCLUSIVE,
            format!("RTM_NEWLINK({}, veth, eth{})", wire.host, wire.number),
        )
        .fixed(&interface(0, IFF_UP, IFF_UP));
        message.text(IFLA_IFNAME, wire.host).number(IFLA_MASTER, bridge.index);
        let mtu = network.mtu.unwrap_or(bridge.mtu);
        message.number(IFLA_MTU, mtu);
        let info = message.begin(IFLA_LINKINFO);
        message.text(IFLA_INFO_KIND, "veth");
        let data = message.begin(IFLA_INFO_DATA);
        let peer = message.begin(VETH_INFO_PEER);
        message = message.fixed(&interface(0, 0, 0));
        message
            .text(IFLA_IFNAME, &format!("eth{}", wire.number))
            .attribute(IFLA_ADDRESS, &wire.endpoint.mac.0);
        message.number(IFLA_MTU, mtu).number(IFLA_NET_NS_FD, wire.namespace.as_raw_fd() as u32);
        message.end(peer);
        message.end(data);
        message.end(info);
        let mut messages = vec![message];
        // A container that calls its own published port: where br_netfilter translates addresses
        // inside the bridge, the packet goes back out of the port that it came in by. Only there,
        // because such a port gets its own broadcasts back.
        let hairpin = wire.publishes && sysctl::get("bridge/bridge-nf-call-iptables").as_deref() == Some("1");
        if !network.connected || hairpin {
            let mut port = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({}, bridge port)", wire.host))
                .fixed(&interface(0, 0, 0));
            port.text(IFLA_IFNAME, wire.host);
            let info = port.begin(IFLA_LINKINFO);
            port.text(IFLA_INFO_SLAVE_KIND, "bridge");
            let data = port.begin(IFLA_INFO_SLAVE_DATA | NESTED);
            port.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(!network.connected)]);
            port.attribute(IFLA_BRPORT_MODE, &[u8::from(hairpin)]);
            port.end(data);
            port.end(info);
            messages.push(port);
        }
        Ok(self.route.socket().request(&mut messages)?)
    }

    /// Makes a macvlan or ipvlan of the network's parent as `eth<number>` in the namespace.
    pub fn make_child(&mut self, network: &Network, wire: &Wire<'_>) -> Result<()> {
        let wrong = |kind, reason: String| {
            Error::new(kind, format!("cannot connect to network `{}`: {reason}", network.name))
        };
        let parent = network.parent.as_deref().unwrap_or_default();
        let below = self
            .find(parent)?
            .ok_or_else(|| wrong(Kind::NotFound, format!("the host has no interface `{parent}`")))?;
        let kind = network.driver.name();
        let mut message = Message::new(
            RTM_NEWLINK,
            CREATE | EXCLUSIVE,
            format!("RTM_NEWLINK(eth{}, {kind} on {parent})", wire.number),
        )
        .fixed(&interface(0, 0, 0));
        message.text(IFLA_IFNAME, &format!("eth{}", wire.number)).number(IFLA_LINK, below.index);
        message.number(IFLA_NET_NS_FD, wire.namespace.as_raw_fd() as u32);
        if let Some(mtu) = network.mtu {
            message.number(IFLA_MTU, mtu);
        }
        let mode = mode_number(network.driver, network.mode.as_deref())?;
        if network.driver == Driver::Macvlan {
            message.attribute(IFLA_ADDRESS, &wire.endpoint.mac.0);
        }
        let info = message.begin(IFLA_LINKINFO);
        message.text(IFLA_INFO_KIND, kind);
        let data = message.begin(IFLA_INFO_DATA);
        if network.driver == Driver::Macvlan {
            message.number(IFLA_MACVLAN_MODE, mode);
        } else {
            message.attribute(IFLA_IPVLAN_MODE, &(mode as u16).to_ne_bytes());
        }
        message.end(data);
        message.end(info);
        self.route.socket().request(&mut [message]).map_err(|error| match error.errno() {
            Errno::OPNOTSUPP => wrong(Kind::Unsupported, format!("this kernel has no {kind}")).because(error),
            errno => {
                wrong(Kind::of_errno(errno.raw_os_error()), format!("no {kind} on `{parent}`")).because(error)
            }
        })
    }
}

/// One interface of a container, about to be made.
pub struct Wire<'a> {
    /// The host's end's name (veth): see [`veth_name`].
    pub host: &'a str,
    /// 0 for `eth0`.
    pub number: u32,
    /// The container's network namespace.
    pub namespace: BorrowedFd<'a>,
    /// Its addresses.
    pub endpoint: &'a Endpoint,
    /// Do its default routes go here? The first network of a container has them.
    pub default_route: bool,
    /// The network's maximal transmission unit, where it has one.
    pub mtu: Option<u32>,
    /// Are ports of the container published?
    pub publishes: bool,
}

/// A name for a host's end. It is new each time: the pair of a container that ended a moment ago
/// may still be dying.
pub fn veth_name() -> String {
    let bytes = random::<6>();
    bytes.iter().fold(VETH_PREFIX.to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

/// Gives the interface in the namespace its addresses and routes and brings it and the loopback up,
/// after asking for its index in one batch.
pub fn configure(wire: &Wire<'_>) -> Result<()> {
    let name = format!("eth{}", wire.number);
    let mut inside = Links { route: RouteSocket::open_in(wire.namespace)? };
    // The kernel chose it: a veth's far end keeps a number of our choice only if the host's end has
    // one too, and the host's numbers are not ours.
    let index = inside
        .find(&name)?
        .ok_or_else(|| Error::not_found(format!("the container has no interface `{name}`")))?
        .index;
    let mut up = Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({name}, up)"))
        .fixed(&interface(index, IFF_UP, IFF_UP));
    if !wire.endpoint.addresses.iter().any(|address| address.address.is_ipv6())
        && has_v6()
        && wire.mtu.is_none_or(|mtu| mtu >= V6_MTU)
    {
        without_link_local(&mut up);
    }
    let mut messages = vec![
        Message::new(RTM_NEWLINK, 0, "RTM_NEWLINK(lo, up)").fixed(&interface(LOOPBACK, IFF_UP, IFF_UP)),
        up,
    ];
    for address in &wire.endpoint.addresses {
        messages.push(new_address(index, address.address, address.prefix));
    }
    if wire.default_route {
        messages.extend(wire.endpoint.gateways.iter().map(|gateway| default_route(index, *gateway)));
    }
    Ok(inside.route.socket().request(&mut messages)?)
}

fn read_link(answer: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: read_u32(answer, 4),
        name: String::new(),
        master: 0,
        mtu: 0,
        up: read_u32(answer, 8) & IFF_UP != 0,
        addresses: Vec::new(),
    };
    for (kind, value) in attributes(answer.get(16..)?) {
        match kind {
            IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
            }
            IFLA_MASTER => link.master = read_u32(value, 0),
            IFLA_MTU => link.mtu = read_u32(value, 0),
            _ => {}
        }
    }
    Some(link)
}
