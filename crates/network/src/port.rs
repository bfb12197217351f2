//! Published ports before they are published: are they free on the host, and which one to take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use robot_env_diag::{Error, Kind, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::firewall::{Port, Protocol};
use crate::plan::Endpoint;

/// What a user asks for: `-p [host:][ports:]container[/protocol]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// An address of the host; `None`: every one.
    pub host: Option<IpAddr>,
    /// The host's port: the first of these that is free; `None`: a random free one.
    pub host_ports: Option<RangeInclusive<u16>>,
    /// The container's port.
    pub container_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// The binding of each port of a range to its fellow in another: `-p 8000-8010:80-90`. As many
/// host ports as container ports, or for one container port a range to choose from.
pub fn pair(
    host: Option<IpAddr>,
    host_ports: Option<RangeInclusive<u16>>,
    container_ports: RangeInclusive<u16>,
    protocol: Protocol,
) -> Result<Vec<Binding>> {
    let count = |range: &RangeInclusive<u16>| u32::from(*range.end()) + 1 - u32::from(*range.start());
    let shown = |range: &RangeInclusive<u16>| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    };
    for range in std::iter::once(&container_ports).chain(&host_ports) {
        if range.is_empty() || *range.start() == 0 {
            return Err(Error::invalid(format!(
                "cannot publish ports `{}`: that is not a range of ports",
                shown(range)
            )));
        }
    }
    let binding = |host_ports, container_port| Binding { host, host_ports, container_port, protocol };
    match host_ports {
        None => Ok(container_ports.map(|port| binding(None, port)).collect()),
        Some(range) if count(&container_ports) == 1 => {
            Ok(vec![binding(Some(range), *container_ports.start())])
        }
        Some(range) if count(&range) == count(&container_ports) => {
            Ok(range.zip(container_ports).map(|(on, port)| binding(Some(on..=on), port)).collect())
        }
        Some(range) => Err(Error::invalid(format!(
            "cannot publish ports `{}:{}`: the ranges are not of one length",
            shown(&range),
            shown(&container_ports)
        ))),
    }
}

/// Ports that are chosen, and the sockets that keep other programs of the host from taking them as
/// long as this lives, one for each. Those of [`Port::is_relayed`] listen; behind the others nobody
/// does: the translation comes first.
pub struct Reservation {
    /// For [`crate::firewall::Firewall::publish`].
    pub ports: Vec<Port>,
    /// Keep these open (in the container's monitor) as long as the ports are published.
    pub sockets: Vec<OwnedFd>,
}

/// Which sockets listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Those of ports that the kernel does not translate.
    Relayed,
    /// All: nothing is translated. They do not mind connections of the last one who had the port that
    /// are still being closed.
    All,
}

/// Chooses a host port for each binding and reserves it. Ports in `published` (those of the other
/// containers, which may be reserved by nobody after a crash) count as taken. A taken port is
/// [`Kind::Conflict`] and named.
pub fn reserve(
    bindings: &[Binding],
    endpoint: &Endpoint,
    published: &[Port],
    listening: Listening,
) -> Result<Reservation> {
    let mut reservation = Reservation { ports: Vec::new(), sockets: Vec::new() };
    for binding in bindings {
        reserve_one(binding, endpoint, published, listening, &mut reservation)?;
    }
    Ok(reservation)
}

/// The socket of a port that was chosen before; see [`Reservation`].
pub fn hold_again(port: &Port, listening: Listening) -> Result<OwnedFd> {
    match hold(port, listening) {
        Ok((socket, _)) => Ok(socket),
        Err(errno) => Err(Error::new(
            Kind::of_errno(errno.raw_os_error()),
            format!("cannot publish port `{}`: it cannot be bound", port.name()),
        )
        .because(std::io::Error::from(errno))),
    }
}

/// The host's addresses that a binding is on, `0.0.0.0` and `::` for all of a family.
fn places(binding: &Binding) -> Vec<IpAddr> {
    match binding.host {
        Some(host) => vec![host],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    }
}

