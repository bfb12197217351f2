//! From what a user writes to an image.

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ImageId, ImageText, Reference};

use crate::{ImageRecord, Store, digest_of_hex};

impl Store {
    /// The image that `text` means: an id, the only id that starts with it, or a name. An id wins
    /// over a name.
    ///
    /// Errors: `InvalidInput` for a text that can be neither; `NotFound`; `Conflict` for the start
    /// of several ids; `Corrupt` when the image's record is damaged.
    pub fn resolve(&self, text: &str) -> Result<ImageRecord> {
        let not_found = || Error::not_found(format!("cannot find image `{text}`: it is not in the store"));
        let (hex, or_name) = match text.parse::<ImageText>()? {
            ImageText::Name(reference) => return self.resolve_name(&reference)?.ok_or_else(not_found),
            ImageText::IdPrefix { hex, or_name } => (hex, or_name),
        };
        if let Some(digest) = digest_of_hex(&hex)
            && let Some(image) = self.image(&ImageId(digest))?
        {
            return Ok(image);
        }
        let candidates: Vec<ImageId> =
            self.image_ids()?.into_iter().filter(|id| id.hex().starts_with(&hex)).collect();
        if let [only] = &candidates[..] {
            return self.image(only)?.ok_or_else(not_found);
        }
        if let Some(reference) = &or_name
            && let Some(image) = self.resolve_name(reference)?
        {
            return Ok(image);
        }
        if candidates.is_empty() {
            return Err(not_found());
        }
        let several = candidates.iter().take(5).map(ImageId::short).collect::<Vec<_>>().join(", ");
        Err(Error::new(
            Kind::Conflict,
            format!("cannot find image `{text}`: {} ids start with it", candidates.len()),
        )
        .because(Error::new(Kind::Conflict, format!("among them {several}"))))
    }

    fn resolve_name(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        match self.name(reference)? {
            Some(name) => self.image(&name.image),
            None => Ok(None),
        }
    }
}
