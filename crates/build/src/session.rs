//! A build from its request to what becomes of its result.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::Engine;
use robot_env_engine::stream::Stream;
use robot_env_oci::{Digest, ImageConfig, ImageId, Platform};
use robot_env_spec::ContainerSpec;
use robot_env_store::{CacheRecord, Store};

use crate::cache::{self, CachePlace, CacheTarget, Import};
use crate::deliver::{self, Delivery};
use crate::relayer::Relayer;
use crate::request::{BuildRequest, Built, Failure, Fetch, MadeLayer, Observer, Place};
use crate::room::Room;
use crate::solve::{Solved, solve};

/// How long what a build uses stays without anything that refers to it.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// The argument by which Docker's users ask for a cache in the image.
const INLINE_ARGUMENT: &str = "BUILDKIT_INLINE_CACHE";

/// What the parts of a build share.
#[derive(Default)]
pub(crate) struct Session {
    /// The steps of this build, made or found.
    steps: Mutex<Vec<(Digest, CacheRecord)>>,
    /// Caches of other builds.
    imports: Mutex<Vec<Import>>,
    /// What was wrong with them.
    warnings: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// What is known of a step, here or in another build's cache.
    pub(crate) fn cached(&self, store: &Store, key: &Digest) -> Result<Option<CacheRecord>> {
        let mut found = store.cached(key)?;
        if found.is_none() {
            for import in lock(&self.imports).iter() {
                match import.bring(store, key) {
                    Ok(None) => {}
                    Ok(record) => {
                        found = record;
                        break;
                    }
                    Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                    Err(error) => lock(&self.warnings).push(error.in_one_line()),
                }
            }
        }
        if let Some(record) = &found {
            self.note(key, record);
        }
        Ok(found)
    }

    /// Remembers that a step belongs to this build.
    pub(crate) fn note(&self, key: &Digest, record: &CacheRecord) {
        let mut steps = lock(&self.steps);
        if steps.iter().all(|(known, _)| known != key) {
            steps.push((key.clone(), record.clone()));
        }
    }
}

/// Builds an image, for each platform, and gives it where the outputs say.
///
/// # Errors
/// `InvalidInput` for a Dockerfile that is none, naming file, line and column; `NotFound` for a file
/// or image that is not there; `Conflict` for a command that fails; `Interrupted` when
/// it was cancelled; those of pulling and running.
/// Nothing of the build is left then but what the cache keeps.
pub fn build(
    engine: &Engine,
    request: &BuildRequest,
    fetch: &mut dyn Fetch,
    observer: &mut dyn Observer,
) -> Result<Built> {
    let client = fetch.client();
    deliver::check(request, client.is_some())?;
    // Not only when a command runs: what is in the cache must not hide it.
    ContainerSpec { image: "scratch".into(), ..request.run.clone() }.check()?;
    engine.sweep_steps()?;
    let store = engine.store();
    let _lease = store.lease(LEASE)?;
    let room = Room::open(engine)?;
    let session = Session::default();
    let mut observer = Numbered { inner: observer, last: 0, before: 0, prefix: String::new() };
    let mut platforms: Vec<Option<Platform>> = request.platforms.iter().cloned().map(Some).collect();
    if platforms.is_empty() {
        platforms.push(request.platform.clone());
    }
    let several = platforms.len() > 1;
    for source in &request.cache_from {
        let platform = platforms.first().cloned().flatten().unwrap_or_else(Platform::host);
        observer.aside(&format!("importing cache manifest from {}", source.shown()), |say| {
            match Import::open(source, client.as_ref(), &platform) {
                Ok(import) => lock(&session.imports).push(import),
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => say.warn(&error.in_one_line()),
            }
            Ok(())
        })?;
    }
    let mut solved: Vec<Solved> = Vec::with_capacity(platforms.len());
    for platform in platforms {
        observer.before = observer.last;
        observer.prefix = platform.as_ref().filter(|_| several).map(ToString::to_string).unwrap_or_default();
        let own;
        let request = if platform == request.platform {
            request
        } else {
            own = BuildRequest { platform, ..request.clone() };
            &own
        };
        solved.push(solve(engine, request, &session, fetch, &mut observer)?);
    }
    observer.before = 0;
    observer.prefix.clear();
    let warnings = std::mem::take(&mut *lock(&session.warnings));
    if !warnings.is_empty() {
        observer.aside("reading caches", |say| {
            for warning in &warnings {
                say.warn(warning);
            }
            Ok(())
        })?;
    }
    if request.squash {
        let relayer = Relayer { engine, room: &room };
        for solved in &mut solved {
            let now = solved.config.value().created.clone().unwrap_or_default();
            solved.config = relayer.squash(solved.config.value(), solved.base.as_ref(), &now)?;
        }
    }
    let steps = std::mem::take(&mut *lock(&session.steps));
    let inline = request.cache_to.iter().any(|target| target.place == CachePlace::Inline)
        || request.arguments.get(INLINE_ARGUMENT).is_some_and(|value| value == "1");
    if inline {
        for solved in &mut solved {
            solved.config = cache::inline(store, solved.config.value(), &steps)?;
        }
    }
    let images: Vec<(Platform, ImageId)> = solved
        .iter()
        .map(|solved| (solved.config.value().platform.clone(), ImageId(solved.config.digest().clone())))
        .collect();
    let Some((_, first)) = images.first().cloned() else {
        return Err(Error::new(Kind::Internal, "nothing was built"));
    };
    let built = Built { image: first, names: Vec::new(), images, pushed: Vec::new(), digest: None };
    let mut delivery =
        Delivery { engine, request, room: &room, client: client.as_ref(), solved, rewritten: None, built };
    let mut number = observer.last;
    delivery.run(&mut observer, &mut number)?;
    let configs: Vec<&ImageConfig> = delivery.solved.iter().map(|solved| solved.config.value()).collect();
    for target in &request.cache_to {
        export_cache(store, client.as_ref(), target, &steps, &configs, &mut observer)?;
    }
    if let Some((_, first)) = delivery.built.images.first() {
        delivery.built.image = first.clone();
    }
    Ok(delivery.built)
}

