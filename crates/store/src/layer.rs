//! Layers that are in the store.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::{ChainId, Descriptor, DiffId};
use robot_env_sys::CallError;
use robot_env_sys::fs::{self, Durability};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Store, digest_of_hex, failpoint};

/// What is known of a layer: `layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its name: the layer on top of all those below it.
    pub chain_id: ChainId,
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The layer below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ChainId>,
    /// All layers below it, lowest first. The store fills it in when the layer is committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<ChainId>,
    /// Length of the uncompressed tar in bytes.
    #[serde(default)]
    pub tar_size: u64,
    /// Sum of its files' lengths in bytes.
    #[serde(default)]
    pub content_size: u64,
    /// Entries of the tar.
    #[serde(default)]
    pub entries: u64,
    /// When it was made here, in nanoseconds since the Unix epoch; the store fills in a 0.
    #[serde(default)]
    pub created: u64,
    /// Where the same layer can be had, compressed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<LayerSource>,
    /// The run of the kernel in which it was made, until it is on the disk: see
    /// [`Store::consume_upper`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// A registry's copy of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSource {
    /// Its compressed digest, size and media type.
    pub descriptor: Descriptor,
    /// The repository, `domain/path`; empty when it came from an archive.
    #[serde(default)]
    pub repository: String,
}

impl LayerRecord {
    /// A record with sizes of 0 and no sources.
    pub fn new(parent: Option<ChainId>, diff_id: DiffId) -> Self {
        LayerRecord {
            chain_id: ChainId::of(parent.as_ref(), &diff_id),
            diff_id,
            parent,
            ancestors: Vec::new(),
            tar_size: 0,
            content_size: 0,
            entries: 0,
            created: 0,
            sources: Vec::new(),
            boot: None,
        }
    }
}

/// What tells this run of the kernel from others; `None` where that cannot be read.
pub(crate) fn this_boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    })
    .as_deref()
}

pub(crate) fn path_of(chain: &ChainId) -> String {
    format!("layers/{}", chain.hex())
}

fn what(chain: &ChainId) -> String {
    format!("layer `{chain}`")
}

impl Store {
    /// The record of a layer that is here; `None` when it is not. While this process holds a
    /// [`Lease`](crate::Lease), the layer is pinned by it.
    ///
    /// Errors: `Corrupt` when the layer is damaged: commit it again ([`Store::stage_layer`]) to
    /// mend it.
    pub fn layer(&self, chain: &ChainId) -> Result<Option<LayerRecord>> {
        if !self.leased() {
            return self.read_layer(chain);
        }
        let _lock = self.lock_shared()?;
        self.pin_layer(chain)?;
        self.read_layer(chain)
    }

