use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use robot_env_diag::Kind;
use robot_env_runtime::{Console, Created, Exec, exec};
use robot_env_sys::process;
use serde_json::json;

use crate::place::{Place, run, streams, text};

fn push(value: &mut serde_json::Value, entry: serde_json::Value) {
    value.as_array_mut().expect("a list").push(entry);
}

/// What a terminal's master gives until its last user is gone.
fn drain(master: &OwnedFd) -> String {
    rustix::io::ioctl_fionbio(master, false).unwrap();
    let mut out = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(n @ 1..) = rustix::io::read(master, &mut buffer) {
        out.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn privileged_the_user_is_the_specs() {
    let Some(place) = Place::new("user") else { return };
    let script = "id; umask; ulimit -n; pwd; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; \
        echo to stderr > /dev/stderr";
    let spec = place.spec(&["sh", "-c", script], |s| {
        s["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 44], "umask": 0o027});
        s["process"]["cwd"] = json!("/tmp");
        s["process"]["noNewPrivileges"] = json!(true);
        s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1_000_000}]);
        let caps = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        s["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps,
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    });
    let (code, out) = run(&place, &spec);
    assert_eq!(code, 0, "{out}");
    for line in [
        "uid=1000 gid=1001 groups=7,44",
        "0027",
        "512",
        "/tmp",
        "CapInh:\t0000000000000020",
        "CapPrm:\t0000000000000020",
        "CapEff:\t0000000000000020",
        "CapBnd:\t0000000000000420",
        "CapAmb:\t0000000000000020",
        "NoNewPrivs:\t1",
        "Seccomp:\t0",
        "to stderr",
    ] {
        assert!(out.lines().any(|l| l == line), "no `{line}` in {out}");
    }
}

pub(crate) fn privileged_the_filter_holds_with_and_without_new_privileges() {
    let Some(place) = Place::new("filter") else { return };
    for no_new_privs in [false, true] {
        for uid in [0, 1000] {
            let spec =
                place.spec(&["sh", "-c", "mkdir /tmp/x; echo $?; grep Seccomp: /proc/self/status"], |s| {
                    s["process"]["user"] = json!({"uid": uid, "gid": 0});
                    s["process"]["noNewPrivileges"] = json!(no_new_privs);
                    s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
                });
            let (code, out) = run(&place, &spec);
            assert_eq!(code, 0, "{out}");
            assert!(out.contains("Operation not supported") && out.contains("Seccomp:\t2"), "{out}");
        }
    }
    // exec gets the filter too.
    let container = place.start(&place.spec(&["sleep", "100"], |_| {}));
    let inside = place.spec(&["sh", "-c", "mkdir /tmp/x"], |s| {
        s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
    });
    let (console, output) = streams();
    let process = exec(Exec {
        pid: container.pid,
        pidfd: container.pidfd.as_fd(),
        process: inside.process().as_ref().unwrap(),
        cgroup: container.cgroup.as_ref(),
        seccomp: inside.linux().as_ref().and_then(|l| l.seccomp().as_ref()),
        seccomp_cache: None,
        console,
        preserve_fds: 0,
    })
    .and_then(Created::start)
    .unwrap();
    assert!(text(output).contains("Operation not permitted"));
    assert_eq!(process::wait(&process.pidfd).unwrap(), 1);
    Place::end(container);
}

pub(crate) fn privileged_mounts_are_as_written() {
    let Some(place) = Place::new("mounts") else { return };
    let host = place.directory.join("host");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    std::fs::write(host.join("file"), "from the host\n").unwrap();
    std::fs::create_dir_all(place.directory.join("rootfs/data/deep")).unwrap();
    std::fs::write(place.directory.join("rootfs/data/deep/old"), "from the image\n").unwrap();
    std::fs::set_permissions(place.directory.join("rootfs/data"), std::fs::Permissions::from_mode(0o750))
        .unwrap();
    let script = "cat /ro/file /one; touch /ro/x; touch /rw/x && echo written; touch /y; \
        cat /data/deep/old; touch /data/new && ls -ld /data | cut -c1-10; \
        grep -E ' /(data|ro|rw|one) ' /proc/self/mounts | cut -d' ' -f2,4; touch /proc/sys/x";
    let spec = place.spec(&["sh", "-c", script], |s| {
        s["root"]["readonly"] = json!(true);
        let source = |name: &str| place.directory.join(name).to_str().unwrap().to_owned();
        push(
            &mut s["mounts"],
            json!({"destination": "/ro", "type": "bind", "source": source("host"),
            "options": ["rbind", "rro", "nosuid", "rprivate"]}),
        );
        push(
            &mut s["mounts"],
            json!({"destination": "/rw", "type": "bind", "source": "host/sub", "options": ["bind"]}),
        );
        push(
            &mut s["mounts"],
            json!({"destination": "/one", "source": source("host/file"), "options": ["bind", "ro"]}),
        );
        push(
            &mut s["mounts"],
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "size=1m", "noexec"]}),
        );
    });
    let (_, out) = run(&place, &spec);
    assert!(out.starts_with("from the host\nfrom the host\n"), "{out}");
    assert!(out.contains("touch: /ro/x: Read-only") && out.contains("written"), "{out}");
    assert!(out.contains("touch: /y: Read-only"), "{out}");
    assert!(out.contains("from the image\ndrwxr-x---"), "{out}");
    assert!(out.contains("/ro ro,nosuid") && out.contains("/rw rw") && out.contains("/one ro"), "{out}");
    assert!(out.contains("/data rw,noexec"), "{out}");
    assert!(host.join("sub/x").exists());
    assert!(!place.directory.join("rootfs/data/new").exists(), "the tmpfs hides the image");
}