fn export_cache(
    store: &Store,
    client: Option<&robot_env_registry::Client>,
    target: &CacheTarget,
    steps: &[(Digest, CacheRecord)],
    images: &[&ImageConfig],
    observer: &mut Numbered<'_>,
) -> Result<()> {
    if target.place == CachePlace::Inline {
        return Ok(());
    }
    observer.aside(&format!("exporting cache to {}", target.shown()), |say| {
        match cache::export(store, client, target, steps, images) {
            Err(error) if target.ignore_error && error.kind() != Kind::Interrupted => {
                say.warn(&error.in_one_line());
                Ok(())
            }
            other => other,
        }
    })
}

/// Numbers the steps of several parts of a build as those of one.
struct Numbered<'o> {
    inner: &'o mut dyn Observer,
    /// The last number that was given.
    last: usize,
    /// How many steps were there before this part.
    before: usize,
    /// What stands in front of the names of its stages.
    prefix: String,
}

/// Tells what goes wrong beside the build.
struct Aside<'a> {
    observer: &'a mut dyn Observer,
    number: usize,
}

impl Aside<'_> {
    fn warn(&mut self, text: &str) {
        self.observer.output(self.number, Stream::Stderr, format!("warning: {text}\n").as_bytes());
    }
}

impl Numbered<'_> {
    /// A step of its own.
    fn aside(&mut self, label: &str, work: impl FnOnce(&mut Aside<'_>) -> Result<()>) -> Result<()> {
        self.last += 1;
        let number = self.last;
        self.inner.begin(number, label);
        let begun = Instant::now();
        let done = work(&mut Aside { observer: self.inner, number });
        match &done {
            Ok(()) => self.inner.done(number, begun.elapsed()),
            Err(_) => self.inner.failed(number),
        }
        done
    }
}

impl Observer for Numbered<'_> {
    fn begin(&mut self, step: usize, label: &str) {
        self.last = self.last.max(self.before + step);
        match label.strip_prefix('[') {
            Some(rest) if !self.prefix.is_empty() => {
                self.inner.begin(self.before + step, &format!("[{} {rest}", self.prefix));
            }
            _ => self.inner.begin(self.before + step, label),
        }
    }

    fn place(&mut self, step: usize, place: &Place) {
        self.inner.place(self.before + step, place);
    }

    fn cached(&mut self, step: usize) {
        self.inner.cached(self.before + step);
    }

    fn output(&mut self, step: usize, stream: Stream, bytes: &[u8]) {
        self.inner.output(self.before + step, stream, bytes);
    }

    fn layer(&mut self, step: usize, size: u64) {
        self.inner.layer(self.before + step, size);
    }

    fn layers(&mut self, platform: &Platform, layers: &[MadeLayer]) {
        self.inner.layers(platform, layers);
    }

    fn done(&mut self, step: usize, time: Duration) {
        self.inner.done(self.before + step, time);
    }

    fn failed(&mut self, step: usize) {
        self.inner.failed(self.before + step);
    }

    fn failure(&mut self, failure: &Failure) {
        let step = failure.step.map(|step| self.before + step);
        self.inner.failure(&Failure { step, ..failure.clone() });
    }
}
