//! The default network, networks of users, joining and leaving.

use crate::{await_call, host, server};

#[test]
fn privileged_a_container_is_on_the_bridge() {
    let host = host!("bridge");
    let script = "busybox ip -4 -o addr show eth0; busybox ip route; cat /etc/hosts; hostname";
    let out = host.place.command(&["run", "--rm", "-h", "box", "busybox", "sh", "-c", script]).run().ok();
    let gateway = host.network_field("bridge", "{{(index .IPAM.Config 0).Gateway}}");
    let subnet = gateway.rsplit_once('.').unwrap().0;
    assert!(out.contains(&format!("inet {subnet}.2/24")), "{out}");
    assert!(out.contains(&format!("default via {gateway} dev eth0")), "{out}");
    assert!(out.contains(&format!("{subnet}.2\tbox\n")), "{out}");
    // An address is not given again at once: the namespace that had it may still answer.
    let id = host.start("--cap-add NET_RAW --name aa", "sleep 1000");
    for (template, want) in [
        ("{{.HostConfig.NetworkMode}}", "bridge".to_owned()),
        ("{{.NetworkSettings.IPAddress}}", format!("{subnet}.3")),
        ("{{.NetworkSettings.Networks.bridge.Gateway}}", gateway.clone()),
        ("{{.NetworkSettings.Networks.bridge.IPPrefixLen}}", "24".into()),
    ] {
        assert_eq!(host.place.field("aa", template), want, "{template}");
    }
    assert_eq!(host.network_field("bridge", &format!("{{{{(index .Containers \"{id}\").Name}}}}")), "aa");
    host.inside("aa", &format!("busybox ping -c 1 -W 2 {gateway}"));
    let names = host.ok("network ls --format {{.Name}}/{{.Driver}}");
    assert_eq!(names, "bridge/bridge\nhost/host\nnone/null");
    host.ok("stop -t 0 aa");
    assert_eq!(host.place.field("aa", "{{.NetworkSettings.IPAddress}}"), "");
    host.ok("start aa");
    assert_eq!(host.place.field("aa", "{{.NetworkSettings.IPAddress}}"), format!("{subnet}.4"));
    host.end();
}

