use std::collections::BTreeMap;

use super::*;
use crate::{DeviceSpec, HostEntry, Propagation, Resources, VolumesFrom};

fn base() -> ContainerSpec {
    ContainerSpec { image: "ros".into(), ..ContainerSpec::default() }
}

fn volume(target: &str) -> MountSpec {
    MountSpec {
        target: target.into(),
        source: MountSource::Volume {
            name: None,
            no_copy: false,
            subpath: None,
            labels: BTreeMap::default(),
            options: BTreeMap::default(),
        },
        read_only: false,
    }
}

fn bind(source: &str, read_only: bool, recursive: bool, read_only_depth: ReadOnlyDepth) -> MountSpec {
    let propagation = Propagation::default();
    MountSpec {
        target: "/x".into(),
        source: MountSource::Bind {
            source: source.into(),
            create_source: false,
            propagation,
            recursive,
            read_only_depth,
        },
        read_only,
    }
}

type Change = fn(&mut ContainerSpec);

#[test]
fn what_is_fine() {
    let cases: [Change; 8] = [
        |_| {},
        |s| s.env = vec!["A=".into(), "B".into(), "C=d=e".into()],
        |s| s.hostname = Some("robot_1.lab".into()),
        |s| s.stop_signal = Some("sigrtmin+3".into()),
        |s| s.mounts = vec![volume("/a"), volume("/a/b")],
        |s| s.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1024, hard: -1 }],
        |s| s.add_hosts = vec![HostEntry { name: "gw".into(), address: "host-gateway".into() }],
        |s| s.restart = RestartPolicy::Always,
    ];
    for (at, change) in cases.into_iter().enumerate() {
        let mut spec = base();
        change(&mut spec);
        assert_eq!(spec.check().map_err(|e| e.to_string()), Ok(()), "case {at}");
    }
}

