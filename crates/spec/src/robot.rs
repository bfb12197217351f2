//! What a robot's developer wants of the host: GPUs, display, devices, identity.
//!
//! These are words of intent. What they stand for on this host is looked up at every start and
//! exec and is in no record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The robot's part of a [`crate::ContainerSpec`]; empty for a container that wants none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RobotSpec {
    /// `--gpus`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuRequest>,
    /// CDI devices by their full names, `vendor.com/class=name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cdi: Vec<String>,
    /// `--gui`.
    #[serde(skip_serializing_if = "is_default")]
    pub gui: GuiMode,
    /// `--user-map host`: whether the container's user is the host's user.
    #[serde(skip_serializing_if = "is_default")]
    pub user_map_host: bool,
    /// `--home`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<HomeMode>,
    /// `--ssh-agent`.
    #[serde(skip_serializing_if = "is_default")]
    pub ssh_agent: bool,
    /// `--gitconfig`.
    #[serde(skip_serializing_if = "is_default")]
    pub gitconfig: bool,
    /// Devices by what they are instead of by their path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub selectors: Vec<DeviceSelector>,
    /// `--realtime`.
    #[serde(skip_serializing_if = "is_default")]
    pub realtime: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RobotSpec {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        *self == RobotSpec::default()
    }
}

/// One `--gpus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuRequest {
    /// `nvidia`, `amd`, `intel`; empty: whichever is there.
    pub driver: String,
    /// How many; -1: all; absent: those of `ids`.
    pub count: Option<i64>,
    /// Indices or UUIDs.
    pub ids: Vec<String>,
    /// Capabilities beside `gpu`, as the driver's contract names them (`compute`, `graphics`, ...).
    pub capabilities: Vec<String>,
    /// Driver options as they were given.
    pub options: BTreeMap<String, String>,
}

/// `--gui`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuiMode {
    /// No display.
    #[default]
    None,
    /// The user's display.
    Shared,
    /// An X server of the container's own, in a window of the user's display where there is one.
    Isolated,
}

/// `--home[=ro|private]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HomeMode {
    /// The user's home directory, for writing.
    Shared,
    /// The user's home directory, read-only.
    ReadOnly,
    /// A home directory of the container's own that outlives it: a volume.
    Private,
}

/// A device by what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSelector {
    /// What was written, e.g. `usb:0403:6001` or `serial`.
    pub what: String,
    /// A path inside that always leads to it (`name=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Of the letters `rwm`.
    pub permissions: String,
}
