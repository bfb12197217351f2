//! Images: a record each, over a config, maybe a manifest, and layers.

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ChainId, Descriptor, Digest, ImageConfig, ImageId, Reference, Verified};
use robot_env_sys::fs::Durability;
use serde::{Deserialize, Serialize};

use crate::{NameRecord, Store, digest_of_hex, failpoint, now};

/// An image: `images/<hex>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its config.
    pub id: ImageId,
    /// Its manifest, as it was pulled or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Descriptor>,
    /// Its layers, lowest first. The store fills them in from the config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<ChainId>,
    /// Sum of its layers' content sizes in bytes. The store fills it in.
    #[serde(default)]
    pub size: u64,
    /// When it was made, as its config says (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it came into this store, in nanoseconds since the Unix epoch; the store fills in a 0.
    #[serde(default)]
    pub pulled_at: u64,
    /// The image that it was built or committed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Where it came from, in the words of whoever brought it: a reference, `load`, `commit`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

impl ImageRecord {
    /// A record of the image with that config; sizes and layers are filled in when it is put.
    pub fn new(config: &Verified<ImageConfig>) -> Self {
        ImageRecord {
            id: ImageId(config.digest().clone()),
            manifest: None,
            layers: Vec::new(),
            size: 0,
            created: config.value().created.clone(),
            pulled_at: 0,
            parent: None,
            origin: String::new(),
        }
    }

    /// Its topmost layer; `None` for an image without layers.
    pub fn chain(&self) -> Option<&ChainId> {
        self.layers.last()
    }
}

/// What [`Store::remove_image`] may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Take away its names too; without, an image that has one is refused.
    pub names: bool,
}

pub(crate) fn path_of(id: &ImageId) -> String {
    format!("images/{}.json", id.hex())
}

pub(crate) fn what(id: &ImageId) -> String {
    format!("image `{}`", id.short())
}

impl Store {
    /// Adds an image, or changes its record. Its config and manifest must have been put, and its
    /// layers committed; all that is on the disk when this returns.
    ///
    /// Errors: `Conflict` naming what is missing, `Corrupt` naming what is damaged, `NoSpace`.
    pub fn put_image(&self, record: &ImageRecord) -> Result<ImageRecord> {
        self.put_named_image(record, &[])
    }

    /// [`Store::put_image`] and [`Store::tag`] (each name with its manifest's digest) at once: no
    /// one who removes images without a name comes between.
    ///
    /// Errors: those of both.
    pub fn put_named_image(
        &self,
        record: &ImageRecord,
        names: &[(&Reference, Option<&Digest>)],
    ) -> Result<ImageRecord> {
        let config = self.config(&record.id)?;
        let chains: Vec<_> = config.value().chain().links().iter().map(|(_, chain)| chain.clone()).collect();
        // May take its time, so without the locks.
        self.bring_to_disk(&chains)?;
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        let record = self.write_image(record)?;
        for (reference, manifest_digest) in names {
            self.write_name(reference, &record.id, *manifest_digest)?;
        }
        Ok(record)
    }

    /// The caller holds the lock of images.
    pub(crate) fn write_image(&self, record: &ImageRecord) -> Result<ImageRecord> {
        let id = &record.id;
        let missing = |part: String| {
            Error::new(Kind::Conflict, format!("cannot add {}: {part} is not in the store", what(id)))
        };
        let config = self.config(id)?;
        let mut record = record.clone();
        record.layers = config.value().chain().links().iter().map(|(_, chain)| chain.clone()).collect();
        record.size = 0;
        for chain in &record.layers {
            let layer = self.read_layer(chain)?.ok_or_else(|| missing(format!("layer `{chain}`")))?;
            record.size += layer.content_size;
        }
        if record.pulled_at == 0 {
            record.pulled_at = now();
        }
        if let Some(manifest) = &record.manifest
            && self.content(&manifest.digest)?.is_none()
        {
            return Err(missing(format!("manifest `{}`", manifest.digest)));
        }
        // What is recorded was synced; a damaged record is written anew.
        if matches!(self.image(id), Ok(Some(known)) if known == record) {
            return Ok(record);
        }
        if let Some(manifest) = &record.manifest {
            self.sync_content(&manifest.digest)?;
        }
        self.sync_content(id.digest())?;
        failpoint!("store.image.verified");
        self.write_record(&what(id), &path_of(id), &record, Durability::Sync)?;
        failpoint!("store.image.recorded");
        Ok(record)
    }

    /// The image with that id; `None` when it is not here.
    pub fn image(&self, id: &ImageId) -> Result<Option<ImageRecord>> {
        let Some(record) = self.read_record::<ImageRecord>(&what(id), &path_of(id))? else { return Ok(None) };
        if record.id != *id {
            return Err(Error::new(
                Kind::Corrupt,
                format!("cannot read {}: its record is damaged", what(id)),
            )
            .because(Error::new(Kind::Corrupt, format!("it describes {}", record.id))));
        }
        Ok(Some(record))
    }

    /// The ids of all images, damaged ones too, sorted.
    pub fn image_ids(&self) -> Result<Vec<ImageId>> {
        Ok(self.record_names("images")?.iter().filter_map(|name| digest_of_hex(name)).map(ImageId).collect())
    }

    /// All images, sorted by id. One that is damaged, or removed meanwhile, is left out: see
    /// [`Store::fsck`].
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        Ok(self.image_ids()?.iter().filter_map(|id| self.image(id).ok().flatten()).collect())
    }

    /// An image's config, checked.
    pub fn config(&self, id: &ImageId) -> Result<Verified<ImageConfig>> {
        let bytes = self.content(id.digest())?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("cannot read config of {}: it is not in the store", what(id)))
        })?;
        Verified::check(bytes, id.digest())
    }

    /// Removes an image's record, with its names when `options` says so. Its content and layers go
    /// at the next [`Store::collect`]. Gives the names that went.
    ///
    /// Errors: `NotFound`; `Conflict` when it has names and they may not go.
    pub fn remove_image(&self, id: &ImageId, options: RemoveOptions) -> Result<Vec<Reference>> {
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        self.remove_image_locked(id, options)
    }

    /// [`Store::remove_image`]; the caller holds the lock of images.
    pub(crate) fn remove_image_locked(&self, id: &ImageId, options: RemoveOptions) -> Result<Vec<Reference>> {
        let names = self.names_to_go(id, options)?;
        let names: Vec<Reference> = names.into_iter().map(|name| name.reference).collect();
        for name in &names {
            self.remove_name(name, Durability::NoSync)?;
        }
        failpoint!("store.remove.untagged");
        if !self.remove_record(&what(id), &path_of(id), Durability::NoSync)? {
            return Err(Error::not_found(format!("cannot remove {}: it is not in the store", what(id))));
        }
        failpoint!("store.remove.done");
        Ok(names)
    }

    /// An image's names, which may go with it. The caller holds the lock of images.
    pub(crate) fn names_to_go(&self, id: &ImageId, options: RemoveOptions) -> Result<Vec<NameRecord>> {
        let names: Vec<NameRecord> = self.names()?.into_iter().filter(|name| name.image == *id).collect();
        match names.first() {
            Some(name) if !options.names => {
                let name = name.reference.familiar();
                Err(Error::new(Kind::Conflict, format!("cannot remove {}: it is named `{name}`", what(id))))
            }
            _ => Ok(names),
        }
    }
}
