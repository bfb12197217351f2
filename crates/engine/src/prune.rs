//! What nothing needs: finding it, what it takes, and taking it away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use jiff::Timestamp;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_oci::{ChainId, ImageId, Reference};
use robot_env_store::ImageRecord;
use robot_env_sys::fs as sys_fs;
use robot_env_sys::lock;

use crate::engine::Engine;
use crate::record::State;
use crate::records::Container;
use crate::remove::RemoveContainerOptions;
use crate::volume::Volume;

/// How long `run` may take from making a container to starting it.
const A_MOMENT: Duration = Duration::from_secs(2);

/// What was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids or names, in order.
    pub names: Vec<String>,
    /// Bytes that are free now, or will be when the trash is empty.
    pub bytes: u64,
}

/// As long as this lives, no container is made.
#[derive(Debug)]
pub struct HoldOff {
    _claim: File,
}

/// An image with its names and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub image: ImageRecord,
    /// Its names.
    pub names: Vec<Reference>,
    /// Bytes of layers that other images have, too.
    pub shared: u64,
    /// How many containers use it.
    pub containers: usize,
}

/// A volume and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// The volume.
    pub volume: Volume,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many containers have it.
    pub containers: usize,
}

/// What everything takes.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Images, the newest first.
    pub images: Vec<ImageUsage>,
    /// Bytes of all layers; one that several images share counts once.
    pub layers: u64,
    /// Of them, those that no container needs.
    pub unused_layers: u64,
    /// Containers, the newest first, with the bytes that each has written.
    pub containers: Vec<(Container, u64)>,
    /// Volumes, by name.
    pub volumes: Vec<VolumeUsage>,
}

