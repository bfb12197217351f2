//! Building images: from a Dockerfile and a context to an image of the store.
//!
//! Those stages are built that the target needs, each as soon as its base is there, several at once
//! ([`schedule`](self)). The state of a stage
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
//! ROOT/build/mounts/<name>/    a cache mount, locked by who uses it: `content`, `id`
//! RUN/builds/<name>/           a build at work, locked by it: secrets, scripts
//! ```

mod archive;
mod base;
mod cache;
mod cancel;
mod check;
mod copying;
mod deliver;
mod failure;
mod files;
mod foreign;
mod frontend;
mod git;
mod glob;
mod hint;
mod history;
mod index;
mod kept;
mod linked;
mod missing;
mod output;
mod permissions;
mod relayer;
mod remote;
mod request;
mod room;
mod run;
mod schedule;
mod session;
mod solve;
mod source;
mod stage;
mod state;
mod step;
mod tree;

pub use cache::{CachePlace, CacheSource, CacheTarget};
pub use cancel::Cancel;
pub use check::check;
pub use frontend::{frontend, reads_dockerfiles};
pub use kept::{Kept, PruneKept, PrunedKept, kept, prune};
pub use output::{Destination, Output};
pub use request::{BuildRequest, Built, Failure, Fetch, MadeLayer, Observer, Place, Secret};
pub use session::build;
pub use solve::read;
pub use source::{ContextRoom, Files, Origin, Recipe, is_address};
