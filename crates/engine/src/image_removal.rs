//! Taking images away, by Docker's rules (moby `daemon/images/image_delete.go`).

use std::collections::{BTreeMap, BTreeSet};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ChainId, ImageId, Reference};
use robot_env_store::{CollectOptions, Collected, ImageRecord, NameRecord, RemoveOptions};

use crate::engine::Engine;
use crate::prune::HoldOff;
use crate::records::Container;

/// What went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageGone {
    /// A name.
    Untagged(String),
    /// An image or a layer, by its digest.
    Deleted(String),
}

/// What goes, in order.
enum Gone {
    Name(Reference),
    Image(ImageId),
}

/// Takes images away, by Docker's rules (moby `daemon/images/image_delete.go`).
pub struct ImageRemoval<'e> {
    engine: &'e Engine,
    gone: Vec<Gone>,
    /// Layers of the images that went, topmost first.
    layers: Vec<ChainId>,
    /// The names that images which are still there have lost.
    lost: Vec<NameRecord>,
    /// Bytes that were freed, or will be when the images' time to come back is over.
    pub bytes: u64,
}

impl<'e> ImageRemoval<'e> {
    /// Nothing has gone so far.
    pub fn new(engine: &'e Engine) -> Self {
        ImageRemoval { engine, gone: Vec::new(), layers: Vec::new(), lost: Vec::new(), bytes: 0 }
    }

    /// Collects what nothing needs any more, and says what went since the last time. Layers of images
    /// that can come back count as gone.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    pub fn finish(&mut self) -> Result<Vec<ImageGone>> {
        let gone = std::mem::take(&mut self.gone);
        let layers = std::mem::take(&mut self.layers);
        let mut out: Vec<ImageGone> = gone
            .iter()
            .map(|gone| match gone {
                Gone::Name(name) => ImageGone::Untagged(name.familiar()),
                Gone::Image(id) => ImageGone::Deleted(id.to_string()),
            })
            .collect();
        if gone.iter().any(|gone| matches!(gone, Gone::Image(_))) {
            let collected = self.collect()?;
            let mut said = BTreeSet::new();
            for chain in layers.iter().filter(|chain| said.insert(*chain)) {
                let kept = collected.kept.iter().find(|(kept, _)| kept == chain);
                self.bytes += kept.map_or(0, |(_, bytes)| *bytes);
                if kept.is_some() || collected.layers.contains(chain) {
                    out.push(ImageGone::Deleted(chain.to_string()));
                }
            }
        }
        Ok(out)
    }

    /// Moves what nothing needs any more to the trash.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    pub fn collect(&mut self) -> Result<Collected> {
        let collected = self.engine.store().collect(&CollectOptions::default())?;
        self.bytes += collected.bytes;
        Ok(collected)
    }

    /// Removes what `text`, by which `image` was found, means: a name, or an image with all that are
    /// left. With `prune`, its parents that nothing needs go, too.
    ///
    /// # Errors
    /// `Conflict`, in Docker's words, when a container uses it, or it has names in several
    /// repositories; `force` overcomes all but a container that runs.
    pub fn remove(&mut self, image: &ImageRecord, text: &str, force: bool, prune: bool) -> Result<()> {
        let store = self.engine.store();
        let users = self.users(&image.id)?;
        let records = self.names(&image.id)?;
        let names: Vec<Reference> = records.iter().map(|name| name.reference.clone()).collect();
        if is_id(text, &image.id) {
            if is_single(&names) {
                check(&image.id, &users, &[], force)?;
            } else {
                check(&image.id, &users, &names, force)?;
            }
            return self.delete_with_parents(image, prune, RemoveOptions { names: true });
        }
        let name = text.parse::<Reference>()?;
        if !force
            && is_single(&names)
            && let Some(user) = users.first()
        {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "conflict: unable to remove repository reference \"{text}\" (must force) - container {} is using its referenced image {}",
                    user.record.id.short(),
                    image.id.short()
                ),
            ));
        }
        let untagged = store.untag(&name)?;
        self.lost.extend(records.into_iter().filter(|name| untagged.references.contains(&name.reference)));
        for name in untagged.references {
            self.note_untagged(name, &image.id);
        }
        // A container that runs keeps its image, without a name; a stopped one keeps its layers.
        let kept = users.iter().any(|user| user.state.state.is_active()) || (!users.is_empty() && !force);
        if untagged.remaining > 0 || kept {
            return Ok(());
        }
        match self.delete_with_parents(image, prune, RemoveOptions::default()) {
            // Somebody else has named it, or removed it, since then.
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => Ok(()),
            done => done,
        }
    }

    /// Removes an image, with its names if `options` says so.
    ///
    /// # Errors
    /// `NotFound` where somebody else has removed it, `Conflict` where somebody has named it and names
    /// may not go.
    pub fn delete(&mut self, image: &ImageRecord, options: RemoveOptions, _held_off: &HoldOff) -> Result<()> {
        let kept = self.engine.keep_image(image, &self.lost, options)?;
        let names = match kept {
            Some(names) => names,
            None => self.engine.store().remove_image(&image.id, options)?,
        };
        for name in names {
            self.note_untagged(name, &image.id);
        }
        let id = image.id.to_string();
        self.engine.tell_of("image", "delete", &id, attributes(&id));
        self.gone.push(Gone::Image(image.id.clone()));
        self.layers.extend(image.layers.iter().rev().cloned());
        Ok(())
    }

    /// Removes an image, with its names if `options` says so, and with `prune` its parents that have
    /// neither names nor users nor children.
    fn delete_with_parents(
        &mut self,
        image: &ImageRecord,
        prune: bool,
        options: RemoveOptions,
    ) -> Result<()> {
        let store = self.engine.store();
        let mut next = Some((image.clone(), options));
        while let Some((image, options)) = next.take() {
            let held_off = self.engine.hold_off()?;
            self.delete(&image, options, &held_off)?;
            drop(held_off);
            let Some(parent) = image.parent.filter(|_| prune) else { break };
            let has_children = store.images()?.iter().any(|other| other.parent.as_ref() == Some(&parent));
            if !has_children && self.names(&parent)?.is_empty() && self.users(&parent)?.is_empty() {
                next = store.image(&parent)?.map(|parent| (parent, RemoveOptions::default()));
            }
        }
        Ok(())
    }

    fn note_untagged(&mut self, name: Reference, image: &ImageId) {
        self.engine.tell_of("image", "untag", &image.to_string(), attributes(&image.to_string()));
        self.gone.push(Gone::Name(name));
    }

    /// The containers that were made from an image or mount it, those that run first.
    fn users(&self, image: &ImageId) -> Result<Vec<Container>> {
        let mut users = self.engine.containers()?;
        users.retain(|container| {
            let record = &container.record;
            let mut mounts = record.mounts.iter().filter(|mount| mount.kind == "image");
            record.image == *image
                || mounts.any(|mount| mount.source.parse().is_ok_and(|id: ImageId| id == *image))
        });
        users.sort_by_key(|container| !container.state.state.is_active());
        Ok(users)
    }

    fn names(&self, image: &ImageId) -> Result<Vec<NameRecord>> {
        let mut names = self.engine.store().names()?;
        names.retain(|name| name.image == *image);
        Ok(names)
    }
}

