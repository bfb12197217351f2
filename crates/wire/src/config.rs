//! `Config`: the part of a container that an image has too.

#![allow(clippy::zero_sized_map_values)] // sets that Docker writes as objects

use std::collections::BTreeMap;

use robot_env_oci::{Healthcheck, RuntimeConfig};
use robot_env_spec::{ContainerSpec, NetworkMode};
use serde::Serialize;

use crate::null_if_empty;

/// An object without fields, as Go's `struct{}{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

/// How processes run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    pub image: String,
    pub volumes: Option<BTreeMap<String, Empty>>,
    pub working_dir: String,
    pub entrypoint: Option<Vec<String>>,
    pub on_build: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

impl Config {
    /// An image's.
    pub fn of_image(image: &RuntimeConfig) -> Self {
        let keys = |map: &BTreeMap<String, serde_json::Value>| -> BTreeMap<String, Empty> {
            map.keys().map(|key| (key.clone(), Empty {})).collect()
        };
        Config {
            user: image.user.clone(),
            exposed_ports: keys(&image.exposed_ports),
            env: null_if_empty(image.env.clone()),
            cmd: image.cmd.clone(),
            healthcheck: image.healthcheck.clone(),
            volumes: Some(keys(&image.volumes)).filter(|volumes| !volumes.is_empty()),
            working_dir: image.working_dir.clone(),
            entrypoint: image.entrypoint.clone(),
            on_build: null_if_empty(image.on_build.clone()),
            labels: image.labels.clone(),
            stop_signal: image.stop_signal.clone(),
            shell: null_if_empty(image.shell.clone()),
            ..Config::default()
        }
    }

    /// A container's: its image's with what was asked for on top. `short_id` is its host name when
    /// none was asked for, `host_name` the host's when it has the host's network.
    pub fn of_container(
        spec: &ContainerSpec,
        image: &RuntimeConfig,
        short_id: &str,
        host_name: &str,
    ) -> Self {
        let base = Config::of_image(image);
        let shares_name = spec.uts_host || spec.network == NetworkMode::Host;
        let own_name = if shares_name { host_name } else { short_id };
        let cmd = match (&spec.command, &spec.entrypoint) {
            (Some(command), _) => Some(command.clone()),
            (None, None) => base.cmd,
            (None, Some(_)) => None,
        };
        let mut exposed_ports = base.exposed_ports;
        exposed_ports.extend(spec.expose.iter().map(|port| (port.clone(), Empty {})));
        let mut labels = base.labels;
        labels.extend(spec.labels.clone());
        Config {
            hostname: spec.hostname.clone().unwrap_or_else(|| own_name.to_owned()),
            domainname: spec.domainname.clone().unwrap_or_default(),
            user: spec.user.clone().unwrap_or(base.user),
            attach_stdin: spec.attach.stdin,
            attach_stdout: spec.attach.stdout,
            attach_stderr: spec.attach.stderr,
            exposed_ports,
            tty: spec.tty,
            open_stdin: spec.stdin_open,
            stdin_once: spec.stdin_once,
            env: Some(merged_env(&image.env, &spec.env)),
            cmd,
            healthcheck: spec.healthcheck.clone().or(base.healthcheck),
            image: spec.image.clone(),
            volumes: base.volumes,
            working_dir: spec.working_dir.clone().unwrap_or(base.working_dir),
            entrypoint: match &spec.entrypoint {
                Some(entrypoint) => null_if_empty(entrypoint.clone()),
                None => base.entrypoint,
            },
            on_build: base.on_build,
            labels,
            stop_signal: spec.stop_signal.clone().unwrap_or(base.stop_signal),
            stop_timeout: spec.stop_timeout,
            shell: base.shell,
        }
    }
}

/// The container's variables first, then those of the image that they do not replace; a bare name
/// removes one.
fn merged_env(image: &[String], given: &[String]) -> Vec<String> {
    let name = |word: &str| word.split_once('=').map_or(word, |(name, _)| name).to_owned();
    let mut out: Vec<String> = Vec::with_capacity(image.len() + given.len());
    for (at, word) in given.iter().enumerate() {
        // The last of several values counts.
        let replaced = given[at + 1..].iter().any(|later| name(later) == name(word));
        if word.contains('=') && !replaced {
            out.push(word.clone());
        }
    }
    out.extend(image.iter().filter(|word| !given.iter().any(|other| name(other) == name(word))).cloned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_goes_over_the_image() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let image = RuntimeConfig {
            env: words("PATH=/bin A=1 B=2"),
            cmd: Some(words("c")),
            entrypoint: Some(words("e")),
            user: "u".into(),
            labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "1".into())]),
            ..RuntimeConfig::default()
        };
        let spec = ContainerSpec {
            env: words("A=3 C=4 B C=5"),
            entrypoint: Some(vec![]),
            labels: BTreeMap::from([("b".into(), "2".into())]),
            expose: words("80/tcp"),
            ..ContainerSpec::default()
        };
        let config = Config::of_container(&spec, &image, "0123", "box");
        assert_eq!(config.env.unwrap(), words("A=3 C=5 PATH=/bin"));
        assert_eq!((config.cmd, config.entrypoint), (None, None));
        assert_eq!((config.user.as_str(), config.hostname.as_str()), ("u", "0123"));
        assert_eq!(config.labels["b"], "2");
        assert!(config.exposed_ports.contains_key("80/tcp"));
        let host = ContainerSpec { network: NetworkMode::Host, ..ContainerSpec::default() };
        assert_eq!(Config::of_container(&host, &image, "0123", "box").hostname, "box");
    }

    #[test]
    fn empty_parts_are_null_or_left_out_as_docker_has_them() {
        let json = serde_json::to_string(&Config::of_image(&RuntimeConfig::default())).unwrap();
        let end = "\"Env\":null,\"Cmd\":null,\"Image\":\"\",\"Volumes\":null,\"WorkingDir\":\"\",\
                   \"Entrypoint\":null,\"OnBuild\":null,\"Labels\":{}}";
        assert!(json.ends_with(end), "{json}");
        assert!(!json.contains("ExposedPorts") && !json.contains("StopSignal"));
    }
}
