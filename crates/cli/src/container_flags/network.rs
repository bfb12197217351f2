//! `--network`, `--add-host`, and the flags that need networks of containers.

use std::net::IpAddr;

use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::{DnsConfig, HostEntry, NetworkMode};

use super::mount::csv;
use super::{ContainerFlags, Wanted};

const HINT: &str = "use the host's network with `--network host`";

/// Fills in the network, the hosts, the resolver and the exposed ports.
pub(super) fn apply(flags: &ContainerFlags, wanted: &mut Wanted) -> Result<()> {
    let mode = mode(&flags.network)?;
    let unsupported = |what: &str| {
        Err(Error::new(Kind::Unsupported, format!("{what} needs a container network, and there is none yet"))
            .with_hint(HINT))
    };
    if !flags.link.is_empty() {
        return Err(Error::new(Kind::Unsupported, "--link is not supported")
            .with_hint("share a network instead: `--network host` or `--network container:NAME`"));
    }
    for (given, flag) in [
        (flags.ip.is_some(), "--ip"),
        (flags.ip6.is_some(), "--ip6"),
        (!flags.link_local_ip.is_empty(), "--link-local-ip"),
        (flags.mac_address.is_some(), "--mac-address"),
        (!flags.network_alias.is_empty(), "--network-alias"),
    ] {
        if given {
            return unsupported(flag);
        }
    }
    let publishes = !flags.publish.is_empty() || flags.publish_all;
    for port in &flags.publish {
        check_port(port)?;
    }
    match &mode {
        NetworkMode::Host if publishes => {
            wanted.warnings.push("published ports are discarded when using host network mode".into());
        }
        // Docker discards them without a word; a line does no harm.
        NetworkMode::None if publishes => {
            wanted.warnings.push("published ports are discarded: the container has no network".into());
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
        _ if publishes => return unsupported("publishing ports"),
        _ => {}
    }
    wanted.spec.network = mode;
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

fn mode(given: &[String]) -> Result<NetworkMode> {
    let text = match given {
        [] => return Ok(NetworkMode::Default),
        [text] => text,
        _ => return Err(Error::new(Kind::Unsupported, "a container can have only one network")),
    };
    // Docker's long form: name=NET,alias=A,...
    let name = if text.contains('=') {
        let mut name = None;
        for field in
            csv(text).ok_or_else(|| Error::invalid(format!("invalid argument `{text}` for --network")))?
        {
            match field.split_once('=') {
                Some(("name", value)) => name = Some(value.to_owned()),
                _ => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!(
                            "--network option `{field}` needs a container network, and there is none yet"
                        ),
                    )
                    .with_hint(HINT));
                }
            }
        }
        name.ok_or_else(|| {
            Error::invalid(format!("invalid argument `{text}` for --network: it has no name"))
        })?
    } else {
        text.clone()
    };
    Ok(match name.as_str() {
        "" | "default" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        _ => {
            match name.split_once(':') {
                Some(("container", "")) => {
                    return Err(Error::invalid("invalid container format container:<name|id>"));
                }
                Some(("container", container)) => NetworkMode::Container(container.to_owned()),
                _ => {
                    return Err(Error::new(Kind::Unsupported, format!("cannot join network `{name}`: there are only `host`, `none` and `container:NAME` yet"))
                    .with_hint(HINT));
                }
            }
        }
    })
}

/// `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`, only looked at.
fn check_port(text: &str) -> Result<()> {
    let bad = || {
        Error::invalid(format!(
            "invalid argument `{text}` for --publish: it must be like 8080:80 or 127.0.0.1:8080:80/udp"
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let last = ports.rsplit(':').next().unwrap_or_default();
    if !matches!(protocol, "tcp" | "udp" | "sctp") || range(last).is_none() {
        return Err(bad());
    }
    Ok(())
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
fn host_entry(text: &str) -> Result<HostEntry> {
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
        for (text, want) in [
            ("host", NetworkMode::Host),
            ("none", NetworkMode::None),
            ("default", NetworkMode::Default),
            ("container:web", NetworkMode::Container("web".into())),
            ("name=host", NetworkMode::Host),
        ] {
            assert_eq!(mode(&[text.to_owned()]).unwrap(), want, "{text}");
        }
        for bad in ["container:", "bridge", "mynet", "name=mynet,alias=x", "alias=x"] {
            assert!(mode(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(mode(&["host".to_owned(), "none".to_owned()]).is_err());
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
        for good in ["80", "8080:80", "127.0.0.1:8080:80/udp", "[::1]:1:2", "8000-8010:8000-8010"] {
            assert!(check_port(good).is_ok(), "{good}");
        }
        for bad in ["", "x", "80/x", "80:"] {
            assert!(check_port(bad).is_err(), "{bad}");
        }
    }
}
