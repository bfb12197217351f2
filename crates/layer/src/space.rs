//! Where the bytes of an image's layers went: what each adds, and what later ones take away again.
//!
//! A file that a later layer deletes, replaces or changes the owner of is still carried, pulled and
//! stored by every image on top: that is what is called wasted here.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::BorrowedFd;

use robot_env_diag::{Result, Within};
use rustix::fs::FileType;

use crate::archive::Shown;
use crate::make;
use crate::options::Overlay;
use crate::walk::walk;
use crate::xattr::{self, Place};

/// Directories whose files programs can fetch or make again, with what makes them.
const CACHES: [(&str, &str); 14] = [
    ("root/.cache", "caches of programs"),
    ("root/.cargo/registry", "sources of crates"),
    ("root/.ccache", "compiled objects of ccache"),
    ("root/.conan2/p", "packages of conan"),
    ("root/.npm", "packages of npm"),
    ("tmp", "temporary files"),
    ("usr/local/cargo/registry", "sources of crates"),
    ("var/cache/apk", "packages of apk"),
    ("var/cache/apt", "packages of apt"),
    ("var/cache/dnf", "packages of dnf"),
    ("var/cache/yum", "packages of yum"),
    ("var/lib/apt/lists", "lists of apt"),
    ("var/log", "logs"),
    ("var/tmp", "temporary files"),
];

/// What one layer takes. Sizes are lengths of files in bytes; a file with several names counts at
/// the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerSpace {
    /// Sum of its files.
    pub bytes: u64,
    /// How many there are: no directories, no whiteouts.
    pub files: u64,
    /// What of it later layers hide.
    pub wasted: u64,
    /// The same, by what was hidden, largest first.
    pub hidden: Vec<Hidden>,
    /// Its largest files, largest first; absolute paths.
    pub biggest: Vec<(Vec<u8>, u64)>,
    /// What it leaves in directories of caches, and no later layer hides, largest first.
    pub caches: Vec<Cache>,
}

/// Something of a layer that a later one hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Absolute path of the file, or of the directory that went as a whole.
    pub path: Vec<u8>,
    /// What it took.
    pub bytes: u64,
    /// Which layer hides it, the lowest one being 0.
    pub by: usize,
    /// Whether there is something else at that path then.
    pub replaced: bool,
}

/// Files that could be had again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The directory, without its leading slash.
    pub directory: &'static str,
    /// What lies there, in a word or two.
    pub what: &'static str,
    /// What it takes.
    pub bytes: u64,
}

/// A file as the layers so far show it.
struct Seen {
    layer: usize,
    bytes: u64,
}

/// Everything that is seen so far, by path without a leading slash; no directories.
type Merged = BTreeMap<Vec<u8>, Seen>;

/// Adds up the trees of `layers`, lowest first, with the `most` largest files of each.
pub fn space(layers: &[BorrowedFd<'_>], xattr_namespace: Overlay, most: usize) -> Result<Vec<LayerSpace>> {
    let opaque = xattr_namespace.opaque();
    let mut merged = Merged::new();
    let mut all: Vec<LayerSpace> = Vec::with_capacity(layers.len());
    for (number, tree) in layers.iter().enumerate() {
        let mut own = LayerSpace::default();
        let mut seen = HashSet::new();
        if xattr::is_opaque(Place::Directory(*tree), opaque)? {
            hide_below(&mut merged, &mut all, b"", number, true);
        }
        walk(*tree, &mut |visit| {
            let (path, stat) = (visit.path, &visit.item.stat);
            if make::is_whiteout(stat) {
                hide(&mut merged, &mut all, path, number, false);
                return Ok(false);
            }
            if visit.is_directory() {
                // Where a file was there is a directory now; what was in a directory stays.
                hide_file(&mut merged, &mut all, path, number);
                let entry = Place::Entry(visit.dir, &visit.item.name);
                if xattr::is_opaque(entry, opaque).within(|| format!("cannot look at `{}`", Shown(path)))? {
                    hide_below(&mut merged, &mut all, path, number, true);
                }
                return Ok(true);
            }
            hide(&mut merged, &mut all, path, number, true);
            own.files += 1;
            let counts = make::file_type(stat) == FileType::RegularFile
                && (stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)));
            let bytes = if counts { stat.st_size.unsigned_abs() } else { 0 };
            own.bytes = own.bytes.saturating_add(bytes);
            if bytes > 0 {
                note_biggest(&mut own.biggest, path, bytes, most);
            }
            merged.insert(path.to_vec(), Seen { layer: number, bytes });
            Ok(false)
        })?;
        all.push(own);
    }
    for (directory, what) in CACHES {
        let mut left = vec![0u64; all.len()];
        let first = [directory.as_bytes(), b"/"].concat();
        for (path, seen) in merged.range(first.clone()..) {
            if !path.starts_with(&first) {
                break;
            }
            left[seen.layer] = left[seen.layer].saturating_add(seen.bytes);
        }
        for (layer, bytes) in all.iter_mut().zip(left).filter(|(_, bytes)| *bytes > 0) {
            layer.caches.push(Cache { directory, what, bytes });
        }
    }
    for layer in &mut all {
        layer.hidden.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        layer.caches.sort_by_key(|cache| std::cmp::Reverse(cache.bytes));
        for (path, _) in &mut layer.biggest {
            path.insert(0, b'/');
        }
    }
    Ok(all)
}

