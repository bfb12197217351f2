//! The real kernel, as root. Each test is a thread with a network namespace of its own that stands
//! for the host, so the machine's own is never touched.

#![allow(clippy::print_stdout)] // why a test is skipped

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use robot_env_diag::Kind;
use robot_env_network::attach::{Attachment, attach, detach, release};
use robot_env_network::firewall::{Desired, Firewall, Found, Port, Protocol};
use robot_env_network::link::Links;
use robot_env_network::plan::{Driver, Network, Range, Request};
use robot_env_network::port::{Binding, Listening, reserve};
use robot_env_network::reconcile::{Report, Wanted, reconcile};
use robot_env_sys::namespace;
use robot_env_testkit::network::{here, neighbour, new_namespace, within};

/// Runs `test` in a new host. False, and the reason printed, where nobody may.
fn host(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    std::thread::spawn(move || {
        namespace::unshare(libc::CLONE_NEWNET).expect("a network namespace");
        Links::open().unwrap();
        robot_env_sys::netlink::RouteSocket::open().unwrap().loopback_up().unwrap();
        test();
    })
    .join()
    .unwrap();
}

struct Lab {
    desired: Desired,
    links: Links,
    firewall: Firewall,
    veths: Vec<String>,
    taken: BTreeSet<IpAddr>,
}

struct Container {
    namespace: OwnedFd,
    attachment: Attachment,
}

impl Container {
    fn address(&self) -> IpAddr {
        self.attachment.endpoint.addresses[0].address
    }

    /// Answers each connection to `port` with the peer's address.
    fn serve(&self, port: u16) {
        let listener = within(&self.namespace, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let peer = stream.peer_addr().unwrap().ip().to_string();
                let _ = stream.write_all(peer.as_bytes());
            }
        });
    }
}

fn network(at: u32, change: impl FnOnce(&mut Network)) -> Network {
    let subnet = format!("10.7.{at}.0/24").parse().unwrap();
    let id = format!("{at:012x}{:052}", 0);
    let mut network = Network::bridge(&id, &format!("net{at}"), vec![Range::of(subnet)]);
    change(&mut network);
    network.check().unwrap();
    network
}

/// Reconciles, as the owner of every bridge that a test here makes; all `veths` are at the first.
fn mend(desired: &Desired, veths: &[String]) -> Report {
    let bridges: Vec<String> = (0..8).map(|at| network(at, |_| {}).bridge).collect();
    let first = desired.networks.first().map(|network| network.bridge.clone()).unwrap_or_default();
    let veths: BTreeMap<String, String> = veths.iter().map(|name| (name.clone(), first.clone())).collect();
    reconcile(&Wanted { tag: None, desired: desired.clone(), bridges: &bridges, veths }).unwrap()
}

fn lab(networks: Vec<Network>) -> Lab {
    let guarded = Firewall::forwarding(&networks).unwrap();
    let desired = Desired { networks, ports: Vec::new(), guarded };
    let report = mend(&desired, &[]);
    assert_eq!((report.made.len(), report.firewall), (desired.networks.len(), Found::Restored));
    let again = mend(&desired, &[]);
    assert_eq!((again.made.len(), again.removed.len(), again.firewall), (0, 0, Found::Intact));
    Lab {
        desired,
        links: Links::open().unwrap(),
        firewall: Firewall::open(None).unwrap(),
        veths: Vec::new(),
        taken: BTreeSet::new(),
    }
}

impl Lab {
    fn container(&mut self, network: usize, ports: &[(Option<&str>, u16, u16)]) -> Container {
        let network = &self.desired.networks[network];
        let namespace = new_namespace();
        let endpoint = network.allocate(&Request::default(), &self.taken, 0).unwrap();
        self.taken.extend(endpoint.addresses.iter().map(|address| address.address));
        let ports: Vec<Port> = ports
            .iter()
            .map(|(host, host_port, container_port)| Port {
                host: host.map(|host| host.parse().unwrap()),
                host_port: *host_port,
                protocol: Protocol::Tcp,
                container: endpoint.addresses[0].address,
                container_port: *container_port,
            })
            .collect();
        let attachment = Attachment::new(network, endpoint, 0, ports.clone());
        attach(&mut self.links, &mut self.firewall, network, &attachment, namespace.as_fd()).unwrap();
        self.desired.ports.extend(ports);
        self.veths.push(attachment.host_link.clone());
        Container { namespace, attachment }
    }
}

