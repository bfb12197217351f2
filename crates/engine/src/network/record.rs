//! What networks there are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_network::link::Links;
use robot_env_network::plan::{DEFAULT_BRIDGE, Driver, Network, Range};
use robot_env_network::pool;
use robot_env_network::subnet::Subnet;
use robot_env_spec::DEFAULT_NETWORK;
use robot_env_sys::fs::Durability;
use serde::{Deserialize, Serialize};

use super::live::Networks;
use crate::create::random;
use crate::engine::Engine;
use crate::records::{read_json, write_json};

/// The networks that are always there.
pub const PREDEFINED: [&str; 3] = [DEFAULT_NETWORK, "host", "none"];

/// A network: `networks/<name>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// What it is for the kernel.
    #[serde(flatten)]
    pub network: Network,
    /// When it was made.
    pub created: Timestamp,
    /// Whether its subnets were chosen here; then they are chosen again where, before the first
    /// container starts, the host has a route of that range meanwhile.
    #[serde(default)]
    pub automatic: bool,
    /// `--ipv6`.
    #[serde(default)]
    pub ipv6: bool,
    /// `--attachable`; for `inspect`.
    #[serde(default)]
    pub attachable: bool,
    /// Addresses that no container gets, by what they are for (`--aux-address`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
}

impl NetworkRecord {
    /// Whether it is one of those that are always there.
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.contains(&self.network.name.as_str())
    }

    /// Whether names are resolved in it: in every network that a user made, as in Docker.
    pub fn has_names(&self) -> bool {
        !self.is_predefined()
    }
}

/// A network to make.
#[derive(Clone, Debug, Default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// `bridge`, `macvlan` or `ipvlan`; absent: `bridge`.
    pub driver: Option<String>,
    /// Subnets; none: one is chosen.
    pub subnets: Vec<String>,
    /// Parts of the subnets that addresses are taken from.
    pub ip_ranges: Vec<String>,
    /// The bridge's addresses.
    pub gateways: Vec<String>,
    /// Addresses that no container gets, by what they are for.
    pub reserved: BTreeMap<String, String>,
    /// No way out.
    pub internal: bool,
    /// Addresses of IPv6 too.
    pub ipv6: bool,
    /// Kept for `inspect`.
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

fn parse<T: std::str::FromStr>(text: &str, what: &str, request: &NetworkRequest) -> Result<T> {
    text.parse().map_err(|_| {
        Error::invalid(format!("cannot create network `{}`: `{text}` is not {what}", request.name))
    })
}

/// The ranges that a request names, each with its pool and gateway.
fn ranges(request: &NetworkRequest) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    for text in &request.subnets {
        let subnet: Subnet = parse(text, "a subnet such as 10.1.2.0/24", request)?;
        ranges.push(Range { subnet, pool: None, gateway: None });
    }
    let lost = |text: &str, what: &str| {
        Error::invalid(format!(
            "cannot create network `{}`: no subnet of it has the {what} {text}",
            request.name
        ))
    };
    for text in &request.ip_ranges {
        let pool: Subnet = parse(text, "a range such as 10.1.2.128/25", request)?;
        let range = ranges.iter_mut().find(|range| range.subnet.covers(pool) && range.pool.is_none());
        range.ok_or_else(|| lost(text, "ip range"))?.pool = Some(pool);
    }
    for text in &request.gateways {
        let gateway: IpAddr = parse(text, "an IP address", request)?;
        let range = ranges.iter_mut().find(|range| range.subnet.contains(gateway) && range.gateway.is_none());
        range.ok_or_else(|| lost(text, "gateway"))?.gateway = Some(gateway);
    }
    Ok(ranges)
}

