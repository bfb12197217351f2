//! Images of the store as an OCI layout: what a build gives away.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use robot_env_diag::{Error, IoContext, Result};
use robot_env_layer::{Compression, MembersWriter};
use robot_env_oci::{ChainId, Descriptor, Digest, Index, Reference, media_type};
use robot_env_store::{ImageRecord, Store};

use crate::archive::{IMAGE_NAME, REF_NAME, blob_path};
use crate::save::{Plan, compressed, json};
use crate::sink::Sink;
use crate::{MakeDocuments, Observer};

/// Where a layout goes.
pub enum LayoutTarget<'a> {
    /// A tar.
    Archive(&'a mut dyn Write),
    /// A directory, which need not exist; other blobs in it stay.
    Directory(&'a Path),
}

/// What a layout says of its image.
#[derive(Clone, Debug, Default)]
pub struct LayoutOptions {
    /// Its names.
    pub names: Vec<Reference>,
    /// Whether it is a docker-archive, too (`manifest.json`), which `docker load` reads. For one
    /// image only.
    pub docker: bool,
    /// How layers are compressed; `None`: as an image came, and not at all where it was made here.
    pub compression: Option<Compression>,
    /// Annotations of the index, where there is one (several images).
    pub annotations: BTreeMap<String, String>,
}

/// Writes images as one OCI layout: several are one image for several platforms, behind an index of
/// its own. Gives the descriptor of the manifest, or index. The same images give the same bytes.
///
/// # Errors
/// `InvalidInput` for no image, or several as a docker-archive; `Corrupt` naming a damaged layer;
/// `NoSpace`.
pub fn write_layout(
    store: &Store,
    images: &[ImageRecord],
    target: LayoutTarget<'_>,
    options: &LayoutOptions,
    observer: &dyn Observer,
) -> Result<Descriptor> {
    if images.is_empty() || (options.docker && images.len() > 1) {
        return Err(Error::invalid("a docker-archive holds one image, for one platform"));
    }
    let mut plan = Plan::new(options.compression);
    let several = images.len() > 1;
    for image in images {
        let names = if several { &[][..] } else { &options.names[..] };
        plan.add(store, image, names, &crate::SaveOptions::default())?;
    }
    let top = if several {
        let index = index(std::mem::take(&mut plan.descriptors), options.annotations.clone());
        let bytes = json(&index)?;
        let top = Descriptor::new(media_type::OCI_INDEX, Digest::of(&bytes), bytes.len() as u64);
        plan.documents.insert(top.digest.clone(), bytes);
        plan.descriptors = if options.names.is_empty() { vec![top.clone()] } else { Vec::new() };
        for name in &options.names {
            let mut named = top.clone();
            named.annotations.insert(IMAGE_NAME.into(), name.to_string());
            named.annotations.insert(REF_NAME.into(), name.tag().unwrap_or_default().into());
            plan.descriptors.push(named);
        }
        top
    } else {
        let mut top = plan.descriptors.first().cloned().ok_or_else(|| Error::invalid("no image"))?;
        top.annotations.clear();
        top
    };
    if !options.docker {
        plan.only_layout();
    }
    match target {
        LayoutTarget::Archive(out) => {
            plan.write(store, Sink::Archive(Box::new(MembersWriter::new(out))), observer)?;
        }
        LayoutTarget::Directory(path) => {
            plan.write(store, Sink::<Vec<u8>>::directory(path.to_owned()), observer)?;
        }
    }
    Ok(top)
}

/// An index over the manifests of one image for several platforms.
pub(crate) fn index(manifests: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Index {
    Index { schema_version: 2, media_type: Some(media_type::OCI_INDEX.into()), manifests, annotations }
}

/// Writes layers that are no image into an OCI layout in a directory, where they get the tag `tag`;
/// other tags in it stay. `known` says which blobs of layers may be there already. `make` is told the
/// blobs, in the order of `chains`, and gives the config and the manifest. Gives the manifest's
/// descriptor.
///
/// # Errors
/// `NotFound` for a layer that is not in the store, `Corrupt` for a damaged one; `NoSpace`.
pub fn write_artefact(
    store: &Store,
    directory: &Path,
    tag: &str,
    chains: &[ChainId],
    known: &BTreeMap<ChainId, Descriptor>,
    make: &mut MakeDocuments<'_>,
) -> Result<Descriptor> {
    let mut sink = Sink::<Vec<u8>>::directory(directory.to_owned());
    let mut blobs = Vec::with_capacity(chains.len());
    for chain in chains {
        let there = known.get(chain).filter(|blob| {
            let file = std::fs::metadata(directory.join(blob_path(&blob.digest)));
            file.is_ok_and(|file| file.len() == blob.size)
        });
        if let Some(blob) = there {
            blobs.push(blob.clone());
            continue;
        }
        let record = store
            .layer(chain)?
            .ok_or_else(|| Error::not_found(format!("layer `{}` is not in the store", chain.short())))?;
        let (mut file, blob) = compressed(store, &record, Compression::Zstd)?;
        sink.begin(&blob_path(&blob.digest), blob.size)?;
        std::io::copy(&mut file, &mut sink).io_context(|| "cannot write a layer".into())?;
        blobs.push(blob);
    }
    let (config, manifest) = make(&blobs)?;
    let mut top = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&manifest), manifest.len() as u64);
    sink.file(&blob_path(&Digest::of(&config)), &config)?;
    sink.file(&blob_path(&top.digest), &manifest)?;
    sink.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let others = std::fs::read(directory.join("index.json")).unwrap_or_default();
    let mut manifests =
        serde_json::from_slice::<Index>(&others).map(|index| index.manifests).unwrap_or_default();
    manifests.retain(|entry| entry.annotations.get(REF_NAME).is_some_and(|known| known != tag));
    top.annotations.insert(REF_NAME.into(), tag.to_owned());
    manifests.push(top.clone());
    sink.file("index.json", &json(&index(manifests, BTreeMap::new()))?)?;
    sink.finish()?;
    Ok(top)
}
