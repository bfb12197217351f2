//! A container's start and end: its places in networks, its interfaces, its ports.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_network::attach::{Attachment, attach};
use robot_env_network::firewall::{Firewall, Port, Protocol};
use robot_env_network::link::Links;
use robot_env_network::plan::{Driver, Endpoint, Mac, Request};
use robot_env_network::pool;
use robot_env_network::port::{Binding, Listening, Reservation, reserve};
use robot_env_spec::{ContainerId, EndpointSpec, PortSpec};

use super::live::{Idle, LiveEndpoint, Networks};
use super::publication::Held;
use super::record::NetworkRecord;
use crate::create::random;
use crate::engine::Engine;
use crate::record::ContainerRecord;

/// A container's places, taken: what is still to be done when its namespace is there, and what must
/// be kept as long as it runs.
#[derive(Default)]
pub(crate) struct Joined {
    places: Vec<(NetworkRecord, Attachment)>,
    /// Its published ports, with what keeps others from taking them.
    held: RefCell<Vec<Held>>,
    /// Why the container does not reach the outside.
    shut_in: Option<Error>,
    /// Open already: to look whether all is there.
    kernel: RefCell<Option<(Links, Firewall)>>,
}

impl Joined {
    /// Tells everybody that it has joined its networks, or left them.
    pub(crate) fn tell(&self, engine: &Engine, record: &ContainerRecord, action: &str) {
        for (network, _) in &self.places {
            engine.tell_of_network(network, action, Some(record.id.as_str()));
        }
    }

    /// Lets others take its ports: it has ended.
    pub(crate) fn free_ports(&self) {
        self.held.borrow_mut().clear();
    }

    /// Its published ports.
    pub(crate) fn held(&mut self) -> &mut Vec<Held> {
        self.held.get_mut()
    }

    /// Why it does not reach the outside, if it should.
    pub(crate) fn shut_in(&self) -> Option<&Error> {
        self.shut_in.as_ref()
    }

    /// Its places, in order.
    pub(crate) fn places(&self) -> &[(NetworkRecord, Attachment)] {
        &self.places
    }

    /// Makes its interfaces in its namespace, and publishes its ports.
    pub(crate) fn attach(&self, engine: &Engine, namespace: BorrowedFd<'_>) -> Result<()> {
        let Some((mut links, mut firewall)) = self.kernel.borrow_mut().take() else { return Ok(()) };
        let places = &self.places;
        let wire = move || -> Result<_> {
            for (record, attachment) in places {
                match attach(&mut links, &mut firewall, &record.network, attachment, namespace) {
                    // Somebody has taken the bridge or the rules away since.
                    Err(error)
                        if error.kind() == Kind::NotFound && record.network.driver == Driver::Bridge =>
                    {
                        engine.lock_networks()?.in_place(|networks| networks.mend(Idle::Stays))?;
                        attach(&mut links, &mut firewall, &record.network, attachment, namespace)?;
                    }
                    done => done?,
                }
            }
            Ok((links, firewall))
        };
        let user_network = engine.user_network();
        let kernel = match &user_network {
            Some(network) => robot_env_sys::namespace::visit_network((**network).as_fd(), wire)??,
            None => wire()?,
        };
        // The sockets stay open: see `Firewall::leave_open`.
        *self.kernel.borrow_mut() = Some(kernel);
        Ok(())
    }
}

/// What one place in a network is asked for.
pub(super) fn request_of(spec: &EndpointSpec) -> Result<Request> {
    let mac = spec.mac.as_deref().map(str::parse::<Mac>).transpose()?;
    Ok(Request { ip: spec.ip, ip6: spec.ip6, mac, aliases: spec.aliases.clone() })
}

