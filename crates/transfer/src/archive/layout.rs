//! The OCI image layout (image-spec, image-layout.md).

use std::collections::BTreeMap;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::Compression;
use robot_env_oci::{AnyManifest, Descriptor, Hasher, Index, Manifest, Platform, Reference};

use super::catalogue::{Catalogue, blob_path};
use super::{Candidate, IMAGES, Place, config, corrupt};

/// The most indexes below one another.
const DEPTH: usize = 8;
/// containerd's and Docker's annotation: the whole name.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// The specification's annotation: a tag, or by some writers the whole name.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// BuildKit's mark on what is no image.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

#[derive(serde::Deserialize)]
struct Version {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

pub(super) fn candidates(catalogue: &Catalogue<'_>, platform: Option<&Platform>) -> Result<Vec<Candidate>> {
    if catalogue.has("oci-layout") {
        let version: Version = catalogue.json("oci-layout")?;
        if !version.version.starts_with("1.") {
            return Err(Error::new(
                Kind::Unsupported,
                format!("the OCI layout has the version `{}`; only 1.x is known", version.version),
            ));
        }
    }
    let bytes = catalogue.document("index.json")?;
    let index = match AnyManifest::parse(&bytes, None).within(|| "cannot read `index.json`".into())? {
        AnyManifest::Index(index) => index,
        AnyManifest::Manifest(_) => return Err(corrupt("`index.json` is no index")),
    };
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let mut found: Vec<Candidate> = Vec::new();
    for group in groups(&index) {
        let chosen = match &group.descriptors[..] {
            [only] => (*only).clone(),
            several => choose(several.iter().map(|d| (*d).clone()).collect(), wanted)?,
        };
        let image = image(catalogue, &chosen, wanted, DEPTH)
            .within(|| format!("cannot use `{}` of the archive", chosen.digest))?;
        let Some(mut image) = image else { continue };
        image.names.extend(group.name);
        match found.iter_mut().find(|known| known.config.digest() == image.config.digest()) {
            Some(known) => known.names.extend(image.names),
            None => found.push(image),
        }
        if found.len() > IMAGES {
            return Err(corrupt(format!("the archive has more than {IMAGES} images")));
        }
    }
    Ok(found)
}

/// Descriptors that stand for one image.
struct Group<'i> {
    name: Option<Reference>,
    descriptors: Vec<&'i Descriptor>,
}

/// Those of one name are one image for several platforms. So are all that have none, if they have
/// platforms that differ.
fn groups(index: &Index) -> Vec<Group<'_>> {
    let mut named: BTreeMap<String, Group<'_>> = BTreeMap::new();
    let mut nameless: Vec<&Descriptor> = Vec::new();
    for descriptor in &index.manifests {
        if is_no_image(descriptor) {
            continue;
        }
        match name(descriptor) {
            Some(name) => named
                .entry(name.to_string())
                .or_insert_with(|| Group { name: Some(name), descriptors: Vec::new() })
                .descriptors
                .push(descriptor),
            None => nameless.push(descriptor),
        }
    }
    let mut groups: Vec<Group<'_>> = named.into_values().collect();
    let mut platforms: Vec<String> =
        nameless.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
    platforms.sort();
    platforms.dedup();
    if nameless.len() > 1 && platforms.len() == nameless.len() {
        groups.push(Group { name: None, descriptors: nameless });
    } else {
        groups.extend(nameless.into_iter().map(|d| Group { name: None, descriptors: vec![d] }));
    }
    groups
}

/// The name that annotations give; a tag alone names nothing, and what is no name neither.
fn name(descriptor: &Descriptor) -> Option<Reference> {
    let whole = descriptor.annotations.get(IMAGE_NAME);
    let part = descriptor.annotations.get(REF_NAME).filter(|text| text.contains([':', '/']));
    let name: Reference = whole.or(part)?.parse().ok()?;
    name.digest().is_none().then(|| name.or_latest())
}

fn is_no_image(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key(REFERENCE_TYPE)
        || descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

fn choose(descriptors: Vec<Descriptor>, wanted: &Platform) -> Result<Descriptor> {
    let descriptors: Vec<Descriptor> = descriptors.into_iter().filter(|d| !is_no_image(d)).collect();
    if let [only] = &descriptors[..] {
        return Ok(only.clone());
    }
    let index =
        Index { schema_version: 2, media_type: None, manifests: descriptors, annotations: BTreeMap::new() };
    index.select(wanted).cloned().ok_or_else(|| {
        Error::not_found(format!("no image for {wanted} in the archive"))
            .because(Error::not_found(format!("it has {}", index.platforms().join(", "))))
    })
}

/// The image behind a descriptor; `None` for an artefact that is no image.
fn image(
    catalogue: &Catalogue<'_>,
    descriptor: &Descriptor,
    wanted: &Platform,
    depth: usize,
) -> Result<Option<Candidate>> {
    let bytes = checked(catalogue, descriptor)?;
    match AnyManifest::parse(&bytes, Some(&descriptor.media_type))? {
        AnyManifest::Index(_) if depth == 0 => {
            Err(corrupt(format!("more than {DEPTH} indexes stand below one another")))
        }
        AnyManifest::Index(index) => image(catalogue, &choose(index.manifests, wanted)?, wanted, depth - 1),
        AnyManifest::Manifest(manifest) => manifest_image(catalogue, descriptor, bytes, &manifest),
    }
}

fn manifest_image(
    catalogue: &Catalogue<'_>,
    descriptor: &Descriptor,
    bytes: Vec<u8>,
    manifest: &Manifest,
) -> Result<Option<Candidate>> {
    use robot_env_oci::media_type::{DOCKER_CONFIG, OCI_CONFIG};
    if ![OCI_CONFIG, DOCKER_CONFIG].contains(&manifest.config.media_type.as_str()) {
        return Ok(None);
    }
    let config = config(checked(catalogue, &manifest.config)?, Some(&manifest.config.digest))?;
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for layer in &manifest.layers {
        if Compression::from_media_type(&layer.media_type).is_none() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("layer `{}` has the media type `{}`", layer.digest, layer.media_type),
            ));
        }
        let path = catalogue.resolve(&blob_path(&layer.digest))?;
        layers.push(Place { path, descriptor: Some(layer.clone()) });
    }
    let plain = Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size);
    Ok(Some(Candidate { config, layers, names: Vec::new(), manifest: Some((plain, bytes)) }))
}

/// The document behind a descriptor, checked.
fn checked(catalogue: &Catalogue<'_>, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = catalogue.blob(&descriptor.digest)?;
    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != descriptor.digest || bytes.len() as u64 != descriptor.size {
        return Err(corrupt(format!("`{}` does not match its digest", blob_path(&descriptor.digest)))
            .because(corrupt(format!("it has {} bytes with the digest {actual}", bytes.len()))));
    }
    Ok(bytes)
}
