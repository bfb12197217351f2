use std::collections::BTreeMap;

use robot_env_diag::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::{Digest, Platform};

/// The media types that are read and written.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker manifest, schema 1: refused.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// Docker manifest, schema 1 without a signature: refused.
    pub const DOCKER_SCHEMA1_UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";
}

/// A pointer to content (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
    /// Where else the content may be had; kept, never followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub urls: Vec<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

/// One image (OCI image manifest or Docker schema 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; may be missing in OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What the artefact is, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// What this manifest refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

/// Several images under one name (OCI index or Docker manifest list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; may be missing in OCI indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The manifest for `wanted`: the best match, entries without a platform last, attestations
    /// (`unknown/unknown`) never.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let exact = self.manifests.iter().find(|d| {
            d.platform
                .as_ref()
                .is_some_and(|p| p.satisfies(wanted) && (p.variant == wanted.variant || p.variant.is_empty()))
        });
        exact
            .or_else(|| {
                self.manifests.iter().find(|d| d.platform.as_ref().is_some_and(|p| p.satisfies(wanted)))
            })
            .or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
    }

    /// The platforms on offer, for error texts.
    pub fn platforms(&self) -> Vec<String> {
        self.manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(ToString::to_string)
            .collect()
    }
}

/// A manifest or an index, told apart by media type *and* by shape, so that one document is never
/// read as both (CVE-2021-41190).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one lives at a time, and never in a list
pub enum AnyManifest {
    /// One image.
    Manifest(Manifest),
    /// Several images.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl AnyManifest {
    /// Reads a document that was served or described as `declared` (a media type, without
    /// parameters; `None` when unknown). Schema 1 and ambiguous documents are refused.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self> {
        let corrupt = |why: String| {
            Error::new(Kind::Corrupt, "cannot read manifest").because(Error::new(Kind::Corrupt, why))
        };
        let probe: Probe = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
        let inner = probe.media_type.as_deref();
        let schema1 = |t: &str| t == media_type::DOCKER_SCHEMA1 || t == media_type::DOCKER_SCHEMA1_UNSIGNED;
        if probe.schema_version == Some(1)
            || probe.fs_layers.is_some()
            || declared.is_some_and(schema1)
            || inner.is_some_and(schema1)
        {
            return Err(Error::new(
                Kind::Unsupported,
                "cannot read manifest: it has the Docker schema 1 format, which was retired in 2017",
            )
            .with_hint("push the image again with a current tool"));
        }
        if probe.schema_version != Some(2) {
            return Err(corrupt("schemaVersion is not 2".into()));
        }
        let index_type = |t: &str| t == media_type::OCI_INDEX || t == media_type::DOCKER_INDEX;
        let manifest_type = |t: &str| t == media_type::OCI_MANIFEST || t == media_type::DOCKER_MANIFEST;
        if let (Some(declared), Some(inner)) = (declared, inner)
            && (index_type(declared) || manifest_type(declared))
            && declared != inner
        {
            return Err(corrupt(format!("it is served as `{declared}` but says `{inner}`")));
        }
        match (probe.manifests.is_some(), probe.config.is_some() || probe.layers.is_some()) {
            (true, true) => Err(corrupt("it has both `manifests` and `layers`".into())),
            (false, false) => Err(corrupt("it has neither `manifests` nor `layers`".into())),
            (true, false) => {
                if inner.or(declared).is_some_and(manifest_type) {
                    return Err(corrupt("it is an index with the media type of a manifest".into()));
                }
                serde_json::from_slice(bytes).map(AnyManifest::Index).map_err(|e| corrupt(e.to_string()))
            }
            (false, true) => {
                if inner.or(declared).is_some_and(index_type) {
                    return Err(corrupt("it is a manifest with the media type of an index".into()));
                }
                serde_json::from_slice(bytes).map(AnyManifest::Manifest).map_err(|e| corrupt(e.to_string()))
            }
        }
    }
}

/// Go writes `null` for an empty list or map.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(kind: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1}}"#, Digest::of(b"x"))
    }

    #[test]
    fn tells_manifest_and_index_apart() {
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{},"layers":null}}"#, descriptor(media_type::OCI_CONFIG));
        assert!(matches!(AnyManifest::parse(manifest.as_bytes(), None), Ok(AnyManifest::Manifest(_))));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(
            AnyManifest::parse(index.as_bytes(), Some(media_type::OCI_INDEX)),
            Ok(AnyManifest::Index(_))
        ));
    }

    #[test]
    fn refuses_ambiguous_and_old_documents() {
        let both = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
            descriptor(media_type::OCI_CONFIG)
        );
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        for (text, declared) in [
            (both.as_str(), None),
            (index, Some(media_type::OCI_MANIFEST)),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None),
            (r#"{"schemaVersion":2}"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert!(AnyManifest::parse(text.as_bytes(), declared).is_err(), "{text}");
        }
    }

    #[test]
    fn picks_the_platform() {
        let entry = |p: &str| Descriptor {
            platform: Some(p.parse().unwrap()),
            ..Descriptor::new(media_type::OCI_MANIFEST, Digest::of(p.as_bytes()), 1)
        };
        let index = Index {
            schema_version: 2,
            media_type: None,
            annotations: BTreeMap::new(),
            manifests: vec![
                entry("linux/arm/v6"),
                entry("linux/arm/v7"),
                entry("linux/amd64"),
                entry("linux/arm64"),
            ],
        };
        let pick = |p: &str| {
            index.select(&p.parse().unwrap()).and_then(|d| d.platform.clone()).map(|p| p.to_string())
        };
        assert_eq!(pick("linux/arm/v7").as_deref(), Some("linux/arm/v7"));
        assert_eq!(pick("linux/arm64/v8").as_deref(), Some("linux/arm64"));
        assert_eq!(pick("linux/riscv64"), None);
    }
}
