use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::{Engine, NetworkRecord, NetworkRequest};
use robot_env_wire as wire;

use super::{inspect, prune};
use crate::app::App;
use crate::container_flags;
use crate::filter;
use crate::format::{List, Style, Value};
use crate::rows::network;
use crate::verb::{Exit, Verb};
use robot_env_wire::Filters;

/// Create a network
#[derive(Args)]
pub(crate) struct NetworkCreate {
    /// Kept for inspect; every network can be attached to here
    #[arg(long)]
    attachable: bool,
    /// An address that no container gets: NAME=ADDRESS
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// bridge, macvlan or ipvlan
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// The bridge's address in a subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// No way out of the network and none in
    #[arg(long)]
    internal: bool,
    /// Take containers' addresses from this part of a subnet
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<String>,
    /// Only `default`
    #[arg(long, value_name = "DRIVER", default_value = "default", hide = true)]
    ipam_driver: String,
    /// Give addresses of IPv4; it cannot be switched off
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide = true)]
    ipv4: bool,
    /// Give addresses of IPv6, too
    #[arg(long)]
    ipv6: bool,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Set a driver option, e.g. mtu=1400, or parent=eth0 for macvlan
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Only `local`
    #[arg(long, value_name = "SCOPE", hide = true)]
    scope: Option<String>,
    /// A subnet, e.g. 10.1.2.0/24; without one, a free one is chosen
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK", required = true)]
    name: String,
}

impl Verb for NetworkCreate {
    const SPELLINGS: &'static [&'static str] = &["network create"];

    fn run(self, app: &App) -> Result<Exit> {
        let only = |flag: &str, value: &str, fine: &str| {
            if value == fine {
                return Ok(());
            }
            Err(Error::new(
                Kind::Unsupported,
                format!("cannot create network `{}`: {flag} {value} is not supported", self.name),
            ))
        };
        only("--ipam-driver", &self.ipam_driver, "default")?;
        only("--scope", self.scope.as_deref().unwrap_or("local"), "local")?;
        only("--ipv4", &self.ipv4.to_string(), "true")?;
        let request = NetworkRequest {
            labels: container_flags::labels(&[], &self.label, app.ambient())?,
            options: container_flags::map(&self.opt, "driver option")?,
            reserved: container_flags::map(&self.aux_address, "auxiliary address")?,
            name: self.name,
            driver: Some(self.driver),
            subnets: self.subnet,
            ip_ranges: self.ip_range,
            gateways: self.gateway,
            internal: self.internal,
            ipv6: self.ipv6,
            attachable: self.attachable,
        };
        app.print_line(&app.engine()?.create_network(&request)?.network.id)?;
        Ok(Exit::SUCCESS)
    }
}

/// List networks
#[derive(Args)]
pub(crate) struct NetworkLs {
    /// Show only what matches: dangling, driver, id, label, name, scope, type
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for NetworkLs {
    const SPELLINGS: &'static [&'static str] = &["network ls", "network list"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, network::FILTERS)?;
        let dangling = filters.truth("dangling")?;
        let ids_only = self.quiet && self.format.is_none();
        let format = if ids_only { Some("{{.ID}}") } else { self.format.as_deref() };
        let style = Style::parse(format, network::TABLE)?;
        let engine = app.engine()?;
        let used = if dangling.is_some() { used(&engine)? } else { BTreeSet::new() };
        let rows = engine
            .networks()?
            .iter()
            .map(|record| (record, wire::Network::new(record, &BTreeMap::new())))
            .filter(|(record, shape)| {
                let unused = !record.is_predefined() && !used.contains(&shape.name);
                let kind = if record.is_predefined() { "builtin" } else { "custom" };
                dangling.is_none_or(|wanted| unused == wanted)
                    && filters.any("driver", |driver| driver == shape.driver)
                    && filters.any_pattern("id", &[&shape.id])
                    && filters.any_pattern("name", &[&shape.name])
                    && filters.any("scope", |scope| scope == shape.scope)
                    && filters.any("type", |value| value == kind)
                    && filters.labels(&shape.labels)
            })
            .map(|(record, shape)| network::row(&shape, record.created, !self.no_trunc))
            .collect();
        app.print(&List { columns: network::COLUMNS, rows }.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}

/// The networks that containers have, running or not.
fn used(engine: &Engine) -> Result<BTreeSet<String>> {
    let containers = engine.containers()?;
    let places = containers.iter().flat_map(|container| container.record.spec.places());
    Ok(places.map(|place| place.network).collect())
}

/// Show everything about networks, as JSON
#[derive(Args)]
pub(crate) struct NetworkInspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Accepted; there is nothing more to show
    #[arg(short, long, hide = true)]
    verbose: bool,
    /// The networks
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
}

