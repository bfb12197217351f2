//! What was removed and can come back for some time.
//!
//! ```text
//! ROOT/removed/<until>-<id>/removed.json     `until` in milliseconds of the epoch
//! ROOT/removed/<until>-<id>/container/       what was ROOT/containers/<id>
//! ROOT/removed/<until>-<random>/volume/      what was ROOT/volumes/<name>
//! ROOT/removed/<until>-<random>/             and ROOT/kept/<random>.json, the store's: an image
//! ```
//! A container's snapshot stays where it is, so that collection leaves its layers alone; the store
//! itself does so with the layers of a kept image, of which there is no copy. Who changes
//! something here, or takes a snapshot for nobody's, has claimed exclusively.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_oci::{ChainId, Reference};
use robot_env_spec::ContainerId;
use robot_env_store::{CollectOptions, ImageRecord, NameRecord, RemoveOptions, SnapshotKey};
use robot_env_sys::fs::Durability;
use robot_env_sys::lock;
use serde::{Deserialize, Serialize};

use crate::create::random;
use crate::engine::{Engine, snapshot_key};
use crate::paths::make_directory;
use crate::record::ContainerRecord;
use crate::records::{read_json, write_json};

/// Less free space than this, or than a tenth of the file system, is too little to keep what was
/// removed.
const ENOUGH: u64 = 10 << 30;
/// How many places are told.
const PLACES: usize = 3;

/// What was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemovedKind {
    /// A container with what it had written.
    Container,
    /// A volume with what was in it.
    Volume,
    /// An image with its names.
    Image,
}

/// Something that can come back: `removed.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What it was.
    pub kind: RemovedKind,
    /// Its name; the short id of an image that had none.
    pub name: String,
    /// An image's other names.
    #[serde(default)]
    pub also: Vec<String>,
    /// A container's id, or an image's without `sha256:`; a volume's name.
    pub id: String,
    /// When it was removed.
    pub removed: Timestamp,
    /// Until when it is kept.
    pub until: Timestamp,
    /// Its bytes; of an image's those that nothing else needed.
    pub bytes: u64,
    /// Where most of them are.
    #[serde(default)]
    pub places: Vec<(String, u64)>,
    /// What was removed by one command has one.
    pub batch: String,
    #[serde(skip)]
    entry: String,
}

impl Engine {
    /// The same engine, which keeps what is removed so long; not at all by default.
    #[must_use]
    pub fn with_undo(mut self, time: Duration) -> Engine {
        self.undo = time;
        self
    }

    /// How long what is removed is kept; zero: not at all.
    pub fn undo_time(&self) -> Duration {
        self.undo
    }

    /// See [`Removed::batch`].
    pub fn batch(&self) -> &str {
        &self.batch
    }

    /// Everything that can come back, what was removed last first.
    pub fn removed(&self) -> Vec<Removed> {
        let mut all: Vec<Removed> = self
            .removed_entries()
            .into_iter()
            .filter_map(|entry| {
                let path = self.paths.removed().join(&entry);
                let found: Removed = read_json(&path.join("removed.json")).ok()??;
                let there = match found.kind.directory() {
                    Some(directory) => path.join(directory).exists(),
                    None => self.store.kept_image(&key_of(&entry)?).is_ok_and(|kept| kept.is_some()),
                };
                there.then_some(Removed { entry, ..found })
            })
            .collect();
        all.sort_by(|a, b| (b.removed, &b.name).cmp(&(a.removed, &a.name)));
        all
    }

    /// Whether a container that was removed can come back.
    pub fn is_kept(&self, id: &ContainerId) -> bool {
        self.removed_entries().iter().any(|entry| {
            id_of(entry) == id.as_str() && self.paths.removed().join(entry).join("container").exists()
        })
    }

    /// The records of the containers that can come back.
    pub(crate) fn kept_records(&self) -> impl Iterator<Item = ContainerRecord> {
        self.removed_entries().into_iter().filter_map(|entry| {
            read_json(&self.paths.removed().join(entry).join("container/container.json")).ok()?
        })
    }

    fn removed_entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.paths.removed()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Takes a container, which its caller has locked and which does not run, out of everybody's sight;
    /// false where nothing of it is worth keeping, or it cannot be kept: nothing has changed then.
    pub(crate) fn keep_container(&self, record: &ContainerRecord) -> bool {
        if self.undo.is_zero() || record.spec.auto_remove || record.spec.step.is_some() {
            return false;
        }
        let id = record.id.as_str();
        let bytes = self.written(id).map_or(0, |usage| usage.length);
        if bytes == 0 {
            return false;
        }
        let places = self.largest_written(id, PLACES).unwrap_or_default();
        let about = self.about(RemovedKind::Container, &record.name, id, bytes);
        let removed = Removed { places, ..about };
        let Ok(_claim) = self.claim(true) else { return false };
        self.put_aside(&removed, id, &self.paths.container(&record.id)).is_ok()
    }

