//! What an upper directory changes.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use robot_env_diag::{Result, Within};

use crate::archive::Shown;
use crate::lower::{Beside, Found, Lowers, Merged};
use crate::make;
use crate::options::Overlay;
use crate::pack::mtime;
use crate::path;
use crate::walk::walk;
use crate::xattr::{self, Place};

/// How a path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new (`A`).
    Added,
    /// It was there before and is another, or something in it changed (`C`).
    Changed,
    /// It was there before (`D`).
    Deleted,
}

/// A path that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// Absolute path, as bytes.
    pub path: Vec<u8>,
}

/// What the upper directory of an overlay over `lowers` (topmost first, all of them) changes, as
/// `docker diff` lists it: parents of a change count as changed, a deleted directory stands for
/// what was in it. In the order of a walk with sorted names.
pub fn changes(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    xattr_namespace: Overlay,
) -> Result<Vec<Change>> {
    let opaque = xattr_namespace.opaque();
    let mut beside = Beside::new(Lowers::new(lowers, opaque));
    let mut seen: BTreeMap<Vec<u8>, ChangeKind> = BTreeMap::new();
    walk(upper, &mut |visit| {
        let name = &visit.item.name[..];
        let stat = &visit.item.stat;
        let mut look = || -> Result<bool> {
            let found = beside.find(visit.depth, name)?;
            if make::is_whiteout(stat) {
                if !matches!(found, Found::Nothing) {
                    note(&mut seen, visit.path, ChangeKind::Deleted);
                }
                return Ok(false);
            }
            if !visit.is_directory() {
                let kind =
                    if matches!(found, Found::Nothing) { ChangeKind::Added } else { ChangeKind::Changed };
                note(&mut seen, visit.path, kind);
                return Ok(false);
            }
            let mut merged = match found {
                Found::Nothing => {
                    note(&mut seen, visit.path, ChangeKind::Added);
                    Merged::default()
                }
                Found::Other(_) => {
                    note(&mut seen, visit.path, ChangeKind::Changed);
                    Merged::default()
                }
                Found::Directory(lower, merged) => {
                    let same = lower.st_mode == stat.st_mode
                        && (lower.st_uid, lower.st_gid) == (stat.st_uid, stat.st_gid)
                        && mtime(&lower) == mtime(stat);
                    if !same {
                        note(&mut seen, visit.path, ChangeKind::Changed);
                    }
                    merged
                }
            };
            if !merged.is_empty() && xattr::is_opaque(Place::Entry(visit.dir, name), opaque)? {
                note(&mut seen, visit.path, ChangeKind::Changed);
                let inside = crate::directories::open_directory(visit.dir, name, rustix::fs::OFlags::PATH)?;
                let open = beside.lowers().open(&merged, visit.path)?;
                for hidden in beside.lowers().names(&open)? {
                    match make::stat(&inside, &hidden)? {
                        Some(above) if !make::is_whiteout(&above) => {}
                        _ => note(&mut seen, &path::join(visit.path, &hidden), ChangeKind::Deleted),
                    }
                }
                // What is below is new, but a name that was there before has changed.
                for item in crate::walk::list(std::os::fd::AsFd::as_fd(&inside))? {
                    if !make::is_whiteout(&item.stat)
                        && !matches!(beside.lowers().find(&open, &item.name)?, Found::Nothing)
                    {
                        seen.insert(path::join(visit.path, &item.name), ChangeKind::Changed);
                    }
                }
                merged = Merged::default();
            }
            beside.enter(visit.path, merged);
            Ok(true)
        };
        look().within(|| format!("cannot compare `{}`", Shown(visit.path)))
    })?;
    let mut list: Vec<Change> =
        seen.into_iter().map(|(path, kind)| Change { kind, path: [b"/", &path[..]].concat() }).collect();
    list.sort_by(|a, b| a.path.split(|b| *b == b'/').cmp(b.path.split(|b| *b == b'/')));
    Ok(list)
}

/// Notes a change, and its parents as changed. What is known already stays.
fn note(seen: &mut BTreeMap<Vec<u8>, ChangeKind>, path: &[u8], kind: ChangeKind) {
    seen.entry(path.to_vec()).or_insert(kind);
    let mut parent = path::split(path).0;
    while !parent.is_empty() && !seen.contains_key(parent) {
        seen.insert(parent.to_vec(), ChangeKind::Changed);
        parent = path::split(parent).0;
    }
}
