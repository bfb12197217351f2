//! `DiskUsage` and `Prune`: what builds keep.

use std::time::Duration;

use jiff::Timestamp as Moment;
use robot_env_build::{Kept, PruneKept, kept};
use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_engine::Engine;

use super::grpc::{Incoming, Status};
use super::messages::Timestamp;
use super::messages::control::{DiskUsageRequest, DiskUsageResponse, PruneRequest, UsageRecord};
use super::place;
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
        mutable: kept.kind == "exec.cachemount",
        shared: kept.shared,
        in_use: kept.in_use,
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
            Ok(kept(engine)?.iter().map(record).collect())
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
    let options = PruneKept { all: request.all, keep: Some(keep).filter(|keep| *keep > 0), filter: &filter };
    let pruned = robot_env_build::prune(engine, &options)?;
    let mut gone: Vec<UsageRecord> = pruned.gone.iter().map(record).collect();
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
