//! Who asks, and from which desktop: the part of a front's surroundings that a start needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The variables that matter here; no other leaves the front.
const VARIABLES: [&str; 20] = [
    "DISPLAY",
    "XAUTHORITY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "XDG_SESSION_TYPE",
    "XDG_CONFIG_HOME",
    "PULSE_SERVER",
    "PULSE_COOKIE",
    "PIPEWIRE_REMOTE",
    "SSH_AUTH_SOCK",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "SUDO_USER",
    "SUDO_UID",
    "SUDO_GID",
    DRIVER_ROOT,
    "LIBGL_ALWAYS_SOFTWARE",
];

/// Names a directory that has the GPU driver with its `dev`, `proc` and `sys`, instead of `/`.
pub const DRIVER_ROOT: &str = "ROBOT_ENV_DRIVER_ROOT";

/// A user's session, as the command in front saw it. It travels to the container's monitor with the
/// order to start and is in no record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Variables by name.
    pub variables: BTreeMap<String, String>,
    /// The user's id outside of any namespace of the engine's.
    pub uid: u32,
    /// The user's group outside.
    pub gid: u32,
    /// The user's further groups.
    pub groups: Vec<u32>,
}

impl Session {
    /// A session of what a process has around it.
    pub fn of<'a>(
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
        (uid, gid): (u32, u32),
        groups: Vec<u32>,
    ) -> Session {
        let variables = environment
            .into_iter()
            .filter(|(name, value)| VARIABLES.contains(name) && !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Session { variables, uid, gid, groups }
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}
