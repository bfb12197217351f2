//! Published ports.

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
    let random = random.strip_prefix("0.0.0.0:").expect("a port of the host");
    assert_eq!(
        host.ok("port web"),
        format!("80/tcp -> 0.0.0.0:8080\n81/tcp -> 0.0.0.0:{random}\n90/udp -> 127.0.0.1:9000")
    );
    assert_eq!(
        host.ok("ps --format {{.Ports}}"),
        format!("0.0.0.0:8080->80/tcp, 0.0.0.0:{random}->81/tcp, 127.0.0.1:9000->90/udp")
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
    let busy = listen("0.0.0.0:8090");
    let done = host.place.run("run --rm -p 8090:80 busybox true");
    assert!(done.err.contains("`0.0.0.0:8090/tcp`") && done.err.contains("in use"), "{done:?}");
    drop(busy);
    host.ok("stop -t 0 web");
    assert_eq!(call("127.0.0.1:8080"), None);
    host.ok("run --rm -p 8080:80 busybox true");
    host.ok("start web");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
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
    assert_eq!(host.ok("port web"), "80/tcp -> 0.0.0.0:8080");
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
    let port = place.strip_prefix("0.0.0.0:").unwrap();
    assert_eq!(await_call(&format!("127.0.0.1:{port}")), "hello");
    assert_eq!(host.ok("port aa").lines().count(), 3);
    host.start("--name bb --expose 80", "sleep 1000");
    assert_eq!(host.ok("port bb"), "");
    assert_eq!(host.ok("ps -f name=bb --format {{.Ports}}"), "80/tcp");
    host.start("--name cc -p 7000-7002:70-72", "sleep 1000");
    assert_eq!(host.ok("ps -f name=cc --format {{.Ports}}"), "0.0.0.0:7000-7002->70-72/tcp");
    host.end();
}
