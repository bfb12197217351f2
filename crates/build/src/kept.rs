//! What builds keep to be faster the next time, as lists show it.

use std::collections::BTreeSet;

use robot_env_diag::Result;
use robot_env_oci::{ChainId, Digest};
use robot_env_store::Store;

/// A step that the cache has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedStep {
    /// Its key.
    pub key: Digest,
    /// The step, as the image's history has it.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it was last used, in seconds since the Unix epoch.
    pub used: u64,
    /// Bytes of its layer that no image and no other step has; 0 for a step without one.
    pub bytes: u64,
    /// Whether an image or another step has its layer, too.
    pub shared: bool,
}

impl CachedStep {
    /// Its id, as lists show it.
    pub fn id(&self) -> String {
        self.key.hex()[..25.min(self.key.hex().len())].to_owned()
    }
}

/// The steps that the cache has, those that were used longest ago first.
///
/// # Errors
/// A store that cannot be read.
pub fn cached_steps(store: &Store) -> Result<Vec<CachedStep>> {
    let mut taken: BTreeSet<ChainId> = store.images()?.into_iter().flat_map(|image| image.layers).collect();
    let mut records = store.cache_records()?;
    records.sort_by(|(a_key, a), (b_key, b)| (a.used, a_key).cmp(&(b.used, b_key)));
    let mut steps = Vec::with_capacity(records.len());
    for (key, record) in records {
        let own = record.chain.filter(|_| record.layer);
        let shared = own.as_ref().is_some_and(|chain| taken.contains(chain));
        let layer = match &own {
            Some(chain) if !shared => store.layer(chain).ok().flatten(),
            _ => None,
        };
        taken.extend(own);
        steps.push(CachedStep {
            key,
            description: record.description,
            created: record.created,
            used: record.used,
            bytes: layer.map_or(0, |layer| layer.content_size),
            shared,
        });
    }
    Ok(steps)
}
