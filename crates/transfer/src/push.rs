//! Push: from the store into a registry.
//!
//! An image that came with a manifest goes out with the very same one wherever its layers' blobs
//! can be had: in the target already, in another repository of the same registry, or in the
//! registry that they came from. A layer of which no blob can be had is made again from its recipe
//! and compressed anew; where that gives another blob, or the image was made here, a new manifest
//! is written and kept with the image. The manifest goes last.

pub(crate) mod blob;
mod gzip;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::Compression;
use robot_env_oci::{
    AnyManifest, ChainId, Descriptor, Digest, ImageConfig, Manifest, Platform, Reference, Verified,
    media_type,
};
use robot_env_registry::{Client, Expected};
use robot_env_store::{ImageRecord, LayerRecord, LayerSource, Store};

use crate::Observer;

/// See [`crate::pull`].
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many layers are sent at a time.
const AT_ONCE: usize = 3;

/// How an image is pushed.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// The platform that the image must have; any where there is none.
    pub platform: Option<Platform>,
}

/// A pushed image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name, with its tag.
    pub reference: Reference,
    /// The digest of the manifest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// One layer of an image that is pushed.
#[derive(Clone, Debug)]
struct Outgoing {
    record: LayerRecord,
    /// What the image's manifest says that its blob is.
    wanted: Option<Descriptor>,
}

impl Outgoing {
    /// What the observer knows it by.
    fn item(&self) -> &str {
        self.record.diff_id.short()
    }
}

/// Pushes the image that `reference` names here to the registry and repository of that name.
///
/// The observer hears Docker's words: `The push refers to repository …`, then for each layer, by
/// its short diff id, `Preparing`, and in the end `Layer already exists`, `Mounted from …`, or
/// `Pushing` and `Pushed`.
///
/// Errors: `NotFound` when there is no such name here, `InvalidInput` for a reference with a digest,
/// `Corrupt` when a layer here is damaged; those of the registry.
pub fn push(
    store: &Store,
    client: &Client,
    reference: &Reference,
    options: &PushOptions,
    observer: &dyn Observer,
) -> Result<Pushed> {
    let reference = reference.clone().or_latest();
    Push { store, client, reference: &reference, options, observer }
        .run()
        .within(|| format!("cannot push image `{}`", reference.familiar()))
}

/// Pushes images as one image for several platforms: each by its digest, and an index of them as
/// `reference`. No name here changes.
///
/// Errors: those of [`push`].
pub fn push_index(
    store: &Store,
    client: &Client,
    reference: &Reference,
    images: &[ImageRecord],
    annotations: BTreeMap<String, String>,
    observer: &dyn Observer,
) -> Result<Pushed> {
    let reference = reference.clone().or_latest();
    let options = PushOptions::default();
    Push { store, client, reference: &reference, options: &options, observer }
        .index(images, annotations)
        .within(|| format!("cannot push image `{}`", reference.familiar()))
}

/// Makes the config and the manifest of an artefact of its layers' blobs.
pub type MakeDocuments<'a> = dyn FnMut(&[Descriptor]) -> Result<(Vec<u8>, Vec<u8>)> + 'a;

/// Pushes layers that are no image: `make` is told their blobs, in the order of `chains`, and gives
/// the config and the manifest.
///
/// Errors: those of [`push`].
pub fn push_artefact(
    store: &Store,
    client: &Client,
    reference: &Reference,
    chains: &[ChainId],
    make: &mut MakeDocuments<'_>,
    observer: &dyn Observer,
) -> Result<Pushed> {
    let reference = reference.clone().or_latest();
    let options = PushOptions::default();
    Push { store, client, reference: &reference, options: &options, observer }
        .artefact(chains, make)
        .within(|| format!("cannot push `{}`", reference.familiar()))
}

struct Push<'a> {
    store: &'a Store,
    client: &'a Client,
    reference: &'a Reference,
    options: &'a PushOptions,
    observer: &'a dyn Observer,
}