pub(crate) fn privileged_devices_are_made_and_limited() {
    let Some(place) = Place::new("devices") else { return };
    let script = "ls -l /dev/mine | cut -c1-10; stat -c %t:%T:%u /dev/mine; cat /dev/mine | head -c1 | wc -c; \
        mknod /tmp/kmsg c 1 11; cat /tmp/kmsg; echo x > /dev/null && echo null works; ls /dev";
    let spec = place.spec(&["sh", "-c", script], |s| {
        s["process"]["capabilities"] = json!({"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]});
        s["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 0, "gid": 3}]);
        s["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}]);
    });
    let (_, out) = run(&place, &spec);
    assert!(out.starts_with("crw-r-----\n1:5:0\n1\n"), "{out}");
    assert!(out.contains("null works"), "{out}");
    for name in
        ["null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx"]
    {
        assert!(out.lines().any(|l| l == name), "no /dev/{name}: {out}");
    }
    if robot_env_sys::cgroup::detect().is_writable() {
        assert!(out.contains("can't open '/tmp/kmsg': Operation not permitted"), "{out}");
    }
}

pub(crate) fn privileged_kernel_parameters_are_the_containers_own() {
    let Some(place) = Place::new("sysctl") else { return };
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let spec = place.spec(&["cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_forward"], |s| {
        s["linux"]["sysctl"] = json!({"kernel.msgmax": "12345", "net.ipv4.ip_forward": "1"});
    });
    assert_eq!(run(&place, &spec), (0, "12345\n1\n".to_owned()));
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), host);
    for name in ["kernel.panic", "vm.swappiness", "kernel.core_pattern"] {
        let spec = place.spec(&["true"], |s| s["linux"]["sysctl"] = json!({name: "1"}));
        assert_eq!(place.create(&spec, streams().0).unwrap_err().kind(), Kind::Denied, "{name}");
    }
}

pub(crate) fn privileged_hooks_run_in_their_order() {
    let Some(place) = Place::new("hooks") else { return };
    let log = place.directory.join("log");
    let hook = |name: &str, at: &str| {
        json!([{"path": "/bin/busybox", "args": ["sh", "-c", format!("/bin/busybox tr -d '\\n' >> {at}; echo ' {name} '$X >> {at}")],
            "env": ["X=1"]}])
    };
    let outside = log.to_str().unwrap();
    let spec = place.spec(&["cat", "/tmp/log"], |s| {
        s["hooks"] = json!({
            "prestart": hook("prestart", outside), "createRuntime": hook("createRuntime", outside),
            "createContainer": hook("createContainer", outside), "startContainer": hook("startContainer", "/tmp/log"),
        });
        s["annotations"] = json!({"who": "me"});
    });
    let (code, inside) = run(&place, &spec);
    assert_eq!(code, 0, "{inside}");
    let outside = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = outside.lines().chain(inside.lines()).collect();
    let names = ["prestart", "createRuntime", "createContainer", "startContainer"];
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, name) in lines.iter().zip(names) {
        let (state, rest) = line.rsplit_once('}').unwrap();
        assert_eq!(rest.trim(), format!("{name} 1"));
        let state: robot_env_runtime::State = serde_json::from_str(&format!("{state}}}")).unwrap();
        assert_eq!((state.id.as_str(), state.bundle.as_path()), ("test", place.directory.as_path()));
        assert_eq!(state.annotations["who"], "me");
        assert!(state.pid > 0);
    }
    // One that fails fails the container, and says which.
    let spec = place.spec(&["true"], |s| {
        s["hooks"] = json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sh", "-c", "echo no way >&2; exit 3"]}]});
    });
    let error = place.create(&spec, streams().0).unwrap_err();
    assert!(
        error.to_string().contains("createRuntime hook") && error.causes()[0].contains("no way"),
        "{error:?}"
    );
    let spec = place.spec(&["true"], |s| {
        s["hooks"] =
            json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sleep", "60"], "timeout": 1}]});
    });
    assert_eq!(place.create(&spec, streams().0).unwrap_err().kind(), Kind::Unavailable);
}

pub(crate) fn privileged_a_user_namespace_is_mapped() {
    let Some(place) = Place::new("userns") else { return };
    // The mapped root owns its root file system, as an image unpacked for it would be.
    for directory in ["", "proc", "sys", "dev", "tmp"] {
        let path = place.directory.join("rootfs").join(directory);
        std::fs::create_dir_all(&path).unwrap();
        chown(&path, Some(100_000), Some(100_000)).unwrap();
    }
    for path in [&place.directory, &place.directory.join("rootfs")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let change = |s: &mut serde_json::Value| {
        push(&mut s["linux"]["namespaces"], json!({"type": "user"}));
        push(&mut s["linux"]["namespaces"], json!({"type": "cgroup"}));
        s["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        s["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    };
    let script = "id -u; cat /proc/self/uid_map; echo x > /dev/null && echo null; touch /tmp/made; hostname; \
        cat /sys/class/net/lo/flags; readlink /proc/self/ns/user; head -n1 /proc/self/cgroup";
    let (code, out) = run(&place, &place.spec(&["sh", "-c", script], change));
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("0\n") && out.contains("100000      65536\nnull\ninside\n0x9\n"), "{out}");
    let made = std::fs::metadata(place.directory.join("rootfs/tmp/made")).unwrap();
    assert_eq!(made.uid(), 100_000);

    // A second container and an exec join it.
    let first = place.start(&place.spec(&["sleep", "100"], change));
    let namespace = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid);
    let (console, output) = streams();
    let second = place
        .create(
            &place.spec(&["sh", "-c", "id -u; readlink /proc/self/ns/user; echo $$"], |s| {
                change(s);
                s["linux"]["namespaces"] = json!([{"type": "user", "path": namespace("user")}, {"type": "mount"},
                    {"type": "pid"}, {"type": "uts"}, {"type": "network", "path": namespace("net")}, {"type": "ipc"}]);
            }),
            console,
        )
        .and_then(Created::start)
        .unwrap();
    let out = text(output);
    let user = std::fs::read_link(namespace("user")).unwrap();
    assert_eq!(out, format!("0\n{}\n1\n", user.display()));
    assert_eq!(process::wait(&second.pidfd).unwrap(), 0);
    if let Some(cgroup) = second.cgroup {
        cgroup.remove();
    }

    let inside = place.spec(&["sh", "-c", "id -u; readlink /proc/self/ns/user; hostname"], |s| {
        s["process"]["user"] = json!({"uid": 5, "gid": 5});
    });
    let (console, output) = streams();
    let process = exec(Exec {
        pid: first.pid,
        pidfd: first.pidfd.as_fd(),
        process: inside.process().as_ref().unwrap(),
        cgroup: first.cgroup.as_ref(),
        seccomp: None,
        seccomp_cache: None,
        console,
        preserve_fds: 0,
    })
    .and_then(Created::start)
    .unwrap();
    assert_eq!(text(output), format!("5\n{}\ninside\n", user.display()));
    assert_eq!(process::wait(&process.pidfd).unwrap(), 0);
    Place::end(first);
}

pub(crate) fn privileged_namespaces_are_shared_by_path() {
    let Some(place) = Place::new("join") else { return };
    let first = place.start(&place.spec(&["sleep", "100"], |_| {}));
    let namespace = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid);
    let spec =
        place.spec(&["sh", "-c", "hostname; ls -d /proc/[0-9]* | wc -l; readlink /proc/self/ns/net"], |s| {
            s["hostname"] = json!("");
            s["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid", "path": namespace("pid")},
            {"type": "network", "path": namespace("net")}, {"type": "ipc", "path": namespace("ipc")},
            {"type": "uts", "path": namespace("uts")}]);
        });
    let (code, out) = run(&place, &spec);
    let network = std::fs::read_link(namespace("net")).unwrap();
    assert_eq!(code, 0, "{out}");
    // sleep, sh, ls and wc (or one of these not yet there).
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2]), ("inside", network.to_str().unwrap()), "{out}");
    assert!((2..=4).contains(&lines[1].parse::<i32>().unwrap()), "{out}");
    // This process's own children are where they were before.
    let own = std::process::Command::new("readlink").arg("/proc/self/ns/pid").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&own.stdout).trim(),
        std::fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap()
    );
    Place::end(first);
}

