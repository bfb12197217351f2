//! `docker events`.

use std::collections::BTreeMap;

use robot_env_engine::Event;
use serde::Serialize;

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names are Docker's
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names are Docker's
pub struct EventMessage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    pub scope: String,
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

impl EventMessage {
    /// From the engine's event; the fields of old clients are filled in for containers and images.
    pub fn new(event: &Event) -> Self {
        let legacy = matches!(event.kind.as_str(), "container" | "image");
        let image = event.attributes.get("image").filter(|_| event.kind == "container");
        EventMessage {
            status: if legacy { event.action.clone() } else { String::new() },
            id: if legacy { event.id.clone() } else { String::new() },
            from: image.cloned().unwrap_or_default(),
            kind: event.kind.clone(),
            action: event.action.clone(),
            actor: Actor { id: event.id.clone(), attributes: event.attributes.clone() },
            scope: "local".into(),
            time: event.nanoseconds.div_euclid(1_000_000_000),
            time_nano: event.nanoseconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_fields() {
        let event = Event {
            kind: "container".into(),
            action: "start".into(),
            id: "abc".into(),
            attributes: BTreeMap::from([("image".into(), "ros".into())]),
            nanoseconds: 1_500_000_000,
        };
        assert_eq!(
            serde_json::to_string(&EventMessage::new(&event)).unwrap(),
            r#"{"status":"start","id":"abc","from":"ros","Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"image":"ros"}},"scope":"local","time":1,"timeNano":1500000000}"#
        );
        let volume = EventMessage::new(&Event { kind: "volume".into(), ..event });
        assert!(volume.status.is_empty() && volume.from.is_empty());
    }
}
