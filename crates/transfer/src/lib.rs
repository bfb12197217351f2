//! Images on their way: between registries, archives, containers' trees and the store.
//!
//! Every way in ends the same: layers are staged, checked against the config, committed, and the
//! name comes last, all under one lease. Every way out reads only what the store has verified.
//!
//! This crate deliberately knows no command line and prints nothing: progress goes to an
//! [`Observer`] that the caller brings.

mod again;
mod archive;
mod change;
mod commit;
mod import;
mod layout;
mod load;
mod pipe;
mod progress;
mod pull;
mod push;
mod save;
mod sink;
mod unpack;
mod whole;

pub use again::copy_layer;
pub use change::{Change, Check, Command, apply_changes};
pub use commit::{CommitMode, CommitOptions, commit, commit_layer};
pub use import::{ImportOptions, import};
pub use layout::{LayoutOptions, LayoutTarget, write_artefact, write_layout};
pub use load::{ArchiveSource, LoadOptions, LoadedImage, load};
pub use progress::{Amount, Observer};
pub use pull::{PullOptions, Pulled, pull};
pub use push::{MakeDocuments, PushOptions, Pushed, push, push_artefact, push_index};
pub use save::{SaveOptions, save};
pub use unpack::{Known, UnpackError, Unpacked, Unpacker, ownership};
pub use whole::WholeFile;
