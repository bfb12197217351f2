//! Rows of `ps`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_diag::{Error, Result};
use robot_env_engine::Container;
use robot_env_engine::record::State;
use robot_env_network::firewall::Port;
use robot_env_spec::NetworkMode;
use robot_env_wire::mode_word;

use super::{ellipsis, labels, short};
use crate::filter::Filters;
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

/// The keys of `--filter`.
pub(crate) const FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
];

const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

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
        ("Networks", networks(container).join(",").into()),
        ("Platform", platform.into()),
    ])
}

/// The labels of the image with the container's own on top.
fn labels_of(container: &Container) -> BTreeMap<String, String> {
    let mut labels = container.record.image_config.labels.clone();
    labels.extend(container.record.spec.labels.clone());
    labels
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

/// Its networks by name: `host` and `none` are among them.
fn networks(container: &Container) -> Vec<String> {
    let spec = &container.record.spec;
    let places: Vec<String> = spec.places().into_iter().map(|place| place.network).collect();
    match &spec.network {
        NetworkMode::Container(_) => Vec::new(),
        mode if places.is_empty() => vec![mode_word(mode)],
        _ => places,
    }
}

/// Whether a filter such as `80`, `80-90/udp` names one of these ports.
fn names_port(value: &str, mut ports: impl Iterator<Item = (u16, String)>) -> bool {
    let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { return false };
    ports.any(|(port, of)| (first..=last).contains(&port) && of == protocol)
}

fn health(container: &Container) -> &'static str {
    container.state.health.as_ref().map_or("none", |health| health.status.as_str())
}

/// `Up 3 seconds (healthy)`, `Exited (0) 2 hours ago`, ...
pub(crate) fn status(container: &Container, now: Timestamp) -> String {
    let since = |when: Timestamp| human::duration(now.as_second() - when.as_second());
    match &container.state.state {
        State::Created | State::Failed { .. } => "Created".into(),
        State::Running { started, paused: true, .. } => format!("Up {} (Paused)", since(*started)),
        State::Running { started, .. } => {
            let up = format!("Up {}", since(*started));
            match health(container) {
                "none" => up,
                "starting" => format!("{up} (health: starting)"),
                word => format!("{up} ({word})"),
            }
        }
        State::Restarting { exit } => format!("Restarting ({}) {} ago", exit.code, since(exit.finished)),
        State::Exited { exit } => format!("Exited ({}) {} ago", exit.code, since(exit.finished)),
    }
}

/// Whether the filters ask for containers that do not run, although `--all` was not given.
pub(crate) fn wants_all(filters: &Filters) -> bool {
    ["status", "exited", "before", "since"].iter().any(|key| filters.has(key))
}

/// What the filters need to know beside a container itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterFacts {
    /// When the containers of `before` and `since` were created.
    pub(crate) before: Option<Timestamp>,
    /// See `before`.
    pub(crate) since: Option<Timestamp>,
    /// The ids of the images that each `ancestor` stands for.
    pub(crate) ancestors: Vec<String>,
}

/// Checks the values of filters whose words are fixed.
pub(crate) fn check(filters: &Filters) -> Result<()> {
    for value in filters.values("status") {
        if !STATES.contains(&value) {
            return Err(Error::invalid(format!("invalid filter 'status={value}'"))
                .with_hint(format!("the states are {}", STATES.join(", "))));
        }
    }
    for value in filters.values("health") {
        if !HEALTHS.contains(&value) {
            return Err(Error::invalid(format!("invalid filter 'health={value}'"))
                .with_hint(format!("the words are {}", HEALTHS.join(", "))));
        }
    }
    for value in filters.values("exited") {
        value.parse::<i32>().map_err(|_| Error::invalid(format!("invalid filter 'exited={value}'")))?;
    }
    Ok(())
}

