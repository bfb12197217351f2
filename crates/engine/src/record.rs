//! A container's record: what it is, and what has become of it.

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ChainId, ImageId, RuntimeConfig};
use robot_env_spec::{ContainerId, ContainerSpec, Propagation, UserMap};
use serde::{Deserialize, Serialize};

/// What a container is. Written when it is created, renamed or updated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// What was asked for, with the image's labels and volumes added.
    pub spec: ContainerSpec,
    /// The image it was created from.
    pub image: ImageId,
    /// The image's layers.
    pub chain: Option<ChainId>,
    /// The image's config at that time.
    pub image_config: RuntimeConfig,
    /// The volumes, binds and tmpfs it mounts, with names given to anonymous volumes.
    pub mounts: Vec<MountPoint>,
    /// Its ids, where it has a user namespace of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_map: Option<UserMap>,
    /// Whether whoever made it was about to start it, with its lock held from the first moment on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starts_at_once: bool,
}

impl ContainerRecord {
    /// The signal that asks the container to stop.
    pub fn stop_signal(&self) -> &str {
        self.spec.stop_signal.as_deref().filter(|s| !s.is_empty()).unwrap_or_else(|| {
            if self.image_config.stop_signal.is_empty() { "SIGTERM" } else { &self.image_config.stop_signal }
        })
    }

    /// The program and its arguments, as the image and the spec make them.
    pub fn command_line(&self) -> Vec<String> {
        let mut line = match &self.spec.entrypoint {
            Some(entrypoint) => entrypoint.clone(),
            None => self.image_config.entrypoint.clone().unwrap_or_default(),
        };
        match (&self.spec.command, &self.spec.entrypoint) {
            (Some(command), _) => line.extend(command.iter().cloned()),
            (None, None) => line.extend(self.image_config.cmd.iter().flatten().cloned()),
            (None, Some(_)) => {}
        }
        line
    }
}

/// A mount that was resolved when the container was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub kind: String,
    /// The volume's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Whether the volume was made for this container alone and goes with it.
    #[serde(default)]
    pub anonymous: bool,
    /// Path on the host; empty for a tmpfs.
    #[serde(default)]
    pub source: String,
    /// Path inside the container.
    pub target: String,
    /// Whether it is read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Mount propagation (binds).
    #[serde(default)]
    pub propagation: Propagation,
    /// The mount as it was asked for; absent for volumes of the image and of other containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<robot_env_spec::MountSpec>,
}

/// What has become of a container. Written at every transition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// Where it is in its life.
    pub state: State,
    /// Restarts by the policy since the user last started it.
    #[serde(default)]
    pub restart_count: u32,
    /// Whether the user stopped it by hand (`unless-stopped`).
    #[serde(default)]
    pub stopped_by_user: bool,
    /// Whether it is frozen for a commit, which then holds the lock of [`Engine::commit`], and not
    /// because the user said so.
    ///
    /// [`Engine::commit`]: crate::Engine::commit
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub committing: bool,
    /// Health, where there is a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum State {
    /// Never started, or its last start failed before the program ran.
    #[default]
    Created,
    /// A start that failed: what went wrong.
    Failed {
        /// The exit code that the failure stands for: 126, 127 or 128.
        code: i32,
        /// The error's text.
        error: String,
        /// When.
        finished: Timestamp,
    },
    /// Its process runs.
    Running {
        /// The process.
        process: ProcessRecord,
        /// Since when.
        started: Timestamp,
        /// Whether it is frozen.
        #[serde(default)]
        paused: bool,
    },
    /// The process ended and the restart policy waits to start it again.
    Restarting {
        /// How the last process ended.
        exit: ExitRecord,
    },
    /// Its process ended.
    Exited {
        /// How.
        exit: ExitRecord,
    },
}

