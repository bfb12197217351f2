use super::*;

const HYBRID: &str = "\
36 35 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw
37 36 0:31 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
38 36 0:32 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
39 36 0:33 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 36 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 36 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

#[test]
fn a_unified_hierarchy_without_controllers_does_not_count() {
    let (version, mounts) = parse_mounts(HYBRID, |_| true);
    assert_eq!(version, Version::V1);
    assert_eq!(mounts["devices"], Path::new("/sys/fs/cgroup/devices"));
    let pure = "36 35 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    assert_eq!(parse_mounts(pure, |_| true).0, Version::V2);
    assert_eq!(parse_mounts(pure, |_| false).0, Version::None);
    assert_eq!(parse_mounts("", |_| true).0, Version::None);
}

#[test]
fn the_delegated_cgroup_is_the_session_managers() {
    assert_eq!(delegated("0::/user.slice/a.scope\n", Path::new("/nonexistent")), None);
    let manager = "/user.slice/user-1000.slice/user@1000.service";
    for (own, expected) in [
        (format!("0::{manager}/app.slice/app-terminal.scope\n"), Some(true)),
        (format!("12:pids:/x\n0::{manager}\n"), Some(true)),
        ("0::/user.slice/user-1000.slice/session-3.scope\n".to_owned(), Some(false)),
        ("0::/user.slice/user-x.slice/session-3.scope\n".to_owned(), None),
        ("0::/system.slice/robot.service\n".to_owned(), None),
        ("12:pids:/user@1000.service/x\n".to_owned(), None),
    ] {
        let expected = expected.map(|inside| (manager.to_owned(), inside));
        assert_eq!(session_manager(&own), expected, "{own}");
    }
    let root = std::env::temp_dir().join(format!("re-delegated-{}", std::process::id()));
    let directory = root.join(&manager[1..]);
    fs::create_dir_all(&directory).unwrap();
    for (controllers, expected) in [("cpu memory pids\n", Some(manager)), ("cpu\n", None)] {
        fs::write(directory.join("cgroup.controllers"), controllers).unwrap();
        let found = delegated(&format!("0::{manager}/app.slice\n"), &root);
        assert_eq!(found, expected.map(|base| (base.to_owned(), true)), "{controllers}");
    }
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn cgroups_are_made_below_the_delegated_one() {
    for (base, path) in
        [("/a/user@1.service", "/r/x"), ("/a/user@1.service", "r/x"), ("", "/r/x"), ("", "r/x")]
    {
        let found = Hierarchies {
            version: Version::V2,
            mounts: BTreeMap::from([(String::new(), PathBuf::from("/cg"))]),
            base: base.to_owned(),
            writable: true,
            outside: false,
            everywhere: false,
        };
        let expected = format!("/cg{base}/r/x");
        assert_eq!(found.cgroup(path, &[]).directories[""], Path::new(&expected), "{base} {path}");
    }
}

#[test]
fn privileged_a_process_enters_freezes_and_is_killed() {
    let found = detect();
    if !found.is_writable() {
        println!("skipped: no writable cgroups here");
        return;
    }
    let path = format!("/robot-env-test-{}", std::process::id());
    let limit = Setting { controller: "pids", file: "pids.max".into(), value: "10".into(), optional: false };
    let cgroup = found.create(&path, &[limit]).unwrap();
    assert_eq!(cgroup.number("pids", "pids.max"), Some(10));
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    cgroup.add(child.id() as i32).unwrap();
    assert_eq!(cgroup.processes(), [child.id() as i32]);
    cgroup.freeze(true).unwrap();
    cgroup.freeze(false).unwrap();
    cgroup.kill();
    assert!(!child.wait().unwrap().success());
    cgroup.remove();
    assert!(cgroup.read("pids", "pids.max").is_none());
}
