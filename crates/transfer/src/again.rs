//! A layer of the store a second time, on top of other layers.

use std::os::fd::AsFd;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::assemble;
use robot_env_oci::{ChainId, DiffId};

use crate::pipe::pipe;
use crate::{Known, Unpacked, Unpacker};

/// Unpacks the tar of the layer `chain` once more; `None` where its recipe is not there.
pub(crate) fn unpack_again<'s>(
    unpacker: &Unpacker<'s>,
    chain: &ChainId,
    diff_id: &DiffId,
) -> Result<Option<Unpacked<'s>>> {
    let store = unpacker.store();
    let Some(mut recipe) = store.open_recipe(chain)? else { return Ok(None) };
    let tree = store.layer_dir(chain)?;
    let (mut sink, source) = pipe();
    let known = Known { blob: None, diff_id: Some(diff_id) };
    let unpacked = std::thread::scope(|scope| {
        scope.spawn(move || {
            // What it could not write shows in the diff id.
            let _ = assemble(&mut recipe, tree.as_fd(), &mut sink);
        });
        unpacker.unpack(source, known)
    });
    Ok(Some(unpacked.map_err(Error::from)?))
}

/// Puts a copy of the layer `layer` on top of `parent`; the chain that this makes. Nothing is copied
/// where the store has that already.
///
/// # Errors
/// `NotFound` when the layer is not in the store, `Corrupt` when it is damaged; `NoSpace`.
pub fn copy_layer(unpacker: &Unpacker<'_>, layer: &ChainId, parent: Option<&ChainId>) -> Result<ChainId> {
    let copy = || {
        let store = unpacker.store();
        let missing = || Error::not_found("it is not in the store");
        let record = store.layer(layer)?.ok_or_else(missing)?;
        let chain = ChainId::of(parent, &record.diff_id);
        if store.layer(&chain).is_ok_and(|known| known.is_some()) {
            return Ok(chain);
        }
        let again = unpack_again(unpacker, layer, &record.diff_id)?;
        let mut again = again.ok_or_else(|| Error::new(Kind::Corrupt, "its recipe is missing"))?;
        again.parent = parent.cloned();
        unpacker.commit(vec![again])?;
        Ok(chain)
    };
    copy().within(|| format!("cannot copy layer `{}`", layer.short()))
}
