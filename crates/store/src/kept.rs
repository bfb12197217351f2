//! Images that were removed and can come back: out of everybody's sight, their parts untouched.

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ImageId, Reference};
use robot_env_sys::fs::{self, Durability};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::image::what as what_image;
use crate::name::path_of as name_path;
use crate::{ImageRecord, NameRecord, RemoveOptions, SnapshotKey, Store, failpoint};

const DIRECTORY: &str = "kept";

/// A removed image: `kept/<key>.json`. [`Store::collect`] leaves its layers and documents alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptImage {
    /// Its record.
    pub image: ImageRecord,
    /// The names that it had.
    pub names: Vec<NameRecord>,
}

/// What [`Store::restore_image`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The image.
    pub image: ImageRecord,
    /// The names that it has again.
    pub names: Vec<Reference>,
    /// Those that another image has now.
    pub taken: Vec<Reference>,
}

fn path_of(key: &SnapshotKey) -> String {
    format!("{DIRECTORY}/{key}.json")
}

fn what(key: &SnapshotKey) -> String {
    format!("removed image `{key}`")
}

impl Store {
    /// Removes an image with its names as [`Store::remove_image`] does, and keeps its record, its
    /// names and those of `also` (which it has lost before) under `key`, on the disk when this
    /// returns. Gives the names that went.
    ///
    /// # Errors
    /// `NotFound` where the image is not here; `Conflict` when it has names and they may not go;
    /// `NoSpace`: nothing has changed then.
    pub fn keep_image(
        &self,
        id: &ImageId,
        key: &SnapshotKey,
        also: &[NameRecord],
        options: RemoveOptions,
    ) -> Result<Vec<Reference>> {
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        let image = self.image(id)?.ok_or_else(|| {
            Error::not_found(format!("cannot remove {}: it is not in the store", what_image(id)))
        })?;
        let mut names = self.names_to_go(id, options)?;
        for name in also {
            if name.image == *id && names.iter().all(|own| own.reference != name.reference) {
                names.push(name.clone());
            }
        }
        // Stores of versions that kept no images lack it.
        fs::mkdir_all_at(&self.root, DIRECTORY, 0o700)?;
        self.write_record(&what(key), &path_of(key), &KeptImage { image, names }, Durability::Sync)?;
        failpoint!("store.keep.recorded");
        self.remove_image_locked(id, options)
    }

    /// The keys of all images that can come back.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn kept_keys(&self) -> Result<Vec<SnapshotKey>> {
        let directory = match fs::open_dir_at(&self.root, DIRECTORY) {
            Err(error) if error.errno() == Errno::NOENT => return Ok(Vec::new()),
            directory => directory?,
        };
        let names = fs::names(directory)?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// One of them; `None` where there is none.
    ///
    /// # Errors
    /// `Corrupt` where its record is damaged.
    pub fn kept_image(&self, key: &SnapshotKey) -> Result<Option<KeptImage>> {
        self.read_record(&what(key), &path_of(key))
    }

    /// Brings an image back with those of its names that no other image has now.
    ///
    /// # Errors
    /// `NotFound` where it is not kept any more; as [`Store::put_image`] where a part of it is missing
    /// or damaged.
    pub fn restore_image(&self, key: &SnapshotKey) -> Result<Restored> {
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        let kept = self
            .kept_image(key)?
            .ok_or_else(|| Error::not_found(format!("cannot bring {} back: it is gone", what(key))))?;
        let image = self.write_image(&kept.image)?;
        let mut restored = Restored { image, names: Vec::new(), taken: Vec::new() };
        for name in &kept.names {
            match self.name(&name.reference) {
                Ok(Some(now)) if now.image != name.image => {
                    restored.taken.push(name.reference.clone());
                    continue;
                }
                Ok(Some(_)) => {}
                _ => {
                    let what = format!("name `{}`", name.reference.familiar());
                    self.write_record(&what, &name_path(&name.reference), name, Durability::Sync)?;
                }
            }
            restored.names.push(name.reference.clone());
            failpoint!("store.restore.named");
        }
        self.remove_record(&what(key), &path_of(key), Durability::Sync)?;
        Ok(restored)
    }

    /// Lets an image go for good; its layers go at the next [`Store::collect`].
    ///
    /// # Errors
    /// Where its record cannot be removed.
    pub fn discard_kept(&self, key: &SnapshotKey) -> Result<()> {
        let _lock = self.lock_shared()?;
        self.remove_record(&what(key), &path_of(key), Durability::NoSync).map(drop)
    }

    /// All of them; damaged ones, which can't come back, are left out.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn kept_images(&self) -> Result<Vec<KeptImage>> {
        let mut all = Vec::new();
        for key in self.kept_keys()? {
            match self.kept_image(&key) {
                Ok(kept) => all.extend(kept),
                Err(error) if error.kind() == Kind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}
