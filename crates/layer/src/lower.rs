//! The lower layers of an overlay, seen as one tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::Result;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::directories::open_directory;
use crate::make;
use crate::xattr::{self, Place};

/// Lower layers, topmost first.
#[derive(Clone, Copy)]
pub(crate) struct Lowers<'a> {
    layers: &'a [BorrowedFd<'a>],
    opaque: &'static [u8],
}

/// The layers (by their number, topmost first) that make up a merged directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged(Vec<usize>);

impl Merged {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A merged directory with open descriptors.
pub(crate) struct OpenMerged(Vec<(usize, OwnedFd)>);

/// What the lower layers show under a name.
pub(crate) enum Found {
    Nothing,
    /// A directory: attributes of the topmost layer's, and the layers that it merges.
    Directory(Stat, Merged),
    /// Anything else.
    Other(Stat),
}

impl<'a> Lowers<'a> {
    pub(crate) fn new(layers: &'a [BorrowedFd<'a>], opaque: &'static [u8]) -> Self {
        Lowers { layers, opaque }
    }

    /// The merged root.
    pub(crate) fn root(&self) -> Merged {
        Merged((0..self.layers.len()).collect())
    }

    pub(crate) fn open(&self, merged: &Merged, path: &[u8]) -> Result<OpenMerged> {
        let mut open = Vec::with_capacity(merged.0.len());
        for number in &merged.0 {
            open.push((*number, open_directory(self.layers[*number], path, OFlags::PATH)?));
        }
        Ok(OpenMerged(open))
    }

    pub(crate) fn find(&self, dir: &OpenMerged, name: &[u8]) -> Result<Found> {
        let mut found: Option<(Stat, Vec<usize>)> = None;
        for (number, fd) in &dir.0 {
            let stat = match make::stat(fd, name) {
                Ok(Some(stat)) => stat,
                Ok(None) => continue,
                Err(call) if call.errno() == Errno::NAMETOOLONG => continue,
                Err(call) => return Err(call.into()),
            };
            if make::file_type(&stat) != FileType::Directory {
                if found.is_some() || make::is_whiteout(&stat) {
                    break;
                }
                return Ok(Found::Other(stat));
            }
            found.get_or_insert_with(|| (stat, Vec::new())).1.push(*number);
            if xattr::is_opaque(Place::Entry(fd.as_fd(), name), self.opaque)? {
                break;
            }
        }
        Ok(match found {
            Some((stat, layers)) => Found::Directory(stat, Merged(layers)),
            None => Found::Nothing,
        })
    }

    /// The names in a merged directory, sorted, without those that are whited out.
    pub(crate) fn names(&self, dir: &OpenMerged) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for (_, fd) in &dir.0 {
            for item in crate::walk::list(fd.as_fd())? {
                names.push(item.name);
            }
        }
        names.sort_unstable();
        names.dedup();
        let mut shown = Vec::with_capacity(names.len());
        for name in names {
            if !matches!(self.find(dir, &name)?, Found::Nothing) {
                shown.push(name);
            }
        }
        Ok(shown)
    }
}

impl OpenMerged {
    /// The topmost layer's directory.
    pub(crate) fn top(&self) -> Option<BorrowedFd<'_>> {
        self.0.first().map(|(_, fd)| fd.as_fd())
    }

    /// The topmost layer that shows `name`, which [`Lowers::find`] has found.
    pub(crate) fn holder(&self, name: &[u8]) -> Result<Option<BorrowedFd<'_>>> {
        for (_, fd) in &self.0 {
            if make::stat(fd, name)?.is_some() {
                return Ok(Some(fd.as_fd()));
            }
        }
        Ok(None)
    }
}

/// Follows a walk down an upper directory and keeps the merged lower directory of each level.
pub(crate) struct Beside<'a> {
    lowers: Lowers<'a>,
    levels: Vec<Level>,
}

struct Level {
    path: Vec<u8>,
    merged: Merged,
    /// Open while the walk is in this directory and not deeper.
    open: Option<OpenMerged>,
}

impl<'a> Beside<'a> {
    pub(crate) fn new(lowers: Lowers<'a>) -> Self {
        let root = Level { path: Vec::new(), merged: lowers.root(), open: None };
        Beside { lowers, levels: vec![root] }
    }

    pub(crate) fn lowers(&self) -> Lowers<'a> {
        self.lowers
    }

    /// What the lower layers show for an entry at `depth` (see [`crate::walk::Visit`]).
    pub(crate) fn find(&mut self, depth: usize, name: &[u8]) -> Result<Found> {
        self.levels.truncate(depth + 1);
        let lowers = self.lowers;
        let Some(level) = self.levels.last_mut() else { return Ok(Found::Nothing) };
        if level.merged.is_empty() {
            return Ok(Found::Nothing);
        }
        let open = match level.open.take() {
            Some(open) => open,
            None => lowers.open(&level.merged, &level.path)?,
        };
        let found = lowers.find(&open, name);
        level.open = Some(open);
        found
    }

    /// Goes down into the directory at `path`, of which the lower layers show `merged`.
    pub(crate) fn enter(&mut self, path: &[u8], merged: Merged) {
        if let Some(level) = self.levels.last_mut() {
            level.open = None;
        }
        self.levels.push(Level { path: path.to_vec(), merged, open: None });
    }
}
