//! What builds keep to be faster the next time, as lists show it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use robot_env_diag::{IoContext, Result};
use robot_env_engine::Engine;
use robot_env_oci::{ChainId, Digest};
use robot_env_store::{CollectOptions, Store};
use rustix::fs::FlockOperation;

/// Something that builds keep to be faster the next time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id, as lists show it.
    pub id: String,
    /// `regular` for a step, `exec.cachemount` for a cache mount.
    pub kind: &'static str,
    /// What it is.
    pub description: String,
    /// Bytes that nothing else has.
    pub bytes: u64,
    /// When it was made, RFC 3339; of a cache mount nobody knows.
    pub created: Option<String>,
    /// When it was last used, in seconds since the Unix epoch.
    pub used: u64,
    /// Whether an image or another step has its files, too.
    pub shared: bool,
    /// Whether a build uses it now.
    pub in_use: bool,
    place: Where,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Step(Digest),
    Mount(PathBuf),
}

/// Everything that builds keep, what was used longest ago first.
///
/// # Errors
/// A store or directory that cannot be read.
pub fn kept(engine: &Engine) -> Result<Vec<Kept>> {
    let mut all = steps(engine.store())?;
    all.extend(cache_mounts(engine)?);
    all.sort_by(|a, b| (a.used, &a.id).cmp(&(b.used, &b.id)));
    Ok(all)
}

/// An id as lists show it.
fn shown(id: &str) -> String {
    id.chars().take(25).collect()
}

/// The steps that the cache has. A layer is counted for the step that was used longest ago.
fn steps(store: &Store) -> Result<Vec<Kept>> {
    let mut taken: BTreeSet<ChainId> = store.images()?.into_iter().flat_map(|image| image.layers).collect();
    let mut records = store.cache_records()?;
    records.sort_by(|(a_key, a), (b_key, b)| (a.used, a_key).cmp(&(b.used, b_key)));
    let mut steps = Vec::with_capacity(records.len());
    for (key, record) in records {
        let own = record.chain.filter(|_| record.layer);
        let shared = own.as_ref().is_some_and(|chain| taken.contains(chain));
        let layer = match &own {
            Some(chain) if !shared => store.layer(chain).ok().flatten(),
            _ => None,
        };
        taken.extend(own);
        steps.push(Kept {
            id: shown(key.hex()),
            kind: "regular",
            description: record.description,
            bytes: layer.map_or(0, |layer| layer.content_size),
            created: Some(record.created),
            used: record.used,
            shared,
            in_use: false,
            place: Where::Step(key),
        });
    }
    Ok(steps)
}

/// Where cache mounts are: a directory each, `<digest of the id>-<number>`, locked by who uses it. In it
/// `content` is what is mounted, and `id` says what it is called.
pub(crate) fn mounts(engine: &Engine) -> PathBuf {
    engine.paths().root().join("build/mounts")
}

/// The caches of `RUN --mount=type=cache`.
fn cache_mounts(engine: &Engine) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(mounts(engine)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(directory) = File::open(&path) else { continue };
        let (Ok(found), Ok(content)) = (directory.metadata(), File::open(path.join("content"))) else {
            continue;
        };
        let id = fs::read_to_string(path.join("id")).unwrap_or_default();
        all.push(Kept {
            id: shown(&entry.file_name().to_string_lossy()),
            kind: "exec.cachemount",
            description: format!("cached mount {id}"),
            bytes: robot_env_layer::usage(content.as_fd())?.bytes,
            created: None,
            used: found.mtime().unsigned_abs(),
            shared: false,
            in_use: rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err(),
            place: Where::Mount(path),
        });
    }
    Ok(all)
}

/// What [`prune`] removes.
pub struct PruneKept<'f> {
    /// Also steps whose files an image has, which gives no space back.
    pub all: bool,
    /// What was used longest ago goes until no more bytes than this are kept; `None`: all of it goes.
    pub keep: Option<u64>,
    /// Only what this says yes to.
    pub filter: &'f dyn Fn(&Kept) -> bool,
}

/// What [`prune`] has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunedKept {
    /// What went.
    pub gone: Vec<Kept>,
    /// The bytes that come back.
    pub bytes: u64,
}

impl PrunedKept {
    /// The ids of what went.
    pub fn ids(&self) -> Vec<String> {
        self.gone.iter().map(|kept| kept.id.clone()).collect()
    }
}

/// Removes what builds keep. What a build uses now stays.
///
/// # Errors
/// A store or directory that cannot be read or written.
pub fn prune(engine: &Engine, options: &PruneKept<'_>) -> Result<PrunedKept> {
    let store = engine.store();
    let all = kept(engine)?;
    let mut total: u64 = all.iter().map(|kept| kept.bytes).sum();
    let mut pruned = PrunedKept::default();
    for kept in all {
        if kept.in_use || (kept.shared && !options.all) || !(options.filter)(&kept) {
            continue;
        }
        if options.keep.is_some_and(|keep| total <= keep) {
            break;
        }
        let gone = match &kept.place {
            Where::Step(key) => store.remove_cached(key)?,
            Where::Mount(path) => {
                let gone = remove_mount(path)?;
                pruned.bytes += if gone { kept.bytes } else { 0 };
                gone
            }
        };
        if gone {
            total = total.saturating_sub(kept.bytes);
            pruned.gone.push(kept);
        }
    }
    pruned.bytes += store.collect(&CollectOptions::default())?.bytes;
    Ok(pruned)
}

/// Removes a cache mount; false when a build has taken it meanwhile.
fn remove_mount(path: &Path) -> Result<bool> {
    let Ok(directory) = File::open(path) else { return Ok(false) };
    if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // Whoever waits for the lock looks afterwards whether the directory is still there.
    fs::remove_dir_all(path).io_context(|| format!("cannot remove `{}`", path.display()))?;
    Ok(true)
}
