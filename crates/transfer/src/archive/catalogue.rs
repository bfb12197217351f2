//! What an archive holds, by name.

use std::collections::BTreeMap;
use std::fs::File;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::{Digest, MANIFEST_LIMIT};

use super::scan::Section;
use super::{corrupt, name};
use crate::Unpacked;

/// The most names in an archive: some 20 stand for an image.
const NAMES: usize = 100_000;
/// The most links from one name to the next.
const LINKS: usize = 16;

/// What a name stands for.
pub(crate) enum Content<'s> {
    /// A file, so many bytes at so many in the input.
    At(u64, u64),
    /// A file that is no layer, read.
    Document(Vec<u8>),
    /// A layer that was unpacked as it came by; `None` once it was taken.
    Layer(Option<Box<Unpacked<'s>>>),
    /// A layer that could not be unpacked. It only matters if it is wanted.
    Broken(Error),
    /// A file that came by and was not wanted then.
    Passed,
    /// Another name.
    Link(String),
}

/// All names of an archive.
#[derive(Default)]
pub(crate) struct Catalogue<'s> {
    names: BTreeMap<String, Content<'s>>,
    /// What [`Content::At`] refers to.
    file: Option<&'s File>,
}

impl<'s> Catalogue<'s> {
    /// Nothing, in `file`.
    pub(super) fn in_file(file: &'s File) -> Self {
        Catalogue { names: BTreeMap::new(), file: Some(file) }
    }

    pub(super) fn insert(&mut self, name: String, content: Content<'s>) -> Result<()> {
        if self.names.len() >= NAMES {
            return Err(corrupt(format!("the archive has more than {NAMES} files")));
        }
        match self.names.entry(name) {
            // Readers differ in which one counts; so none does.
            std::collections::btree_map::Entry::Occupied(entry) => {
                Err(corrupt(format!("the archive has `{}` twice", entry.key())))
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(content);
                Ok(())
            }
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Whether it has what archives of images do not have.
    pub(super) fn looks_like_a_tree(&self) -> bool {
        self.names.keys().any(|name| ["etc/", "usr/", "bin/"].iter().any(|top| name.starts_with(top)))
    }

    /// The name that `name`, as a document writes it, leads to.
    pub(super) fn resolve(&self, name: &str) -> Result<String> {
        let mut name = name::normalise(name.as_bytes())?;
        for _ in 0..LINKS {
            match self.names.get(&name) {
                Some(Content::Link(target)) => name.clone_from(target),
                _ => return Ok(name),
            }
        }
        Err(corrupt(format!("too many links lead on from `{name}`")))
    }

    /// A document, at most 4 MiB of it.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.resolve(name)?;
        match self.names.get(&path) {
            Some(Content::Document(bytes)) => Ok(bytes.clone()),
            Some(Content::At(offset, size)) => {
                if *size > MANIFEST_LIMIT {
                    return Err(corrupt(format!("`{name}` has {size} bytes, more than {MANIFEST_LIMIT}")));
                }
                let mut bytes = Vec::with_capacity(*size as usize);
                let mut section = self.section(*offset, *size)?;
                std::io::Read::read_to_end(&mut section, &mut bytes).map_err(|error| {
                    Error::new(Kind::of_io(&error), format!("cannot read `{name}`")).because(error)
                })?;
                if bytes.len() as u64 != *size {
                    return Err(corrupt(format!("the archive ends within `{name}`")));
                }
                Ok(bytes)
            }
            Some(Content::Layer(_) | Content::Broken(_)) => Err(corrupt(format!("`{name}` is no document"))),
            Some(Content::Passed) => {
                Err(corrupt(format!("`{name}` is no document of at most {MANIFEST_LIMIT} bytes")))
            }
            Some(Content::Link(_)) | None => Err(corrupt(format!("`{name}` is missing"))),
        }
    }

    /// The document that a descriptor points at, unchecked.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.document(&blob_path(digest))
    }

    /// What `path`, a resolved name, stands for.
    pub(crate) fn content(&mut self, path: &str) -> Option<&mut Content<'s>> {
        self.names.get_mut(path)
    }

    /// A part of the input.
    pub(crate) fn section(&self, offset: u64, size: u64) -> Result<Section<'s>> {
        let file = self.file.ok_or_else(|| Error::new(Kind::Internal, "the archive is no file"))?;
        Ok(Section::new(file, offset, size))
    }

    /// Parses the JSON document `name`.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.document(name)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(error.to_string()))
            .within(|| format!("cannot read `{name}`"))
    }
}

/// `blobs/<algorithm>/<hex>`
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest that a blob's name says.
pub(super) fn digest_of_path(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}
