//! From the store to an archive of images.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::AsFd;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{MembersWriter, assemble};
use robot_env_oci::{
    AnyManifest, ChainId, Descriptor, Digest, Hasher, ImageConfig, Index, Manifest, Platform, Reference,
    Verified, media_type,
};
use robot_env_store::{ImageRecord, LayerRecord, Store};
use serde::Serialize;

use crate::archive::{IMAGE_NAME, REF_NAME, blob_path};
use crate::{Amount, Observer};

/// What is saved of the images.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// The platform that the images must have.
    pub platform: Option<Platform>,
}

/// Writes images as one archive that is a docker-archive and an OCI layout at once, as Docker 25 and
/// later write it. `texts` are names or ids; a name without a tag stands for all tags of its
/// repository. Every layer is made again from its recipe, and checked.
///
/// An image keeps the manifest that it came with where everything that it lists can be given;
/// otherwise it gets a new one over uncompressed layers. The same images always give the same
/// bytes. Documents stand in front of the layers, and layers stand in the order in which they are
/// unpacked, so that the archive can be loaded from a pipe.
///
/// Errors: those of [`Store::resolve`] before anything is written; `NotFound` for an image of
/// another platform; `Corrupt` naming a damaged layer.
pub fn save<W: Write>(
    store: &Store,
    texts: &[String],
    out: W,
    options: &SaveOptions,
    observer: &dyn Observer,
) -> Result<W> {
    let plan = Plan::of(store, texts, options)?;
    plan.write(store, out, observer)
}

/// An image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A file of the archive that is no document.
enum Blob {
    /// The tar of a layer, made again.
    Layer(Box<LayerRecord>),
    /// A blob that the store keeps, of so many bytes.
    Kept(u64),
}

#[derive(Default)]
struct Plan {
    listed: Vec<Listed>,
    descriptors: Vec<Descriptor>,
    documents: BTreeMap<Digest, Vec<u8>>,
    /// In the order in which they are written.
    blobs: Vec<(Digest, Blob)>,
    known: BTreeSet<Digest>,
}

impl Plan {
    fn of(store: &Store, texts: &[String], options: &SaveOptions) -> Result<Plan> {
        let mut images: Vec<(ImageRecord, Vec<Reference>)> = Vec::new();
        for text in texts {
            for (record, name) in named(store, text)? {
                match images.iter_mut().find(|(known, _)| known.id == record.id) {
                    Some((_, names)) => names.extend(name.filter(|name| !names.contains(name))),
                    None => images.push((record, name.into_iter().collect())),
                }
            }
        }
        let mut plan = Plan::default();
        for (record, names) in images {
            plan.add(store, &record, &names, options)
                .within(|| format!("cannot save image `{}`", record.id.short()))?;
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        store: &Store,
        record: &ImageRecord,
        names: &[Reference],
        options: &SaveOptions,
    ) -> Result<()> {
        let config = store.config(&record.id)?;
        let platform = &config.value().platform;
        if let Some(wanted) = &options.platform
            && !platform.satisfies(wanted)
        {
            return Err(Error::not_found(format!("it is for {platform}, not for {wanted}")));
        }
        let mut layers = Vec::with_capacity(record.layers.len());
        for (_, chain) in config.value().chain().links() {
            layers.push(layer(store, chain)?);
        }
        let kept = match &record.manifest {
            Some(descriptor) => kept_manifest(store, descriptor, &config, &layers)?,
            None => None,
        };
        let (descriptor, bytes, manifest) = match kept {
            Some(kept) => kept,
            None => new_manifest(&config, &layers)?,
        };
        for (record, blob) in layers.iter().zip(&manifest.layers) {
            if self.known.insert(blob.digest.clone()) {
                let content = if blob.digest == record.diff_id.0 {
                    Blob::Layer(Box::new(record.clone()))
                } else {
                    Blob::Kept(blob.size)
                };
                self.blobs.push((blob.digest.clone(), content));
            }
        }
        self.documents.insert(config.digest().clone(), config.bytes().to_vec());
        self.documents.insert(descriptor.digest.clone(), bytes);
        self.listed.push(Listed {
            config: blob_path(config.digest()),
            repo_tags: (!names.is_empty()).then(|| names.iter().map(Reference::familiar).collect()),
            layers: manifest.layers.iter().map(|blob| blob_path(&blob.digest)).collect(),
        });
        let descriptor = Descriptor { platform: Some(platform.clone()), ..descriptor };
        if names.is_empty() {
            self.descriptors.push(descriptor);
            return Ok(());
        }
        for name in names {
            let mut descriptor = descriptor.clone();
            descriptor.annotations.insert(IMAGE_NAME.into(), name.to_string());
            descriptor.annotations.insert(REF_NAME.into(), name.tag().unwrap_or_default().into());
            self.descriptors.push(descriptor);
        }
        Ok(())
    }

    fn write<W: Write>(self, store: &Store, out: W, observer: &dyn Observer) -> Result<W> {
        let mut archive = MembersWriter::new(out);
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("manifest.json", &json(&self.listed)?)?;
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: self.descriptors,
            annotations: BTreeMap::new(),
        };
        archive.file("index.json", &json(&index)?)?;
        for (digest, bytes) in &self.documents {
            archive.file(&blob_path(digest), bytes)?;
        }
        for (digest, blob) in &self.blobs {
            let size = match blob {
                Blob::Layer(record) => record.tar_size,
                Blob::Kept(size) => *size,
            };
            archive.begin(&blob_path(digest), size)?;
            let mut out = Checked {
                inner: &mut archive,
                hasher: Hasher::new(digest.algorithm()),
                amount: Amount { done: 0, total: size },
                told: 0,
                item: digest.short(),
                observer,
            };
            match blob {
                Blob::Layer(record) => write_layer(store, &record.chain_id, &mut out),
                Blob::Kept(_) => write_kept(store, digest, &mut out),
            }
            .within(|| format!("cannot save layer `{}`", digest.short()))?;
            let Checked { hasher, amount, .. } = out;
            if hasher.finish() != *digest || amount.done != size {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("cannot save layer `{}`: it is damaged", digest.short()),
                ));
            }
            observer.step(digest.short(), "Saved", None);
        }
        archive.finish()
    }
}