fn reserve_one(
    binding: &Binding,
    endpoint: &Endpoint,
    published: &[Port],
    listening: Listening,
    into: &mut Reservation,
) -> Result<()> {
    let shown = match binding.host {
        Some(IpAddr::V6(host)) => format!("[{host}]"),
        Some(IpAddr::V4(host)) => host.to_string(),
        None => "0.0.0.0".to_owned(),
    };
    let fail = |kind, port: &str, reason: &str| {
        Error::new(
            kind,
            format!("cannot publish port `{shown}:{port}/{}`: {reason}", binding.protocol.name()),
        )
    };
    let bind_all = |number: u16, taken: &[Port]| -> Result<(Vec<Port>, Vec<OwnedFd>), Errno> {
        let (mut ports, mut sockets): (Vec<Port>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        let mut number = number;
        for host in places(binding) {
            let addresses = endpoint.addresses.iter().map(|address| address.address);
            let wanted = Port {
                host: Some(host),
                host_port: number,
                protocol: binding.protocol,
                container: host,
                container_port: binding.container_port,
            };
            let Some(mut port) = wanted.leading_to(addresses) else { continue };
            let socket = match hold(&port, listening) {
                Ok((socket, bound)) => {
                    number = bound; // a random one is the same for both families
                    socket
                }
                // A host without IPv6.
                Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
                    if binding.host.is_none() && !port.is_translated() =>
                {
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            port.host_port = number;
            if taken.iter().any(|other| clash(other, &port)) {
                return Err(Errno::ADDRINUSE);
            }
            ports.push(port);
            sockets.push(socket);
        }
        Ok((ports, sockets))
    };
    let taken: Vec<Port> = published.iter().chain(&into.ports).copied().collect();
    let candidates: Vec<u16> = match &binding.host_ports {
        Some(ports) => ports.clone().collect(),
        None => vec![0; 16], // the kernel chooses; again where the other family has that one taken
    };
    for candidate in candidates {
        match bind_all(candidate, &taken) {
            Ok((ports, sockets)) => {
                into.ports.extend(ports);
                into.sockets.extend(sockets);
                return Ok(());
            }
            Err(Errno::ADDRINUSE) => {}
            Err(Errno::ADDRNOTAVAIL) => {
                return Err(fail(Kind::InvalidInput, &candidate.to_string(), "the host has no such address"));
            }
            Err(errno) => {
                return Err(fail(
                    Kind::of_errno(errno.raw_os_error()),
                    &candidate.to_string(),
                    "it cannot be bound",
                )
                .because(std::io::Error::from(errno)));
            }
        }
    }
    let (port, reason) = match &binding.host_ports {
        Some(ports) if ports.start() == ports.end() => {
            let holder = holder(*ports.start(), binding.protocol);
            let by = holder.map(|(name, pid)| format!(", by `{name}` (process {pid})")).unwrap_or_default();
            (ports.start().to_string(), format!("it is in use already{by}"))
        }
        Some(ports) => {
            (format!("{}-{}", ports.start(), ports.end()), "all of them are in use already".into())
        }
        None => ("random".to_owned(), "no port is free".into()),
    };
    Err(fail(Kind::Conflict, &port, &reason))
}

/// The program of the host that has a port: its name and pid, as far as the caller may look. Of a
/// socket that does not listen nothing is known.
fn holder(port: u16, protocol: Protocol) -> Option<(String, u32)> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
    };
    let text = |table: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
    let sockets: Vec<PathBuf> = tables
        .iter()
        .filter_map(|table| text(table).ok())
        .flat_map(|text| text.lines().filter_map(|line| socket_at(line, port, protocol)).collect::<Vec<_>>())
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find_map(|pid| {
        let mut open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let has = |path| std::fs::read_link(path).is_ok_and(|link| sockets.contains(&link));
        open.any(|entry| has(entry.path())).then_some(())?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((name.trim_end().escape_default().to_string(), pid))
    })
}

/// The socket of a line of `/proc/net/tcp` or its fellows, if it has this port.
fn socket_at(line: &str, port: u16, protocol: Protocol) -> Option<PathBuf> {
    const LISTENS: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, number) = fields.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(number, 16).ok()? == port
        && (protocol == Protocol::Udp || *fields.get(3)? == LISTENS);
    is_it.then(|| Some(PathBuf::from(format!("socket:[{}]", fields.get(9)?))))?
}

/// Do two published ports take the same place?
pub fn clash(one: &Port, other: &Port) -> bool {
    let (at, there) = (one.host_address(), other.host_address());
    one.host_port == other.host_port
        && one.protocol == other.protocol
        && at.is_ipv6() == there.is_ipv6()
        && (at == there || at.is_unspecified() || there.is_unspecified())
}

/// Connections that may wait for a forwarder.
const BACKLOG: i32 = 512;

