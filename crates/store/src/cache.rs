//! What steps of builds have made, to be used again: `cache/<hex of the key>.json`.
//!
//! A record keeps its layer from being collected. When it was last used is its file's time of
//! modification.

use std::collections::BTreeSet;

use robot_env_diag::{Kind, Result};
use robot_env_oci::{ChainId, Digest};
use robot_env_sys::CallError;
use robot_env_sys::fs::{self, Durability};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Store, digest_of_hex};

const DIRECTORY: &str = "cache";

/// The result of a step, by the digest of everything that it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The layers after the step; `None` for none at all.
    pub chain: Option<ChainId>,
    /// Whether the step made a layer.
    pub layer: bool,
    /// The step, for lists.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it was last used, in seconds since the Unix epoch; not in the file.
    #[serde(skip)]
    pub used: u64,
}

fn path_of(key: &Digest) -> String {
    format!("{DIRECTORY}/{}.json", key.hex())
}

impl Store {
    /// What the step with that key has made, if its layer is here and whole. With a lease
    /// ([`Store::lease`]) the layer is pinned by it.
    pub fn cached(&self, key: &Digest) -> Result<Option<CacheRecord>> {
        let path = path_of(key);
        let record = match self.read_record::<CacheRecord>("a build's cache", &path) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == Kind::Corrupt => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(chain) = &record.chain {
            match self.layer(chain) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(error) if error.kind() == Kind::Corrupt => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // Only the order in which records are forgotten depends on it.
        let _ = rustix::fs::utimensat(&self.root, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
        Ok(Some(record))
    }

    /// Remembers what a step has made. Not synced: a power cut costs the step, nothing else.
    pub fn put_cached(&self, key: &Digest, record: &CacheRecord) -> Result<()> {
        let _lock = self.lock_shared()?;
        match rustix::fs::mkdirat(&self.root, DIRECTORY, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(CallError::new(format!("mkdir({})", self.shown(DIRECTORY)), errno).into());
            }
        }
        self.write_record("a build's cache", &path_of(key), record, Durability::NoSync)
    }

    /// All that is remembered, in no order; records that cannot be read are left out.
    pub fn cache_records(&self) -> Result<Vec<(Digest, CacheRecord)>> {
        let dir = match self.dir(DIRECTORY) {
            Ok(dir) => dir,
            Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut records = Vec::new();
        for name in fs::names(&dir)? {
            let Some(key) = name.strip_suffix(".json").and_then(digest_of_hex) else { continue };
            let Ok(Some(mut record)) = self.read_record::<CacheRecord>("a build's cache", &path_of(&key))
            else {
                continue;
            };
            record.used = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(0, |stat| u64::try_from(stat.st_mtime).unwrap_or(0));
            records.push((key, record));
        }
        Ok(records)
    }

    /// The layers of all that is remembered, with those below them.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub fn cached_layers(&self) -> Result<BTreeSet<ChainId>> {
        let mut layers = BTreeSet::new();
        for chain in self.cache_records()?.into_iter().filter_map(|(_, record)| record.chain) {
            if let Ok(Some(layer)) = self.read_layer(&chain) {
                layers.extend(layer.ancestors);
            }
            layers.insert(chain);
        }
        Ok(layers)
    }

    /// Forgets a step. Its layer goes with the next [`Store::collect`], unless something else needs
    /// it. False when it was not remembered.
    pub fn remove_cached(&self, key: &Digest) -> Result<bool> {
        self.remove_record("a build's cache", &path_of(key), Durability::NoSync)
    }
}