/// The endpoint with the default routes: of the highest priority, then the first that has a gateway.
pub(super) fn gateway_of<'a>(
    places: impl Iterator<Item = (&'a EndpointSpec, &'a Endpoint)>,
) -> Option<usize> {
    let with = places.enumerate().filter(|(_, (_, endpoint))| !endpoint.gateways.is_empty());
    with.max_by_key(|(at, (spec, _))| (spec.gateway_priority, std::cmp::Reverse(*at))).map(|(at, _)| at)
}

fn binding(port: &PortSpec) -> Binding {
    Binding {
        host: port.host,
        host_ports: port.host_ports.map(|(first, last)| first..=last),
        container_port: port.port,
        protocol: if port.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
    }
}

/// The ports that a container publishes: those named, and with `-P` the other exposed ones.
pub(super) fn bindings(record: &ContainerRecord) -> Vec<Binding> {
    let spec = &record.spec;
    let mut all: Vec<Binding> = spec.publish.iter().map(binding).collect();
    if spec.publish_all {
        let named: BTreeSet<String> = spec.publish.iter().map(PortSpec::key).collect();
        let exposed: BTreeSet<&String> =
            record.image_config.exposed_ports.keys().chain(&spec.expose).collect();
        for text in exposed {
            let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            if let (Ok(port), "tcp" | "udp") = (port.parse(), protocol)
                && !named.contains(&format!("{port}/{protocol}"))
            {
                let protocol = protocol.to_owned();
                all.push(binding(&PortSpec { host: None, host_ports: None, port, protocol }));
            }
        }
    }
    all
}

impl Engine {
    /// Whether a container has places in networks.
    pub(crate) fn is_networked(record: &ContainerRecord) -> bool {
        !record.spec.places().is_empty()
    }

    /// Which of the host's sockets listen for published ports: for an ordinary user nothing is
    /// translated on the host.
    pub(super) fn listening(&self) -> Listening {
        if self.rootless { Listening::All } else { Listening::Relayed }
    }

    /// Takes a container's places in its networks; its monitor calls it before the process is made.
    /// [`Engine::leave_networks`] gives them back.
    pub(crate) fn join_networks(&self, record: &ContainerRecord) -> Result<Joined> {
        if !Engine::is_networked(record) {
            return Ok(Joined::default());
        }
        let networks = self.lock_networks()?;
        let shut_in = networks.settle()?;
        let joined = networks.in_place(|networks| {
            let joined = match networks.join(record) {
                // Somebody who was killed may have it.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Unavailable) => {
                    if networks.forget_all_dead()? { networks.join(record) } else { Err(error) }
                }
                other => other,
            };
            if joined.is_err() {
                let _ = networks.forget(record.id.as_str());
            }
            joined
        });
        joined.map(|joined| Joined { shut_in, ..joined })
    }

    /// Brings the CAN interfaces that a container names into its namespace.
    pub(crate) fn join_can(&self, record: &ContainerRecord, pid: i32) -> Result<()> {
        if record.spec.can.is_empty() {
            return Ok(());
        }
        if self.rootless {
            return Err(Error::new(
                Kind::Unsupported,
                "cannot join a CAN interface: it is the host's, which an ordinary user cannot give away",
            )
            .with_hint("use the host's network with `--network host`, or run the command as root"));
        }
        let namespace = namespace_of(pid)?;
        record.spec.can.iter().try_for_each(|name| robot_env_network::can::join(name, namespace.as_fd()))
    }

    /// Gives a container's places back. Whoever finds it dead calls it, too: twice is no error.
    pub(crate) fn leave_networks(&self, id: &ContainerId) -> Result<()> {
        let mut is_in_one = false;
        for network in self.live_ids()? {
            let live = self.live_network(&network)?;
            is_in_one |= live.is_some_and(|live| live.endpoints.contains_key(id.as_str()));
        }
        if !is_in_one {
            return Ok(());
        }
        self.lock_networks()?.in_place(|networks| networks.forget(id.as_str())).map(drop)
    }
}

