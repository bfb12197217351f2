//! Docker's JSON: what `inspect` prints and the API sends, made from the engine's types.
//!
//! Field names, their order, and what is `null`, empty or left out are those of the Docker Engine
//! API 1.51: clients depend on all of them. It deliberately knows no file, no terminal and no HTTP; what
//! a filter names is looked up by the engine. Nothing on disk, no lock.

mod config;
mod container;
mod create;
mod event;
mod exec;
mod filters;
mod host_config;
mod image;
mod mount;
mod network;
mod search;
mod selection;
mod summary;
mod system;
mod time;
mod volume;

pub use config::{Config, Empty};
pub use container::{ContainerFacts, ContainerInspect, GraphDriver, HealthLog, HealthState, State};
pub use create::{
    BindRequest, CommandLine, ConnectNetwork, CreateContainer, CreateNetwork, CreateVolume, DeviceNumber,
    DeviceRequest, DeviceRequestPath, EndpointAddresses, EndpointRequest, HostConfigRequest,
    ImageMountRequest, IpamConfigRequest, IpamRequest, LogConfigRequest, MountRequest,
    NetworkingConfigRequest, PortRequest, ResourcesRequest, RestartPolicyRequest, TmpfsRequest,
    UlimitRequest, UpdateContainer, VolumeDriverRequest, VolumeMountRequest,
};
pub use event::{Actor, EventMessage};
pub use exec::{ExecConfig, ExecInspect, ExecProcess, ExecStart};
pub use filters::{Filters, truth};
pub use host_config::{
    DeviceMapping, HostConfig, LogConfig, RestartPolicy, ThrottleDevice, UlimitLimit, WeightDevice,
};
pub use image::{HistoryItem, ImageFacts, ImageInspect, Metadata, RootFs, history};
pub use mount::{
    BindOptions, DriverConfig, ImageOptions, MountOptions, MountPoint, TmpfsOptions, VolumeOptions,
};
pub use network::{
    ConfigFrom, EndpointSettings, Ipam, IpamConfig, Network, NetworkContainer, NetworkSettings, PortBinding,
    mode_word,
};
pub use search::{SEARCH_FILTERS, SearchFilter, SearchResult, search_limit};
pub use selection::{CONTAINER_FILTERS, ContainerFilter, EVENT_FILTERS, labels_of, networks_of, takes_event};
pub use summary::{ContainerSummary, Port, SummaryHostConfig, SummaryNetworks, human_duration, status};
pub use system::{Info, InfoSettings, Plugins, Version, VersionReply};
pub use time::{ZERO, rfc3339};
pub use volume::Volume;

/// The version of the API whose shapes these are.
pub const API_VERSION: &str = "1.51";
/// The oldest version of the API whose clients understand them.
pub const MIN_API_VERSION: &str = "1.24";

/// Go writes an empty list that was never filled as `null`.
fn null_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}

/// Go reads `null` as the empty value.
fn null_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    use serde::Deserialize;
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
