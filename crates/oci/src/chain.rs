use std::fmt;
use std::str::FromStr;

use robot_env_diag::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Digest;

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The digest itself.
            pub fn digest(&self) -> &Digest {
                &self.0
            }

            /// The hexadecimal digits, without the algorithm.
            pub fn hex(&self) -> &str {
                self.0.hex()
            }

            /// The first twelve hexadecimal digits.
            pub fn short(&self) -> &str {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Ok($name(text.parse()?))
            }
        }
    };
}

digest_newtype!(
    /// The digest of a layer's uncompressed tar.
    DiffId
);
digest_newtype!(
    /// The digest that names a layer applied on top of all layers below it
    /// (OCI image-spec, config.md#layer-chainid).
    ChainId
);
digest_newtype!(
    /// The digest of an image's config, which is the image's id.
    ImageId
);

impl ChainId {
    /// The chain id of the layer `diff` on top of `parent`.
    pub fn of(parent: Option<&ChainId>, diff: &DiffId) -> Self {
        match parent {
            None => ChainId(diff.0.clone()),
            Some(parent) => ChainId(Digest::of(format!("{parent} {diff}").as_bytes())),
        }
    }
}

/// An image's layers, lowest first, each with its chain id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerChain {
    links: Vec<(DiffId, ChainId)>,
}

impl LayerChain {
    /// The chain of `diff_ids`, lowest layer first.
    pub fn new<'a>(diff_ids: impl IntoIterator<Item = &'a DiffId>) -> Self {
        let mut links: Vec<(DiffId, ChainId)> = Vec::new();
        for diff in diff_ids {
            let chain = ChainId::of(links.last().map(|(_, chain)| chain), diff);
            links.push((diff.clone(), chain));
        }
        LayerChain { links }
    }

    /// The layers, lowest first.
    pub fn links(&self) -> &[(DiffId, ChainId)] {
        &self.links
    }

    /// The chain id of the whole image; `None` for an image without layers.
    pub fn top(&self) -> Option<&ChainId> {
        self.links.last().map(|(_, chain)| chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_hashes_parent_and_diff_id() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        let chain = LayerChain::new([&a, &b]);
        assert_eq!(chain.links()[0].1.digest(), a.digest());
        assert_eq!(chain.top().unwrap().digest(), &Digest::of(format!("{a} {b}").as_bytes()));
        assert_eq!(LayerChain::new([]).top(), None);
    }
}
