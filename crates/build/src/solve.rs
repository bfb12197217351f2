//! From stages to an image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_dockerfile::ignore::Ignore;
use robot_env_dockerfile::{
    Dockerfile, Fault, Globals, Instruction, Parameters, Position, Resolved, Source, Span, Step, Word,
};
use robot_env_engine::Engine;
use robot_env_oci::{
    Algorithm, ChainId, Digest, Hasher, HistoryEntry, ImageConfig, ImageId, Platform, Reference, RootFs,
    Verified,
};
use robot_env_store::{CacheRecord, ImageRecord, Lease, OverlayXattr, SnapshotOptions, Store};
use robot_env_sys::fs::open_directory;
use robot_env_sys::mount::{self, OverlayRequest};
use robot_env_transfer::{Unpacker, commit_layer, ownership};
use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::history::created_by;
use crate::index::Index;
use crate::request::{BuildRequest, Fetch, Observer};
use crate::session::Session;
use crate::state::State;
use crate::tree::Tree;

/// How long what a build uses stays without anything that refers to it.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// What `ONBUILD` may trigger in all.
const TRIGGERS: usize = 1000;

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
    let _lease: Lease = engine.store().lease(LEASE)?;
    let file = read(request)?;
    let target_platform = request.platform.clone().unwrap_or_else(Platform::host);
    let parameters = Parameters {
        build_args: request.arguments.clone(),
        target: target_platform.clone(),
        builder: Platform::host(),
        stage: request.target.clone().unwrap_or_default(),
    };
    let at = |fault: Fault| fault.error(&request.file_name, &request.dockerfile);
    let globals = file.globals(&parameters).map_err(at)?;
    let stages = file.resolve(&globals).map_err(at)?;
    let target = file.target(request.target.as_deref()).map_err(at)?;
    let needed = file.needed(&stages, target).map_err(at)?;
    let room = Room::open(engine)?;
    let mut build = Build {
        engine,
        request,
        file: &file,
        globals: &globals,
        stages: &stages,
        platform: target_platform,
        room,
        context: Context::open(engine, request)?,
        contexts: BTreeMap::new(),
        layers_index: Index::default(),
        states: vec![None; file.stages.len()],
        pulled: BTreeMap::new(),
        temporary: Vec::new(),
        steps: 0,
        snapshots: 0,
        session,
        fetch,
        observer,
    };
    let result = build.run(&needed, target);
    build.context.index.save();
    build.contexts.values_mut().for_each(|context| context.index.save());
    build.forget_temporary();
    result
}

/// Reads the Dockerfile, for `build` and for whoever looks at one only.
pub fn read(request: &BuildRequest) -> Result<Dockerfile> {
    Dockerfile::parse(&request.dockerfile)
        .map_err(|fault| fault.error(&request.file_name, &request.dockerfile))
}

/// The directory of a build at work; while it is locked, the build lives.
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    _lock: File,
}

impl Room {
    pub(crate) fn open(engine: &Engine) -> Result<Room> {
        let mut bytes = [0u8; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .io_context(|| "getrandom()".into())?;
        let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = engine.paths().builds().join(&name);
        let within = || format!("cannot make `{}`", path.display());
        fs::create_dir_all(engine.paths().builds()).io_context(within)?;
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).io_context(within)?;
        let lock = File::open(&path).io_context(within)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).io_context(within)?;
        Ok(Room { name, path, _lock: lock })
    }

    /// An empty directory.
    pub(crate) fn empty(&self) -> Result<OwnedFd> {
        let path = self.path.join("empty");
        fs::create_dir_all(&path).io_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(open_directory(&path)?)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A directory of the host's that files are copied from, and what is known of its files.
pub(crate) struct Context {
    pub(crate) directory: Rc<Directory>,
    pub(crate) index: Index,
}

/// A directory of the host's.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) root: OwnedFd,
    pub(crate) ignore: Ignore,
}

impl Context {
    fn open(engine: &Engine, request: &BuildRequest) -> Result<Context> {
        Context::of(engine, &request.context, &request.ignore)
    }

