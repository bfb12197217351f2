//! The commands, one file each. This list is the order in which help shows them.

use crate::verb::{Entry, entry};

mod attach;
mod completion;
mod control;
mod exec;
mod front;
mod history;
mod image_inspect;
mod images;
mod inspect;
mod login;
mod logout;
mod ps;
mod pull;
mod push;
mod rm;
mod run;
mod start;
mod tag;
mod version;

/// Words that only stand before others.
pub(crate) const GROUPS: &[(&str, &str)] = &[("container", "Manage containers"), ("image", "Manage images")];

/// Every command.
pub(crate) const ENTRIES: &[Entry] = &[
    entry::<run::Run>(),
    entry::<run::Create>(),
    entry::<start::Start>(),
    entry::<attach::Attach>(),
    entry::<exec::Exec>(),
    entry::<ps::Ps>(),
    entry::<control::Stop>(),
    entry::<control::Restart>(),
    entry::<control::Kill>(),
    entry::<control::Pause>(),
    entry::<control::Unpause>(),
    entry::<control::Wait>(),
    entry::<rm::Rm>(),
    entry::<control::Rename>(),
    entry::<control::Update>(),
    entry::<inspect::Inspect>(),
    entry::<inspect::ContainerInspect>(),
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
