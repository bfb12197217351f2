//! `GET /containers/json` and `POST /containers/prune`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_engine::record::State;
use robot_env_engine::{Container, Engine};
use robot_env_wire::{ContainerSummary, mode_word};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::filters::Filters;
use crate::http::Reply;
use crate::routes::Call;

/// The keys of a list's filters.
const KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

/// What filters need to know beside a container itself.
#[derive(Clone, Debug, Default)]
struct Facts {
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Vec<String>,
}

/// `GET /containers/json`
pub(crate) async fn list(call: &Call<'_, '_>) -> Result<Reply> {
    let query = &call.query;
    let filters = Filters::of(query, KEYS)?;
    check(&filters)?;
    let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let since_or_before = query.text("since").is_some() || query.text("before").is_some();
    let all = query.truth("all")
        || limit.is_some()
        || since_or_before
        || ["status", "exited", "before", "since"].iter().any(|key| filters.has(key));
    let sizes = query.truth("size");
    let summaries = call.server.blocking(move |engine| {
        let facts = facts(engine, &filters)?;
        let found = engine.containers()?.into_iter().filter(|container| {
            (all || container.state.state.is_active()) && matches(container, &filters, &facts)
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
    let filters = Filters::of(&call.query, &["label", "label!", "until"])?;
    let until = filters.until(Timestamp::now())?;
    let pruned = call.server.blocking(move |engine| {
        engine.prune_containers(|container| {
            filters.labels(&labels(container)) && until.is_none_or(|until| container.record.created < until)
        })
    });
    let pruned = pruned.await?;
    call.server.empty_trash_later();
    let names = (!pruned.names.is_empty()).then_some(pruned.names);
    Ok(Reply::json(200, &json!({ "ContainersDeleted": names, "SpaceReclaimed": pruned.bytes })))
}

/// Checks the values of filters whose words are fixed.
fn check(filters: &Filters) -> Result<()> {
    let wrong = |key: &str, value: &str| Failure::new(400, format!("invalid filter '{key}={value}'"));
    for value in filters.values("status") {
        if !STATES.contains(&value.as_str()) {
            return Err(wrong("status", value));
        }
    }
    for value in filters.values("health") {
        if !matches!(value.as_str(), "starting" | "healthy" | "unhealthy" | "none") {
            return Err(wrong("health", value));
        }
    }
    for value in filters.values("exited") {
        value.parse::<i32>().map_err(|_| wrong("exited", value))?;
    }
    filters.truth("is-task").map(drop)
}

fn facts(engine: &Engine, filters: &Filters) -> EngineResult<Facts> {
    let created = |key: &str| -> EngineResult<_> {
        let last = filters.values(key).last();
        last.map(|text| Ok(engine.container(text)?.record.created)).transpose()
    };
    let mut ancestors = Vec::new();
    for text in filters.values("ancestor") {
        match engine.store().resolve(text) {
            Ok(image) => ancestors.push(image.id.to_string()),
            // No image, no container of it.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => {
                return Err(Error::invalid(format!("invalid filter 'ancestor={text}'")).because(error));
            }
        }
    }
    Ok(Facts { before: created("before")?, since: created("since")?, ancestors })
}

/// The labels of the image with the container's own on top.
fn labels(container: &Container) -> BTreeMap<String, String> {
    let mut labels = container.record.image_config.labels.clone();
    labels.extend(container.record.spec.labels.clone());
    labels
}

fn matches(container: &Container, filters: &Filters, facts: &Facts) -> bool {
    let record = &container.record;
    let state = &container.state.state;
    let slashed = format!("/{}", record.name);
    let health = container.state.health.as_ref().map_or("none", |health| health.status.as_str());
    let mut networks: Vec<String> = record.spec.places().into_iter().map(|place| place.network).collect();
    if networks.is_empty() {
        networks.push(mode_word(&record.spec.network));
    }
    let port = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    let exposed: Vec<String> =
        record.image_config.exposed_ports.keys().chain(&record.spec.expose).map(|key| port(key)).collect();
    let published: Vec<String> = record.spec.publish.iter().map(|port| port.port.to_string()).collect();
    filters.any("id", |value| record.id.as_str().starts_with(value))
        && filters.any_pattern("name", &[&record.name, &slashed])
        && filters.labels(&labels(container))
        && filters.any("status", |value| value == state.word())
        && filters.any("exited", |value| {
            matches!(state, State::Exited { .. }) && value.parse() == Ok(state.exit_code())
        })
        && filters.any("health", |value| value == health)
        && filters.any("network", |value| networks.iter().any(|network| network == value))
        && filters.any("volume", |value| {
            record.mounts.iter().any(|mount| {
                mount.volume.as_deref() == Some(value) || mount.target == value || mount.source == value
            })
        })
        && filters.any("expose", |value| exposed.contains(&port(value)))
        && filters.any("publish", |value| published.contains(&port(value)))
        && !filters.truth("is-task").ok().flatten().unwrap_or(false)
        && (!filters.has("ancestor") || facts.ancestors.iter().any(|id| *id == record.image.to_string()))
        && facts.before.is_none_or(|when| record.created < when)
        && facts.since.is_none_or(|when| record.created > when)
}