/// The images that a text means, each with the name that it has by this text.
fn named(store: &Store, text: &str) -> Result<Vec<(ImageRecord, Option<Reference>)>> {
    let reference = text.parse::<Reference>().ok();
    let found = store.resolve(text);
    let by_id =
        |record: &ImageRecord| record.id.hex().starts_with(text.strip_prefix("sha256:").unwrap_or(text));
    match (reference, found) {
        // An id wins over a name.
        (_, Ok(record)) if by_id(&record) => Ok(vec![(record, None)]),
        (Some(reference), found) if reference.tag().is_none() && reference.digest().is_none() => {
            let mut all = Vec::new();
            for name in store.names()? {
                if name.reference.repository() == reference.repository()
                    && name.reference.tag().is_some()
                    && let Some(record) = store.image(&name.image)?
                {
                    all.push((record, Some(name.reference)));
                }
            }
            if all.is_empty() { found.map(|record| vec![(record, None)]) } else { Ok(all) }
        }
        (Some(reference), Ok(record)) if reference.digest().is_none() => Ok(vec![(record, Some(reference))]),
        (_, found) => found.map(|record| vec![(record, None)]),
    }
}

fn layer(store: &Store, chain: &ChainId) -> Result<LayerRecord> {
    let missing =
        |what: &str| Error::new(Kind::Corrupt, format!("{what} of layer `{}` is missing", chain.short()));
    let record = store.layer(chain)?.ok_or_else(|| missing("the tree"))?;
    match store.open_recipe(chain)? {
        Some(_) => Ok(record),
        None => Err(missing("the recipe")),
    }
}

type Described = (Descriptor, Vec<u8>, Manifest);

/// The manifest that the image came with, if all that it lists can be given.
fn kept_manifest(
    store: &Store,
    descriptor: &Descriptor,
    config: &Verified<ImageConfig>,
    layers: &[LayerRecord],
) -> Result<Option<Described>> {
    let Ok(Some(bytes)) = store.content(&descriptor.digest) else { return Ok(None) };
    let Ok(AnyManifest::Manifest(manifest)) = AnyManifest::parse(&bytes, Some(&descriptor.media_type)) else {
        return Ok(None);
    };
    if manifest.config.digest != *config.digest() || manifest.layers.len() != layers.len() {
        return Ok(None);
    }
    for (blob, layer) in manifest.layers.iter().zip(layers) {
        let made_again = blob.digest == layer.diff_id.0 && blob.size == layer.tar_size;
        if !made_again && (blob.digest == layer.diff_id.0 || store.open_blob(&blob.digest)?.is_none()) {
            return Ok(None);
        }
    }
    let size = bytes.len() as u64;
    Ok(Some((
        Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), size),
        bytes,
        manifest,
    )))
}

/// A manifest over the uncompressed layers.
fn new_manifest(config: &Verified<ImageConfig>, layers: &[LayerRecord]) -> Result<Described> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, config.digest().clone(), config.bytes().len() as u64),
        layers: layers
            .iter()
            .map(|layer| Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0.clone(), layer.tar_size))
            .collect(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = json(&manifest)?;
    let digest = Digest::of(&bytes);
    Ok((Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64), bytes, manifest))
}

fn write_layer(store: &Store, chain: &ChainId, out: &mut dyn Write) -> Result<()> {
    let tree = store.layer_dir(chain)?;
    let mut recipe =
        store.open_recipe(chain)?.ok_or_else(|| Error::new(Kind::Corrupt, "its recipe is missing"))?;
    assemble(&mut recipe, tree.as_fd(), out).map(drop)
}

fn write_kept(store: &Store, digest: &Digest, out: &mut dyn Write) -> Result<()> {
    let mut blob =
        store.open_blob(digest)?.ok_or_else(|| Error::new(Kind::Corrupt, "its blob is missing"))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = match io::Read::read(&mut blob, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::new(Kind::of_io(&error), "cannot read its blob").because(error)),
        };
        out.write_all(&buffer[..n]).map_err(write_failed)?;
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::new(Kind::Internal, "cannot serialise a document").because(e))
}

fn write_failed(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::new(Kind::of_io(&error), "cannot write the archive").because(error),
    }
}

/// How many bytes are written between two words to the observer.
const STRIDE: u64 = 4 * 1024 * 1024;

/// Hashes and counts what goes into the archive.
struct Checked<'a, W> {
    inner: W,
    hasher: Hasher,
    amount: Amount,
    told: u64,
    item: &'a str,
    observer: &'a dyn Observer,
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.amount.done += n as u64;
        if self.amount.done - self.told >= STRIDE {
            self.told = self.amount.done;
            self.observer.step(self.item, "Saving", Some(self.amount));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
