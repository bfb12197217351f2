//! The upper directory of a snapshot becomes a layer, by renaming.
//!
//! A snapshot must not lose what was written into it, wherever the process dies between the
//! renames. So a marker beside `upper` says what is going on before the first one:
//! ```text
//! snapshots/<key>/committing   {"staging": <name>, "chain": <chain id>}
//! ```
//! Whoever finds one, opening the snapshot or collecting, brings it to an end ([`Store::settle`]):
//! - `upper` is there: it was not taken, or was given back, or all is done;
//! - it lies in the staging directory: it is given back;
//! - the layer is there: the snapshot goes on top of it with an empty `upper`.

use std::os::fd::OwnedFd;

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::ChainId;
use robot_env_sys::CallError;
use robot_env_sys::fs::{self, Durability};
use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::snapshot::{adopt_root, path_of, what};
use crate::{LayerRecord, SnapshotKey, StagedLayer, Store, failpoint};

/// What the marker says.
#[derive(Serialize, Deserialize)]
struct Committing {
    staging: String,
    chain: ChainId,
}

pub(crate) fn marker_of(key: &SnapshotKey) -> String {
    format!("{}/committing", path_of(key))
}

impl Store {
    /// Commits the upper directory of a snapshot as the layer `record` on top of the snapshot's
    /// layers, with the recipe that was written into `staged` (whose own tree is empty and not
    /// used). It costs a few renames and one sync of the file system. Afterwards the snapshot
    /// stands on the new layer and has an empty upper directory, so that what is mounted from it
    /// shows the same files. Nothing of it may be mounted meanwhile.
    ///
    /// False when the layer was in the store already: the snapshot is then as it was.
    ///
    /// Errors: `Conflict` when the layer's parent is not the snapshot's; `NoSpace`. The snapshot is
    /// then as it was.
    pub fn adopt_upper(
        &self,
        key: &SnapshotKey,
        mut staged: StagedLayer<'_>,
        record: LayerRecord,
    ) -> Result<bool> {
        let chain = record.chain_id.clone();
        self.check_parent(key, &record)?;
        if self.layer(&chain).is_ok_and(|known| known.is_some()) {
            return Ok(false);
        }
        // The collector comes when the snapshot is whole again.
        let _lock = self.lock_shared()?;
        let marker = Committing { staging: staged.name().to_owned(), chain };
        self.write_record(&what(key), &marker_of(key), &marker, Durability::Sync)?;
        failpoint!("store.adopt.marked");
        staged.take_upper(key)?;
        failpoint!("store.adopt.taken");
        let committed = self.commit_layers(vec![(staged, record)]);
        failpoint!("store.adopt.committed");
        // Whether or not it was committed, the snapshot is made whole.
        let settled = self.settle(key);
        committed?;
        settled
    }

    /// Like [`Store::adopt_upper`], for a snapshot that nobody needs afterwards: it has no upper directory
    /// then, and can only be removed. Nothing is waited for to be on the disk: the layer counts as
    /// damaged should the machine go down before an image with it is put ([`Store::put_image`]), which
    /// costs a step of a build, and nothing else.
    ///
    /// Errors: as those of [`Store::adopt_upper`].
    pub fn consume_upper(
        &self,
        key: &SnapshotKey,
        mut staged: StagedLayer<'_>,
        record: LayerRecord,
    ) -> Result<bool> {
        self.check_parent(key, &record)?;
        if self.layer(&record.chain_id).is_ok_and(|known| known.is_some()) {
            return Ok(false);
        }
        let _lock = self.lock_shared()?;
        staged.take_upper(key)?;
        failpoint!("store.consume.taken");
        self.commit_staged(vec![(staged, record)], Durability::NoSync)?;
        Ok(true)
    }

    fn check_parent(&self, key: &SnapshotKey, record: &LayerRecord) -> Result<()> {
        let snapshot = self
            .snapshot_record(key)?
            .ok_or_else(|| Error::not_found(format!("cannot commit {}: there is none", what(key))))?;
        if snapshot.parent == record.parent {
            return Ok(());
        }
        Err(Error::new(
            Kind::Conflict,
            format!("cannot commit {}: the layer belongs on top of another one", what(key)),
        ))
    }

    /// Ends what a marker says was begun. True when the snapshot went on top of the new layer. The
    /// caller holds the store's lock.
    pub(crate) fn settle(&self, key: &SnapshotKey) -> Result<bool> {
        let Some(marker) = self.read_record::<Committing>(&what(key), &marker_of(key))? else {
            return Ok(false);
        };
        let failed = |error: CallError| Error::from(error).within(format!("cannot settle {}", what(key)));
        let dir = fs::open_dir_at(&self.root, path_of(key)).map_err(failed)?;
        let mut adopted = false;
        if !exists(&dir, "upper") {
            let staging = self.dir("staging")?;
            if let Ok(staged) = fs::open_readable_dir_at(&staging, &marker.staging)
                && exists(&staged, "fs")
            {
                if rustix::fs::flock(&staged, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN) {
                    return Err(Error::new(
                        Kind::Conflict,
                        format!("cannot use {}: another process commits it", what(key)),
                    ));
                }
                fs::rename_noreplace(&staged, "fs", &dir, "upper").map_err(failed)?;
            } else if self.read_layer(&marker.chain)?.is_some() {
                self.move_on_top(key, &dir, &marker.chain)?;
                adopted = true;
            } else {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("cannot use {}: what was written into it is gone", what(key)),
                ));
            }
        }
        self.remove_record(&what(key), &marker_of(key), Durability::Sync)?;
        Ok(adopted)
    }

    /// The snapshot's upper directory is the layer `chain` now.
    fn move_on_top(&self, key: &SnapshotKey, dir: &OwnedFd, chain: &ChainId) -> Result<()> {
        let mut record = self
            .snapshot_record(key)?
            .ok_or_else(|| Error::not_found(format!("cannot settle {}: there is none", what(key))))?;
        if record.parent.as_ref() != Some(chain) {
            record.layers.push(chain.clone());
            record.parent = Some(chain.clone());
            self.write_record(
                &what(key),
                &format!("{}/snapshot.json", path_of(key)),
                &record,
                Durability::Sync,
            )?;
            failpoint!("store.adopt.moved");
        }
        // It appears with its attributes.
        match rustix::fs::mkdirat(dir, "upper.new", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(CallError::new("mkdir(upper.new)", errno).into()),
        }
        adopt_root(dir, "upper.new", Some(&self.layer_dir(chain)?))?;
        rustix::fs::renameat(dir, "upper.new", dir, "upper")
            .map_err(|errno| CallError::new("rename(upper.new -> upper)", errno).into())
    }
}

fn exists(dir: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
