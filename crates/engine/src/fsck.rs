//! Checking what the engine keeps.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::BorrowedFd;

use robot_env_diag::Result;
use robot_env_oci::{Algorithm, DiffId, Hasher, Reference};
use robot_env_store::{Damage, FsckOptions, Subject};

use crate::engine::Engine;

/// What [`Engine::fsck`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// The names of the images that are not whole: pulling or loading them again brings what is
    /// missing, and only that.
    pub images: Vec<Reference>,
    /// Ids of images that are not whole and have no name.
    pub nameless: Vec<String>,
}

impl Engine {
    /// Checks the store: records and documents, and with `deep` every file of every layer. With
    /// `repair`, what is damaged is moved out of the way; containers that run on it go on.
    pub fn fsck(&self, deep: bool, repair: bool) -> Result<Findings> {
        let names = self.store.names()?;
        let options = FsckOptions { deep: deep.then_some(&diff_id), repair };
        let damage = self.store.fsck(options)?;
        let (mut images, mut nameless) = (BTreeSet::new(), BTreeSet::new());
        for found in &damage {
            match found.what {
                Subject::Image => {
                    let own = names.iter().filter(|name| name.image.to_string() == found.name);
                    let own: Vec<_> = own.map(|name| name.reference.clone()).collect();
                    if own.is_empty() {
                        nameless.insert(found.name.clone());
                    }
                    // A digest names the same again, where there is no tag to pull by.
                    let tagged = own.iter().any(|name| name.tag().is_some());
                    images.extend(own.into_iter().filter(|name| !tagged || name.tag().is_some()));
                }
                // One that is readable names an image that is missing; of others only the file is
                // known.
                Subject::Name if found.name.contains(':') || found.name.contains('@') => {
                    images.extend(found.name.parse::<Reference>().ok());
                }
                _ => {}
            }
        }
        Ok(Findings {
            damage,
            images: images.into_iter().collect(),
            nameless: nameless.into_iter().collect(),
        })
    }
}

/// The digest of a layer's tar, made again from its recipe and its tree.
fn diff_id(recipe: File, tree: BorrowedFd<'_>) -> Result<DiffId> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    robot_env_layer::assemble(recipe, tree, &mut hasher)?;
    Ok(DiffId(hasher.finish()))
}
