//! `DiskUsage` and `Prune`: what builds keep.

use std::time::Duration;

use jiff::Timestamp as Moment;
use robot_env_build::{CacheMount, CachedStep, Kept, PruneKept, cache_mounts, cached_steps};
use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_engine::Engine;

use super::grpc::{Incoming, Status};
use super::messages::Timestamp;
use super::messages::control::{DiskUsageRequest, DiskUsageResponse, PruneRequest, UsageRecord};
use super::place;
use crate::server::Server;

fn record(step: &CachedStep) -> UsageRecord {
    let made = step.created.parse::<Moment>().ok();
    UsageRecord {
        id: step.id(),
        size: step.bytes as i64,
        created: made.map(|made| Timestamp { seconds: made.as_second(), nanos: made.subsec_nanosecond() }),
        last_used: Some(Timestamp { seconds: step.used as i64, nanos: 0 }),
        description: step.description.clone(),
        kind: "regular".to_owned(),
        shared: step.shared,
        ..UsageRecord::default()
    }
}

/// The cache of a `RUN --mount=type=cache`.
fn mount_record(mount: &CacheMount) -> UsageRecord {
    UsageRecord {
        id: mount.id_in_lists(),
        size: mount.bytes as i64,
        last_used: Some(Timestamp { seconds: mount.used as i64, nanos: 0 }),
        description: format!("cached mount {}", mount.id),
        kind: "exec.cachemount".to_owned(),
        mutable: true,
        in_use: mount.in_use,
        ..UsageRecord::default()
    }
}

/// Everything that builds keep to be faster the next time.
fn records(engine: &Engine) -> EngineResult<Vec<UsageRecord>> {
    let steps = cached_steps(engine.store())?;
    let mounts = cache_mounts(engine)?;
    Ok(steps.iter().map(record).chain(mounts.iter().map(mount_record)).collect())
}

fn unfiltered(filters: &[String]) -> EngineResult<()> {
    match filters.iter().find(|filter| !filter.is_empty()) {
        None => Ok(()),
        Some(filter) => {
            Err(Error::new(Kind::Unsupported, format!("what builds keep cannot be filtered by `{filter}`")))
        }
    }
}

/// `DiskUsage`
pub(super) async fn disk_usage(server: &'static Server, mut call: Incoming) {
    let found = async {
        let request = call.question::<DiskUsageRequest>().await?;
        let records = server.blocking_error(move |engine| {
            unfiltered(&request.filters)?;
            records(engine)
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

fn removed(engine: &Engine, request: &PruneRequest) -> EngineResult<Vec<UsageRecord>> {
    unfiltered(&request.filters)?;
    if request.min_free_space > 0 {
        return Err(Error::new(Kind::Unsupported, "cannot prune until so much of the disk is free"));
    }
    let unused = Duration::from_nanos(request.keep_duration.max(0) as u64);
    let keep = request.reserved_space.max(request.max_used_space).max(0) as u64;
    let before = Moment::now().as_second() - unused.as_secs() as i64;
    let filter = |kept: &Kept| kept.used as i64 <= before;
    // Afterwards nobody knows what they were.
    let mut gone = records(engine)?;
    let options = PruneKept { all: request.all, keep: Some(keep).filter(|keep| *keep > 0), filter: &filter };
    let pruned = robot_env_build::prune(engine, &options)?;
    gone.retain(|record| pruned.ids.contains(&record.id));
    if keep == 0 {
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
