use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn network() -> Network {
    Network::bridge(ID, "lab", vec![Range::of("10.7.0.0/29".parse().unwrap())])
}

fn range(subnet: &str, pool: Option<&str>, gateway: Option<&str>) -> Range {
    Range {
        subnet: subnet.parse().unwrap(),
        pool: pool.map(|text| text.parse().unwrap()),
        gateway: gateway.map(|text| text.parse().unwrap()),
    }
}

#[test]
fn networks_are_checked() {
    network().check().unwrap();
    type Change = fn(&mut Network);
    let cases: [(Change, &str); 13] = [
        (|n| n.name = "-x".into(), "cannot name a network"),
        (|n| n.ranges.clear(), "no subnet"),
        (|n| n.bridge = "docker0".into(), "not a bridge's name"),
        (|n| n.mtu = Some(20), "mtu of 20"),
        (|n| n.ranges.push(range("10.8.0.0/16", None, None)), "more than one IPv4 subnet"),
        (|n| n.ranges = vec![range("10.8.0.0/31", None, None)], "no room"),
        (|n| n.ranges = vec![range("127.0.0.0/8", None, None)], "not one for containers"),
        (|n| n.ranges = vec![range("10.8.0.0/16", Some("10.9.0.0/24"), None)], "not inside subnet"),
        (|n| n.ranges = vec![range("10.8.0.0/16", None, Some("10.9.0.1"))], "gateway 10.9.0.1"),
        (|n| n.ranges = vec![range("10.8.0.0/16", None, Some("10.8.255.255"))], "gateway"),
        (|n| n.driver = Driver::Macvlan, "parent=NAME"),
        (|n| n.driver = Driver::Host, "has no addresses"),
        (|n| n.mode = Some("l3".into()), "no such mode"),
    ];
    for (change, reason) in cases {
        let mut changed = network();
        change(&mut changed);
        let error = changed.check().expect_err(reason);
        assert!(error.message().contains(reason), "{reason}: {}", error.message());
    }
}

#[test]
fn options_do_something_or_are_refused() {
    let mut given = network();
    given.options = [
        ("com.docker.network.driver.mtu", "1400"),
        ("com.docker.network.bridge.enable_icc", "false"),
        ("com.docker.network.bridge.enable_ip_masquerade", "0"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    given.apply_options().unwrap();
    assert_eq!((given.mtu, given.connected, given.masquerade), (Some(1400), false, false));
    for (key, value) in [("mtu", "x"), ("parent", "eth0"), ("com.docker.network.bridge.enable_icc", "maybe")]
    {
        given.options = [(key.to_owned(), value.to_owned())].into();
        assert!(given.apply_options().is_err(), "{key}");
    }
}

#[test]
fn addresses_do_not_collide() {
    let network = network();
    let mut taken = BTreeSet::new();
    let mut given = Vec::new();
    while let Ok(endpoint) = network.allocate(&Request::default(), &taken, 0) {
        assert!(taken.insert(endpoint.addresses[0].address));
        given.push(endpoint.addresses[0].address.to_string());
    }
    assert_eq!(given, ["10.7.0.2", "10.7.0.3", "10.7.0.4", "10.7.0.5", "10.7.0.6"]);
    let error = network.allocate(&Request::default(), &taken, 0).unwrap_err();
    assert_eq!((error.kind(), error.message().contains("all of 10.7.0.0/29")), (Kind::Unavailable, true));
    taken.remove(&"10.7.0.4".parse().unwrap());
    let next = network.allocate(&Request::default(), &taken, 0).unwrap();
    assert_eq!(next.addresses[0].address.to_string(), "10.7.0.4");
    assert_eq!(next.mac.to_string(), "02:42:0a:07:00:04");
    assert_eq!(next.gateways, ["10.7.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn asked_addresses() {
    let mut network = network();
    network.ranges.push(Range::of("fd00:7::/64".parse().unwrap()));
    let taken = ["10.7.0.3".parse().unwrap()].into();
    let ask = |ip: &str| {
        network.allocate(&Request { ip: Some(ip.parse().unwrap()), ..Request::default() }, &taken, 0)
    };
    let good = ask("10.7.0.5").unwrap();
    assert_eq!(good.addresses[0], Address { address: "10.7.0.5".parse().unwrap(), prefix: 29 });
    assert_eq!(good.addresses[1], Address { address: "fd00:7::2".parse().unwrap(), prefix: 64 });
    for (ip, reason) in [
        ("10.8.0.5", "not in subnet"),
        ("10.7.0.0", "no interface"),
        ("10.7.0.7", "no interface"),
        ("10.7.0.1", "the gateway's"),
        ("10.7.0.3", "another container"),
    ] {
        assert!(ask(ip).unwrap_err().message().contains(reason), "{ip}");
    }
    network.ranges.truncate(1);
    let six = Request { ip6: Some("fd00::9".parse().unwrap()), ..Request::default() };
    assert!(network.allocate(&six, &taken, 0).unwrap_err().message().contains("no IPv6 subnet"));
    network.internal = true;
    assert_eq!(network.allocate(&Request::default(), &taken, 0).unwrap().gateways, Vec::<IpAddr>::new());
}

#[test]
fn a_pool_and_a_gateway_elsewhere() {
    let mut network = network();
    network.ranges = vec![range("10.8.0.0/16", Some("10.8.5.0/30"), Some("10.8.5.2"))];
    let mut taken = BTreeSet::new();
    let mut given = Vec::new();
    while let Ok(endpoint) = network.allocate(&Request::default(), &taken, 0) {
        taken.insert(endpoint.addresses[0].address);
        given.push(endpoint.addresses[0].address.to_string());
    }
    assert_eq!(given, ["10.8.5.0", "10.8.5.1", "10.8.5.3"], "addresses inside a /16 are all usable");
}

#[test]
fn hardware_addresses() {
    assert_eq!("02-42-AC-11-00-02".parse::<Mac>().unwrap().to_string(), "02:42:ac:11:00:02");
    for bad in [
        "",
        "02:42:ac:11:00",
        "02:42:ac:11:00:02:03",
        "01:42:ac:11:00:02",
        "00:00:00:00:00:00",
        "2:42:ac:11:00:02",
    ] {
        assert!(bad.parse::<Mac>().is_err(), "{bad}");
    }
    assert_eq!(Mac::random().0[0] & 3, 2);
}

#[test]
fn bridges_by_name() {
    assert_eq!(bridge_name(ID), "re-0123456789ab");
    for (name, ours) in [
        ("robot-env0", true),
        ("re-0123456789ab", true),
        ("re-eth", false),
        ("docker0", false),
        ("re-0123456789aG", false),
    ] {
        assert_eq!(is_our_bridge(name), ours, "{name}");
    }
}

#[test]
fn records_are_read_back() {
    let text = serde_json::to_string(&network()).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), network());
}