impl Engine {
    /// Removes the containers that do not run and that `wanted` takes, the newest first. Volumes
    /// stay, and so does a container that was made a moment ago: somebody is about to start it.
    pub fn prune_containers(&self, wanted: impl Fn(&Container) -> bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for container in self.prunable(wanted)? {
            let id = container.record.id.as_str();
            let bytes = self.sizes(&container)?.0;
            match self.remove(id, RemoveContainerOptions::default()) {
                Ok(_) => {
                    pruned.names.push(id.to_owned());
                    pruned.bytes += bytes;
                }
                // Started or removed meanwhile.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// What [`Engine::prune_containers`] would remove now.
    pub fn prunable(&self, wanted: impl Fn(&Container) -> bool) -> Result<Vec<Container>> {
        let mut all = self.containers()?;
        all.retain(|container| {
            let starts = container.state.state == State::Created
                && (Timestamp::now().duration_since(container.record.created).unsigned_abs() < A_MOMENT
                    || (container.record.starts_at_once
                        && self.records.try_lock(&container.record.id).is_ok_and(|free| free.is_none())));
            !starts && !container.state.state.is_active() && wanted(container)
        });
        Ok(all)
    }

    /// Removes the volumes that no container has and that `wanted` takes, with what is in them.
    pub fn prune_volumes(&self, wanted: impl Fn(&Volume) -> bool) -> Result<Pruned> {
        // Nobody is about to be given one.
        let _claim = self.claim(true)?;
        let users = self.volume_users()?;
        self.check_records().within(|| "cannot tell which volumes are unused".into())?;
        let mut pruned = Pruned::default();
        for volume in self.volumes()? {
            if users.contains_key(&volume.name) || !wanted(&volume) {
                continue;
            }
            let bytes = volume_bytes(&volume);
            self.discard_volume(&volume.name, true)?;
            pruned.names.push(volume.name);
            pruned.bytes += bytes;
        }
        Ok(pruned)
    }

    /// The images that containers, running or not, were made from or have mounted, each with their
    /// number.
    ///
    /// # Errors
    /// Where a container's record cannot be read: nobody knows what it needs.
    pub fn images_in_use(&self) -> Result<BTreeMap<ImageId, usize>> {
        self.check_records().within(|| "cannot tell which images are unused".into())?;
        // Read as they stand: whoever puts dead ones right may have to wait for who asks here.
        let all: Vec<Container> =
            self.records.ids()?.iter().filter_map(|id| self.records.load(id).ok()).collect();
        Ok(images_of(&all))
    }

    /// What images, containers and volumes take.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let containers = self.containers()?;
        let in_use = images_of(&containers);
        let names = self.store.names()?;
        let mut images = self.store.images()?;
        images.sort_by(|a, b| (b.pulled_at, &b.id).cmp(&(a.pulled_at, &a.id)));
        let mut needed: BTreeSet<ChainId> =
            self.store.snapshots()?.into_iter().flat_map(|snapshot| snapshot.layers).collect();
        let mut users: BTreeMap<ChainId, usize> = BTreeMap::new();
        for image in &images {
            for chain in &image.layers {
                *users.entry(chain.clone()).or_default() += 1;
            }
            if in_use.contains_key(&image.id) {
                needed.extend(image.layers.iter().cloned());
            }
        }
        // Those of removed images are nobody's now.
        let mut known: BTreeSet<ChainId> = self.store.cached_layers()?;
        known.extend(needed.iter().chain(users.keys()).cloned());
        let kept = self.store.kept_images()?.into_iter().flat_map(|kept| kept.image.layers);
        let removed: BTreeSet<ChainId> = kept.filter(|chain| !known.contains(chain)).collect();
        let mut usage = DiskUsage::default();
        let mut sizes: BTreeMap<ChainId, u64> = BTreeMap::new();
        for chain in self.store.layers()? {
            if removed.contains(&chain) {
                continue;
            }
            let Ok(Some(layer)) = self.store.layer(&chain) else { continue };
            usage.layers += layer.content_size;
            if !needed.contains(&chain) {
                usage.unused_layers += layer.content_size;
            }
            sizes.insert(chain, layer.content_size);
        }
        usage.images = images
            .into_iter()
            .map(|image| {
                let own = names.iter().filter(|name| name.image == image.id);
                let shared = image.layers.iter().filter(|chain| users.get(*chain).is_some_and(|n| *n > 1));
                ImageUsage {
                    names: own.map(|name| name.reference.clone()).collect(),
                    shared: shared.filter_map(|chain| sizes.get(chain)).sum(),
                    containers: in_use.get(&image.id).copied().unwrap_or(0),
                    image,
                }
            })
            .collect();
        for container in containers {
            let bytes = self.sizes(&container)?.0;
            usage.containers.push((container, bytes));
        }
        usage.volumes = self.volume_usage()?;
        Ok(usage)
    }

    /// What volumes take, and how many containers have each.
    pub fn volume_usage(&self) -> Result<Vec<VolumeUsage>> {
        let users = self.volume_users()?;
        let usage = |volume: Volume| VolumeUsage {
            bytes: volume_bytes(&volume),
            containers: users.get(&volume.name).map_or(0, Vec::len),
            volume,
        };
        Ok(self.volumes()?.into_iter().map(usage).collect())
    }

    /// Holds off the making of containers, so that what is unused now stays so while it is taken
    /// away.
    pub fn hold_off(&self) -> Result<HoldOff> {
        Ok(HoldOff { _claim: self.claim(true)? })
    }

    /// Keeps images and volumes from being taken away as unused while a container is made of them
    /// whose record does not say so yet; or, `exclusive`, keeps containers from being made meanwhile.
    /// Held as long as the file is open, and never while a container is waited for or put right:
    /// one that removes itself claims, too.
    pub(crate) fn claim(&self, exclusive: bool) -> Result<File> {
        let file = self.open_claims()?;
        let locked = if exclusive { lock::lock_exclusive(&file) } else { lock::lock_shared(&file) };
        locked.map_err(Error::from).within(|| format!("cannot lock `{}`", self.paths.claims().display()))?;
        Ok(file)
    }

    /// [`Engine::claim`], exclusive, if nobody has claimed; `None` otherwise.
    pub(crate) fn try_claim(&self) -> Result<Option<File>> {
        let file = self.open_claims()?;
        let free = lock::try_lock_exclusive(&file).map_err(Error::from);
        let free = free.within(|| format!("cannot lock `{}`", self.paths.claims().display()))?;
        Ok(free.then_some(file))
    }

    fn open_claims(&self) -> Result<File> {
        let path = self.paths.claims();
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .io_context(|| format!("cannot lock `{}`", path.display()))
    }
}

fn images_of(containers: &[Container]) -> BTreeMap<ImageId, usize> {
    let mut images = BTreeMap::new();
    for container in containers {
        let record = &container.record;
        let mounted = record.mounts.iter().filter(|mount| mount.kind == "image");
        let mut own: BTreeSet<ImageId> = mounted.filter_map(|mount| mount.source.parse().ok()).collect();
        own.insert(record.image.clone());
        for image in own {
            *images.entry(image).or_default() += 1;
        }
    }
    images
}

/// Bytes of a volume's files; 0 for one that cannot be read.
pub(crate) fn volume_bytes(volume: &Volume) -> u64 {
    let measure = || -> Result<u64> {
        let directory = sys_fs::open_directory(&volume.path)?;
        Ok(robot_env_layer::usage(directory.as_fd())?.bytes)
    };
    measure().unwrap_or(0)
}