impl Push<'_> {
    fn run(&self) -> Result<Pushed> {
        if self.reference.digest().is_some() {
            return Err(Error::invalid("a name with a digest cannot be pushed; push a tag"));
        }
        let _lease = self.store.lease(LEASE)?;
        let name = self.store.name(self.reference)?.ok_or_else(|| {
            let (repository, tag) = (self.reference.repository().familiar(), self.reference.tag());
            Error::not_found(format!("no image here is named `{repository}:{}`", tag.unwrap_or_default()))
        })?;
        let record = self.store.image(&name.image)?.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("image `{}`, which it names, is missing", name.image.short()))
        })?;
        let (bytes, descriptor) = self.image(&record, self.reference)?;
        if name.manifest_digest.as_ref() != Some(&descriptor.digest) {
            self.store.tag(self.reference, &record.id, Some(&descriptor.digest))?;
        }
        let reference = self.reference.clone();
        Ok(Pushed { reference, digest: descriptor.digest, size: bytes.len() as u64 })
    }

    /// Sends an image, and its manifest as `reference`; a reference without a tag stands for the
    /// manifest's digest.
    fn image(&self, record: &ImageRecord, reference: &Reference) -> Result<(Vec<u8>, Descriptor)> {
        let config = self.store.config(&record.id)?;
        let platform = &config.value().platform;
        if let Some(wanted) = &self.options.platform
            && !platform.satisfies(wanted)
        {
            return Err(Error::not_found(format!(
                "it is for platform `{platform}` only, and not for `{wanted}`"
            )));
        }
        let known = self.known_manifest(record, &config)?;
        let layers = self.layers(&config, known.as_ref())?;
        let repository = self.reference.repository();
        self.observer.message(&format!("The push refers to repository [{repository}]"));
        for layer in layers.iter().rev() {
            self.observer.step(layer.item(), "Preparing", None);
        }
        let blobs = self.send(&layers)?;
        self.send_config(config.digest(), config.bytes(), known.is_some())?;
        let (bytes, kind) = self.manifest(&config, known, &blobs)?;
        let digest = match reference.tag() {
            Some(_) => self.client.push_manifest(reference, &kind, &bytes)?,
            None => {
                let by_digest = Reference::with_digest(repository.clone(), Digest::of(&bytes));
                self.client.push_manifest(&by_digest, &kind, &bytes)?
            }
        };
        let descriptor = Descriptor::new(kind, digest, bytes.len() as u64);
        self.note(record, &layers, &blobs, &bytes, descriptor.clone())?;
        Ok((bytes, Descriptor { platform: Some(platform.clone()), ..descriptor }))
    }

    /// Sends images by their digests, and an index of them by the name.
    fn index(&self, images: &[ImageRecord], annotations: BTreeMap<String, String>) -> Result<Pushed> {
        let _lease = self.store.lease(LEASE)?;
        let nameless = Reference::with_digest(self.reference.repository().clone(), Digest::of(b""));
        let mut manifests = Vec::with_capacity(images.len());
        for image in images {
            manifests.push(self.image(image, &nameless)?.1);
        }
        let index = crate::layout::index(manifests, annotations);
        let bytes = crate::save::json(&index)?;
        let digest = self.client.push_manifest(self.reference, media_type::OCI_INDEX, &bytes)?;
        Ok(Pushed { reference: self.reference.clone(), digest, size: bytes.len() as u64 })
    }

    /// Sends layers, and a document that is about them as their config and manifest.
    fn artefact(&self, chains: &[ChainId], make: &mut MakeDocuments<'_>) -> Result<Pushed> {
        let _lease = self.store.lease(LEASE)?;
        let mut layers = Vec::with_capacity(chains.len());
        for chain in chains {
            let record = self.store.layer(chain)?.ok_or_else(|| missing(chain))?;
            layers.push(Outgoing { record, wanted: None });
        }
        let blobs = self.send(&layers)?;
        let (config, manifest) = make(&blobs)?;
        self.send_config(&Digest::of(&config), &config, false)?;
        let digest = self.client.push_manifest(self.reference, media_type::OCI_MANIFEST, &manifest)?;
        let repository = self.reference.repository().to_string();
        for (layer, blob) in layers.iter().zip(&blobs) {
            let source = LayerSource { descriptor: blob.clone(), repository: repository.clone() };
            let _ = self.store.add_source(&layer.record.chain_id, source);
        }
        Ok(Pushed { reference: self.reference.clone(), digest, size: manifest.len() as u64 })
    }

    /// The manifest with which the image came, if it is still here and describes it.
    fn known_manifest(
        &self,
        record: &ImageRecord,
        config: &Verified<ImageConfig>,
    ) -> Result<Option<(Verified<Manifest>, String)>> {
        let Some(descriptor) = &record.manifest else { return Ok(None) };
        let bytes = match self.store.content(&descriptor.digest) {
            Err(error) if error.kind() == Kind::Corrupt => None,
            found => found?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let Ok(AnyManifest::Manifest(_)) = AnyManifest::parse(&bytes, Some(&descriptor.media_type)) else {
            return Ok(None);
        };
        let manifest: Verified<Manifest> = Verified::check(bytes, &descriptor.digest)?;
        let fits = manifest.value().config.digest == *config.digest()
            && manifest.value().layers.len() == config.value().rootfs.diff_ids.len();
        Ok(fits.then(|| (manifest, descriptor.media_type.clone())))
    }

    fn layers(
        &self,
        config: &Verified<ImageConfig>,
        known: Option<&(Verified<Manifest>, String)>,
    ) -> Result<Vec<Outgoing>> {
        let chain = config.value().chain();
        let mut layers = Vec::with_capacity(chain.links().len());
        for (n, (_, chain)) in chain.links().iter().enumerate() {
            let record = self.store.layer(chain)?.ok_or_else(|| missing(chain))?;
            let wanted = known.map(|(manifest, _)| manifest.value().layers[n].clone());
            layers.push(Outgoing { record, wanted });
        }
        Ok(layers)
    }

    /// Sees to it that the target has a blob of each layer; gives the blobs, lowest first. The
    /// topmost is sent first: it is the one that the target least likely has.
    fn send(&self, layers: &[Outgoing]) -> Result<Vec<Descriptor>> {
        let (next, stop) = (AtomicUsize::new(layers.len()), AtomicBool::new(false));
        let blobs: Mutex<Vec<Option<Descriptor>>> = Mutex::new(vec![None; layers.len()]);
        let (failed, unreachable): (Mutex<Option<Error>>, Mutex<Vec<String>>) = Default::default();
        let fail = |error| {
            stop.store(true, Ordering::Relaxed);
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        };
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let taken = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                let Ok(n) = taken.map(|n| n - 1) else { return };
                let sender = blob::Sender {
                    store: self.store,
                    client: self.client,
                    target: self.reference.repository(),
                    observer: self.observer,
                    stop: &stop,
                    unreachable: &unreachable,
                    layer: &layers[n],
                };
                match sender.send().within(|| format!("cannot push layer `{}`", layers[n].item())) {
                    Ok(blob) => blobs.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(blob),
                    Err(error) => fail(error),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..layers.len().min(AT_ONCE) {
                if let Err(error) = std::thread::Builder::new().name("push".into()).spawn_scoped(scope, work)
                {
                    fail(Error::new(Kind::of_io(&error), "cannot start a thread").because(error));
                }
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let blobs = blobs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let blobs: Option<Vec<Descriptor>> = blobs.into_iter().collect();
        blobs.ok_or_else(|| Error::new(Kind::Internal, "a thread that sends layers stopped"))
    }

    fn send_config(&self, digest: &Digest, bytes: &[u8], perhaps_there: bool) -> Result<()> {
        let repository = self.reference.repository();
        if perhaps_there && self.client.blob_exists(repository, digest)? {
            return Ok(());
        }
        let expected = Expected { digest: Some(digest.clone()), size: Some(bytes.len() as u64) };
        let mut open = || Ok(Box::new(bytes) as Box<dyn std::io::Read>);
        self.client.push_blob(repository, &expected, &mut open, &mut |_| {})?;
        Ok(())
    }

    /// The bytes and media type of the manifest: the known one if it describes `blobs`, else a new
    /// one of the same format.
    fn manifest(
        &self,
        config: &Verified<ImageConfig>,
        known: Option<(Verified<Manifest>, String)>,
        blobs: &[Descriptor],
    ) -> Result<(Vec<u8>, String)> {
        if let Some((manifest, kind)) = known {
            let layers = &manifest.value().layers;
            if layers.iter().map(|layer| &layer.digest).eq(blobs.iter().map(|blob| &blob.digest)) {
                return Ok((manifest.bytes().to_vec(), kind));
            }
            self.observer.message(
                "The registry that the image came from does not give all of its layers: they were compressed anew, \
                 and the image gets another digest",
            );
        }
        let layers = blobs.iter().map(|blob| {
            let compression = Compression::from_media_type(&blob.media_type).unwrap_or(Compression::Gzip);
            Descriptor::new(compression.media_type(), blob.digest.clone(), blob.size)
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::new(
                media_type::OCI_CONFIG,
                config.digest().clone(),
                config.bytes().len() as u64,
            ),
            layers: layers.collect(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        Ok((Verified::make(manifest)?.bytes().to_vec(), media_type::OCI_MANIFEST.to_owned()))
    }

    /// Keeps the manifest with the image, and where its layers can be had from now on.
    fn note(
        &self,
        record: &ImageRecord,
        layers: &[Outgoing],
        blobs: &[Descriptor],
        bytes: &[u8],
        manifest: Descriptor,
    ) -> Result<()> {
        if record.manifest.as_ref() != Some(&manifest) {
            self.store.put_content(&manifest.digest, bytes)?;
            self.store.put_image(&ImageRecord { manifest: Some(manifest), ..record.clone() })?;
        }
        let repository = self.reference.repository().to_string();
        for (layer, blob) in layers.iter().zip(blobs) {
            let source = LayerSource { descriptor: blob.clone(), repository: repository.clone() };
            // It saves work later, and is no reason to fail now.
            let _ = self.store.add_source(&layer.record.chain_id, source);
        }
        Ok(())
    }
}

fn missing(chain: &ChainId) -> Error {
    Error::new(Kind::Corrupt, format!("its layer `{chain}` is missing"))
}
