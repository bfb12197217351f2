//! The host's side of `cp`: what a path means there.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, Kind, Result};
use rustix::fs::{Mode, OFlags};

use super::rules::{Destination, clean, split};

/// The most links that are followed to a destination, as Docker does.
const LINKS: usize = 10;

/// What is copied into a container.
#[derive(Debug)]
pub(super) struct Source {
    /// The directory it is in, or itself.
    pub(super) dir: OwnedFd,
    /// Its name in that directory; none for the directory itself.
    pub(super) entry: Option<Vec<u8>>,
    /// The name that it has in the end.
    pub(super) name: String,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
}

impl Source {
    /// Opens an absolute path. A link at its end is copied as a link, unless it is to be followed or
    /// a slash comes after it.
    pub(super) fn open(path: &str, follow: bool) -> Result<Source> {
        let (parent, name) = split(path);
        let is_link =
            fs::symlink_metadata(path).map_err(|error| failed("look at", path, &error))?.is_symlink();
        let inside = path.ends_with('/') || path.ends_with("/.");
        let real = if follow && is_link {
            fs::canonicalize(path).map_err(|error| failed("follow", path, &error))?
        } else {
            PathBuf::from(path)
        };
        let is_directory =
            inside || fs::symlink_metadata(&real).map_err(|error| failed("look at", path, &error))?.is_dir();
        if is_directory {
            return Ok(Source { dir: open_directory(&real)?, entry: None, name, is_directory });
        }
        let (parent, entry) = match (follow && is_link, real.parent(), real.file_name()) {
            (true, Some(parent), Some(entry)) => (parent.to_owned(), entry.as_encoded_bytes().to_vec()),
            _ => (PathBuf::from(parent), name.clone().into_bytes()),
        };
        Ok(Source { dir: open_directory(&parent)?, entry: Some(entry), name, is_directory })
    }
}

/// A path of the user's as an absolute one, with the slash or the dot at its end.
pub(super) fn absolute(directory: &Path, path: &str) -> String {
    let joined = directory.join(path).to_string_lossy().into_owned();
    let plain = clean(&joined);
    let end = match path {
        "." => "/.",
        path if path.ends_with("/.") => "/.",
        path if path.ends_with('/') => "/",
        _ => "",
    };
    if plain == "/" { format!("/{}", end.trim_start_matches('/')) } else { format!("{plain}{end}") }
}

/// Whether something can be copied to `path`: the directory above is there, and it is no device.
pub(super) fn check_output(path: &str) -> Result<()> {
    let (directory, _) = split(&clean(path));
    if !Path::new(&directory).exists() {
        return Err(Error::not_found(format!(
            "invalid output path: directory \"{directory}\" does not exist"
        )));
    }
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let kind = metadata.file_type();
    if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
        return Err(Error::invalid(format!(
            "invalid output path: \"{path}\" must be a directory or a regular file"
        )));
    }
    Ok(())
}

/// What is at an absolute path; links at its end are followed, and there need not be anything.
pub(super) fn destination(said: &str) -> Result<Destination> {
    let mut path = said.to_owned();
    for _ in 0..=LINKS {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (directory, _) = split(&path);
                open_directory(Path::new(&directory))?;
                return Ok(Destination { path, exists: false, is_directory: false });
            }
            Err(error) => return Err(failed("look at", &path, &error)),
        };
        if !metadata.is_symlink() {
            return Ok(Destination { path, exists: true, is_directory: metadata.is_dir() });
        }
        let target = fs::read_link(&path).map_err(|error| failed("follow", &path, &error))?;
        let (directory, _) = split(&path);
        path = clean(&Path::new(&directory).join(target).to_string_lossy());
    }
    Err(Error::invalid(format!("too many symbolic links at `{said}`")))
}

/// Opens a directory of the host.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| failed("open", &path.to_string_lossy(), &errno.into()))
}

fn failed(verb: &str, path: &str, error: &std::io::Error) -> Error {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    let kind = match error.kind() {
        std::io::ErrorKind::NotADirectory => Kind::InvalidInput,
        _ => Kind::of_io(error),
    };
    Error::new(kind, format!("cannot {verb} `{path}`: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_their_end() {
        for (path, want) in [
            ("a", "/w/a"),
            ("a/", "/w/a/"),
            ("a/.", "/w/a/."),
            (".", "/w/."),
            ("..", "/"),
            ("/", "/"),
            ("/.", "/."),
            ("/a/../b/", "/b/"),
        ] {
            assert_eq!(absolute(Path::new("/w"), path), want, "{path}");
        }
    }
}
