//! Pull: from a registry into the store.
//!
//! reference → manifest for the platform → verified config → layer chain; each layer that the
//! store lacks, several at once: blob → unpacked in one pass → committed on top of those below;
//! then manifest, config and image record, and the name last. All under one lease.

mod fetch;

use std::time::Duration;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{Compression, Ownership};
use robot_env_oci::{
    ChainId, Descriptor, DiffId, Digest, ImageConfig, ImageId, Platform, Reference, Verified,
};
use robot_env_registry::{Client, Image};
use robot_env_store::{ImageRecord, LayerSource, NameRecord, Store};

use crate::{Observer, Unpacker};

/// How long a dead machine's lease may linger; a dead process's ends at once.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// The most layers of an image. Docker refuses more than 125; overlayfs stacks 500
/// (OVL_MAX_STACK in fs/overlayfs/ovl_entry.h), but each is opened twice while a layer is
/// completed from those below it, and 1024 open files are a common limit.
const LAYERS: usize = 300;

/// How an image is pulled.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// The platform that is wanted; else the client's, for an index, and any, for a single manifest.
    pub platform: Option<Platform>,
    /// Whether files can be given to the owners that layers name.
    pub ownership: Ownership,
}

/// A pulled image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The name, with a tag or digest.
    pub reference: Reference,
    /// The image.
    pub image: ImageId,
    /// The digest that the name stands for in the registry: the manifest's, or its index's.
    pub digest: Digest,
    /// Whether the name stood for something else here, or for nothing.
    pub newer: bool,
}

/// One layer of an image that is pulled.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: DiffId,
    pub(crate) chain: ChainId,
    pub(crate) parent: Option<ChainId>,
}

impl Wanted {
    /// What the observer knows it by.
    pub(crate) fn item(&self) -> &str {
        self.blob.digest.short()
    }
}

/// Pulls what `reference` names (`latest` where it has neither tag nor digest).
///
/// Layers that the store has whole are not fetched again; damaged ones are. When it fails or the
/// client is cancelled, no name and no image changes; whole layers may stay, for the next try,
/// until the store is collected.
///
/// The observer hears Docker's words: `Pulling from …`, then for each layer, by the short digest of
/// its blob, `Already exists` or `Pulling fs layer`, `Waiting`, `Downloading`, `Download complete`,
/// `Extracting`, `Pull complete`.
pub fn pull(
    store: &Store,
    client: &Client,
    reference: &Reference,
    options: &PullOptions,
    observer: &dyn Observer,
) -> Result<Pulled> {
    let reference = reference.clone().or_latest();
    Pull { store, client, reference: &reference, options, observer }
        .run()
        .within(|| format!("cannot pull image `{}`", reference.familiar()))
}

struct Pull<'a> {
    store: &'a Store,
    client: &'a Client,
    reference: &'a Reference,
    options: &'a PullOptions,
    observer: &'a dyn Observer,
}

