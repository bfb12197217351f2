//! Intent and plan.
//!
//! [`ContainerSpec`] is what somebody wants: the command line, the API, profiles and the builder
//! all make it, and a container's record keeps it. [`plan()`] turns it, with the image's config, the
//! [`HostFacts`] and what the engine has [`Resolved`], into an OCI runtime spec.
//!
//! Everything here is pure: no file, no clock, no environment. What must be looked up is looked up
//! by the engine and comes in as a value.

mod check;
mod container;
mod facts;
mod id;
mod network;
mod plan;
mod robot;
pub mod seccomp;
mod user;
mod user_map;

pub use check::{check_name, check_volume_name};
pub use container::*;
pub use facts::{
    CgroupVersion, HostFacts, NamespaceSource, Resolved, ResolvedDevice, ResolvedMount, ResolvedUser,
};
pub use id::ContainerId;
pub use network::{DEFAULT_NETWORK, EndpointSpec, PortSpec};
pub use plan::{LIMITS_LEFT_OUT, Planned, ProcessOverrides, plan, plan_exec};
pub use robot::{DeviceSelector, GpuRequest, GuiMode, HomeMode, RobotSpec};
pub use user::resolve_user;
pub use user_map::{IdMapping, UserMap};
