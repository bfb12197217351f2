//! The embedded OCI runtime: from a runtime spec and a root file system to a process.
//!
//! [`create`] makes the process with everything around it; it waits until [`Created::start`] lets
//! it execute the program. [`exec`] puts a further process into a running container.
//!
//! What happens where: the caller's process makes the cgroup, compiles the seccomp filter and
//! clones; the child, single-threaded and already in its new namespaces, mounts, pivots, drops
//! rights and executes. Each tells the other what went wrong over one socket.
//!
//! This crate deliberately knows no image, no store and no record. It needs a single-threaded
//! caller and starts no other program (hooks of the spec excepted).
//!
//! The rules of runtime-spec 1.2 apply; the order of the steps follows its `runtime.md`.

mod console;
mod create;
mod exec;
mod init;
mod mounts;
mod process;
mod resources;
pub mod seccomp;
mod sync;

pub use console::{Console, Stdio};
pub use create::{Create, Created, Process, Rootfs, create};
pub use exec::{Exec, exec};
pub use resources::settings;