#[test]
fn what_is_not() {
    let cases: [(Change, &str); 33] = [
        (|s| s.image = " ".into(), "invalid image: its name is empty"),
        (|s| s.env = vec!["=x".into()], "invalid environment variable: =x"),
        (|s| s.env = vec!["A=\0".into()], "invalid environment variable: A=\0"),
        (
            |s| s.working_dir = Some("src".into()),
            "invalid working directory `src`: it needs to be an absolute path",
        ),
        (|s| s.stop_signal = Some("SIGNOPE".into()), "invalid signal: SIGNOPE"),
        (|s| s.stop_signal = Some("65".into()), "invalid signal: 65"),
        (|s| s.stop_signal = Some("RTMIN-1".into()), "invalid signal: RTMIN-1"),
        (|s| s.stop_timeout = Some(-2), "invalid stop timeout: it must be -1 for no limit, or more"),
        (
            |s| s.hostname = Some("a..b".into()),
            "invalid hostname `a..b`: it must be at most 64 letters, digits, `-` and `.`, with parts of 1 to 63 characters",
        ),
        (
            |s| {
                s.uts_host = true;
                s.hostname = Some("a".into());
            },
            "conflicting options: hostname and the UTS mode",
        ),
        (
            |s| {
                s.labels.insert(String::new(), "v".into());
            },
            "invalid label `=v`: its name is empty",
        ),
        (
            |s| {
                s.network = NetworkMode::Container("a".into());
                s.hostname = Some("h".into());
            },
            "conflicting options: hostname and the network mode",
        ),
        (|s| s.network = NetworkMode::Container(String::new()), "invalid network container ``"),
        (
            |s| s.dns.servers = vec!["dns.lan".into()],
            "invalid DNS server `dns.lan`: it must be an IP address",
        ),
        (
            |s| s.add_hosts = vec![HostEntry { name: "a\n0".into(), address: "1.2.3.4".into() }],
            "invalid host entry `a\n0:1.2.3.4`",
        ),
        (|s| s.mounts = vec![volume("/x"), volume("//x/")], "Duplicate mount point: /x"),
        (|s| s.mounts = vec![volume("x")], "invalid mount target `x`: it must be an absolute path"),
        (|s| s.mounts = vec![volume("/a/..")], "invalid mount target `/a/..`: it is the container's root"),
        (
            |s| s.mounts = vec![bind("src", false, true, ReadOnlyDepth::default())],
            "invalid mount source `src`: it must be an absolute path",
        ),
        (
            |s| s.mounts = vec![bind("/s", false, true, ReadOnlyDepth::TopOnly)],
            "invalid mount `/x`: a depth of read-only needs read-only",
        ),
        (
            |s| s.mounts = vec![bind("/s", true, false, ReadOnlyDepth::RecursiveOrFail)],
            "invalid mount `/x`: recursively read-only needs a recursive bind",
        ),
        (
            |s| s.volumes_from = vec![VolumesFrom { container: "a b".into(), read_only: false }],
            "invalid volumes-from container `a b`",
        ),
        (|s| s.shm_size = Some(0), "invalid shm size: it must be greater than 0"),
        (
            |s| {
                s.ipc = IpcMode::Host;
                s.shm_size = Some(1);
            },
            "conflicting options: shm size and the IPC mode",
        ),
        (
            |s| s.sysctls = [("vm.swappiness".into(), "1".into())].into(),
            "invalid sysctl `vm.swappiness`: it is not in a namespace of its own, so it would change the host",
        ),
        (
            |s| {
                s.devices = vec![DeviceSpec {
                    host: "/dev/x".into(),
                    container: "/dev/x".into(),
                    permissions: "rr".into(),
                }];
            },
            "invalid device permissions `rr`: they must be of the letters `rwm`",
        ),
        (
            |s| s.device_cgroup_rules = vec!["c 1 r".into()],
            "invalid device cgroup rule `c 1 r`: it must be like `c 189:* rmw`",
        ),
        (
            |s| s.ulimits = vec![Ulimit { name: "files".into(), soft: 1, hard: 1 }],
            "invalid ulimit type: files",
        ),
        (
            |s| s.ulimits = vec![Ulimit { name: "core".into(), soft: -1, hard: 1 }],
            "invalid ulimit `core`: the soft limit must not be above the hard limit (-1 > 1)",
        ),
        (
            |s| s.resources = Resources { memory: Some(1 << 20), ..Resources::default() },
            "invalid memory limit: the least is 6 MiB",
        ),
        (|s| s.log.max_file = Some(0), "invalid log option max-file: it must be at least 1"),
        (
            |s| {
                s.auto_remove = true;
                s.restart = RestartPolicy::Always;
            },
            "conflicting options: a restart policy and automatic removal",
        ),
        (
            |s| s.cgroup_parent = Some("a/../b".into()),
            "invalid cgroup parent `a/../b`: it must not contain `..`",
        ),
    ];
    for (at, (change, want)) in cases.into_iter().enumerate() {
        let mut spec = base();
        change(&mut spec);
        assert_eq!(spec.check().map_err(|e| e.to_string()), Err(want.to_owned()), "case {at}");
    }
}

#[test]
fn an_unknown_capability_lists_the_known_ones() {
    let error = ContainerSpec { cap_add: vec!["CAP_FLY".into()], ..base() }.check().unwrap_err().to_string();
    assert!(
        error.starts_with("invalid capability `CAP_FLY`: it must be ALL or one of AUDIT_CONTROL, "),
        "{error}"
    );
    assert!(error.ends_with("WAKE_ALARM"), "{error}");
}

#[test]
fn container_names() {
    for good in ["ab", "web-1", "A.b_c", "0x"] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in ["", "a", "-ab", ".ab", "a b", "a/b", "ä1", "a\n", "_a"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    assert!(check_name(&"a".repeat(255)).is_ok() && check_name(&"a".repeat(256)).is_err());
}

#[test]
fn host_names() {
    for good in ["a", "robot-7", "my_host", "a.b.c", &"a".repeat(63)] {
        assert!(check_hostname(good).is_ok(), "{good}");
    }
    for bad in [
        "-a",
        "a-",
        ".",
        "a.",
        "a b",
        "ü",
        &"a".repeat(64),
        &format!("{}.{}", "a".repeat(40), "b".repeat(40)),
    ] {
        assert!(check_hostname(bad).is_err(), "{bad}");
    }
}
