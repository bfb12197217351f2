//! Rows of `network ls`, and published ports as lists show them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_network::firewall::Port;
use robot_env_wire::{Network, PortBinding};

use super::{labels, short};
use crate::format::{Column, Value, human};

/// Every field of a row, with its heading.
pub(crate) const COLUMNS: &[Column] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Label", ""),
    ("CreatedAt", "CREATED AT"),
];

/// What `network ls` prints when nothing else is asked for.
pub(crate) const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";

/// The keys of `--filter`.
pub(crate) const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];

/// A row.
pub(crate) fn row(network: &Network, created: Timestamp, truncate: bool) -> Value {
    let all_labels = network.labels.clone();
    Value::row([
        ("ID", if truncate { short(&network.id).into() } else { network.id.as_str().into() }),
        ("Name", network.name.as_str().into()),
        ("Driver", network.driver.as_str().into()),
        ("Scope", network.scope.as_str().into()),
        ("IPv4", network.enable_ipv4.to_string().into()),
        ("IPv6", network.enable_ipv6.to_string().into()),
        ("Internal", network.internal.to_string().into()),
        ("Labels", labels(&all_labels).into()),
        ("Label", Value::Lookup(all_labels)),
        ("CreatedAt", human::local_time(created).into()),
    ])
}

/// Ports of a running container as `ps` shows them: published ones with their place on the host,
/// runs of neighbours as ranges, then those that are only exposed.
pub(crate) fn ports<'a>(published: &[Port], exposed: impl Iterator<Item = &'a str>) -> String {
    let mut sorted = published.to_vec();
    sorted.sort_by_key(|port| (port.host_address(), port.protocol, port.container_port, port.host_port));
    let mut runs: Vec<(Port, Port)> = Vec::new();
    for port in sorted {
        match runs.last_mut() {
            Some((_, last))
                if (last.host, last.protocol, last.container)
                    == (port.host, port.protocol, port.container)
                    && last.host_port.checked_add(1) == Some(port.host_port)
                    && last.container_port.checked_add(1) == Some(port.container_port) =>
            {
                *last = port;
            }
            _ => runs.push((port, port)),
        }
    }
    let range =
        |first: u16, last: u16| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let mut words: Vec<String> = runs
        .iter()
        .map(|(first, last)| {
            let host = PortBinding::new(first).host_ip;
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            format!(
                "{host}:{}->{}/{}",
                range(first.host_port, last.host_port),
                range(first.container_port, last.container_port),
                first.protocol.name()
            )
        })
        .collect();
    let known: BTreeMap<String, ()> = published
        .iter()
        .map(|port| (format!("{}/{}", port.container_port, port.protocol.name()), ()))
        .collect();
    words.extend(exposed.filter(|port| !known.contains_key(*port)).map(str::to_owned));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use robot_env_network::firewall::Protocol;

    use super::*;
    use crate::format::{List, Style};

    #[test]
    fn a_row_as_docker_prints_it() {
        let network = Network {
            name: "robots".into(),
            id: "0123456789abcdef".into(),
            driver: "bridge".into(),
            scope: "local".into(),
            ..Network::default()
        };
        let rows = vec![row(&network, Timestamp::UNIX_EPOCH, true)];
        let text = List { columns: COLUMNS, rows }.print(&Style::parse(None, TABLE).unwrap()).unwrap();
        assert_eq!(
            text,
            "NETWORK ID     NAME      DRIVER    SCOPE\n0123456789ab   robots    bridge    local\n"
        );
    }

    #[test]
    fn ports_as_docker_prints_them() {
        let port = |host: Option<&str>, host_port, container: &str, container_port| Port {
            host: host.map(|host| host.parse().unwrap()),
            host_port,
            protocol: Protocol::Tcp,
            container: container.parse().unwrap(),
            container_port,
        };
        let published = [
            port(None, 8001, "10.0.0.2", 81),
            port(None, 8000, "10.0.0.2", 80),
            port(None, 8000, "fd00::2", 80),
            port(Some("127.0.0.1"), 9000, "10.0.0.2", 90),
        ];
        assert_eq!(
            ports(&published, ["443/tcp", "80/tcp"].into_iter()),
            "0.0.0.0:8000-8001->80-81/tcp, 127.0.0.1:9000->90/tcp, [::]:8000->80/tcp, 443/tcp"
        );
        assert_eq!(ports(&[], std::iter::empty()), "");
    }
}