    /// Like [`Store::layer`], without pinning.
    pub(crate) fn read_layer(&self, chain: &ChainId) -> Result<Option<LayerRecord>> {
        let path = path_of(chain);
        let damaged = |why: String| {
            Error::new(Kind::Corrupt, format!("cannot use {}: it is damaged", what(chain)))
                .because(Error::new(Kind::Corrupt, format!("{}: {why}", self.shown(&path))))
        };
        let Some(record) = self.read_record::<LayerRecord>(&what(chain), &format!("{path}/layer.json"))?
        else {
            return match rustix::fs::statat(&self.root, &path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(damaged("layer.json is missing".into())),
                Err(_) => Ok(None),
            };
        };
        if record.chain_id != *chain || ChainId::of(record.parent.as_ref(), &record.diff_id) != *chain {
            return Err(damaged("layer.json describes another layer".into()));
        }
        if record.boot.is_some() && record.boot.as_deref() != this_boot() {
            return Err(damaged("the machine went down before it was on the disk".into()));
        }
        if record.ancestors.last() != record.parent.as_ref() {
            return Err(damaged("layer.json contradicts itself about the layers below".into()));
        }
        if rustix::fs::statat(&self.root, format!("{path}/fs"), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .is_err()
        {
            return Err(damaged("its tree is missing".into()));
        }
        Ok(Some(record))
    }

    /// The ids of all layers, damaged ones too, sorted.
    pub fn layers(&self) -> Result<Vec<ChainId>> {
        let mut layers: Vec<ChainId> = fs::names(self.dir("layers")?)?
            .iter()
            .filter_map(|name| digest_of_hex(name))
            .map(ChainId)
            .collect();
        layers.sort_unstable();
        Ok(layers)
    }

    /// A layer's tree, by O_PATH.
    ///
    /// Errors: `NotFound` when it is not here.
    pub fn layer_dir(&self, chain: &ChainId) -> Result<OwnedFd> {
        fs::open_dir_at(&self.root, format!("{}/fs", path_of(chain))).map_err(|error| {
            if error.errno() == Errno::NOENT {
                Error::not_found(format!("cannot use {}: it is not in the store", what(chain)))
                    .because(Error::from(error))
            } else {
                Error::from(error).within(format!("cannot use {}", what(chain)))
            }
        })
    }

    /// The recipe from which the layer's tar can be made again; `None` when none was written.
    pub fn open_recipe(&self, chain: &ChainId) -> Result<Option<File>> {
        let path = format!("{}/recipe.zst", path_of(chain));
        self.open_file(&path).within(|| format!("cannot read recipe of {}", what(chain)))
    }

    /// Notes where else the layer can be had; known sources are not noted twice.
    pub fn add_source(&self, chain: &ChainId, source: LayerSource) -> Result<()> {
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        let mut record = self.read_layer(chain)?.ok_or_else(|| {
            Error::not_found(format!("cannot change {}: it is not in the store", what(chain)))
        })?;
        if record.sources.contains(&source) {
            return Ok(());
        }
        record.sources.push(source);
        self.write_record(
            &what(chain),
            &format!("{}/layer.json", path_of(chain)),
            &record,
            Durability::NoSync,
        )
    }

    /// Brings those of these layers to the disk that are not there yet, as [`Store::consume_upper`] leaves
    /// them. Damaged ones are somebody else's business.
    pub(crate) fn bring_to_disk(&self, chains: &[ChainId]) -> Result<()> {
        let is_open = |chain: &&ChainId| {
            self.read_layer(chain).ok().flatten().is_some_and(|record| record.boot.is_some())
        };
        let open: Vec<&ChainId> = chains.iter().filter(is_open).collect();
        if open.is_empty() {
            return Ok(());
        }
        // A descriptor by O_PATH cannot be synced.
        let root = fs::open_readable_dir_at(&self.root, ".")?;
        let sync = || {
            rustix::fs::syncfs(&root).map_err(|errno| {
                let call = CallError::new(format!("syncfs({})", self.shown(".")), errno);
                Error::from(call).within("cannot bring layers to the disk")
            })
        };
        sync()?;
        failpoint!("store.layers.synced");
        for chain in open {
            let _lock = self.lock_shared()?;
            let _images = self.lock_images()?;
            let Some(mut record) = self.read_layer(chain)? else { continue };
            record.boot = None;
            let path = format!("{}/layer.json", path_of(chain));
            self.write_record(&what(chain), &path, &record, Durability::NoSync)?;
        }
        // Once for all of them.
        sync()
    }

    /// Moves a damaged layer out of the way, so that it can be committed anew. Trees that are
    /// mounted stay usable: the collector deletes it only when no snapshot refers to it.
    pub fn set_layer_aside(&self, chain: &ChainId) -> Result<bool> {
        let _lock = self.lock_shared()?;
        self.move_layer_aside(chain)
    }

    pub(crate) fn move_layer_aside(&self, chain: &ChainId) -> Result<bool> {
        let damaged = self.dir("damaged")?;
        let layers = self.dir("layers")?;
        for n in 0..1000 {
            match fs::rename_noreplace(&layers, chain.hex(), &damaged, format!("{}.{n}", chain.hex())) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) if error.errno() == Errno::NOENT => return Ok(false),
                Err(error) => {
                    return Err(Error::from(error)).within(|| format!("cannot move {} aside", what(chain)));
                }
            }
        }
        Err(Error::new(
            Kind::Conflict,
            format!("cannot move {} aside: it was moved aside too often", what(chain)),
        ))
    }
}
