//! What files of a context contain, remembered by what `stat` says of them, so that a file that has
//! not changed is not read again.
//!
//! A file `index/<sha256 of the context's path>` in the builder's directory: a header, then for each
//! file 64 bytes: device, inode, size, modification and change time in nanoseconds (little endian,
//! 8 bytes each), the first 24 bytes of its content's SHA-256. A file is remembered only if it was last
//! changed some time before it was read: otherwise a change in the same tick of the clock would go
//! unnoticed.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use robot_env_diag::{IoContext, Result};
use robot_env_engine::Engine;
use robot_env_oci::{Algorithm, Digest, Hasher};
use rustix::fs::{Mode, OFlags, Stat};

const HEADER: &[u8] = b"robot-env context index 1\n";
const RECORD: usize = 64;
/// How old a change must be to be trusted, in nanoseconds: ticks of file systems are 10 ms at most,
/// those of old ones 2 s.
const RACY: i128 = 2_000_000_000;

/// How many files are remembered that the last build did not ask for, beside four times those that it did.
const CROWD: usize = 10_000;

type Key = [u8; 40];
type Content = [u8; 24];

/// The index of one context.
#[derive(Default)]
pub(crate) struct Index {
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashMap<Key, Content>,
    /// Those that were asked for.
    used: HashMap<Key, Content>,
    changed: bool,
}

/// Where what is known of the files of a context is kept: by the context's path, links followed.
pub(crate) fn path_of(engine: &Engine, context: &Path) -> PathBuf {
    let context = fs::canonicalize(context).unwrap_or_else(|_| context.to_owned());
    let digest = Digest::of(context.as_os_str().as_encoded_bytes());
    engine.paths().root().join("build/index").join(digest.hex())
}

impl Index {
    /// The index kept at `path`; empty when there is none, or a damaged one.
    pub(crate) fn open(path: PathBuf) -> Index {
        let mut inner = Inner::default();
        let bytes = fs::read(&path).unwrap_or_default();
        for record in bytes.strip_prefix(HEADER).unwrap_or_default().chunks_exact(RECORD) {
            if let (Ok(key), Ok(content)) = (record[..40].try_into(), record[40..].try_into()) {
                inner.known.insert(key, content);
            }
        }
        Index { path: Some(path), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands for a file's content. While it is read, `check` can end that.
    pub(crate) fn content(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Content> {
        let key = key_of(stat);
        {
            let mut inner = self.lock();
            if let Some(content) = inner.known.get(&key).copied() {
                inner.used.insert(key, content);
                return Ok(content);
            }
        }
        let within = || format!("cannot read `{}`", name.to_string_lossy());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).io_context(within)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            check()?;
            match rustix::io::read(&file, &mut buffer[..]).io_context(within)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let hex = hasher.finish();
        let mut content = Content::default();
        for (byte, pair) in content.iter_mut().zip(hex.hex().as_bytes().chunks_exact(2)) {
            *byte = std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .unwrap_or(0);
        }
        // What changed while it was read is another file.
        let after = rustix::fs::fstat(&file).io_context(within)?;
        let changed = i128::from(after.st_ctime) * 1_000_000_000 + i128::from(after.st_ctime_nsec);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128);
        if key_of(&after) == key && now - changed > RACY {
            let mut inner = self.lock();
            inner.used.insert(key, content);
            inner.changed = true;
        }
        Ok(content)
    }

    /// Keeps what is known now. That it cannot be kept costs time at the next build, nothing else.
    pub(crate) fn save(&self) {
        let Some(path) = &self.path else { return };
        let mut inner = self.lock();
        // What another Dockerfile of this context uses stays, until most of it is of nobody's use.
        let crowded = inner.known.len() > 4 * inner.used.len() + CROWD;
        if !inner.changed && !crowded {
            return;
        }
        let others = inner.known.iter().filter(|(key, _)| !crowded && !inner.used.contains_key(*key));
        let mut bytes = Vec::with_capacity(HEADER.len() + (inner.used.len() + inner.known.len()) * RECORD);
        bytes.extend_from_slice(HEADER);
        for (key, content) in inner.used.iter().chain(others) {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(content);
        }
        let _ = write(path, &bytes);
        inner.changed = false;
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let temporary = path.with_extension(format!("{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, path)
}

fn key_of(stat: &Stat) -> Key {
    let nanoseconds =
        |seconds: i64, nanoseconds: u64| seconds.wrapping_mul(1_000_000_000) as u64 + nanoseconds;
    let numbers = [
        stat.st_dev,
        stat.st_ino,
        stat.st_size as u64,
        nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    ];
    let mut key = [0; 40];
    for (place, number) in key.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::fs::AtFlags;

    use super::*;

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let place = std::env::temp_dir().join(format!("re-index-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let dir = robot_env_sys::fs::open_directory(&place).unwrap();
        fs::write(place.join("f"), "text").unwrap();
        let ask = |index: &Index| {
            let stat = rustix::fs::statat(&dir, "f", AtFlags::SYMLINK_NOFOLLOW).unwrap();
            index.content(dir.as_fd(), c"f", &stat, &|| Ok(())).unwrap()
        };
        let index = Index::open(place.join("index"));
        let first = ask(&index);
        assert!(index.lock().used.is_empty(), "a fresh file may still change in this tick");
        std::thread::sleep(Duration::from_millis(2100));
        assert_eq!(ask(&index), first);
        index.save();
        let again = Index::open(place.join("index"));
        assert_eq!(again.lock().known.len(), 1);
        assert_eq!(ask(&again), first);
        fs::write(place.join("f"), "next").unwrap();
        assert_ne!(ask(&again), first);
        // Nothing that is new is nothing to write.
        let written = |index: &Index| {
            index.save();
            rustix::fs::stat(place.join("index")).unwrap().st_ino
        };
        let known = Index::open(place.join("index"));
        let before = rustix::fs::stat(place.join("index")).unwrap().st_ino;
        assert_eq!(written(&known), before);
        fs::write(place.join("index"), "damaged").unwrap();
        assert!(Index::open(place.join("index")).lock().known.is_empty());
        fs::remove_dir_all(place).unwrap();
    }
}
