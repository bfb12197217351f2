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

/// A step that the cache has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedStep {
    /// Its key.
    pub key: Digest,
    /// The step, as the image's history has it.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it was last used, in seconds since the Unix epoch.
    pub used: u64,
    /// Bytes of its layer that no image and no other step has; 0 for a step without one.
    pub bytes: u64,
    /// Whether an image or another step has its layer, too.
    pub shared: bool,
}

impl CachedStep {
    /// Its id, as lists show it.
    pub fn id(&self) -> String {
        self.key.hex()[..25.min(self.key.hex().len())].to_owned()
    }
}

/// The steps that the cache has, those that were used longest ago first.
///
/// # Errors
/// A store that cannot be read.
pub fn cached_steps(store: &Store) -> Result<Vec<CachedStep>> {
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
        steps.push(CachedStep {
            key,
            description: record.description,
            created: record.created,
            used: record.used,
            bytes: layer.map_or(0, |layer| layer.content_size),
            shared,
        });
    }
    Ok(steps)
}

/// Where cache mounts are: a directory each, `<digest of the id>-<number>`, locked by who uses it. In it
/// `content` is what is mounted, and `id` says what it is called.
pub(crate) fn mounts(engine: &Engine) -> PathBuf {
    engine.paths().root().join("build/mounts")
}

/// The cache of a `RUN --mount=type=cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// The name of its directory.
    pub name: String,
    /// The id by which Dockerfiles call it; empty where nobody wrote it down.
    pub id: String,
    /// When it was last used, in seconds since the Unix epoch.
    pub used: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether a build has it mounted now.
    pub in_use: bool,
}

impl CacheMount {
    /// Its id, as lists show it.
    pub fn id_in_lists(&self) -> String {
        self.name.chars().take(25).collect()
    }
}

/// The caches of `RUN --mount=type=cache`, those that were used longest ago first.
///
/// # Errors
/// A directory that cannot be read.
pub fn cache_mounts(engine: &Engine) -> Result<Vec<CacheMount>> {
    let base = mounts(engine);
    let mut all = Vec::new();
    for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(directory) = File::open(&path) else { continue };
        let (Ok(found), Ok(content)) = (directory.metadata(), File::open(path.join("content"))) else {
            continue;
        };
        all.push(CacheMount {
            name: entry.file_name().to_string_lossy().into_owned(),
            id: fs::read_to_string(path.join("id")).unwrap_or_default(),
            used: found.mtime().unsigned_abs(),
            bytes: robot_env_layer::usage(content.as_fd())?.bytes,
            in_use: rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err(),
        });
    }
    all.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
    Ok(all)
}

/// Something that builds keep, as a filter sees it.
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

/// Everything that builds keep to be faster the next time, what was used longest ago first.
///
/// # Errors
/// A store or directory that cannot be read.
pub fn kept(engine: &Engine) -> Result<Vec<Kept>> {
    let base = mounts(engine);
    let steps = cached_steps(engine.store())?.into_iter().map(|step| Kept {
        id: step.id(),
        kind: "regular",
        description: step.description,
        bytes: step.bytes,
        used: step.used,
        shared: step.shared,
        in_use: false,
        place: Where::Step(step.key),
    });
    let mounts = cache_mounts(engine)?.into_iter().map(|mount| Kept {
        id: mount.id_in_lists(),
        kind: "exec.cachemount",
        description: format!("cached mount {}", mount.id),
        bytes: mount.bytes,
        used: mount.used,
        shared: false,
        in_use: mount.in_use,
        place: Where::Mount(base.join(&mount.name)),
    });
    let mut all: Vec<Kept> = steps.chain(mounts).collect();
    all.sort_by_key(|kept| kept.used);
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
    pub ids: Vec<String>,
    /// The bytes that come back.
    pub bytes: u64,
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
            pruned.ids.push(kept.id);
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
