//! [`ContainerSpec`] and its parts.

use std::collections::BTreeMap;

use robot_env_diag::{Error, Result};
use robot_env_oci::{Healthcheck, Platform};
use serde::{Deserialize, Serialize};

use crate::RobotSpec;
use crate::network::{EndpointSpec, PortSpec};

/// What somebody wants a container to be. Nothing in it is looked up: names are names, host facts
/// are not in it, and an absent value means "as the image says, else the default".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the user wrote it.
    pub image: String,
    /// The platform to choose from the image's index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,

    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's entrypoint; an empty list removes it. Either way the image's command
    /// no longer applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, or `NAME` alone to remove a variable of the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `user[:group]` by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further groups by name or number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_add: Vec<String>,
    /// Absolute path inside the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether its standard input stays open without an attached client.
    pub stdin_open: bool,
    /// Whether standard input closes for good when the first attached client goes.
    pub stdin_once: bool,
    /// The streams that the command line attached (kept for `inspect`).
    pub attach: AttachStreams,
    /// Whether a small init reaps zombies and forwards signals as pid 1.
    pub init: bool,

    /// Labels of the container; those of the image are added when it is created.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the OCI runtime.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// By name or number; absent: the image's, else SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL; -1 waits for ever; absent: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Overrides parts of the image's health check; `test: ["NONE"]` switches it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What happens when the process ends.
    pub restart: RestartPolicy,
    /// Whether the container is removed when it ends.
    pub auto_remove: bool,

    /// Host name inside; absent: the short id, or the host's name where the UTS namespace is shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// NIS domain name inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// The network.
    pub network: NetworkMode,
    /// Places in networks, in order; empty: one in the network of [`ContainerSpec::network`] that asks
    /// for nothing more. See [`ContainerSpec::places`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointSpec>,
    /// Ports that are published on the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PortSpec>,
    /// Whether every exposed port is published on a random port of the host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub publish_all: bool,
    /// Lines of `/etc/hosts`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_hosts: Vec<HostEntry>,
    /// What `/etc/resolv.conf` says; empty parts come from the host.
    pub dns: DnsConfig,
    /// CAN interfaces of the host that are joined to the container's own network namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can: Vec<String>,
    /// Ports that the user exposed, `port/protocol` (for `inspect`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,

    /// The IPC namespace.
    pub ipc: IpcMode,
    /// The pid namespace.
    pub pid: PidMode,
    /// Whether the UTS namespace is the host's.
    pub uts_host: bool,
    /// The user namespace.
    pub userns: UsernsMode,
    /// The cgroup namespace.
    pub cgroupns: CgroupnsMode,

    /// Volumes, binds, tmpfs: in the order of the command line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountSpec>,
    /// Those of them that were asked for as `SOURCE:TARGET:OPTIONS`, as they were (for `inspect`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<String>,
    /// Containers whose volumes are mounted too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes_from: Vec<VolumesFrom>,
    /// Default driver of volumes that this container makes; only `local` exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_driver: Option<String>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Bytes of `/dev/shm`; absent: 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u64>,
    /// Options of the container's layer (`size=...`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_opt: BTreeMap<String, String>,

    /// Capabilities to add, `CAP_X` or `ALL`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities to drop, `CAP_X` or `ALL`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Everything allowed.
    pub privileged: bool,
    /// seccomp, AppArmor, new privileges, masks.
    pub security: SecuritySpec,
    /// Device nodes to make available.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Rules like `c 189:* rmw`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_cgroup_rules: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// cgroup limits.
    pub resources: Resources,
    /// The cgroup above the container's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_parent: Option<String>,

    /// Where the output goes.
    pub log: LogConfig,
    /// An OCI runtime by name or path; absent: our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The program and the arguments that the name stood for in the configuration when the container
    /// was made; empty: it is the program's name or path itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runtime_command: Vec<String>,
    /// Where the id was written by the command line (`--cidfile`; for `inspect`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidfile: Option<String>,
    /// It is a step of the build of that name: nobody lists it, it ends with whoever started it, and
    /// what it writes becomes a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// GPUs, display, devices, identity.
    #[serde(skip_serializing_if = "RobotSpec::is_empty")]
    pub robot: RobotSpec,
}

/// Streams that a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachStreams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// What happens when a container's process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again, always; after a reboot too.
    Always,
    /// Start again unless the user stopped it.
    UnlessStopped,
    /// Start again after a failure.
    OnFailure {
        /// At most so many times; 0: no limit.
        maximum: u32,
    },
}

