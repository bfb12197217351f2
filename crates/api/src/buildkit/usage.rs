//! `DiskUsage` and `Prune`: what builds keep.

use std::time::Duration;

use jiff::Timestamp as Moment;
use robot_env_build::{CachedStep, cached_steps};
use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_engine::Engine;
use robot_env_store::CollectOptions;

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
            Ok(cached_steps(engine.store())?.iter().map(record).collect())
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
    let unused = Duration::from_nanos(request.keep_duration.max(0) as u64);
    let keep = request.reserved_space.max(request.max_used_space).max(0) as u64;
    let store = engine.store();
    let before = Moment::now().as_second() - unused.as_secs() as i64;
    let all = cached_steps(store)?;
    let mut bytes: u64 = all.iter().map(|step| step.bytes).sum();
    let mut gone = Vec::new();
    // Those that were used longest ago come first.
    for step in all {
        if step.used as i64 <= before && (keep == 0 || bytes > keep) && store.remove_cached(&step.key)? {
            bytes = bytes.saturating_sub(step.bytes);
            gone.push(record(&step));
        }
    }
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
    store.collect(&CollectOptions::default())?;
    Ok(gone)
}
