//! The commands, one file each. This list is the order in which help shows them.

use crate::verb::{Entry, entry};

mod completion;

/// Words that only stand before others.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("system", "Manage the engine's data"),
    ("volume", "Manage volumes"),
];

/// Every command.
pub(crate) const ENTRIES: &[Entry] = &[entry::<completion::Completion>()];
