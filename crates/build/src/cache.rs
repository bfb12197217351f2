//! Caches of builds that go from machine to machine.

use std::path::PathBuf;

use robot_env_oci::Reference;

/// A cache of another build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheSource {
    /// A directory.
    Local(PathBuf),
    /// What a registry has under this name: a cache, or an image with one in it.
    Registry(Reference),
}

/// Where the cache of a build is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where to.
    pub place: CachePlace,
    /// Whether all steps are in it, and not those of the image alone (`mode=max`).
    pub all: bool,
    /// Whether a failure is only told.
    pub ignore_error: bool,
}

/// A place for a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// A directory.
    Local(PathBuf),
    /// A name in a registry.
    Registry(Reference),
    /// The image itself.
    Inline,
}