    /// The same for a volume; the caller has claimed.
    pub(crate) fn keep_volume(&self, name: &str, directory: &Path, bytes: u64) -> bool {
        if self.undo.is_zero() || bytes == 0 {
            return false;
        }
        let Ok(unique) = random_name() else { return false };
        let removed = self.about(RemovedKind::Volume, name, name, bytes);
        self.put_aside(&removed, &unique, directory).is_ok()
    }

    /// Removes an image, with its names where they may go, and keeps it; `lost` are names that it may
    /// have lost a moment ago. Gives the names that went; `None` where it is not kept: nothing has
    /// changed then. The caller has claimed.
    ///
    /// # Errors
    /// `NotFound` where there is no such image, `Conflict` where it has names that may not go.
    pub(crate) fn keep_image(
        &self,
        image: &ImageRecord,
        lost: &[NameRecord],
        options: RemoveOptions,
    ) -> Result<Option<Vec<Reference>>> {
        if self.undo.is_zero() {
            return Ok(None);
        }
        let mut names: Vec<String> = Vec::new();
        for name in self.store.names()?.iter().chain(lost).filter(|name| name.image == image.id) {
            let name = name.reference.familiar();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        // One that is typed comes first.
        names.sort_by_key(|name| name.contains('@'));
        let mut names = names.into_iter();
        let name = names.next().unwrap_or_else(|| image.id.short().to_owned());
        let about = self.about(RemovedKind::Image, &name, image.id.hex(), self.bytes_of_its_own(image)?);
        let removed = Removed { also: names.collect(), ..about };
        let unique = random_name()?;
        // On a disk that is full nothing can be written, and removing must work.
        let Ok(entry) = self.make_entry(&removed, &unique) else { return Ok(None) };
        match self.store.keep_image(&image.id, &unique.parse()?, lost, options) {
            Ok(names) => Ok(Some(names)),
            Err(error) => {
                let _ = fs::remove_dir_all(&entry);
                if matches!(error.kind(), Kind::NotFound | Kind::Conflict) { Err(error) } else { Ok(None) }
            }
        }
    }

    /// Bytes of the layers that nothing but this image needs.
    fn bytes_of_its_own(&self, image: &ImageRecord) -> Result<u64> {
        let others = self.store.images()?.into_iter().filter(|other| other.id != image.id);
        let mut needed: BTreeSet<ChainId> = others.flat_map(|other| other.layers).collect();
        needed.extend(self.store.snapshots()?.into_iter().flat_map(|snapshot| snapshot.layers));
        needed.extend(self.store.cached_layers()?);
        let own = image.layers.iter().filter(|chain| !needed.contains(*chain));
        Ok(own.filter_map(|chain| self.store.layer(chain).ok()?).map(|layer| layer.content_size).sum())
    }

    fn about(&self, kind: RemovedKind, name: &str, id: &str, bytes: u64) -> Removed {
        let now = Timestamp::now();
        let until = now.checked_add(jiff::SignedDuration::try_from(self.undo).unwrap_or_default());
        Removed {
            kind,
            name: name.to_owned(),
            also: Vec::new(),
            id: id.to_owned(),
            removed: now,
            until: until.unwrap_or(now),
            bytes,
            places: Vec::new(),
            batch: self.batch.clone(),
            entry: String::new(),
        }
    }

    /// One rename takes it from where it is.
    fn put_aside(&self, removed: &Removed, unique: &str, directory: &Path) -> Result<()> {
        let entry = self.make_entry(removed, unique)?;
        let moved = fs::rename(directory, entry.join(removed.kind.directory().unwrap_or_default()))
            .io_context(|| format!("cannot move `{}`", directory.display()));
        if moved.is_err() {
            let _ = fs::remove_dir_all(&entry);
        }
        moved
    }

    /// An entry that says what it is for, with nothing in it so far.
    fn make_entry(&self, removed: &Removed, unique: &str) -> Result<PathBuf> {
        let all = self.paths.removed();
        make_directory(&all, 0o700)?;
        let entry = all.join(format!("{}-{unique}", removed.until.as_millisecond()));
        make_directory(&entry, 0o700)?;
        if let Err(error) = write_json(&entry, "removed.json", removed, Durability::Sync) {
            let _ = fs::remove_dir_all(&entry);
            return Err(error);
        }
        Ok(entry)
    }

    /// Brings something back; gives the name that it has now: another one where its own is taken,
    /// for an image its short id where all are. A container's volumes come with it.
    ///
    /// # Errors
    /// `NotFound` when its time is over; `Conflict` for a volume whose name is taken.
    pub fn undo(&self, removed: &Removed) -> Result<String> {
        match removed.kind {
            RemovedKind::Container => self.bring_container_back(removed),
            RemovedKind::Volume => {
                let _claim = self.claim(true)?;
                self.bring_volume_back(removed)?;
                Ok(removed.name.clone())
            }
            RemovedKind::Image => self.bring_image_back(removed),
        }
    }

    fn bring_image_back(&self, removed: &Removed) -> Result<String> {
        let fail = || format!("cannot bring image `{}` back", removed.name);
        let _claim = self.claim(true)?;
        let gone = || Error::not_found(format!("{}: its time is over", fail()));
        let restored = self.store.restore_image(&key_of(&removed.entry).ok_or_else(gone)?).within(fail)?;
        let _ = fs::remove_dir_all(self.paths.removed().join(&removed.entry));
        let id = restored.image.id;
        self.tell_of("image", "undo", &id.to_string(), [("name".to_owned(), removed.name.clone())].into());
        let names: Vec<String> = restored.names.iter().map(Reference::familiar).collect();
        let own = names.iter().find(|name| **name == removed.name).or(names.first());
        Ok(own.cloned().unwrap_or_else(|| id.short().to_owned()))
    }

    fn bring_container_back(&self, removed: &Removed) -> Result<String> {
        let entry = self.paths.removed().join(&removed.entry);
        let directory = entry.join("container");
        let gone =
            || Error::not_found(format!("cannot bring container `{}` back: its time is over", removed.name));
        let file =
            fs::OpenOptions::new().read(true).write(true).open(directory.join("lock")).map_err(|_| gone())?;
        // The container's lock, before anybody can see it: as everywhere it is taken before a claim.
        lock::lock_exclusive(file.as_fd()).context(Kind::Internal, || "cannot lock it".into())?;
        let claim = self.claim(true)?;
        let mut record: ContainerRecord = read_json(&directory.join("container.json"))?.ok_or_else(gone)?;
        let key = snapshot_key(&record.id);
        if !self.store.snapshot_keys()?.contains(&key) {
            return Err(gone().because(Error::new(Kind::Corrupt, "what it had written is gone")));
        }
        let volumes: Vec<&str> = record.mounts.iter().filter_map(|mount| mount.volume.as_deref()).collect();
        for volume in self.removed().iter().filter(|other| other.kind == RemovedKind::Volume) {
            if volumes.contains(&volume.id.as_str()) && self.volume(&volume.id).is_err() {
                self.bring_volume_back(volume)?;
            }
        }
        let place = self.paths.container(&record.id);
        fs::rename(&directory, &place).io_context(|| format!("cannot move `{}`", directory.display()))?;
        let own = record.name.clone();
        let mut number = 0;
        let taken = loop {
            match self.records.take_name(&record.name, &record.id) {
                Err(error) if error.kind() == Kind::Conflict && number < 1000 => {
                    number += 1;
                    record.name = format!("{own}-{number}");
                }
                done => break done,
            }
        };
        if let Err(error) = taken.and_then(|()| if number > 0 { self.records.save(&record) } else { Ok(()) })
        {
            self.records.free_name(&record.name, &record.id);
            let _ = fs::rename(&place, &directory);
            return Err(error);
        }
        let _ = fs::remove_dir_all(&entry);
        drop(claim);
        self.tell(&record, "undo", &[]);
        Ok(record.name)
    }

    /// The caller has claimed.
    fn bring_volume_back(&self, removed: &Removed) -> Result<()> {
        let entry = self.paths.removed().join(&removed.entry);
        let fail = || format!("cannot bring volume `{}` back", removed.name);
        if self.volume(&removed.id).is_ok() {
            return Err(Error::new(Kind::Conflict, format!("{}: there is a new one of that name", fail())));
        }
        fs::rename(entry.join("volume"), self.paths.volumes().join(&removed.id)).io_context(fail)?;
        let _ = fs::remove_dir_all(&entry);
        let driver = [("driver".to_owned(), "local".to_owned())].into();
        self.tell_of("volume", "undo", &removed.id, driver);
        Ok(())
    }

    /// Lets something go for good; its space comes back when the trash is emptied.
    ///
    /// # Errors
    /// Where it cannot be moved to the trash. What is gone already is no error.
    pub fn let_go(&self, removed: &[Removed]) -> Result<()> {
        let _claim = self.claim(true)?;
        self.discard_entries(removed.iter().map(|removed| removed.entry.as_str()))
    }

    /// The caller has claimed.
    fn discard_entries<'e>(&self, entries: impl Iterator<Item = &'e str>) -> Result<()> {
        let mut images = false;
        for entry in entries {
            if let Some(key) = key_of(entry)
                && self.store.kept_image(&key).is_ok_and(|kept| kept.is_some())
            {
                self.store.discard_kept(&key)?;
                images = true;
            }
            self.discard_entry(entry)?;
        }
        if images {
            self.store.collect(&CollectOptions::default())?;
        }
        Ok(())
    }