/// A container's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", content = "name")]
pub enum NetworkMode {
    /// Nothing was asked for.
    #[default]
    Default,
    /// A namespace of its own with only a loopback interface.
    None,
    /// The host's namespace.
    Host,
    /// Another container's namespace (name or id).
    Container(String),
    /// A network by name.
    Network(String),
}

/// A container's IPC namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", content = "name")]
pub enum IpcMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, and other containers may join it.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    /// The host's.
    Host,
    /// Another container's (name or id).
    Container(String),
}

/// A container's pid namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", content = "name")]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's (name or id).
    Container(String),
}

/// A container's user namespace. The words of the command line: [`FromStr`](std::str::FromStr),
/// [`Display`](std::fmt::Display).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsernsMode {
    /// The engine's own: the host's for root, the user's mapped ids for an ordinary user.
    #[default]
    Engine,
    /// Written as `host`; the same as `Engine`, kept for `inspect`.
    Host,
    /// One of its own in which an ordinary user's ids are these, by default the same as outside.
    KeepId {
        /// The user's id inside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// The user's group inside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    },
    /// One of its own in which an ordinary user's id is not.
    NoMap,
    /// One of its own with ids that no other container has.
    Auto {
        /// How many; by default as many as the image's users need.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u32>,
    },
}

impl UsernsMode {
    /// Whether the container has one that is not the engine's.
    pub fn is_own(self) -> bool {
        !matches!(self, UsernsMode::Engine | UsernsMode::Host)
    }
}

impl std::str::FromStr for UsernsMode {
    type Err = Error;

    /// Podman's words (podman-run(1), `--userns`); empty and `private` are the engine's.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| Error::invalid(format!("invalid user namespace mode `{text}`: {why}"));
        let (word, options) = text.split_once(':').unwrap_or((text, ""));
        let mut mode = match word {
            "" | "private" => UsernsMode::Engine,
            "host" => UsernsMode::Host,
            "keep-id" => UsernsMode::KeepId { uid: None, gid: None },
            "nomap" => UsernsMode::NoMap,
            "auto" => UsernsMode::Auto { size: None },
            _ => return Err(bad("it must be host, keep-id[:uid=N,gid=N], auto[:size=N] or nomap".into())),
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let number =
                value.parse::<u32>().ok().filter(|id| i32::try_from(*id).is_ok() && !value.starts_with('+'));
            let number = || number.ok_or_else(|| bad(format!("`{value}` is no number from 0 to 2147483647")));
            match (&mut mode, key) {
                (UsernsMode::KeepId { uid, .. }, "uid") => *uid = Some(number()?),
                (UsernsMode::KeepId { gid, .. }, "gid") => *gid = Some(number()?),
                (UsernsMode::Auto { size }, "size") => {
                    *size = Some(number()?).filter(|size| *size > 0);
                    if size.is_none() {
                        return Err(bad("a size of 0".into()));
                    }
                }
                _ => return Err(bad(format!("unknown option `{key}`"))),
            }
        }
        Ok(mode)
    }
}

impl std::fmt::Display for UsernsMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UsernsMode::Engine => Ok(()),
            UsernsMode::Host => f.write_str("host"),
            UsernsMode::NoMap => f.write_str("nomap"),
            UsernsMode::Auto { size: None } => f.write_str("auto"),
            UsernsMode::Auto { size: Some(size) } => write!(f, "auto:size={size}"),
            UsernsMode::KeepId { uid, gid } => {
                let ids = [("uid", uid), ("gid", gid)];
                let ids = ids.iter().filter_map(|(key, id)| id.map(|id| format!("{key}={id}")));
                let ids = ids.collect::<Vec<_>>().join(",");
                f.write_str(if ids.is_empty() { "keep-id" } else { "keep-id:" })?;
                f.write_str(&ids)
            }
        }
    }
}

/// A container's cgroup namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupnsMode {
    /// Private on cgroup v2, the host's on v1, as Docker does.
    #[default]
    Default,
    /// Its own.
    Private,
    /// The host's.
    Host,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// An address, or `host-gateway`.
    pub address: String,
}