impl Networks<'_> {
    fn join(&self, record: &ContainerRecord) -> Result<Joined> {
        let specs = record.spec.places();
        let tag = self.engine.network_tag();
        let (mut links, mut firewall) = (Links::open()?, Firewall::open(tag.as_deref())?);
        let mut places: Vec<(NetworkRecord, Endpoint)> = Vec::new();
        let mut missing = false;
        for spec in &specs {
            let mut network = self.network(&spec.network)?;
            if network.network.driver == Driver::Bridge && links.find(&network.network.bridge)?.is_none() {
                missing = true;
                network = self.clear_of_collisions(network)?;
            }
            let live = self.live(&network.network.id)?;
            let endpoint =
                network.network.allocate(&request_of(spec)?, &taken(&network, &live), live.next)?;
            places.push((network, endpoint));
        }
        let gateway = gateway_of(specs.iter().zip(places.iter().map(|(_, endpoint)| endpoint)));
        let wanted = bindings(record);
        let mut held = Vec::new();
        let mut ports = Vec::new();
        if !wanted.is_empty() {
            let (_, endpoint) = gateway.and_then(|at| places.get(at)).ok_or_else(|| {
                Error::invalid("cannot publish ports: none of the container's networks has a way out")
            })?;
            let reserved = self.reserve(wanted, endpoint.clone())?;
            ports.clone_from(&reserved.ports);
            let pairs = reserved.ports.into_iter().zip(reserved.sockets);
            held.extend(pairs.map(|(port, socket)| Held { port, socket }));
        }
        missing |= places.iter().any(|(record, _)| record.network.driver == Driver::Bridge)
            && !firewall.is_there()?;
        let mut joined = Vec::new();
        for (at, (network, endpoint)) in places.into_iter().enumerate() {
            let ports = if Some(at) == gateway { std::mem::take(&mut ports) } else { Vec::new() };
            let mut attachment = Attachment::new(&network.network, endpoint, at as u32, ports);
            attachment.default_route = Some(at) == gateway;
            self.enter(&network, record, &attachment)?;
            joined.push((network, attachment));
        }
        if missing {
            self.mend(Idle::Stays).within(|| "cannot set up the container's networks".into())?;
        }
        Ok(Joined {
            places: joined,
            held: RefCell::new(held),
            shut_in: None,
            kernel: RefCell::new(Some((links, firewall))),
        })
    }

    /// Chooses host ports for a container's bindings, and keeps them.
    pub(super) fn reserve(&self, wanted: Vec<Binding>, endpoint: Endpoint) -> Result<Reservation> {
        let (published, listening) = (self.published()?, self.engine.listening());
        let bindings = wanted.clone();
        let reserved = self.outside(move || reserve(&bindings, &endpoint, &published, listening))?;
        reserved.map_err(|error| match self.holder(&wanted) {
            Some(name) if error.kind() == Kind::Conflict => error
                .with_hint(format!("container `{name}` publishes it: stop that one, or take another port")),
            _ => error,
        })
    }

    /// A container that publishes one of these ports.
    fn holder(&self, wanted: &[Binding]) -> Option<String> {
        let has = |port: &Port| {
            wanted.iter().any(|binding| {
                let on = binding.host_ports.as_ref().is_some_and(|ports| ports.contains(&port.host_port));
                let at = port.host_address();
                on && binding.protocol == port.protocol
                    && binding.host.is_none_or(|host| {
                        host.is_ipv6() == at.is_ipv6()
                            && (host == at || host.is_unspecified() || at.is_unspecified())
                    })
            })
        };
        let all = self.engine.live_ids().ok()?.into_iter().filter_map(|id| self.live(&id).ok());
        let mut endpoints = all.flat_map(|live| live.endpoints.into_values());
        endpoints.find(|endpoint| endpoint.attachment.ports.iter().any(has)).map(|endpoint| endpoint.name)
    }

    /// Writes a place down.
    pub(super) fn enter(
        &self,
        network: &NetworkRecord,
        record: &ContainerRecord,
        attachment: &Attachment,
    ) -> Result<()> {
        let id = &network.network.id;
        let mut live = self.live(id)?;
        let place = attachment.endpoint.addresses.first().and_then(|a| network.network.place_of(a.address));
        live.name.clone_from(&network.network.name);
        live.names = network.has_names();
        live.internal = network.network.internal;
        live.next = place.map_or(0, |place| place + 1);
        let endpoint = LiveEndpoint {
            id: random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
            name: record.name.clone(),
            hostname: record.spec.hostname.clone().filter(|name| !name.is_empty()),
            attachment: attachment.clone(),
        };
        live.endpoints.insert(record.id.as_str().to_owned(), endpoint);
        self.save(id, &live)
    }

    pub(super) fn network(&self, name: &str) -> Result<NetworkRecord> {
        if name == robot_env_spec::DEFAULT_NETWORK {
            return self.engine.predefined_under(name);
        }
        self.engine
            .network_by_name(name)?
            .ok_or_else(|| Error::not_found(format!("network {name} not found")))
    }

    /// A network whose subnet was chosen here, and that is not in the kernel, moves when the host has
    /// a route of that range by now (a VPN that came up).
    pub(super) fn clear_of_collisions(&self, mut record: NetworkRecord) -> Result<NetworkRecord> {
        if !record.automatic || !self.live(&record.network.id)?.endpoints.is_empty() {
            return Ok(record);
        }
        let routes = self.outside(|| Links::open()?.occupied())??;
        let taken =
            |record: &NetworkRecord| {
                record.network.ranges.iter().position(|range| {
                    !range.subnet.is_v6() && pool::collision(range.subnet, &routes).is_some()
                })
            };
        if let Some(at) = taken(&record) {
            let mut occupied = self.engine.occupied(Some(&record.network.id))?;
            occupied.extend(routes);
            record.network.ranges[at] =
                robot_env_network::plan::Range::of(pool::choose(&pool::default_pools(), &occupied)?);
            self.engine.save_network(&record)?;
        }
        Ok(record)
    }
}

