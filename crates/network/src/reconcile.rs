//! Everything that should be there is, and nothing else of ours: after a reboot, a `kill -9`, or
//! another program's flush of the rules.

use std::collections::BTreeMap;

use robot_env_diag::Result;

use crate::firewall::obstacle::Obstacle;
use crate::firewall::{Desired, Firewall, Found};
use crate::link::{Links, VETH_PREFIX};
use crate::plan::{Driver, is_our_bridge};

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bridges that were missing.
    pub made: Vec<String>,
    /// Links that belonged to nobody.
    pub removed: Vec<String>,
    /// The rules.
    pub firewall: Found,
    /// What else may be in the way of our packets.
    pub obstacles: Vec<Obstacle>,
}

/// What [`reconcile`] is told.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// See [`Firewall::open`].
    pub tag: Option<&'a str>,
    /// What should be there.
    pub desired: Desired,
    /// Every bridge that may be the caller's; those that `desired` does not name are removed.
    pub bridges: &'a [String],
    /// The host's ends of the running containers' pairs, and the bridge of each. Others at the
    /// caller's bridges are removed.
    pub veths: BTreeMap<String, String>,
}

/// Makes the host's links and rules what `wanted` says. The caller holds the lock of the networks.
///
/// With no network and no port desired nothing of ours is left, the table included.
pub fn reconcile(wanted: &Wanted<'_>) -> Result<Report> {
    let desired = &wanted.desired;
    let mut links = Links::open()?;
    let mut firewall = Firewall::open(wanted.tag)?;
    let bridges = || desired.networks.iter().filter(|network| network.driver == Driver::Bridge);
    let there = links.all()?;
    let mut report =
        Report { made: Vec::new(), removed: Vec::new(), firewall: Found::Intact, obstacles: Vec::new() };
    // Rules first: a bridge that works before its network is isolated would be open for a moment.
    if desired.networks.is_empty() && desired.ports.is_empty() {
        firewall.remove()?;
    } else {
        report.firewall = firewall.ensure(desired)?;
        if bridges().next().is_some() {
            report.obstacles = firewall.open_obstacles()?;
        }
    }
    for network in bridges() {
        if !there.contains_key(&network.bridge) {
            report.made.push(network.bridge.clone());
        }
        links.ensure_bridge(network)?;
    }
    for port in &desired.ports {
        if let Some(network) =
            bridges().find(|network| network.ranges.iter().any(|range| range.subnet.contains(port.container)))
        {
            Firewall::allow_loopback(&network.bridge, std::slice::from_ref(port))?;
        }
    }
    let owned = |name: &str| wanted.bridges.iter().any(|bridge| bridge == name);
    let indices: BTreeMap<&str, u32> = there
        .values()
        .filter(|link| owned(&link.name))
        .map(|link| (link.name.as_str(), link.index))
        .collect();
    for (name, link) in &there {
        if let Some(bridge) = wanted.veths.get(name) {
            if link.master == 0 || indices.get(bridge.as_str()).is_none_or(|index| *index != link.master) {
                links.join_bridge(name, bridge)?;
            }
        } else if name.starts_with(VETH_PREFIX) && indices.values().any(|index| *index == link.master) {
            links.remove_veth(name)?;
            report.removed.push(name.clone());
        }
    }
    for name in indices.keys() {
        if !bridges().any(|network| network.bridge == **name) {
            links.remove_bridge(name)?;
            report.removed.push((*name).to_owned());
        }
    }
    if bridges().next().is_none()
        && !there.keys().any(|name| is_our_bridge(name) && !indices.contains_key(name.as_str()))
    {
        firewall.close_obstacles()?;
    }
    Ok(report)
}
