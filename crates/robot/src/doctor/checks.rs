//! The checks, each one function.

mod desktop;
mod network;
mod system;

use super::Finding;
use super::host::Host;

/// A check.
pub(super) type Check = fn(&Host<'_>) -> Vec<Finding>;

/// All of them, in the order of the report.
pub(super) const ALL: &[Check] = &[
    system::kernel,
    system::namespaces,
    system::subordinate_ids,
    system::cgroups,
    system::overlay,
    network::networks,
    desktop::gpu,
    desktop::display,
    desktop::groups,
    desktop::realtime,
    network::dds,
    system::disk,
    network::mirrors,
    system::configuration,
];
