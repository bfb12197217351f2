//! Building images: from a Dockerfile and a context to an image of the store.
//!
//! Stages are built in the order of the file, those alone that the target needs. The state of a stage
//! is the chain of layers so far and the image's config so far; a step's cache key is the digest of
//! that chain and of everything else that the step depends on, so that an instruction that only
//! changes the config costs no step after it its place in the cache. A `RUN` is a container of the
//! engine that nobody lists ([`robot_env_engine::Engine::run_step`]); `COPY` and its kin write into a
//! mounted snapshot; either way the overlay's upper directory becomes the layer by renaming.
//!
//! This crate deliberately knows no command line and no terminal: it tells an [`Observer`] what goes
//! on. Registries are the caller's ([`Fetch`]).
//!
//! # On disk
//! ```text
//! ROOT/cache/<key>.json        robot_env_store::CacheRecord
//! ROOT/build/contexts/<name>/  files of a build that came over a wire, locked by it: see `source`
//! ROOT/build/index/<digest>    what files of a context contain: see `index`
//! ROOT/build/mounts/<digest>/  cache mounts
//! RUN/builds/<name>/           a build at work, locked by it: secrets, scripts
//! ```

mod archive;
mod cache;
mod copying;
mod deliver;
mod files;
mod foreign;
mod git;
mod glob;
mod history;
mod index;
mod kept;
mod linked;
mod output;
mod permissions;
mod relayer;
mod remote;
mod request;
mod run;
mod session;
mod solve;
mod source;
mod state;
mod tree;

pub use cache::{CachePlace, CacheSource, CacheTarget};
pub use kept::{CachedStep, cached_steps};
pub use output::{Destination, Output};
pub use request::{BuildRequest, Built, Fetch, Observer, Secret};
pub use session::build;
pub use solve::read;
pub use source::{ContextRoom, Files, Origin, Recipe, is_address};
