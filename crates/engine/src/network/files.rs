//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use robot_env_diag::{IoContext, Result};
use robot_env_network::attach::Attachment;
use robot_env_spec::{HostFacts, NetworkMode};

use super::record::NetworkRecord;
use crate::record::ContainerRecord;

/// The three files, by name.
pub(crate) type Files = [(&'static str, String); 3];

/// The three files that a network brings. `places` are those that the container has now.
pub(crate) fn network_files(
    record: &ContainerRecord,
    host: &HostFacts,
    places: &[(NetworkRecord, Attachment)],
) -> Files {
    let hostname = hostname(record, host);
    [
        ("hosts", hosts(record, &hostname, places)),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv_conf(record, resolves(record, places))),
    ]
}

/// Whether the container asks its own resolver: for names, or because the host's name servers are on
/// the host's loopback, where only the resolver can ask them.
fn resolves(record: &ContainerRecord, places: &[(NetworkRecord, Attachment)]) -> bool {
    let servers = &record.spec.dns.servers;
    places.iter().any(|(network, _)| network.has_names())
        || (!places.is_empty() && servers.is_empty() && host_is_loopback_only())
}

/// Writes them, in place: another container may have one mounted.
pub(crate) fn write(directory: &Path, files: &Files) -> Result<()> {
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).io_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn hostname(record: &ContainerRecord, host: &HostFacts) -> String {
    let spec = &record.spec;
    match &spec.hostname {
        Some(name) if !name.is_empty() => name.clone(),
        _ if spec.network == NetworkMode::Host || spec.uts_host => host.hostname.clone(),
        _ => record.id.short().to_owned(),
    }
}

fn hosts(record: &ContainerRecord, hostname: &str, places: &[(NetworkRecord, Attachment)]) -> String {
    let spec = &record.spec;
    let on_host = spec.network == NetworkMode::Host;
    let mut hosts =
        if on_host { fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    if hosts.is_empty() {
        hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
                 ff02::2\tip6-allrouters\n"
            .into();
    }
    if !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    let gateway = gateway(places);
    for entry in &spec.add_hosts {
        let address = match (entry.address.as_str(), gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            // Without a network of its own the host is where the container is.
            ("host-gateway", None) => "127.0.0.1".to_owned(),
            (address, _) => address.to_owned(),
        };
        let _ = writeln!(hosts, "{address}\t{}", entry.name);
    }
    if on_host || hostname == "localhost" {
        return hosts;
    }
    // The whole name first, as `hostname -f` expects it.
    let names = match &spec.domainname {
        Some(domain) if !domain.is_empty() => format!("{hostname}.{domain} {hostname}"),
        _ => match hostname.split_once('.') {
            Some((short, _)) => format!("{hostname} {short}"),
            None => hostname.to_owned(),
        },
    };
    let addresses: Vec<IpAddr> = places.iter().flat_map(|(_, attachment)| attachment.addresses()).collect();
    if addresses.is_empty() {
        let _ = writeln!(hosts, "127.0.0.1\t{names}");
    }
    for address in addresses {
        let _ = writeln!(hosts, "{address}\t{names}");
    }
    hosts
}

/// The host as the container reaches it: the bridge's address in the network of its default route,
/// or in the first one that has a bridge.
fn gateway(places: &[(NetworkRecord, Attachment)]) -> Option<IpAddr> {
    let of = |(network, _): &(NetworkRecord, Attachment)| {
        network.network.ranges.iter().find_map(|range| range.gateway)
    };
    places
        .iter()
        .find(|(_, attachment)| attachment.default_route)
        .and_then(of)
        .or_else(|| places.iter().find_map(of))
}

/// The host's `/etc/resolv.conf` with what the user wants otherwise. `named`: the container asks its
/// own resolver, which asks the others.
fn resolv_conf(record: &ContainerRecord, named: bool) -> String {
    let dns = &record.spec.dns;
    let text = host_resolv_conf();
    if !named && dns.servers.is_empty() && dns.search.is_empty() && dns.options.is_empty() {
        return text;
    }
    let mut out = String::new();
    let servers = if named {
        vec![robot_env_network::names::ADDRESS.to_string()]
    } else if dns.servers.is_empty() {
        values(&text, "nameserver")
    } else {
        dns.servers.clone()
    };
    for server in servers {
        let _ = writeln!(out, "nameserver {server}");
    }
    let search = if dns.search.is_empty() { values(&text, "search") } else { vec![dns.search.join(" ")] };
    if let Some(domains) = search.last().filter(|domains| !matches!(domains.as_str(), "." | "")) {
        let _ = writeln!(out, "search {domains}");
    }
    let options = if dns.options.is_empty() { values(&text, "options") } else { vec![dns.options.join(" ")] };
    let mut options = options.last().cloned().unwrap_or_default();
    // A container's name is asked for as it is before a search domain is tried.
    if named && !options.split(' ').any(|option| option.starts_with("ndots:")) {
        options.push_str(if options.is_empty() { "ndots:0" } else { " ndots:0" });
    }
    if !options.is_empty() {
        let _ = writeln!(out, "options {options}");
    }
    out
}

/// What the lines of a keyword say.
fn values(text: &str, keyword: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(keyword));
    lines.filter(|rest| rest.starts_with([' ', '\t'])).map(|rest| rest.trim().to_owned()).collect()
}

/// Whether the host has name servers, and all of them on its own loopback (a local cache).
pub(super) fn host_is_loopback_only() -> bool {
    let servers = values(&host_resolv_conf(), "nameserver");
    let loopback = |text: &String| text.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !servers.is_empty() && servers.iter().all(loopback)
}

/// The host's name servers, as the host itself asks them.
pub(super) fn host_servers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    values(&text, "nameserver").iter().filter_map(|text| text.parse().ok()).collect()
}

/// What the host's resolver says. Where that is systemd's stub, which answers on the host's
/// loopback only, its own list of servers stands for it.
fn host_resolv_conf() -> String {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text.lines().any(|line| line.trim() == "nameserver 127.0.0.53")
        && let Ok(real) = fs::read_to_string("/run/systemd/resolve/resolv.conf")
    {
        return real;
    }
    text
}
