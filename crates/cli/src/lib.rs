//! The command line: Docker's verbs and flags in front of the engine.
//!
//! Here are Docker's words (flags, output formats, exit codes) and the terminal (tables, progress,
//! templates). It deliberately knows no kernel interface, no store format and no registry protocol:
//! a command turns its flags into the engine's requests and prints what comes back. Nothing on disk
//! is its own, and it takes no lock.

#![allow(dead_code, reason = "the commands that use these parts are built next")]

mod ambient;
mod app;
mod command_line;
mod commands;
mod container_flags;
mod dispatch;
mod failure;
mod filter;
pub mod format;
mod interrupt;
mod live;
mod progress;
mod quantity;
mod rows;
mod verb;

pub use ambient::Ambient;
pub use app::{App, Globals, Loudness, ServeRequest, Server};
pub use container_flags::{ContainerFlags, Wanted};
pub use dispatch::main;
pub use progress::Progress;
pub use verb::Exit;
