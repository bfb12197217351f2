//! Reading caches.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_oci::{
    AnyManifest, ChainId, Descriptor, Digest, Index, MANIFEST_LIMIT, Manifest, Platform, Repository, Verified,
};
use robot_env_registry::{Client, Document as Served};
use robot_env_store::{CacheRecord, LayerSource, Store};
use robot_env_transfer::{Known, Unpacker, ownership};

use super::{ARTIFACT, CacheSource, Document, INLINE, Step, TAG};

/// The name of a tag in an OCI layout.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A cache that was opened: what it has is known, nothing of it has come yet.
pub(crate) struct Import {
    place: Place,
    layers: Vec<Found>,
    steps: HashMap<Digest, Step>,
}

/// A layer of a cache.
struct Found {
    chain: ChainId,
    diff_id: robot_env_oci::DiffId,
    below: Option<usize>,
    blob: Option<Descriptor>,
}

/// Where blobs are.
enum Place {
    Directory(PathBuf),
    Registry(Client, Repository),
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, why.into())
}

/// The file of a blob in an OCI layout.
pub(super) fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let within = || format!("cannot read `{}`", path.display());
    let file = File::open(path).io_context(within)?;
    let mut bytes = Vec::new();
    file.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes).io_context(within)?;
    if bytes.len() as u64 > MANIFEST_LIMIT {
        return Err(corrupt(format!("`{}` is larger than {MANIFEST_LIMIT} bytes", path.display())));
    }
    Ok(bytes)
}

impl Import {
    /// Opens a cache.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Corrupt` for what is damaged or none; those of the registry.
    pub(crate) fn open(source: &CacheSource, client: Option<&Client>, platform: &Platform) -> Result<Import> {
        let open = || match source {
            CacheSource::Local { directory, tag, digest } => {
                Import::of_directory(directory, tag.as_deref(), digest.as_ref())
            }
            CacheSource::Registry(name) => {
                let client = client
                    .ok_or_else(|| Error::new(Kind::Unsupported, "registries cannot be reached from here"))?;
                let served = client.manifest(name)?.value;
                let repository = name.repository().clone();
                let place = Place::Registry(client.clone(), repository.clone());
                match served {
                    Served::Manifest(manifest, _)
                        if manifest.value().artifact_type.as_deref() == Some(ARTIFACT) =>
                    {
                        let config = read_blob(client, &repository, &manifest.value().config)?;
                        Import::of_parts(place, manifest.value(), &config)
                    }
                    _ => {
                        let image = client.image(name, Some(platform))?;
                        let table = image.config.value().other.get(INLINE).cloned();
                        let table = table
                            .ok_or_else(|| Error::not_found("the image carries no cache of robot-env"))?;
                        let document: Document = serde_json::from_value(table)
                            .map_err(|error| corrupt("its cache cannot be read").because(error))?;
                        let chain = image.config.value().chain();
                        let blobs = &image.manifest.value().layers;
                        if blobs.len() != chain.links().len() {
                            return Err(corrupt("its manifest and its config differ"));
                        }
                        let layers = chain.links().iter().zip(blobs).enumerate().map(
                            |(at, ((diff_id, chain), blob))| Found {
                                chain: chain.clone(),
                                diff_id: diff_id.clone(),
                                below: at.checked_sub(1),
                                blob: Some(blob.clone()),
                            },
                        );
                        Import::with(place, layers.collect(), document.steps)
                    }
                }
            }
        };
        open().within(|| format!("cannot read the cache `{}`", source.shown()))
    }