#[test]
fn privileged_networks_of_users_come_and_go() {
    let host = host!("networks");
    let id = host.ok("network create --subnet 10.77.0.0/24 --ip-range 10.77.0.128/25 --label a=b robots");
    assert_eq!(id.len(), 64);
    host.ok("network create --internal --subnet 10.78.0.0/24 --gateway 10.78.0.254 quiet");
    for (line, says) in [
        ("network create robots", "network with name robots already exists"),
        ("network create --subnet 10.77.0.0/16 other", "overlaps 10.77.0.0/24"),
        ("network create bridge", "not permitted on predefined"),
        ("network create -o what=1 other", "no such option"),
        ("network create -d nope other", "there are bridge, macvlan"),
        ("network rm bridge", "pre-defined"),
        ("network rm nothing", "network nothing not found"),
        ("network inspect nothing", "network nothing not found"),
        ("run --rm --network nothing busybox true", "network nothing not found"),
        ("run --rm --ip 10.0.0.9 busybox true", "user defined networks only"),
        ("run --rm --network robots --ip 10.99.0.9 busybox true", "not in subnet 10.77.0.0/24"),
        ("run --rm --network robots --ip 10.77.0.1 busybox true", "it is the gateway's"),
    ] {
        let done = host.place.run(line);
        assert!(done.code != 0 && done.err.contains(says), "{line}: {done:?}");
    }
    assert_eq!(host.ok("network ls -q -f label=a=b"), &id[..12]);
    host.start("--cap-add NET_RAW --name aa --network robots", "sleep 1000");
    host.start(
        "--name bb --network name=robots,ip=10.77.0.9,mac-address=02:42:00:00:00:09 --network quiet",
        "sleep 1000",
    );
    assert_eq!(host.place.field("aa", "{{.NetworkSettings.Networks.robots.IPAddress}}"), "10.77.0.128");
    let out = host.inside("bb", "busybox ip -o addr show; busybox ip route");
    for part in ["02:42:00:00:00:09", "10.77.0.9/24", "10.78.0.1/24", "default via 10.77.0.1 dev eth0"] {
        let out = format!(
            "{out}{}",
            host.inside("bb", "cat /sys/class/net/eth0/address 2>/dev/null || busybox ip link show eth0")
        );
        assert!(out.contains(part), "{part}: {out}");
    }
    host.inside("aa", "busybox ping -c 1 -W 2 10.77.0.9");
    let done = host.place.run("run --rm --network robots --ip 10.77.0.9 busybox true");
    assert!(done.err.contains("another container has it"), "{done:?}");
    // Joining and leaving while it runs.
    assert!(host.place.run("network connect robots aa").err.contains("already exists in network robots"));
    host.ok("network connect --ip 10.78.0.77 quiet aa");
    let out = host.inside("aa", "busybox ip -o addr show eth1; busybox ip route; cat /etc/hosts");
    for part in ["10.78.0.77/24", "default via 10.77.0.1 dev eth0", "10.78.0.77\t"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    host.inside("aa", "busybox ping -c 1 -W 2 10.78.0.1");
    host.ok("network disconnect robots aa");
    let out = host.inside("aa", "busybox ip -o addr show; busybox ip route; cat /etc/hosts");
    assert!(!out.contains("10.77.") && !out.contains("default"), "{out}");
    assert!(
        host.place.run("network disconnect robots aa").err.contains("is not connected to network robots")
    );
    host.ok("network connect bridge aa");
    assert!(host.inside("aa", "busybox ip route").contains("default via"));
    assert!(host.place.run("network rm quiet").err.contains("has active endpoints"));
    // What was changed while it ran is what it starts with.
    host.ok("restart -t 0 aa");
    let networks = host.place.field("aa", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}");
    assert_eq!(networks.trim(), "bridge quiet");
    host.ok("rm -f aa bb");
    host.ok("network rm robots");
    assert_eq!(host.ok("network prune -f").lines().nth(1), Some("quiet"));
    assert_eq!(host.ok("network ls -q").lines().count(), 3);
    host.end();
}

#[test]
fn privileged_ipv6_beside_ipv4() {
    let host = host!("six");
    host.ok("network create --ipv6 --subnet 10.73.0.0/24 --subnet fd00:73::/64 robots");
    host.start("--name web --network name=robots,ip6=fd00:73::9 -p 8080:80", &server(80, "hello"));
    assert_eq!(
        host.place.field("web", "{{.NetworkSettings.Networks.robots.GlobalIPv6Address}}"),
        "fd00:73::9"
    );
    assert_eq!(await_call("[fd00:73::9]:80"), "hello");
    assert_eq!(await_call("[fd00:73::1]:8080"), "hello");
    assert_eq!(await_call("127.0.0.1:8080"), "hello");
    assert_eq!(await_call("[::1]:8080"), "hello");
    assert_eq!(host.ok("port web"), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    host.end();
}

#[test]
fn privileged_what_happens_is_told() {
    let host = host!("events");
    host.ok("network create robots");
    host.ok("run --rm --name box --network robots busybox true");
    host.ok("network rm robots");
    let out = host.ok("events --since 0 --until 0s --format {{.Type}}/{{.Action}}");
    let ours: Vec<&str> = out.lines().filter(|line| !line.starts_with("image/")).collect();
    let want = [
        "network/create",
        "container/create",
        "network/connect",
        "container/start",
        "container/die",
        "network/disconnect",
        "container/destroy",
        "network/destroy",
    ];
    assert_eq!(ours, want, "{out}");
    host.end();
}

#[test]
fn privileged_containers_of_a_network_share_it_and_others_do_not() {
    let host = host!("isolation");
    host.ok("network create one");
    host.ok("network create two");
    host.start("--name server --network one", &server(80, "hello"));
    let address = host.place.field("server", "{{.NetworkSettings.Networks.one.IPAddress}}");
    assert_eq!(await_call(&format!("{address}:80")), "hello");
    let ask = |network: &str| {
        let script = format!("echo | nc -w 2 {address} 80");
        host.place.command(&["run", "--rm", "--network", network, "busybox", "sh", "-c", &script]).run().out
    };
    assert_eq!(ask("one"), "hello\n");
    assert_eq!(ask("two"), "");
    assert_eq!(ask("bridge"), "");
    assert_eq!(ask("container:server"), "hello\n");
    host.end();
}

#[test]
fn privileged_the_configuration_speaks_of_networks() {
    let host = host!("bridge-config");
    let write = |text: &str| {
        let path = host.place.directory.join("config/robot-env/config.toml");
        std::fs::write(path, format!("undo-time = '0'\n{text}")).unwrap();
    };
    let range = || host.network_field("bridge", "{{json .IPAM.Config}}");
    let before = range();
    write(
        "bip = '10.77.1.1/24'\nfixed-cidr = '10.77.1.128/25'\nmtu = 1400\nicc = false\nip = '127.0.0.1'\n\
         ipv6 = true\nfixed-cidr-v6 = 'fd00:77::/64'\n\
         default-address-pools = [{ base = '10.78.0.0/16', size = 28 }]\n\
         [default-network-opts.bridge]\n\"com.docker.network.driver.mtu\" = '1300'\n",
    );
    let script = "busybox ip -o addr show eth0; cat /sys/class/net/eth0/mtu";
    let out = host.place.command(&["run", "--rm", "busybox", "sh", "-c", script]).run().ok();
    for want in ["inet 10.77.1.12", "/24", "inet6 fd00:77::", "1400"] {
        assert!(out.contains(want), "{want}: {out}");
    }
    assert!(
        range().contains(r#""Subnet":"10.77.1.0/24","IPRange":"10.77.1.128/25","Gateway":"10.77.1.1""#),
        "{}",
        range()
    );
    host.ok("network create lab");
    assert_eq!(host.network_field("lab", "{{(index .IPAM.Config 0).Subnet}}"), "10.78.0.0/28");
    let out = host.ok("run --rm --network lab busybox cat /sys/class/net/eth0/mtu");
    assert_eq!(out, "1300");
    host.start("--name web -p 8099:80", "sleep 1000");
    assert_eq!(host.ok("port web"), "80/tcp -> 127.0.0.1:8099");
    // While somebody is in it, it stays; and a range of the host's is not taken.
    write("bip = '10.79.1.1/24'\n");
    let done = host.place.run("network ls -q");
    assert!(done.err.contains("follows the configuration when no container is in it any more"), "{done:?}");
    assert!(range().contains("10.77.1.0/24"), "{}", range());
    host.ok("rm -f web");
    write("bip = '127.0.0.9/24'\n");
    let done = host.place.run("network ls -q");
    assert!(done.err.contains("overlaps 127.0.0.0/8, which the host has"), "{done:?}");
    let again = host.place.run("network ls -q");
    assert_eq!(again.err, "", "it is said once");
    write("bip = '10.79.1.1'\nicc = 'no'\n");
    let done = host.place.run("network ls -q");
    assert!(done.err.contains("`bip` must be an IP address with a prefix"), "{done:?}");
    // Nothing is said any more.
    write("");
    host.ok("network reload");
    let now = range();
    assert!(!now.contains("10.77") && !now.contains("fd00"), "{now} after {before}");
    host.ok("network rm lab");
    host.end();
}