fn attributes(name: &str) -> BTreeMap<String, String> {
    [("name".to_owned(), name.to_owned())].into()
}

/// Whether the user wrote an id or its beginning. An id wins over a name, so the image was found by
/// it.
fn is_id(text: &str, image: &ImageId) -> bool {
    image.hex().starts_with(text.strip_prefix("sha256:").unwrap_or(text))
}

/// Whether all names are one tag at most, and digests of its repository.
fn is_single(names: &[Reference]) -> bool {
    let tags: Vec<&Reference> = names.iter().filter(|name| name.digest().is_none()).collect();
    let Some(first) = tags.first().copied().or(names.first()) else { return true };
    tags.len() <= 1 && names.iter().all(|name| name.repository() == first.repository())
}

/// Whether the image may go, in Docker's words. `users` has those that run first.
fn check(image: &ImageId, users: &[Container], names: &[Reference], force: bool) -> Result<()> {
    let conflict = |how: &str, why: String| {
        let text = format!("conflict: unable to delete {} ({how}) - {why}", image.short());
        Err(Error::new(Kind::Conflict, text))
    };
    match users.first() {
        Some(user) if user.state.state.is_active() => conflict(
            "cannot be forced",
            format!("image is being used by running container {}", user.record.id.short()),
        ),
        _ if force => Ok(()),
        _ if !names.is_empty() => {
            conflict("must be forced", "image is referenced in multiple repositories".into())
        }
        Some(user) => conflict(
            "must be forced",
            format!("image is being used by stopped container {}", user.record.id.short()),
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_with_its_digests_is_single() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (names, want) in [
            (&[][..], true),
            (&["a:1"], true),
            (&["a:1", "a:2"], false),
            (&["a:1", "b:1"], false),
            (&["a:1", &format!("a@{digest}")], true),
            (&["a:1", &format!("b@{digest}")], false),
            (&[&format!("a@{digest}"), &format!("b@{digest}")], false),
        ] {
            let parsed: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
            assert_eq!(is_single(&parsed), want, "{names:?}");
        }
    }
}