    fn of(engine: &Engine, path: &Path, ignore: &str) -> Result<Context> {
        let path =
            fs::canonicalize(path).io_context(|| format!("cannot open context `{}`", path.display()))?;
        let root = open_directory(&path)
            .map_err(Error::from)
            .within(|| format!("cannot open context `{}`", path.display()))?;
        let index = Index::open(crate::index::path_of(engine, &path));
        Ok(Context { directory: Rc::new(Directory { root, ignore: Ignore::parse(ignore)?, path }), index })
    }
}

/// A tree that was opened for copying.
pub(crate) enum Opened {
    Directory(Rc<Directory>),
    Layers(OwnedFd),
}

pub(crate) struct Build<'b> {
    pub(crate) engine: &'b Engine,
    pub(crate) request: &'b BuildRequest,
    pub(crate) file: &'b Dockerfile,
    globals: &'b Globals,
    stages: &'b [Resolved],
    platform: Platform,
    pub(crate) room: Room,
    pub(crate) context: Context,
    contexts: BTreeMap<String, Context>,
    /// Layers do not change: what is known of their files is known for this build.
    layers_index: Index,
    states: Vec<Option<State>>,
    pulled: BTreeMap<String, State>,
    /// Images that were made to be mounted.
    temporary: Vec<ImageId>,
    steps: usize,
    snapshots: usize,
    pub(crate) session: &'b Session,
    pub(crate) fetch: &'b mut dyn Fetch,
    pub(crate) observer: &'b mut dyn Observer,
}

/// How a step is shown, and whether its cache counts.
pub(crate) struct Shown {
    pub(crate) label: String,
    pub(crate) cache: bool,
    pub(crate) span: Span,
}

impl<'b> Build<'b> {
    fn run(&mut self, needed: &[usize], target: usize) -> Result<Solved> {
        for stage in needed {
            let state = self.stage(*stage)?;
            self.states[*stage] = Some(state);
        }
        let Some(state) = self.states[target].take() else {
            return Err(Error::new(Kind::Internal, "the target was not built"));
        };
        let base = state.base.clone();
        Ok(Solved { config: self.config(state, true)?, base })
    }

