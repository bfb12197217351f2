//! `GET /containers/json`: a container on one line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_engine::record::State;
use robot_env_engine::{Container, Place};
use serde::Serialize;

use crate::mount::MountPoint;
use crate::network::{EndpointSettings, NetworkSettings, mode_word};

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names are Docker's
pub struct Port {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    #[serde(rename = "PrivatePort")]
    pub private_port: u16,
    #[serde(rename = "PublicPort", skip_serializing_if = "Option::is_none")]
    pub public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub kind: String,
}

/// The part of `HostConfig` that lists show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct SummaryHostConfig {
    pub network_mode: String,
}

/// The part of `NetworkSettings` that lists show.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct SummaryNetworks {
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A container on one line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ContainerSummary {
    pub id: String,
    pub names: Vec<String>,
    pub image: String,
    #[serde(rename = "ImageID")]
    pub image_id: String,
    pub command: String,
    pub created: i64,
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<u64>,
    pub labels: BTreeMap<String, String>,
    pub state: String,
    pub status: String,
    pub host_config: SummaryHostConfig,
    pub network_settings: SummaryNetworks,
    pub mounts: Vec<MountPoint>,
}

impl ContainerSummary {
    /// From the engine's records; `sizes` as in [`crate::ContainerFacts`].
    pub fn new(container: &Container, places: &[Place], sizes: Option<(u64, u64)>, now: Timestamp) -> Self {
        let record = &container.record;
        let exposed = record.image_config.exposed_ports.keys().chain(&record.spec.expose).cloned();
        let running = container.state.state.is_running();
        let network =
            NetworkSettings::new(record.id.as_str(), &record.spec.network, exposed, running, places);
        ContainerSummary {
            id: record.id.to_string(),
            names: vec![format!("/{}", record.name)],
            image: record.spec.image.clone(),
            image_id: record.image.to_string(),
            command: record.command_line().iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
            created: record.created.as_second(),
            ports: ports(&network),
            size_rw: sizes.map(|(own, _)| own),
            size_root_fs: sizes.map(|(_, all)| all),
            labels: crate::labels_of(container),
            state: container.state.state.word().to_owned(),
            status: status(container, now),
            host_config: SummaryHostConfig { network_mode: mode_word(&record.spec.network) },
            network_settings: SummaryNetworks { networks: network.networks },
            mounts: record.mounts.iter().filter(|m| m.kind != "tmpfs").map(MountPoint::new).collect(),
        }
    }
}

/// A word with spaces is shown in quotes, as Docker does.
fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

fn ports(network: &NetworkSettings) -> Vec<Port> {
    let mut out = Vec::new();
    for (key, bindings) in &network.ports {
        let (port, kind) = key.split_once('/').unwrap_or((key, "tcp"));
        let plain =
            Port { private_port: port.parse().unwrap_or(0), kind: kind.to_owned(), ..Port::default() };
        match bindings {
            Some(bindings) => out.extend(bindings.iter().map(|binding| Port {
                ip: binding.host_ip.clone(),
                public_port: binding.host_port.parse().ok(),
                ..plain.clone()
            })),
            None => out.push(plain),
        }
    }
    out
}

/// `Up 3 seconds (healthy)`, `Exited (0) 2 hours ago`, ...
pub fn status(container: &Container, now: Timestamp) -> String {
    let since = |when: Timestamp| human_duration(now.as_second() - when.as_second());
    match &container.state.state {
        State::Created | State::Failed { .. } => "Created".into(),
        State::Running { started, paused: true, .. } => format!("Up {} (Paused)", since(*started)),
        State::Running { started, .. } => {
            let up = format!("Up {}", since(*started));
            match container.state.health.as_ref().map(|health| health.status.as_str()) {
                None => up,
                Some("starting") => format!("{up} (health: starting)"),
                Some(word) => format!("{up} ({word})"),
            }
        }
        State::Restarting { exit } => format!("Restarting ({}) {} ago", exit.code, since(exit.finished)),
        State::Exited { exit } => format!("Exited ({}) {} ago", exit.code, since(exit.finished)),
    }
}

/// Docker's words for a span of so many seconds (go-units `HumanDuration`): `About an hour`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds as f64 / 3600.0 + 0.5) as i64);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_dockers_words() {
        for (seconds, want) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), want);
        }
    }

    #[test]
    fn published_and_exposed_ports() {
        let binding = crate::PortBinding { host_ip: "0.0.0.0".into(), host_port: "8080".into() };
        let network = NetworkSettings {
            ports: BTreeMap::from([("53/udp".into(), None), ("80/tcp".into(), Some(vec![binding]))]),
            ..NetworkSettings::default()
        };
        let got = serde_json::to_string(&ports(&network)).unwrap();
        assert_eq!(
            got,
            r#"[{"PrivatePort":53,"Type":"udp"},{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]"#
        );
    }
}
