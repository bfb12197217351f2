//! The flags that `run` and `create` share, and how they become a [`ContainerSpec`].

mod conversion;
mod environment;
mod limits;
mod mount;
mod network;
mod process;
mod robot;
mod security;
#[cfg(test)]
mod tests;
mod volume;

use clap::{ArgAction, Args};
use robot_env_diag::Result;
use robot_env_spec::ContainerSpec;

pub(crate) use conversion::shm_size;
pub(crate) use environment::{environment, labels, map};
pub(crate) use limits::{LimitFlags, ulimit};
pub(crate) use mount::csv;
pub(crate) use network::host_entry;
pub(crate) use process::restart_policy;
pub(crate) use robot::{RobotFlags, complete, selector};
pub(crate) use security::security;

use crate::ambient::Ambient;

/// What the flags ask for, and what the user should hear about them.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The container.
    pub spec: ContainerSpec,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Flags of `run` and `create`.
#[derive(Args, Clone, Debug, Default)]
pub struct ContainerFlags {
    /// Add a host to /etc/hosts: NAME:ADDRESS or NAME=ADDRESS; `host-gateway` stands for the host
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Add an annotation for the OCI runtime
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Attach to stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM")]
    attach: Vec<String>,
    /// Join a CAN interface of the host to the container's network
    #[arg(long, value_name = "INTERFACE")]
    can: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// The cgroup above the container's
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Cgroup namespace: host or private
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// Write the container's id to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<String>,
    /// Key sequence that detaches from the container
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Make host devices available: HOST[:CONTAINER[:PERMISSIONS]], a CDI device vendor.com/class=name, or what
    /// comes and goes: usb:VENDOR:PRODUCT[:SERIAL], /dev/serial/by-id/..., serial, camera, input, can, gpio, ...,
    /// each with ,name=PATH for a name of its own
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Add a rule to the device cgroup, e.g. `c 189:* rmw`
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Skip checks of image signatures (there are none)
    #[arg(long, default_value_t = true, action = ArgAction::Set, hide = true)]
    disable_content_trust: bool,
    /// Set a DNS server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Set a resolver option
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Set a DNS search domain; `.` for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// The container's NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Replace the image's entrypoint; an empty one removes it
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Set an environment variable; NAME alone takes the host's value
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Note a port as exposed
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// GPUs to give to the container: all, a number, or device=..., driver=..., capabilities=...
    #[arg(long, value_name = "REQUEST")]
    gpus: Vec<String>,
    /// Add a group, by name or number
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Command that checks health
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between checks of health
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// Failures in a row until the container counts as unhealthy
    #[arg(long, value_name = "N")]
    health_retries: Option<i64>,
    /// Time between checks during the start period
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    /// Time in which failures do not count
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Time after which a check counts as failed
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// The container's host name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Run a small init that reaps processes and forwards signals
    #[arg(long)]
    init: bool,
    /// Keep stdin open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// IPC namespace: private, shareable, none, host or container:NAME
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Isolation technology; only `default`
    #[arg(long, value_name = "NAME", hide = true)]
    isolation: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    label_file: Vec<String>,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    /// Link to another container (not supported)
    #[arg(long, value_name = "CONTAINER", hide = true)]
    link: Vec<String>,
    /// Link-local address
    #[arg(long, value_name = "ADDRESS", hide = true)]
    link_local_ip: Vec<String>,
    /// Log driver: json-file, local or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Log driver option: max-size=SIZE, max-file=N
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// MAC address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Add a mount: type=bind|volume|tmpfs|image,source=...,target=...
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<String>,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The network: a name, host, none, container:NAME, or name=NET,alias=A,ip=ADDRESS
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// Add a name on the network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Switch off the image's check of health
    #[arg(long)]
    no_healthcheck: bool,
    /// Do not kill the container's processes when memory runs out (cgroup v1)
    #[arg(long)]
    oom_kill_disable: bool,
    /// Out-of-memory score, -1000 to 1000
    #[arg(long, value_name = "N")]
    oom_score_adj: Option<i32>,
    /// Pid namespace: host or container:NAME
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Choose this platform of the image
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    /// Allow everything
    #[arg(long)]
    privileged: bool,
    /// Publish a port: [ADDRESS:][HOST:]CONTAINER[/udp]
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish all exposed ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Pull the image first: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub(crate) pull: String,
    /// Do not show the progress of a pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) robot: RobotFlags,
    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Restart when the container exits: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// OCI runtime, by name or path
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// Security option: seccomp=FILE|unconfined|builtin, no-new-privileges, apparmor=PROFILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Signal that stops the container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds until a stopped container is killed; -1 waits for ever
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<i64>,
    /// Option of the container's layer: size=SIZE
    #[arg(long, value_name = "KEY=VALUE")]
    storage_opt: Vec<String>,
    /// Set a kernel parameter of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// Mount a tmpfs: PATH[:OPTIONS]
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    ulimit: Vec<String>,
    /// Mount the API socket into the container (not supported)
    #[arg(long, hide = true)]
    use_api_socket: bool,
    /// User: NAME|ID[:GROUP]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// User namespace: host, keep-id[:uid=N,gid=N], auto[:size=N], nomap
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// UTS namespace: host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Mount a volume or a host directory: [SOURCE:]TARGET[:OPTIONS]
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Driver of new volumes; only `local`
    #[arg(long, value_name = "DRIVER")]
    volume_driver: Option<String>,
    /// Mount another container's volumes: CONTAINER[:ro]
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,

    /// The image
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) image: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl ContainerFlags {
    /// What was given of that whose absence the spec does not show.
    pub(crate) fn given(&self) -> robot_env_engine::Given {
        let given = |flag: &Option<String>| flag.as_deref().is_some_and(|text| !text.is_empty());
        robot_env_engine::Given { log_driver: given(&self.log_driver), ipc: given(&self.ipc) }
    }

    /// Whether `--attach` was given.
    pub(crate) fn attaches(&self) -> bool {
        !self.attach.is_empty()
    }

    /// What the flags ask for.
    ///
    /// # Errors
    /// A malformed value, flags that exclude each other, a file that cannot be read, or something
    /// that this version cannot do.
    pub fn wanted(&self, ambient: &Ambient) -> Result<Wanted> {
        conversion::wanted(self, ambient)
    }
}
