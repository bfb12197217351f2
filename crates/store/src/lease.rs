//! Leases: what a process is about to use stays, although nothing refers to it yet.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use robot_env_diag::{Error, Result};
use robot_env_oci::{ChainId, Digest};
use robot_env_sys::{fs, lock};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::{Store, random_name};

/// Keeps everything that this process looks up or adds through the same [`Store`] from being
/// collected, until it is dropped, its holder dies (the kernel then drops its lock) or its time
/// runs out.
#[derive(Debug)]
pub struct Lease(Arc<Holding>);

/// A lease's file and what it has pinned.
#[derive(Debug)]
pub(crate) struct Holding {
    leases: OwnedFd,
    name: String,
    file: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pinned: BTreeSet<String>,
    expires: Duration,
    ttl: Duration,
}

/// What a lease file says.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    pub(crate) layers: Vec<ChainId>,
    pub(crate) content: Vec<Digest>,
}

/// The time since boot, the same for every process and never set back.
fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Store {
    /// A lease of `ttl`; whatever is looked up ([`Store::layer`]) or added through this `Store`
    /// while it lives is pinned by it.
    pub fn lease(&self, ttl: Duration) -> Result<Lease> {
        let make = || -> Result<Arc<Holding>> {
            // The collector cannot come between making the file and locking it.
            let _lock = self.lock_shared()?;
            let leases = self.dir("leases")?;
            let name = random_name()?;
            let flags = OFlags::RDWR
                | OFlags::CREATE
                | OFlags::EXCL
                | OFlags::APPEND
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            let file =
                rustix::fs::openat(&leases, &name, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| {
                    robot_env_sys::CallError::new(
                        format!("create({})", self.shown(&format!("leases/{name}"))),
                        errno,
                    )
                })?;
            lock::try_lock_exclusive(&file)?;
            let expires = uptime() + ttl;
            let state = Mutex::new(State { pinned: BTreeSet::new(), expires, ttl });
            let holding = Arc::new(Holding { leases, name, file, state });
            holding.append(&format!("expires {}\npid {}\n", expires.as_secs(), std::process::id()))?;
            Ok(holding)
        };
        let holding = make().map_err(|error| self.explain(error, "lease", "leases", 64))?;
        let mut held = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|weak| weak.strong_count() > 0);
        held.push(Arc::downgrade(&holding));
        Ok(Lease(holding))
    }

    /// Pins a layer for every lease of this process; called with the store's lock held shared.
    pub(crate) fn pin_layer(&self, chain: &ChainId) -> Result<()> {
        self.pin(&format!("layer {chain}"))
    }

    /// Like [`Store::pin_layer`], for content.
    pub(crate) fn pin_content(&self, digest: &Digest) -> Result<()> {
        self.pin(&format!("content {digest}"))
    }

    /// Whether this process holds a lease.
    pub(crate) fn leased(&self) -> bool {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|weak| weak.strong_count() > 0)
    }

    fn pin(&self, line: &str) -> Result<()> {
        let held: Vec<Arc<Holding>> = {
            let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.iter().filter_map(std::sync::Weak::upgrade).collect()
        };
        for holding in held {
            holding
                .pin(line)
                .map_err(|error| self.explain(error, "lease", &format!("leases/{}", holding.name), 100))?;
        }
        Ok(())
    }
}

impl Lease {
    /// Lets the lease last for `ttl` from now on.
    pub fn renew(&self, ttl: Duration) -> Result<()> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ttl = ttl;
        self.0.extend(&mut state)
    }
}

impl Holding {
    fn append(&self, lines: &str) -> Result<()> {
        fs::write_all(&self.file, lines.as_bytes()).map_err(|errno| {
            Error::from(robot_env_sys::CallError::new(
                format!("write(leases/{}, {} bytes)", self.name, lines.len()),
                errno,
            ))
        })
    }

    fn extend(&self, state: &mut State) -> Result<()> {
        state.expires = uptime() + state.ttl;
        self.append(&format!("expires {}\n", state.expires.as_secs()))
    }

    fn pin(&self, line: &str) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if uptime() + state.ttl / 2 > state.expires {
            self.extend(&mut state)?;
        }
        if state.pinned.contains(line) {
            return Ok(());
        }
        self.append(&format!("{line}\n"))?;
        state.pinned.insert(line.to_owned());
        Ok(())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.leases, &self.name, AtFlags::empty());
        let _ = lock::unlock(&self.file);
    }
}

/// Reads all leases, and removes those whose holder is gone. The caller holds the store's lock
/// exclusively. A line that cannot be read is half-written, by a holder that died.
pub(crate) fn living(store: &Store) -> Result<Pins> {
    let leases = store.dir("leases")?;
    let mut pins = Pins::default();
    for name in fs::names(&leases)? {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&leases, &name, flags, Mode::empty()) else { continue };
        if lock::try_lock_exclusive(file.as_fd())? {
            let _ = rustix::fs::unlinkat(&leases, &name, AtFlags::empty());
            continue;
        }
        let Ok(text) = fs::read_bounded(&leases, &name, 64 * 1024 * 1024) else { continue };
        let text = String::from_utf8_lossy(&text);
        let lines = || text.lines().filter_map(|line| line.split_once(' '));
        let expires = lines()
            .filter(|(word, _)| *word == "expires")
            .filter_map(|(_, rest)| rest.parse::<u64>().ok())
            .next_back();
        if expires.is_some_and(|expires| uptime().as_secs() > expires) {
            continue;
        }
        for (word, rest) in lines() {
            match word {
                "layer" => pins.layers.extend(rest.parse::<ChainId>()),
                "content" => pins.content.extend(rest.parse::<Digest>()),
                _ => {}
            }
        }
    }
    Ok(pins)
}
