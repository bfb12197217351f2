//! `COPY --link` and `ADD --link`: a layer that depends on nothing below it, so that it stays in the
//! cache when its base changes, and that follows no link of the base.
//!
//! It is made once on top of nothing; on top of other layers it is a copy of that one. Its own key has
//! no chain in it.

use std::time::Instant;

use robot_env_diag::Result;
use robot_env_oci::ChainId;
use robot_env_store::CacheRecord;
use robot_env_transfer::{Unpacker, copy_layer, ownership};
use serde::Serialize;

use crate::solve::Build;
use crate::state::State;
use crate::step::{Mounted, Shown};

impl Build<'_> {
    /// Like [`Build::layer`], linked.
    pub(crate) fn linked(
        &self,
        state: &mut State,
        shown: &Shown,
        what: &impl Serialize,
        history: String,
        write: &mut dyn FnMut(&mut Mounted<'_>) -> Result<()>,
    ) -> Result<()> {
        let key = Self::key(state.chain.as_ref(), &("link", what))?;
        let _turn = self.schedule.turn(&key)?;
        if self.recall(state, shown, &key, &history)? {
            return Ok(());
        }
        let own = Self::key(None, &("link alone", what))?;
        let _own_turn = self.schedule.turn(&own)?;
        let known = if shown.cache { self.session.cached(self.store(), &own)? } else { None };
        self.cancel.check()?;
        let step = self.begin(shown);
        let begun = Instant::now();
        let found = known.is_some();
        let made = match known {
            Some(record) => Ok(record.chain),
            None => self.written(None, write),
        };
        let unpacker = Unpacker::new(self.store(), ownership());
        let below = state.chain.clone();
        let mut alone = None;
        let made = made.and_then(|made| {
            alone = made;
            let on_top = |layer: &ChainId| copy_layer(&unpacker, layer, below.as_ref());
            let chain = alone.as_ref().map(on_top).transpose()?;
            Ok(chain.or_else(|| below.clone()))
        });
        if found && made.is_ok() {
            self.heard().observer.cached(step);
            return self.remember(state, shown, &key, made?, history);
        }
        let chain = self.ended(step, begun, below.as_ref(), made)?;
        let record = CacheRecord {
            layer: alone.is_some(),
            chain: alone,
            description: history.clone(),
            created: self.now(),
            used: 0,
        };
        self.store().put_cached(&own, &record)?;
        self.session.note(&own, &record);
        self.remember(state, shown, &key, chain, history)
    }
}
