//! What a directory cannot show.

use std::collections::BTreeMap;
use std::path::PathBuf;

use robot_env_config::Finding;

/// Live values about the caller and the machine, which no file below the host's root has.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The user's number outside of any namespace.
    pub uid: u32,
    /// The user's name; empty where it is not known.
    pub user: String,
    /// The numbers of the groups that the process has.
    pub groups: Vec<u32>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Hard limits by their kernel names, `rtprio`, `memlock`; absent: unlimited.
    pub hard_limits: BTreeMap<String, u64>,
    /// Where images are kept.
    pub data_root: PathBuf,
    /// Bytes that are free there, and all.
    pub space: Option<(u64, u64)>,
    /// Inodes that are free there, and all; all is 0 where the file system has no limit.
    pub inodes: Option<(u64, u64)>,
    /// The mirrors of the configuration, as they answered.
    pub mirrors: Vec<Mirror>,
    /// What is wrong in the configuration.
    pub configuration: Vec<Finding>,
    /// Devices that are there and that the caller may not open.
    pub closed: Vec<&'static str>,
    /// The program's own path.
    pub program: PathBuf,
}

/// A mirror of a registry.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// As it is configured.
    pub name: String,
    /// Which registry it stands for.
    pub registry: String,
    /// The milliseconds of its answer, or why there was none.
    pub answer: Result<u128, String>,
}

impl Live {
    /// Whether the caller is an ordinary user.
    pub fn is_user(&self) -> bool {
        self.uid != 0
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}
