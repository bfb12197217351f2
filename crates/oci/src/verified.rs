use robot_env_diag::{Error, Kind, Result};
use serde::de::DeserializeOwned;

use crate::{Digest, Hasher};

/// A parsed document together with the very bytes that were hashed: it is never serialised
/// again, so its digest stays what it was.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    bytes: Vec<u8>,
    digest: Digest,
    value: T,
}

impl<T: DeserializeOwned> Verified<T> {
    /// Checks `bytes` against `digest`, then parses them as JSON.
    pub fn check(bytes: Vec<u8>, digest: &Digest) -> Result<Self> {
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(Error::new(Kind::Corrupt, format!("content does not match its digest `{digest}`"))
                .because(Error::new(Kind::Corrupt, format!("its bytes have the digest {actual}"))));
        }
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::new(Kind::Corrupt, format!("cannot parse document `{digest}`")).because(e))?;
        Ok(Verified { bytes, digest: digest.clone(), value })
    }
}

impl<T: serde::Serialize> Verified<T> {
    /// Serialises a new document, once, and hashes those bytes.
    pub fn make(value: T) -> Result<Self> {
        let bytes = serde_json::to_vec(&value)
            .map_err(|e| Error::new(Kind::Internal, "cannot serialise a document").because(e))?;
        Ok(Verified { digest: Digest::of(&bytes), bytes, value })
    }
}

impl<T> Verified<T> {
    /// The bytes that were hashed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What they say.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Gives up the bytes and keeps the value.
    pub fn into_value(self) -> T {
        self.value
    }
}
