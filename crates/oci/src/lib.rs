//! The nouns of the OCI image and distribution specifications: [`Reference`], [`Digest`],
//! [`Descriptor`], [`Manifest`], [`Index`], [`ImageConfig`], layer chains and [`Verified`] content.
//!
//! This crate deliberately knows no network, no store and no file: it parses and prints, and
//! every parser is total (an error, never a panic) and bounded by its input.
//!
//! Formats: OCI image-spec 1.1, distribution-spec 1.1, Docker image manifest v2 schema 2, and
//! Docker's extensions of the image config (Healthcheck, Shell, OnBuild).

mod chain;
mod config;
mod digest;
mod manifest;
mod platform;
mod reference;
mod verified;

pub use chain::{ChainId, DiffId, ImageId, LayerChain};
pub use config::{Healthcheck, HistoryEntry, ImageConfig, RootFs, RuntimeConfig};
pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{AnyManifest, Descriptor, Index, Manifest, media_type};
pub use platform::Platform;
pub use reference::{ImageText, Reference, Repository};
pub use verified::Verified;

/// The largest manifest, index or image config that is read, in bytes.
pub const MANIFEST_LIMIT: u64 = 4 * 1024 * 1024;
