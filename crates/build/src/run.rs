//! `RUN`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_dockerfile::{Mount, MountKind, Run, RunNetwork, Script, Sharing, Source, Word};
use robot_env_engine::{StepRequest, StepResult};
use robot_env_layer::Ownership;
use robot_env_oci::{Digest, RuntimeConfig};
use robot_env_spec::{MountSource, MountSpec, NetworkMode, Propagation, ReadOnlyDepth};
use robot_env_store::{SnapshotKey, SnapshotOptions, Store};
use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::copying::{CopyOptions, Target};
use crate::failure::Trouble;
use crate::hint::Ended;
use crate::history::with_shell;
use crate::missing::missing;
use crate::request::Secret;
use crate::room::Opened;
use crate::solve::Build;
use crate::state::{State, network_word};
use crate::step::Shown;
use crate::tree::{Match, clean};

/// Where a script of a heredoc is to be found.
const SCRIPTS: &str = "/dev/pipes";
/// How often a lock is tried that somebody holds.
const PATIENCE: Duration = Duration::from_millis(20);
/// Variables that every `RUN` sees without `ARG`, and that are part of no key.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What a step mounts, and what must stay until it has ended.
#[derive(Default)]
struct Mounts<'s> {
    specs: Vec<MountSpec>,
    /// What of them the key depends on.
    keys: Vec<String>,
    variables: Vec<(String, Vec<u8>)>,
    /// The directories of caches, by their ids, and their locks.
    caches: BTreeMap<String, PathBuf>,
    held: Vec<File>,
    /// Files and directories that go with the step.
    places: Vec<PathBuf>,
    /// Trees that go with it.
    copies: Vec<Scratch<'s>>,
}

/// A snapshot that goes when it is dropped; of a build that is killed, with the next build.
struct Scratch<'s> {
    store: &'s Store,
    key: SnapshotKey,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let _ = self.store.remove_snapshot(&self.key);
    }
}

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            if fs::remove_file(place).is_err() {
                let _ = fs::remove_dir_all(place);
            }
        }
    }
}

/// Where a mount goes.
fn target_of(state: &State, mount: &Mount, default: &str) -> String {
    let text = if mount.target.is_empty() { default } else { &mount.target };
    format!("/{}", clean(&state.absolute(text)))
}

fn cache_id<'m>(mount: &'m Mount, target: &'m str) -> &'m str {
    if mount.id.is_empty() { target } else { &mount.id }
}

