//! Which containers and events filters let through, by Docker's rules.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::record::State;
use robot_env_engine::{Container, Engine, Event};
use robot_env_network::firewall::Port;
use robot_env_spec::NetworkMode;

use crate::{Filters, mode_word};

/// The keys of the filters of containers.
pub const CONTAINER_FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
];

/// The keys of the filters of events.
pub const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "label!",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// Filters of containers, with what they need to know beside a container itself.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    filters: Filters,
    /// When the containers of `before` and `since` were created.
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    /// The ids of the images that each `ancestor` stands for.
    ancestors: Vec<String>,
}

impl ContainerFilter {
    /// Checks the values, and looks up what they name.
    ///
    /// # Errors
    /// A value that its key does not have; a container that is not there.
    pub fn new(engine: &Engine, filters: Filters) -> Result<ContainerFilter> {
        check(&filters)?;
        let created = |key: &str| -> Result<_> {
            let last = filters.values(key).next_back();
            last.map(|text| Ok(engine.container(text)?.record.created)).transpose()
        };
        let (before, since) = (created("before")?, created("since")?);
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
        Ok(ContainerFilter { filters, before, since, ancestors })
    }

    /// Whether they ask for containers that do not run, although nobody said `all`.
    pub fn wants_all(&self) -> bool {
        ["status", "exited", "before", "since"].iter().any(|key| self.filters.has(key))
    }

    /// Whether a container passes. `ports` are its published ones.
    pub fn takes(&self, container: &Container, ports: &[Port]) -> bool {
        let (record, state, filters) = (&container.record, &container.state.state, &self.filters);
        let slashed = format!("/{}", record.name);
        filters.any_pattern("id", &[record.id.as_str()])
            && filters.any_pattern("name", &[&record.name, &slashed])
            && filters.labels(&labels_of(container))
            && filters.any("status", |value| value == state.word())
            && filters.any("exited", |value| {
                matches!(state, State::Exited { .. }) && value.parse() == Ok(state.exit_code())
            })
            && filters.any("health", |value| value == health_of(container))
            && filters.any("network", |value| networks_of(container).iter().any(|name| name == value))
            && filters.any("volume", |value| {
                record.mounts.iter().any(|mount| {
                    mount.volume.as_deref() == Some(value) || mount.target == value || mount.source == value
                })
            })
            && filters.any("expose", |value| {
                let exposed = record.image_config.exposed_ports.keys().chain(&record.spec.expose);
                let split = exposed.filter_map(|text| text.split_once('/'));
                names_port(value, split.filter_map(|(port, protocol)| Some((port.parse().ok()?, protocol))))
            })
            && filters.any("publish", |value| {
                names_port(value, ports.iter().map(|port| (port.host_port, port.protocol.name())))
            })
            // Nothing is a task.
            && !filters.truth("is-task").ok().flatten().unwrap_or(false)
            && (!filters.has("ancestor") || self.ancestors.iter().any(|id| *id == record.image.to_string()))
            && self.before.is_none_or(|when| record.created < when)
            && self.since.is_none_or(|when| record.created > when)
    }
}

/// Checks the values of filters whose words are fixed.
fn check(filters: &Filters) -> Result<()> {
    for (key, words) in [("status", &STATES[..]), ("health", &HEALTHS)] {
        if let Some(value) = filters.values(key).find(|value| !words.contains(value)) {
            return Err(Error::invalid(format!("invalid filter '{key}={value}'"))
                .with_hint(format!("the words are {}", words.join(", "))));
        }
    }
    if let Some(value) = filters.values("exited").find(|value| value.parse::<i32>().is_err()) {
        return Err(Error::invalid(format!("invalid filter 'exited={value}'")));
    }
    filters.truth("is-task").map(drop)
}

/// The labels of the image with the container's own on top.
pub fn labels_of(container: &Container) -> BTreeMap<String, String> {
    let mut labels = container.record.image_config.labels.clone();
    labels.extend(container.record.spec.labels.clone());
    labels
}

/// A container's networks by name: `host` and `none` are among them.
pub fn networks_of(container: &Container) -> Vec<String> {
    let spec = &container.record.spec;
    let places: Vec<String> = spec.places().into_iter().map(|place| place.network).collect();
    match &spec.network {
        NetworkMode::Container(_) => Vec::new(),
        mode if places.is_empty() => vec![mode_word(mode)],
        _ => places,
    }
}

fn health_of(container: &Container) -> &'static str {
    container.state.health.as_ref().map_or("none", |health| health.status.as_str())
}

/// Whether a filter such as `80`, `80-90/udp` names one of these ports.
fn names_port<'a>(value: &str, mut ports: impl Iterator<Item = (u16, &'a str)>) -> bool {
    let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { return false };
    ports.any(|(port, of)| (first..=last).contains(&port) && of == protocol)
}

/// Whether an event passes: the values of a key are alternatives, labels add up; what it happened to
/// may be named by the beginning of its id or name.
pub fn takes_event(filters: &Filters, event: &Event) -> bool {
    let attribute = |key: &str| event.attributes.get(key).map_or("", String::as_str);
    let action = event.action.split(':').next().unwrap_or_default();
    let of_kind = |kind: &str| {
        filters.any(kind, |value| {
            let value = if kind == "container" { value.trim_start_matches('/') } else { value };
            event.kind == kind && (event.id.starts_with(value) || attribute("name").starts_with(value))
        })
    };
    let image = if event.kind == "image" { attribute("name") } else { attribute("image") };
    filters.any("type", |value| value == event.kind)
        && filters.any("scope", |value| value == "local")
        && filters.any("event", |value| value == event.action || value == action)
        && filters.labels(&event.attributes)
        && ["container", "volume", "network", "plugin", "daemon", "config", "node", "secret", "service"]
            .into_iter()
            .all(of_kind)
        && filters.any("image", |value| {
            let id = event.id.strip_prefix("sha256:").unwrap_or(&event.id);
            value == event.id
                || value == image
                || repository(image) == value
                || (event.kind == "image" && value.len() >= 12 && id.starts_with(value))
        })
}

/// A name without its tag.
fn repository(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests;
