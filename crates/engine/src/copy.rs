//! Files into and out of containers, as tars. Docker's rules of which name becomes what stand in its
//! archive endpoints (moby `daemon/archive.go`); those of source and destination are the caller's.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{
    ExportOptions, Exported, ExtractOptions, ExtractOwner, Extracted, export_as, extract_as,
};
use robot_env_sys::fs as sys_fs;
use rustix::fs::{AtFlags, FileType, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::record::ContainerRecord;
use crate::view::{Access, View};

/// The most links that are followed on the way to one file (as the kernel does).
const LINKS: usize = 40;

/// A path in a container: what Docker's `X-Docker-Container-Path-Stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// The last name of the path that was asked for; `/` for the root.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// When it was changed.
    pub mtime: Timestamp,
    /// Where a symbolic link leads in the end: absolute, all links resolved; there need not be
    /// anything. Empty for everything else.
    pub link_target: String,
}

impl PathStat {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Symlink
    }
}

/// A container's files: see [`Engine::files`].
pub struct ContainerFiles<'e> {
    engine: &'e Engine,
    record: ContainerRecord,
    view: View,
    /// The container as the user named it.
    text: String,
}

/// What a path names: an entry of a directory, or a directory itself.
struct Place {
    dir: OwnedFd,
    entry: Option<String>,
    /// The last name of the path.
    name: String,
}

impl Engine {
    /// The files of a container in any state, with its volumes and binds. While what this returns
    /// lives, a stopped container cannot be started.
    ///
    /// Errors: `Conflict` while the container is being started again.
    pub fn files(&self, text: &str, access: Access) -> Result<ContainerFiles<'_>> {
        let (view, container) = self.view(text, access)?;
        Ok(ContainerFiles { engine: self, record: container.record, view, text: text.to_owned() })
    }
}

