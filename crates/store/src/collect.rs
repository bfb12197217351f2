//! Collection: what nothing refers to goes to the trash.

use std::collections::BTreeSet;
use std::time::Duration;

use robot_env_diag::{Kind, Result};
use robot_env_oci::{ChainId, Digest, LayerChain};
use robot_env_sys::fs;
use robot_env_sys::lock;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::fsck::{Damage, Subject};
use crate::lease::{self, Pins};
use crate::{Store, digest_of_hex, failpoint};

/// What [`Store::collect`] may take.
#[derive(Clone, Debug)]
pub struct CollectOptions {
    /// Layers that stay with all those below them, although nothing in the store refers to them.
    pub keep: Vec<ChainId>,
    /// Blobs that stopped arriving longer than this ago go; `None` leaves them all for a resume.
    pub partial_age: Option<Duration>,
}

impl Default for CollectOptions {
    fn default() -> Self {
        CollectOptions { keep: Vec::new(), partial_age: Some(Duration::from_secs(24 * 60 * 60)) }
    }
}

/// What [`Store::collect`] took. Space comes back when the trash is emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers that went.
    pub layers: Vec<ChainId>,
    /// Layers that nothing holds but removed images that can come back ([`Store::keep_image`]), with
    /// the bytes of their files.
    pub kept: Vec<(ChainId, u64)>,
    /// Documents and blobs that went.
    pub content: Vec<Digest>,
    /// Staged layers, half-made snapshots, files in the making and partial blobs of dead processes.
    pub leftovers: usize,
    /// Bytes of the layers' and the content's files.
    pub bytes: u64,
    /// Damage that hides what is still referred to: while there is any, no layer and no content goes.
    pub damage: Vec<Damage>,
}

#[derive(Default)]
struct Reached {
    layers: BTreeSet<ChainId>,
    /// Layers that a snapshot stands on; they may be mounted.
    standing: BTreeSet<ChainId>,
    content: BTreeSet<Digest>,
    /// Layers that a removed image holds that can come back, and maybe others, too.
    kept: BTreeSet<ChainId>,
    damage: Vec<Damage>,
}

impl Store {
    /// Moves to the trash what no image, snapshot, lease or option refers to, and what dead
    /// processes left behind. Nothing that a living process uses or is about to use goes.
    pub fn collect(&self, options: &CollectOptions) -> Result<Collected> {
        let _lock = self.lock_exclusive()?;
        let mut collected = Collected::default();
        // Before anything is swept: what was written into a snapshot may lie in the staging directory.
        let unsettled = self.settle_all()?;
        if unsettled.is_empty() {
            self.collect_leftovers(options, &mut collected)?;
        }
        let pins = lease::living(self)?;
        let mut reached = self.reach(options, pins)?;
        reached.damage.extend(unsettled);
        if reached.damage.is_empty() {
            self.collect_layers(&reached, &mut collected)?;
            self.collect_content(&reached, &mut collected)?;
        }
        collected.damage = reached.damage;
        Ok(collected)
    }