/// Addresses of a network that nobody gets.
pub(super) fn taken(network: &NetworkRecord, live: &super::live::Live) -> BTreeSet<IpAddr> {
    let lived = live.endpoints.values().flat_map(LiveEndpoint::addresses);
    lived.chain(network.reserved.values().copied()).collect()
}

/// The network namespace of a process.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd> {
    Ok(robot_env_sys::namespace::open(&format!("/proc/{pid}/ns/net"))?)
}

impl Joined {
    /// [`Joined::attach`] to the namespace of a process.
    pub(crate) fn attach_process(&self, engine: &Engine, pid: i32) -> Result<()> {
        if self.places.is_empty() { Ok(()) } else { self.attach(engine, namespace_of(pid)?.as_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_goes_to_the_first_network_with_a_gateway() {
        let endpoint = |gateways: &[&str]| Endpoint {
            addresses: Vec::new(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            mac: Mac([2; 6]),
            aliases: Vec::new(),
        };
        let spec = |gateway_priority| EndpointSpec { gateway_priority, ..EndpointSpec::of("n") };
        for (places, want) in [
            (vec![(0, &["10.0.0.1"][..]), (0, &["10.1.0.1"][..])], Some(0)),
            (vec![(0, &[][..]), (0, &["10.1.0.1"][..])], Some(1)),
            (vec![(0, &["10.0.0.1"][..]), (5, &["10.1.0.1"][..])], Some(1)),
            (vec![(9, &[][..])], None),
        ] {
            let specs: Vec<EndpointSpec> = places.iter().map(|(priority, _)| spec(*priority)).collect();
            let endpoints: Vec<Endpoint> = places.iter().map(|(_, gateways)| endpoint(gateways)).collect();
            assert_eq!(gateway_of(specs.iter().zip(&endpoints)), want, "{places:?}");
        }
    }
}
