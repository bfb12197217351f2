//! Devices, display and identity: from facts about the host to edits of a container's start.
//!
//! Discovery is pure over a [`HostRoot`], a directory that stands for the machine, so that tests
//! bring machines of their own. What is found becomes [`SpecEdits`], made anew at every start and
//! exec and applied by the engine: mounts, nodes and groups before the plan, variables and hooks
//! after it, links and the loader's cache in the container's file system ([`inside`]).
//!
//! This crate deliberately knows no container record, no command line and no terminal. It starts no
//! program, loads no library of a driver, keeps nothing on disk and takes no locks.

pub mod cdi;
mod edits;
pub mod elf;
pub mod gpu;
pub mod gui;
pub mod inside;
pub mod ldcache;
mod root;
pub mod selector;
mod session;
pub mod udev;
pub mod user;
pub mod xauth;

pub use edits::{Library, Link, SpecEdits, Stage, apply_environment, bind, private_tmpfs};
pub use root::HostRoot;
pub use session::{DRIVER_ROOT, Session};