    pub(crate) fn store(&self) -> &'b Store {
        self.engine.store()
    }

    /// An error at a place of the Dockerfile.
    pub(crate) fn at(&self, span: Span, error: Error) -> Error {
        let text = &self.request.dockerfile;
        let place = Position::at(text, span.start);
        let line = span.of(text).lines().next().unwrap_or_default();
        error.within(format!(
            "cannot build from `{}`: line {}, column {}: `{line}`",
            self.request.file_name, place.line, place.column
        ))
    }

    pub(crate) fn fault(&self, fault: Fault) -> Error {
        fault.error(&self.request.file_name, &self.request.dockerfile)
    }

    pub(crate) fn now(&self) -> String {
        let now = match self.request.epoch {
            Some(seconds) => Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH),
            None => Timestamp::now(),
        };
        now.to_string()
    }

    fn stage(&mut self, number: usize) -> Result<State> {
        let (file, resolved) = (self.file, &self.stages[number]);
        let stage = &file.stages[number];
        let label = file.label(number);
        let single = file.stages.len() == 1 && stage.name.is_none();
        let counted = stage.steps.iter().filter(|step| makes_layers(&step.instruction)).count() + 1;
        let mut at = 1;
        let mut shown = |text: &str| {
            let place = if single { String::new() } else { format!("{label} ") };
            let label = format!("[{place}{at}/{counted}] {text}");
            at += 1;
            label
        };
        let mut state = match &resolved.base {
            Source::Scratch => State::scratch(self.platform.clone(), self.now()),
            Source::Stage(base) => match &self.states[*base] {
                Some(state) => state.clone().begin(),
                None => return Err(Error::new(Kind::Internal, "a stage was not built")),
            },
            Source::Image(name) => {
                let platform = match &resolved.platform {
                    Some(text) => Some(text.parse::<Platform>().map_err(|error| self.at(stage.span, error))?),
                    None => self.request.platform.clone(),
                };
                let step = self.begin(&shown(&format!("FROM {name}")));
                let begun = Instant::now();
                let base = self.base(name, platform.as_ref());
                let base = self.ended(step, begun, base).map_err(|error| self.at(stage.base.span, error))?;
                base.begin()
            }
        };
        let triggers = std::mem::take(&mut state.config.on_build);
        if triggers.len() > TRIGGERS {
            return Err(self.at(stage.span, Error::invalid("the base image triggers too many instructions")));
        }
        let cache = !self.request.no_cache && !self.request.no_cache_filter.contains(&label);
        for expression in triggers {
            let step = Step::of_trigger(&expression, stage.span).map_err(|fault| self.fault(fault))?;
            let label = shown(&step.source);
            self.step(&mut state, &step, Shown { label, cache, span: step.span })?;
        }
        for step in &stage.steps {
            let label = if makes_layers(&step.instruction) { shown(&step.source) } else { String::new() };
            self.step(&mut state, step, Shown { label, cache, span: step.span })?;
        }
        Ok(state)
    }

    fn step(&mut self, state: &mut State, step: &Step, shown: Shown) -> Result<()> {
        if let Instruction::Arg(arguments) = &step.instruction {
            let mut said = Vec::new();
            for argument in arguments {
                let (value, _) = state
                    .scope
                    .declare(argument, self.globals, &self.request.arguments, self.file.escape)
                    .map_err(|fault| self.fault(fault))?;
                said.push(match value {
                    Some(value) => format!("{}={value}", argument.name),
                    None => argument.name.clone(),
                });
            }
            state.note(format!("ARG {}", said.join(" ")), false);
            return Ok(());
        }
        let expansion =
            step.instruction.expand(self.file.escape, &state.scope).map_err(|fault| self.fault(fault))?;
        let instruction = expansion.instruction;
        if state.apply(&instruction).map_err(|error| self.at(shown.span, error))? {
            return Ok(());
        }
        match &instruction {
            Instruction::Run(run) => self.run_step(state, run, &shown),
            Instruction::Copy(copy) => self.copy_step(state, copy, &shown),
            Instruction::Add(add) => self.add_step(state, add, &shown),
            Instruction::Workdir(word) => self.workdir(state, word, &shown),
            _ => Ok(()),
        }
    }

    fn workdir(&mut self, state: &mut State, word: &Word, shown: &Shown) -> Result<()> {
        let path = format!("/{}", crate::tree::clean(&state.absolute(&word.text)));
        state.config.working_dir.clone_from(&path);
        let user = state.config.user.clone();
        let history = created_by(&Instruction::Workdir(Word { text: path.clone(), span: word.span }), &[]);
        self.layer(state, shown, &("workdir", &path, &user), history, &mut |target| {
            if target.target.is_directory(&path) {
                return Ok(());
            }
            let owner = if user.is_empty() { None } else { Some(Build::user(target.root, &user, false)?) };
            target.target.make_directories(&path, owner).map(drop)
        })
    }

    pub(crate) fn begin(&mut self, label: &str) -> usize {
        self.steps += 1;
        self.observer.begin(self.steps, label);
        self.steps
    }

    pub(crate) fn ended<T>(&mut self, step: usize, begun: Instant, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.observer.done(step, begun.elapsed()),
            Err(_) => self.observer.failed(step),
        }
        result
    }

    /// The key of a step on top of some layers.
    pub(crate) fn key(chain: Option<&ChainId>, what: &impl Serialize) -> Result<Digest> {
        let text = serde_json::to_vec(&("robot-env 1", chain, what))
            .map_err(|error| Error::new(Kind::Internal, "cannot make a cache key").because(error))?;
        Ok(Digest::of(&text))
    }

    /// What the cache has for a step.
    pub(crate) fn recall(
        &mut self,
        state: &mut State,
        shown: &Shown,
        key: &Digest,
        history: &str,
    ) -> Result<bool> {
        if !shown.cache {
            return Ok(false);
        }
        let Some(record) = self.session.cached(self.store(), key)? else { return Ok(false) };
        let step = self.begin(&shown.label);
        self.observer.cached(step);
        state.chain = record.chain;
        state.created = record.created;
        state.note(history.to_owned(), record.layer);
        Ok(true)
    }

    /// Remembers a step.
    pub(crate) fn remember(
        &mut self,
        state: &mut State,
        key: &Digest,
        chain: Option<ChainId>,
        history: String,
    ) -> Result<()> {
        let layer = chain != state.chain;
        state.created = self.now();
        let record = CacheRecord {
            chain: chain.clone(),
            layer,
            description: history.clone(),
            created: state.created.clone(),
            used: 0,
        };
        self.store().put_cached(key, &record)?;
        self.session.note(key, &record);
        state.chain = chain;
        state.note(history, layer);
        Ok(())
    }

    /// A step that writes files itself: from the cache, or `write` is called with the mounted root.
    pub(crate) fn layer(
        &mut self,
        state: &mut State,
        shown: &Shown,
        what: &impl Serialize,
        history: String,
        write: &mut dyn FnMut(&mut Mounted<'_>) -> Result<()>,
    ) -> Result<()> {
        let key = Self::key(state.chain.as_ref(), what)?;
        if self.recall(state, shown, &key, &history)? {
            return Ok(());
        }
        let step = self.begin(&shown.label);
        let begun = Instant::now();
        let result = self.written(state.chain.as_ref(), write);
        let chain = self.ended(step, begun, result).map_err(|error| self.at(shown.span, error))?;
        self.remember(state, &key, chain, history)
    }

    pub(crate) fn written(
        &mut self,
        chain: Option<&ChainId>,
        write: &mut dyn FnMut(&mut Mounted<'_>) -> Result<()>,
    ) -> Result<Option<ChainId>> {
        self.snapshots += 1;
        let store = self.store();
        let key = Engine::build_snapshot_key(&self.room.name, self.snapshots)?;
        let snapshot = store.prepare(&key, chain, SnapshotOptions { volatile: true, durable: false })?;
        let made = || -> Result<Option<ChainId>> {
            let empty;
            let mut lowers: Vec<BorrowedFd<'_>> = snapshot.lowers.iter().map(AsFd::as_fd).collect();
            if lowers.is_empty() {
                empty = self.room.empty()?;
                lowers.push(empty.as_fd());
            }
            let request = OverlayRequest {
                lowers: &lowers,
                upper: Some((snapshot.upper.as_fd(), snapshot.work.as_fd())),
                volatile: true,
                userxattr: store.overlay_xattr() == OverlayXattr::User,
            };
            let root = mount::overlay(&request)?;
            let target = crate::copying::Target::new(root.as_fd(), ownership());
            let mut mounted = Mounted { root: root.as_fd(), target };
            write(&mut mounted)?;
            drop(root);
            commit_layer(&Unpacker::new(store, ownership()), &snapshot)
        }();
        let removed = store.remove_snapshot(&key);
        let chain = made?;
        removed?;
        Ok(chain)
    }

    /// The ids that a user (and group) of an image have. A number alone is the group's number, too,
    /// where `chown` says so.
    pub(crate) fn user(root: BorrowedFd<'_>, text: &str, chown: bool) -> Result<(u32, u32)> {
        const LIMIT: usize = 1 << 20;
        let read =
            |path| Ok::<_, Error>(robot_env_sys::fs::read_in_root(root, path, LIMIT)?.unwrap_or_default());
        let text = match text.parse::<u32>() {
            Ok(number) if chown => format!("{number}:{number}"),
            _ => text.to_owned(),
        };
        let found =
            robot_env_spec::resolve_user(Some(&text), &[], &read("/etc/passwd")?, &read("/etc/group")?)?;
        Ok((found.uid, found.gid))
    }

    /// A base image, pulled if it is not here.
    fn base(&mut self, name: &str, platform: Option<&Platform>) -> Result<State> {
        let name = match self.request.contexts.get(name) {
            Some(other) => match other.strip_prefix("docker-image://") {
                Some(image) => image.to_owned(),
                None => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("the context `{name}` is a directory, which no stage can build on"),
                    ));
                }
            },
            None => name.to_owned(),
        };
        let remembered = format!("{name} {}", platform.map(ToString::to_string).unwrap_or_default());
        if let Some(state) = self.pulled.get(&remembered) {
            return Ok(state.clone());
        }
        let found = self.store().resolve(&name);
        let fits = |image: &ImageRecord| -> Result<bool> {
            let Some(platform) = platform else { return Ok(true) };
            Ok(self.store().config(&image.id)?.value().platform.satisfies(platform))
        };
        let other = match (&found, platform) {
            (Ok(image), Some(platform)) => !fits(image)? || !Platform::host().satisfies(platform),
            (Err(_), Some(platform)) => !Platform::host().satisfies(platform),
            _ => false,
        };
        let image = match (found, platform) {
            (Ok(image), _) if !self.request.pull && fits(&image)? => image,
            (_, Some(platform)) if other => self.foreign_base(&name, platform)?,
            (found, _) => match found {
                Ok(image) if !self.request.pull => image,
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                found => {
                    let reference = name.parse::<Reference>()?.or_latest();
                    self.fetch.fetch(&reference, platform, found.is_ok())?;
                    self.store().resolve(&name)?
                }
            },
        };
        let config = self.store().config(&image.id)?.into_value();
        if let Some(platform) = platform
            && !config.platform.satisfies(platform)
        {
            return Err(Error::not_found(format!(
                "image `{name}` is for {} and not for {platform}",
                config.platform
            )));
        }
        // Pins it.
        for chain in &image.layers {
            self.store().layer(chain)?;
        }
        let state = State::of_image(image.chain().cloned(), config);
        self.pulled.insert(remembered, state.clone());
        Ok(state)
    }

    /// The state of whatever `--from` names.
    pub(crate) fn state_of(&mut self, source: &Source) -> Result<Option<State>> {
        match source {
            Source::Scratch => Ok(None),
            Source::Stage(number) => Ok(self.states.get(*number).cloned().flatten()),
            Source::Image(name) => self.base(name, self.request.platform.as_ref()).map(Some),
        }
    }

    /// A named context that is a directory.
    pub(crate) fn named_context(&mut self, name: &str) -> Result<Option<&mut Context>> {
        let Some(path) = self.request.contexts.get(name) else { return Ok(None) };
        if path.starts_with("docker-image://") {
            return Ok(None);
        }
        if !self.contexts.contains_key(name) {
            let directory = Path::new(path);
            let ignore = fs::read_to_string(directory.join(".dockerignore")).unwrap_or_default();
            let context = Context::of(self.engine, directory, &ignore)?;
            self.contexts.insert(name.to_owned(), context);
        }
        Ok(self.contexts.get_mut(name))
    }

    /// Opens what `--from` names; without it, the context.
    pub(crate) fn open(&mut self, from: Option<&Source>) -> Result<Opened> {
        let Some(from) = from else { return Ok(Opened::Directory(self.context.directory.clone())) };
        if let Source::Image(name) = from
            && let Some(context) = self.named_context(name)?
        {
            return Ok(Opened::Directory(context.directory.clone()));
        }
        let chain = self.state_of(from)?.and_then(|state| state.chain);
        Ok(Opened::Layers(self.open_layers(chain.as_ref())?))
    }

    /// What is known of the files of a tree.
    pub(crate) fn index_of(&mut self, from: Option<&Source>) -> Result<&mut Index> {
        if let Some(Source::Image(name)) = from
            && self.named_context(name)?.is_some()
        {
            let known = self.contexts.get_mut(name);
            return known.map(|context| &mut context.index).ok_or_else(|| Error::not_found(name.clone()));
        }
        Ok(if from.is_none() { &mut self.context.index } else { &mut self.layers_index })
    }

    /// Downloads into a file of the build's; the digest of what came, and when it was modified, in
    /// seconds since the Unix epoch, where that is known.
    pub(crate) fn download(&mut self, address: &str, path: &Path) -> Result<(Digest, Option<i64>)> {
        let within = || format!("cannot write `{}`", path.display());
        let (mut body, time) = self.fetch.download_with_time(address)?;
        let mut file = File::create(path).io_context(within)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            let n = body.read(&mut buffer).map_err(|error| {
                Error::new(Kind::Unavailable, format!("cannot read `{address}`")).because(error)
            })?;
            if n == 0 {
                return Ok((hasher.finish(), time));
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).io_context(within)?;
        }
    }

    /// The merged tree of layers, read-only.
    pub(crate) fn open_layers(&self, chain: Option<&ChainId>) -> Result<OwnedFd> {
        let store = self.store();
        let Some(chain) = chain else { return self.room.empty() };
        let record = store
            .layer(chain)?
            .ok_or_else(|| Error::not_found(format!("layer `{chain}` is not in the store")))?;
        let top = std::iter::once(chain).chain(record.ancestors.iter().rev());
        let mut lowers: Vec<OwnedFd> = top.map(|chain| store.layer_dir(chain)).collect::<Result<_>>()?;
        if lowers.len() == 1
            && let Some(only) = lowers.pop()
        {
            return Ok(only);
        }
        let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
        let userxattr = store.overlay_xattr() == OverlayXattr::User;
        Ok(mount::overlay(&OverlayRequest { lowers: &lowers, upper: None, volatile: false, userxattr })?)
    }

    /// An image of a stage that goes when the build ends: to be mounted.
    pub(crate) fn temporary_image(&mut self, state: &State) -> Result<ImageId> {
        let image = self.image(state.clone())?;
        self.temporary.push(image.id.clone());
        Ok(image.id)
    }

    fn forget_temporary(&mut self) {
        for id in self.temporary.drain(..) {
            let named =
                self.engine.store().names().is_ok_and(|names| names.iter().any(|name| name.image == id));
            if !named {
                let _ = self.engine.store().remove_image(&id, robot_env_store::RemoveOptions::default());
            }
        }
    }

    /// Puts the image of a state.
    fn image(&self, state: State) -> Result<ImageRecord> {
        let mut record = ImageRecord::new(&self.config(state, false)?);
        record.origin = "build".into();
        self.store().put_image(&record)
    }

    /// Puts the config of a state's image.
    fn config(&self, state: State, last: bool) -> Result<Verified<ImageConfig>> {
        let store = self.store();
        let mut diff_ids = Vec::new();
        if let Some(chain) = &state.chain {
            let missing = || Error::not_found(format!("layer `{chain}` is not in the store"));
            let top = store.layer(chain)?.ok_or_else(missing)?;
            for below in &top.ancestors {
                diff_ids.push(store.layer(below)?.ok_or_else(missing)?.diff_id);
            }
            diff_ids.push(top.diff_id);
        }
        let mut config = state.config;
        if last {
            config.labels.extend(self.request.labels.clone());
        }
        let mut history: Vec<HistoryEntry> = state.history;
        let created = match self.request.epoch {
            Some(_) => {
                let now = self.now();
                for entry in &mut history {
                    entry.created = Some(now.clone());
                }
                now
            }
            None => state.created,
        };
        let config = Verified::make(ImageConfig {
            created: Some(created),
            author: state.author,
            platform: state.platform,
            config,
            rootfs: RootFs { diff_ids, ..RootFs::default() },
            history,
            ..ImageConfig::default()
        })?;
        store.put_content(config.digest(), config.bytes())?;
        Ok(config)
    }
}

/// The root file system of a step, mounted.
pub(crate) struct Mounted<'r> {
    pub(crate) root: BorrowedFd<'r>,
    pub(crate) target: crate::copying::Target<'r>,
}

/// Whether an instruction is a step that is shown.
fn makes_layers(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

impl Opened {
    /// As a tree to copy from.
    pub(crate) fn tree(&self) -> Tree<'_> {
        match self {
            Opened::Directory(directory) => Tree {
                root: directory.root.as_fd(),
                ignore: Some(&directory.ignore).filter(|ignore| !ignore.is_empty()),
                foreign: true,
            },
            Opened::Layers(root) => Tree { root: root.as_fd(), ignore: None, foreign: false },
        }
    }
}