impl ContainerFiles<'_> {
    /// What there is at `path`. A link at its end is not followed, unless a slash comes after it.
    ///
    /// Errors: `NotFound`.
    pub fn stat(&self, path: &str) -> Result<PathStat> {
        let place = self.place(path)?;
        let stat = match &place.entry {
            Some(entry) => rustix::fs::statat(&place.dir, entry.as_str(), AtFlags::SYMLINK_NOFOLLOW),
            None => rustix::fs::fstat(&place.dir),
        };
        let stat = stat.map_err(|errno| self.failed(path, errno))?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        Ok(PathStat {
            name: place.name,
            size: stat.st_size.unsigned_abs(),
            mode: stat.st_mode,
            mtime: Timestamp::new(stat.st_mtime, stat.st_mtime_nsec as i32).unwrap_or_default(),
            link_target: if is_link { self.target_of(path) } else { String::new() },
        })
    }

    /// Writes `path` as a tar. Its entries begin with the path's last name, or with `name`; with
    /// `.` for the root, or where the path ends in `/.`. A link at its end is not followed, unless a
    /// slash comes after it.
    ///
    /// Errors: `NotFound`; `Denied` for the kernel's files.
    pub fn write_tar(&self, path: &str, name: Option<&str>, out: &mut dyn Write) -> Result<Exported> {
        let place = self.place(path)?;
        let stat = match &place.entry {
            Some(entry) => rustix::fs::statat(&place.dir, entry.as_str(), AtFlags::SYMLINK_NOFOLLOW),
            None => rustix::fs::fstat(&place.dir),
        }
        .map_err(|errno| self.failed(path, errno))?;
        let own_name = if place.name == "/" { "." } else { &place.name };
        let prefix = name.unwrap_or(own_name).as_bytes().to_vec();
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let (from, options) = match &place.entry {
            Some(entry) if is_directory => {
                // By a descriptor of its own, which a mount on it is behind.
                let inside = sys_fs::open_dir_at(&place.dir, entry)?;
                self.refuse(path, &inside)?;
                (inside, ExportOptions { entry: None, prefix })
            }
            entry => {
                let entry = entry.clone().map(String::into_bytes);
                (place.dir, ExportOptions { entry, prefix })
            }
        };
        self.engine.tell(&self.record, "archive-path", &[]);
        let owners = |uid, gid| crate::userns::inside(&self.record, uid, gid);
        export_as(from.as_fd(), out, &options, &owners)
            .within(|| format!("cannot copy `{}:{path}`", self.text))
    }

    /// Unpacks a tar (not compressed) into the directory `path`; links on the way and at its end
    /// are followed.
    ///
    /// Errors: `NotFound`; `InvalidInput` when it is no directory; `Denied` where the container
    /// cannot write either, for the kernel's files, and for names that lead out of the directory;
    /// `Conflict` for a directory in the place of something else.
    pub fn extract_tar(&self, path: &str, tar: impl Read, options: &ExtractOptions) -> Result<Extracted> {
        let path = absolute(path)?.0;
        let dir = sys_fs::open_in_root(self.view.root(), &path, OFlags::PATH)
            .map_err(|error| self.failed(&path, error.errno()))?;
        let stat = rustix::fs::fstat(&dir).map_err(|errno| self.failed(&path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::invalid(format!(
                "cannot copy to `{path}`: extraction point is not a directory"
            )));
        }
        self.refuse(&path, &dir)?;
        let flags = rustix::fs::fstatvfs(&dir).map_err(|errno| self.failed(&path, errno))?.f_flag;
        if flags.contains(StatVfsMountFlags::RDONLY) {
            let what = if self.view.is_mounted(&dir)? { "mounted volume" } else { "container rootfs" };
            return Err(Error::new(
                Kind::Denied,
                format!("cannot copy to `{path}`: {what} is marked read-only"),
            ));
        }
        self.engine.tell(&self.record, "extract-to-dir", &[]);
        let options = match (crate::userns::shifts(&self.record), options.owner) {
            // Whoever extracts is root inside.
            (true, ExtractOwner::Caller) => &ExtractOptions { owner: ExtractOwner::Fixed(0, 0), ..*options },
            _ => options,
        };
        let owners = |uid, gid| crate::userns::owner(&self.record, uid, gid);
        extract_as(tar, dir.as_fd(), options, &owners)
            .within(|| format!("cannot copy to `{}:{path}`", self.text))
    }

    /// Opens what is before the last name of a path, or, if a slash comes after it, all of it.
    fn place(&self, path: &str) -> Result<Place> {
        let (path, end) = absolute(path)?;
        let open = |part: &str| {
            sys_fs::open_in_root(self.view.root(), part, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|error| self.failed(&path, error.errno()))
        };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let place = match end {
            _ if name.is_empty() => Place { dir: open("/")?, entry: None, name: "/".into() },
            End::Dot => Place { dir: open(&path)?, entry: None, name: ".".into() },
            End::Slash => Place { dir: open(&path)?, entry: None, name: name.to_owned() },
            End::Name => Place { dir: open(parent)?, entry: Some(name.to_owned()), name: name.to_owned() },
        };
        self.refuse(&path, &place.dir)?;
        Ok(place)
    }

    /// Where the link at `path` leads to in the end.
    fn target_of(&self, path: &str) -> String {
        let Ok((mut at, _)) = absolute(path) else { return String::new() };
        for _ in 0..LINKS {
            let (parent, name) = at.rsplit_once('/').unwrap_or(("", &at));
            let Ok(dir) = sys_fs::open_in_root(self.view.root(), parent, OFlags::PATH | OFlags::DIRECTORY)
            else {
                break;
            };
            let parent = self.path_of(&dir);
            let Ok(target) = rustix::fs::readlinkat(&dir, name, Vec::new()) else {
                return if name.is_empty() {
                    "/".into()
                } else {
                    format!("{}/{name}", parent.trim_end_matches('/'))
                };
            };
            let target = target.to_string_lossy();
            let joined =
                if target.starts_with('/') { target.into_owned() } else { format!("{parent}/{target}") };
            // `..` at the end is a directory like any other.
            at = absolute(&joined).map_or(joined, |(clean, _)| clean);
        }
        at
    }

    /// A directory's path as the container sees it.
    fn path_of(&self, dir: &OwnedFd) -> String {
        let path = sys_fs::location(dir);
        let root = sys_fs::location(self.view.root());
        let inside = path.strip_prefix(&root).unwrap_or(&path);
        format!("/{}", inside.to_string_lossy().trim_start_matches('/'))
    }

    fn refuse(&self, path: &str, dir: &OwnedFd) -> Result<()> {
        let Some(reason) = self.view.obstacle(dir)? else { return Ok(()) };
        let error = Error::new(Kind::Denied, format!("cannot copy `{}:{path}`: {reason}", self.text));
        Err(if self.view.is_live() {
            error
                .with_hint(format!("a program in the container can read it: `exec {} cat {path}`", self.text))
        } else {
            error
        })
    }

    fn failed(&self, path: &str, errno: Errno) -> Error {
        match errno {
            Errno::NOENT => {
                Error::not_found(format!("Could not find the file {path} in container {}", self.text))
            }
            Errno::NOTDIR => Error::invalid(format!("cannot copy `{}:{path}`: not a directory", self.text)),
            _ => Error::new(
                Kind::of_errno(errno.raw_os_error()),
                format!("cannot look at `{}:{path}`", self.text),
            )
            .because(errno),
        }
    }
}

/// How a path ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Name,
    Slash,
    Dot,
}

/// A path as an absolute one of the container, without `.`, `..` and empty names, and how it ended.
fn absolute(path: &str) -> Result<(String, End)> {
    if path.is_empty() {
        return Err(Error::invalid("bad parameter: path cannot be empty"));
    }
    if path.contains('\0') {
        return Err(Error::invalid("a path cannot have a NUL byte"));
    }
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let end = match path.rsplit('/').next() {
        Some("") => End::Slash,
        Some(".") => End::Dot,
        _ => End::Name,
    };
    Ok((format!("/{}", names.join("/")), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_keep_their_end() {
        for (path, want, end) in [
            ("a", "/a", End::Name),
            ("/a/b/", "/a/b", End::Slash),
            ("/a/b/.", "/a/b", End::Dot),
            (".", "/", End::Dot),
            ("/", "/", End::Slash),
            ("../../etc", "/etc", End::Name),
            ("/a/../../b//c", "/b/c", End::Name),
        ] {
            assert_eq!(absolute(path).unwrap(), (want.to_owned(), end), "{path}");
        }
        assert!(absolute("").is_err() && absolute("a\0b").is_err());
    }
}
