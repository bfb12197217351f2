//! From a request to an image.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use robot_env_diag::{Error, Result};
use robot_env_dockerfile::{Dockerfile, Globals, Resolved, Source};
use robot_env_engine::Engine;
use robot_env_oci::{ChainId, Digest, ImageConfig, ImageId, Platform, Verified};
use robot_env_store::{CacheRecord, Store};

use crate::cancel::Cancel;
use crate::failure::Failed;
use crate::index::Index;
use crate::request::{BuildRequest, Fetch, Observer};
use crate::room::{Context, Room};
use crate::schedule::Schedule;
use crate::session::Session;
use crate::state::State;

/// What a target came to: an image for one platform, which the store does not list yet. Its config
/// and layers are there, for as long as a lease of this process lives.
pub(crate) struct Solved {
    pub(crate) config: Verified<ImageConfig>,
    /// The layers that the build did not make.
    pub(crate) base: Option<ChainId>,
}

/// Builds the target for one platform. See [`crate::build`].
pub(crate) fn solve(
    engine: &Engine,
    request: &BuildRequest,
    session: &Session,
    fetch: &mut dyn Fetch,
    observer: &mut dyn Observer,
) -> Result<Solved> {
    target(engine, request, session, fetch, observer).map_err(|failed| {
        if let Some(failure) = &failed.failure {
            observer.failure(failure);
        }
        failed.error
    })
}

/// Reads the Dockerfile, for `build` and for whoever looks at one only.
///
/// # Errors
/// `Unsupported` for what another reader is to read, `InvalidInput` for mistakes.
pub fn read(request: &BuildRequest) -> Result<Dockerfile> {
    crate::frontend::frontend(&request.dockerfile, &request.arguments)?;
    Dockerfile::parse(&request.dockerfile)
        .map_err(|fault| fault.error(&request.file_name, &request.dockerfile))
}

fn target(
    engine: &Engine,
    request: &BuildRequest,
    session: &Session,
    fetch: &mut dyn Fetch,
    observer: &mut dyn Observer,
) -> Result<Solved, Failed> {
    let cancel = request.cancel.clone().map_or_else(Cancel::new, Ok)?;
    let at = |fault| Failed::of_fault(request, &fault);
    let file = Dockerfile::parse(&request.dockerfile).map_err(at)?;
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    crate::check::refuse_warnings(engine, request, &file)?;
    let parameters = crate::check::parameters(request);
    let globals = file.globals(&parameters).map_err(at)?;
    let stages = file.resolve(&globals).map_err(at)?;
    let target = file.target(request.target.as_deref()).map_err(at)?;
    if let Some(name) = request.no_cache_filter.iter().find(|name| !is_stage(&file, name)) {
        let error =
            Error::not_found(format!("there is no stage `{name}` to take nothing from the cache for"));
        return Err(error.into());
    }
    let needed = file.needed(&stages, target).map_err(at)?;
    let bases = stages.iter().map(|stage| match stage.base {
        Source::Stage(number) => Some(number),
        _ => None,
    });
    let parallel = std::thread::available_parallelism().map_or(1, NonZero::get);
    let build = Build {
        engine,
        request,
        file: &file,
        globals: &globals,
        stages: &stages,
        platform,
        room: Room::open(engine)?,
        context: Arc::new(Context::open(engine, &request.context, &request.ignore, &request.ignore_name)?),
        contexts: Mutex::default(),
        layers_index: Index::default(),
        schedule: Schedule::new(bases.collect(), &needed, parallel, cancel.clone()),
        pulled: Mutex::default(),
        made: Mutex::default(),
        temporary: Mutex::default(),
        session,
        fetch: Mutex::new(fetch),
        heard: Mutex::new(Heard { observer, steps: 0 }),
        cancel,
    };
    let result = build.run(target);
    build.context.index.save();
    for context in build.contexts.lock().unwrap_or_else(PoisonError::into_inner).values() {
        context.index.save();
    }
    build.forget_temporary();
    result
}

/// Whether a stage is called so.
fn is_stage(file: &Dockerfile, name: &str) -> bool {
    (0..file.stages.len()).any(|number| file.label(number).eq_ignore_ascii_case(name))
}

/// What a build's threads share.
pub(crate) struct Build<'b> {
    pub(crate) engine: &'b Engine,
    pub(crate) request: &'b BuildRequest,
    pub(crate) file: &'b Dockerfile,
    pub(crate) globals: &'b Globals,
    pub(crate) stages: &'b [Resolved],
    pub(crate) platform: Platform,
    pub(crate) room: Room,
    pub(crate) context: Arc<Context>,
    pub(crate) contexts: Mutex<BTreeMap<String, Arc<Context>>>,
    /// Layers do not change: what is known of their files is known for this build.
    pub(crate) layers_index: Index,
    pub(crate) schedule: Schedule<State, Failed>,
    /// Base images; who looks for one holds its lock.
    pub(crate) pulled: Mutex<BTreeMap<String, Arc<Mutex<Option<State>>>>>,
    /// Steps that this build has made.
    pub(crate) made: Mutex<BTreeMap<Digest, CacheRecord>>,
    /// Images that were made to be mounted.
    pub(crate) temporary: Mutex<Vec<ImageId>>,
    pub(crate) session: &'b Session,
    fetch: Mutex<&'b mut dyn Fetch>,
    heard: Mutex<Heard<'b>>,
    pub(crate) cancel: Cancel,
}

/// Who hears of steps, and how many have begun.
pub(crate) struct Heard<'b> {
    pub(crate) observer: &'b mut dyn Observer,
    pub(crate) steps: usize,
}

impl<'b> Build<'b> {
    fn run(&self, target: usize) -> Result<Solved, Failed> {
        let state = self.schedule.run(target, &|stage| self.stage(stage))?;
        self.heard().observer.layers(&self.platform, &state.made);
        let base = state.base.clone();
        Ok(Solved { config: self.config(state, true)?, base })
    }

    pub(crate) fn store(&self) -> &'b Store {
        self.engine.store()
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard<'b>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fetch(&self) -> MutexGuard<'_, &'b mut dyn Fetch> {
        self.fetch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> String {
        let now = match self.request.epoch {
            Some(seconds) => Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH),
            None => Timestamp::now(),
        };
        now.to_string()
    }
}
