//! What the engine looks up for a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::{Propagation, ReadOnlyDepth};
use crate::user_map::UserMap;

/// Facts about the host, read at every start and exec and never stored (the JSON form is for
/// tests).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// `x86_64`, `aarch64`, ...: Rust's name of the architecture.
    pub architecture: String,
    /// Kernel release as (major, minor).
    pub kernel: (u32, u32),
    /// The control groups that are in use.
    pub cgroup: CgroupVersion,
    /// Whether cgroups may be made and limited here.
    pub cgroup_writable: bool,
    /// Whether this runs inside a user namespace made for an ordinary user.
    pub rootless: bool,
    /// Whether only one user id is mapped (rootless without subordinate ids).
    pub single_id: bool,
    /// The engine's own bounding set, `CAP_X`: what `--privileged` can give at most.
    pub capabilities: BTreeSet<String>,
    /// Hard limits of the engine by name (`nofile`), to clamp by; absent: unlimited.
    pub hard_limits: BTreeMap<String, u64>,
    /// Whether the process may raise hard limits (CAP_SYS_RESOURCE in the first user namespace).
    pub may_raise_limits: bool,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// The AppArmor profile of containers that name none, if the kernel has it.
    pub apparmor_profile: Option<String>,
    /// Number of usable CPUs.
    pub cpus: u32,
    /// The host's name.
    pub hostname: String,
    /// The engine's supplementary groups, for rootless containers that keep them.
    pub groups: Vec<u32>,
}

/// The control groups that are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// Controllers on separate version 1 hierarchies (an almost empty `unified` beside them does
    /// not count).
    #[default]
    V1,
    /// The unified hierarchy with controllers.
    V2,
    /// Nothing usable.
    None,
}

/// What the engine has looked up or made for one start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolved {
    /// The container's id, 64 hexadecimal digits.
    pub id: String,
    /// The user in numbers.
    pub user: ResolvedUser,
    /// Mounts in order, sources looked up; destinations are paths inside the container.
    pub mounts: Vec<ResolvedMount>,
    /// Device nodes.
    pub devices: Vec<ResolvedDevice>,
    /// The network namespace.
    pub network: NamespaceSource,
    /// The IPC namespace.
    pub ipc: NamespaceSource,
    /// The pid namespace.
    pub pid: NamespaceSource,
    /// The UTS namespace.
    pub uts: NamespaceSource,
    /// The container's own user namespace, where it has one.
    pub user_map: Option<UserMap>,
    /// Path of the container's cgroup, as `linux.cgroupsPath` has it; `None`: no cgroup.
    pub cgroup_path: Option<String>,
    /// Path of the rootfs for `root.path`.
    pub rootfs: PathBuf,
    /// Block devices by the path that was written: (major, minor).
    pub block_devices: BTreeMap<String, (i64, i64)>,
}

/// A user in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further group ids.
    pub additional_gids: Vec<u32>,
    /// Home directory, `/` when there is none.
    pub home: String,
}

/// A mount whose source is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMount {
    /// Path inside the container.
    pub target: String,
    /// `bind`, `tmpfs`, ...
    pub kind: String,
    /// Path on the host for a bind.
    pub source: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// How far that reaches (binds).
    pub read_only_depth: ReadOnlyDepth,
    /// Propagation (binds).
    pub propagation: Propagation,
    /// Whether mounts below the source come along (binds).
    pub recursive: bool,
    /// Further options (`size=...`, `mode=...`, `noexec`).
    pub options: Vec<String>,
}

/// A device node on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedDevice {
    /// Path in the container.
    pub path: String,
    /// Path on the host.
    pub host_path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of the letters `rwm`: what the container may do.
    pub permissions: String,
}

/// Where a namespace comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceSource {
    /// A new one.
    #[default]
    New,
    /// The engine's own.
    Host,
    /// An existing one by path (`/proc/PID/ns/net`).
    Path(String),
}
