//! The command line: Docker's verbs and flags in front of the engine.
//!
//! Here are Docker's words (flags, output formats, exit codes) and the terminal (tables, progress,
//! templates). It deliberately knows no kernel interface, no store and no registry: a command turns
//! its flags into the engine's requests and prints what comes back. Nothing on disk is its own, and
//! it takes no lock.

mod ambient;
mod command_line;
mod container_flags;
pub mod format;
mod quantity;

pub use ambient::Ambient;
pub use container_flags::{ContainerFlags, Wanted};
