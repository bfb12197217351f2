//! `Mounts`, in both places where Docker has them.

use std::collections::BTreeMap;

use robot_env_engine::record::MountPoint as Mounted;
use robot_env_spec::{MountSource, MountSpec, Propagation, ReadOnlyDepth};
use serde::Serialize;

/// A mount of a container, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct MountPoint {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub source: String,
    pub destination: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    pub propagation: String,
}

impl MountPoint {
    /// The mount that the engine made.
    pub fn new(mount: &Mounted) -> Self {
        let volume = mount.kind == "volume";
        let bind = mount.kind == "bind";
        MountPoint {
            kind: mount.kind.clone(),
            name: mount.volume.clone().unwrap_or_default(),
            source: mount.source.clone(),
            destination: mount.target.clone(),
            driver: if volume { "local".into() } else { String::new() },
            mode: match (volume, mount.read_only) {
                (_, true) => "ro".into(),
                (true, false) => "z".into(),
                (false, false) => String::new(),
            },
            rw: !mount.read_only,
            propagation: if bind { mount.propagation.word().into() } else { String::new() },
        }
    }
}

/// A mount as `--mount` asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct MountOptions {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
}

/// Options of a bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct BindOptions {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub non_recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub create_mountpoint: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only_force_recursive: bool,
}

/// Options of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct VolumeOptions {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<DriverConfig>,
}

/// A volume's driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct DriverConfig {
    pub options: BTreeMap<String, String>,
}

/// Options of a tmpfs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct TmpfsOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// Options of an image's mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ImageOptions {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// The three places of `HostConfig` where mounts are found again.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// `-v` in its text form.
    pub(crate) binds: Vec<String>,
    /// `--tmpfs` by target.
    pub(crate) tmpfs: BTreeMap<String, String>,
    /// `--mount`.
    pub(crate) mounts: Vec<MountOptions>,
}

/// Sorts the mounts that were asked for into those places. What `-v` can say is said as `-v`.
pub(crate) fn asked(mounts: &[MountSpec]) -> Asked {
    let mut out = Asked::default();
    for mount in mounts {
        let mut words: Vec<&str> = Vec::new();
        if mount.read_only {
            words.push("ro");
        }
        match &mount.source {
            MountSource::Bind {
                source,
                create_source: true,
                propagation,
                recursive: true,
                read_only_depth: ReadOnlyDepth::RecursiveIfPossible,
            } => {
                if *propagation != Propagation::Rprivate {
                    words.push(propagation.word());
                }
                out.binds.push(bind_text(source, &mount.target, &words));
            }
            MountSource::Volume { name, no_copy, subpath: None, labels, options }
                if labels.is_empty() && options.is_empty() =>
            {
                if *no_copy {
                    words.push("nocopy");
                }
                // An anonymous volume stands in `Mounts` alone.
                out.binds.extend(name.as_ref().map(|name| bind_text(name, &mount.target, &words)));
            }
            MountSource::Tmpfs { size, mode, options } => {
                let mut texts = options.clone();
                texts.extend(size.map(|size| format!("size={size}")));
                texts.extend(mode.map(|mode| format!("mode={mode:o}")));
                texts.extend(mount.read_only.then(|| "ro".to_owned()));
                out.tmpfs.insert(mount.target.clone(), texts.join(","));
            }
            _ => out.mounts.push(options(mount)),
        }
    }
    out
}

fn bind_text(source: &str, target: &str, words: &[&str]) -> String {
    let colon = if words.is_empty() { "" } else { ":" };
    format!("{source}:{target}{colon}{}", words.join(","))
}

fn options(mount: &MountSpec) -> MountOptions {
    let base =
        MountOptions { target: mount.target.clone(), read_only: mount.read_only, ..MountOptions::default() };
    match &mount.source {
        MountSource::Bind { source, create_source, propagation, recursive, read_only_depth } => {
            let default = *propagation == Propagation::Rprivate;
            let options = BindOptions {
                propagation: if default { String::new() } else { propagation.word().into() },
                non_recursive: !recursive,
                create_mountpoint: *create_source,
                read_only_non_recursive: *read_only_depth == ReadOnlyDepth::TopOnly,
                read_only_force_recursive: *read_only_depth == ReadOnlyDepth::RecursiveOrFail,
            };
            MountOptions {
                kind: "bind".into(),
                source: source.clone(),
                bind_options: Some(options).filter(|options| *options != BindOptions::default()),
                ..base
            }
        }
        MountSource::Volume { name, no_copy, subpath, labels, options } => {
            let options = VolumeOptions {
                no_copy: *no_copy,
                labels: labels.clone(),
                subpath: subpath.clone().unwrap_or_default(),
                driver_config: (!options.is_empty()).then(|| DriverConfig { options: options.clone() }),
            };
            MountOptions {
                kind: "volume".into(),
                source: name.clone().unwrap_or_default(),
                volume_options: Some(options).filter(|options| *options != VolumeOptions::default()),
                ..base
            }
        }
        MountSource::Tmpfs { size, mode, .. } => MountOptions {
            kind: "tmpfs".into(),
            tmpfs_options: Some(TmpfsOptions { size_bytes: *size, mode: *mode }),
            ..base
        },
        MountSource::Image { image, subpath } => MountOptions {
            kind: "image".into(),
            source: image.clone(),
            image_options: subpath.clone().map(|subpath| ImageOptions { subpath }),
            ..base
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_again_where_docker_has_them() {
        let bind = |create_source, read_only| MountSpec {
            target: "/b".into(),
            read_only,
            source: MountSource::Bind {
                source: "/a".into(),
                create_source,
                propagation: Propagation::Rslave,
                recursive: true,
                read_only_depth: ReadOnlyDepth::RecursiveIfPossible,
            },
        };
        let tmpfs = MountSpec {
            target: "/t".into(),
            read_only: false,
            source: MountSource::Tmpfs { size: Some(64), mode: Some(0o700), options: vec!["noexec".into()] },
        };
        let volume = MountSpec {
            target: "/v".into(),
            read_only: false,
            source: MountSource::Volume {
                name: Some("vol".into()),
                no_copy: true,
                subpath: None,
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
            },
        };
        let asked = asked(&[bind(true, true), bind(false, true), tmpfs, volume]);
        assert_eq!(asked.binds, ["/a:/b:ro,rslave", "vol:/v:nocopy"]);
        assert_eq!(asked.tmpfs["/t"], "noexec,size=64,mode=700");
        assert_eq!(
            serde_json::to_string(&asked.mounts).unwrap(),
            r#"[{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"BindOptions":{"Propagation":"rslave"}}]"#
        );
    }
}
