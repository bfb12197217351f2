//! After the last container: its networks' bridges and rules go, off everybody's path.
//!
//! The monitor of the container that left last waits a while, because the next container may be
//! about to start, and then takes them away. Should it be killed meanwhile, the next command that
//! looks at containers finds the networks' files without anybody in them and without somebody who
//! waits, and does it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use robot_env_diag::Result;
use robot_env_network::reconcile::{Report, Wanted, reconcile};
use robot_env_spec::ContainerId;
use robot_env_sys::lock;

use super::live::Idle;
use crate::engine::Engine;
use crate::rootless::network::Abandonment;

/// How long a bridge stays after its last container.
const PATIENCE: Duration = Duration::from_secs(5);
/// A network's file is not longer than this when nobody is in it.
const NOBODY: u64 = 256;

/// What [`Engine::reload_networks`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Bridges that were missing and are there again.
    pub bridges: Vec<String>,
    /// Whether rules were missing or changed.
    pub rules: bool,
    /// Other programs' rules that may stop what our networks forward, in words.
    pub obstacles: Vec<String>,
}

impl From<Report> for Reloaded {
    fn from(report: Report) -> Reloaded {
        Reloaded {
            bridges: report.made,
            rules: report.firewall == robot_env_network::firewall::Found::Restored,
            obstacles: report.obstacles.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Engine {
    /// Puts the bridges and rules of the running containers' networks back, for whoever has flushed
    /// them (`nft flush ruleset`, a reload of a firewall).
    pub fn reload_networks(&self) -> Result<Reloaded> {
        Ok(self.lock_networks()?.in_place(|networks| networks.mend(Idle::Stays))?.into())
    }

    /// Takes the bridges and rules of networks away that nobody is in, now.
    pub fn retire_idle_networks(&self) -> Result<()> {
        if self.live_ids()?.is_empty() {
            return Ok(());
        }
        self.lock_networks()?.in_place(|networks| networks.mend(Idle::Goes)).map(drop)
    }

    /// For a monitor at its very end, when it holds nothing any more: waits until nobody has used a
    /// network for a while, and takes their bridges and rules away. Returns at once while somebody
    /// is in a network, or waits already.
    pub(crate) fn rest_networks(&self) {
        if !self.are_idle() {
            return;
        }
        let Some(resting) = self.try_rest() else { return };
        let bridges: Vec<String> = self
            .network_records()
            .unwrap_or_default()
            .into_iter()
            .map(|record| record.network.bridge)
            .filter(|bridge| !bridge.is_empty())
            .collect();
        let tag = self.network_tag();
        let way_out = Abandonment::of(&self.paths.live_networks());
        loop {
            std::thread::sleep(PATIENCE);
            if !self.paths.live_networks().exists() {
                // The run root is gone, and with it everybody who could have been in one.
                if self.rootless {
                    way_out.run();
                    return;
                }
                let wanted = Wanted { tag: tag.as_deref(), bridges: &bridges, ..Wanted::default() };
                let _ = reconcile(&wanted);
                return;
            }
            let Ok(networks) = self.lock_networks() else { return };
            if !self.are_idle() {
                // Let go before the networks are: whoever leaves last then finds nobody resting.
                drop(resting);
                return;
            }
            if self.last_use().is_none_or(|ago| ago >= PATIENCE) {
                let _ = networks.in_place(|networks| networks.mend(Idle::Goes));
                return;
            }
        }
    }

    /// What those who were killed have left in networks, and of the rest above. `active` are the
    /// containers that have a monitor for certain.
    pub(crate) fn tend_networks(&self, active: &BTreeSet<ContainerId>) {
        for network in self.live_ids().unwrap_or_default() {
            let live = self.live_network(&network).ok().flatten().unwrap_or_default();
            let dead = |id: &String| {
                id.parse().is_ok_and(|id| !active.contains(&id) && !self.records.has_monitor(&id))
            };
            if live.endpoints.keys().any(dead)
                && let Ok(networks) = self.lock_networks()
            {
                let _ = networks.in_place(|networks| networks.forget_dead(&network));
            }
        }
        if self.are_idle() && self.try_rest().is_some() {
            let _ = self.retire_idle_networks();
        }
    }

    /// Whether there are networks in the kernel, and nobody is in them.
    fn are_idle(&self) -> bool {
        let sizes = self.live_files();
        !sizes.is_empty() && sizes.iter().all(|metadata| metadata.len() <= NOBODY)
    }

    fn last_use(&self) -> Option<Duration> {
        let now = SystemTime::now();
        let ages = self.live_files().into_iter().filter_map(|m| now.duration_since(m.modified().ok()?).ok());
        ages.min()
    }

    fn live_files(&self) -> Vec<std::fs::Metadata> {
        let Ok(ids) = self.live_ids() else { return Vec::new() };
        let path = |id: &String| self.paths.live_networks().join(format!("{id}.json"));
        ids.iter().filter_map(|id| std::fs::metadata(path(id)).ok()).collect()
    }

    fn try_rest(&self) -> Option<OwnedFd> {
        let path = self.paths.live_networks().join("rest.lock");
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
        lock::try_lock_exclusive(&file).ok()?.then(|| file.into())
    }
}