pub(crate) fn privileged_time_is_shifted() {
    let Some(place) = Place::new("time") else { return };
    if !Path::new("/proc/self/ns/time").exists() {
        println!("skipped: no time namespaces in this kernel");
        return;
    }
    let spec = place.spec(&["cat", "/proc/uptime"], |s| {
        push(&mut s["linux"]["namespaces"], json!({"type": "time"}));
        s["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    });
    let (code, out) = run(&place, &spec);
    let uptime: f64 = out.split(' ').next().unwrap().parse().unwrap();
    assert!(code == 0 && uptime > 1_000_000.0, "{out}");
    let own: f64 =
        std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(own < uptime - 900_000.0);
}

pub(crate) fn privileged_a_terminal_is_the_console() {
    let Some(place) = Place::new("terminal") else { return };
    let spec =
        place.spec(&["sh", "-c", "tty; stty size; stat -c %u /dev/pts/0; echo over > /dev/console"], |s| {
            s["process"]["terminal"] = json!(true);
            s["process"]["user"]["uid"] = json!(12);
        });
    let container =
        place.create(&spec, Console::Terminal { size: (33, 111) }).and_then(Created::start).unwrap();
    let out = drain(container.master.as_ref().unwrap());
    assert_eq!(out, "/dev/pts/0\r\n33 111\r\n12\r\nover\r\n");
    assert_eq!(process::wait(&container.pidfd).unwrap(), 0);
    if let Some(cgroup) = container.cgroup {
        cgroup.remove();
    }
}

pub(crate) fn privileged_limits_are_in_the_cgroup() {
    let Some(place) = Place::new("limits") else { return };
    let hierarchies = robot_env_sys::cgroup::detect();
    if !hierarchies.is_writable() {
        println!("skipped: no writable cgroups here");
        return;
    }
    let spec = place.spec(&["sleep", "100"], |s| {
        s["linux"]["resources"] = json!({"pids": {"limit": 20}, "memory": {"limit": 64 << 20, "swap": 128 << 20},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"}});
    });
    let container = place.start(&spec);
    let cgroup = container.cgroup.as_ref().unwrap();
    assert_eq!(cgroup.processes(), [container.pid]);
    assert_eq!(cgroup.number("pids", "pids.max"), Some(20));
    if hierarchies.version() == robot_env_sys::cgroup::Version::V1 {
        assert_eq!(cgroup.number("memory", "memory.limit_in_bytes"), Some(64 << 20));
        assert_eq!(cgroup.number("cpu", "cpu.shares"), Some(512));
        assert_eq!(cgroup.number("cpu", "cpu.cfs_quota_us"), Some(50_000));
        assert_eq!(cgroup.read("cpuset", "cpuset.cpus").unwrap().trim(), "0");
    }
    cgroup.freeze(true).unwrap();
    cgroup.freeze(false).unwrap();
    let path = cgroup.directory("pids").unwrap().to_owned();
    Place::end(container);
    assert!(!path.exists());
}

pub(crate) fn privileged_hostile_specs_and_images_are_refused() {
    let Some(place) = Place::new("hostile") else { return };
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let result =
            place.create(&place.spec(&["true"], |s| change(s)), streams().0).and_then(Created::start);
        result.expect_err("it is refused")
    };
    // CVE-2024-21626: a working directory behind a descriptor of the host.
    for number in 3..12 {
        let error = refused(&|s| s["process"]["cwd"] = json!(format!("/proc/self/fd/{number}")));
        assert!(matches!(error.kind(), Kind::NotFound | Kind::Denied | Kind::InvalidInput), "{error:?}");
    }
    // CVE-2019-16884: something harmless over what will be written to.
    let error = refused(&|s| {
        push(&mut s["mounts"], json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"}));
    });
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    let error = refused(&|s| {
        s["mounts"][0] =
            json!({"destination": "/proc", "type": "bind", "source": "/tmp", "options": ["bind"]});
    });
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    // An image whose /dev is its own, with links where nodes belong.
    std::fs::create_dir_all(place.directory.join("rootfs/dev")).unwrap();
    symlink("/etc/marker", place.directory.join("rootfs/dev/null")).unwrap();
    let error = refused(&|s| {
        let mounts = s["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    });
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    assert!(!place.directory.join("rootfs/etc/marker").exists());
    // Nothing is left of a failure.
    let id = place.directory.file_name().unwrap().to_str().unwrap();
    let left = robot_env_sys::cgroup::detect().cgroup(&format!("/robot-env-test/{id}"), &[]);
    assert!(left.read("pids", "pids.max").is_none());
}

pub(crate) fn privileged_descriptors_can_be_handed_in() {
    let Some(place) = Place::new("handed") else { return };
    let (console, output) = streams();
    std::fs::write(place.directory.join("handed"), "handed in\n").unwrap();
    let file = std::fs::File::open(place.directory.join("handed")).unwrap();
    let third = rustix::io::fcntl_dupfd_cloexec(&file, 3).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&third);
    let count = number as u32 - 2;
    let spec = place.spec(&["sh", "-c", &format!("cat <&{number}; ls /proc/self/fd | wc -l")], |_| {});
    let process = place.create_with(&spec, console, count).and_then(Created::start).unwrap();
    let mut out = String::new();
    std::fs::File::from(output).read_to_string(&mut out).unwrap();
    assert!(out.starts_with("handed in\n"), "{out}");
    process::wait(&process.pidfd).unwrap();
    if let Some(cgroup) = process.cgroup {
        cgroup.remove();
    }
}
