//! Machines of files, and what is found on them.

use robot_env_testkit::temporary::TemporaryDirectory;

use super::*;
use crate::Mirror;

fn machine(files: &[(&str, &str)]) -> TemporaryDirectory {
    let place = TemporaryDirectory::new("doctor");
    for (path, text) in files {
        let path = place.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    place
}

/// A machine on which all is well for root.
const GOOD: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.8.0\n"),
    ("proc/filesystems", "nodev\tproc\nnodev\toverlay\n"),
    ("proc/self/ns/mnt", ""),
    ("proc/self/ns/pid", ""),
    ("proc/self/ns/net", ""),
    ("proc/self/ns/ipc", ""),
    ("proc/self/ns/uts", ""),
    ("proc/self/ns/user", ""),
    ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
    (
        "lib/modules/6.8.0/modules.dep",
        "kernel/net/bridge/bridge.ko.zst: a\nkernel/drivers/net/veth.ko:\nkernel/net/nf_tables.ko:\n",
    ),
    ("proc/sys/net/core/rmem_max", "2147483647\n"),
    ("proc/sys/net/ipv4/ipfrag_time", "3\n"),
    ("proc/sys/net/ipv4/ipfrag_high_thresh", "134217728\n"),
    ("etc/os-release", "ID=debian\n"),
    ("tmp/.X11-unix/X0", ""),
];

fn root() -> Live {
    Live {
        space: Some((100 << 30, 200 << 30)),
        inodes: Some((1000, 1000)),
        environment: [("DISPLAY".to_owned(), ":0".to_owned())].into(),
        program: "/usr/bin/robot-env".into(),
        ..Live::default()
    }
}

fn user() -> Live {
    Live {
        uid: 1000,
        user: "ada".into(),
        groups: vec![1000],
        hard_limits: [("rtprio".to_owned(), 0)].into(),
        ..root()
    }
}

fn found(files: &[(&str, &str)], live: &Live) -> Vec<Finding> {
    let mut all = GOOD.to_vec();
    all.retain(|(path, _)| !files.iter().any(|(other, _)| other == path));
    all.extend(files.iter().filter(|(_, text)| *text != "-"));
    let place = machine(&all);
    examine(&HostRoot::fixture(place.path()), live)
}

#[test]
fn a_good_machine_has_nothing_to_mend() {
    let bad: Vec<Finding> =
        found(&[], &root()).into_iter().filter(|f| f.level > Level::Note || f.mend.is_some()).collect();
    assert_eq!(bad, []);
}

/// Other files, who asks, and the check, level and mend that must be found.
type Case<'a> = (&'a [(&'a str, &'a str)], Live, &'a str, Level, &'a str);

#[test]
fn each_fault_is_found_with_its_mend() {
    let subid: &[(&str, &str)] = &[("usr/bin/newuidmap", ""), ("usr/bin/newgidmap", "")];
    let cases: &[Case<'_>] = &[
        (&[("proc/sys/kernel/osrelease", "4.15.0-generic\n")], root(), "kernel", Level::Problem, ""),
        (&[("proc/self/ns/net", "-")], root(), "namespaces", Level::Problem, ""),
        (
            &[("proc/sys/kernel/unprivileged_userns_clone", "0\n")],
            user(),
            "namespaces",
            Level::Problem,
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            &[("proc/sys/user/max_user_namespaces", "0\n")],
            user(),
            "namespaces",
            Level::Problem,
            "user.max_user_namespaces",
        ),
        (
            &[("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")],
            user(),
            "namespaces",
            Level::Problem,
            "setup --only apparmor",
        ),
        (&[], user(), "subuid", Level::Warning, "apt-get install -y uidmap"),
        (subid, user(), "subuid", Level::Warning, "usermod --add-subuids 100000-165535"),
        (&[("sys/fs/cgroup/cgroup.controllers", "-")], root(), "cgroups", Level::Warning, ""),
        (&[], user(), "cgroups", Level::Note, "delegate.conf"),
        (&[("proc/filesystems", "nodev\tproc\n")], root(), "overlay", Level::Problem, "modprobe overlay"),
        (&[], user(), "networks", Level::Warning, "passt"),
        (
            &[("usr/bin/pasta", ""), ("dev/net/tun", "")],
            Live { closed: vec!["/dev/net/tun"], ..user() },
            "networks",
            Level::Warning,
            "sudo chmod 0666 /dev/net/tun",
        ),
        (
            &[("usr/bin/pasta", ""), ("dev/net/tun", "")],
            Live { closed: vec!["/dev/fuse"], ..user() },
            "networks",
            Level::Warning,
            "sudo chmod 0666 /dev/fuse",
        ),
        (
            &[("lib/modules/6.8.0/modules.dep", "")],
            root(),
            "networks",
            Level::Warning,
            "modprobe -a bridge veth nf_tables",
        ),
        (
            &[("sys/bus/pci/devices/0/vendor", "0x10de"), ("sys/bus/pci/devices/0/class", "0x030200")],
            root(),
            "gpu",
            Level::Warning,
            "setup",
        ),
        (&[("tmp/.X11-unix/X0", "-")], root(), "display", Level::Warning, "X11-unix"),
        (
            &[("etc/group", "dialout:x:20:bob\n"), ("dev/ttyACM0", "c 166:0")],
            user(),
            "groups",
            Level::Warning,
            "usermod -aG dialout ada",
        ),
        (&[], user(), "realtime", Level::Note, "limits.d/robot-env.conf"),
        (
            &[("proc/sys/net/core/rmem_max", "212992\n")],
            root(),
            "dds",
            Level::Note,
            "net.core.rmem_max=26214400",
        ),
    ];
    for (files, live, check, level, mend) in cases {
        let all = found(files, live);
        let hit = all.iter().find(|f| f.check == *check && f.level == *level);
        let hit = hit.unwrap_or_else(|| panic!("{check} {level:?}: {all:#?}"));
        let commands = hit.mend.as_ref().map(|mend| mend.commands.join("; ")).unwrap_or_default();
        assert!(commands.contains(mend), "{check}: {commands}");
        assert!(hit.cause.is_some(), "{hit:?}");
    }
}

#[test]
fn disk_mirrors_and_configuration_come_from_the_caller() {
    let source = robot_env_config::Source { path: "/etc/docker/daemon.json".into(), own: false };
    let mirror = |answer| Mirror { name: "http://m:1".into(), registry: "docker.io".into(), answer };
    let live = Live {
        space: Some((1 << 30, 200 << 30)),
        inodes: Some((1, 1000)),
        mirrors: vec![mirror(Ok(12)), mirror(Err("connection refused".into()))],
        configuration: robot_env_config::Configuration::of_text(&source, "{\"ini\": true}").findings,
        environment: [("ROS_DOMAIN_ID".to_owned(), "233".to_owned())].into(),
        ..root()
    };
    let all = found(&[], &live);
    let of = |check: &str| -> Vec<&Finding> { all.iter().filter(|f| f.check == check).collect() };
    assert_eq!(of("disk")[0].level, Level::Problem);
    assert!(of("disk")[1].fact.contains("inodes"));
    assert_eq!(of("mirrors").iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Good, Level::Warning]);
    assert!(of("configuration")[0].fact.contains("daemon.json:1:2: unknown key `ini`"));
    assert_eq!(of("dds")[0].level, Level::Warning);
}
