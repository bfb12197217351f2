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
//! caller and starts no other program (hooks of the spec excepted). It keeps nothing on disk but
//! compiled seccomp filters, where the caller names a directory for them, and takes no locks.
//!
//! The rules of runtime-spec 1.2 apply; the order of the steps follows its `runtime.md`.

mod check;
pub mod command;
mod console;
mod create;
mod devices;
mod exec;
mod external;
mod hooks;
mod init;
mod mounts;
mod options;
mod process;
mod resources;
pub mod seccomp;
pub mod shield;
mod state;
mod sync;
pub mod systemd;

pub use console::{Console, Stdio};
pub use create::{Create, Created, Process, Rootfs, create};
pub use exec::{Exec, exec};
pub use external::{ExternalProcess, ExternalRuntime};
pub use resources::{device_rules, settings};
pub use state::{State, Status};
