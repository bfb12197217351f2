//! What robots need of networks: multicast, the LAN itself, CAN; other firewalls beside ours.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use robot_env_sys::namespace;
use robot_env_sys::netlink::{Message, RouteSocket};
use robot_env_testkit::network::{neighbour, within};

use crate::{Host, call, host, server};

pub(crate) fn namespace_of(host: &Host, container: &str) -> OwnedFd {
    let pid = host.place.field(container, "{{.State.Pid}}");
    namespace::open(&format!("/proc/{pid}/ns/net")).unwrap()
}

/// DDS discovers by multicast (239.255.0.1, port 7400 + 250 x domain).
#[test]
fn privileged_multicast_reaches_the_containers_of_a_network() {
    let host = host!("multicast");
    host.ok("network create robots");
    host.ok("network create other");
    for (name, network) in [("talker", "robots"), ("listener", "robots"), ("far", "other")] {
        host.start(&format!("--name {name} --network {network}"), "sleep 1000");
    }
    let group = Ipv4Addr::new(239, 255, 0, 1);
    let listen = |container: &str| {
        within(&namespace_of(&host, container), || {
            let socket = UdpSocket::bind("0.0.0.0:7400").unwrap();
            socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        })
    };
    let (near, far) = (listen("listener"), listen("far"));
    within(&namespace_of(&host, "talker"), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..3 {
            socket.send_to(b"participant", (group, 7400)).unwrap();
        }
    });
    let mut buffer = [0u8; 32];
    let (count, from) = near.recv_from(&mut buffer).expect("the other container hears it");
    assert_eq!(&buffer[..count], b"participant");
    let talker = host.place.field("talker", "{{.NetworkSettings.Networks.robots.IPAddress}}");
    assert_eq!(from.ip().to_string(), talker);
    far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(far.recv_from(&mut buffer).is_err(), "another network does not");
    // A socket keeps its namespace, and that its links.
    drop((near, far));
    host.end();
}

#[test]
fn privileged_macvlan_is_on_the_lan() {
    let host = host!("macvlan");
    let outside = neighbour();
    host.ok("network create -d macvlan --subnet 192.0.2.0/24 --gateway 192.0.2.2 -o parent=wan0 lan");
    host.start("--name arm --network lan --ip 192.0.2.50", &server(80, "hello"));
    let mut answer = None;
    for _ in 0..100 {
        answer = within(&outside, || call("192.0.2.50:80"));
        if answer.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(answer.as_deref(), Some("hello"));
    assert!(host.inside("arm", "busybox ip route").contains("default via 192.0.2.2 dev eth0"));
    let done = host.place.run("run --rm --network lan -p 80:80 busybox true");
    assert!(done.err.contains("a container is on the host's network itself"), "{done:?}");
    host.ok("network create -d macvlan --subnet 192.0.3.0/24 -o parent=gone0 nowhere");
    let done = host.place.run("run --rm --network nowhere busybox true");
    assert!(done.err.contains("the host has no interface `gone0`"), "{done:?}");
    assert!(host.place.run("network create -d macvlan x").err.contains("-o parent=NAME"));
    // Where the kernel has it, it works; this one's answer is clear otherwise.
    let done = host.place.run("network create -d ipvlan --subnet 192.0.2.0/24 -o parent=wan0 sub");
    if done.code == 0 {
        host.ok("run --rm --network sub busybox true");
    } else {
        assert!(done.err.contains("cannot create network `sub`: this kernel has no ipvlan"), "{done:?}");
    }
    host.ok("rm -f arm");
    let mut route = RouteSocket::open().unwrap();
    let mut gone = Message::new(17, 0, "wan0").fixed(&[0; 16]);
    gone.text(3, "wan0");
    route.socket().request(&mut [gone]).unwrap();
    host.end();
}

#[test]
fn privileged_can_is_refused_where_the_kernel_lacks_it() {
    let host = host!("can");
    let done = host.place.run("run --rm --can can9 busybox true");
    assert_eq!(done.code, 125);
    let clear = ["this kernel has no vxcan", "the host has no such interface"];
    assert!(clear.iter().any(|text| done.err.contains(text)), "{done:?}");
    assert!(done.err.contains("cannot join CAN interface `can9`"), "{done:?}");
    assert!(
        host.place.run("run --rm --network host --can can9 busybox true").err.contains("conflicting options")
    );
    host.end();
}

#[test]
fn privileged_fast_dds_on_the_hosts_network_is_warned_of() {
    let host = host!("shared-memory");
    let warning = "Fast DDS lists the topics";
    for (flags, warns) in [
        ("--network host -e ROS_DISTRO=humble", true),
        ("--network host --ipc host -e ROS_DISTRO=humble", false),
        ("--network host", false),
        ("-e ROS_DISTRO=humble", false),
    ] {
        let done = host.place.run(&format!("run --rm {flags} busybox true"));
        assert!(done.code == 0 && done.err.contains(warning) == warns, "{flags}: {done:?}");
    }
    host.end();
}

/// Somebody flushes all rules, and removes the bridge.
#[test]
fn privileged_a_reload_puts_everything_back() {
    let host = host!("reload");
    host.start("--name web -p 8080:80", &server(80, "hello"));
    assert_eq!(crate::await_call("127.0.0.1:8080"), "hello");
    assert_eq!(host.ok("network reload"), "rules intact");
    flush();
    assert_eq!(call("127.0.0.1:8080"), None);
    // The next start mends it by itself.
    host.ok("run --rm busybox true");
    assert_eq!(crate::await_call("127.0.0.1:8080"), "hello");
    flush();
    let bridge: Vec<String> = robot_env_network::link::Links::open()
        .unwrap()
        .all()
        .unwrap()
        .into_keys()
        .filter(|name| name.starts_with("re-"))
        .collect();
    robot_env_network::link::Links::open().unwrap().remove_bridge(&bridge[0]).unwrap();
    let out = host.ok("network reload");
    assert_eq!(out, format!("bridge {} made again\nrules written again", bridge[0]));
    assert_eq!(crate::await_call("127.0.0.1:8080"), "hello");
    host.end();
}

/// `nft flush ruleset`.
fn flush() {
    let mut socket = robot_env_sys::netlink::NetlinkSocket::open(libc::NETLINK_NETFILTER).unwrap();
    let delete = Message::new(10 << 8 | 2, 0, "NFT_MSG_DELTABLE(all)").fixed(&[0; 4]);
    socket.transaction(10, &mut [delete]).unwrap();
}
