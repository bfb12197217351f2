//! The files that set mirrors and insecure registries: `registries.toml` and Docker's `daemon.json`.
//!
//! A file that does not exist says nothing. What cannot be read or understood becomes a warning and
//! is left out; the rest of the file counts.

use std::io::Read as _;
use std::path::Path;

use robot_env_diag::{Context as _, Error, IoContext as _, Kind, Result};

use crate::address::{Origin, Scheme};
use crate::mirror::Mirror;
use crate::options::{ClientOptions, Network};

/// The largest settings file that is read, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;
/// The registry that Docker's `registry-mirrors` are for.
const DOCKER_HUB: &str = "docker.io";

/// The file's bytes; `None` if there is no such file. At most `limit` bytes, regular files only.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("cannot read file `{}`", path.display());
    // The type is looked at first, so that a FIFO is never waited for.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(Error::invalid(what()).because(Error::invalid("it is not a regular file"))),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e).io_context(what),
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .io_context(what)?;
    if bytes.len() as u64 > limit {
        return Err(
            Error::invalid(what()).because(Error::invalid(format!("it is larger than {limit} bytes")))
        );
    }
    Ok(Some(bytes))
}

/// Like [`read_bytes`], for a text.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let what = || format!("cannot read file `{}`", path.display());
    read_bytes(path, limit)?
        .map(|bytes| String::from_utf8(bytes).context(Kind::InvalidInput, what))
        .transpose()
}

fn warning(path: &Path, why: impl Into<String>) -> Error {
    Error::invalid(format!("cannot use all of file `{}`", path.display())).because(Error::invalid(why))
}

/// Reads `registries.toml`:
///
/// ```toml
/// [registry."docker.io"]
/// mirrors = ["https://mirror.example", "10.0.0.2:5000"]
/// [registry."10.0.0.2:5000"]
/// insecure = true
/// ```
pub(crate) fn read_registries_toml(path: &Path, options: &mut ClientOptions, warnings: &mut Vec<Error>) {
    let parsed = read_text(path, FILE_LIMIT).and_then(|text| {
        text.map(|text| {
            text.parse::<toml::Table>()
                .context(Kind::InvalidInput, || format!("cannot read file `{}`", path.display()))
        })
        .transpose()
    });
    let table = match parsed {
        Ok(Some(table)) => table,
        Ok(None) => return,
        Err(error) => return warnings.push(error),
    };
    for (section, value) in table {
        match (section.as_str(), value) {
            ("registry", toml::Value::Table(registries)) => {
                for (name, value) in registries {
                    read_registry(path, &name, value, options, warnings);
                }
            }
            _ => warnings
                .push(warning(path, format!("unknown section `{section}`; the only one is `registry`"))),
        }
    }
}

fn read_registry(
    path: &Path,
    name: &str,
    value: toml::Value,
    options: &mut ClientOptions,
    warnings: &mut Vec<Error>,
) {
    let toml::Value::Table(table) = value else {
        return warnings.push(warning(path, format!("`registry.\"{name}\"` is not a section")));
    };
    if !is_authority(name) {
        return warnings.push(warning(path, format!("`{name}` is not a registry's `host` or `host:port`")));
    }
    let settings = options.registries.entry(name.to_owned()).or_default();
    for (key, value) in table {
        match (key.as_str(), value) {
            ("insecure", toml::Value::Boolean(insecure)) => settings.insecure = insecure,
            ("mirrors", toml::Value::Array(list)) => {
                settings.mirrors.clear();
                for mirror in list {
                    match mirror.as_str().filter(|text| Mirror::parse(text).is_some()) {
                        Some(text) => settings.mirrors.push(text.to_owned()),
                        None => warnings.push(warning(
                            path,
                            format!("{mirror:?} is not a mirror's `host[:port]` or URL"),
                        )),
                    }
                }
            }
            ("insecure", _) => {
                warnings.push(warning(path, format!("`insecure` of `{name}` is not true or false")));
            }
            ("mirrors", _) => warnings.push(warning(path, format!("`mirrors` of `{name}` is not a list"))),
            _ => warnings.push(warning(
                path,
                format!("unknown setting `{key}` of `{name}`; known are `mirrors` and `insecure`"),
            )),
        }
    }
}

fn is_authority(text: &str) -> bool {
    !text.contains('/') && Origin::new(Scheme::Https, text).is_some()
}