impl Engine {
    /// Makes a network. Nothing of it is in the kernel before its first container starts.
    ///
    /// # Errors
    /// `Conflict` for a name that is taken, or a subnet that another network or a route of the host
    /// has; `InvalidInput` for what contradicts itself.
    pub fn create_network(&self, request: &NetworkRequest) -> Result<NetworkRecord> {
        let name = &request.name;
        if PREDEFINED.contains(&name.as_str()) || matches!(name.as_str(), "default" | "container") {
            return Err(Error::new(
                Kind::Denied,
                format!("operation is not permitted on predefined {name} network"),
            ));
        }
        if name.len() > 128 {
            return Err(Error::invalid("cannot create network: a name has at most 128 characters"));
        }
        let driver = match request.driver.as_deref() {
            None | Some("") => Driver::Bridge,
            Some(text) => text.parse()?,
        };
        if matches!(driver, Driver::Host | Driver::None) {
            return Err(Error::new(
                Kind::Denied,
                format!("only one instance of \"{}\" network is allowed", driver.name()),
            ));
        }
        if self.rootless && driver != Driver::Bridge {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "cannot create network `{name}`: driver {} joins an interface of the host's, which an ordinary user cannot give away",
                    driver.name()
                ),
            )
            .with_hint("use the host's network with `--network host`, or run the command as root"));
        }
        if driver != Driver::Bridge && !Links::open()?.has_kind(driver.name())? {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot create network `{name}`: this kernel has no {}", driver.name()),
            ));
        }
        let networks = self.lock_networks()?;
        if self.network_by_name(name)?.is_some() {
            return Err(Error::new(Kind::Conflict, format!("network with name {name} already exists")));
        }
        let id = new_id()?;
        let mut network = Network::bridge(&id, name, ranges(request)?);
        network.driver = driver;
        network.internal = request.internal;
        network.labels.clone_from(&request.labels);
        network.options = self.default_options(driver, &request.options);
        if driver != Driver::Bridge {
            network.bridge.clear();
        }
        network.apply_options()?;
        let automatic = network.ranges.is_empty();
        let occupied = self.occupied(None)?;
        for range in &network.ranges {
            // A macvlan's range is the host's own network.
            if driver == Driver::Bridge
                && let Some(other) = pool::collision(range.subnet, &occupied)
            {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "cannot create network `{name}`: subnet {} overlaps {other}, which the host or another network has",
                        range.subnet
                    ),
                ));
            }
        }
        if automatic {
            network.ranges.push(Range::of(pool::choose(&self.network_defaults.pools(), &occupied)?));
        }
        if request.ipv6 && !network.ranges.iter().any(|range| range.subnet.is_v6()) {
            network.ranges.push(Range::of(self.network_defaults.choose_v6(&occupied)?));
        }
        let network = network.with_gateways();
        network.check()?;
        let mut reserved = BTreeMap::new();
        for (what, text) in &request.reserved {
            let address: IpAddr = parse(text, "an IP address", request)?;
            if !network.ranges.iter().any(|range| range.subnet.contains(address)) {
                return Err(Error::invalid(format!(
                    "cannot create network `{name}`: no subnet of it has the address {address}"
                )));
            }
            reserved.insert(what.clone(), address);
        }
        let record = NetworkRecord {
            network,
            created: Timestamp::now(),
            automatic,
            ipv6: request.ipv6,
            attachable: request.attachable,
            reserved,
        };
        self.save_network(&record)?;
        drop(networks);
        self.tell_of_network(&record, "create", None);
        Ok(record)
    }

    /// All networks, by name; the predefined ones are among them.
    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        for name in PREDEFINED {
            self.predefined(name)?;
        }
        self.network_records()
    }

    /// The network that `text` names: a name, a whole id, or a unique prefix of an id.
    ///
    /// # Errors
    /// `NotFound`: `network X not found`.
    pub fn network(&self, text: &str) -> Result<NetworkRecord> {
        if PREDEFINED.contains(&text) {
            return self.predefined(text);
        }
        let missing = || Error::not_found(format!("network {text} not found"));
        if text.is_empty() || text.contains('/') {
            return Err(missing());
        }
        if let Some(record) = self.network_by_name(text)? {
            return Ok(record);
        }
        let mut found: Vec<NetworkRecord> = self.networks()?;
        found.retain(|record| record.network.id.starts_with(text));
        match found.len() {
            0 => Err(missing()),
            1 => Ok(found.remove(0)),
            n => Err(Error::invalid(format!("network {text} is ambiguous ({n} matches found on ID prefix)"))),
        }
    }

    /// Removes a network.
    ///
    /// # Errors
    /// `Conflict` while a running container is in it; `Denied` for a predefined one.
    pub fn remove_network(&self, text: &str) -> Result<NetworkRecord> {
        let record = self.network(text)?;
        let name = &record.network.name;
        if record.is_predefined() {
            return Err(Error::new(
                Kind::Denied,
                format!("{name} is a pre-defined network and cannot be removed"),
            ));
        }
        let lock = self.lock_networks()?;
        lock.in_place(|networks| self.remove_under(networks, &record))?;
        drop(lock);
        self.tell_of_network(&record, "destroy", None);
        Ok(record)
    }

    fn remove_under(&self, networks: &Networks<'_>, record: &NetworkRecord) -> Result<()> {
        let name = &record.network.name;
        networks.forget_dead(&record.network.id)?;
        let live = networks.live(&record.network.id)?;
        if !live.endpoints.is_empty() {
            let users: Vec<String> =
                live.endpoints.values().map(|endpoint| format!("`{}`", endpoint.name)).collect();
            return Err(Error::new(
                Kind::Conflict,
                format!("error while removing network: network {name} has active endpoints"),
            )
            .with_hint(format!("disconnect or stop {} first", users.join(", "))));
        }
        // The kernel's part goes first: nobody would look for it without the record.
        networks.retire(record)?;
        let path = self.paths.networks().join(format!("{name}.json"));
        std::fs::remove_file(&path).io_context(|| format!("cannot remove network `{name}`"))
    }

    /// Removes the networks that no container has, running or not, and that `wanted` lets through.
    pub fn prune_networks(&self, wanted: impl Fn(&NetworkRecord) -> bool) -> Result<Vec<String>> {
        let mut used: Vec<String> = Vec::new();
        for id in self.records.ids()? {
            let Ok(record) = self.records.load_record(&id) else { continue };
            used.extend(record.spec.places().into_iter().map(|place| place.network));
        }
        let mut gone = Vec::new();
        for record in self.network_records()? {
            let name = &record.network.name;
            if record.is_predefined() || used.contains(name) || !wanted(&record) {
                continue;
            }
            match self.remove_network(name) {
                Ok(_) => gone.push(name.clone()),
                // Somebody was quicker, or has just started to use it.
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    /// A predefined network; its record is made when it is asked for first.
    fn predefined(&self, name: &str) -> Result<NetworkRecord> {
        if let Some(record) = self.network_by_name(name)? {
            return Ok(record);
        }
        let _networks = self.lock_networks()?;
        self.predefined_under(name)
    }

    /// The same under the networks' lock.
    pub(super) fn predefined_under(&self, name: &str) -> Result<NetworkRecord> {
        if let Some(record) = self.network_by_name(name)? {
            return Ok(record);
        }
        let id = new_id()?;
        let mut network = Network::bridge(&id, name, Vec::new());
        match name {
            "host" | "none" => {
                network.driver = if name == "host" { Driver::Host } else { Driver::None };
                network.bridge.clear();
            }
            _ => {
                if self.network_tag().is_none() {
                    DEFAULT_BRIDGE.clone_into(&mut network.bridge);
                }
                let subnet = pool::choose(&self.network_defaults.pools(), &self.occupied(None)?)?;
                network.ranges.push(Range::of(subnet));
            }
        }
        let record = NetworkRecord {
            network,
            created: Timestamp::now(),
            automatic: true,
            ipv6: false,
            attachable: false,
            reserved: BTreeMap::new(),
        };
        self.save_network(&record)?;
        Ok(record)
    }

    /// The ranges that a new network must not overlap: the host's and those of the other networks;
    /// not those of `but`, a network that is not in the kernel now.
    pub(super) fn occupied(&self, but: Option<&str>) -> Result<Vec<Subnet>> {
        let mut occupied = Links::open()?.occupied()?;
        for record in self.network_records()? {
            if record.network.driver == Driver::Bridge && but != Some(record.network.id.as_str()) {
                occupied.extend(record.network.ranges.iter().map(|range| range.subnet));
            }
        }
        Ok(occupied)
    }

    /// The records that there are. One that cannot be read is an error: nobody would know what of the
    /// kernel is its.
    pub(super) fn network_records(&self) -> Result<Vec<NetworkRecord>> {
        let directory = self.paths.networks();
        let mut records = Vec::new();
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(records),
            entries => entries.io_context(|| format!("cannot list `{}`", directory.display()))?,
        };
        for entry in entries.flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && let Some(name) = name.strip_suffix(".json")
            {
                records.extend(self.network_by_name(name)?);
            }
        }
        records.sort_by(|a, b| a.network.name.cmp(&b.network.name));
        Ok(records)
    }

    pub(super) fn network_by_name(&self, name: &str) -> Result<Option<NetworkRecord>> {
        read_json(&self.paths.networks().join(format!("{name}.json")))
            .within(|| format!("cannot read network `{name}`"))
    }

    pub(super) fn save_network(&self, record: &NetworkRecord) -> Result<()> {
        let directory = self.paths.networks();
        crate::paths::make_directory(&directory, 0o711)?;
        write_json(&directory, &format!("{}.json", record.network.name), record, Durability::Sync)
    }

    /// What tells this engine's table and default bridge from those of another one on the same host:
    /// nothing for the one with the usual root, digits that its root gives for others.
    pub(crate) fn network_tag(&self) -> Option<String> {
        if self.paths.root() == std::path::Path::new("/var/lib/robot-env") {
            return None;
        }
        // FNV-1a.
        let bytes = self.paths.root().as_os_str().as_encoded_bytes();
        let hash = bytes
            .iter()
            .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        Some(format!("{hash:08x}"))
    }

    pub(super) fn tell_of_network(&self, record: &NetworkRecord, action: &str, container: Option<&str>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), record.network.name.clone()),
            ("type".to_owned(), record.network.driver.name().to_owned()),
        ]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.tell_of("network", action, &record.network.id, attributes);
    }

    /// Locks the networks against everybody else.
    pub(super) fn lock_networks(&self) -> Result<Networks<'_>> {
        Networks::lock(self)
    }
}

