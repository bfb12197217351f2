//! Image layers between tar and tree.
//!
//! - [`apply`] unpacks one layer, alone, into an empty directory with overlay's conventions, hashes
//!   it on the way and writes a *recipe* beside it, from which [`assemble`] makes the very same tar
//!   again; [`inherit_directories`] completes it before it is put on top of others.
//! - [`write_layer`] makes a layer of an overlay's upper directory, [`changes`] lists what that
//!   directory changes.
//! - [`export`] and [`extract`] move plain tars out of and into trees that are in use, [`usage`]
//!   adds a tree up, [`space`] the layers of an image with what they waste.
//! - [`Members`] and [`MembersWriter`] read and write a tar as a box of files, such as an archive of
//!   images.
//! - [`Decoder`] and [`Encoder`] do the compression of layers.
//!
//! Everything works on directory descriptors; nothing that a tar says is trusted, and its names are
//! never resolved by joining strings. All of it is synchronous (one option aside, no threads), holds no state between calls and
//! needs memory that a hostile layer cannot raise beyond a bound.
//!
//! This crate deliberately knows no store, no image, no registry and no mount: it doesn't know
//! where a layer comes from, whether its digest is the expected one, when its files reach the disk
//! (it syncs nothing), or how layers are put together. It takes no locks: whoever gives it a
//! directory sees to it that nobody else changes it, but for [`export`], [`extract`], [`changes`]
//! and [`usage`], which cope with a running container.
//!
//! On disk: a layer's tree is what overlayfs expects of a lower layer. A whiteout is a character
//! device 0:0, an opaque directory has `trusted.overlay.opaque` (or `user.overlay.opaque`) = `y`,
//! and there is nothing else of ours in it. The recipe's format is described in `recipe.rs`.
//!
//! `/proc` must be mounted: extended attributes of links and devices are reached through
//! `/proc/self/fd`.

mod apply;
mod archive;
mod changes;
mod compression;
mod directories;
mod export;
mod extract;
mod frames;
mod hashing;
mod inherit;
mod lower;
mod make;
mod options;
mod pack;
mod path;
mod recipe;
mod remove;
mod share;
mod space;
mod usage;
mod walk;
mod write;
mod xattr;

pub use apply::{apply, apply_within};
pub use archive::{Member, MemberKind, Members, MembersWriter};
pub use changes::{Change, ChangeKind, changes};
pub use compression::{Compression, Decoder, Encoder};
pub use export::{ExportOptions, ExportTree, Exported, export, export_as, export_trees};
pub use extract::{ExtractOptions, ExtractOwner, Extracted, extract, extract_as};
pub use inherit::inherit_directories;
pub use options::{Applied, ApplyOptions, Overlay, Ownership, Skipped};
pub use recipe::assemble;
pub use share::Share;
pub use space::{Cache, Hidden, LayerSpace, space};
pub use usage::{Usage, usage};
pub use write::{WriteOptions, Written, write_layer};
