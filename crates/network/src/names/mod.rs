//! The resolver of a container: it answers the names of its networks and passes the rest on.
//!
//! Its sockets are in the container's network namespace, at [`ADDRESS`]; who serves them is the
//! container's monitor, in its own loop and without a thread. Nothing is told to it: it asks a
//! [`Zone`] at each question, so that there is nobody whose death loses a name.

pub mod message;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use server::Server;

/// Where a container finds it, as with Docker.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What a container's resolver knows.
pub trait Zone {
    /// The addresses of a name (lower case); `None` for one that is not of its networks.
    fn addresses(&mut self, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of an address.
    fn name_of(&mut self, address: IpAddr) -> Option<String>;
    /// Who is asked for the rest, in order; `None`: nobody, the container has no way out, and what is
    /// not known does not exist.
    fn servers(&mut self) -> Option<Servers>;
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Their addresses.
    pub addresses: Vec<SocketAddr>,
    /// Whether they are asked from the container's namespace (those that its user named) or from the
    /// host's (those of the host, which may be on its loopback).
    pub inside: bool,
}
