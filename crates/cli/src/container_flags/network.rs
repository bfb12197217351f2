//! `--network` and its settings, published ports, hosts, the resolver.

use std::net::IpAddr;

use robot_env_diag::{Error, Kind, Result};
use robot_env_network::firewall::Protocol;
use robot_env_network::port::pair;
use robot_env_spec::{DnsConfig, EndpointSpec, HostEntry, NetworkMode, PortSpec};

use super::mount::csv;
use super::{ContainerFlags, Wanted};

/// Fills in the networks, the ports, the hosts and the resolver.
pub(super) fn apply(flags: &ContainerFlags, wanted: &mut Wanted) -> Result<()> {
    if !flags.link.is_empty() {
        return Err(Error::new(Kind::Unsupported, "--link is not supported").with_hint(
            "containers of one network find each other by name: `network create NAME`, then `--network NAME` for both",
        ));
    }
    if !flags.link_local_ip.is_empty() {
        return Err(Error::new(Kind::Unsupported, "--link-local-ip is not supported")
            .with_hint("give the container an address with `--ip` or `--ip6`"));
    }
    let (mode, mut endpoints) = networks(&flags.network)?;
    let on_networks = matches!(mode, NetworkMode::Default | NetworkMode::Network(_));
    settings(flags, on_networks, &mut endpoints)?;
    let publish = flags.publish.iter().map(|text| published(text)).collect::<Result<Vec<_>>>()?.concat();
    let publishes = !publish.is_empty() || flags.publish_all;
    match &mode {
        NetworkMode::Host if publishes => {
            wanted.warnings.push("published ports are discarded when using host network mode".into());
        }
        // Docker says nothing; a line does no harm.
        NetworkMode::None if publishes => {
            wanted.warnings.push("ports are published when the container is connected to a network".into());
        }
        NetworkMode::Container(_) => {
            for (given, what) in [
                (flags.hostname.is_some(), "hostname"),
                (!flags.dns.is_empty(), "dns"),
                (!flags.add_host.is_empty(), "custom host-to-IP mapping"),
                (publishes, "port publishing"),
                (!flags.expose.is_empty(), "port exposing"),
            ] {
                if given {
                    return Err(Error::invalid(format!(
                        "conflicting options: {what} and the container type network mode"
                    )));
                }
            }
        }
        _ => {}
    }
    let mode_is_none = mode == NetworkMode::None;
    wanted.spec.network = mode;
    // Nothing more than the network itself was asked for.
    let plain = |endpoint: &EndpointSpec| *endpoint == EndpointSpec::of(&endpoint.network);
    wanted.spec.endpoints =
        if endpoints.len() == 1 && endpoints.iter().all(plain) { Vec::new() } else { endpoints };
    if on_networks || mode_is_none {
        wanted.spec.publish = publish;
        wanted.spec.publish_all = flags.publish_all;
    }
    wanted.spec.can.clone_from(&flags.can);
    wanted.spec.expose = flags.expose.iter().map(|text| exposed(text)).collect::<Result<Vec<_>>>()?.concat();
    wanted.spec.add_hosts = flags.add_host.iter().map(|text| host_entry(text)).collect::<Result<_>>()?;
    for server in &flags.dns {
        server.parse::<IpAddr>().map_err(|_| {
            Error::invalid(format!("invalid argument `{server}` for --dns: it is not an IP address"))
        })?;
    }
    wanted.spec.dns = DnsConfig {
        servers: flags.dns.clone(),
        search: flags.dns_search.clone(),
        options: flags.dns_option.clone(),
    };
    Ok(())
}

