//! Everything that should be there is, and nothing else of ours: after a reboot, a `kill -9`, or
//! another program's flush of the rules.

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

/// Makes the host's links and rules what `desired` says. `veths` are the host's ends that the
/// records of running containers name; others of ours are removed. The caller holds the lock of
/// the networks: whoever attaches meanwhile would lose its link.
///
/// With no network and no port desired nothing of ours is left, the table included.
pub fn reconcile(desired: &Desired, veths: &[String]) -> Result<Report> {
    let mut links = Links::open()?;
    let mut firewall = Firewall::open()?;
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
    for name in there.keys() {
        if is_our_bridge(name) && !bridges().any(|network| network.bridge == *name) {
            links.remove_bridge(name)?;
            report.removed.push(name.clone());
        } else if name.starts_with(VETH_PREFIX) && !veths.contains(name) {
            links.remove_veth(name)?;
            report.removed.push(name.clone());
        }
    }
    Ok(report)
}
