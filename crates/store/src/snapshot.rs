//! Snapshots: what a container or a build step writes, over a chain of layers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::ChainId;
use robot_env_sys::CallError;
use robot_env_sys::fs::{self, Durability, Usage};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{SnapshotKey, Store, failpoint, now};

/// How a snapshot is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOptions {
    /// It will be mounted `volatile`: fast, and worthless after a power cut.
    #[serde(default)]
    pub volatile: bool,
    /// Preparing it waits for the disk, so that it exists after a power cut.
    #[serde(default)]
    pub durable: bool,
}

/// What is known of a snapshot: `snapshot.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its name.
    pub key: SnapshotKey,
    /// The topmost layer below it; `None` for an empty root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ChainId>,
    /// All layers below it, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<ChainId>,
    /// How it is kept.
    #[serde(default)]
    pub options: SnapshotOptions,
    /// When it was made, in nanoseconds since the Unix epoch.
    #[serde(default)]
    pub created: u64,
}

/// A snapshot, open: what an overlay mount needs.
#[derive(Debug)]
pub struct Snapshot {
    /// Its record.
    pub record: SnapshotRecord,
    /// The snapshot's own directory, by O_PATH; `upper` and `work` lie in it.
    pub dir: OwnedFd,
    /// What is written, by O_PATH.
    pub upper: OwnedFd,
    /// The overlay's work directory, by O_PATH.
    pub work: OwnedFd,
    /// The layers' trees, topmost first, by O_PATH.
    pub lowers: Vec<OwnedFd>,
    path: PathBuf,
}

impl Snapshot {
    /// The snapshot's own directory, for `inspect` and error texts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which `upper` lies under that name, for
    /// [`StagedLayer::from_directory`](crate::StagedLayer::from_directory).
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Removes the mark of an earlier volatile mount (`work/work/incompat/volatile/dirty`), on which
    /// the kernel refuses to mount again. True when there was one: what was written before then
    /// counts as whole only if the machine did not crash since.
    pub fn clear_volatile_mark(&self) -> Result<bool> {
        let mark = "work/incompat/volatile";
        if rustix::fs::statat(&self.work, mark, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Ok(false);
        }
        fs::remove_tree_at(&self.work, mark, || true)
            .map_err(|error| Error::from(error).within(format!("cannot reuse {}", what(&self.record.key))))?;
        Ok(true)
    }
}

pub(crate) fn path_of(key: &SnapshotKey) -> String {
    format!("snapshots/{key}")
}

pub(crate) fn what(key: &SnapshotKey) -> String {
    format!("snapshot `{key}`")
}

/// The container's `/` is the upper directory: it takes mode and owner of the image's.
pub(crate) fn adopt_root(dir: &OwnedFd, name: &str, lower: Option<&OwnedFd>) -> Result<()> {
    let (mode, owner) = match lower {
        None => (0o755, None),
        Some(lower) => {
            let stat = rustix::fs::fstat(lower).map_err(|errno| CallError::new("fstat(fs)", errno))?;
            let owner = (stat.st_uid, stat.st_gid);
            (stat.st_mode & 0o7777, (owner != (0, 0)).then_some(owner))
        }
    };
    if let Some((uid, gid)) = owner {
        // An owner that is not mapped here cannot be given; the directory then stays root's.
        let _ = rustix::fs::chownat(
            dir,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        );
    }
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(|errno| CallError::new(format!("chmod({name}, {mode:o})"), errno).into())
}

