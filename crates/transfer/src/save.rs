//! From the store to an archive of images.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::AsFd;

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_layer::{Compression, MembersWriter, assemble};
use robot_env_oci::{
    Algorithm, AnyManifest, ChainId, Descriptor, DiffId, Digest, Hasher, ImageConfig, Index, Manifest,
    Platform, Reference, Verified, media_type,
};
use robot_env_store::{ImageRecord, LayerRecord, Store};
use serde::Serialize;

use crate::archive::{IMAGE_NAME, REF_NAME, blob_path};
use crate::sink::Sink;
use crate::{Amount, Observer};

/// What is saved of the images.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// The platform that the images must have.
    pub platform: Option<Platform>,
    /// Layers that whoever loads the archive has already: the archive names them and leaves them out.
    pub present: BTreeSet<ChainId>,
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
    match plan.write(store, Sink::Archive(Box::new(MembersWriter::new(out))), observer)? {
        Some(out) => Ok(out),
        None => Err(Error::new(Kind::Internal, "an archive has no output")),
    }
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
    /// A layer that was compressed into a file without a name, of so many bytes.
    Made(std::fs::File, u64),
}

/// What goes into an archive or layout.
#[derive(Default)]
pub(crate) struct Plan {
    /// What `manifest.json` says; without any there is none.
    listed: Vec<Listed>,
    /// What `repositories` says, for readers from before `manifest.json`: by repository and tag the top
    /// layer, as Docker writes it.
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) descriptors: Vec<Descriptor>,
    pub(crate) documents: BTreeMap<Digest, Vec<u8>>,
    /// How layers are compressed, where no manifest is kept.
    compression: Option<Compression>,
    /// In the order in which they are written.
    blobs: Vec<(Digest, Blob)>,
    known: BTreeSet<Digest>,
    /// The blobs of layers that were compressed.
    compressed: BTreeMap<DiffId, Descriptor>,
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

    /// With layers compressed like this, where no manifest is kept.
    pub(crate) fn new(compression: Option<Compression>) -> Plan {
        Plan { compression, ..Plan::default() }
    }

    /// Leaves `manifest.json` out: what is written is an OCI layout only.
    pub(crate) fn only_layout(&mut self) {
        self.listed.clear();
        self.repositories.clear();
    }

    pub(crate) fn add(
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
            Some(descriptor) if self.compression.is_none() => {
                kept_manifest(store, descriptor, &config, &layers)?
            }
            _ => None,
        };
        let (descriptor, bytes, manifest) = match (kept, self.compression) {
            (Some(kept), _) => kept,
            (None, None | Some(Compression::None)) => {
                let blobs = layers.iter().map(|layer| {
                    Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0.clone(), layer.tar_size)
                });
                new_manifest(&config, blobs.collect())?
            }
            (None, Some(compression)) => {
                let blobs = layers.iter().map(|layer| self.compress(store, layer, compression));
                new_manifest(&config, blobs.collect::<Result<_>>()?)?
            }
        };
        for (record, blob) in layers.iter().zip(&manifest.layers) {
            if !options.present.contains(&record.chain_id) && self.known.insert(blob.digest.clone()) {
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
        if let Some(top) = manifest.layers.last() {
            for name in names {
                let Some(tag) = name.tag() else { continue };
                let tags = self.repositories.entry(name.repository().familiar()).or_default();
                tags.insert(tag.to_owned(), top.digest.hex().to_owned());
            }
        }
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

    /// Compresses a layer into a file, unless that was done for another image.
    fn compress(
        &mut self,
        store: &Store,
        layer: &LayerRecord,
        compression: Compression,
    ) -> Result<Descriptor> {
        if let Some(known) = self.compressed.get(&layer.diff_id) {
            return Ok(known.clone());
        }
        let (file, descriptor) = compressed(store, layer, compression)?;
        if self.known.insert(descriptor.digest.clone()) {
            self.blobs.push((descriptor.digest.clone(), Blob::Made(file, descriptor.size)));
        }
        self.compressed.insert(layer.diff_id.clone(), descriptor.clone());
        Ok(descriptor)
    }

    pub(crate) fn write<W: Write>(
        self,
        store: &Store,
        mut archive: Sink<W>,
        observer: &dyn Observer,
    ) -> Result<Option<W>> {
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !self.listed.is_empty() {
            archive.file("manifest.json", &json(&self.listed)?)?;
        }
        if !self.repositories.is_empty() {
            archive.file("repositories", &json(&self.repositories)?)?;
        }
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
        for (digest, blob) in self.blobs {
            let size = match &blob {
                Blob::Layer(record) => record.tar_size,
                Blob::Kept(size) | Blob::Made(_, size) => *size,
            };
            archive.begin(&blob_path(&digest), size)?;
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
                Blob::Kept(_) => {
                    let blob = store.open_blob(&digest)?;
                    let blob = blob.ok_or_else(|| Error::new(Kind::Corrupt, "its blob is missing"))?;
                    write_file(blob, &mut out)
                }
                Blob::Made(file, _) => write_file(file, &mut out),
            }
            .within(|| format!("cannot save layer `{}`", digest.short()))?;
            let Checked { hasher, amount, .. } = out;
            if hasher.finish() != digest || amount.done != size {
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

/// A layer, compressed, in a file without a name that is read from its beginning.
pub(crate) fn compressed(
    store: &Store,
    layer: &LayerRecord,
    compression: Compression,
) -> Result<(std::fs::File, Descriptor)> {
    use rustix::fs::{Mode, OFlags};
    let within = || "cannot make a temporary file in the store".to_owned();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(store.root(), ".", flags, Mode::RUSR | Mode::WUSR);
    let file = std::fs::File::from(file.io_context(within)?);
    let (digest, size) = {
        let buffered = io::BufWriter::new(&file);
        let out = Counting { inner: buffered, hasher: Hasher::new(Algorithm::Sha256), size: 0 };
        let mut out = crate::push::blob::pack(store, layer, compression, out)
            .within(|| format!("cannot compress layer `{}`", layer.diff_id.short()))?;
        out.flush().map_err(write_failed)?;
        (out.hasher.finish(), out.size)
    };
    let descriptor = Descriptor::new(compression.media_type(), digest, size);
    io::Seek::seek(&mut &file, io::SeekFrom::Start(0)).io_context(within)?;
    Ok((file, descriptor))
}

/// Hashes and counts what is written.
struct Counting<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A manifest over these blobs.
fn new_manifest(config: &Verified<ImageConfig>, layers: Vec<Descriptor>) -> Result<Described> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, config.digest().clone(), config.bytes().len() as u64),
        layers,
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

fn write_file(mut blob: std::fs::File, out: &mut dyn Write) -> Result<()> {
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

pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
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