impl<'b> Build<'b> {
    pub(crate) fn run_step(&self, state: &mut State, run: &Run, shown: &Shown) -> Result<(), Trouble> {
        let mounts = run.mounts(self.file.escape, &state.scope)?.0;
        let script = run.script();
        let shell = !matches!(script, Script::Exec(_));
        let (words, script) = match script {
            Script::Exec(words) => (words, None),
            Script::Shell(text) => (with_shell(&state.config.shell, &text), None),
            Script::File { name, content } => {
                let path = format!("{SCRIPTS}/{name}");
                (with_shell(&state.config.shell, &path), Some((path, content)))
            }
        };
        if let Some(device) = run.devices.iter().find(|device| device.required) {
            let why = format!("cannot give the device `{}` to a build", device.name);
            return Err(Error::new(Kind::Unsupported, why).into());
        }
        if run.insecure && !self.request.run.privileged {
            return Err(Error::new(
                Kind::Denied,
                "cannot run with `--security=insecure`: it was not allowed",
            )
            .with_hint("build with `--allow security.insecure`")
            .into());
        }
        let network = match run.network {
            RunNetwork::Default => self.request.network.clone(),
            RunNetwork::None => NetworkMode::None,
            RunNetwork::Host => NetworkMode::Host,
        };
        let arguments: Vec<(String, String)> = state
            .scope
            .arguments()
            .into_iter()
            .filter(|(name, _)| !PROXIES.contains(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let history = history_of(&arguments, &words);
        let environment: Vec<(&str, &str)> =
            state.scope.variables().filter(|(name, _)| !PROXIES.contains(name)).collect();
        let mut wanted = Mounts::default();
        for mount in &mounts {
            self.key_of(mount, shown.stage, &mut wanted)?;
        }
        let what = (
            "run",
            (&words, script.as_ref().map(|(_, content)| content)),
            &environment,
            (&state.config.user, &state.config.working_dir),
            (network_word(&network), run.insecure),
            &wanted.keys,
        );
        let key = Self::key(state.chain.as_ref(), &what)?;
        let _turn = self.schedule.turn(&key)?;
        if self.recall(state, shown, &key, &history)? {
            return Ok(());
        }
        crate::foreign::check_runs(&state.platform)?;
        self.cancel.check()?;
        self.lock_caches(state, &mounts, shown.stage, &mut wanted)?;
        for mount in &mounts {
            self.mount(state, mount, shown.stage, &mut wanted)?;
        }
        let mut spec = self.request.run.clone();
        spec.image.clone_from(&shown.label);
        spec.step = Some(self.room.name.clone());
        spec.hostname = Some("build".into());
        spec.network = network;
        spec.privileged = run.insecure;
        spec.entrypoint = Some(words.clone());
        spec.mounts = std::mem::take(&mut wanted.specs);
        if let Some((path, content)) = script {
            spec.mounts.push(self.script(&path, &content, &mut wanted)?);
        }
        let proxies =
            PROXIES.iter().filter_map(|name| Some((*name, self.request.arguments.get(*name)?.as_str())));
        spec.env =
            state.scope.variables().chain(proxies).map(|(name, value)| format!("{name}={value}")).collect();
        for (name, value) in &wanted.variables {
            let value = String::from_utf8_lossy(value);
            spec.env.push(format!("{name}={value}"));
        }
        let step = self.begin(shown);
        let begun = Instant::now();
        // What a command writes below a `VOLUME` is part of the image.
        let config = RuntimeConfig { volumes: BTreeMap::default(), ..state.config.clone() };
        let (network, limited) = (spec.network.clone(), spec.resources.memory.is_some());
        let request = StepRequest { chain: state.chain.clone(), config, spec };
        let mut output = |stream, bytes: &[u8]| {
            self.output(step, shown, stream, bytes);
            Ok(())
        };
        let result = self.engine.run_step(request, &mut output, self.cancel.as_fd());
        drop(wanted);
        let result = match result {
            Ok(StepResult::Layers(chain)) => Ok(chain),
            Ok(StepResult::Failed(code)) => {
                let tail = shown.tail.borrow();
                let hint = crate::hint::of_command(&Ended {
                    command: &words.join(" "),
                    shell,
                    code,
                    output: &String::from_utf8_lossy(&tail),
                    user: root_is_nobody(&state.config.user),
                    network: &network,
                    limited,
                });
                let text = format!("the command `{}` ended with exit code {code}", words.join(" "));
                let error = Error::new(Kind::Conflict, text);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
            Err(error) => Err(crate::hint::of_start(&words, error)),
        };
        let chain = self.ended(step, begun, state.chain.as_ref(), result)?;
        Ok(self.remember(state, shown, &key, chain, history)?)
    }

    fn script(&self, path: &str, content: &str, wanted: &mut Mounts<'b>) -> Result<MountSpec> {
        let file = self.scratch("script", wanted);
        let within = || format!("cannot write `{}`", file.display());
        fs::write(&file, content).io_context(within)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).io_context(within)?;
        Ok(bind(&file, path, true))
    }

    fn source(&self, mount: &Mount) -> Option<Source> {
        let from = mount.from.as_ref()?;
        Some(self.file.mount_source(&Word { text: from.clone(), span: mount.span }))
    }

    /// Adds to the key what the result of a step with this mount depends on.
    fn key_of(&self, mount: &Mount, stage: usize, wanted: &mut Mounts<'b>) -> Result<()> {
        let key = match mount.kind {
            MountKind::Bind => {
                let from = self.source(mount);
                let opened = self.open(from.as_ref(), stage)?;
                let found = find(&opened, &mount.source)?;
                let digest = opened.tree().digest(&found, None, self.index_of(&opened))?;
                format!("bind {} {digest}", mount.target)
            }
            // What is in a cache, a secret, an agent is no part of the result.
            MountKind::Cache => format!("cache {} {}", mount.target, mount.id),
            MountKind::Tmpfs => format!("tmpfs {}", mount.target),
            MountKind::Secret => format!("secret {} {} {:?}", mount.target, mount.id, mount.env),
            MountKind::Ssh => format!("ssh {} {}", mount.target, mount.id),
        };
        wanted.keys.push(key);
        Ok(())
    }

    fn mount(&self, state: &State, mount: &Mount, stage: usize, wanted: &mut Mounts<'b>) -> Result<()> {
        let target = |default: &str| target_of(state, mount, default);
        match mount.kind {
            MountKind::Tmpfs => wanted.specs.push(MountSpec {
                target: target(""),
                source: MountSource::Tmpfs { size: mount.size, mode: None, options: Vec::new() },
                read_only: mount.read_only,
            }),
            MountKind::Bind => {
                let spec = self.bind_mount(mount, &target(""), stage, wanted)?;
                wanted.specs.push(spec);
            }
            MountKind::Cache => {
                let target = target("");
                let directory = wanted.caches.get(cache_id(mount, &target)).cloned().ok_or_else(|| {
                    Error::new(Kind::Internal, format!("the cache for `{target}` was not opened"))
                })?;
                wanted.specs.push(bind(&directory, &target, mount.read_only));
            }
            MountKind::Secret => self.secret(mount, &target, wanted)?,
            MountKind::Ssh => {
                let id = if mount.id.is_empty() { "default" } else { &mount.id };
                let Some(socket) = self.request.agents.get(id) else {
                    if mount.required {
                        return Err(Error::not_found(format!("the ssh agent `{id}` was not given"))
                            .with_hint(format!("build with `--ssh {id}`")));
                    }
                    return Ok(());
                };
                let target = target(&format!("/run/buildkit/ssh_agent.{}", wanted.specs.len()));
                wanted.specs.push(bind(socket, &target, false));
                wanted.variables.push(("SSH_AUTH_SOCK".into(), target.into_bytes()));
            }
        }
        Ok(())
    }

    fn bind_mount(
        &self,
        mount: &Mount,
        target: &str,
        stage: usize,
        wanted: &mut Mounts<'b>,
    ) -> Result<MountSpec> {
        let from = self.source(mount);
        if let Some(from) = &from
            && mount.read_only
            && !matches!(from, Source::Image(name) if self.named_context(name)?.is_some())
        {
            let Some(other) = self.state_of(from, stage)? else {
                return Err(Error::invalid("nothing can be mounted from scratch"));
            };
            let image = self.temporary_image(&other)?.to_string();
            let subpath = Some(clean(&mount.source)).filter(|path| !path.is_empty());
            return Ok(MountSpec {
                target: target.to_owned(),
                source: MountSource::Image { image, subpath },
                read_only: true,
            });
        }
        // A copy: what is written is nobody's, what is ignored is not there, owners of files of the host
        // are root's. It lies with the layers: there is room, and blocks can be shared.
        let opened = self.open(from.as_ref(), stage)?;
        let tree = opened.tree();
        let mut found = find(&opened, &mount.source)?;
        let Some(found) = found.pop() else { return Err(Error::not_found(mount.source.clone())) };
        let key = self.room.snapshot_key()?;
        let options = SnapshotOptions { volatile: true, durable: false };
        let snapshot = self.store().prepare(&key, None, options)?;
        wanted.copies.push(Scratch { store: self.store(), key });
        let mut into = Target::new(snapshot.upper.as_fd(), robot_env_transfer::ownership());
        into.copy(&tree, &found, "/tree", &CopyOptions::default())?;
        Ok(bind(&snapshot.path().join("upper/tree"), target, mount.read_only))
    }

    /// Opens and locks the caches of a step, always in the same order: steps that want several of them
    /// do not wait for each other in a circle.
    fn lock_caches(
        &self,
        state: &State,
        mounts: &[Mount],
        stage: usize,
        wanted: &mut Mounts<'b>,
    ) -> Result<()> {
        let mut all: BTreeMap<String, &Mount> = BTreeMap::new();
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Cache) {
            let id = cache_id(mount, &target_of(state, mount, "")).to_owned();
            all.entry(id).or_insert(mount);
        }
        for (id, mount) in all {
            let (directory, lock) = self.cache(mount, &id, stage)?;
            wanted.caches.insert(id, directory);
            wanted.held.push(lock);
        }
        Ok(())
    }

    /// The directory of a cache, locked as its sharing says.
    fn cache(&self, mount: &Mount, id: &str, stage: usize) -> Result<(PathBuf, File)> {
        let base = crate::kept::mounts(self.engine);
        let digest = Digest::of(id.as_bytes());
        let mut number = 0;
        loop {
            let directory = base.join(format!("{}-{number}", digest.hex()));
            self.make_cache(mount, id, stage, &directory)?;
            let lock =
                File::open(&directory).io_context(|| format!("cannot open `{}`", directory.display()))?;
            let how = match mount.sharing {
                Sharing::Shared => FlockOperation::NonBlockingLockShared,
                Sharing::Locked | Sharing::Private => FlockOperation::NonBlockingLockExclusive,
            };
            match rustix::fs::flock(&lock, how) {
                // Between its making and its lock somebody may have pruned it.
                Ok(()) if !directory.join("content").exists() => {}
                Ok(()) => {
                    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                    let times = Timestamps { last_access: now, last_modification: now };
                    // Only the order in which caches are pruned depends on it.
                    let _ = rustix::fs::futimens(&lock, &times);
                    return Ok((directory.join("content"), lock));
                }
                Err(Errno::AGAIN) if mount.sharing == Sharing::Private => number += 1,
                Err(Errno::AGAIN) => {
                    // A lock tells nobody that it is free; a cancelled build must not wait for it.
                    self.cancel.check()?;
                    std::thread::sleep(PATIENCE);
                }
                Err(errno) => return Err(errno).io_context(|| format!("flock({})", directory.display())),
            }
        }
    }

    /// A path that goes when the step has ended.
    fn scratch(&self, name: &str, wanted: &mut Mounts<'b>) -> PathBuf {
        let place = self.room.place(name);
        wanted.places.push(place.clone());
        place
    }

    fn make_cache(&self, mount: &Mount, id: &str, stage: usize, directory: &Path) -> Result<()> {
        let content = directory.join("content");
        if content.exists() {
            return Ok(());
        }
        let within = || format!("cannot make cache `{}`", directory.display());
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(directory).io_context(within)?;
        fs::write(directory.join("id"), id).io_context(within)?;
        let grown = directory.join(format!("new-{}-{stage}", self.room.name));
        fs::create_dir(&grown).io_context(within)?;
        if mount.from.is_some() {
            let from = self.source(mount);
            let opened = self.open(from.as_ref(), stage)?;
            let found = find(&opened, &mount.source)?;
            let root = robot_env_sys::fs::open_directory(&grown)?;
            let mut into = Target::new(root.as_fd(), robot_env_transfer::ownership());
            for found in found.iter().filter(|found| found.is_directory) {
                into.copy(&opened.tree(), found, "/", &CopyOptions::default())?;
            }
        }
        let mode = mount.mode.unwrap_or(0o755);
        fs::set_permissions(&grown, fs::Permissions::from_mode(mode)).io_context(within)?;
        if mount.uid.is_some() || mount.gid.is_some() {
            give(&File::open(&grown).io_context(within)?, mount).within(within)?;
        }
        match fs::rename(&grown, &content) {
            Ok(()) => Ok(()),
            // Somebody else was faster.
            Err(_) if content.exists() => {
                let _ = fs::remove_dir_all(&grown);
                Ok(())
            }
            Err(error) => Err(error).io_context(within),
        }
    }

    fn secret(&self, mount: &Mount, target: &dyn Fn(&str) -> String, wanted: &mut Mounts<'b>) -> Result<()> {
        let id = [&mount.id, &mount.source].into_iter().find(|text| !text.is_empty()).cloned();
        let id = id.unwrap_or_else(|| mount.target.rsplit('/').next().unwrap_or_default().to_owned());
        let content = match self.request.secrets.get(&id) {
            Some(Secret::Value(value)) => value.clone(),
            Some(Secret::File(path)) => fs::read(path)
                .io_context(|| format!("cannot read secret `{id}` from `{}`", path.display()))?,
            None if mount.required => {
                return Err(Error::not_found(format!("the secret `{id}` was not given"))
                    .with_hint(format!("build with `--secret id={id},src=FILE`")));
            }
            None => return Ok(()),
        };
        if let Some(name) = &mount.env {
            let name = if name.is_empty() { &id } else { name };
            wanted.variables.push((name.clone(), content.clone()));
            if mount.target.is_empty() {
                return Ok(());
            }
        }
        let path = self.scratch("secret", wanted);
        let within = || "cannot hand on a secret".to_owned();
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).io_context(within)?;
        file.write_all(&content).io_context(within)?;
        give(&file, mount).within(within)?;
        file.set_permissions(fs::Permissions::from_mode(mount.mode.unwrap_or(0o400))).io_context(within)?;
        wanted.specs.push(bind(&path, &target(&format!("/run/secrets/{id}")), true));
        Ok(())
    }
}