impl Store {
    /// Makes a snapshot on top of `parent`.
    ///
    /// Errors: `Conflict` when there is one of that name; `NotFound` or `Corrupt` naming a layer
    /// that is missing or damaged; `NoSpace`.
    pub fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&ChainId>,
        options: SnapshotOptions,
    ) -> Result<Snapshot> {
        let failed = |error: Error| self.explain(error, &what(key), &path_of(key), 4096);
        let _lock = self.lock_shared()?;
        let layers = match parent {
            None => Vec::new(),
            Some(parent) => {
                let layer = self.read_layer(parent)?.ok_or_else(|| {
                    Error::not_found(format!(
                        "cannot prepare {}: layer `{parent}` is not in the store",
                        what(key)
                    ))
                })?;
                let mut layers = layer.ancestors;
                layers.push(parent.clone());
                layers
            }
        };
        let lowers = self.open_lowers(&layers)?;
        let path = path_of(key);
        let made =
            |path: &str, errno| failed(CallError::new(format!("mkdir({})", self.shown(path)), errno).into());
        match rustix::fs::mkdirat(&self.root, &path, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("cannot prepare {}: it exists already", what(key)),
                ));
            }
            Err(errno) => return Err(made(&path, errno)),
        }
        let fill = || -> Result<Snapshot> {
            let dir = fs::open_dir_at(&self.root, &path)?;
            for name in ["upper", "work"] {
                rustix::fs::mkdirat(&dir, name, Mode::RWXU)
                    .map_err(|errno| made(&format!("{path}/{name}"), errno))?;
            }
            let upper = fs::open_dir_at(&dir, "upper")?;
            adopt_root(&dir, "upper", lowers.first())?;
            failpoint!("store.prepare.made");
            let record =
                SnapshotRecord { key: key.clone(), parent: parent.cloned(), layers, options, created: now() };
            // Nobody looks at the snapshot before it has a record, so nobody sees half of one.
            let bytes = serde_json::to_vec(&record)
                .map_err(|e| Error::new(Kind::Internal, format!("cannot write {}", what(key))).because(e))?;
            if options.durable {
                self.write_file(&what(key), &format!("{path}/snapshot.json"), &bytes, Durability::Sync)?;
                fs::sync_directory(self.dir("snapshots")?)?;
            } else {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&dir, "snapshot.json", flags, Mode::RUSR | Mode::WUSR)
                    .and_then(|file| fs::write_all(file, &bytes))
                    .map_err(|errno| {
                        CallError::new(format!("write({path}/snapshot.json, {} bytes)", bytes.len()), errno)
                    })?;
            }
            failpoint!("store.prepare.described");
            let work = fs::open_dir_at(&dir, "work")?;
            Ok(Snapshot { record, upper, work, lowers, path: self.path.join(&path), dir })
        };
        fill().map_err(|error| {
            // What was made is given back; the collector finds it should that fail.
            let _ = fs::remove_tree_at(&self.root, &path, || true);
            failed(error)
        })
    }

    fn open_lowers(&self, layers: &[ChainId]) -> Result<Vec<OwnedFd>> {
        layers.iter().rev().map(|chain| self.layer_dir(chain)).collect()
    }

    /// Opens a snapshot; `None` when there is none of that name.
    pub fn snapshot(&self, key: &SnapshotKey) -> Result<Option<Snapshot>> {
        let Some(mut record) = self.snapshot_record(key)? else { return Ok(None) };
        let path = path_of(key);
        let missing = |name: &str| {
            rustix::fs::statat(&self.root, format!("{path}/{name}"), AtFlags::SYMLINK_NOFOLLOW).is_err()
        };
        if missing("upper") && !missing("committing") {
            // A commit of it was killed.
            let _lock = self.lock_shared()?;
            self.settle(key)?;
            record = self.snapshot_record(key)?.unwrap_or(record);
        }
        let open = |path: String| fs::open_dir_at(&self.root, path).map_err(Error::from);
        let parts = || -> Result<Snapshot> {
            let lowers = self.open_lowers(&record.layers)?;
            let (dir, upper, work) =
                (open(path.clone())?, open(format!("{path}/upper"))?, open(format!("{path}/work"))?);
            Ok(Snapshot { record: record.clone(), dir, upper, work, lowers, path: self.path.join(&path) })
        };
        parts().map(Some).map_err(|error| error.within(format!("cannot open {}", what(key))))
    }

    /// The record of a snapshot, without opening its parts.
    pub fn snapshot_record(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>> {
        self.read_record(&what(key), &format!("{}/snapshot.json", path_of(key)))
    }

    /// Gives a snapshot whose `upper` was renamed away a new, empty one on top of `parent`: after
    /// its upper directory became a layer.
    pub fn remake_snapshot(&self, key: &SnapshotKey, parent: Option<&ChainId>) -> Result<Snapshot> {
        let record = self
            .snapshot_record(key)?
            .ok_or_else(|| Error::not_found(format!("cannot remake {}: there is none", what(key))))?;
        self.remove_snapshot(key)?;
        self.prepare(key, parent, record.options)
    }

    /// Moves a snapshot to the trash, at once. False when there was none. Nothing of it may be
    /// mounted.
    pub fn remove_snapshot(&self, key: &SnapshotKey) -> Result<bool> {
        let _lock = self.lock_shared()?;
        let trashed = self
            .trash(&self.root, &path_of(key))
            .map_err(|error| error.within(format!("cannot remove {}", what(key))))?;
        failpoint!("store.snapshot.trashed");
        Ok(trashed.is_some())
    }

    /// The keys of all snapshots, damaged ones too, sorted.
    pub fn snapshot_keys(&self) -> Result<Vec<SnapshotKey>> {
        let mut keys: Vec<SnapshotKey> =
            fs::names(self.dir("snapshots")?)?.into_iter().filter_map(|name| name.parse().ok()).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// All snapshots, sorted by key; damaged ones are left out: see [`Store::fsck`].
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>> {
        Ok(self.snapshot_keys()?.iter().filter_map(|key| self.snapshot_record(key).ok().flatten()).collect())
    }

    /// What was written into a snapshot takes this much.
    ///
    /// Errors: `NotFound`.
    pub fn snapshot_usage(&self, key: &SnapshotKey) -> Result<Usage> {
        Ok(fs::usage(self.snapshot_upper(key)?)?)
    }

    /// The directory in which a snapshot's changes are.
    ///
    /// # Errors
    /// `NotFound` without such a snapshot.
    pub fn snapshot_upper(&self, key: &SnapshotKey) -> Result<OwnedFd> {
        match fs::open_dir_at(&self.root, format!("{}/upper", path_of(key))) {
            Err(error) if error.errno() == Errno::NOENT => {
                Err(Error::not_found(format!("cannot measure {}: there is none", what(key))))
            }
            other => Ok(other?),
        }
    }
}
