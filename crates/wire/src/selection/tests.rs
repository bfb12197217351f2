use robot_env_engine::record::{
    ContainerRecord, ExitRecord, Health, HealthStatus, MountPoint, ProcessRecord, StateRecord,
};
use robot_env_oci::{Digest, ImageId, RuntimeConfig};
use robot_env_spec::{ContainerId, ContainerSpec, Propagation};

use super::*;

fn read(words: &[&str], known: &[&str]) -> Filters {
    let mut out = Filters::default();
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        out.add(key, value, known).unwrap();
    }
    out
}

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
        let filters = read(&[word], CONTAINER_FILTERS);
        check(&filters).unwrap();
        let filter = ContainerFilter { filters, ..ContainerFilter::default() };
        assert_eq!(filter.takes(&exited, &[]), want, "{word}");
    }
    for (before, since, want) in
        [(Some(at(1)), None, true), (Some(at(0)), None, false), (None, Some(at(0)), false)]
    {
        assert_eq!(ContainerFilter { before, since, ..ContainerFilter::default() }.takes(&exited, &[]), want);
    }
    for bad in ["status=x", "health=x", "exited=x"] {
        assert!(check(&read(&[bad], CONTAINER_FILTERS)).is_err(), "{bad}");
    }
}

fn event(action: &str) -> Event {
    let attributes = [("image", "ros:noetic"), ("name", "web"), ("a", "1")];
    let attributes: BTreeMap<String, String> =
        attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Event {
        kind: "container".into(),
        action: action.into(),
        id: "0123456789abcdef".into(),
        attributes,
        nanoseconds: 1_500_000_007,
    }
}

#[test]
fn events_pass_by_kind_name_image_and_label() {
    for (words, want) in [
        (&["event=start"][..], true),
        (&["event=die"], false),
        (&["event=die", "event=start"], true),
        (&["event=start", "type=volume"], false),
        (&["container=web"], true),
        (&["container=we"], true),
        (&["container=0123"], true),
        (&["container=other"], false),
        (&["image=ros:noetic"], true),
        (&["image=ros"], true),
        (&["image=ro"], false),
        (&["label=a=1"], true),
        (&["label=a=1", "label=b"], false),
        (&["type=container", "scope=local"], true),
        (&["volume=x"], false),
        (&["container=/web"], true),
        (&["label!=a"], false),
        (&["daemon=x"], false),
    ] {
        assert_eq!(takes_event(&read(words, EVENT_FILTERS), &event("start")), want, "{words:?}");
    }
    let only = |word: &str| read(&[word], EVENT_FILTERS);
    assert!(takes_event(&only("event=exec_create"), &event("exec_create: ls")));
    assert!(!takes_event(&only("event=exec"), &event("exec_create: ls")));
}

#[test]
fn a_registrys_port_is_no_tag() {
    for (name, want) in [("host:5000/x", "host:5000/x"), ("host:5000/x:1", "host:5000/x"), ("ros", "ros")] {
        assert_eq!(repository(name), want);
    }
}

#[test]
fn the_status_says_what_docker_says() {
    let mut healthy = container(running(false));
    healthy.state.health = Some(Health { status: HealthStatus::Healthy, failing_streak: 0, log: Vec::new() });
    for (container, want) in [
        (container(State::Created), "Created"),
        (container(running(false)), "Up 2 minutes"),
        (container(running(true)), "Up 2 minutes (Paused)"),
        (healthy, "Up 2 minutes (healthy)"),
        (container(State::Restarting { exit: exit(1) }), "Restarting (1) 2 minutes ago"),
        (container(State::Exited { exit: exit(137) }), "Exited (137) 2 minutes ago"),
    ] {
        assert_eq!(crate::status(&container, at(220)), want);
    }
}
