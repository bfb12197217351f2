//! The commands, one file each. This list is the order in which help shows them.

use crate::verb::{Entry, entry};

mod completion;
mod history;
mod image_inspect;
mod images;
mod login;
mod logout;
mod pull;
mod push;
mod tag;
mod version;

/// Words that only stand before others.
pub(crate) const GROUPS: &[(&str, &str)] = &[("image", "Manage images")];

/// Every command.
pub(crate) const ENTRIES: &[Entry] = &[
    entry::<pull::Pull>(),
    entry::<push::Push>(),
    entry::<images::Images>(),
    entry::<history::History>(),
    entry::<image_inspect::ImageInspect>(),
    entry::<tag::Tag>(),
    entry::<login::Login>(),
    entry::<logout::Logout>(),
    entry::<version::Version>(),
    entry::<completion::Completion>(),
];
