//! A step: its key, what the cache has for it, and how its layer is made.

use std::cell::{Cell, RefCell};
use std::os::fd::BorrowedFd;
use std::sync::PoisonError;
use std::time::Instant;

use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::stream::Stream;
use robot_env_oci::{ChainId, Digest};
use robot_env_store::CacheRecord;
use serde::Serialize;

use crate::copying::Target;
use crate::request::Place;
use crate::solve::Build;
use crate::state::State;

/// How much of a step's last output is kept for the case that it fails, in bytes.
const TAIL: usize = 8 * 1024;

/// How a step is shown, and whether its cache counts.
pub(crate) struct Shown {
    pub(crate) label: String,
    pub(crate) cache: bool,
    /// The number of its stage.
    pub(crate) stage: usize,
    pub(crate) place: Place,
    /// Its number, once it has begun.
    pub(crate) step: Cell<Option<usize>>,
    /// The end of what it has printed.
    pub(crate) tail: RefCell<Vec<u8>>,
}

/// The root file system of a step, mounted.
pub(crate) struct Mounted<'r> {
    pub(crate) root: BorrowedFd<'r>,
    pub(crate) target: Target<'r>,
}

impl Build<'_> {
    pub(crate) fn begin(&self, shown: &Shown) -> usize {
        let mut heard = self.heard();
        heard.steps += 1;
        let step = heard.steps;
        heard.observer.begin(step, &shown.label);
        heard.observer.place(step, &shown.place);
        shown.step.set(Some(step));
        step
    }

    pub(crate) fn output(&self, step: usize, shown: &Shown, stream: Stream, bytes: &[u8]) {
        let mut tail = shown.tail.borrow_mut();
        tail.extend_from_slice(bytes);
        if tail.len() > 2 * TAIL {
            let surplus = tail.len() - TAIL;
            tail.drain(..surplus);
        }
        self.heard().observer.output(step, stream, bytes);
    }

    /// Tells how a step ended that goes from the layers `below` to those in `result`.
    pub(crate) fn ended(
        &self,
        step: usize,
        begun: Instant,
        below: Option<&ChainId>,
        result: Result<Option<ChainId>>,
    ) -> Result<Option<ChainId>> {
        let size = match &result {
            Ok(Some(chain)) if Some(chain) != below => {
                self.store().layer(chain)?.map(|layer| layer.content_size)
            }
            _ => None,
        };
        let mut heard = self.heard();
        match &result {
            Ok(_) => {
                if let Some(size) = size {
                    heard.observer.layer(step, size);
                }
                heard.observer.done(step, begun.elapsed());
            }
            Err(_) => heard.observer.failed(step),
        }
        result
    }

    /// The key of a step on top of some layers.
    pub(crate) fn key(chain: Option<&ChainId>, what: &impl Serialize) -> Result<Digest> {
        let text = serde_json::to_vec(&("robot-env 1", chain, what))
            .map_err(|error| Error::new(Kind::Internal, "cannot make a cache key").because(error))?;
        Ok(Digest::of(&text))
    }

    /// What is there for a step: of the cache, or made by another stage of this build.
    pub(crate) fn recall(
        &self,
        state: &mut State,
        shown: &Shown,
        key: &Digest,
        history: &str,
    ) -> Result<bool> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let found = match made {
            Some(record) => Some(record),
            None if shown.cache => self.session.cached(self.store(), key)?,
            None => None,
        };
        let Some(record) = found else { return Ok(false) };
        let step = self.begin(shown);
        self.heard().observer.cached(step);
        state.stand_on(record.chain, shown.place.line);
        state.created = record.created;
        state.note(history.to_owned(), record.layer);
        Ok(true)
    }

    /// Remembers a step.
    pub(crate) fn remember(
        &self,
        state: &mut State,
        shown: &Shown,
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
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), record);
        state.stand_on(chain, shown.place.line);
        state.note(history, layer);
        Ok(())
    }

    /// A step that writes files itself: from the cache, or `write` is called with the mounted root.
    pub(crate) fn layer(
        &self,
        state: &mut State,
        shown: &Shown,
        what: &impl Serialize,
        history: String,
        write: &mut dyn FnMut(&mut Mounted<'_>) -> Result<()>,
    ) -> Result<()> {
        let key = Self::key(state.chain.as_ref(), what)?;
        let _turn = self.schedule.turn(&key)?;
        if self.recall(state, shown, &key, &history)? {
            return Ok(());
        }
        self.cancel.check()?;
        let step = self.begin(shown);
        let begun = Instant::now();
        let result = self.written(state.chain.as_ref(), write);
        let chain = self.ended(step, begun, state.chain.as_ref(), result)?;
        self.remember(state, shown, &key, chain, history)
    }

    pub(crate) fn written(
        &self,
        chain: Option<&ChainId>,
        write: &mut dyn FnMut(&mut Mounted<'_>) -> Result<()>,
    ) -> Result<Option<ChainId>> {
        self.room.write_layer(self.store(), chain, write, |_| Ok(()))
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
}
