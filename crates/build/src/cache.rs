//! Caches of builds that go from machine to machine.
//!
//! A cache is an OCI artefact: a manifest with the artifact type [`ARTIFACT`], whose layers are the
//! layers that steps made (ordinary layers of images, compressed), and whose config ([`CONFIG`]) says
//! which key has which of them: see [`Document`]. In a directory it is an OCI layout, in a registry a
//! manifest under a name. Inside an image (`inline`) the config of the image carries the same table
//! under [`INLINE`]; its layers are the image's.
//!
//! Nothing in a cache is trusted: documents are checked against the digests that name them, layers
//! against that of their blob and that of their tar. A cache that is not there, or damaged, is told,
//! and costs time only. Whoever can write a cache decides what its keys stand for, as in Docker's:
//! name caches of people that you trust.

mod export;
mod import;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, Result};
use robot_env_oci::{ChainId, DiffId, Digest, Reference};
use robot_env_store::CacheRecord;
use serde::{Deserialize, Serialize};

pub(crate) use export::{export, inline};
pub(crate) use import::Import;

/// What the manifest of a cache is.
pub(crate) const ARTIFACT: &str = "application/vnd.robot-env.build-cache.v1";
/// The media type of its config.
pub(crate) const CONFIG: &str = "application/vnd.robot-env.build-cache.config.v1+json";
/// The field of an image's config with the cache that it carries.
pub(crate) const INLINE: &str = "robot-env.build-cache.v1";
/// The tag in a directory where none is said.
const TAG: &str = "latest";

/// What steps came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Document {
    /// The layers, those below before those above; empty in an image, whose own they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<Layer>,
    /// The steps.
    pub(crate) steps: Vec<Step>,
}

/// A layer of a cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The digest of its tar.
    pub(crate) diff_id: DiffId,
    /// The layer that it stands on, by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) below: Option<usize>,
    /// Its blob among the layers of the manifest, by its number; a base image's has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<usize>,
}

/// A step of a cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The digest of all that it depends on.
    pub(crate) key: Digest,
    /// The topmost layer afterwards, by its number; none where there is none at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layer: Option<usize>,
    /// Whether it made that layer.
    pub(crate) made: bool,
    /// The step, for people.
    pub(crate) description: String,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
}

impl Step {
    fn record(&self, chain: Option<ChainId>) -> CacheRecord {
        CacheRecord {
            chain,
            layer: self.made,
            description: self.description.clone(),
            created: self.created.clone(),
            used: 0,
        }
    }
}

/// A cache of another build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheSource {
    /// A directory, and what is wanted of it.
    Local {
        /// The directory.
        directory: PathBuf,
        /// The tag; `None`: `latest`, or the only one there is.
        tag: Option<String>,
        /// The manifest.
        digest: Option<Digest>,
    },
    /// What a registry has under this name: a cache, or an image with one in it.
    Registry(Reference),
}

/// Where the cache of a build is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where to.
    pub place: CachePlace,
    /// Whether all steps are in it, and not those of the image alone (`mode=max`).
    pub all: bool,
    /// Whether a failure is only told.
    pub ignore_error: bool,
}

/// A place for a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// A directory, and the tag in it.
    Local(PathBuf, String),
    /// A name in a registry.
    Registry(Reference),
    /// The image itself.
    Inline,
}

fn unknown(what: &str, kind: &str, left: &BTreeMap<String, String>) -> Result<()> {
    match left.first_key_value() {
        None => Ok(()),
        Some((key, _)) => {
            Err(Error::invalid(format!("{what} of the type `{kind}` does not know the attribute `{key}`")))
        }
    }
}

fn needed(what: &str, kind: &str, key: &str, value: Option<String>) -> Result<String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::invalid(format!("{what} of the type `{kind}` needs the attribute `{key}`")))
}

fn no_type(what: &str, kind: &str, known: &str) -> Error {
    Error::invalid(format!("{what} does not know the type `{kind}`: there are {known}"))
}

