//! The store: content by digest, images and their names, layers, snapshots, leases, collection,
//! checking.
//!
//! What it shows is whole: a layer is staged, synced and renamed (that of a build is synced when an
//! image with it is put: [`Store::consume_upper`]); an image record is written when
//! its config and all its layers are there; the name comes last. A process that is killed at any
//! step leaves either the old state or the new one, and leftovers that [`Store::collect`] finds.
//!
//! It deliberately knows no tar format, no registry, no overlay mount and no container: it hands
//! out directories and files by descriptor, and callers fill, mount and verify them.
//!
//! # On disk
//! ```text
//! format                         robot-env store <version> overlay=<trusted|user>
//! lock, lock.images              OFD locks, see below
//! content/<algorithm>/<hex>      manifests, configs, blobs; checked when read
//! content/partial/<algorithm>-<hex>   blobs that are still arriving, locked by who writes them
//! images/<hex>.json              an ImageRecord
//! names/<sha256 of the name>.json     a NameRecord, with the name inside
//! kept/<key>.json                a KeptImage: one that was removed and can come back
//! layers/<hex of the chain id>/  layer.json, recipe.zst, fs/
//! staging/<random>/              a layer in the making, locked (flock) by who makes it;
//!                                and records in the making, `.tmp-*`
//! snapshots/<key>/               snapshot.json, upper/, work/; `committing` while upper becomes a layer
//! leases/<random>                locked (OFD) by its holder: pins, one a line
//! cache/<hex of the key>.json    a CacheRecord: what a step of a build made
//! trash/<random>/                what was removed; anyone may empty it
//! damaged/<hex>.<n>/             layers that fsck moved aside while a snapshot may still use them
//! containers/, volumes/          the engine's
//! ```
//!
//! # Locks
//! In this order: `lock`, then `lock.images`, then a layer's staging directory or a lease; all are
//! held for as long as a few file operations take, never while the network or a container is
//! waited for. Whoever reads or adds something that others must not collect meanwhile holds `lock`
//! shared; [`Store::collect`] holds it exclusively while it decides and renames (deleting happens
//! afterwards, without it). Whoever changes images or names also holds `lock.images` exclusively.
//! Holding a lock is also what tells living owners of staging directories, partial blobs and leases
//! from dead ones: the kernel drops the lock of a killed process, whatever the clock says.

mod adopt;
mod cache;
mod collect;
mod content;
mod failpoint;
mod format;
mod fsck;
mod image;
mod kept;
mod key;
mod layer;
mod lease;
mod name;
mod record;
mod resolve;
mod snapshot;
mod staging;
mod trash;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::lock::{self, Held};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use cache::CacheRecord;
pub use collect::{CollectOptions, Collected};
pub use content::Ingest;
pub use failpoint::{FAILPOINTS, hit};
pub use fsck::{Damage, FsckOptions, Subject, Verify};
pub use image::{ImageRecord, RemoveOptions};
pub use kept::{KeptImage, Restored};
pub use key::SnapshotKey;
pub use layer::{LayerRecord, LayerSource};
pub use lease::Lease;
pub use name::{NameRecord, Untagged};
pub use snapshot::{Snapshot, SnapshotOptions, SnapshotRecord};
pub use staging::StagedLayer;
pub use trash::Emptied;

/// How long a lock of the store is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The extended attributes with which overlay marks opaque directories in the store's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayXattr {
    /// `trusted.overlay.*`: root in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounted with `userxattr`, in a user namespace.
    User,
}

impl OverlayXattr {
    /// The word in the `format` file.
    fn word(self) -> &'static str {
        match self {
            OverlayXattr::Trusted => "trusted",
            OverlayXattr::User => "user",
        }
    }
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory that holds everything.
    pub root: PathBuf,
    /// Which overlay attributes its layers have. A store that was made with the other ones is refused.
    pub overlay_xattr: OverlayXattr,
    /// Make the store when there is none.
    pub create: bool,
}

/// An open store. Cheap to open: four system calls.
#[derive(Debug)]
pub struct Store {
    root: OwnedFd,
    path: PathBuf,
    overlay_xattr: OverlayXattr,
    leases: Mutex<Vec<Weak<lease::Holding>>>,
}

impl Store {
    /// Opens the store at `options.root`, and makes it first where there is none and
    /// `options.create` says so.
    ///
    /// Errors: `NotFound` without a store, `Unsupported` for a format of a later version,
    /// `Conflict` for a directory that holds something else, `Denied` when it cannot be read or made.
    pub fn open(options: &StoreOptions) -> Result<Store> {
        format::open(options)
    }

    /// The root directory, by O_PATH. The engine keeps `containers/` and `volumes/` below it.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root directory's path, for error texts and `info`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which overlay attributes the layers have.
    pub fn overlay_xattr(&self) -> OverlayXattr {
        self.overlay_xattr
    }

    /// The room on the store's file system.
    pub fn space(&self) -> Result<robot_env_sys::fs::Space> {
        Ok(robot_env_sys::fs::space(&self.root)?)
    }

    /// One of the store's own directories.
    fn dir(&self, name: &str) -> Result<OwnedFd> {
        Ok(robot_env_sys::fs::open_dir_at(&self.root, name)?)
    }

    /// Holds off the collector.
    fn lock_shared(&self) -> Result<Held> {
        self.lock("lock", false)
    }

    /// Holds off everyone who adds or uses something.
    fn lock_exclusive(&self) -> Result<Held> {
        self.lock("lock", true)
    }

    /// For changes of images and names; taken after [`Store::lock_shared`].
    fn lock_images(&self) -> Result<Held> {
        self.lock("lock.images", true)
    }

    fn lock(&self, name: &str, exclusive: bool) -> Result<Held> {
        let open = |flags: OFlags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.root, name, flags, Mode::RUSR | Mode::WUSR)
        };
        let opened = match open(OFlags::RDWR) {
            Err(Errno::NOENT) => open(OFlags::RDWR | OFlags::CREATE),
            Err(Errno::ROFS | Errno::ACCESS) if !exclusive => open(OFlags::RDONLY),
            other => other,
        };
        let place = || self.path.join(name).display().to_string();
        let fd = opened.map_err(|errno| {
            Error::new(
                Kind::of_errno(errno.raw_os_error()),
                format!("cannot lock store `{}`", self.path.display()),
            )
            .because(robot_env_sys::CallError::new(format!("open({})", place()), errno))
        })?;
        let taken = if exclusive {
            lock::lock_exclusive_within(&fd, PATIENCE)
        } else {
            lock::lock_shared_within(&fd, PATIENCE)
        };
        if taken? {
            return Ok(Held::new(fd));
        }
        let seconds = PATIENCE.as_secs();
        Err(Error::new(
            Kind::Unavailable,
            format!(
                "cannot lock store `{}`: another process has held `{}` for {seconds} s",
                self.path.display(),
                place()
            ),
        ))
    }
}

/// A random name of 32 hexadecimal digits.
fn random_name() -> Result<String> {
    use std::fmt::Write;
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(robot_env_sys::CallError::new("getrandom()", errno).into()),
        }
    }
    let mut name = String::with_capacity(32);
    for byte in bytes {
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// The digest that a file is named by: 64 digits are SHA-256, 128 SHA-512.
fn digest_of_hex(hex: &str) -> Option<robot_env_oci::Digest> {
    let algorithm = match hex.len() {
        64 => "sha256",
        128 => "sha512",
        _ => return None,
    };
    format!("{algorithm}:{hex}").parse().ok()
}
