//! `DiskUsage` and `Prune`: what builds keep.

use std::time::Duration;

use jiff::Timestamp as Moment;
use robot_env_build::{Kept, PruneKept, kept};
use robot_env_diag::{IoContext, Result as EngineResult};
use robot_env_engine::Engine;

use super::grpc::{Incoming, Status};
use super::messages::Timestamp;
use super::messages::control::{DiskUsageRequest, DiskUsageResponse, PruneRequest, UsageRecord};
use super::place;
use super::selection::{MOUNT, Selection};
use crate::server::Server;

fn record(kept: &Kept) -> UsageRecord {
    let made = kept.created.as_ref().and_then(|created| created.parse::<Moment>().ok());
    UsageRecord {
        id: kept.id.clone(),
        size: kept.bytes as i64,
        created: made.map(|made| Timestamp { seconds: made.as_second(), nanos: made.subsec_nanosecond() }),
        last_used: Some(Timestamp { seconds: kept.used as i64, nanos: 0 }),
        description: kept.description.clone(),
        kind: kept.kind.to_owned(),
        mutable: kept.kind == MOUNT,
        shared: kept.shared,
        in_use: kept.in_use,
        ..UsageRecord::default()
    }
}

/// Whether it was not used for so many nanoseconds; with 0 everything.
fn unused_for(nanoseconds: i64) -> impl Fn(&Kept) -> bool {
    let before = Moment::now().as_second() - nanoseconds.max(0) / 1_000_000_000;
    move |kept| nanoseconds <= 0 || kept.used as i64 <= before
}

/// `DiskUsage`
pub(super) async fn disk_usage(server: &'static Server, mut call: Incoming) {
    let found = async {
        let request = call.question::<DiskUsageRequest>().await?;
        let records = server.blocking_error(move |engine| {
            let selection = Selection::parse(&request.filters)?;
            let old = unused_for(request.age_limit);
            let all = kept(engine)?;
            Ok(all.iter().filter(|kept| selection.has(kept) && old(kept)).map(record).collect())
        });
        Ok::<_, Status>(DiskUsageResponse { records: records.await? })
    };
    let found = found.await;
    call.answer.whole(found).await;
}

/// `Prune`: tells what it has removed.
pub(super) async fn prune(server: &'static Server, mut call: Incoming) {
    let done = async {
        let request = call.question::<PruneRequest>().await?;
        Ok::<_, Status>(server.blocking_error(move |engine| removed(engine, &request)).await?)
    };
    let gone = match done.await {
        Ok(gone) => gone,
        Err(status) => return call.answer.end(Err(status)),
    };
    server.empty_trash_later();
    for record in gone {
        if call.answer.send(&record).await.is_err() {
            return;
        }
    }
    call.answer.end(Ok(()));
}

/// How many bytes of what builds keep stay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    /// So many at least.
    pub(crate) reserved: u64,
    /// So many at most; 0: any number.
    pub(crate) most: u64,
    /// So many that so many are free on the disk; 0: any number.
    pub(crate) free: u64,
}

impl Space {
    /// The bytes that stay; `None`: nothing has to.
    pub(crate) fn keep(self, engine: &Engine) -> EngineResult<Option<u64>> {
        if self.free == 0 {
            return Ok(self.reckon(0, 0));
        }
        let place = engine.paths().root();
        let found = rustix::fs::statvfs(place)
            .map_err(std::io::Error::from)
            .io_context(|| format!("cannot look at the space of `{}`", place.display()))?;
        let total = kept(engine)?.iter().map(|kept| kept.bytes).sum();
        Ok(self.reckon(total, found.f_bavail.saturating_mul(found.f_frsize)))
    }

    /// As BuildKit reckons it, of the bytes that there are and those that are free on the disk.
    fn reckon(self, total: u64, free: u64) -> Option<u64> {
        let most = match self.free.saturating_sub(free) {
            0 if self.free > 0 && self.most == 0 => total,
            0 => self.most,
            missing => {
                // More may be missing than there is, and 0 would mean that nothing has to stay.
                let left = total.saturating_sub(missing).max(1);
                if self.most == 0 { left } else { self.most.min(left) }
            }
        };
        Some(most.max(self.reserved)).filter(|bytes| *bytes > 0)
    }
}

fn removed(engine: &Engine, request: &PruneRequest) -> EngineResult<Vec<UsageRecord>> {
    let selection = Selection::parse(&request.filters)?;
    let old = unused_for(request.keep_duration);
    let number = |value: i64| value.max(0) as u64;
    let space = Space {
        reserved: number(request.reserved_space),
        most: number(request.max_used_space),
        free: number(request.min_free_space),
    };
    let keep = space.keep(engine)?;
    let filter = |kept: &Kept| selection.has(kept) && old(kept);
    let options = PruneKept { all: request.all, keep, filter: &filter };
    let pruned = robot_env_build::prune(engine, &options)?;
    let mut gone: Vec<UsageRecord> = pruned.gone.iter().map(record).collect();
    if keep.is_none() && request.filters.iter().all(String::is_empty) {
        let unused = Duration::from_nanos(request.keep_duration.max(0) as u64);
        let size = place::sweep(engine, unused);
        if size > 0 {
            gone.push(UsageRecord {
                id: "contexts".to_owned(),
                size: size as i64,
                description: "what clients have sent".to_owned(),
                kind: "source.local".to_owned(),
                ..UsageRecord::default()
            });
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_reckoned_as_buildkit_does() {
        for ((reserved, most, free), there, want) in [
            ((0, 0, 0), 10, None),
            ((5, 0, 0), 10, Some(5)),
            ((0, 7, 0), 10, Some(7)),
            ((5, 3, 0), 10, Some(5)),
            // Enough is free: nothing goes.
            ((0, 0, 8), 10, Some(100)),
            ((0, 0, 30), 10, Some(80)),
            ((0, 50, 30), 10, Some(50)),
            ((0, 90, 30), 10, Some(80)),
            ((0, 0, 500), 10, Some(1)),
            ((40, 0, 500), 10, Some(40)),
        ] {
            let space = Space { reserved, most, free };
            assert_eq!(space.reckon(100, there), want, "{space:?}");
        }
    }
}
