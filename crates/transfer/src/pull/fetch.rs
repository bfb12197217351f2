//! Several layers on their way at once.
//!
//! Three layers are downloaded and unpacked at a time, lowest first. What is unpacked waits until
//! all below it is, and is then committed; small layers wait for each other, so that most images
//! are synced to the disk once, and large ones while the next ones arrive.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::Repository;
use robot_env_registry::{BlobReader, Client};
use robot_env_store::LayerSource;

use super::Wanted;
use crate::unpack::{BATCH, MEMORY};
use crate::{Amount, Known, Observer, Unpacked, Unpacker};

/// How many layers are fetched at a time.
const AT_ONCE: usize = 3;
/// How many layers may be on their way or wait: each keeps a few descriptors open.
const WINDOW: usize = 64;
/// How often a damaged blob is fetched.
const TRIES: u32 = 3;
/// How long is deleted what waited when a pull failed; the rest is left to the trash.
const CLEANING: Duration = Duration::from_secs(1);
/// The least time between two words about one layer.
const PAUSE: Duration = Duration::from_millis(100);

/// Layers to be fetched.
pub(super) struct Fetch<'a> {
    pub(super) client: &'a Client,
    pub(super) repository: &'a Repository,
    pub(super) unpacker: Unpacker<'a>,
    pub(super) observer: &'a dyn Observer,
    /// Lowest first; what they stand on is in the store or before them.
    pub(super) layers: &'a [Wanted],
}

#[derive(Default)]
struct State<'a> {
    /// The next one to be fetched.
    next: usize,
    /// How many are being fetched.
    running: usize,
    /// How many are committed: all below this one.
    committed: usize,
    committing: bool,
    unpacked: BTreeMap<usize, Unpacked<'a>>,
    failed: Option<Error>,
}

/// What a thread does next.
enum Job<'a> {
    Fetch(usize),
    Commit(Vec<Unpacked<'a>>),
    Wait,
    Leave,
}

