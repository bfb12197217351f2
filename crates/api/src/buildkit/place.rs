//! Directories for what clients send, below the engine's own: kept, so that the next build from the
//! same directory has only to be sent what has changed.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_engine::Engine;
use robot_env_oci::Digest;
use rustix::fs::FlockOperation;

/// How long a directory is kept that no build uses.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A directory of one build's as long as this lives.
pub(super) struct Place {
    path: PathBuf,
    /// Locked while it is used.
    lock: File,
}

/// Where they are.
fn all(engine: &Engine) -> PathBuf {
    engine.paths().root().join("build/clients")
}

impl Place {
    /// The directory for what clients call `key`; it stays. Builds at the same time have one each.
    pub(super) fn kept(engine: &Engine, key: &str) -> Result<Place> {
        sweep(engine, KEPT);
        let digest = Digest::of(key.as_bytes());
        for number in 0..1024 {
            let path = all(engine).join(format!("{}-{number}", &digest.hex()[..32]));
            if let Some(place) = Place::take(path)? {
                return Ok(place);
            }
        }
        Err(Error::new(Kind::Internal, "there are too many builds of one context"))
    }

    fn take(path: PathBuf) -> Result<Option<Place>> {
        let within = || format!("cannot make `{}`", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&path).io_context(within)?;
        let lock = File::open(&path).io_context(within)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Somebody may have removed it between the two.
        let here = lock.metadata().io_context(within)?;
        if fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == (here.dev(), here.ino())) {
            let _ = rustix::fs::futimens(
                &lock,
                &rustix::fs::Timestamps { last_access: NOW, last_modification: NOW },
            );
            return Ok(Some(Place { path, lock }));
        }
        Place::take(path)
    }

    /// A directory in it, made when it is not there.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).io_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(path)
    }
}

const NOW: rustix::fs::Timespec = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };

impl Drop for Place {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Removes what no build uses and has not used so long; how many bytes that were.
pub(super) fn sweep(engine: &Engine, unused: Duration) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(all(engine)).into_iter().flatten().flatten() {
        let path = entry.path();
        let old = |path: &Path| {
            let modified = fs::symlink_metadata(path).and_then(|found| found.modified()).ok()?;
            Some(SystemTime::now().duration_since(modified).unwrap_or_default() >= unused)
        };
        if !old(&path).unwrap_or(false) {
            continue;
        }
        let Ok(lock) = File::open(&path) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let size = robot_env_sys::fs::usage(&lock).map_or(0, |usage| usage.bytes);
        if robot_env_sys::fs::remove_tree(&path).is_ok() {
            bytes += size;
        }
    }
    bytes
}
