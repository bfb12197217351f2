//! Where in a container's layer its bytes are.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use robot_env_diag::Result;
use robot_env_sys::ErrnoContext;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::engine::{Engine, snapshot_key};

/// How deep paths are told apart.
const DEPTH: usize = 3;
/// How deep a tree is walked.
const LIMIT: usize = 256;

impl Engine {
    /// The `count` places, at most three directories deep, in which a container has written the most,
    /// with the bytes below each; a place that is told does not count for those above it.
    ///
    /// # Errors
    /// `NotFound` without such a container; otherwise what the file system says.
    pub fn largest_written(&self, text: &str, count: usize) -> Result<Vec<(String, u64)>> {
        let upper = self.store.snapshot_upper(&snapshot_key(&self.records.find(text)?))?;
        // That one names the directory and cannot be read.
        let upper = rustix::fs::openat(&upper, ".", FLAGS, Mode::empty()).call(|| "open(upper)".into())?;
        let mut places = BTreeMap::new();
        add(upper, "", 0, &mut places)?;
        let mut all: Vec<(String, u64)> = places.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        all.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        all.truncate(count);
        Ok(all)
    }
}

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Adds up a directory by descriptor; links are not followed.
fn add(directory: OwnedFd, path: &str, depth: usize, places: &mut BTreeMap<String, u64>) -> Result<()> {
    let entries = Dir::read_from(&directory).call(|| format!("open(upper{path})"))?;
    for entry in entries {
        let entry = entry.call(|| format!("getdents(upper{path})"))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What has gone meanwhile needs no counting.
        let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let here = if depth < DEPTH { format!("{path}/{}", name.to_string_lossy()) } else { path.to_owned() };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && depth < LIMIT {
            let Ok(below) = rustix::fs::openat(&directory, name, FLAGS, Mode::empty()) else { continue };
            add(below, &here, depth + 1, places)?;
        } else {
            let place = if depth < DEPTH { path } else { here.as_str() };
            let place = if place.is_empty() { "/" } else { place };
            *places.entry(place.to_owned()).or_default() += stat.st_size.unsigned_abs();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    #[test]
    fn bytes_are_told_by_place() {
        let tree = TemporaryDirectory::new("written");
        for (path, bytes) in [("a/b/c/d/e", 10), ("a/b/c/f", 5), ("a/x", 3), ("top", 1)] {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![0; bytes]).unwrap();
        }
        std::os::unix::fs::symlink("/", tree.join("a/link")).unwrap();
        let upper = rustix::fs::open(tree.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut places = BTreeMap::new();
        add(upper, "", 0, &mut places).unwrap();
        let all: Vec<(&str, u64)> = places.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
        assert_eq!(all, [("/", 1), ("/a", 4), ("/a/b/c", 15)]);
    }
}
