//! Joining and leaving a network while a container exists, running or not.

use std::os::fd::AsFd;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_network::attach::{Attachment, attach, detach};
use robot_env_network::firewall::{Firewall, Port};
use robot_env_network::link::Links;
use robot_env_network::plan::Driver;
use robot_env_spec::{ContainerId, ContainerSpec, EndpointSpec, NetworkMode};

use super::join::{bindings, gateway_of, namespace_of, request_of, taken};
use super::live::{Idle, Networks};
use super::record::NetworkRecord;
use crate::engine::Engine;
use crate::record::ContainerRecord;
use crate::records::Container;

impl Engine {
    /// Puts a container into a further network; a running one at once.
    ///
    /// # Errors
    /// `Conflict` when it is in it already; `Denied` for a container of the host's network or of
    /// none.
    pub fn connect(&self, network: &str, container: &str, mut spec: EndpointSpec) -> Result<()> {
        let network = self.network(network)?;
        let name = network.network.name.clone();
        spec.network.clone_from(&name);
        let id = self.records.find(container)?;
        let lock = self.records.lock(&id)?;
        let mut found = self.reconciled_under(self.records.load(&id)?, &lock)?;
        refuse_sharing(&found.record, &network)?;
        let mut places = found.record.spec.places();
        if places.iter().any(|place| place.network == name) {
            return Err(Error::new(
                Kind::Conflict,
                format!("endpoint with name {} already exists in network {name}", found.record.name),
            ));
        }
        request_of(&spec)?;
        if let Some(pid) = running(&found) {
            self.await_place(&id)?;
            let lock = self.lock_networks()?;
            lock.in_place(|networks| networks.connect(&found.record, &spec, pid))?;
        }
        places.push(spec);
        self.save_places(&mut found, places)?;
        self.refresh_files(&found)?;
        self.tell_of_network(&network, "connect", Some(id.as_str()));
        Ok(())
    }

    /// Takes a container out of a network; a running one at once. With `force` it is no error that it
    /// is not in it.
    pub fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let network = self.network(network)?;
        let name = &network.network.name;
        let id = self.records.find(container)?;
        let lock = self.records.lock(&id)?;
        let mut found = self.reconciled_under(self.records.load(&id)?, &lock)?;
        if network.network.driver == Driver::None && found.record.spec.network == NetworkMode::None {
            // What Docker wants before it connects such a container.
            return Ok(());
        }
        refuse_sharing(&found.record, &network)?;
        let mut places = found.record.spec.places();
        let Some(at) = places.iter().position(|place| place.network == *name) else {
            if force {
                return Ok(());
            }
            return Err(Error::new(
                Kind::Denied,
                format!("container {id} is not connected to network {name}"),
            ));
        };
        if let Some(pid) = running(&found) {
            let lock = self.lock_networks()?;
            lock.in_place(|networks| networks.disconnect(&found.record, &network, pid))?;
        }
        places.remove(at);
        self.save_places(&mut found, places)?;
        self.refresh_files(&found)?;
        self.tell_of_network(&network, "disconnect", Some(id.as_str()));
        Ok(())
    }

    /// A container's further life under another name.
    pub(crate) fn rename_in_networks(&self, record: &ContainerRecord) -> Result<()> {
        if !Engine::is_networked(record) || self.live_ids()?.is_empty() {
            return Ok(());
        }
        let networks = self.lock_networks()?;
        for id in self.live_ids()? {
            let mut live = networks.live(&id)?;
            if let Some(endpoint) = live.endpoints.get_mut(record.id.as_str()) {
                endpoint.name.clone_from(&record.name);
                networks.save(&id, &live)?;
            }
        }
        Ok(())
    }

    /// The networks that a new container names, by their names; what they cannot give is refused.
    pub(crate) fn pin_networks(&self, spec: &mut ContainerSpec) -> Result<()> {
        let mut places = spec.places();
        let explicit = !spec.endpoints.is_empty();
        for (at, place) in places.iter_mut().enumerate() {
            let found = self.network(&place.network)?;
            if matches!(found.network.driver, Driver::Host | Driver::None) {
                // The id of such a network stands for its mode.
                if at > 0 || explicit {
                    return Err(Error::invalid(format!(
                        "cannot join network `{}` beside others, or with settings of its own",
                        found.network.name
                    )));
                }
                spec.network =
                    if found.network.driver == Driver::Host { NetworkMode::Host } else { NetworkMode::None };
                return Ok(());
            }
            if !found.has_names() {
                let only = |what: &str| {
                    Err(Error::invalid(format!("{what} is supported on user defined networks only"))
                        .with_hint("make one first: `network create NAME`, then `--network NAME`"))
                };
                if !place.aliases.is_empty() {
                    return only("network-scoped alias");
                }
                if place.ip.is_some() || place.ip6.is_some() {
                    return only("user specified IP address");
                }
            }
            request_of(place)?;
            place.network = found.network.name;
        }
        if explicit {
            spec.endpoints.clone_from(&places);
        }
        if let (NetworkMode::Network(name), Some(first)) = (&mut spec.network, places.first()) {
            name.clone_from(&first.network);
        }
        Ok(())
    }

    fn save_places(&self, container: &mut Container, places: Vec<EndpointSpec>) -> Result<()> {
        let spec = &mut container.record.spec;
        // A container that has left its last network has none.
        spec.network = match places.first() {
            Some(first) => NetworkMode::Network(first.network.clone()),
            None => NetworkMode::None,
        };
        spec.endpoints = places;
        self.records.save(&container.record)
    }

    /// The container's `/etc/hosts` and `/etc/resolv.conf` as they are by now.
    fn refresh_files(&self, container: &Container) -> Result<()> {
        if running(container).is_none() {
            return Ok(());
        }
        let host = self.host_facts();
        let places: Vec<_> = self
            .places(container)?
            .into_iter()
            .filter_map(|place| Some((place.network?, place.live?.attachment)))
            .collect();
        let directory = self.paths.container_run(&container.record.id);
        super::files::write(&directory, &super::network_files(&container.record, &host, &places))?;
        // The container's monitor looks at what it resolves and publishes now.
        self.knock(&container.record.id);
        Ok(())
    }

    /// Tells a container's monitor that something has changed, and returns when it has seen it.
    fn knock(&self, id: &ContainerId) {
        let directory = robot_env_sys::fs::open_directory(&self.paths.container_run(id));
        let Ok(monitor) =
            directory.and_then(|at| robot_env_sys::socket::connect_at(at.as_fd(), "attach.sock"))
        else {
            return;
        };
        // Whoever says nothing is let go.
        let _ = rustix::net::shutdown(&monitor, rustix::net::Shutdown::Write);
        let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&monitor, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&patience));
    }

    /// For a container that is about to join while it runs: its monitor, which may have started it
    /// without a network, leaves the networks at its end. An ordinary user's has, from its first network
    /// on, the user's network namespace, which its monitor makes or finds, and holds.
    fn await_place(&self, id: &ContainerId) -> Result<()> {
        let mark = self.paths.container_run(id).join(JOINED_LATER);
        std::fs::write(&mark, "").io_context(|| format!("cannot write `{}`", mark.display()))?;
        if self.rootless {
            self.knock(id);
        }
        Ok(())
    }

    /// Whether a container has been connected since it was started.
    pub(crate) fn has_joined_later(&self, id: &ContainerId) -> bool {
        self.paths.container_run(id).join(JOINED_LATER).exists()
    }
}