/// A way to the containers' addresses through the host.
fn route_to_containers(outside: &OwnedFd) {
    use robot_env_sys::netlink::{CREATE, Message, RouteSocket};
    let mut route = Message::new(24, CREATE, "route").fixed(&[2, 16, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
    route.attribute(1, &[10, 7, 0, 0]).attribute(5, &[192, 0, 2, 1]);
    RouteSocket::open_in(outside.as_fd()).unwrap().socket().request(&mut [route]).unwrap();
}

/// What the server at `to` says it saw; `None` if it can't be reached.
fn call(from: &OwnedFd, to: impl Into<IpAddr>, port: u16) -> Option<String> {
    let to = SocketAddr::new(to.into(), port);
    within(from, move || {
        // The first packet may be lost while the bridge learns of the link; it is sent again after a second.
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(1500)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn privileged_containers_of_a_network_reach_each_other_and_no_other_network() {
    host(|| {
        let mut lab = lab(vec![network(1, |_| {}), network(2, |_| {}), network(3, |n| n.connected = false)]);
        let (a, b, other) = (lab.container(0, &[]), lab.container(0, &[]), lab.container(1, &[]));
        b.serve(80);
        other.serve(80);
        assert_eq!(call(&a.namespace, b.address(), 80), Some(a.address().to_string()));
        assert_eq!(call(&here(), b.address(), 80).as_deref(), Some("10.7.1.1"), "the host reaches it");
        assert_eq!(call(&a.namespace, other.address(), 80), None, "isolation");
        let (c, d) = (lab.container(2, &[]), lab.container(2, &[]));
        d.serve(80);
        assert_eq!(call(&c.namespace, d.address(), 80), None, "containers that are not connected");
        assert!(call(&here(), d.address(), 80).is_some());
    });
}

#[test]
fn privileged_published_ports_from_everywhere() {
    host(|| {
        let mut lab = lab(vec![network(1, |_| {}), network(2, |_| {})]);
        let outside = neighbour();
        let server = lab.container(0, &[(None, 8080, 80), (Some("127.0.0.1"), 8081, 80)]);
        server.serve(80);
        let (near, far) = (lab.container(0, &[]), lab.container(1, &[]));
        assert_eq!(call(&here(), ip("192.0.2.1"), 8080).as_deref(), Some("192.0.2.1"), "from the host");
        assert_eq!(call(&here(), ip("127.0.0.1"), 8080).as_deref(), Some("10.7.1.1"), "from localhost");
        assert!(call(&here(), ip("127.0.0.1"), 8081).is_some());
        assert_eq!(call(&outside, ip("192.0.2.1"), 8080).as_deref(), Some("192.0.2.2"), "from outside");
        assert_eq!(call(&outside, ip("192.0.2.1"), 8081), None, "only published on localhost");
        assert!(call(&server.namespace, ip("192.0.2.1"), 8080).is_some(), "hairpin");
        assert!(call(&near.namespace, ip("192.0.2.1"), 8080).is_some(), "from its network");
        assert!(call(&near.namespace, ip("10.7.1.1"), 8080).is_some(), "through its gateway");
        assert!(call(&far.namespace, ip("192.0.2.1"), 8080).is_some(), "from another network");
        // Not published: not reached, whatever routes there are.
        server.serve(81);
        route_to_containers(&outside);
        assert_eq!(call(&outside, server.address(), 81), None);
        // A place that is taken is named.
        let network = &lab.desired.networks[1];
        let endpoint = network.allocate(&Request::default(), &lab.taken, 0).unwrap();
        let port = Port { container: endpoint.addresses[0].address, ..server.attachment.ports[0] };
        let second = Attachment::new(network, endpoint, 0, vec![port]);
        let namespace = new_namespace();
        let error =
            attach(&mut lab.links, &mut lab.firewall, network, &second, namespace.as_fd()).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.message().contains("`0.0.0.0:8080/tcp`"), "{}", error.message());
        assert!(lab.links.find(&second.host_link).unwrap().is_none(), "undone");
        // Withdrawn: gone, twice is no error.
        release(&mut lab.firewall, &server.attachment).unwrap();
        release(&mut lab.firewall, &server.attachment).unwrap();
        assert_eq!(call(&outside, ip("192.0.2.1"), 8080), None);
    });
}

#[test]
fn privileged_ways_out() {
    host(|| {
        let mut lab = lab(vec![
            network(1, |_| {}),
            network(2, |n| n.internal = true),
            network(3, |n| n.masquerade = false),
        ]);
        let outside = neighbour();
        let listener = within(&outside, || TcpListener::bind("0.0.0.0:80").unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let peer = stream.peer_addr().unwrap().ip().to_string();
                let _ = stream.write_all(peer.as_bytes());
            }
        });
        let (open, internal, plain) = (lab.container(0, &[]), lab.container(1, &[]), lab.container(2, &[]));
        assert_eq!(call(&open.namespace, ip("192.0.2.2"), 80).as_deref(), Some("192.0.2.1"), "masqueraded");
        assert_eq!(call(&internal.namespace, ip("192.0.2.2"), 80), None, "internal");
        assert_eq!(call(&plain.namespace, ip("192.0.2.2"), 80), None, "no way back");
        route_to_containers(&outside);
        assert_eq!(call(&plain.namespace, ip("192.0.2.2"), 80), Some(plain.address().to_string()));
        let fellow = lab.container(1, &[]);
        fellow.serve(80);
        assert!(call(&internal.namespace, fellow.address(), 80).is_some(), "internal networks work inside");
    });
}

#[test]
fn privileged_the_hosts_loopback_is_out_of_reach() {
    host(|| {
        let mut lab = lab(vec![network(1, |_| {})]);
        let server = lab.container(0, &[(None, 8080, 80)]);
        let secret = UdpSocket::bind("127.0.0.1:5000").unwrap();
        secret.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        // With a route to 127.0.0.2 through the gateway and route_localnet on the bridge.
        within(&server.namespace, || {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            let mut socket = robot_env_sys::netlink::RouteSocket::open().unwrap();
            let mut delete = robot_env_sys::netlink::Message::new(25, 0, "local route")
                .fixed(&[2, 8, 0, 0, 255, 0, 255, 2, 0, 0, 0, 0]);
            delete.attribute(1, &[127, 0, 0, 0]);
            socket.socket().request(&mut [delete]).unwrap();
            let mut delete = robot_env_sys::netlink::Message::new(25, 0, "local route")
                .fixed(&[2, 32, 0, 0, 255, 0, 255, 2, 0, 0, 0, 0]);
            delete.attribute(1, &[127, 0, 0, 1]);
            socket.socket().request(&mut [delete]).unwrap();
            let socket = UdpSocket::bind("10.7.1.2:0").unwrap();
            for _ in 0..3 {
                let _ = socket.send_to(b"hello", "127.0.0.1:5000");
            }
        });
        assert!(secret.recv_from(&mut [0; 8]).is_err());
    });
}

#[test]
fn privileged_a_flush_is_mended() {
    host(|| {
        let mut lab = lab(vec![network(1, |_| {}), network(2, |_| {})]);
        let outside = neighbour();
        let server = lab.container(0, &[(None, 8080, 80)]);
        server.serve(80);
        assert!(call(&outside, ip("192.0.2.1"), 8080).is_some());
        lab.firewall.remove().unwrap();
        assert_eq!(call(&outside, ip("192.0.2.1"), 8080), None);
        let error =
            lab.firewall.publish(&lab.desired.networks[0].bridge, &server.attachment.ports).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        let report = mend(&lab.desired, &lab.veths);
        assert_eq!((report.firewall, report.removed.len()), (Found::Restored, 0));
        assert!(call(&outside, ip("192.0.2.1"), 8080).is_some());
        assert_eq!(mend(&lab.desired, &lab.veths).firewall, Found::Intact);
        // A bridge that somebody removed, an element too many, a veth of nobody.
        lab.links.remove_bridge(&lab.desired.networks[1].bridge).unwrap();
        let stray = Port { host_port: 9999, ..server.attachment.ports[0] };
        lab.firewall.publish(&lab.desired.networks[0].bridge, &[stray]).unwrap();
        let report = mend(&lab.desired, &[]);
        assert_eq!(report.made, [lab.desired.networks[1].bridge.clone()]);
        assert_eq!(report.removed, lab.veths);
        assert_eq!(report.firewall, Found::Restored);
        assert!(lab.firewall.taken(&[stray]).unwrap().is_empty());
        // Nothing desired: nothing left.
        mend(&Desired::default(), &[]);
        let left: Vec<String> = lab.links.all().unwrap().into_keys().collect();
        assert!(left.iter().all(|name| !name.starts_with('r')), "{left:?}");
        assert_eq!(lab.firewall.taken(&[stray]).unwrap(), []);
    });
}

/// Another firewall forwards nothing that it does not know, as ufw and Docker have it.
#[test]
fn privileged_beside_a_firewall_that_drops() {
    use robot_env_sys::netlink::{CREATE, Message, NetlinkSocket};
    host(|| {
        let mut table = Message::new(10 << 8, CREATE, "table").fixed(&[2, 0, 0, 0]);
        table.text(1, "filter");
        let mut chain = Message::new(10 << 8 | 3, CREATE, "chain").fixed(&[2, 0, 0, 0]);
        chain.text(1, "filter").text(3, "FORWARD");
        let hook = chain.begin(4 | 0x8000);
        chain.number_be(1, 2).number_be(2, 0);
        chain.end(hook);
        chain.number_be(5, 0).text(7, "filter");
        let mut socket = NetlinkSocket::open(libc::NETLINK_NETFILTER).unwrap();
        socket.transaction(10, &mut [table, chain]).unwrap();
        let mut lab = lab(vec![network(1, |_| {})]);
        let outside = neighbour();
        let server = lab.container(0, &[(None, 8080, 80)]);
        server.serve(80);
        assert_eq!(call(&outside, ip("192.0.2.1"), 8080).as_deref(), Some("192.0.2.2"));
        let near = lab.container(0, &[]);
        assert!(call(&near.namespace, server.address(), 80).is_some(), "with br_netfilter, too");
        let rules = |socket: &mut NetlinkSocket| {
            let ask = Message::new(10 << 8 | 7, robot_env_sys::netlink::DUMP, "rules").fixed(&[2, 0, 0, 0]);
            socket.ask(ask).unwrap().len()
        };
        assert_eq!(rules(&mut socket), 4);
        assert_eq!(mend(&lab.desired, &lab.veths).firewall, Found::Intact);
        assert_eq!(rules(&mut socket), 4, "once");
        mend(&Desired::default(), &[]);
        assert_eq!(rules(&mut socket), 0, "and gone with the last network");
    });
}

#[test]
fn privileged_networks_come_and_go_one_by_one() {
    host(|| {
        let mut lab = lab(vec![network(1, |_| {})]);
        // Neighbouring ranges, in both orders.
        let more = [network(2, |_| {}), network(0, |_| {}), network(3, |n| n.internal = true)];
        for network in &more {
            lab.firewall.add_network(network).unwrap();
            lab.desired.networks.push(network.clone());
            assert_eq!(lab.firewall.ensure(&lab.desired).unwrap(), Found::Intact, "{}", network.name);
        }
        for network in &more {
            lab.firewall.remove_network(network).unwrap();
            lab.desired.networks.retain(|other| other != network);
            assert_eq!(lab.firewall.ensure(&lab.desired).unwrap(), Found::Intact, "{}", network.name);
            lab.firewall.remove_network(network).unwrap();
        }
    });
}

#[test]
fn privileged_many_come_and_go_and_nothing_stays() {
    host(|| {
        let mut lab = lab(vec![network(1, |_| {})]);
        let before = lab.links.all().unwrap().len();
        for at in 0..100 {
            let container = lab.container(0, &[(None, 8080, 80)]);
            if at % 2 == 0 {
                detach(&mut lab.links, &mut lab.firewall, &container.attachment, container.namespace.as_fd())
                    .unwrap();
            } else {
                release(&mut lab.firewall, &container.attachment).unwrap();
            }
            lab.taken.clear();
            lab.desired.ports.clear();
        }
        assert_eq!(lab.firewall.ensure(&lab.desired).unwrap(), Found::Intact);
        // Dead namespaces are reaped in the background.
        for _ in 0..100 {
            if lab.links.all().unwrap().len() == before {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{:?}", lab.links.all().unwrap().keys());
    });
}

#[test]
fn privileged_ports_are_reserved() {
    host(|| {
        let lab = lab(vec![network(1, |_| {})]);
        let endpoint = lab.desired.networks[0].allocate(&Request::default(), &lab.taken, 0).unwrap();
        let busy = TcpListener::bind("0.0.0.0:8000").unwrap();
        let ask = |host_ports, published: &[Port]| {
            let binding = Binding { host: None, host_ports, container_port: 80, protocol: Protocol::Tcp };
            reserve(&[binding], &endpoint, published, Listening::Relayed)
        };
        let error = ask(Some(8000..=8000), &[]).err().unwrap();
        let said = "cannot publish port `0.0.0.0:8000/tcp`: it is in use already, by `";
        assert!(error.message().starts_with(said), "{}", error.message());
        let second = ask(Some(8000..=8002), &[]).unwrap();
        assert_eq!(second.ports[0].host_port, 8001);
        assert!(TcpListener::bind("0.0.0.0:8001").is_err(), "held");
        let third = ask(Some(8000..=8002), &second.ports).unwrap();
        assert_eq!(third.ports[0].host_port, 8002);
        assert!(ask(Some(8000..=8002), &[]).is_err());
        assert!(ask(None, &[]).unwrap().ports[0].host_port > 1023);
        drop((busy, second));
        assert!(ask(Some(8000..=8000), &[]).is_ok());
        let elsewhere = Binding {
            host: Some(ip("192.0.2.77")),
            host_ports: Some(80..=80),
            container_port: 80,
            protocol: Protocol::Udp,
        };
        let error = reserve(&[elsewhere], &endpoint, &[], Listening::Relayed).err().unwrap();
        assert!(error.message().ends_with("the host has no such address"), "{}", error.message());
    });
}

#[test]
fn privileged_ipv6() {
    host(|| {
        let six =
            |at: u32| network(at, |n| n.ranges.push(Range::of(format!("fd00:7:{at}::/64").parse().unwrap())));
        let mut lab = lab(vec![six(1), six(2)]);
        let (a, b, other) = (lab.container(0, &[]), lab.container(0, &[]), lab.container(1, &[]));
        let address = |c: &Container| c.attachment.endpoint.addresses[1].address;
        for server in [&b, &other] {
            let listener = within(&server.namespace, || TcpListener::bind("[::]:80").unwrap());
            std::thread::spawn(move || {
                while let Ok((mut stream, peer)) = listener.accept() {
                    let _ = stream.write_all(peer.ip().to_string().as_bytes());
                }
            });
        }
        assert_eq!(call(&a.namespace, address(&b), 80), Some(address(&a).to_string()));
        assert_eq!(call(&a.namespace, address(&other), 80), None);
        let port = Port {
            host: None,
            host_port: 8080,
            protocol: Protocol::Tcp,
            container: address(&b),
            container_port: 80,
        };
        lab.firewall.publish(&lab.desired.networks[0].bridge, &[port]).unwrap();
        assert!(call(&here(), ip("fd00:7:1::1"), 8080).is_some());
        assert!(call(&other.namespace, ip("fd00:7:2::1"), 8080).is_some());
        lab.desired.ports.push(port);
        assert_eq!(lab.firewall.ensure(&lab.desired).unwrap(), Found::Intact);
    });
}

#[test]
fn privileged_macvlan_and_what_the_kernel_lacks() {
    host(|| {
        let mut links = Links::open().unwrap();
        let mut firewall = Firewall::open(None).unwrap();
        let _outside = neighbour();
        for driver in [Driver::Macvlan, Driver::Ipvlan] {
            let network = network(1, |n| {
                n.driver = driver;
                n.bridge.clear();
                n.parent = Some("wan0".into());
            });
            let mut pair = Vec::new();
            let mut taken = BTreeSet::new();
            for _ in 0..2 {
                let endpoint = network.allocate(&Request::default(), &taken, 0).unwrap();
                taken.extend(endpoint.addresses.iter().map(|address| address.address));
                let attachment = Attachment::new(&network, endpoint, 0, Vec::new());
                let namespace = new_namespace();
                match attach(&mut links, &mut firewall, &network, &attachment, namespace.as_fd()) {
                    Ok(()) => pair.push(Container { namespace, attachment }),
                    Err(error) => {
                        assert_eq!((driver, error.kind()), (Driver::Ipvlan, Kind::Unsupported), "{error:?}");
                    }
                }
            }
            if let [a, b] = pair.as_slice() {
                b.serve(80);
                assert_eq!(call(&a.namespace, b.address(), 80), Some(a.address().to_string()));
                detach(&mut links, &mut firewall, &a.attachment, a.namespace.as_fd()).unwrap();
                assert_eq!(call(&a.namespace, b.address(), 80), None);
            }
        }
        let gone = network(1, |n| {
            n.driver = Driver::Macvlan;
            n.parent = Some("eth9".into());
        });
        let endpoint = gone.allocate(&Request::default(), &BTreeSet::new(), 0).unwrap();
        let attachment = Attachment::new(&gone, endpoint, 0, Vec::new());
        let error =
            attach(&mut links, &mut firewall, &gone, &attachment, new_namespace().as_fd()).unwrap_err();
        assert!(error.message().contains("no interface `eth9`"), "{}", error.message());
    });
}