    fn of_directory(directory: &Path, tag: Option<&str>, digest: Option<&Digest>) -> Result<Import> {
        let bytes = read_file(&directory.join("index.json"))?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt("its index cannot be read").because(error))?;
        let tagged = |wanted: &str| {
            let named =
                |entry: &&Descriptor| entry.annotations.get(REF_NAME).map(String::as_str) == Some(wanted);
            index.manifests.iter().rev().find(named)
        };
        let entry = match (digest, tag) {
            (Some(digest), _) => index.manifests.iter().find(|entry| entry.digest == *digest),
            (None, Some(tag)) => tagged(tag),
            (None, None) => {
                tagged(TAG).or_else(|| index.manifests.first().filter(|_| index.manifests.len() == 1))
            }
        };
        let entry = entry.ok_or_else(|| Error::not_found("it has no such tag or manifest"))?;
        let blob = |descriptor: &Descriptor| read_file(&blob_path(directory, &descriptor.digest));
        let manifest: Verified<Manifest> = Verified::check(blob(entry)?, &entry.digest)?;
        AnyManifest::parse(manifest.bytes(), Some(&entry.media_type))?;
        let manifest = manifest.into_value();
        if manifest.artifact_type.as_deref() != Some(ARTIFACT) {
            return Err(corrupt("it is no cache of robot-env"));
        }
        let config = blob(&manifest.config)?;
        Import::of_parts(Place::Directory(directory.to_owned()), &manifest, &config)
    }

    fn of_parts(place: Place, manifest: &Manifest, config: &[u8]) -> Result<Import> {
        let document: Verified<Document> = Verified::check(config.to_vec(), &manifest.config.digest)?;
        let document = document.into_value();
        let mut layers: Vec<Found> = Vec::with_capacity(document.layers.len());
        for layer in document.layers {
            let below = match layer.below {
                None => None,
                Some(at) => {
                    Some(layers.get(at).ok_or_else(|| corrupt("a layer stands on none"))?.chain.clone())
                }
            };
            let blob = match layer.blob {
                None => None,
                Some(at) => {
                    Some(manifest.layers.get(at).ok_or_else(|| corrupt("a layer has no blob"))?.clone())
                }
            };
            layers.push(Found {
                chain: ChainId::of(below.as_ref(), &layer.diff_id),
                diff_id: layer.diff_id,
                below: layer.below,
                blob,
            });
        }
        Import::with(place, layers, document.steps)
    }

    fn with(place: Place, layers: Vec<Found>, steps: Vec<Step>) -> Result<Import> {
        if steps.iter().any(|step| step.layer.is_some_and(|at| at >= layers.len())) {
            return Err(corrupt("a step has no layer"));
        }
        let steps = steps.into_iter().map(|step| (step.key.clone(), step)).collect();
        Ok(Import { place, layers, steps })
    }

    /// The blobs of its layers that have one.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (&ChainId, &Descriptor)> {
        self.layers.iter().filter_map(|layer| Some((&layer.chain, layer.blob.as_ref()?)))
    }

    /// Brings what a step came to into the store; `None` where the cache does not have the step, or
    /// a base that it stands on is not here.
    ///
    /// # Errors
    /// `Corrupt` for a damaged layer; those of the place; `NoSpace`.
    pub(crate) fn bring(&self, store: &Store, key: &Digest) -> Result<Option<CacheRecord>> {
        let Some(step) = self.steps.get(key) else { return Ok(None) };
        let mut missing = Vec::new();
        let mut next = step.layer;
        while let Some(at) = next {
            let layer = &self.layers[at];
            if store.layer(&layer.chain)?.is_some() {
                break;
            }
            if layer.blob.is_none() {
                return Ok(None);
            }
            missing.push(layer);
            next = layer.below;
        }
        let unpacker = Unpacker::new(store, ownership());
        for layer in missing.iter().rev() {
            self.fetch(&unpacker, layer)
                .within(|| format!("cannot bring layer `{}` of a cache", layer.diff_id.short()))?;
        }
        let record = step.record(step.layer.map(|at| self.layers[at].chain.clone()));
        store.put_cached(key, &record)?;
        Ok(Some(record))
    }

    fn fetch(&self, unpacker: &Unpacker<'_>, layer: &Found) -> Result<()> {
        let Some(blob) = &layer.blob else { return Ok(()) };
        let known = Known { blob: Some(blob), diff_id: Some(&layer.diff_id) };
        let mut unpacked = match &self.place {
            Place::Directory(directory) => {
                let path = blob_path(directory, &blob.digest);
                let file = File::open(&path).io_context(|| format!("cannot open `{}`", path.display()))?;
                unpacker.unpack(file.take(blob.size), known)
            }
            Place::Registry(client, repository) => unpacker.unpack(client.blob(repository, blob, 0)?, known),
        }
        .map_err(Error::from)?;
        unpacked.parent = layer.below.map(|at| self.layers[at].chain.clone());
        if let Place::Registry(_, repository) = &self.place {
            unpacked.sources =
                vec![LayerSource { descriptor: blob.clone(), repository: repository.to_string() }];
        }
        unpacker.commit(vec![unpacked])
    }
}

fn read_blob(client: &Client, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>> {
    if descriptor.size > MANIFEST_LIMIT {
        return Err(corrupt(format!("its table is larger than {MANIFEST_LIMIT} bytes")));
    }
    let mut bytes = Vec::new();
    let mut reader = client.blob(repository, descriptor, 0)?;
    reader.read_to_end(&mut bytes).map_err(robot_env_registry::error_of)?;
    Ok(bytes)
}