/// In a container's run directory: see [`Engine::await_place`].
const JOINED_LATER: &str = "joined-later";

/// The first process of a container that runs.
fn running(container: &Container) -> Option<i32> {
    container.state.state.process().map(|process| process.pid)
}

fn refuse_sharing(record: &ContainerRecord, network: &NetworkRecord) -> Result<()> {
    let denied = |reason: &str| {
        Err(Error::new(
            Kind::Denied,
            format!(
                "cannot connect container `{}` to network `{}`: {reason}",
                record.name, network.network.name
            ),
        ))
    };
    match (&record.spec.network, network.network.driver) {
        (_, Driver::Host | Driver::None) => denied("it cannot be joined beside others"),
        (NetworkMode::Host, _) => denied("the container has the host's network"),
        (NetworkMode::Container(_), _) => denied("the container has another container's network"),
        _ => Ok(()),
    }
}

impl Networks<'_> {
    fn connect(&self, record: &ContainerRecord, spec: &EndpointSpec, pid: i32) -> Result<()> {
        let id = record.id.as_str();
        let mut network = self.network(&spec.network)?;
        let tag = self.engine.network_tag();
        let (mut links, mut firewall) = (Links::open()?, Firewall::open(tag.as_deref())?);
        let bridge = network.network.driver == Driver::Bridge;
        let mut missing = bridge && !firewall.is_there()?;
        if bridge && links.find(&network.network.bridge)?.is_none() {
            missing = true;
            network = self.clear_of_collisions(network)?;
        }
        let live = self.live(&network.network.id)?;
        let endpoint = network.network.allocate(&request_of(spec)?, &taken(&network, &live), live.next)?;
        let mut numbers = Vec::new();
        // The network with the default route, and the priority that it has it by.
        let mut routed: Option<(String, i64)> = None;
        for other in self.engine.live_ids()? {
            let live = self.live(&other)?;
            let Some(place) = live.endpoints.get(id) else { continue };
            numbers.push(place.attachment.number);
            if place.attachment.default_route {
                let places = record.spec.places();
                let own = places.iter().find(|place| place.network == live.name);
                routed = Some((other, own.map_or(0, |place| place.gateway_priority)));
            }
        }
        let number = (0..=numbers.len() as u32).find(|number| !numbers.contains(number)).unwrap_or_default();
        let mut attachment = Attachment::new(&network.network, endpoint, number, Vec::new());
        let first = routed.as_ref().is_none_or(|(_, priority)| spec.gateway_priority > *priority);
        attachment.default_route = first && !attachment.endpoint.gateways.is_empty();
        // A container's ports are where its default routes are; the first such network brings them.
        let wanted = if bridge && attachment.default_route { bindings(record) } else { Vec::new() };
        let mut reserved = None;
        if !wanted.is_empty() {
            match &routed {
                Some((other, _)) => attachment.ports = self.call_in(id, other, &attachment, &mut firewall)?,
                None => {
                    let reservation = self.reserve(wanted, attachment.endpoint.clone())?;
                    attachment.ports.clone_from(&reservation.ports);
                    // The monitor takes them over.
                    reserved = Some(reservation);
                }
            }
        }
        self.enter(&network, record, &attachment)?;
        let done = (|| {
            if missing {
                self.mend(Idle::Stays)?;
            }
            let namespace = namespace_of(pid)?;
            attach(&mut links, &mut firewall, &network.network, &attachment, namespace.as_fd())
        })();
        if let (Ok(()), true, Some((other, _))) = (&done, attachment.default_route, routed) {
            let mut live = self.live(&other)?;
            if let Some(place) = live.endpoints.get_mut(id) {
                place.attachment.default_route = false;
            }
            self.save(&other, &live)?;
        }
        if done.is_err() {
            let mut live = self.live(&network.network.id)?;
            live.endpoints.remove(id);
            self.save(&network.network.id, &live)?;
        }
        drop(reserved);
        done
    }

    /// Takes a container's ports out of the network with its default routes, for another place of it.
    fn call_in(
        &self,
        container: &str,
        network: &str,
        place: &Attachment,
        firewall: &mut Firewall,
    ) -> Result<Vec<Port>> {
        let mut live = self.live(network)?;
        let Some(endpoint) = live.endpoints.get_mut(container) else { return Ok(Vec::new()) };
        let ports = std::mem::take(&mut endpoint.attachment.ports);
        firewall.withdraw(&ports)?;
        self.save(network, &live)?;
        Ok(ports.iter().filter_map(|port| port.leading_to(place.addresses())).collect())
    }

    fn disconnect(&self, record: &ContainerRecord, network: &NetworkRecord, pid: i32) -> Result<()> {
        let id = record.id.as_str();
        let mut live = self.live(&network.network.id)?;
        let Some(place) = live.endpoints.remove(id) else { return Ok(()) };
        let namespace = namespace_of(pid)?;
        let tag = self.engine.network_tag();
        let (mut links, mut firewall) = (Links::open()?, Firewall::open(tag.as_deref())?);
        detach(&mut links, &mut firewall, &place.attachment, namespace.as_fd())?;
        self.save(&network.network.id, &live)?;
        if place.attachment.default_route || !place.attachment.ports.is_empty() {
            self.hand_on(record, &place.attachment, &mut firewall, namespace.as_fd())?;
        }
        Ok(())
    }

    /// Gives the default routes and the published ports of a place to another network of the
    /// container.
    fn hand_on(
        &self,
        record: &ContainerRecord,
        from: &Attachment,
        firewall: &mut Firewall,
        namespace: std::os::fd::BorrowedFd<'_>,
    ) -> Result<()> {
        let mut found: Vec<(EndpointSpec, NetworkRecord, Attachment)> = Vec::new();
        for spec in record.spec.places() {
            if let Some(network) = self.engine.network_by_name(&spec.network)?
                && let Some(place) = self.live(&network.network.id)?.endpoints.remove(record.id.as_str())
            {
                found.push((spec, network, place.attachment));
            }
        }
        let heir = gateway_of(found.iter().map(|(spec, _, attachment)| (spec, &attachment.endpoint)));
        let Some((_, network, attachment)) = heir.and_then(|at| found.get_mut(at)) else { return Ok(()) };
        if from.default_route {
            Links::route_inside(namespace, attachment.number, &attachment.endpoint.gateways)?;
            attachment.default_route = true;
        }
        if network.network.driver == Driver::Bridge {
            let led = from.ports.iter().filter_map(|port| port.leading_to(attachment.addresses()));
            attachment.ports = led.collect();
        }
        let mut live = self.live(&network.network.id)?;
        if let Some(place) = live.endpoints.get_mut(record.id.as_str()) {
            place.attachment = attachment.clone();
        }
        // Written down first: somebody who is killed now is mended.
        self.save(&network.network.id, &live)?;
        firewall.publish(&network.network.bridge, &attachment.ports)
    }
}
