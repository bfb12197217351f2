//! Published ports.

use std::net::UdpSocket;
use std::time::Duration;

use robot_env_sys::{namespace, process};
use robot_env_testkit::network::within;

use crate::{await_call, call, host, listen, server};

#[test]
fn privileged_a_published_port_is_reached_and_named() {
    let host = host!("ports");
    host.start("--name web -p 8080:80 -p 127.0.0.1:9000:90/udp -p 81", &server(80, "hello"));
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    let gateway = host.network_field("bridge", "{{(index .IPAM.Config 0).Gateway}}");
    assert_eq!(await_call(&format!("{gateway}:8080")), "hello");
    // A container calls its own published port, and so does another one.
    let ask = format!("echo | nc -w 2 {gateway} 8080");
    assert_eq!(host.inside("web", &ask), "hello");
    assert_eq!(host.place.command(&["run", "--rm", "busybox", "sh", "-c", &ask]).run().out, "hello\n");
    let random = host.ok("port web 81");
    let random = random.lines().next().and_then(|line| line.strip_prefix("0.0.0.0:")).expect("a port");
    assert_eq!(
        host.ok("port web"),
        format!(
            "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n81/tcp -> 0.0.0.0:{random}\n\
             81/tcp -> [::]:{random}\n90/udp -> 127.0.0.1:9000"
        )
    );
    assert_eq!(
        host.ok("ps --format {{.Ports}}"),
        format!(
            "0.0.0.0:8080->80/tcp, 0.0.0.0:{random}->81/tcp, 127.0.0.1:9000->90/udp, \
             [::]:8080->80/tcp, [::]:{random}->81/tcp"
        )
    );
    assert_eq!(
        host.place.field("web", "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}"),
        "8080"
    );
    assert_eq!(host.ok("ps -q -f publish=8080").len(), 12);
    assert_eq!(host.ok("ps -q -f publish=8081"), "");
    assert!(host.place.run("port web 443").err.contains("no public port '443/tcp' published for web"));
    // The port is the host's no more: other programs cannot take it, nor other containers.
    assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
    let done = host.place.run("run --rm -p 8080:80 busybox true");
    assert_eq!(done.code, 125);
    assert!(done.err.contains("cannot publish port `0.0.0.0:8080/tcp`"), "{done:?}");
    assert!(done.err.contains("container `web` publishes it"), "{done:?}");
    let busy = listen("0.0.0.0:8090");
    let done = host.place.run("run --rm -p 8090:80 busybox true");
    assert!(done.err.contains("`0.0.0.0:8090/tcp`") && done.err.contains("in use"), "{done:?}");
    assert!(done.err.contains(&format!("(process {})", std::process::id())), "{done:?}");
    drop(busy);
    host.ok("stop -t 0 web");
    assert_eq!(call("127.0.0.1:8080"), None);
    host.ok("run --rm -p 8080:80 busybox true");
    host.ok("start web");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    host.end();
}

/// The processes that forward for the container, by pid.
fn forwarders(host: &crate::Host, container: &str) -> Vec<i32> {
    let monitor = host.place.monitor(container);
    let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).unwrap();
    let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "robot-env-port\n")
    })
    .collect()
}

/// What the kernel does not translate: IPv6 of the host to IPv4 of a container, and `::1`.
#[test]
fn privileged_a_published_port_is_reached_by_ipv6() {
    let host = host!("sixfour");
    let flags = "--name web -p 8080:80 -p [::1]:8081:80 -p [::1]:8090:90/udp -p 127.0.0.1:8082:80";
    host.start(flags, &server(80, "hello"));
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    assert!(forwarders(&host, "web").is_empty(), "nobody has needed one");
    assert_eq!(await_call("[::1]:8080"), "hello");
    assert_eq!(await_call("[::1]:8081"), "hello");
    let first = forwarders(&host, "web");
    assert_eq!(first.len(), 1);
    assert_eq!((call("127.0.0.1:8081"), call("[::1]:8082")), (None, None), "of the other family");
    assert_eq!(
        host.ok("port web"),
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> 127.0.0.1:8082\n80/tcp -> [::]:8080\n80/tcp -> [::1]:8081\n\
         90/udp -> [::1]:8090"
    );
    // Datagrams, there and back.
    let inside = namespace::open(&format!("/proc/{}/ns/net", host.place.field("web", "{{.State.Pid}}")));
    let echo = within(&inside.unwrap(), || UdpSocket::bind("0.0.0.0:90").unwrap());
    std::thread::spawn(move || {
        let mut bytes = [0u8; 16];
        let (length, from) = echo.recv_from(&mut bytes).unwrap();
        echo.send_to(&bytes[..length], from).unwrap();
    });
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(b"ping", "[::1]:8090").unwrap();
    let mut bytes = [0u8; 16];
    let (length, _) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"ping");
    // One that is killed is made again.
    let pidfd = process::pidfd_open(first[0]).unwrap();
    process::signal(&pidfd, libc::SIGKILL).unwrap();
    assert_eq!(await_call("[::1]:8080"), "hello");
    assert_ne!(forwarders(&host, "web"), first);
    for (flags, says) in [
        ("-p 8080:80", "`0.0.0.0:8080/tcp`"),
        ("-p [::]:8080:80", "`[::]:8080/tcp`"),
        ("-p [::1]:8081:1", "`[::1]:8081/tcp`"),
        ("-p [2001:db8::77]:8083:80", "the host has no such address"),
    ] {
        let done = host.place.run(&format!("run --rm {flags} busybox true"));
        assert!(done.code == 125 && done.err.contains(says), "{flags}: {done:?}");
    }
    let last = forwarders(&host, "web");
    host.ok("rm -f web");
    assert!(!std::path::Path::new(&format!("/proc/{}", last[0])).exists());
    assert_eq!(call("[::1]:8080"), None);
    host.end();
}

