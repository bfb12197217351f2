//! Checking what the store holds, and making room for a repair.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ChainId, DiffId, Digest};
use robot_env_sys::fs::{self, Durability};
use rustix::fs::AtFlags;

use crate::image::path_of as image_path;
use crate::name::path_of as name_path;
use crate::{ImageRecord, NameRecord, Store, digest_of_hex, failpoint};

/// Makes a layer's tar again from its recipe and its tree (by O_PATH), and gives its digest.
pub type Verify<'a> = dyn Fn(File, BorrowedFd<'_>) -> Result<DiffId> + 'a;

/// What [`Store::fsck`] does.
#[derive(Clone, Copy, Default)]
pub struct FsckOptions<'a> {
    /// Read every file of every layer that has a recipe, and compare the tar's digest; `None`
    /// checks records, documents and that everything is there.
    pub deep: Option<&'a Verify<'a>>,
    /// Move damaged layers and documents out of the way, so that a pull or load brings just those
    /// anew, make image records again from their configs, and drop names that name nothing.
    pub repair: bool,
}

impl std::fmt::Debug for FsckOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FsckOptions")
            .field("deep", &self.deep.is_some())
            .field("repair", &self.repair)
            .finish()
    }
}

/// The sort of thing that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A manifest or config, or a blob.
    Content,
    /// A layer.
    Layer,
    /// An image's record, or a part that it needs.
    Image,
    /// A name.
    Name,
    /// A snapshot.
    Snapshot,
}

/// One thing that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What it is.
    pub what: Subject,
    /// Its name: a digest, chain id, image id, reference or key.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it was mended or moved out of the way.
    pub repaired: bool,
}

impl Damage {
    pub(crate) fn new(what: Subject, name: String, error: &Error) -> Self {
        Damage { what, name, reason: error.in_one_line(), repaired: false }
    }

    fn plain(what: Subject, name: String, reason: impl Into<String>) -> Self {
        Damage { what, name, reason: reason.into(), repaired: false }
    }
}

impl Store {
    /// Checks everything, and says what is damaged.
    pub fn fsck(&self, options: FsckOptions<'_>) -> Result<Vec<Damage>> {
        // Reading every file takes minutes: that happens without a lock.
        let differs = self.verify_layers(options)?;
        // Repairing makes things vanish: nobody may be about to use them.
        let _lock = if options.repair { self.lock_exclusive()? } else { self.lock_shared()? };
        let mut damage = Vec::new();
        self.check_content(options, &mut damage)?;
        let bad = self.check_layers(options, differs, &mut damage)?;
        self.check_images(options, &bad, &mut damage)?;
        self.check_names(options, &mut damage)?;
        self.check_snapshots(&bad, &mut damage)?;
        Ok(damage)
    }

    fn check_content(&self, options: FsckOptions<'_>, damage: &mut Vec<Damage>) -> Result<()> {
        for algorithm in ["sha256", "sha512"] {
            let dir = self.dir(&format!("content/{algorithm}"))?;
            for name in fs::names(&dir)? {
                let Some(digest) =
                    digest_of_hex(&name).filter(|digest| digest.algorithm().as_str() == algorithm)
                else {
                    damage.push(Damage::plain(
                        Subject::Content,
                        format!("content/{algorithm}/{name}"),
                        "its name is no digest",
                    ));
                    continue;
                };
                match self.check_bytes(&digest) {
                    Ok(()) => {}
                    Err(error) => {
                        let mut found = Damage::new(Subject::Content, digest.to_string(), &error);
                        if options.repair && error.kind() == Kind::Corrupt {
                            found.repaired = rustix::fs::unlinkat(&dir, &name, AtFlags::empty()).is_ok();
                        }
                        damage.push(found);
                    }
                }
            }
        }
        Ok(())
    }

    fn check_bytes(&self, digest: &Digest) -> Result<()> {
        let Some(mut file) = self.open_blob(digest)? else { return Ok(()) };
        let mut hasher = robot_env_oci::Hasher::new(digest.algorithm());
        std::io::copy(&mut file, &mut hasher)
            .map_err(|e| Error::new(Kind::Corrupt, format!("cannot read content `{digest}`")).because(e))?;
        let actual = hasher.finish();
        if actual == *digest {
            Ok(())
        } else {
            Err(Error::new(Kind::Corrupt, format!("its bytes have the digest {actual}")))
        }
    }

    /// Compares the layers' tars with their diff ids; gives those that differ or cannot be made.
    fn verify_layers(&self, options: FsckOptions<'_>) -> Result<BTreeMap<ChainId, Error>> {
        let mut differs = BTreeMap::new();
        let Some(verify) = options.deep else { return Ok(differs) };
        for chain in self.layers()? {
            // One whose record is damaged is found later; one that was removed meanwhile is fine.
            let Ok(Some(record)) = self.read_layer(&chain) else { continue };
            let check = || -> Result<()> {
                let tree = self.layer_dir(&chain)?;
                let Some(recipe) = self.open_recipe(&chain)? else { return Ok(()) };
                let actual = verify(recipe, tree.as_fd())?;
                if actual == record.diff_id {
                    return Ok(());
                }
                let reason = format!("its tar has the digest {actual} instead of {}", record.diff_id);
                Err(Error::new(Kind::Corrupt, reason))
            };
            if let Err(error) = check() {
                differs.insert(chain, error);
            }
        }
        Ok(differs)
    }