/// What was at a path, a file or a directory with all that is in it, is not seen any more.
fn hide(merged: &mut Merged, all: &mut [LayerSpace], path: &[u8], by: usize, replaced: bool) {
    match merged.get(path) {
        Some(seen) if seen.layer < by => {
            let (layer, bytes) = (seen.layer, seen.bytes);
            merged.remove(path);
            lose(all, layer, Hidden { path: absolute(path), bytes, by, replaced });
        }
        // A file has nothing below it.
        Some(_) => {}
        None => hide_below(merged, all, path, by, replaced),
    }
}

fn hide_file(merged: &mut Merged, all: &mut [LayerSpace], path: &[u8], by: usize) {
    if merged.contains_key(path) {
        hide(merged, all, path, by, true);
    }
}

/// What was in a directory is not seen any more: one loss for each layer that had put something
/// there.
fn hide_below(merged: &mut Merged, all: &mut [LayerSpace], path: &[u8], by: usize, replaced: bool) {
    let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
    let gone: Vec<Vec<u8>> = merged
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
        .filter(|(_, seen)| seen.layer < by)
        .map(|(path, _)| path.clone())
        .collect();
    let mut lost: BTreeMap<usize, u64> = BTreeMap::new();
    for path in gone {
        if let Some(seen) = merged.remove(&path) {
            let bytes = lost.entry(seen.layer).or_default();
            *bytes = bytes.saturating_add(seen.bytes);
        }
    }
    for (layer, bytes) in lost {
        lose(all, layer, Hidden { path: absolute(path), bytes, by, replaced });
    }
}

fn lose(all: &mut [LayerSpace], layer: usize, hidden: Hidden) {
    let layer = &mut all[layer];
    layer.wasted = layer.wasted.saturating_add(hidden.bytes);
    // What took nothing is no loss.
    if hidden.bytes > 0 {
        layer.hidden.push(hidden);
    }
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// Keeps the `most` largest, largest first; of equals the one that came first.
fn note_biggest(biggest: &mut Vec<(Vec<u8>, u64)>, path: &[u8], bytes: u64, most: usize) {
    let at = biggest.partition_point(|(_, known)| *known >= bytes);
    if at < most {
        biggest.insert(at, (path.to_vec(), bytes));
        biggest.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_are_kept() {
        let mut biggest = Vec::new();
        for (path, bytes) in [("a", 3), ("b", 5), ("c", 1), ("d", 5), ("e", 4)] {
            note_biggest(&mut biggest, path.as_bytes(), bytes, 3);
        }
        let paths: Vec<&[u8]> = biggest.iter().map(|(path, _)| &path[..]).collect();
        assert_eq!(paths, [b"b", b"d", b"e"]);
        let mut none = Vec::new();
        note_biggest(&mut none, b"a", 1, 0);
        assert!(none.is_empty());
    }
}
