//! Acts on a container's root file system before its first process is there: links, and what the
//! loader finds. Everything is done below one descriptor; a link of the image never leads outside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::fs::{self as sys_fs, Durability};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::edits::{Library, SpecEdits};
use crate::ldcache::{Cache, Entry};

const CACHE: &str = "/etc/ld.so.cache";
/// Read first by an `ldconfig` that the user runs inside later.
const CONFIG: &str = "/etc/ld.so.conf.d/00-robot-env.conf";
/// The largest cache that is read, in bytes.
const LIMIT: usize = 16 << 20;

/// Makes the links of `edits`, and lets the loader inside find their libraries.
///
/// # Errors
/// What the file system says; `Denied` where a directory is in the way.
pub fn apply(root: BorrowedFd<'_>, edits: &SpecEdits) -> Result<()> {
    // A driver has dozens of links in one directory.
    let mut directory: Option<(&str, OwnedFd)> = None;
    for link in &edits.links {
        let failed = || format!("cannot make link `{}` in the container", link.path);
        let (parent, name) = split(&link.path).within(failed)?;
        if directory.as_ref().is_none_or(|(path, _)| *path != parent) {
            directory = Some((parent, make_directory(root, parent, (0, 0)).within(failed)?));
        }
        if let Some((_, parent)) = &directory {
            link_in(parent, name, &link.path, &link.target).within(failed)?;
        }
    }
    update_cache(root, &edits.libraries).within(|| "cannot tell the loader of the GPU's libraries".into())
}

/// Puts libraries first in the loader's cache. An image without glibc stays as it is.
pub fn update_cache(root: BorrowedFd<'_>, libraries: &[Library]) -> Result<()> {
    if libraries.is_empty() {
        return Ok(());
    }
    let had = sys_fs::read_in_root(root, CACHE, LIMIT)?;
    if had.is_none() && !has_glibc(root) {
        return Ok(());
    }
    let mut cache = had.as_deref().and_then(Cache::parse).unwrap_or_default();
    let before = cache.clone();
    cache.prefer(libraries.iter().map(|library| Entry {
        name: library.soname.clone(),
        path: library.path.clone(),
        flags: library.flags,
        hardware: 0,
        level: None,
    }));
    let mut directories: Vec<&str> = Vec::new();
    for library in libraries {
        let directory = library.path.rsplit_once('/').map_or("/", |(directory, _)| directory);
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    let text: String = directories.iter().map(|directory| format!("{directory}\n")).collect();
    write_file(root, CONFIG, text.as_bytes(), 0o644, (0, 0))?;
    if cache == before && had.is_some() {
        return Ok(());
    }
    write_file(root, CACHE, &cache.to_bytes(), 0o644, (0, 0))
}

fn has_glibc(root: BorrowedFd<'_>) -> bool {
    ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-linux-armhf.so.3"]
        .iter()
        .any(|path| sys_fs::open_in_root(root, path, OFlags::PATH).is_ok())
}

/// The directory at `path`, made with those above it where they are missing.
pub fn make_directory(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> Result<OwnedFd> {
    let open = |path: &str| sys_fs::open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY);
    if let Ok(found) = open(path) {
        return Ok(found);
    }
    let mut done = String::new();
    let mut at = open("/")?;
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name == ".." {
            return Err(Error::invalid(format!("invalid path `{path}`")));
        }
        done.push('/');
        done.push_str(name);
        if let Ok(found) = open(&done) {
            at = found;
            continue;
        }
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).io_context(|| format!("mkdir({done})")),
        }
        chown(&at, name, owner);
        at = open(&done)?;
    }
    Ok(at)
}

/// An owner that has no id here stays root: the file system says no then.
fn chown(directory: &OwnedFd, name: &str, owner: (u32, u32)) {
    if owner != (0, 0) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        let _ = rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    }
}

fn split(path: &str) -> Result<(&str, &str)> {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((parent, name)) if !matches!(name, "" | "." | "..") => Ok((parent, name)),
        _ => Err(Error::invalid(format!("invalid path `{path}`"))),
    }
}

/// Makes a symbolic link, in place of a file or another link.
pub fn make_link(root: BorrowedFd<'_>, path: &str, target: &str) -> Result<()> {
    let (parent, name) = split(path)?;
    link_in(&make_directory(root, parent, (0, 0))?, name, path, target)
}