impl Verb for NetworkInspect {
    const SPELLINGS: &'static [&'static str] = &["network inspect"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        inspect::print(app, self.format.as_deref(), &self.networks, |text| shape(&engine, text))
    }
}

/// A network as Docker shows it.
pub(super) fn shape(engine: &Engine, text: &str) -> Result<Value> {
    let record = engine.network(text)?;
    let endpoints = engine.endpoints(&record)?;
    Ok(Value::of(&wire::Network::new(&record, &endpoints)))
}

/// Remove networks
#[derive(Args)]
pub(crate) struct NetworkRm {
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// The networks
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
}

impl Verb for NetworkRm {
    const SPELLINGS: &'static [&'static str] = &["network rm", "network remove"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        app.each(&self.networks, |text| {
            match engine.remove_network(text) {
                Err(error) if self.force && error.kind() == Kind::NotFound => {}
                removed => drop(removed?),
            }
            app.print_line(text)
        })
    }
}

/// Remove networks that no container has
#[derive(Args)]
pub(crate) struct NetworkPrune {
    /// Only what matches: label, until
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Verb for NetworkPrune {
    const SPELLINGS: &'static [&'static str] = &["network prune"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, &["label", "label!", "until"])?;
        filter::until(&filters, app.now())?;
        let question = "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?";
        if !self.force && !app.confirm(question)? {
            return Ok(Exit::SUCCESS);
        }
        let engine = app.engine()?;
        prune::tell(app, "Networks", &pruned(app, &engine, &filters)?)?;
        Ok(Exit::SUCCESS)
    }
}

/// Removes the networks that no container has and that the filters `label` and `until` let through,
/// and what the kernel still has of those that nobody is in.
pub(super) fn pruned(app: &App, engine: &Engine, filters: &Filters) -> Result<Vec<String>> {
    if engine.is_rootless() {
        return Ok(Vec::new());
    }
    let until = filter::until(filters, app.now())?;
    let gone = engine.prune_networks(|record: &NetworkRecord| {
        filters.labels(&record.network.labels) && until.is_none_or(|until| record.created <= until)
    })?;
    engine.retire_idle_networks()?;
    Ok(gone)
}

/// Connect a container to a network
#[derive(Args)]
pub(crate) struct NetworkConnect {
    /// Add a name for the container in this network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Driver options (a container's place has none here)
    #[arg(long, value_name = "NAME=VALUE", hide = true)]
    driver_opt: Vec<String>,
    /// Where the default route goes: to the network with the highest
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    gw_priority: i64,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Add a link to another container (not supported)
    #[arg(long, hide = true)]
    link: Vec<String>,
    /// The network
    #[arg(value_name = "NETWORK", required = true)]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for NetworkConnect {
    const SPELLINGS: &'static [&'static str] = &["network connect"];

    fn run(self, app: &App) -> Result<Exit> {
        for (given, flag) in
            [(!self.driver_opt.is_empty(), "--driver-opt"), (!self.link.is_empty(), "--link")]
        {
            if given {
                return Err(Error::new(Kind::Unsupported, format!("{flag} is not supported")));
            }
        }
        let spec = robot_env_spec::EndpointSpec {
            network: String::new(),
            aliases: self.alias,
            ip: self.ip,
            ip6: self.ip6,
            mac: None,
            gateway_priority: self.gw_priority,
        };
        app.engine()?.connect(&self.network, &self.container, spec)?;
        Ok(Exit::SUCCESS)
    }
}

/// Disconnect a container from a network
#[derive(Args)]
pub(crate) struct NetworkDisconnect {
    /// That the container is not in it, or not there, is no error
    #[arg(short, long)]
    force: bool,
    /// The network
    #[arg(value_name = "NETWORK", required = true)]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for NetworkDisconnect {
    const SPELLINGS: &'static [&'static str] = &["network disconnect"];

    fn run(self, app: &App) -> Result<Exit> {
        app.engine()?.disconnect(&self.network, &self.container, self.force)?;
        Ok(Exit::SUCCESS)
    }
}

/// Put the bridges and firewall rules of running containers back after somebody has flushed them
#[derive(Args)]
pub(crate) struct NetworkReload {}

impl Verb for NetworkReload {
    const SPELLINGS: &'static [&'static str] = &["network reload"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        // Also where the configuration says nothing of it any more.
        if let Some(said) = engine.follow_configuration()? {
            app.warn(&said);
        }
        let done = engine.reload_networks()?;
        for bridge in &done.bridges {
            app.print_line(&format!("bridge {bridge} made again"))?;
        }
        app.print_line(if done.rules { "rules written again" } else { "rules intact" })?;
        for obstacle in &done.obstacles {
            app.warn(&format!("networks may not reach the outside: {obstacle}"));
        }
        Ok(Exit::SUCCESS)
    }
}
