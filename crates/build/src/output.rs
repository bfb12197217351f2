//! What becomes of a build's result, as `--output` says it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use robot_env_diag::{Error, Kind, Result};
use robot_env_layer::Compression;
use robot_env_oci::Reference;

/// What becomes of the result.
#[derive(Clone, Debug)]
pub enum Output {
    /// An image of the store.
    Image {
        /// Its names, in place of the request's.
        names: Vec<Reference>,
        /// Whether it is pushed under them.
        push: bool,
        /// Whether the files of its layers get the build's time: see [`crate::BuildRequest::epoch`].
        rewrite_timestamp: bool,
    },
    /// Its files, in a directory.
    Local {
        /// The directory; what else is in it stays.
        directory: PathBuf,
        /// Whether each platform gets a directory of its own; `None`: where there are several.
        platform_split: Option<bool>,
    },
    /// Its files, as a tar.
    Tar {
        /// Where to.
        destination: Destination,
        /// Whether each platform gets a directory of its own; `None`: where there are several.
        platform_split: Option<bool>,
    },
    /// The image, as an OCI layout.
    Layout {
        /// Where to.
        destination: Destination,
        /// Its names, in place of the request's.
        names: Vec<Reference>,
        /// Whether it is a docker-archive, too.
        docker: bool,
        /// How layers are compressed.
        compression: Option<Compression>,
        /// See [`Output::Image`].
        rewrite_timestamp: bool,
    },
    /// Nothing: the cache is filled.
    Cache,
}

/// Where files or archives go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A file, which appears when it is whole.
    File(PathBuf),
    /// A directory (of an OCI layout).
    Directory(PathBuf),
    /// What is open already.
    Open(Arc<File>),
}

/// The attributes of an output, each of which must be asked for.
struct Attributes<'a> {
    kind: &'a str,
    left: BTreeMap<String, String>,
}

impl Attributes<'_> {
    fn bad(&self, key: &str, value: &str, why: &str) -> Error {
        Error::invalid(format!("invalid value `{value}` for `{key}` of the output `{}`: {why}", self.kind))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.left.remove(key)
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                "true" | "1" | "" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                other => Err(self.bad(key, other, "it must be true or false")),
            },
        }
    }

    /// A flag that can only have one value here.
    fn fixed(&mut self, key: &str, only: bool, why: &str) -> Result<()> {
        match self.flag(key)? {
            Some(value) if value != only => Err(self.bad(key, &value.to_string(), why)),
            _ => Ok(()),
        }
    }

    fn names(&mut self) -> Result<Vec<Reference>> {
        let Some(text) = self.take("name") else { return Ok(Vec::new()) };
        text.split(',').map(|name| Ok(name.trim().parse::<Reference>()?.or_latest())).collect()
    }

    fn compression(&mut self) -> Result<Option<Compression>> {
        let Some(text) = self.take("compression") else { return Ok(None) };
        match text.as_str() {
            "uncompressed" => Ok(Some(Compression::None)),
            "gzip" => Ok(Some(Compression::Gzip)),
            "zstd" => Ok(Some(Compression::Zstd)),
            other => Err(self.bad("compression", other, "there are uncompressed, gzip and zstd")),
        }
    }

    /// Layers are pushed by gzip, and kept here as files.
    fn only_gzip(&mut self) -> Result<()> {
        let text = self.left.get("compression").cloned().unwrap_or_default();
        match self.compression()? {
            None | Some(Compression::Gzip) => Ok(()),
            Some(_) => Err(self.bad("compression", &text, "layers are pushed by gzip")),
        }
    }

    fn end(self) -> Result<()> {
        match self.left.first_key_value() {
            None => Ok(()),
            Some((key, _)) => {
                Err(Error::invalid(format!("the output `{}` does not know the attribute `{key}`", self.kind)))
            }
        }
    }
}

impl Output {
    /// Reads an output of this type, with its attributes; relative paths are below `here`. `stdout` is
    /// what `-` means.
    ///
    /// # Errors
    /// `InvalidInput` for a type, attribute or value that is not known, naming it.
    pub fn read(
        kind: &str,
        attributes: &BTreeMap<String, String>,
        here: &Path,
        stdout: &mut dyn FnMut() -> Result<File>,
    ) -> Result<Output> {
        let mut all = Attributes { kind, left: attributes.clone() };
        let mut destination = |dest: Option<String>, tar: bool| -> Result<Destination> {
            Ok(match dest.as_deref() {
                None | Some("-") if tar => Destination::Open(Arc::new(stdout()?)),
                None | Some("" | "-") => {
                    return Err(Error::invalid(format!("the output `{kind}` needs a `dest`")));
                }
                Some(path) if tar => Destination::File(here.join(path)),
                Some(path) => Destination::Directory(here.join(path)),
            })
        };
        let output = match kind {
            "local" => {
                let Destination::Directory(directory) = destination(all.take("dest"), false)? else {
                    return Err(Error::new(Kind::Internal, "a directory is none"));
                };
                Output::Local { directory, platform_split: all.flag("platform-split")? }
            }
            "tar" => Output::Tar {
                destination: destination(all.take("dest"), true)?,
                platform_split: all.flag("platform-split")?,
            },
            "docker" if !all.left.contains_key("dest") => {
                all.fixed("oci-mediatypes", true, "only OCI's media types are written")?;
                Output::Image {
                    names: all.names()?,
                    push: false,
                    rewrite_timestamp: all.flag("rewrite-timestamp")?.unwrap_or(false),
                }
            }
            "oci" | "docker" => {
                all.fixed("oci-mediatypes", true, "only OCI's media types are written")?;
                let tar = all.flag("tar")?.unwrap_or(true);
                let dest = all.take("dest");
                Output::Layout {
                    destination: destination(dest, tar)?,
                    names: all.names()?,
                    docker: kind == "docker",
                    compression: all.compression()?,
                    rewrite_timestamp: all.flag("rewrite-timestamp")?.unwrap_or(false),
                }
            }
            "image" | "registry" => {
                all.fixed("oci-mediatypes", true, "only OCI's media types are written")?;
                all.fixed("unpack", true, "images are always unpacked")?;
                all.fixed("store", true, "use the type `oci` or `cacheonly`")?;
                all.only_gzip()?;
                Output::Image {
                    names: all.names()?,
                    push: all.flag("push")?.unwrap_or(kind == "registry"),
                    rewrite_timestamp: all.flag("rewrite-timestamp")?.unwrap_or(false),
                }
            }
            "cacheonly" => Output::Cache,
            other => {
                return Err(Error::invalid(format!(
                    "there is no output of the type `{other}`: there are local, tar, oci, docker, image, \
                     registry and cacheonly"
                )));
            }
        };
        all.end()?;
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_named() {
        for (kind, attributes, want) in [
            ("bogus", &[][..], "no output of the type `bogus`"),
            ("local", &[], "needs a `dest`"),
            ("local", &[("dest", "a"), ("what", "1")], "`what`"),
            ("oci", &[("dest", "a"), ("compression", "lz4")], "`lz4` for `compression`"),
            ("image", &[("compression", "zstd")], "`zstd` for `compression`"),
            ("image", &[("push", "maybe")], "`maybe` for `push`"),
            ("registry", &[("name", "UPPER")], "`UPPER`"),
        ] {
            let all = attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            let mut stdout = || Err(Error::invalid("nobody asked for it"));
            let said = Output::read(kind, &all, Path::new("/here"), &mut stdout).unwrap_err().to_string();
            assert!(said.contains(want), "{kind} {attributes:?}: {said}");
        }
    }
}