impl CacheSource {
    /// Reads a source of this type with its attributes; relative paths are below `here`.
    ///
    /// # Errors
    /// `InvalidInput` for a type, attribute or value that is not known, naming it.
    pub fn read(kind: &str, attributes: &BTreeMap<String, String>, here: &Path) -> Result<CacheSource> {
        let mut left = attributes.clone();
        let what = "--cache-from";
        let source = match kind {
            "local" => CacheSource::Local {
                directory: here.join(needed(what, kind, "src", left.remove("src"))?),
                tag: left.remove("tag"),
                digest: left.remove("digest").map(|text| text.parse()).transpose()?,
            },
            "registry" => {
                let name = needed(what, kind, "ref", left.remove("ref"))?;
                CacheSource::Registry(name.parse::<Reference>()?.or_latest())
            }
            "inline" => {
                return Err(no_type(what, kind, "local and registry")
                    .with_hint("the cache inside an image comes by `type=registry,ref=IMAGE`"));
            }
            other => return Err(no_type(what, other, "local and registry")),
        };
        unknown(what, kind, &left)?;
        Ok(source)
    }

    pub(crate) fn shown(&self) -> String {
        match self {
            CacheSource::Local { directory, .. } => directory.display().to_string(),
            CacheSource::Registry(name) => name.familiar(),
        }
    }
}

impl CacheTarget {
    /// Reads a target of this type with its attributes; relative paths are below `here`.
    ///
    /// # Errors
    /// `InvalidInput` for a type, attribute or value that is not known, naming it.
    pub fn read(kind: &str, attributes: &BTreeMap<String, String>, here: &Path) -> Result<CacheTarget> {
        let mut left = attributes.clone();
        let what = "--cache-to";
        let bad = |key: &str, value: &str, why: &str| {
            Error::invalid(format!("invalid value `{value}` for `{key}` of {what}: {why}"))
        };
        let mut flag = |key: &str| match left.remove(key).as_deref() {
            None => Ok(None),
            Some("" | "1" | "true") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(value) => Err(bad(key, value, "it must be true or false")),
        };
        let ignore_error = flag("ignore-error")?.unwrap_or(false);
        for key in ["oci-mediatypes", "image-manifest"] {
            if flag(key)? == Some(false) {
                return Err(bad(key, "false", "a cache is an OCI manifest"));
            }
        }
        let all = match left.remove("mode").as_deref() {
            None | Some("min") => false,
            Some("max") if kind == "inline" => {
                return Err(bad("mode", "max", "an image carries the steps of its own layers only"));
            }
            Some("max") => true,
            Some(other) => return Err(bad("mode", other, "there are min and max")),
        };
        let place = match kind {
            "local" => {
                let directory = here.join(needed(what, kind, "dest", left.remove("dest"))?);
                CachePlace::Local(directory, left.remove("tag").unwrap_or_else(|| TAG.to_owned()))
            }
            "registry" => {
                let name = needed(what, kind, "ref", left.remove("ref"))?;
                CachePlace::Registry(name.parse::<Reference>()?.or_latest())
            }
            "inline" => CachePlace::Inline,
            other => return Err(no_type(what, other, "local, registry and inline")),
        };
        unknown(what, kind, &left)?;
        Ok(CacheTarget { place, all, ignore_error })
    }

    pub(crate) fn shown(&self) -> String {
        match &self.place {
            CachePlace::Local(directory, _) => directory.display().to_string(),
            CachePlace::Registry(name) => name.familiar(),
            CachePlace::Inline => "the image".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_named() {
        let read = |text: &str| {
            let mut all: BTreeMap<String, String> = text
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
            let kind = all.remove("type").unwrap_or_default();
            (
                CacheSource::read(&kind, &all, Path::new("/here")).map_err(|error| error.to_string()),
                CacheTarget::read(&kind, &all, Path::new("/here")).map_err(|error| error.to_string()),
            )
        };
        let local = CachePlace::Local("/here/c".into(), "latest".into());
        assert_eq!(
            read("type=local,dest=c,mode=max").1,
            Ok(CacheTarget { place: local, all: true, ignore_error: false })
        );
        assert!(matches!(read("type=local,src=/c,tag=x").0, Ok(CacheSource::Local { .. })));
        assert!(matches!(read("type=registry,ref=x/y").0, Ok(CacheSource::Registry(_))));
        for (text, want) in [
            ("type=local,dest=c,what=1", "`what`"),
            ("type=local", "needs the attribute"),
            ("type=gha", "--cache-from does not know the type `gha`: there are local and registry\""),
            ("type=gha", "--cache-to does not know the type `gha`: there are local, registry and inline\""),
            ("type=registry,ref=x,mode=medium", "`mode`"),
        ] {
            let (source, target) = read(text);
            let said = format!("{source:?} {target:?}");
            assert!(said.contains(want) && target.is_err(), "{text}: {said}");
        }
    }
}
