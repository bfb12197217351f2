//! Joining and leaving a network while a container exists, running or not.

use std::os::fd::AsFd;

use robot_env_diag::{Error, Kind, Result};
use robot_env_network::attach::{Attachment, attach, detach};
use robot_env_network::firewall::{Firewall, Port};
use robot_env_network::link::Links;
use robot_env_network::plan::Driver;
use robot_env_spec::{ContainerSpec, EndpointSpec, NetworkMode};

use super::join::{gateway_of, namespace_of, request_of, taken};
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
        // The container's resolver looks whether there are names for it now.
        let knock = robot_env_sys::fs::open_directory(&directory)
            .and_then(|directory| robot_env_sys::socket::connect_at(directory.as_fd(), "attach.sock"));
        drop(knock);
        Ok(())
    }
}

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
        done
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
            for port in &from.ports {
                let addresses = attachment.endpoint.addresses.iter().map(|address| address.address);
                let address = addresses.into_iter().find(|a| a.is_ipv6() == port.container.is_ipv6());
                attachment.ports.extend(address.map(|container| Port { container, ..*port }));
            }
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