fn new_id() -> Result<String> {
    Ok(random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_gateways_find_their_subnets() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let request = |subnets: &[&str], pools: &[&str], gateways: &[&str]| NetworkRequest {
            name: "n".into(),
            subnets: words(subnets),
            ip_ranges: words(pools),
            gateways: words(gateways),
            ..NetworkRequest::default()
        };
        let found =
            ranges(&request(&["10.1.0.0/16", "fd00:1::/64"], &["10.1.5.0/24"], &["fd00:1::9", "10.1.0.254"]))
                .unwrap();
        assert_eq!(found[0].pool.unwrap().to_string(), "10.1.5.0/24");
        assert_eq!(found[0].gateway.unwrap().to_string(), "10.1.0.254");
        assert_eq!(found[1].gateway.unwrap().to_string(), "fd00:1::9");
        for (subnets, pools, gateways, says) in [
            (&["10.1.0.0"][..], &[][..], &[][..], "`10.1.0.0` is not a subnet"),
            (&["10.1.0.0/16"], &["10.2.0.0/24"], &[], "ip range 10.2.0.0/24"),
            (&["10.1.0.0/16"], &[], &["10.2.0.1"], "gateway 10.2.0.1"),
            (&[], &[], &["10.2.0.1"], "gateway 10.2.0.1"),
            (&["10.1.0.0/16"], &[], &["x"], "`x` is not an IP address"),
        ] {
            let error = ranges(&request(subnets, pools, gateways)).unwrap_err();
            assert!(error.message().contains(says), "{}", error.message());
        }
    }
}
