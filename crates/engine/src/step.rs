//! A step of a build: a container that lives for one command, and whose files become a layer.
//!
//! Nobody lists it. Its monitor ends it when the build that watches it goes; what a killed build
//! leaves is taken away by the next one ([`Engine::sweep_steps`]). A build says that it lives by
//! holding a lock on its directory below [`Paths::builds`](crate::Paths::builds).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use robot_env_diag::{Kind, Result};
use robot_env_oci::{ChainId, Digest, ImageId, RuntimeConfig};
use robot_env_spec::{ContainerSpec, LogDriver};
use robot_env_store::Snapshot;
use robot_env_transfer::{Unpacker, commit_layer, ownership};
use rustix::fs::{AtFlags, FileType, FlockOperation};

use crate::RemoveContainerOptions;
use crate::commit::PLACES;
use crate::create::Base;
use crate::engine::Engine;
use crate::stream::{Frame, Hello, Stream};

/// What a step runs, and on what.
#[derive(Clone, Debug)]
pub struct StepRequest {
    /// The layers below.
    pub chain: Option<ChainId>,
    /// How the image so far runs: environment, user, working directory.
    pub config: RuntimeConfig,
    /// What is wanted beside it; [`ContainerSpec::step`] names the build.
    pub spec: ContainerSpec,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepResult {
    /// It succeeded: the layers afterwards, those below when nothing was written.
    Layers(Option<ChainId>),
    /// It ended with this exit code; 128 + n for signal n.
    Failed(i32),
}

impl Engine {
    /// Runs a step to its end; what it prints goes to `output` as it comes. It is killed when `cancel`
    /// becomes readable.
    ///
    /// # Errors
    /// Those of [`Engine::create`] and [`Engine::start`]; `NoSpace`; `Interrupted` when it was
    /// cancelled. The container is gone then, too.
    pub fn run_step(
        &self,
        request: StepRequest,
        output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
        cancel: BorrowedFd<'_>,
    ) -> Result<StepResult> {
        let StepRequest { chain, config, mut spec } = request;
        spec.check()?;
        spec.log.driver = LogDriver::None;
        let hello = Hello { stdin: false, stdout: true, stderr: true };
        let mut ahead = self.start_ahead(Some(hello))?;
        let claim = self.claim(false)?;
        let targets: Vec<String> = spec.mounts.iter().map(|mount| mount.target.clone()).collect();
        let base = Base { image: ImageId(Digest::of(spec.image.as_bytes())), chain, config };
        let (created, lock) = self.create_on(base, spec, None, claim, true)?;
        ahead.hold(lock);
        let id = created.id.as_str();
        let run = || -> Result<StepResult> {
            let started = self.start_with(id, Some(hello), Some(ahead))?;
            let mut code = None;
            if let Some(mut attachment) = started.attachment {
                while let Some(frame) = attachment.receive_unless(cancel)? {
                    match frame {
                        Frame::Output(stream, bytes) => output(stream, &bytes)?,
                        Frame::Exit(notice) => code = Some(notice.code),
                        _ => {}
                    }
                }
            }
            // A monitor that was killed could not say it.
            let code = match code {
                Some(code) => code,
                None => self.wait(id)?,
            };
            if code != 0 {
                return Ok(StepResult::Failed(code));
            }
            self.await_monitor(&created.id);
            let container = self.container(id)?;
            let snapshot = self.open_snapshot(&container.record)?;
            without_places(&snapshot, &targets);
            let chain = commit_layer(&Unpacker::new(self.store(), ownership()), &snapshot)?;
            Ok(StepResult::Layers(chain))
        };
        let result = run();
        let removed = self.remove(id, RemoveContainerOptions { force: true, volumes: true });
        let result = result?;
        removed?;
        Ok(result)
    }

    /// Removes the steps of builds that do not live any more.
    pub fn sweep_steps(&self) -> Result<()> {
        for id in self.records.ids()? {
            let Ok(record) = self.records.load_record(&id) else { continue };
            let Some(build) = &record.spec.step else { continue };
            if self.build_lives(build) {
                continue;
            }
            match self.remove(id.as_str(), RemoveContainerOptions { force: true, volumes: true }) {
                Err(error) if !matches!(error.kind(), Kind::NotFound | Kind::Conflict) => return Err(error),
                _ => {}
            }
        }
        for entry in std::fs::read_dir(self.paths.builds()).into_iter().flatten().flatten() {
            let Ok(directory) = File::open(entry.path()) else { continue };
            // The lock is held meanwhile: a build that has just made it sees that, and makes another one.
            if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        for key in self.store.snapshot_keys()? {
            let build = key.as_str().strip_prefix("build-").and_then(|rest| rest.split('-').next());
            if let Some(build) = build
                && !self.build_lives(build)
            {
                let _ = self.store.remove_snapshot(&key);
            }
        }
        Ok(())
    }

    fn build_lives(&self, name: &str) -> bool {
        let Ok(directory) = File::open(self.paths.builds().join(name)) else { return false };
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// A snapshot's key for what a build with that name writes itself.
    pub fn build_snapshot_key(name: &str, number: usize) -> Result<robot_env_store::SnapshotKey> {
        format!("build-{name}-{number}").parse()
    }
}

/// Takes the empty places away that a start has made to mount something on, where the image has
/// nothing, and the copies of directories that were made for them alone.
fn without_places(snapshot: &Snapshot, targets: &[String]) {
    let mut places: Vec<&str> = PLACES.iter().copied().chain(targets.iter().map(String::as_str)).collect();
    // Those inside others first.
    places.sort_by_key(|place| std::cmp::Reverse(place.len()));
    let remove = |path: &str| -> bool {
        let Some(upper) = stat(snapshot.upper.as_fd(), path) else { return false };
        let below = snapshot.lowers.iter().find_map(|lower| stat(lower.as_fd(), path));
        let is_directory = FileType::from_raw_mode(upper.st_mode) == FileType::Directory;
        let goes = match &below {
            None => is_directory || upper.st_size == 0,
            Some(lower) => {
                let same = (lower.st_mode, lower.st_uid, lower.st_gid)
                    == (upper.st_mode, upper.st_uid, upper.st_gid);
                is_directory && same
            }
        };
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        // A directory with something in it stays.
        goes && rustix::fs::unlinkat(&snapshot.upper, path, flags).is_ok()
    };
    for place in places {
        let mut path = place.trim_matches('/');
        while !path.is_empty() && remove(path) {
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
}

fn stat(dir: BorrowedFd<'_>, path: &str) -> Option<rustix::fs::Stat> {
    rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()
}
