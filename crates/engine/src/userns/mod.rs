//! Containers with a user namespace of their own: which ids they get, and how the image's files get
//! these owners without being copied or changed.
//!
//! The layers of an image belong to the engine's ids, and every container sees the same layers. One
//! whose root is another id needs to see other owners. Where the kernel can shift them (mounts with an
//! id map, for root), it does; elsewhere ([`view`]) a small file server of ours shows the layers
//! read-only, with the owners translated, and the kernel's overlay stacks a writable layer on top.
//! What the container writes, it writes by its own ids; whoever reads that from outside ([`commit`],
//! `diff`, `export`) sees it through the same translation the other way round.
//!
//! [`commit`]: crate::Engine::commit

mod choice;
mod server;
pub(crate) mod view;
mod wire;

use std::os::fd::{AsFd, OwnedFd};

use robot_env_diag::{Error, IoContext, Result};
use robot_env_spec::{HostFacts, UserMap};
use robot_env_store::Snapshot;
use robot_env_sys::mount::{self, OverlayRequest};
use robot_env_sys::process;
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::record::ContainerRecord;

pub(crate) use choice::check_user;
pub use view::check as check_shown_owners;

/// What is known of the host, for the plan of a container in a user namespace of its own.
pub(crate) fn facts(mut host: HostFacts, map: Option<&UserMap>) -> HostFacts {
    if map.is_some() {
        host.rootless = true;
        host.may_raise_limits = false;
    }
    host
}

/// The container's ids, where files have to be shown with other owners. An engine with a single id has
/// only that one to show: whatever the container calls it, all files are that id's.
fn shift(record: &ContainerRecord) -> Option<&UserMap> {
    record.user_map.as_ref().filter(|map| map.has_root() && !map.is_identity())
}

/// Whether the container sees other owners than the engine does.
pub(crate) fn shifts(record: &ContainerRecord) -> bool {
    shift(record).is_some()
}

/// The owner, in the engine's ids, of what belongs to `uid` and `gid` in the container.
pub(crate) fn owner(record: &ContainerRecord, uid: u32, gid: u32) -> (u32, u32) {
    match shift(record) {
        None => (uid, gid),
        Some(map) => {
            let (user, group) = map.outside(uid, gid);
            (user.unwrap_or(0), group.unwrap_or(0))
        }
    }
}

/// The other way round: who the container sees as the owner of what belongs to these ids of the
/// engine's.
pub(crate) fn inside(record: &ContainerRecord, uid: u32, gid: u32) -> (u32, u32) {
    const NOBODY: u32 = 65534;
    match shift(record) {
        None => (uid, gid),
        Some(map) => {
            let (user, group) = map.inverse().outside(uid, gid);
            (user.unwrap_or(NOBODY), group.unwrap_or(NOBODY))
        }
    }
}

/// While it lives, files that this thread makes belong to the container's root.
pub(crate) struct AsRoot(bool);

impl AsRoot {
    pub(crate) fn of(record: &ContainerRecord) -> Result<AsRoot> {
        let Some(map) = shift(record) else { return Ok(AsRoot(false)) };
        let (user, group) = map.outside(0, 0);
        process::set_file_owner(user.unwrap_or(0), group.unwrap_or(0))?;
        Ok(AsRoot(true))
    }
}

impl Drop for AsRoot {
    fn drop(&mut self) {
        if self.0 {
            let _ = process::set_file_owner(0, 0);
        }
    }
}

impl Engine {
    /// Gives the root directory of a new snapshot to the container's own ids.
    pub(crate) fn adopt_snapshot(record: &ContainerRecord, snapshot: &Snapshot) -> Result<()> {
        let Some(map) = shift(record) else { return Ok(()) };
        let stat = rustix::fs::fstat(&snapshot.upper).io_context(|| "fstat(upper)".into())?;
        let (user, group) = map.outside(stat.st_uid, stat.st_gid);
        let (user, group) = (user.unwrap_or(0), group.unwrap_or(0));
        rustix::fs::chownat(
            &snapshot.upper,
            "",
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            AtFlags::EMPTY_PATH,
        )
        .io_context(|| format!("fchownat(upper, {user}, {group})"))
    }

    /// The layers of a container's snapshot with the owners that the container is to see.
    pub(crate) fn shifted_lowers(
        &self,
        record: &ContainerRecord,
        snapshot: &Snapshot,
    ) -> Result<Option<view::Shown>> {
        let Some(map) = shift(record) else { return Ok(None) };
        let trees: Vec<_> = snapshot.lowers.iter().map(AsFd::as_fd).collect();
        view::show(&trees, map, view::Content::Fixed, self.rootless).map(Some)
    }

    /// What a container has written, with the owners that it has given it.
    pub(crate) fn unshifted_upper(
        &self,
        record: &ContainerRecord,
        snapshot: &Snapshot,
    ) -> Result<Option<view::Shown>> {
        let Some(map) = shift(record) else { return Ok(None) };
        let trees = [snapshot.upper.as_fd()];
        view::show(&trees, &map.inverse(), view::Content::Changing, self.rootless).map(Some)
    }

    /// An overlay, with what is shown among its layers.
    pub(crate) fn overlay_of(
        &self,
        request: &OverlayRequest<'_>,
        shown: Option<&view::Shown>,
    ) -> Result<OwnedFd> {
        match shown {
            None => mount::overlay(request).map_err(|error| match error.errno() {
                Errno::PERM if self.rootless && self.host_facts().kernel < (5, 11) => Error::from(error)
                    .with_hint("Linux before 5.11 lets only root mount overlays: run it with sudo"),
                _ => Error::from(error),
            }),
            Some(shown) => shown.overlay(request, self.paths.run_root()),
        }
    }
}
