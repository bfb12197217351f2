//! `manifest.json`.

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::{AnyManifest, Descriptor, Digest, Index, Manifest, Reference};
use serde::Deserialize;

use super::catalogue::{Catalogue, blob_path};
use super::{Candidate, IMAGES, Place, config, corrupt};

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub(super) fn candidates(catalogue: &Catalogue<'_>) -> Result<Vec<Candidate>> {
    let listed: Vec<Listed> = catalogue.json("manifest.json")?;
    if listed.len() > IMAGES {
        return Err(corrupt(format!("the archive has {} images, more than {IMAGES}", listed.len())));
    }
    let manifests = manifests(catalogue);
    listed
        .iter()
        .map(|listed| {
            candidate(catalogue, listed, &manifests)
                .within(|| format!("cannot use the image `{}` of `manifest.json`", listed.config))
        })
        .collect()
}

fn candidate(
    catalogue: &Catalogue<'_>,
    listed: &Listed,
    manifests: &[(Descriptor, Manifest)],
) -> Result<Candidate> {
    let config = config(catalogue.document(&listed.config)?, digest_of_name(&listed.config).as_ref())?;
    let paths = listed.layers.as_deref().unwrap_or_default();
    let mut layers = Vec::with_capacity(paths.len());
    for path in paths {
        layers.push(Place { path: catalogue.resolve(path)?, descriptor: None });
    }
    // Docker 25 and later, and we, add a manifest that describes the same files.
    let manifest = manifests.iter().find(|(_, manifest)| {
        manifest.config.digest == *config.digest()
            && manifest.layers.len() == layers.len()
            && manifest.layers.iter().zip(&layers).all(|(blob, place)| blob_path(&blob.digest) == place.path)
    });
    let manifest = match manifest {
        Some((descriptor, manifest)) => {
            for (place, blob) in layers.iter_mut().zip(&manifest.layers) {
                place.descriptor = Some(blob.clone());
            }
            Some((descriptor.clone(), catalogue.blob(&descriptor.digest)?))
        }
        None => None,
    };
    let names = listed.repo_tags.iter().flatten().map(|text| name(text)).collect::<Result<Vec<_>>>()?;
    Ok(Candidate { config, layers, names, manifest })
}

/// A name with a tag.
fn name(text: &str) -> Result<Reference> {
    let name: Reference = text.parse()?;
    if name.digest().is_some() || name.tag().is_none() {
        return Err(Error::new(Kind::Corrupt, format!("the name `{text}` is not one of the form NAME:TAG")));
    }
    Ok(name)
}

/// The digest in a config's name: `<hex>.json`, `blobs/sha256/<hex>`.
fn digest_of_name(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next().unwrap_or(path);
    Digest::from_sha256_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}

/// The manifests that an `index.json` beside it names. That one may be missing or strange: the
/// images do not depend on it.
fn manifests(catalogue: &Catalogue<'_>) -> Vec<(Descriptor, Manifest)> {
    let Ok(index) = catalogue.json::<Index>("index.json") else { return Vec::new() };
    let read = |descriptor: &Descriptor| {
        let bytes = catalogue.blob(&descriptor.digest).ok()?;
        let fits = bytes.len() as u64 == descriptor.size && Digest::of(&bytes) == descriptor.digest;
        match AnyManifest::parse(&bytes, Some(&descriptor.media_type)) {
            Ok(AnyManifest::Manifest(manifest)) if fits => {
                let plain = Descriptor::new(
                    descriptor.media_type.clone(),
                    descriptor.digest.clone(),
                    descriptor.size,
                );
                Some((plain, manifest))
            }
            _ => None,
        }
    };
    index.manifests.iter().take(IMAGES).filter_map(read).collect()
}