/// Whether the filters let a container through.
pub(crate) fn matches(container: &Container, ports: &[Port], filters: &Filters, facts: &FilterFacts) -> bool {
    let record = &container.record;
    let state = &container.state.state;
    let slashed = format!("/{}", record.name);
    filters.any_pattern("id", &[record.id.as_str()])
        && filters.any_pattern("name", &[&record.name, &slashed])
        && filters.labels(&labels_of(container))
        && filters.any("status", |value| value == state.word())
        && filters.any("exited", |value| {
            matches!(state, State::Exited { .. }) && value.parse() == Ok(state.exit_code())
        })
        && filters.any("health", |value| value == health(container))
        && filters.any("network", |value| networks(container).iter().any(|name| name == value))
        && filters.any("volume", |value| {
            record.mounts.iter().any(|mount| {
                mount.volume.as_deref() == Some(value) || mount.target == value || mount.source == value
            })
        })
        && filters.any("expose", |value| {
            let exposed = exposed(container).into_iter();
            names_port(value, exposed.filter_map(|text| {
                let (port, protocol) = text.split_once('/')?;
                Some((port.parse().ok()?, protocol.to_owned()))
            }))
        })
        && filters.any("publish", |value| {
            names_port(value, ports.iter().map(|port| (port.host_port, port.protocol.name().to_owned())))
        })
        // Nothing is a task.
        && !filters.truth("is-task").ok().flatten().unwrap_or(false)
        && (!filters.has("ancestor") || facts.ancestors.iter().any(|id| *id == record.image.to_string()))
        && facts.before.is_none_or(|when| record.created < when)
        && facts.since.is_none_or(|when| record.created > when)
}

#[cfg(test)]
mod tests {
    use robot_env_engine::record::{
        ContainerRecord, ExitRecord, Health, HealthStatus, MountPoint, ProcessRecord, StateRecord,
    };
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

    fn exit(code: i32) -> ExitRecord {
        ExitRecord { code, oom_killed: false, started: at(50), finished: at(60), error: None }
    }

    #[test]
    fn the_status_says_what_docker_says() {
        let mut healthy = container(running(false));
        healthy.state.health =
            Some(Health { status: HealthStatus::Healthy, failing_streak: 0, log: Vec::new() });
        for (container, want) in [
            (container(State::Created), "Created"),
            (container(running(false)), "Up 2 minutes"),
            (container(running(true)), "Up 2 minutes (Paused)"),
            (healthy, "Up 2 minutes (healthy)"),
            (container(State::Restarting { exit: exit(1) }), "Restarting (1) 2 minutes ago"),
            (container(State::Exited { exit: exit(137) }), "Exited (137) 2 minutes ago"),
        ] {
            assert_eq!(status(&container, at(220)), want);
        }
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

    #[test]
    fn filters_let_the_right_ones_through() {
        let exited = container(State::Exited { exit: exit(3) });
        for (word, want) in [
            ("name=^/web$", true),
            ("name=we", true),
            ("name=db", false),
            ("id=1212", true),
            ("status=exited", true),
            ("status=running", false),
            ("exited=3", true),
            ("exited=0", false),
            ("health=none", true),
            ("health=healthy", false),
            ("label=a=1", true),
            ("label=b", false),
            ("network=host", true),
            ("volume=/data", true),
            ("volume=a-rather-long-volume", true),
            ("volume=x", false),
            ("publish=80", false),
            ("is-task=true", false),
        ] {
            let filters = Filters::parse(&[word.to_owned()], FILTERS).unwrap();
            check(&filters).unwrap();
            assert_eq!(matches(&exited, &[], &filters, &FilterFacts::default()), want, "{word}");
        }
        let none = Filters::default();
        for (before, since, want) in
            [(Some(at(1)), None, true), (Some(at(0)), None, false), (None, Some(at(0)), false)]
        {
            assert_eq!(
                matches(&exited, &[], &none, &FilterFacts { before, since, ..FilterFacts::default() }),
                want
            );
        }
        for bad in ["status=x", "health=x", "exited=x"] {
            assert!(check(&Filters::parse(&[bad.to_owned()], FILTERS).unwrap()).is_err(), "{bad}");
        }
    }
}