    /// Gives the damaged layers, with the reason.
    fn check_layers(
        &self,
        options: FsckOptions<'_>,
        mut differs: BTreeMap<ChainId, Error>,
        damage: &mut Vec<Damage>,
    ) -> Result<BTreeMap<ChainId, String>> {
        let mut bad = BTreeMap::new();
        for chain in self.layers()? {
            let error = match self.read_layer(&chain) {
                Err(error) => error,
                Ok(None) => continue,
                Ok(Some(_)) => match differs.remove(&chain) {
                    Some(error) => error,
                    None => continue,
                },
            };
            let mut found = Damage::new(Subject::Layer, chain.to_string(), &error);
            if options.repair {
                found.repaired = self.move_layer_aside(&chain)?;
                failpoint!("store.fsck.aside");
            }
            bad.insert(chain, found.reason.clone());
            damage.push(found);
        }
        Ok(bad)
    }

    fn check_images(
        &self,
        options: FsckOptions<'_>,
        bad: &BTreeMap<ChainId, String>,
        damage: &mut Vec<Damage>,
    ) -> Result<()> {
        for id in self.image_ids()? {
            let config = self.config(&id);
            if let Err(error) = &config {
                damage.push(Damage::new(Subject::Image, id.to_string(), error));
            }
            match self.image(&id) {
                Ok(None) => continue,
                Ok(Some(record)) => {
                    if let Some(manifest) = &record.manifest {
                        match self.content(&manifest.digest) {
                            Ok(Some(_)) => {}
                            Ok(None) => {
                                let reason = format!("its manifest `{}` is missing", manifest.digest);
                                damage.push(Damage::plain(Subject::Image, id.to_string(), reason));
                            }
                            Err(error) => damage.push(Damage::new(Subject::Image, id.to_string(), &error)),
                        }
                    }
                }
                Err(error) => {
                    let mut found = Damage::new(Subject::Image, id.to_string(), &error);
                    if options.repair
                        && let Ok(config) = &config
                    {
                        let mut record = ImageRecord::new(config);
                        record.layers =
                            config.value().chain().links().iter().map(|(_, chain)| chain.clone()).collect();
                        let sizes =
                            record.layers.iter().filter_map(|chain| self.read_layer(chain).ok().flatten());
                        record.size = sizes.map(|layer| layer.content_size).sum();
                        "fsck".clone_into(&mut record.origin);
                        self.write_record("image record", &image_path(&id), &record, Durability::Sync)?;
                        found.repaired = true;
                    }
                    damage.push(found);
                }
            }
            if let Ok(config) = &config {
                for (_, chain) in config.value().chain().links() {
                    if let Some(reason) = bad.get(chain) {
                        let reason = format!("its layer `{chain}` is damaged: {reason}");
                        damage.push(Damage::plain(Subject::Image, id.to_string(), reason));
                    } else if matches!(self.read_layer(chain), Ok(None)) {
                        damage.push(Damage::plain(
                            Subject::Image,
                            id.to_string(),
                            format!("its layer `{chain}` is missing"),
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_names(&self, options: FsckOptions<'_>, damage: &mut Vec<Damage>) -> Result<()> {
        for file in self.record_names("names")? {
            let path = format!("names/{file}.json");
            let found = match self.read_record::<NameRecord>("name of an image", &path) {
                Ok(None) => None,
                Ok(Some(record)) if name_path(&record.reference) != path => Some(Damage::plain(
                    Subject::Name,
                    file.clone(),
                    format!("its file belongs to another name, `{}`", record.reference),
                )),
                Ok(Some(record)) => {
                    let there =
                        rustix::fs::statat(&self.root, image_path(&record.image), AtFlags::SYMLINK_NOFOLLOW)
                            .is_ok();
                    (!there).then(|| {
                        Damage::plain(
                            Subject::Name,
                            record.reference.to_string(),
                            format!("it names image `{}`, which is missing", record.image),
                        )
                    })
                }
                Err(error) => Some(Damage::new(Subject::Name, file.clone(), &error)),
            };
            if let Some(mut found) = found {
                if options.repair {
                    found.repaired = self.remove_record("name of an image", &path, Durability::NoSync)?;
                }
                damage.push(found);
            }
        }
        Ok(())
    }

    fn check_snapshots(&self, bad: &BTreeMap<ChainId, String>, damage: &mut Vec<Damage>) -> Result<()> {
        for key in self.snapshot_keys()? {
            match self.snapshot_record(&key) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    for chain in &record.layers {
                        if let Some(reason) = bad.get(chain) {
                            let reason = format!("its layer `{chain}` is damaged: {reason}");
                            damage.push(Damage::plain(Subject::Snapshot, key.to_string(), reason));
                        } else if matches!(self.read_layer(chain), Ok(None)) {
                            damage.push(Damage::plain(
                                Subject::Snapshot,
                                key.to_string(),
                                format!("its layer `{chain}` is missing"),
                            ));
                        }
                    }
                }
                Err(error) => damage.push(Damage::new(Subject::Snapshot, key.to_string(), &error)),
            }
        }
        Ok(())
    }
}
