use std::fmt;
use std::str::FromStr;

use robot_env_diag::{Error, Result};
use serde::{Deserialize, Serialize};

/// What names a snapshot: 1 to 80 characters of `a-z`, `0-9` and `-`. A container's id is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotKey(String);

impl SnapshotKey {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fits = (1..=80).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(SnapshotKey(text.to_owned()))
        } else {
            Err(Error::invalid(format!(
                "invalid snapshot key `{text}`: it must have 1 to 80 characters of a-z, 0-9 and -"
            )))
        }
    }
}

impl TryFrom<String> for SnapshotKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SnapshotKey> for String {
    fn from(key: SnapshotKey) -> Self {
        key.0
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_safe_as_files() {
        let longest = "a".repeat(80);
        for good in ["a", "0-9", longest.as_str()] {
            assert_eq!(good.parse::<SnapshotKey>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "A", "a_b", "a.b", "ä", &"a".repeat(81), "a\n"] {
            assert!(bad.parse::<SnapshotKey>().is_err(), "{bad:?}");
        }
    }
}
