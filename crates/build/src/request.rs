//! What is to be built, and who hears of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use robot_env_diag::Result;
use robot_env_engine::stream::Stream;
use robot_env_oci::{ChainId, Digest, ImageId, Platform, Reference};
use robot_env_registry::Client;
use robot_env_spec::{ContainerSpec, NetworkMode};

use crate::cache::{CacheSource, CacheTarget};
use crate::cancel::Cancel;
use crate::output::Output;

/// What is to be built.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// What messages call it.
    pub file_name: String,
    /// The directory with the files.
    pub context: PathBuf,
    /// The patterns of what of it is not to be seen (`.dockerignore`).
    pub ignore: String,
    /// What messages call the file with those patterns; empty: `.dockerignore`.
    pub ignore_name: String,
    /// Further trees, by name: directories, or images where it starts with `docker-image://`.
    pub contexts: BTreeMap<String, String>,
    /// The stage to build; `None`: the last one.
    pub target: Option<String>,
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// Labels that the image gets.
    pub labels: BTreeMap<String, String>,
    /// What the image is for; `None`: this machine.
    pub platform: Option<Platform>,
    /// What it is for, where that are several: one image each, and an index of them. It stands
    /// before `platform`, and with one it is the same.
    pub platforms: Vec<Platform>,
    /// Whether nothing is taken from the cache.
    pub no_cache: bool,
    /// Stages of which nothing is taken from the cache.
    pub no_cache_filter: Vec<String>,
    /// Whether base images are looked for in their registries even if they are here.
    pub pull: bool,
    /// The network of `RUN`.
    pub network: NetworkMode,
    /// What `RUN` gets beside: limits, hosts, shared memory, security.
    pub run: ContainerSpec,
    /// Secrets, by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of ssh agents, by their ids.
    pub agents: BTreeMap<String, PathBuf>,
    /// The names that the image gets.
    pub names: Vec<Reference>,
    /// What becomes of the result; empty: an image of the store, named `names`.
    pub outputs: Vec<Output>,
    /// Whether all layers that the build makes become one.
    pub squash: bool,
    /// Caches of other builds.
    pub cache_from: Vec<CacheSource>,
    /// Where the cache of this one is put, too.
    pub cache_to: Vec<CacheTarget>,
    /// Ends the build when it is cancelled.
    pub cancel: Option<Cancel>,
    /// What files and image say of the time, in seconds since the Unix epoch; `None`: what it is.
    pub epoch: Option<i64>,
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file.
    File(PathBuf),
    /// A value, from a variable.
    Value(Vec<u8>),
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The image; of several platforms the first one's. The store has it only if an output says so.
    pub image: ImageId,
    /// The names that it got in the store.
    pub names: Vec<Reference>,
    /// All images, by platform, in the order of the request.
    pub images: Vec<(Platform, ImageId)>,
    /// The names that were pushed.
    pub pushed: Vec<Reference>,
    /// The digest of the manifest, or index, that was pushed or written last.
    pub digest: Option<Digest>,
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its stage: its name, or `stage-N`.
    pub stage: String,
    /// Its number in the stage, from 1; 0 for what makes no layer.
    pub number: usize,
    /// How many the stage has.
    pub count: usize,
    /// The line of the Dockerfile.
    pub line: usize,
}

/// A layer that an instruction of the Dockerfile made, in this build or in an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeLayer {
    /// The layers up to it.
    pub chain: ChainId,
    /// The line of the Dockerfile, counted from 1.
    pub line: usize,
}

/// Where in its Dockerfile a build failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What messages call the file.
    pub file: String,
    /// The stage, where the file has several.
    pub stage: Option<String>,
    /// The step, where it had begun.
    pub step: Option<usize>,
    /// The step's label; empty for what is no step.
    pub label: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The lines of the file, that one marked: see [`robot_env_dockerfile::Span::excerpt`].
    pub excerpt: String,
    /// The end of what the step has printed, as it came.
    pub output: Vec<u8>,
}

/// Hears what a build does. Steps have numbers, in the order in which they begin; those of stages that
/// are built at the same time interleave. Calls come one at a time, from several threads.
pub trait Observer: Send {
    /// A step begins.
    fn begin(&mut self, step: usize, label: &str);
    /// Where the step that has just begun stands.
    fn place(&mut self, _step: usize, _place: &Place) {}
    /// Its result was there already.
    fn cached(&mut self, step: usize);
    /// It prints something.
    fn output(&mut self, step: usize, stream: Stream, bytes: &[u8]);
    /// It made a layer with so many bytes of files; it is done in a moment.
    fn layer(&mut self, _step: usize, _size: u64) {}
    /// It is done, after so much time.
    fn done(&mut self, step: usize, time: Duration);
    /// It failed, or was ended because another one failed.
    fn failed(&mut self, step: usize);
    /// The layers of a target that was built for `platform`, the lowest first, without those of its
    /// base image.
    fn layers(&mut self, _platform: &Platform, _layers: &[MadeLayer]) {}
    /// The build has failed here; comes last.
    fn failure(&mut self, _failure: &Failure) {}
}

/// Brings images here. Calls come one at a time, from several threads.
pub trait Fetch: Send {
    /// Pulls it. Without `always`, it is known not to be here.
    fn fetch(&mut self, reference: &Reference, platform: Option<&Platform>, always: bool) -> Result<()>;

    /// What is at an http or https address.
    fn download(&mut self, address: &str) -> Result<Box<dyn Read>>;

    /// The same, with when it was modified, in seconds since the Unix epoch, where that is known.
    fn download_with_time(&mut self, address: &str) -> Result<(Box<dyn Read>, Option<i64>)> {
        Ok((self.download(address)?, None))
    }

    /// The client with which images and caches are pushed, and caches read; `None`: that cannot be.
    fn client(&self) -> Option<Client> {
        None
    }
}
