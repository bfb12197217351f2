//! Images of the store as an OCI layout: what a build gives away.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use robot_env_diag::{Error, Result};
use robot_env_layer::{Compression, MembersWriter};
use robot_env_oci::{Descriptor, Digest, Index, Reference, media_type};
use robot_env_store::{ImageRecord, Store};

use crate::Observer;
use crate::archive::{IMAGE_NAME, REF_NAME};
use crate::save::{Plan, json};
use crate::sink::Sink;

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
