//! Image layers between tar and tree.
mod apply;
mod archive;
mod compression;
mod directories;
mod make;
mod options;
mod path;
mod recipe;
mod remove;
mod xattr;

pub use apply::apply;
pub use compression::{Compression, Decoder, Encoder};
pub use options::{Applied, ApplyOptions, Overlay, Ownership, Skipped};
pub use recipe::assemble;
