//! Which files there are, and their texts.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use robot_env_diag::{Context as _, Error, IoContext as _, Kind, Result};

use crate::finding::Finding;
use crate::json::SyntaxError;
use crate::value::Value;
use crate::{json, tables};

/// The largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON as Docker reads it.
    Json,
    /// JSON with comments and trailing commas.
    JsonWithComments,
    /// TOML.
    Toml,
}

impl Format {
    /// By the file's name: what ends in `.json` is JSON, everything else TOML.
    pub fn of(path: &Path) -> Format {
        if path.extension().is_some_and(|end| end == "json") { Format::Json } else { Format::Toml }
    }

    /// Reads a text; `file` is its name in findings.
    pub fn parse(self, file: &Path, text: &str) -> Result<Value, Vec<Finding>> {
        let named = |error: SyntaxError| Finding::warning(file, error.at, error.message);
        match self {
            Format::Json => json::parse(text, false).map_err(|error| vec![named(error)]),
            Format::JsonWithComments => json::parse(text, true).map_err(|error| vec![named(error)]),
            Format::Toml => tables::parse(text).map_err(|errors| errors.into_iter().map(named).collect()),
        }
    }
}

/// A file that may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub path: PathBuf,
    /// Whether it is the user's own, not the system's.
    pub own: bool,
}

/// The files of a configuration, a later one winning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The files.
    pub files: Vec<Source>,
    /// Whether an ordinary user's engine asks: where root's data are is none of its business then.
    pub rootless: bool,
}

impl Sources {
    /// The usual files, by what `variable` says of the environment:
    ///
    /// 1. `/etc/docker/daemon.json`
    /// 2. an ordinary user's `docker/daemon.json` in the user's configuration directory
    /// 3. `/etc/robot-env/config.toml`
    /// 4. `robot-env/config.toml` in the user's configuration directory
    ///
    /// That directory is `$XDG_CONFIG_HOME`, else `$HOME/.config`.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>, rootless: bool) -> Sources {
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let user = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let system = |path: &str| Some(Source { path: path.into(), own: false });
        let own = |path: &str| user.as_ref().map(|user| Source { path: user.join(path), own: true });
        let files = [
            system("/etc/docker/daemon.json"),
            own("docker/daemon.json").filter(|_| rootless),
            system("/etc/robot-env/config.toml"),
            own("robot-env/config.toml"),
        ];
        Sources { files: files.into_iter().flatten().collect(), rootless }
    }
}

/// The bytes of a file; `None` if there is no such file. Regular files of at most `limit` bytes only.
///
/// # Errors
/// What the system says, or that it is no such file.
pub fn read_bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
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

/// The text of a file; `None` if there is no such file. Regular files of at most 1 MiB only.
///
/// # Errors
/// What the system says, or that it is no such file or not UTF-8.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    let what = || format!("cannot read file `{}`", path.display());
    let text = |bytes| String::from_utf8(bytes).context(Kind::InvalidInput, what);
    read_bytes(path, FILE_LIMIT)?.map(text).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_follow_the_environment() {
        let paths = |pairs: &'static [(&str, &str)], rootless| {
            let sources = Sources::of(
                |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()),
                rootless,
            );
            sources.files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let root = "/etc/docker/daemon.json /etc/robot-env/config.toml";
        assert_eq!(paths(&[], false), root);
        assert_eq!(paths(&[("HOME", "/root")], false), format!("{root} /root/.config/robot-env/config.toml"));
        assert_eq!(
            paths(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")], true),
            "/etc/docker/daemon.json /c/docker/daemon.json /etc/robot-env/config.toml /c/robot-env/config.toml"
        );
        assert_eq!(paths(&[("XDG_CONFIG_HOME", "relative")], true), root);
    }
}