/// Makes the link `name` in a directory; `path` is for messages.
fn link_in(parent: &OwnedFd, name: &str, path: &str, target: &str) -> Result<()> {
    for _ in 0..8 {
        match rustix::fs::symlinkat(target, parent, name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).io_context(|| format!("symlink({path})")),
        }
        if rustix::fs::readlinkat(parent, name, Vec::new())
            .is_ok_and(|had| had.as_bytes() == target.as_bytes())
        {
            return Ok(());
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                return Err(Error::new(Kind::Denied, format!("`{path}` in the image is a directory")));
            }
            Err(errno) => return Err(errno).io_context(|| format!("unlink({path})")),
        }
    }
    Err(Error::new(Kind::Conflict, format!("somebody else keeps making `{path}`")))
}

/// Writes a file as a whole, in place of what was there; links in its directory's path are followed
/// inside, the file itself is replaced even where it is a link.
pub fn write_file(
    root: BorrowedFd<'_>,
    path: &str,
    bytes: &[u8],
    mode: u32,
    owner: (u32, u32),
) -> Result<()> {
    let (parent, name) = split(path)?;
    let directory = make_directory(root, parent, (0, 0))?;
    if let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
        && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
    {
        return Err(Error::new(Kind::Denied, format!("`{path}` in the image is a directory")));
    }
    sys_fs::write_atomic(directory.as_fd(), directory.as_fd(), name, bytes, mode, Durability::NoSync)?;
    chown(&directory, name, owner);
    // Whatever the umask took away.
    let _ = rustix::fs::chmodat(&directory, name, Mode::from_raw_mode(mode), AtFlags::empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn library(path: &str) -> Library {
        Library { soname: "libcuda.so.1".into(), path: path.into(), flags: 0x303 }
    }

    #[test]
    fn links_and_files_stay_inside() {
        let place = TemporaryDirectory::new("inside");
        let outside = TemporaryDirectory::new("outside");
        fs::create_dir_all(place.join("etc")).unwrap();
        symlink(outside.path(), place.join("escape")).unwrap();
        symlink("/etc", place.join("alias")).unwrap();
        fs::write(place.join("etc/old"), "old").unwrap();
        let root = sys_fs::open_directory(place.path()).unwrap();
        make_link(root.as_fd(), "/usr/lib/libcuda.so", "libcuda.so.1").unwrap();
        make_link(root.as_fd(), "/alias/old", "new").unwrap();
        make_link(root.as_fd(), "/alias/old", "new").unwrap();
        assert_eq!(fs::read_link(place.join("etc/old")).unwrap().to_str(), Some("new"));
        assert!(make_link(root.as_fd(), "/escape/x", "y").is_err(), "there is no such directory inside");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(make_link(root.as_fd(), "/etc", "y").is_err());
        write_file(root.as_fd(), "/alias/f", b"text", 0o640, (0, 0)).unwrap();
        assert_eq!(fs::read(place.join("etc/f")).unwrap(), b"text");
    }

    #[test]
    fn the_cache_is_written_where_there_is_a_loader() {
        let place = TemporaryDirectory::new("cache");
        let root = sys_fs::open_directory(place.path()).unwrap();
        update_cache(root.as_fd(), &[library("/usr/lib/libcuda.so.1")]).unwrap();
        assert!(!place.join("etc").exists(), "no glibc, no cache");
        fs::create_dir_all(place.join("lib64")).unwrap();
        fs::write(place.join("lib64/ld-linux-x86-64.so.2"), "").unwrap();
        for _ in 0..2 {
            update_cache(root.as_fd(), &[library("/usr/lib/libcuda.so.550.1")]).unwrap();
            let cache = Cache::parse(&fs::read(place.join("etc/ld.so.cache")).unwrap()).unwrap();
            assert_eq!(cache.entries.len(), 1);
        }
        // A driver of another version comes before the one that was there.
        update_cache(root.as_fd(), &[library("/usr/lib/libcuda.so.560.1")]).unwrap();
        let cache = Cache::parse(&fs::read(place.join("etc/ld.so.cache")).unwrap()).unwrap();
        assert_eq!(cache.entries[0].path, "/usr/lib/libcuda.so.560.1");
        assert_eq!(
            fs::read_to_string(place.join("etc/ld.so.conf.d/00-robot-env.conf")).unwrap(),
            "/usr/lib\n"
        );
    }
}