/// Gives a file to the owner that a mount asks for; as with all files, that is the caller where there
/// is one id alone.
fn give(file: &File, mount: &Mount) -> Result<()> {
    let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
    match robot_env_transfer::ownership() {
        Ownership::SingleId => Ok(()),
        Ownership::Keep => {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid)).io_context(|| format!("chown({uid}:{gid})"))
        }
    }
}

/// What a mount's source is in a tree.
fn find(opened: &Opened, source: &str) -> Result<Vec<Match>> {
    opened.tree().find(source).map_err(|error| missing(opened, source, error))
}

/// A user as hints name it: nothing for root.
fn root_is_nobody(user: &str) -> &str {
    match user.split(':').next() {
        Some("root" | "0") => "",
        _ => user,
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> MountSpec {
    MountSpec {
        target: target.to_owned(),
        source: MountSource::Bind {
            source: source.to_string_lossy().into_owned(),
            create_source: false,
            propagation: Propagation::default(),
            recursive: false,
            read_only_depth: ReadOnlyDepth::default(),
        },
        read_only,
    }
}

/// What the history says of a command: `RUN |1 A=b /bin/sh -c text`.
fn history_of(arguments: &[(String, String)], words: &[String]) -> String {
    if arguments.is_empty() {
        return format!("RUN {}", words.join(" "));
    }
    let said: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("RUN |{} {} {}", said.len(), said.join(" "), words.join(" "))
}