/// A process and what is needed to find it again safely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its pid as the engine sees it.
    pub pid: i32,
    /// Clock ticks after boot at which it started, so that a reused pid is noticed.
    pub start_time: u64,
    /// The monitor's pid.
    pub monitor: i32,
    /// Its cgroup, as it is below the hierarchy's mount point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The OCI runtime that made it; absent: our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code; 128 + n for signal n.
    pub code: i32,
    /// Whether the kernel killed it for memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it had started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// What else went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Health as the last checks saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five checks, oldest first.
    pub log: Vec<HealthResult>,
}

/// A verdict on health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No verdict so far.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// Too many failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// The word that lists and events use.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Its exit code; -1 for a time-out.
    pub exit_code: i32,
    /// The first 4 KiB of its output.
    pub output: String,
}

impl State {
    /// The word that lists show.
    pub fn word(&self) -> &'static str {
        match self {
            State::Created | State::Failed { .. } => "created",
            State::Running { paused: true, .. } => "paused",
            State::Running { .. } => "running",
            State::Restarting { .. } => "restarting",
            State::Exited { .. } => "exited",
        }
    }

    /// Whether a process exists (paused ones too).
    pub fn is_running(&self) -> bool {
        matches!(self, State::Running { .. })
    }

    /// Whether a monitor cares for the container.
    pub fn is_active(&self) -> bool {
        matches!(self, State::Running { .. } | State::Restarting { .. })
    }

    /// The process, if there is one.
    pub fn process(&self) -> Option<&ProcessRecord> {
        match self {
            State::Running { process, .. } => Some(process),
            _ => None,
        }
    }

    /// The last exit, if there was one.
    pub fn exit(&self) -> Option<&ExitRecord> {
        match self {
            State::Exited { exit } | State::Restarting { exit } => Some(exit),
            _ => None,
        }
    }

    /// The exit code that `wait` and `inspect` report.
    pub fn exit_code(&self) -> i32 {
        match self {
            State::Failed { code, .. } => *code,
            State::Exited { exit } | State::Restarting { exit } => exit.code,
            _ => 0,
        }
    }

    /// The state with the process frozen or thawed.
    pub fn with_paused(&self, id: &str, want: bool) -> Result<State> {
        match self {
            State::Running { process, started, paused } if *paused != want => {
                Ok(State::Running { process: process.clone(), started: *started, paused: want })
            }
            State::Running { .. } => Err(Error::new(
                Kind::Conflict,
                if want {
                    format!("container {id} is already paused")
                } else {
                    format!("container {id} is not paused")
                },
            )),
            _ => Err(Error::new(Kind::Conflict, format!("container {id} is not running"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(spec: ContainerSpec, image: RuntimeConfig) -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::from_random([1; 32]),
            name: "a".into(),
            created: Timestamp::UNIX_EPOCH,
            spec,
            image: ImageId(robot_env_oci::Digest::of(b"")),
            chain: None,
            image_config: image,
            mounts: Vec::new(),
            user_map: None,
            starts_at_once: false,
        }
    }

    #[test]
    fn the_command_line_follows_dockers_rules() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let image =
            RuntimeConfig { entrypoint: Some(words("e 1")), cmd: Some(words("c 2")), ..Default::default() };
        for (entrypoint, command, want) in [
            (None, None, "e 1 c 2"),
            (None, Some("x"), "e 1 x"),
            (Some("n"), None, "n"),
            (Some("n"), Some("x"), "n x"),
            (Some(""), Some("x"), "x"),
        ] {
            let spec = ContainerSpec {
                entrypoint: entrypoint.map(words),
                command: command.map(words),
                ..Default::default()
            };
            assert_eq!(record(spec, image.clone()).command_line(), words(want));
        }
    }

    #[test]
    fn pausing_twice_is_a_conflict() {
        let process = ProcessRecord { pid: 1, start_time: 1, monitor: 2, cgroup: None, runtime: None };
        let running = State::Running { process, started: Timestamp::UNIX_EPOCH, paused: false };
        let paused = running.with_paused("x", true).unwrap();
        assert_eq!(paused.word(), "paused");
        assert!(paused.with_paused("x", true).is_err());
        assert_eq!(paused.with_paused("x", false).unwrap(), running);
        assert!(State::Created.with_paused("x", true).is_err());
    }
}
