//! Writing caches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::{ChainId, Descriptor, Digest, ImageConfig, Manifest, Platform, Verified, media_type};
use robot_env_registry::Client;
use robot_env_store::{CacheRecord, LayerRecord, Store};
use robot_env_transfer::{push_artefact, write_artefact};

use super::{ARTIFACT, CONFIG, CachePlace, CacheSource, CacheTarget, Document, INLINE, Import, Layer, Step};

/// The steps that belong to images: those that came to one of their layers.
fn of_images<'s>(
    steps: &'s [(Digest, CacheRecord)],
    images: &[&ImageConfig],
) -> Vec<&'s (Digest, CacheRecord)> {
    let mut chains: BTreeSet<Option<ChainId>> = BTreeSet::from([None]);
    for image in images {
        chains.extend(image.chain().links().iter().map(|(_, chain)| Some(chain.clone())));
    }
    steps.iter().filter(|(_, record)| chains.contains(&record.chain)).collect()
}

fn step(key: &Digest, record: &CacheRecord, layer: Option<usize>) -> Step {
    Step {
        key: key.clone(),
        layer,
        made: record.layer,
        description: record.description.clone(),
        created: record.created.clone(),
    }
}

/// The image with a table of the steps that its layers came from.
///
/// # Errors
/// Those of the store.
pub(crate) fn inline(
    store: &Store,
    image: &ImageConfig,
    steps: &[(Digest, CacheRecord)],
) -> Result<Verified<ImageConfig>> {
    let chain = image.chain();
    let at = |wanted: &ChainId| chain.links().iter().position(|(_, chain)| chain == wanted);
    let mut all: Vec<Step> = of_images(steps, &[image])
        .into_iter()
        .map(|(key, record)| step(key, record, record.chain.as_ref().and_then(at)))
        .collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    let document = Document { layers: Vec::new(), steps: all };
    let value = serde_json::to_value(document)
        .map_err(|error| Error::new(Kind::Internal, "cannot write the cache").because(error))?;
    let mut image = image.clone();
    image.other.insert(INLINE.into(), value);
    let config = Verified::make(image)?;
    store.put_content(config.digest(), config.bytes())?;
    Ok(config)
}

/// A cache in the making: its table, and the layers whose blobs it needs.
struct Draft {
    document: Document,
    /// In the order of their blobs.
    chains: Vec<ChainId>,
}

impl Draft {
    /// A layer that no step of this build made is a base image's, and stays out: whoever uses the
    /// cache has it.
    fn of(store: &Store, steps: &[&(Digest, CacheRecord)], made: &BTreeSet<&ChainId>) -> Result<Draft> {
        let mut draft = Draft { document: Document::default(), chains: Vec::new() };
        let mut known: HashMap<ChainId, usize> = HashMap::new();
        for (key, record) in steps {
            let mut top = None;
            if let Some(chain) = &record.chain {
                let Some(layer) = store.layer(chain)? else { continue };
                let ancestors: Vec<ChainId> = [&layer.ancestors[..], std::slice::from_ref(chain)].concat();
                for chain in ancestors {
                    top = Some(draft.layer(store, &mut known, made, &chain, top)?);
                }
            }
            draft.document.steps.push(step(key, record, top));
        }
        draft.document.steps.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(draft)
    }

    fn layer(
        &mut self,
        store: &Store,
        known: &mut HashMap<ChainId, usize>,
        made: &BTreeSet<&ChainId>,
        chain: &ChainId,
        below: Option<usize>,
    ) -> Result<usize> {
        if let Some(at) = known.get(chain) {
            return Ok(*at);
        }
        let record: LayerRecord = store
            .layer(chain)?
            .ok_or_else(|| Error::not_found(format!("layer `{}` is not in the store", chain.short())))?;
        let blob = made.contains(chain).then(|| {
            self.chains.push(chain.clone());
            self.chains.len() - 1
        });
        self.document.layers.push(Layer { diff_id: record.diff_id, below, blob });
        known.insert(chain.clone(), self.document.layers.len() - 1);
        Ok(self.document.layers.len() - 1)
    }

    /// Config and manifest over these blobs.
    fn documents(&self, blobs: &[Descriptor]) -> Result<(Vec<u8>, Vec<u8>)> {
        let json = |error| Error::new(Kind::Internal, "cannot write the cache").because(error);
        let config = serde_json::to_vec(&self.document).map_err(json)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: Some(ARTIFACT.into()),
            config: Descriptor::new(CONFIG, Digest::of(&config), config.len() as u64),
            layers: blobs
                .iter()
                .map(|blob| Descriptor::new(blob.media_type.clone(), blob.digest.clone(), blob.size))
                .collect(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(json)?;
        Ok((config, manifest))
    }
}

/// Puts the cache of a build where `target` says; not for [`CachePlace::Inline`].
///
/// # Errors
/// Those of the registry and of files; `NoSpace`.
pub(crate) fn export(
    store: &Store,
    client: Option<&Client>,
    target: &CacheTarget,
    steps: &[(Digest, CacheRecord)],
    images: &[&ImageConfig],
) -> Result<()> {
    let made: BTreeSet<&ChainId> = steps
        .iter()
        .filter(|(_, record)| record.layer)
        .filter_map(|(_, record)| record.chain.as_ref())
        .collect();
    let wanted = if target.all { steps.iter().collect() } else { of_images(steps, images) };
    let draft = Draft::of(store, &wanted, &made)?;
    let put = || match &target.place {
        CachePlace::Inline => Ok(()),
        CachePlace::Local(directory, tag) => {
            // What is there already is not compressed again.
            let source =
                CacheSource::Local { directory: directory.clone(), tag: Some(tag.clone()), digest: None };
            let known: BTreeMap<ChainId, Descriptor> = Import::open(&source, None, &Platform::host())
                .map(|known| known.blobs().map(|(chain, blob)| (chain.clone(), blob.clone())).collect())
                .unwrap_or_default();
            write_artefact(store, directory, tag, &draft.chains, &known, &mut |blobs| draft.documents(blobs))
                .map(drop)
        }
        CachePlace::Registry(name) => {
            let client = client
                .ok_or_else(|| Error::new(Kind::Unsupported, "registries cannot be reached from here"))?;
            push_artefact(store, client, name, &draft.chains, &mut |blobs| draft.documents(blobs), &())
                .map(drop)
        }
    };
    put().within(|| format!("cannot put the cache into `{}`", target.shown()))
}
