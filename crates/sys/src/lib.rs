//! The system call boundary: file descriptors, namespaces, mounts, cgroups v1 and v2, seccomp,
//! terminals, sockets and netlink.
//!
//! Everything here takes and gives file descriptors or plain values, returns a [`CallError`] that
//! carries the call's arguments, and knows nothing of containers, images or policies. It is the
//! only crate of the workspace that may use `unsafe`; each block says why it is sound.

mod error;

pub mod capability;
pub mod cgroup;
pub mod errand;
pub mod fs;
pub mod lock;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod poll;
pub mod process;
pub mod reaper;
pub mod seccomp;
pub mod socket;
pub mod terminal;
pub mod uevent;

pub use error::{CallError, CallResult, ErrnoContext, errno_name};
