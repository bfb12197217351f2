//! Networks of containers: their records, who is in them now, joining and leaving.
//!
//! ```text
//! ROOT/networks/<name>.json     what a network is: see [`NetworkRecord`]
//! RUN/networks/<id>.json        who is in it now: see [`live::Live`]; there while the kernel has its
//!                               bridge (or may have it)
//! RUN/networks/{lock, rest.lock, forwarding}
//! ```
//!
//! A container joins when it starts and leaves when it ends; its monitor does both. What it is to
//! get is written down before it is made, so that whoever comes after a `kill -9` finds every half.
//! The network's bridge and rules are made for the first container, and taken away some time after
//! the last one has gone ([`rest`]).
//!
//! Locks: one for all networks, held while the files below `RUN/networks` or the host's links and
//! rules change; it comes after a container's lock.

mod configured;
mod files;
mod forward;
mod join;
mod live;
mod membership;
mod names;
mod publication;
mod record;
mod rest;
mod ros;
mod view;

pub use configured::NetworkDefaults;
pub(crate) use files::{network_files, write as write_files};
pub(crate) use join::Joined;
pub use live::LiveEndpoint;
pub(crate) use names::Resolver;
pub(crate) use publication::Publication;
pub use record::{NetworkRecord, NetworkRequest, PREDEFINED};
pub use rest::Reloaded;
pub(crate) use ros::shared_memory_warning;
pub use view::Place;
