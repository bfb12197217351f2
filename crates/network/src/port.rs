//! Published ports before they are published: are they free on the host, and which one to take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

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
/// long as this lives. No one listens on them: the translation comes first.
pub struct Reservation {
    /// For [`crate::firewall::Firewall::publish`].
    pub ports: Vec<Port>,
    /// Keep these open (in the container's monitor) as long as the ports are published.
    pub sockets: Vec<OwnedFd>,
}

/// Chooses a host port for each binding and reserves it. Ports in `published` (those of the other
/// containers, which may be reserved by nobody after a crash) count as taken. A taken port is
/// [`Kind::Conflict`] and named.
pub fn reserve(bindings: &[Binding], endpoint: &Endpoint, published: &[Port]) -> Result<Reservation> {
    reserve_all(bindings, endpoint, published, false)
}

/// The same for somebody who forwards what comes to the sockets: those for connections listen, and
/// do not mind connections of the last one who had the port that are still being closed.
pub fn listen(bindings: &[Binding], endpoint: &Endpoint, published: &[Port]) -> Result<Reservation> {
    reserve_all(bindings, endpoint, published, true)
}

fn reserve_all(
    bindings: &[Binding],
    endpoint: &Endpoint,
    published: &[Port],
    listens: bool,
) -> Result<Reservation> {
    let mut reservation = Reservation { ports: Vec::new(), sockets: Vec::new() };
    for binding in bindings {
        reserve_one(binding, endpoint, published, listens, &mut reservation)?;
    }
    Ok(reservation)
}

fn reserve_one(
    binding: &Binding,
    endpoint: &Endpoint,
    published: &[Port],
    listens: bool,
    into: &mut Reservation,
) -> Result<()> {
    let host = binding.host.filter(|host| !host.is_unspecified());
    let families: Vec<IpAddr> = endpoint
        .addresses
        .iter()
        .map(|address| address.address)
        .filter(|address| binding.host.is_none_or(|host| host.is_ipv6() == address.is_ipv6()))
        .collect();
    let shown = binding.host.map_or_else(|| "0.0.0.0".to_owned(), |host| host.to_string());
    let fail = |kind, port: &str, reason: &str| {
        Error::new(
            kind,
            format!("cannot publish port `{shown}:{port}/{}`: {reason}", binding.protocol.name()),
        )
    };
    if families.is_empty() {
        let port = binding.host_ports.as_ref().map_or(binding.container_port, |ports| *ports.start());
        return Err(fail(
            Kind::InvalidInput,
            &port.to_string(),
            "the container has no address of that family",
        ));
    }
    if host.is_some_and(|host| host.is_ipv6() && host.is_loopback()) {
        let port = binding.host_ports.as_ref().map_or(binding.container_port, |ports| *ports.start());
        return Err(fail(
            Kind::Unsupported,
            &port.to_string(),
            "the kernel does not route ::1; publish on 127.0.0.1",
        ));
    }
    let bind_all = |number: u16, taken: &[Port]| -> Result<(Vec<Port>, Vec<OwnedFd>), Errno> {
        let (mut ports, mut sockets): (Vec<Port>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        let mut number = number;
        for container in &families {
            let any: IpAddr =
                if container.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let (socket, bound) =
                hold(SocketAddr::new(host.unwrap_or(any), number), binding.protocol, listens)?;
            number = bound; // a random one is the same for both families
            let port = Port {
                host,
                host_port: number,
                protocol: binding.protocol,
                container: *container,
                container_port: binding.container_port,
            };
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
        Some(ports) if ports.start() == ports.end() => (ports.start().to_string(), "it is in use already"),
        Some(ports) => (format!("{}-{}", ports.start(), ports.end()), "all of them are in use already"),
        None => ("random".to_owned(), "no port is free"),
    };
    Err(fail(Kind::Conflict, &port, reason))
}

/// Do two published ports take the same place?
pub fn clash(one: &Port, other: &Port) -> bool {
    one.host_port == other.host_port
        && one.protocol == other.protocol
        && one.container.is_ipv6() == other.container.is_ipv6()
        && (one.host.is_none() || other.host.is_none() || one.host == other.host)
}

/// Connections that may wait for a forwarder.
const BACKLOG: i32 = 512;

/// A socket bound to `address`, and the port that it got.
fn hold(address: SocketAddr, protocol: Protocol, listens: bool) -> Result<(OwnedFd, u16), Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that wait out their time on the port are no reason to refuse it; a program
        // that listens is one all the same.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if protocol == Protocol::Tcp && listens {
        // Its connections inherit that they may wait out their time beside a new listener.
        rustix::net::listen(&socket, BACKLOG)?;
    } else if protocol == Protocol::Tcp {
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

    #[test]
    fn places_clash() {
        let port = |host: Option<&str>, host_port, protocol| Port {
            host: host.map(|host| host.parse().unwrap()),
            host_port,
            protocol,
            container: "10.0.0.2".parse().unwrap(),
            container_port: 1,
        };
        let any = port(None, 80, Protocol::Tcp);
        for (other, clashes) in [
            (port(Some("127.0.0.1"), 80, Protocol::Tcp), true),
            (port(None, 81, Protocol::Tcp), false),
            (port(None, 80, Protocol::Udp), false),
            (Port { container: "fd00::2".parse().unwrap(), ..any }, false),
        ] {
            assert_eq!(clash(&any, &other), clashes, "{other:?}");
        }
        assert!(!clash(
            &port(Some("127.0.0.1"), 80, Protocol::Tcp),
            &port(Some("127.0.0.2"), 80, Protocol::Tcp)
        ));
    }
}