/// A container's ports are published when it is first connected to a network that they can be in.
#[test]
fn privileged_ports_come_with_a_later_network() {
    let host = host!("later");
    host.ok("network create one");
    host.start("--name web --network none -p 8080:80 --restart always", &server(80, "hello"));
    assert_eq!(host.ok("port web"), "");
    let busy = listen("0.0.0.0:8080");
    let done = host.place.run("network connect bridge web");
    assert!(done.code == 1 && done.err.contains("`0.0.0.0:8080/tcp`"), "{done:?}");
    assert_eq!(host.inside("web", "busybox ip -o addr show").lines().count(), 2, "lo alone");
    drop(busy);
    host.ok("network disconnect none web");
    host.ok("network connect bridge web");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    assert_eq!(await_call("[::1]:8080"), "hello");
    assert!(std::net::TcpListener::bind("127.0.0.1:8080").is_err());
    host.ok("network disconnect bridge web");
    assert_eq!((call("127.0.0.1:8080"), call("[::1]:8080")), (None, None));
    assert_eq!(host.ok("port web"), "");
    drop(listen("0.0.0.0:8080"));
    host.ok("network connect --alias site one web");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    assert_eq!(await_call("[::1]:8080"), "hello");
    // Its first network with names: it is found, and finds.
    host.start("--name other --network one", &server(80, "other"));
    for (from, to) in [("other", "site"), ("web", "other")] {
        let said = host.inside(from, &format!("echo | nc -w 2 {to} 80"));
        assert_eq!(said, if to == "site" { "hello" } else { "other" });
    }
    // So it is after the program has ended by itself, and after a restart.
    let pid = host.place.field("web", "{{.State.Pid}}");
    let pidfd = process::pidfd_open(pid.parse().unwrap()).unwrap();
    process::signal(&pidfd, libc::SIGKILL).unwrap();
    host.place.await_field("web", "{{.RestartCount}}/{{.State.Status}}", "1/running");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    host.ok("restart -t 0 web");
    assert_eq!(await_call("[::1]:8080"), "hello");
    assert_eq!(host.inside("other", "echo | nc -w 2 site 80"), "hello");
    host.end();
}

/// A container that leaves the network that its ports are published in keeps them in another.
#[test]
fn privileged_ports_move_with_the_default_route() {
    let host = host!("moving");
    host.ok("network create --subnet 10.74.1.0/24 one");
    host.ok("network create --subnet 10.74.2.0/24 two");
    host.start("--name web --network one -p 8080:80", &server(80, "hello"));
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    host.ok("network connect --gw-priority 5 two web");
    assert!(host.inside("web", "busybox ip route").contains("default via 10.74.2.1"));
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    host.ok("network disconnect one web");
    assert_eq!(host.ok("port web"), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    assert_eq!(await_call("[::1]:8080"), "hello");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    host.ok("network connect one web");
    host.ok("network disconnect two web");
    assert!(host.inside("web", "busybox ip route").contains("default via 10.74.1.1"));
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    assert_eq!(host.ok("network reload"), "rules intact");
    host.end();
}

#[test]
fn privileged_all_exposed_ports() {
    let host = host!("exposed");
    host.start("--name aa -P --expose 80 --expose 90/udp -p 8080:81", &server(80, "hello"));
    let place = host.ok("port aa 80");
    let port = place.lines().next().and_then(|line| line.strip_prefix("0.0.0.0:")).unwrap();
    assert_eq!(await_call(&format!("127.0.0.1:{port}")), "hello");
    assert_eq!(host.ok("port aa").lines().count(), 6);
    host.start("--name bb --expose 80", "sleep 1000");
    assert_eq!(host.ok("port bb"), "");
    assert_eq!(host.ok("ps -f name=bb --format {{.Ports}}"), "80/tcp");
    host.start("--name cc -p 7000-7002:70-72", "sleep 1000");
    assert_eq!(
        host.ok("ps -f name=cc --format {{.Ports}}"),
        "0.0.0.0:7000-7002->70-72/tcp, [::]:7000-7002->70-72/tcp"
    );
    host.end();
}
