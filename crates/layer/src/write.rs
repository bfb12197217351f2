//! An overlay's upper directory as a layer.

use std::io::Write;
use std::os::fd::BorrowedFd;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::DiffId;

use crate::archive::Shown;
use crate::lower::{Beside, Found, Lowers, Merged};
use crate::make;
use crate::options::{Overlay, Skipped};
use crate::pack::Packer;
use crate::path;
use crate::recipe::RecipeWriter;
use crate::walk::walk;
use crate::xattr::{self, Place};

/// How a layer is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Which attributes overlay used.
    pub xattr_namespace: Overlay,
    /// Hashes in a thread of its own, which pays for a large layer.
    pub hash_beside: bool,
}

/// A layer that was made.
#[derive(Clone, Debug)]
pub struct Written {
    /// SHA-256 of the tar.
    pub diff_id: DiffId,
    /// Length of the tar in bytes.
    pub tar_size: u64,
    /// Sum of the lengths of all files in bytes, holes included, hardlinks once.
    pub content_size: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// What was left out: sockets, names that start with `.wh.`.
    pub skipped: Skipped,
}

/// Writes the upper directory of an overlay over `lowers` (topmost first, all of them) as the
/// canonical tar of a layer: sorted, whiteouts as `.wh.NAME`, opaque directories with
/// `.wh..wh..opq`, hardlinks kept, sparse files sparse. Only what hides something becomes a
/// whiteout or opaque (overlay marks every new directory opaque). The root itself has no entry.
/// The same tree always gives the same bytes.
///
/// With a `recipe`, [`crate::assemble`] makes this tar again from the upper directory. Nothing may
/// change `upper` meanwhile.
pub fn write_layer(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    out: &mut dyn Write,
    recipe: Option<&mut dyn Write>,
    options: &WriteOptions,
) -> Result<Written> {
    let recipe = match recipe {
        Some(out) => Some(RecipeWriter::new(out)?),
        None => None,
    };
    let opaque = options.xattr_namespace.opaque();
    let mut packer = Packer::new(out, true, recipe);
    if options.hash_beside {
        packer.hash_beside();
    }
    let mut beside = Beside::new(Lowers::new(lowers, opaque));
    walk(upper, &mut |visit| {
        let name = &visit.item.name[..];
        let stat = &visit.item.stat;
        let add = |packer: &mut Packer<'_>, beside: &mut Beside<'_>| -> Result<bool> {
            if make::is_whiteout(stat) {
                if !matches!(beside.find(visit.depth, name)?, Found::Nothing) {
                    packer.add_mark(&path::join(path::split(visit.path).0, &[b".wh.", name].concat()))?;
                }
                return Ok(false);
            }
            if name.starts_with(b".wh.") {
                packer.skip_name();
                return Ok(false);
            }
            packer.add(visit.dir, name, stat, visit.path, visit.path)?;
            if !visit.is_directory() {
                return Ok(false);
            }
            let mut merged = match beside.find(visit.depth, name)? {
                Found::Directory(_, merged) => merged,
                Found::Nothing | Found::Other(_) => Merged::default(),
            };
            if !merged.is_empty() && xattr::is_opaque(Place::Entry(visit.dir, name), opaque)? {
                packer.add_mark(&path::join(visit.path, b".wh..wh..opq"))?;
                merged = Merged::default();
            }
            beside.enter(visit.path, merged);
            Ok(true)
        };
        add(&mut packer, &mut beside)
            .within(|| format!("cannot write `{}` into the layer", Shown(visit.path)))
    })?;
    let packed = packer.finish()?;
    let Some(digest) = packed.digest else {
        return Err(Error::new(Kind::Internal, "the layer was not hashed"));
    };
    Ok(Written {
        diff_id: DiffId(digest),
        tar_size: packed.size,
        content_size: packed.content_size,
        entries: packed.entries,
        skipped: packed.skipped,
    })
}
