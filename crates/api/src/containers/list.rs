//! `GET /containers/json` and `POST /containers/prune`.

use jiff::Timestamp;
use robot_env_diag::Result as EngineResult;
use robot_env_wire::{CONTAINER_FILTERS, ContainerFilter, ContainerSummary, labels_of};
use serde_json::json;

use crate::failure::Result;
use crate::filters;
use crate::http::Reply;
use crate::routes::Call;

/// `GET /containers/json`
pub(crate) async fn list(call: &Call<'_, '_>) -> Result<Reply> {
    let query = &call.query;
    let filters = filters::of(query, CONTAINER_FILTERS)?;
    let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let since_or_before = query.text("since").is_some() || query.text("before").is_some();
    let all = query.truth("all") || limit.is_some() || since_or_before;
    let sizes = query.truth("size");
    let summaries = call.server.blocking(move |engine| {
        let filter = ContainerFilter::new(engine, filters)?;
        let published = engine.published_ports()?;
        let found = engine.containers()?.into_iter().filter(|container| {
            let ports = published.get(container.record.id.as_str()).map_or(&[][..], Vec::as_slice);
            (all || filter.wants_all() || container.state.state.is_active()) && filter.takes(container, ports)
        });
        let now = Timestamp::now();
        found
            .take(limit.unwrap_or(usize::MAX))
            .map(|container| {
                let sizes = if sizes { Some(engine.sizes(&container)?) } else { None };
                Ok(ContainerSummary::new(&container, &engine.places(&container)?, sizes, now))
            })
            .collect::<EngineResult<Vec<_>>>()
    });
    Ok(Reply::json(200, &summaries.await?))
}

/// `POST /containers/prune`
pub(crate) async fn prune(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, &["label", "label!", "until"])?;
    let until = filters::until(&filters, Timestamp::now())?;
    let pruned = call.server.blocking(move |engine| {
        engine.prune_containers(|container| {
            filters.labels(&labels_of(container))
                && until.is_none_or(|until| container.record.created < until)
        })
    });
    let pruned = pruned.await?;
    call.server.empty_trash_later();
    let names = (!pruned.names.is_empty()).then_some(pruned.names);
    Ok(Reply::json(200, &json!({ "ContainersDeleted": names, "SpaceReclaimed": pruned.bytes })))
}
