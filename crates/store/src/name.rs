//! Names of images: `repository:tag` and `repository@digest`.

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{Digest, ImageId, Reference};
use robot_env_sys::fs::Durability;
use serde::{Deserialize, Serialize};

use crate::image::what as what_image;
use crate::{Store, failpoint, now};

/// A name of an image: `names/<sha256 of the reference>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// The name, with either a tag or a digest.
    pub reference: Reference,
    /// What it names.
    pub image: ImageId,
    /// The digest of the manifest or index that the name stood for when it was pulled or pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
    /// When it was given, in nanoseconds since the Unix epoch.
    #[serde(default)]
    pub updated: u64,
}

/// What [`Store::untag`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untagged {
    /// The image that lost names.
    pub image: ImageId,
    /// The names that went: the one that was given, and with a repository's last tag its digests.
    pub references: Vec<Reference>,
    /// How many names the image still has.
    pub remaining: usize,
}

pub(crate) fn path_of(reference: &Reference) -> String {
    format!("names/{}.json", Digest::of(reference.to_string().as_bytes()).hex())
}

fn what(reference: &Reference) -> String {
    format!("name `{}`", reference.familiar())
}

/// A name with either a tag or a digest: the digest outweighs a tag, and `latest` stands for neither.
pub(crate) fn normal(reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => Reference::with_digest(reference.repository().clone(), digest.clone()),
        None => reference.clone().or_latest(),
    }
}

impl Store {
    /// Gives an image a name, which may have named another one before. With `manifest_digest` (what
    /// the name stands for in its registry), the image is also named `repository@digest`. It is on
    /// the disk when this returns.
    ///
    /// Errors: `NotFound` when the image is not here; `NoSpace`.
    pub fn tag(
        &self,
        reference: &Reference,
        image: &ImageId,
        manifest_digest: Option<&Digest>,
    ) -> Result<()> {
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        if self.image(image)?.is_none() {
            return Err(Error::not_found(format!(
                "cannot name {}: it is not in the store",
                what_image(image)
            )));
        }
        self.write_name(reference, image, manifest_digest)
    }

    /// Writes the record of a name. The caller holds the lock of images, and the image is here.
    pub(crate) fn write_name(
        &self,
        reference: &Reference,
        image: &ImageId,
        manifest_digest: Option<&Digest>,
    ) -> Result<()> {
        let reference = normal(reference);
        let record = |reference: &Reference| NameRecord {
            reference: reference.clone(),
            image: image.clone(),
            manifest_digest: manifest_digest.or(reference.digest()).cloned(),
            updated: now(),
        };
        if let Some(digest) = manifest_digest
            && reference.digest() != Some(digest)
        {
            let by_digest = Reference::with_digest(reference.repository().clone(), digest.clone());
            self.write_record(
                &what(&by_digest),
                &path_of(&by_digest),
                &record(&by_digest),
                Durability::Sync,
            )?;
            failpoint!("store.tag.digest");
        }
        self.write_record(&what(&reference), &path_of(&reference), &record(&reference), Durability::Sync)?;
        failpoint!("store.tag.done");
        Ok(())
    }

    /// The record of one name; a name without tag and digest means `latest`.
    pub fn name(&self, reference: &Reference) -> Result<Option<NameRecord>> {
        let reference = normal(reference);
        let Some(record) = self.read_record::<NameRecord>(&what(&reference), &path_of(&reference))? else {
            return Ok(None);
        };
        if record.reference != reference {
            return Err(Error::new(
                Kind::Corrupt,
                format!("cannot read {}: its record is damaged", what(&reference)),
            ));
        }
        Ok(Some(record))
    }

    /// All names, sorted; damaged ones are left out: see [`Store::fsck`].
    pub fn names(&self) -> Result<Vec<NameRecord>> {
        let mut names: Vec<NameRecord> = Vec::new();
        for file in self.record_names("names")? {
            match self.read_record::<NameRecord>("name of an image", &format!("names/{file}.json")) {
                Ok(Some(record)) if path_of(&record.reference) == format!("names/{file}.json") => {
                    names.push(record);
                }
                Ok(_) => {}
                Err(error) if error.kind() == Kind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        names.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(names)
    }

    /// Takes a name away. With the last tag of its repository that an image has, the image's digest
    /// names in that repository go too, as users of Docker know it. The image itself stays.
    ///
    /// Errors: `NotFound`.
    pub fn untag(&self, reference: &Reference) -> Result<Untagged> {
        let reference = normal(reference);
        let _lock = self.lock_shared()?;
        let _images = self.lock_images()?;
        let record = self.name(&reference)?.ok_or_else(|| {
            Error::not_found(format!("cannot remove {}: there is no such name", what(&reference)))
        })?;
        let (mut siblings, others): (Vec<NameRecord>, Vec<NameRecord>) = self
            .names()?
            .into_iter()
            .filter(|name| name.image == record.image && name.reference != reference)
            .partition(|name| name.reference.repository() == reference.repository());
        let mut references = vec![reference.clone()];
        let last_tag =
            reference.tag().is_some() && siblings.iter().all(|name| name.reference.tag().is_none());
        if last_tag {
            references.extend(siblings.drain(..).map(|name| name.reference));
        }
        for name in &references {
            self.remove_name(name, Durability::NoSync)?;
            failpoint!("store.untag.removed");
        }
        robot_env_sys::fs::sync_directory(self.dir("names")?)?;
        Ok(Untagged { image: record.image, references, remaining: siblings.len() + others.len() })
    }

    pub(crate) fn remove_name(&self, reference: &Reference, durability: Durability) -> Result<bool> {
        self.remove_record(&what(reference), &path_of(reference), durability)
    }
}