impl<'a> Fetch<'a> {
    /// Fetches and commits them all.
    pub(super) fn run(&self) -> Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        for (n, layer) in self.layers.iter().enumerate() {
            self.observer.step(layer.item(), if n < AT_ONCE { "Pulling fs layer" } else { "Waiting" }, None);
        }
        let state = Mutex::new(State::default());
        let (changed, stop) = (Condvar::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            // One more than fetch at a time: it commits.
            for _ in 0..self.layers.len().min(AT_ONCE + 1) {
                let work = || self.work(&state, &changed, &stop);
                if let Err(error) = std::thread::Builder::new().name("pull".into()).spawn_scoped(scope, work)
                {
                    let error = Error::new(Kind::of_io(&error), "cannot start a thread").because(error);
                    fail(&mut lock(&state), &stop, error);
                    changed.notify_all();
                }
            }
        });
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        // However many there are, a user who pressed Ctrl-C does not wait for long.
        let cleaning = Instant::now();
        for layer in state.unpacked.into_values() {
            layer.discard(CLEANING.saturating_sub(cleaning.elapsed()));
        }
        match state.failed {
            Some(error) => Err(error),
            None if state.committed == self.layers.len() => Ok(()),
            None => Err(Error::new(Kind::Internal, "a thread that fetches layers stopped")),
        }
    }

    fn work(&self, shared: &Mutex<State<'a>>, changed: &Condvar, stop: &AtomicBool) {
        let mut state = lock(shared);
        loop {
            match self.choose(&mut state) {
                Job::Leave => return,
                Job::Wait => state = changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Job::Fetch(n) => {
                    drop(state);
                    let fetched = self.fetch(&self.layers[n], stop);
                    state = lock(shared);
                    state.running -= 1;
                    match fetched {
                        Ok(layer) => drop(state.unpacked.insert(n, layer)),
                        Err(error) => fail(&mut state, stop, error),
                    }
                    changed.notify_all();
                }
                Job::Commit(layers) => {
                    drop(state);
                    let count = layers.len();
                    let done = self.unpacker.commit(layers);
                    state = lock(shared);
                    state.committing = false;
                    match done {
                        Ok(()) => {
                            for layer in &self.layers[state.committed..state.committed + count] {
                                self.observer.step(layer.item(), "Pull complete", None);
                            }
                            state.committed += count;
                        }
                        Err(error) => fail(&mut state, stop, error),
                    }
                    changed.notify_all();
                }
            }
        }
    }

    fn choose(&self, state: &mut State<'a>) -> Job<'a> {
        if state.failed.is_some() || state.committed == self.layers.len() {
            return Job::Leave;
        }
        if !state.committing
            && let Some(layers) = self.due(state)
        {
            state.committing = true;
            return Job::Commit(layers);
        }
        // Those that are on their way end, and what waits is then committed.
        let memory: usize = state.unpacked.values().map(Unpacked::memory).sum();
        let room = state.next < self.layers.len().min(state.committed + WINDOW) && memory < MEMORY;
        if room && state.running < AT_ONCE {
            state.next += 1;
            state.running += 1;
            return Job::Fetch(state.next - 1);
        }
        Job::Wait
    }

    /// The unpacked layers that are to be committed now.
    fn due(&self, state: &mut State<'a>) -> Option<Vec<Unpacked<'a>>> {
        let mut end = state.committed;
        let (mut bytes, mut memory) = (0, 0);
        while let Some(layer) = state.unpacked.get(&end) {
            bytes += layer.applied.content_size;
            memory += layer.memory();
            end += 1;
        }
        let due =
            end == self.layers.len() || end - state.committed == WINDOW || bytes >= BATCH || memory >= MEMORY;
        if end == state.committed || !due {
            return None;
        }
        (state.committed..end).map(|n| state.unpacked.remove(&n)).collect()
    }

    /// Fetches and unpacks one layer, again and from elsewhere if the blob was damaged.
    fn fetch(&self, layer: &Wanted, stop: &AtomicBool) -> Result<Unpacked<'a>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut reader = Watched {
                blob: self.client.blob(self.repository, &layer.blob, 0)?,
                stop,
                observer: self.observer,
                layer,
                said: None,
                ended: false,
            };
            let known = Known { blob: Some(&layer.blob), diff_id: Some(&layer.diff_id) };
            let failure = match self.unpacker.unpack(&mut reader, known) {
                Ok(mut unpacked) => {
                    unpacked.parent.clone_from(&layer.parent);
                    let repository = self.repository.to_string();
                    unpacked.sources = vec![LayerSource { descriptor: layer.blob.clone(), repository }];
                    return Ok(unpacked);
                }
                Err(failure) => failure,
            };
            if stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            let host = reader.blob.served_by();
            if failure.damaged_blob && tries < TRIES {
                self.client.distrust(self.repository, host);
                continue;
            }
            return Err(self.explain(failure.error, layer, failure.damaged_blob.then_some(host)));
        }
    }

    fn explain(&self, error: Error, layer: &Wanted, damaged_by: Option<&str>) -> Error {
        let name = layer.item();
        if let Some(host) = damaged_by {
            return error.within(format!("registry `{host}` serves a damaged layer `{name}`"));
        }
        if error.kind() == Kind::NoSpace {
            let store = self.unpacker.store();
            let left = store.space().map_or_else(
                |_| String::new(),
                |space| format!(", {} bytes and {} inodes are free", space.available, space.inodes),
            );
            let (size, path) = (layer.blob.size, store.path().display());
            return error
                .within(format!("no space for layer `{name}` ({size} bytes, compressed) in `{path}`{left}"));
        }
        error.within(format!("cannot unpack layer `{name}`"))
    }
}

fn lock<'m, 'a>(state: &'m Mutex<State<'a>>) -> MutexGuard<'m, State<'a>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the first failure: those that follow are only consequences.
fn fail(state: &mut State<'_>, stop: &AtomicBool, error: Error) {
    stop.store(true, Ordering::Relaxed);
    state.failed.get_or_insert(error);
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "another layer failed")
}

/// Says how far a blob is, and ends when another layer has failed.
struct Watched<'a> {
    blob: BlobReader,
    stop: &'a AtomicBool,
    observer: &'a dyn Observer,
    layer: &'a Wanted,
    said: Option<Instant>,
    ended: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(stopped()));
        }
        let n = self.blob.read(buffer)?;
        let amount = Amount { done: self.blob.position(), total: self.layer.blob.size };
        if n == 0 && !buffer.is_empty() {
            if !std::mem::replace(&mut self.ended, true) {
                self.observer.step(self.layer.item(), "Download complete", None);
                self.observer.step(self.layer.item(), "Extracting", Some(amount));
            }
        } else if self.said.is_none_or(|said| said.elapsed() >= PAUSE) {
            self.said = Some(Instant::now());
            self.observer.step(self.layer.item(), "Downloading", Some(amount));
        }
        Ok(n)
    }
}
