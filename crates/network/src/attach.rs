//! A container's interface and its published ports, in one step that happens whole or not at all.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use robot_env_diag::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::firewall::{Firewall, Port};
use crate::link::{Links, Wire, configure, veth_name};
use crate::plan::{Driver, Endpoint, Network};

/// What an attachment is to be. The caller writes it to its record *before* [`attach`], so that
/// [`crate::reconcile`] finds a half of it after a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The host's end of the veth pair; empty for other drivers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_link: String,
    /// `eth<number>` in the container.
    pub number: u32,
    /// Addresses and routes.
    pub endpoint: Endpoint,
    /// Do the container's default routes go here?
    pub default_route: bool,
    /// Published here; only of a bridge.
    #[serde(default)]
    pub ports: Vec<Port>,
}

impl Attachment {
    /// One for an endpoint of `network`, with a new name for its link.
    pub fn new(network: &Network, endpoint: Endpoint, number: u32, ports: Vec<Port>) -> Attachment {
        let host_link = if network.driver == Driver::Bridge { veth_name() } else { String::new() };
        Attachment { host_link, number, endpoint, default_route: number == 0, ports }
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoint.addresses.iter().map(|address| address.address)
    }
}

/// Undoes what was done of an attachment, unless told that all of it is.
struct Undo<'a> {
    links: &'a mut Links,
    firewall: &'a mut Firewall,
    namespace: BorrowedFd<'a>,
    attachment: &'a Attachment,
    linked: bool,
    published: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        // What fails here is left to reconcile.
        if self.published {
            let _ = self.firewall.withdraw(&self.attachment.ports);
        }
        if self.linked && self.attachment.host_link.is_empty() {
            let _ = Links::remove_inside(self.namespace, self.attachment.number);
        } else if self.linked {
            let _ = self.links.remove_veth(&self.attachment.host_link);
        }
    }
}

/// Joins the container's network namespace to `network` and publishes the ports.
///
/// [`Kind::NotFound`]: the network's bridge or the firewall's table is gone (a reboot, a flush):
/// call [`crate::reconcile::reconcile`] and try again. [`Kind::Conflict`]: a port is taken.
pub fn attach(
    links: &mut Links,
    firewall: &mut Firewall,
    network: &Network,
    attachment: &Attachment,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let context = |error: Error| error.within(format!("cannot connect to network `{}`", network.name));
    let wire = Wire {
        host: &attachment.host_link,
        number: attachment.number,
        namespace,
        endpoint: &attachment.endpoint,
        default_route: attachment.default_route,
        mtu: network.mtu,
        publishes: !attachment.ports.is_empty(),
    };
    match network.driver {
        Driver::Host | Driver::None => {
            return Err(Error::invalid(format!(
                "cannot connect to network `{}`: driver {} has no interfaces",
                network.name,
                network.driver.name()
            )));
        }
        Driver::Macvlan | Driver::Ipvlan if !attachment.ports.is_empty() => {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "cannot publish ports in network `{}`: with driver {} a container is on the host's network itself",
                    network.name,
                    network.driver.name()
                ),
            ));
        }
        Driver::Bridge if network.internal && !attachment.ports.is_empty() => {
            return Err(Error::invalid(format!(
                "cannot publish ports in network `{}`: it is internal",
                network.name
            )));
        }
        _ => {}
    }
    let mut undo = Undo { links, firewall, namespace, attachment, linked: false, published: false };
    match network.driver {
        Driver::Bridge => undo.links.make_veth(network, &wire).map_err(context)?,
        _ => undo.links.make_child(network, &wire)?,
    }
    undo.linked = true;
    configure(&wire).map_err(context)?;
    undo.firewall.publish(&network.bridge, &attachment.ports)?;
    (undo.linked, undo.published) = (false, false);
    Ok(())
}

/// What is left to do when a container has ended: its ports. Its namespace takes the links along.
pub fn release(firewall: &mut Firewall, attachment: &Attachment) -> Result<()> {
    if attachment.ports.is_empty() { Ok(()) } else { firewall.withdraw(&attachment.ports) }
}

/// Takes a running container out of a network.
pub fn detach(
    links: &mut Links,
    firewall: &mut Firewall,
    attachment: &Attachment,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    release(firewall, attachment)?;
    if attachment.host_link.is_empty() {
        Links::remove_inside(namespace, attachment.number)
    } else {
        links.remove_veth(&attachment.host_link)
    }
}
