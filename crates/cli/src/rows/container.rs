//! Rows of `ps`.

use jiff::Timestamp;
use robot_env_engine::Container;
use robot_env_network::firewall::Port;
use robot_env_wire::{labels_of, networks_of, status};

use super::{ellipsis, labels, short};
use crate::format::{Column, Value, human};

/// Every field of a row, with its heading.
pub(crate) const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Label", ""),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

/// What `ps` prints when nothing else is asked for.
pub(crate) const TABLE: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// How a row is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Whether long texts are cut.
    pub(crate) truncate: bool,
    /// The time.
    pub(crate) now: Timestamp,
}

/// A row. `size` is the bytes of the container's layer and of it and its image together.
/// `ports` are its published ports.
pub(crate) fn row(
    container: &Container,
    size: Option<(u64, u64)>,
    ports: &[Port],
    options: Options,
) -> Value {
    let record = &container.record;
    let spec = &record.spec;
    let id = record.id.as_str();
    let line = record.command_line().join(" ");
    let line = if options.truncate { ellipsis(&line, 20) } else { line };
    let image =
        if spec.image.starts_with("sha256:") && options.truncate { short(&spec.image) } else { &spec.image };
    let mounts = record.mounts.iter().filter(|mount| mount.kind != "tmpfs").map(|mount| {
        let name = mount.volume.as_deref().unwrap_or(&mount.source);
        if options.truncate { ellipsis(name, 15) } else { name.to_owned() }
    });
    let volumes = record.mounts.iter().filter(|mount| mount.kind == "volume").count();
    let size = size.map_or_else(String::new, |(own, all)| {
        format!("{} (virtual {})", human::short(own), human::short(all))
    });
    let all_labels = labels_of(container);
    let platform = spec.platform.as_ref().map(ToString::to_string).unwrap_or_default();
    Value::row([
        ("ID", if options.truncate { short(id).into() } else { id.into() }),
        ("Image", image.into()),
        ("Command", format!("{line:?}").into()),
        ("CreatedAt", human::local_time(record.created).into()),
        ("RunningFor", human::ago(record.created, options.now).into()),
        ("Status", status(container, options.now).into()),
        ("State", container.state.state.word().into()),
        ("Ports", ports_of(container, ports).into()),
        ("Names", record.name.as_str().into()),
        ("Size", size.into()),
        ("Labels", labels(&all_labels).into()),
        ("Label", Value::Lookup(all_labels)),
        ("LocalVolumes", volumes.to_string().into()),
        ("Mounts", mounts.collect::<Vec<_>>().join(",").into()),
        ("Networks", networks_of(container).join(",").into()),
        ("Platform", platform.into()),
    ])
}

/// The ports that its image and its flags name.
fn exposed(container: &Container) -> std::collections::BTreeSet<&str> {
    let record = &container.record;
    record.image_config.exposed_ports.keys().chain(&record.spec.expose).map(String::as_str).collect()
}

fn ports_of(container: &Container, ports: &[Port]) -> String {
    if !container.state.state.is_running() || container.record.spec.places().is_empty() {
        return String::new();
    }
    super::network::ports(ports, exposed(container).into_iter())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use robot_env_engine::record::{ContainerRecord, MountPoint, ProcessRecord, State, StateRecord};
    use robot_env_oci::{Digest, ImageId, RuntimeConfig};
    use robot_env_spec::{ContainerId, ContainerSpec, NetworkMode, Propagation};

    use super::*;
    use crate::format::{List, Style};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn container(state: State) -> Container {
        Container {
            record: ContainerRecord {
                id: ContainerId::from_random([0x12; 32]),
                name: "web".into(),
                created: at(0),
                spec: ContainerSpec {
                    image: "ros:noetic".into(),
                    command: Some(["roscore", "--port", "11311", "-v"].map(str::to_owned).to_vec()),
                    network: NetworkMode::Host,
                    labels: BTreeMap::from([("a".into(), "1".into())]),
                    ..ContainerSpec::default()
                },
                image: ImageId(Digest::of(b"")),
                chain: None,
                image_config: RuntimeConfig::default(),
                mounts: vec![MountPoint {
                    kind: "volume".into(),
                    volume: Some("a-rather-long-volume".into()),
                    anonymous: false,
                    source: "/x/_data".into(),
                    target: "/data".into(),
                    read_only: false,
                    propagation: Propagation::Rprivate,
                    spec: None,
                }],
                user_map: None,
                starts_at_once: false,
            },
            state: StateRecord { state, ..StateRecord::default() },
        }
    }

    fn running(paused: bool) -> State {
        let process = ProcessRecord { pid: 7, start_time: 1, monitor: 6, cgroup: None, runtime: None };
        State::Running { process, started: at(100), paused }
    }

    #[test]
    fn a_row_as_docker_prints_it() {
        let options = Options { truncate: true, now: at(220) };
        let rows = vec![row(&container(running(false)), Some((0, 72_800_000)), &[], options)];
        let text = List { columns: COLUMNS, rows }.print(&Style::parse(None, TABLE).unwrap()).unwrap();
        assert_eq!(
            text,
            "CONTAINER ID   IMAGE        COMMAND                  CREATED         STATUS         PORTS     NAMES\n\
             121212121212   ros:noetic   \"roscore --port 1131…\"   3 minutes ago   Up 2 minutes             web\n"
        );
        let rows = vec![row(&container(running(false)), Some((0, 72_800_000)), &[], options)];
        let style = Style::parse(
            Some("{{.Size}}|{{.Label \"a\"}}|{{.Labels}}|{{.Mounts}}|{{.Networks}}|{{.LocalVolumes}}"),
            TABLE,
        );
        let text = List { columns: COLUMNS, rows }.print(&style.unwrap()).unwrap();
        assert_eq!(text, "0B (virtual 72.8MB)|1|a=1|a-rather-long-…|host|1\n");
    }
}