/// A socket bound to a port's place on the host, and the port that it got.
fn hold(port: &Port, listening: Listening) -> Result<(OwnedFd, u16), Errno> {
    let address = SocketAddr::new(port.host_address(), port.host_port);
    let kind = match port.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if port.protocol == Protocol::Tcp {
        // Connections that wait out their time on the port are no reason to refuse it; a program
        // that listens is one all the same.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if port.protocol == Protocol::Tcp && (listening == Listening::All || port.is_relayed()) {
        // Its connections inherit that they may wait out their time beside a new listener.
        rustix::net::listen(&socket, BACKLOG)?;
    } else if port.protocol == Protocol::Tcp {
        // From here on nobody else gets it either.
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((socket, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_pair_up() {
        let ports = |host: Option<RangeInclusive<u16>>, container| {
            pair(None, host, container, Protocol::Tcp).map(|bindings| {
                bindings.into_iter().map(|b| (b.host_ports, b.container_port)).collect::<Vec<_>>()
            })
        };
        assert_eq!(
            ports(Some(8000..=8001), 80..=81).unwrap(),
            [(Some(8000..=8000), 80), (Some(8001..=8001), 81)]
        );
        assert_eq!(ports(Some(8000..=8009), 80..=80).unwrap(), [(Some(8000..=8009), 80)]);
        assert_eq!(ports(None, 80..=81).unwrap(), [(None, 80), (None, 81)]);
        assert!(ports(Some(8000..=8002), 80..=81).unwrap_err().message().contains("8000-8002:80-81"));
        assert!(ports(None, 0..=0).is_err());
        assert_eq!(ports(Some(1..=65535), 1..=65535).unwrap().len(), 65535);
    }

    fn port(host: Option<&str>, host_port: u16, container: &str) -> Port {
        Port {
            host: host.map(|host| host.parse().unwrap()),
            host_port,
            protocol: Protocol::Tcp,
            container: container.parse().unwrap(),
            container_port: 1,
        }
    }

    #[test]
    fn places_clash() {
        let any = port(None, 80, "10.0.0.2");
        for (other, clashes) in [
            (port(Some("127.0.0.1"), 80, "10.0.0.2"), true),
            (port(None, 81, "10.0.0.2"), false),
            (Port { protocol: Protocol::Udp, ..any }, false),
            (port(None, 80, "fd00::2"), false),
            (port(Some("::"), 80, "10.0.0.2"), false),
            (port(Some("0.0.0.0"), 80, "fd00::2"), true),
        ] {
            assert_eq!(clash(&any, &other), clashes, "{other:?}");
        }
        let six = port(Some("::"), 80, "10.0.0.2");
        assert!(clash(&six, &port(None, 80, "fd00::2")) && clash(&six, &port(Some("::1"), 80, "10.0.0.3")));
        assert!(!clash(&port(Some("127.0.0.1"), 80, "10.0.0.2"), &port(Some("127.0.0.2"), 80, "10.0.0.2")));
    }

    #[test]
    fn the_program_that_has_a_port_is_found() {
        let line =
            "  1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 100";
        for (port, protocol, want) in [
            (8080, Protocol::Tcp, Some("socket:[4711]")),
            (8081, Protocol::Tcp, None),
            (8080, Protocol::Udp, Some("socket:[4711]")),
        ] {
            assert_eq!(socket_at(line, port, protocol), want.map(PathBuf::from), "{port}");
        }
        assert_eq!(socket_at(&line.replace(" 0A ", " 01 "), 8080, Protocol::Tcp), None, "a connection");
        assert_eq!(socket_at("  sl  local_address", 8080, Protocol::Tcp), None);
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (_, pid) = holder(own.local_addr().unwrap().port(), Protocol::Tcp).unwrap();
        assert_eq!(pid, std::process::id());
    }

    #[test]
    fn what_the_kernel_cannot_translate_is_relayed() {
        for (host, container, translated, relayed) in [
            (None, "10.0.0.2", true, false),
            (Some("127.0.0.1"), "10.0.0.2", true, false),
            (Some("::"), "10.0.0.2", false, true),
            (Some("::1"), "10.0.0.2", false, true),
            (Some("0.0.0.0"), "fd00::2", false, true),
            // All of the host's IPv6 addresses: ::1 is one.
            (None, "fd00::2", true, true),
            (Some("fd00::1"), "fd00::2", true, false),
            (Some("::1"), "fd00::2", false, true),
        ] {
            let port = port(host, 80, container);
            assert_eq!((port.is_translated(), port.is_relayed()), (translated, relayed), "{port:?}");
        }
    }

    #[test]
    fn a_port_leads_to_an_address_of_its_own_family_if_it_can() {
        let (four, six) = ("10.0.0.2", "fd00::2");
        for (host, was, to, want) in [
            (None, four, vec![six, "10.0.0.3"], Some((None, "10.0.0.3"))),
            (None, four, vec![six], Some((Some("0.0.0.0"), six))),
            (None, six, vec![four], Some((Some("::"), four))),
            (Some("::"), four, vec![four, six], Some((None, six))),
            (Some("::1"), four, vec![four, six], Some((Some("::1"), six))),
            (None, four, vec![], None),
        ] {
            let led = port(host, 80, was).leading_to(to.iter().map(|text| text.parse().unwrap()));
            assert_eq!(led, want.map(|(host, container)| port(host, 80, container)), "{host:?} {was} {to:?}");
        }
    }
}
