//! Archives of images: what `docker save` and its kin write.
//!
//! Two layouts, alone or both in one tar:
//! - docker-archive: `manifest.json` lists images, each by the path of its config and the paths of
//!   its layers (`<id>/layer.tar`, `<diff id>.tar`, `blobs/sha256/...`), which may be links;
//! - OCI layout: `index.json` leads over manifests, and maybe further indexes, to `blobs/`.
//!
//! An archive is looked through first ([`Catalogue`]); what an image is made of
//! ([`Candidate`]) is then read from its documents, each checked against its digest.

mod catalogue;
mod counted;
mod docker;
mod layout;
mod name;
mod scan;

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{Descriptor, ImageConfig, Platform, Reference, Verified};

pub(crate) use catalogue::{Catalogue, Content, blob_path};
pub(crate) use counted::Counted;
pub(crate) use layout::{IMAGE_NAME, REF_NAME};
pub(crate) use scan::{Input, Scan};

/// The most images that one archive may hold.
const IMAGES: usize = 1000;

/// An image of an archive, as its documents describe it.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Its config.
    pub(crate) config: Verified<ImageConfig>,
    /// Where its layers are, lowest first; as many as the config has.
    pub(crate) layers: Vec<Place>,
    /// Its names, each with a tag.
    pub(crate) names: Vec<Reference>,
    /// Its manifest, if the archive has one, as it stands there.
    pub(crate) manifest: Option<(Descriptor, Vec<u8>)>,
}

/// Where a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The name in the archive, links resolved.
    pub(crate) path: String,
    /// What a manifest says of the blob.
    pub(crate) descriptor: Option<Descriptor>,
}

/// The images of an archive. Of an image for several platforms the one for `platform`, or for this
/// machine, is chosen; an image for another platform that comes alone is taken unless a platform
/// was asked for.
pub(crate) fn candidates(catalogue: &Catalogue<'_>, platform: Option<&Platform>) -> Result<Vec<Candidate>> {
    let found = if catalogue.has("manifest.json") {
        docker::candidates(catalogue)?
    } else if catalogue.has("index.json") {
        layout::candidates(catalogue, platform)?
    } else {
        let error = Error::new(
            Kind::InvalidInput,
            "it is no archive of images, or cut short: it has neither `manifest.json` nor `index.json`",
        );
        return Err(if catalogue.looks_like_a_tree() {
            error.with_hint("it looks like the tree of a file system, which `import` takes")
        } else {
            error
        });
    };
    for image in &found {
        let (has, wants) = (image.layers.len(), image.config.value().rootfs.diff_ids.len());
        if has != wants {
            return Err(corrupt(format!(
                "image `{}` lists {has} layers, its config {wants}",
                image.config.digest()
            )));
        }
        if let Some(wanted) = platform
            && !image.config.value().platform.satisfies(wanted)
        {
            return Err(Error::not_found(format!(
                "image `{}` is for {}, not for {wanted}",
                image.config.digest(),
                image.config.value().platform
            )));
        }
    }
    if found.is_empty() {
        return Err(Error::new(Kind::InvalidInput, "it holds no image"));
    }
    Ok(found)
}

/// A config, whose bytes have `digest` if that is known.
fn config(bytes: Vec<u8>, digest: Option<&robot_env_oci::Digest>) -> Result<Verified<ImageConfig>> {
    let actual;
    let digest = match digest {
        Some(digest) => digest,
        None => {
            actual = robot_env_oci::Digest::of(&bytes);
            &actual
        }
    };
    let config: Verified<ImageConfig> = Verified::check(bytes, digest)?;
    if config.value().rootfs.kind != "layers" {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the root file system of image `{digest}` is not made of layers"),
        ));
    }
    Ok(config)
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, why)
}