/// Puts the flags of their own into the only network, or the hardware address into the first.
fn settings(flags: &ContainerFlags, on_networks: bool, endpoints: &mut Vec<EndpointSpec>) -> Result<()> {
    let given = [
        (flags.ip.is_some(), "--ip"),
        (flags.ip6.is_some(), "--ip6"),
        (!flags.network_alias.is_empty(), "--network-alias"),
        (flags.mac_address.is_some(), "--mac-address"),
    ];
    let Some((_, first)) = given.into_iter().find(|(given, _)| *given) else { return Ok(()) };
    if !on_networks {
        return Err(Error::invalid(format!(
            "conflicting options: {first} and a container without a network of its own"
        )));
    }
    if endpoints.is_empty() {
        endpoints.push(EndpointSpec::of(robot_env_spec::DEFAULT_NETWORK));
    }
    if endpoints.len() > 1 && first != "--mac-address" {
        return Err(Error::invalid(format!("conflicting options: {first} with several networks"))
            .with_hint("write it with its network: --network name=NET,ip=10.1.2.3,alias=web"));
    }
    let Some(endpoint) = endpoints.first_mut() else { return Ok(()) };
    for (field, given) in [("ip", &flags.ip), ("ip6", &flags.ip6), ("mac-address", &flags.mac_address)] {
        if let Some(value) = given {
            set(endpoint, field, value, &format!("--{field}"))?;
        }
    }
    endpoint.aliases.extend(flags.network_alias.iter().cloned());
    Ok(())
}

/// Sets a field of an endpoint by its name in Docker's long form.
fn set(endpoint: &mut EndpointSpec, field: &str, value: &str, flag: &str) -> Result<()> {
    let bad = |what: &str| Error::invalid(format!("invalid argument `{value}` for {flag}: it is not {what}"));
    match field {
        "alias" => endpoint.aliases.push(value.to_owned()),
        "ip" => endpoint.ip = Some(value.parse().map_err(|_| bad("an IPv4 address"))?),
        "ip6" => endpoint.ip6 = Some(value.parse().map_err(|_| bad("an IPv6 address"))?),
        "mac-address" => {
            let mac: robot_env_network::plan::Mac = value.parse()?;
            endpoint.mac = Some(mac.to_string());
        }
        "gw-priority" => endpoint.gateway_priority = value.parse().map_err(|_| bad("a number"))?,
        _ => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("invalid argument `{field}` for {flag}: a network has no such setting here"),
            )
            .with_hint("there are name, alias, ip, ip6, mac-address and gw-priority"));
        }
    }
    Ok(())
}

/// The mode, and the places in networks.
fn networks(given: &[String]) -> Result<(NetworkMode, Vec<EndpointSpec>)> {
    let mut endpoints: Vec<EndpointSpec> = Vec::new();
    for text in given {
        let endpoint = endpoint(text)?;
        let special = match endpoint.network.as_str() {
            "none" => Some(NetworkMode::None),
            "host" => Some(NetworkMode::Host),
            name => match name.split_once(':') {
                Some(("container", "")) => {
                    return Err(Error::invalid("invalid container format container:<name|id>"));
                }
                Some(("container", container)) => Some(NetworkMode::Container(container.to_owned())),
                Some(_) => return Err(Error::invalid(format!("invalid argument `{name}` for --network"))),
                None => None,
            },
        };
        if let Some(mode) = special {
            if given.len() > 1 {
                return Err(Error::invalid(format!(
                    "conflicting options: network mode `{}` with other networks",
                    endpoint.network
                )));
            }
            if endpoint != EndpointSpec::of(&endpoint.network) {
                return Err(Error::invalid(format!(
                    "conflicting options: network mode `{}` and a network's settings",
                    endpoint.network
                )));
            }
            return Ok((mode, Vec::new()));
        }
        endpoints.push(endpoint);
    }
    let named = |name: &str| match name {
        "default" => NetworkMode::Default,
        name => NetworkMode::Network(name.to_owned()),
    };
    let mode = endpoints.first().map_or(NetworkMode::Default, |first| named(&first.network));
    for endpoint in &mut endpoints {
        if endpoint.network == "default" {
            robot_env_spec::DEFAULT_NETWORK.clone_into(&mut endpoint.network);
        }
    }
    Ok((mode, endpoints))
}