    /// The caller has claimed.
    fn discard_entry(&self, entry: &str) -> Result<()> {
        let path = self.paths.removed().join(entry);
        // A kill may have left an entry whose container is still, or again, in its place.
        if let Ok(id) = id_of(entry).parse::<ContainerId>()
            && !self.paths.container(&id).exists()
        {
            self.store.remove_snapshot(&snapshot_key(&id))?;
        }
        match fs::rename(&path, self.paths.root().join("trash").join(random_name()?)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.io_context(|| format!("cannot move `{}`", path.display())),
        }
    }

    /// Lets go what has been kept long enough, and where the disk gets full the oldest of the rest.
    /// Gives how many went. Waits for nobody: what is busy goes the next time.
    ///
    /// # Errors
    /// Where the trash cannot be read, or something cannot be moved to it.
    pub fn expire_removed(&self) -> Result<usize> {
        let mut entries = self.removed_entries();
        if entries.is_empty() {
            return Ok(0);
        }
        entries.sort_by_key(|entry| until_of(entry));
        let now = Timestamp::now().as_millisecond();
        // What is in the trash already will be free soon.
        let mut missing = if self.store.trash_is_empty()? { self.missing_space() } else { 0 };
        if missing == 0 && entries.iter().all(|entry| until_of(entry) > now) {
            return Ok(0);
        }
        let Some(_claim) = self.try_claim()? else { return Ok(0) };
        let mut count = 0;
        for entry in &entries {
            if until_of(entry) > now {
                if missing == 0 {
                    break;
                }
                let about = read_json::<Removed>(&self.paths.removed().join(entry).join("removed.json"));
                missing = missing.saturating_sub(about.ok().flatten().map_or(0, |removed| removed.bytes));
            }
            count += 1;
        }
        self.discard_entries(entries[..count].iter().map(String::as_str))?;
        Ok(count)
    }

