//! Networks for root: bridges, addresses, links into containers, nf_tables rules, published ports.
//!
//! No helper program runs: everything is netlink messages of our own ([`robot_env_sys::netlink`])
//! in the network namespace of the calling thread, called *the host* here.
//!
//! The order of work is always the same: **plan** (pure: [`plan`], [`pool`]), then **do** behind a
//! guard that undoes a half-done change ([`attach`]), and a **[`reconcile`]** that compares what
//! should be with what the kernel has and mends the difference; it is what the next command calls
//! after a `kill -9`, a reboot, or another program's `nft flush ruleset`.
//!
//! - [`subnet`]: an address range.
//! - [`plan`]: what a network and an endpoint are; checks; addresses without collisions.
//! - [`pool`]: which range a new network gets.
//! - [`link`]: bridges, veth pairs, macvlan by route messages.
//! - [`firewall`]: the table `inet robot-env`.
//! - [`port`]: published ports: taken, free, ranges.
//! - [`can`]: a CAN interface of the host in a container.
//! - [`names`]: the resolver of a container.
//! - [`attach`]: a container's interface and its ports, in one step.
//! - [`reconcile`]: everything that should be there is, and nothing else of ours.

pub mod attach;
pub mod can;
pub mod firewall;
pub mod link;
pub mod names;
pub mod plan;
pub mod pool;
pub mod port;
pub mod reconcile;
pub mod subnet;
mod sysctl;
