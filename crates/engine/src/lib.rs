//! Containers: their records, their monitors, their events.
//!
//! [`Engine`] is what a front end holds. It makes records, and starts one monitor a running
//! container: a process of its own, which makes the container's process, moves its streams and
//! writes down how it ended. Everything else is done by whoever asks, on the records and the kernel.
//!
//! This crate deliberately knows no Docker JSON and no command line.
//!
//! The tree on disk is drawn at [`Paths`]. Locks: one open-file-description lock a container for
//! commands that change it, never held while waiting for the container; one that its monitor holds
//! as long as it lives.

pub mod apparmor;
pub mod attach;
mod commit;
mod control;
mod copy;
mod create;
mod defaults;
mod device;
mod engine;
mod events;
mod exec;
mod facts;
mod fsck;
mod image_removal;
mod launch;
mod limits;
mod logs;
mod machine;
mod monitor;
mod mounts;
mod names;
mod network;
mod paths;
mod prune;
mod reconcile;
pub mod record;
mod records;
mod remove;
mod resolve;
mod rootfs;
pub mod rootless;
mod start;
mod step;
pub mod stream;
mod top;
mod undo;
mod update;
mod usage;
mod userns;
mod view;
mod volume;
mod watch;
mod written;

pub use commit::CommitRequest;
pub use control::StopOptions;
pub use copy::{ContainerFiles, PathStat};
pub use create::{CreateRequest, Created};
pub use defaults::{Given, apply_defaults};
pub use engine::{Engine, EngineOptions};
pub use events::{Event, EventReader, append};
pub use exec::{ExecRequest, ExecStarted};
pub use fsck::Findings;
pub use image_removal::{ImageGone, ImageRemoval};
pub use launch::MONITOR;
pub use limits::Unlimited;
pub use logs::{LogEntry, LogOptions, LogReader, LogStep};
pub use machine::Machine;
pub use monitor::main as monitor;
pub use network::{
    LiveEndpoint, NetworkDefaults, NetworkRecord, NetworkRequest, PREDEFINED, Place, Reloaded,
};
pub use paths::Paths;
pub use prune::{DiskUsage, HoldOff, ImageUsage, Pruned, VolumeUsage};
pub use records::Container;
pub use remove::RemoveContainerOptions;
pub use robot_env_device::Session;
pub use start::{Ahead, Started};
pub use step::{StepRequest, StepResult};
pub use top::Processes;
pub use undo::{Removed, RemovedKind};
pub use update::UpdateRequest;
pub use usage::{Interface, Sample, has_controller, has_cpu_bandwidth, has_swap_limit};
pub use userns::check_shown_owners;
pub use view::Access;
pub use volume::{Volume, VolumeRequest};