impl Pull<'_> {
    fn run(&self) -> Result<Pulled> {
        let _lease = self.store.lease(LEASE)?;
        let known = match self.store.name(self.reference) {
            Err(error) if error.kind() == Kind::Corrupt => None,
            known => known?,
        };
        if let Some(known) = &known
            && let Some(digest) = self.unchanged(known)?
        {
            self.say_where();
            let (reference, image) = (self.reference.clone(), known.image.clone());
            return Ok(Pulled { reference, image, digest, newer: false });
        }
        let image = self.client.image(self.reference, self.options.platform.as_ref())?;
        let layers = self.plan(&image)?;
        self.say_where();
        self.bring(&layers)?;
        let digest = image.top.digest().clone();
        let id = ImageId(image.config.digest().clone());
        let newer = known.as_ref().is_none_or(|known| known.image != id);
        let rename = newer || known.is_none_or(|known| known.manifest_digest.as_ref() != Some(&digest));
        let name = rename.then_some((self.reference, Some(&digest)));
        self.record(&id, &image, name.as_slice())?;
        Ok(Pulled { reference: self.reference.clone(), image: id, digest, newer })
    }

    fn say_where(&self) {
        let name = match (self.reference.digest(), self.reference.tag()) {
            (None, Some(tag)) => tag.to_owned(),
            _ => self.reference.to_string(),
        };
        self.observer.message(&format!("{name}: Pulling from {}", self.reference.repository().path()));
    }

    /// The digest that the name stands for, if it stands for the very same here and all of it is
    /// whole. Costs one small request, and none for a digest.
    fn unchanged(&self, known: &NameRecord) -> Result<Option<Digest>> {
        let Some(digest) = &known.manifest_digest else { return Ok(None) };
        match self.whole(&known.image) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if error.kind() == Kind::Corrupt => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.reference.digest().is_none() && self.client.resolve(self.reference)?.value.digest != *digest {
            return Ok(None);
        }
        Ok(Some(digest.clone()))
    }

    /// Whether the image is here with all its parts, and for the platform that is wanted.
    fn whole(&self, id: &ImageId) -> Result<bool> {
        let Some(record) = self.store.image(id)? else { return Ok(false) };
        if !self.store.has_content(id.digest())? {
            return Ok(false);
        }
        let config = self.store.config(id)?;
        let wanted = self.options.platform.as_ref().unwrap_or(&self.client.options().platform);
        if !config.value().platform.satisfies(wanted) {
            return Ok(false);
        }
        let Some(manifest) = &record.manifest else { return Ok(false) };
        if !self.store.has_content(&manifest.digest)? {
            return Ok(false);
        }
        for (_, chain) in config.value().chain().links() {
            if self.store.layer(chain)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Pairs the manifest's layers with the config's.
    fn plan(&self, image: &Image) -> Result<Vec<Wanted>> {
        let (manifest, config) = (image.manifest.value(), image.config.value());
        self.check_platform(image, config)?;
        let corrupt = |why: String| Error::new(Kind::Corrupt, why);
        let chain = config.chain();
        let links = chain.links();
        if manifest.layers.len() != links.len() {
            return Err(corrupt(format!(
                "its manifest has {} layers and its config {}",
                manifest.layers.len(),
                links.len()
            )));
        }
        if links.len() > LAYERS {
            let reason = format!("it has {} layers, and {LAYERS} is the most", links.len());
            return Err(Error::new(Kind::Unsupported, reason));
        }
        let mut parent = None;
        let mut wanted = Vec::with_capacity(links.len());
        for (blob, (diff_id, chain)) in manifest.layers.iter().zip(links) {
            if Compression::from_media_type(&blob.media_type).is_none() {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "its layer `{}` has the unknown format `{}`",
                        blob.digest.short(),
                        excerpt(&blob.media_type)
                    ),
                ));
            }
            wanted.push(Wanted {
                blob: blob.clone(),
                diff_id: diff_id.clone(),
                chain: chain.clone(),
                parent: parent.replace(chain.clone()),
            });
        }
        Ok(wanted)
    }

    fn check_platform(&self, image: &Image, config: &ImageConfig) -> Result<()> {
        let offered = &config.platform;
        if !matches!(offered.os.as_str(), "" | "linux") {
            let reason = format!("it is for `{}`, and only linux images can be used", excerpt(&offered.os));
            return Err(Error::new(Kind::Unsupported, reason));
        }
        // An index was searched for the platform; a manifest that was named itself was not.
        match &self.options.platform {
            Some(wanted) if image.chosen_for.is_none() && !offered.satisfies(wanted) => {
                let offered = excerpt(&offered.to_string());
                Err(Error::not_found(format!("it is for platform `{offered}` only, and not for `{wanted}`")))
            }
            _ => Ok(()),
        }
    }

    /// Fetches the layers that the store lacks.
    fn bring(&self, layers: &[Wanted]) -> Result<()> {
        let mut missing = Vec::new();
        for layer in layers {
            match self.store.layer(&layer.chain) {
                Ok(Some(_)) => {
                    self.observer.step(layer.item(), "Already exists", None);
                    // For a later push. That it cannot be noted, on a full disk say, is no reason
                    // to fail: the layer is here.
                    let _ = self.store.add_source(&layer.chain, self.source(&layer.blob));
                }
                Ok(None) => missing.push(layer.clone()),
                // It is committed anew in its place.
                Err(error) if error.kind() == Kind::Corrupt => missing.push(layer.clone()),
                Err(error) => return Err(error),
            }
        }
        fetch::Fetch {
            client: self.client,
            repository: self.reference.repository(),
            unpacker: Unpacker::new(self.store, self.options.ownership),
            observer: self.observer,
            layers: &missing,
        }
        .run()
    }

    fn source(&self, blob: &Descriptor) -> LayerSource {
        LayerSource { descriptor: blob.clone(), repository: self.reference.repository().to_string() }
    }

    /// Puts manifest, config and image, unless they are here, and names it.
    fn record(&self, id: &ImageId, image: &Image, names: &[(&Reference, Option<&Digest>)]) -> Result<()> {
        let (manifest, config): (_, &Verified<ImageConfig>) = (&image.manifest, &image.config);
        self.store.put_content(manifest.digest(), manifest.bytes())?;
        self.store.put_content(config.digest(), config.bytes())?;
        let size = manifest.bytes().len() as u64;
        let descriptor = Descriptor::new(image.media_type.clone(), manifest.digest().clone(), size);
        let known = match self.store.image(id) {
            Err(error) if error.kind() == Kind::Corrupt => None,
            known => known?,
        };
        let mut record = known.unwrap_or_else(|| {
            let mut record = ImageRecord::new(config);
            record.origin = self.reference.to_string();
            record
        });
        record.manifest = Some(descriptor);
        self.store.put_named_image(&record, names)?;
        Ok(())
    }
}

/// The beginning of a word of the image's, which may be of any length.
fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}