    /// Ends the commits of snapshots that were killed; those that cannot be ended are damage.
    fn settle_all(&self) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        for key in self.snapshot_keys()? {
            if let Err(error) = self.settle(&key) {
                damage.push(Damage::new(Subject::Snapshot, key.to_string(), &error));
            }
        }
        Ok(damage)
    }

    fn reach(&self, options: &CollectOptions, pins: Pins) -> Result<Reached> {
        let mut reached = Reached::default();
        reached.content.extend(pins.content);
        reached.layers.extend(self.cached_layers()?);
        for chain in pins.layers.iter().chain(&options.keep) {
            reached.layers.insert(chain.clone());
            if let Ok(Some(layer)) = self.read_layer(chain) {
                reached.layers.extend(layer.ancestors);
            }
        }
        for id in self.image_ids()? {
            reached.content.insert(id.digest().clone());
            let record = self.image(&id);
            if let Ok(Some(record)) = &record {
                reached.content.extend(record.manifest.iter().map(|manifest| manifest.digest.clone()));
                reached.layers.extend(record.layers.iter().cloned());
                continue;
            }
            // The config says the same about the layers; without both, nobody knows.
            match (self.config(&id), record) {
                (Ok(config), _) => {
                    let chain: LayerChain = config.value().chain();
                    reached.layers.extend(chain.links().iter().map(|(_, chain)| chain.clone()));
                }
                (Err(_), Err(error)) => {
                    reached.damage.push(Damage::new(Subject::Image, id.to_string(), &error));
                }
                (Err(_), Ok(_)) => {}
            }
        }
        for name in self.names()? {
            reached.content.extend(name.manifest_digest);
        }
        for kept in self.kept_images()? {
            reached.content.insert(kept.image.id.digest().clone());
            reached.content.extend(kept.image.manifest.map(|manifest| manifest.digest));
            reached.content.extend(kept.names.into_iter().filter_map(|name| name.manifest_digest));
            reached.kept.extend(kept.image.layers);
        }
        for key in self.snapshot_keys()? {
            match self.snapshot_record(&key) {
                Ok(Some(record)) => {
                    reached.standing.extend(record.layers.iter().cloned());
                    reached.layers.extend(record.layers);
                }
                Ok(None) => {}
                Err(error) => reached.damage.push(Damage::new(Subject::Snapshot, key.to_string(), &error)),
            }
        }
        Ok(reached)
    }

    fn collect_layers(&self, reached: &Reached, collected: &mut Collected) -> Result<()> {
        let layers = self.dir("layers")?;
        for chain in self.layers()? {
            if reached.layers.contains(&chain) {
                continue;
            }
            let bytes = self.read_layer(&chain).ok().flatten().map_or(0, |layer| layer.content_size);
            if reached.kept.contains(&chain) {
                collected.kept.push((chain, bytes));
                continue;
            }
            collected.bytes += bytes;
            self.trash(&layers, chain.hex())?;
            collected.layers.push(chain);
            failpoint!("store.collect.layer");
        }
        let damaged = self.dir("damaged")?;
        for name in fs::names(&damaged)? {
            let chain = name.split('.').next().and_then(digest_of_hex).map(ChainId);
            if chain.is_none_or(|chain| !reached.standing.contains(&chain)) {
                self.trash(&damaged, &name)?;
                collected.leftovers += 1;
            }
        }
        Ok(())
    }

    fn collect_content(&self, reached: &Reached, collected: &mut Collected) -> Result<()> {
        for algorithm in ["sha256", "sha512"] {
            let dir = self.dir(&format!("content/{algorithm}"))?;
            for name in fs::names(&dir)? {
                let digest = digest_of_hex(&name);
                if digest.as_ref().is_some_and(|digest| reached.content.contains(digest)) {
                    continue;
                }
                let size = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(0, |stat| stat.st_size as u64);
                if rustix::fs::unlinkat(&dir, &name, AtFlags::empty()).is_ok() {
                    collected.bytes += size;
                    collected.content.extend(digest);
                }
                failpoint!("store.collect.content");
            }
        }
        Ok(())
    }

    fn collect_leftovers(&self, options: &CollectOptions, collected: &mut Collected) -> Result<()> {
        // Records grow here under the shared lock, so with the exclusive one every file is stale;
        // a directory is stale when nobody holds its lock.
        let staging = self.dir("staging")?;
        for name in fs::names(&staging)? {
            if let Ok(dir) = fs::open_readable_dir_at(&staging, &name)
                && rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN)
            {
                continue;
            }
            self.trash(&staging, &name)?;
            collected.leftovers += 1;
        }
        // A snapshot without a record: its maker died.
        let snapshots = self.dir("snapshots")?;
        for name in fs::names(&snapshots)? {
            let record =
                rustix::fs::statat(&snapshots, format!("{name}/snapshot.json"), AtFlags::SYMLINK_NOFOLLOW);
            if record.is_err_and(|errno| matches!(errno, Errno::NOENT | Errno::NOTDIR)) {
                self.trash(&snapshots, &name)?;
                collected.leftovers += 1;
            }
        }
        if let Some(age) = options.partial_age {
            collected.leftovers += self.collect_partial(age)?;
        }
        Ok(())
    }

    fn collect_partial(&self, age: Duration) -> Result<usize> {
        let partial = self.dir("content/partial")?;
        let now = std::time::SystemTime::now();
        let mut taken = 0;
        for name in fs::names(&partial)? {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(&partial, &name, flags, Mode::empty()) else { continue };
            if !lock::try_lock_exclusive(&fd)? {
                continue;
            }
            let file = std::fs::File::from(fd);
            // A clock that was set back makes it look new: it then goes at some later time.
            let idle =
                file.metadata().and_then(|m| m.modified()).ok().and_then(|at| now.duration_since(at).ok());
            if idle.is_some_and(|idle| idle >= age) {
                match rustix::fs::unlinkat(&partial, &name, AtFlags::empty()) {
                    Ok(()) => taken += 1,
                    Err(errno) if Kind::of_errno(errno.raw_os_error()) == Kind::NotFound => {}
                    Err(errno) => {
                        return Err(robot_env_sys::CallError::new(format!("unlink({name})"), errno).into());
                    }
                }
            }
        }
        Ok(taken)
    }
}