/// Reads `registry-mirrors` and `insecure-registries` of Docker's `daemon.json`; everything else
/// in it belongs to Docker.
pub(crate) fn read_daemon_json(path: &Path, options: &mut ClientOptions, warnings: &mut Vec<Error>) {
    let parsed = read_text(path, FILE_LIMIT).and_then(|text| {
        text.map(|text| {
            serde_json::from_str::<serde_json::Value>(&text)
                .context(Kind::InvalidInput, || format!("cannot read file `{}`", path.display()))
        })
        .transpose()
    });
    let document = match parsed {
        Ok(Some(document)) => document,
        Ok(None) => return,
        Err(error) => return warnings.push(error),
    };
    let mut list = |key: &str| -> Vec<String> {
        let mut out = Vec::new();
        match document.get(key) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::Array(values)) => {
                for value in values {
                    match value.as_str() {
                        Some(text) => out.push(text.to_owned()),
                        None => warnings.push(warning(
                            path,
                            format!("`{key}` has the entry {value}, which is not a text"),
                        )),
                    }
                }
            }
            Some(_) => warnings.push(warning(path, format!("`{key}` is not a list"))),
        }
        out
    };
    let (mirrors, insecure) = (list("registry-mirrors"), list("insecure-registries"));
    for text in mirrors {
        if Mirror::parse(&text).is_some() {
            options.registries.entry(DOCKER_HUB.to_owned()).or_default().mirrors.push(text);
        } else {
            warnings.push(warning(
                path,
                format!("`registry-mirrors` has the entry `{text}`, which is not a URL"),
            ));
        }
    }
    for text in insecure {
        let authority =
            text.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
        if let Ok(network) = text.parse::<Network>() {
            options.insecure_networks.push(network);
        } else if is_authority(authority) {
            options.registries.entry(authority.to_owned()).or_default().insecure = true;
        } else {
            warnings.push(warning(
                path,
                format!(
                    "`insecure-registries` has the entry `{text}`, which is neither a host nor a network"
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    fn read(name: &str, text: &str) -> (ClientOptions, Vec<String>) {
        let directory = TemporaryDirectory::new("settings");
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let (mut options, mut warnings) = (ClientOptions::default(), Vec::new());
        if name == "daemon.json" {
            read_daemon_json(&path, &mut options, &mut warnings);
        } else {
            read_registries_toml(&path, &mut options, &mut warnings);
        }
        (options, warnings.iter().map(|w| w.causes().join("; ")).collect())
    }

    #[test]
    fn registries_toml() {
        let (options, warnings) = read(
            "registries.toml",
            "[registry.\"docker.io\"]\nmirrors = [\"https://m.example\", \"10.0.0.2:5000\"]\n[registry.\"10.0.0.2:5000\"]\ninsecure = true\n",
        );
        assert_eq!(warnings, [""; 0]);
        assert_eq!(options.registries["docker.io"].mirrors, ["https://m.example", "10.0.0.2:5000"]);
        assert!(options.is_insecure("10.0.0.2:5000"));
    }

    #[test]
    fn a_typo_is_a_warning_and_the_rest_counts() {
        let (options, warnings) = read(
            "registries.toml",
            "[registry.\"a\"]\nmirors = []\nmirrors = [\"ftp://x\", 7, \"good\"]\ninsecure = \"yes\"\n[registry.\"b/c\"]\n[other]\n",
        );
        assert_eq!(warnings.len(), 6, "{warnings:?}");
        assert_eq!(options.registries["a"].mirrors, ["good"]);
        assert!(!options.registries["a"].insecure);
        let (options, warnings) = read("registries.toml", "[registry.\"a\"\n");
        assert_eq!((options.registries.len(), warnings.len()), (0, 1));
    }

    #[test]
    fn daemon_json() {
        let (options, warnings) = read(
            "daemon.json",
            r#"{"registry-mirrors":["https://m.example/", 3, "not a url"],"insecure-registries":["lab:5000","10.0.0.0/8","http://x"],"data-root":"/d"}"#,
        );
        assert_eq!(options.registries["docker.io"].mirrors, ["https://m.example/"]);
        assert!(
            options.is_insecure("lab:5000")
                && options.is_insecure("10.1.1.1:5000")
                && options.is_insecure("x")
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        for bad in ["{", "[]", r#"{"registry-mirrors":"x"}"#, r#"{"insecure-registries":{}}"#, ""] {
            let (options, warnings) = read("daemon.json", bad);
            assert_eq!(options.registries.len(), 0);
            assert!(warnings.len() == usize::from(bad != "[]"), "{bad}: {warnings:?}");
        }
    }

    #[test]
    fn a_missing_file_says_nothing() {
        let (mut options, mut warnings) = (ClientOptions::default(), Vec::new());
        read_daemon_json(Path::new("/nonexistent/daemon.json"), &mut options, &mut warnings);
        read_registries_toml(Path::new("/nonexistent/registries.toml"), &mut options, &mut warnings);
        assert!(warnings.is_empty() && options.registries.is_empty());
    }
}