/// A network's name, or Docker's long form `name=NET,alias=A,...`.
fn endpoint(text: &str) -> Result<EndpointSpec> {
    if !text.contains('=') {
        return Ok(EndpointSpec::of(if text.is_empty() { "default" } else { text }));
    }
    let bad = || Error::invalid(format!("invalid argument `{text}` for --network"));
    let mut endpoint = EndpointSpec::default();
    for field in csv(text).ok_or_else(bad)? {
        match field.split_once('=') {
            Some(("name", value)) => value.clone_into(&mut endpoint.network),
            Some((key, value)) => set(&mut endpoint, key, value, "--network")?,
            None => return Err(bad()),
        }
    }
    if endpoint.network.is_empty() {
        return Err(Error::invalid(format!("invalid argument `{text}` for --network: it has no name")));
    }
    Ok(endpoint)
}

/// `[ADDRESS:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`; an IPv6 address stands in brackets.
fn published(text: &str) -> Result<Vec<PortSpec>> {
    let bad = || {
        Error::invalid(format!(
            "invalid argument `{text}` for --publish: it must be like 8080:80 or 127.0.0.1:8080:80/udp"
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot publish port `{text}`: sctp is not supported; there are tcp and udp"),
            ));
        }
        _ => return Err(bad()),
    };
    let (rest, container) = ports.rsplit_once(':').map_or((None, ports), |(rest, last)| (Some(rest), last));
    let (host, host_ports) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            Some((host, ports)) => (Some(host), Some(ports)),
            None => (None, Some(rest)),
        },
    };
    let host = match host {
        None | Some("") => None,
        Some(host) => {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let address: IpAddr = bare.unwrap_or(host).parse().map_err(|_| bad())?;
            if address.is_ipv6() != bare.is_some() {
                return Err(bad());
            }
            Some(address)
        }
    };
    // A random one is `0`, or nothing.
    let host_ports = match host_ports {
        None | Some("" | "0") => None,
        Some(ports) => Some(range(ports).ok_or_else(bad)?),
    };
    let (first, last) = range(container).ok_or_else(bad)?;
    let bindings = pair(host, host_ports.map(|(first, last)| first..=last), first..=last, protocol)?;
    Ok(bindings
        .into_iter()
        .map(|binding| PortSpec {
            host: binding.host,
            host_ports: binding.host_ports.map(|ports| (*ports.start(), *ports.end())),
            port: binding.container_port,
            protocol: protocol.name().to_owned(),
        })
        .collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && from > 0).then_some((from, to))
}