/// What `/etc/resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// Search domains; `.` alone means none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path inside the container.
    pub target: String,
    /// What is mounted there.
    #[serde(flatten)]
    pub source: MountSource,
    /// Whether it is read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// What a mount mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum MountSource {
    /// A directory or file of the host.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// Whether a missing source is made as a directory (`-v` does, `--mount` does not).
        create_source: bool,
        /// Mount propagation.
        propagation: Propagation,
        /// Whether mounts below the source come along.
        recursive: bool,
        /// How far `read_only` reaches.
        read_only_depth: ReadOnlyDepth,
    },
    /// A volume.
    Volume {
        /// Its name; `None` for an anonymous one.
        name: Option<String>,
        /// Whether an empty volume is not filled with what the image has there.
        no_copy: bool,
        /// A directory inside the volume.
        subpath: Option<String>,
        /// Labels for a volume that is made now.
        labels: BTreeMap<String, String>,
        /// Driver options for a volume that is made now.
        options: BTreeMap<String, String>,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Bytes; absent: the kernel's default.
        size: Option<u64>,
        /// Permission bits; absent: 1777.
        mode: Option<u32>,
        /// Further mount options (`noexec`, `uid=1000`, ...).
        options: Vec<String>,
    },
    /// An image's file system, read-only.
    Image {
        /// The image's name or id.
        image: String,
        /// A directory inside it.
        subpath: Option<String>,
    },
}

/// Mount propagation, as mount(8) names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the documentation
pub enum Propagation {
    #[default]
    Rprivate,
    Private,
    Rshared,
    Shared,
    Rslave,
    Slave,
}

impl Propagation {
    /// The word that mount(8) has for it.
    pub fn word(self) -> &'static str {
        match self {
            Propagation::Rprivate => "rprivate",
            Propagation::Private => "private",
            Propagation::Rshared => "rshared",
            Propagation::Shared => "shared",
            Propagation::Rslave => "rslave",
            Propagation::Slave => "slave",
        }
    }
}

/// How far a read-only bind reaches into mounts below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadOnlyDepth {
    /// All the way down where the kernel can (5.12), else only the top.
    #[default]
    RecursiveIfPossible,
    /// Only the top.
    TopOnly,
    /// All the way down, or an error.
    RecursiveOrFail,
}

/// `--volumes-from CONTAINER[:ro|rw]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Name or id.
    pub container: String,
    /// Whether they are mounted read-only here.
    pub read_only: bool,
}

/// seccomp, AppArmor, new privileges, masks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecuritySpec {
    /// The system call filter.
    pub seccomp: SeccompSpec,
    /// An AppArmor profile's name, or `unconfined`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// Whether set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// Whether `/proc` and `/sys` are not masked.
    pub unmasked_paths: bool,
    /// The words as they were given (for `inspect`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub as_given: Vec<String>,
}

/// The system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "json")]
pub enum SeccompSpec {
    /// The built-in profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's or the OCI's JSON form: its text.
    Profile(String),
}

/// `--device HOST[:CONTAINER[:PERMISSIONS]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Path on the host; a directory stands for the devices in it.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Of the letters `rwm`.
    pub permissions: String,
}

/// `--ulimit NAME=SOFT[:HARD]`; -1 is unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, ...
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// cgroup limits; absent values set nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// Bytes; soft.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<i64>,
    /// Bytes; obsolete, cgroup v1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_memory: Option<i64>,
    /// Billionths of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nano_cpus: Option<i64>,
    /// Relative weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Microseconds a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_realtime_period: Option<u64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_realtime_runtime: Option<i64>,
    /// List like `0-3,5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// List like `0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 or 0 unlimited; absent: 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<u16>,
    /// Weights by device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blkio_weight_device: Vec<DeviceRate>,
    /// Bytes a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_bps: Vec<DeviceRate>,
    /// Bytes a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_bps: Vec<DeviceRate>,
    /// Operations a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_iops: Vec<DeviceRate>,
    /// Operations a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_iops: Vec<DeviceRate>,
    /// Whether running out of memory pauses instead of kills (cgroup v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill_disable: Option<bool>,
    /// -1000 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
}

impl Resources {
    /// Whether anything was asked for that only a control group can give.
    pub fn need_cgroup(&self) -> bool {
        Resources { oom_score_adj: None, ..self.clone() } != Resources::default()
    }
}

/// A number for a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Path of the block device on the host.
    pub path: String,
    /// The weight or rate.
    pub rate: u64,
}

/// Where a container's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The driver.
    pub driver: LogDriver,
    /// Bytes until a file is rotated; absent: the driver's default, 10 MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// Files that are kept; absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file: Option<u32>,
    /// The options as they were given (for `inspect`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub as_given: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { driver: LogDriver::JsonFile, max_size: None, max_file: None, as_given: BTreeMap::new() }
    }
}

/// A log driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's JSON lines.
    #[default]
    JsonFile,
    /// The same files here, rotated and compressed as `local` users expect.
    Local,
    /// Nothing is kept.
    None,
}
