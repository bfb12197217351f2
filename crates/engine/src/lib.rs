//! Containers: their records, their monitors, their events.
//!
//! What stands so far are the parts that everything else will use: the records on disk, the
//! protocol between a monitor and its clients, the loop that supervises a process, its log, and
//! the event log. What starts containers is built on them next.
//!
//! This crate deliberately knows no Docker JSON and no command line.
//!
//! The tree on disk is drawn at [`Paths`]. Locks: one open-file-description lock a container for
//! commands that change it, never held while waiting for the container; one that its monitor holds
//! as long as it lives.

pub mod attach;
mod events;
#[expect(dead_code, reason = "read by the start of containers, which is built next")]
mod facts;
#[expect(dead_code, reason = "driven by the start of containers, which is built next")]
mod monitor;
mod paths;
pub mod record;
#[expect(dead_code, reason = "used by the commands on containers, which are built next")]
mod records;
pub mod stream;

pub use events::{Event, EventReader, append};
pub use paths::Paths;
pub use records::Container;