/// `PORT[-PORT][/PROTOCOL]` as `port/protocol` each.
fn exposed(text: &str) -> Result<Vec<String>> {
    let bad = || Error::invalid(format!("invalid range format for --expose: `{text}`"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let (from, to) = range(ports).ok_or_else(bad)?;
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

/// `NAME:ADDRESS`, `NAME=ADDRESS`; an IPv6 address may stand in brackets.
pub(crate) fn host_entry(text: &str) -> Result<HostEntry> {
    let bad = |why: &str| Error::invalid(format!("invalid argument `{text}` for --add-host: {why}"));
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| bad("it must be NAME:ADDRESS"))?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(bad("the name is missing or malformed"));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(bad("the address is not an IP address"));
    }
    Ok(HostEntry { name: name.to_owned(), address: bare.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let net = |name: &str| NetworkMode::Network(name.into());
        for (given, mode, names) in [
            (&["host"][..], NetworkMode::Host, &[][..]),
            (&["none"], NetworkMode::None, &[]),
            (&["default"], NetworkMode::Default, &["bridge"]),
            (&["bridge"], net("bridge"), &["bridge"]),
            (&[], NetworkMode::Default, &[]),
            (&["container:web"], NetworkMode::Container("web".into()), &[]),
            (&["name=host"], NetworkMode::Host, &[]),
            (&["a", "name=b,alias=x"], net("a"), &["a", "b"]),
        ] {
            let (found, endpoints) = networks(&words(given)).unwrap();
            let found_names: Vec<&str> = endpoints.iter().map(|e| e.network.as_str()).collect();
            assert_eq!((found, &found_names[..]), (mode, names), "{given:?}");
        }
        for bad in [
            &["container:"][..],
            &["alias=x"],
            &["host", "none"],
            &["a", "host"],
            &["name=host,alias=x"],
            &["name=a,ip=x"],
            &["name=a,what=x"],
            &["a:b"],
        ] {
            assert!(networks(&words(bad)).is_err(), "{bad:?}");
        }
        let text =
            "name=n,alias=a,alias=b,ip=10.0.0.9,ip6=fd00::9,mac-address=02-42-00-00-00-09,gw-priority=3";
        let endpoint = endpoint(text).unwrap();
        assert_eq!(endpoint.aliases, ["a", "b"]);
        assert_eq!(endpoint.ip.unwrap().to_string(), "10.0.0.9");
        assert_eq!(endpoint.mac.as_deref(), Some("02:42:00:00:00:09"));
        assert_eq!(endpoint.gateway_priority, 3);
    }

    #[test]
    fn published_ports() {
        let one = |text: &str| {
            let mut all = published(text).unwrap();
            assert_eq!(all.len(), 1, "{text}");
            let port = all.remove(0);
            (port.host.map(|host| host.to_string()), port.host_ports, port.port, port.protocol)
        };
        let tcp = || "tcp".to_owned();
        for (text, want) in [
            ("80", (None, None, 80, tcp())),
            ("8080:80", (None, Some((8080, 8080)), 80, tcp())),
            ("0:80", (None, None, 80, tcp())),
            ("8000-8010:80", (None, Some((8000, 8010)), 80, tcp())),
            ("127.0.0.1:8080:80/UDP", (Some("127.0.0.1".into()), Some((8080, 8080)), 80, "udp".into())),
            ("127.0.0.1::80", (Some("127.0.0.1".into()), None, 80, tcp())),
            ("[::1]:1:2", (Some("::1".into()), Some((1, 1)), 2, tcp())),
        ] {
            assert_eq!(one(text), want, "{text}");
        }
        let pairs: Vec<_> =
            published("8000-8001:80-81").unwrap().into_iter().map(|p| (p.host_ports, p.port)).collect();
        assert_eq!(pairs, [(Some((8000, 8000)), 80), (Some((8001, 8001)), 81)]);
        for bad in ["", "x", "80/x", "80:", "80/sctp", "1-3:1-2", "::1:1:2", "a:1:2", "70000", "2-1", "0"] {
            assert!(published(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for (text, name, address) in [
            ("robot:10.0.0.1", "robot", "10.0.0.1"),
            ("robot=10.0.0.1", "robot", "10.0.0.1"),
            ("robot:::1", "robot", "::1"),
            ("robot=[fe80::1]", "robot", "fe80::1"),
            ("host.docker.internal:host-gateway", "host.docker.internal", "host-gateway"),
        ] {
            assert_eq!(
                host_entry(text).unwrap(),
                HostEntry { name: name.into(), address: address.into() },
                "{text}"
            );
        }
        for bad in ["robot", ":1.2.3.4", "robot:", "robot:x", "a b:1.2.3.4", "a\nb:1.2.3.4"] {
            assert!(host_entry(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(exposed("80").unwrap(), ["80/tcp"]);
        assert_eq!(exposed("80-82/UDP").unwrap(), ["80/udp", "81/udp", "82/udp"]);
        for bad in ["", "0", "a", "82-80", "80/x", "70000"] {
            assert!(exposed(bad).is_err(), "{bad}");
        }
    }
}
