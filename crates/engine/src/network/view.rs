//! Looking at containers' places.

use std::collections::BTreeMap;

use robot_env_diag::Result;
use robot_env_network::firewall::Port;
use robot_env_spec::EndpointSpec;

use super::live::LiveEndpoint;
use super::record::NetworkRecord;
use crate::engine::Engine;
use crate::records::Container;

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// As it was asked for.
    pub spec: EndpointSpec,
    /// The network; absent when somebody has removed it meanwhile.
    pub network: Option<NetworkRecord>,
    /// As it is; absent while the container does not run.
    pub live: Option<LiveEndpoint>,
}

impl Engine {
    /// A container's places in networks, in order.
    pub fn places(&self, container: &Container) -> Result<Vec<Place>> {
        if !Engine::is_networked(&container.record) {
            return Ok(Vec::new());
        }
        let id = container.record.id.as_str();
        let mut places = Vec::new();
        for spec in container.record.spec.places() {
            let network = self.network_by_name(&spec.network)?;
            let live = match &network {
                Some(record) => {
                    self.live_network(&record.network.id)?.and_then(|mut live| live.endpoints.remove(id))
                }
                None => None,
            };
            places.push(Place { spec, network, live });
        }
        Ok(places)
    }

    /// Who is in a network now, by the container's id.
    pub fn endpoints(&self, network: &NetworkRecord) -> Result<BTreeMap<String, LiveEndpoint>> {
        Ok(self.live_network(&network.network.id)?.unwrap_or_default().endpoints)
    }

    /// The published ports of all running containers, by the container's id.
    pub fn published_ports(&self) -> Result<BTreeMap<String, Vec<Port>>> {
        let mut ports: BTreeMap<String, Vec<Port>> = BTreeMap::new();
        for id in self.live_ids()? {
            for (container, endpoint) in self.live_network(&id)?.unwrap_or_default().endpoints {
                ports.entry(container).or_default().extend(endpoint.attachment.ports);
            }
        }
        Ok(ports)
    }
}