    /// Bytes that are missing until there is enough free space.
    fn missing_space(&self) -> u64 {
        let Ok(found) = rustix::fs::statvfs(self.paths.root()) else { return 0 };
        missing(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    }
}

impl RemovedKind {
    /// Where it is in its entry; `None` for an image, which the store keeps.
    fn directory(self) -> Option<&'static str> {
        match self {
            RemovedKind::Container => Some("container"),
            RemovedKind::Volume => Some("volume"),
            RemovedKind::Image => None,
        }
    }
}

fn missing(total: u64, available: u64) -> u64 {
    (total / 10).min(ENOUGH).saturating_sub(available)
}

/// 0 for what is no entry of ours, which so goes at once.
fn until_of(entry: &str) -> i64 {
    entry.split_once('-').and_then(|(until, _)| until.parse().ok()).unwrap_or(0)
}

fn id_of(entry: &str) -> &str {
    entry.split_once('-').map_or("", |(_, id)| id)
}

/// By what the store would keep an entry's image.
fn key_of(entry: &str) -> Option<SnapshotKey> {
    id_of(entry).parse().ok()
}

fn random_name() -> Result<String> {
    Ok(random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What everything that this process removes has in common.
pub(crate) fn new_batch() -> String {
    format!("{}-{}", Timestamp::now().as_nanosecond(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_gets_scarce_at_a_tenth_or_ten_gibibytes() {
        const G: u64 = 1 << 30;
        for (total, available, want) in [
            (1000 * G, 500 * G, 0),
            (1000 * G, 10 * G, 0),
            (1000 * G, 4 * G, 6 * G),
            (50 * G, 5 * G, 0),
            (50 * G, G, 4 * G),
            (0, 0, 0),
        ] {
            assert_eq!(missing(total, available), want, "{available} of {total}");
        }
    }

    #[test]
    fn names_of_entries() {
        assert_eq!((until_of("1700000000-abc"), id_of("1700000000-abc")), (1_700_000_000, "abc"));
        assert_eq!((until_of("noise"), id_of("noise")), (0, ""));
    }
}
