use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use robot_env_diag::Kind;
use robot_env_runtime::{Console, Created, Exec, exec};
use robot_env_sys::process;

use crate::place::{Place, run, streams, text};

pub(crate) fn privileged_a_container_is_isolated() {
    let Some(place) = Place::new("isolated") else { return };
    let script = "hostname; echo pid=$$; id -u; ls /; cat /proc/kcore | head -c1; (echo x > /proc/sys/kernel/domainname) 2>&1; \
                cat /sys/class/net/lo/flags; grep CapEff /proc/self/status; ls /proc/self/fd";
    let (code, out) = run(&place, &place.spec(&["sh", "-c", script], |_| {}));
    assert_eq!(code, 0, "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[..3], ["inside", "pid=1", "0"], "{out}");
    assert!(out.contains("Read-only file system"), "{out}");
    assert!(out.contains("0x9"), "lo is up: {out}");
    assert!(out.contains("CapEff:\t0000000000000020"), "{out}");
    assert!(out.ends_with("0\n1\n2\n3\n"), "no descriptor leaks in (3 is ls's own): {out}");
}

pub(crate) fn privileged_failures_have_their_kinds() {
    let Some(place) = Place::new("failures") else { return };
    std::fs::write(place.directory.join("rootfs/bin/plain"), "text").unwrap();
    for (args, kind) in [
        (&["nothing"][..], Kind::CommandNotFound),
        (&["/bin/nothing"], Kind::CommandNotFound),
        (&["/bin/plain"], Kind::CommandNotExecutable),
        (&["/etc"], Kind::CommandNotExecutable),
    ] {
        let (console, _output) = streams();
        let spec = place.spec(args, |_| {});
        let error = place.create(&spec, console).and_then(Created::start).expect_err("it fails");
        assert_eq!(error.kind(), kind, "{args:?}: {error:?}");
    }
    let (code, _) = run(&place, &place.spec(&["sh", "-c", "exit 7"], |_| {}));
    assert_eq!(code, 7);
    let (code, _) = run(
        &place,
        &place.spec(&["sh", "-c", "kill -9 $$; sleep 1"], |s| {
            s["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}, {"type": "uts"}]);
        }),
    );
    assert_eq!(code, 137);
}

pub(crate) fn privileged_an_image_cannot_redirect_mounts() {
    let Some(place) = Place::new("redirect") else { return };
    symlink("/etc", place.directory.join("rootfs/proc")).unwrap();
    let (console, _output) = streams();
    let error = place
        .create(&place.spec(&["true"], |_| {}), console)
        .expect_err("a symbolic link at /proc is refused");
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    std::fs::remove_file(place.directory.join("rootfs/proc")).unwrap();
    // A destination behind a link is resolved inside the root.
    symlink("/../../../tmp", place.directory.join("rootfs/way")).unwrap();
    let marker = format!("re-marker-{}", std::process::id());
    let spec = place.spec(&["sh", "-c", &format!("touch /tmp/dir/{marker}; ls /tmp/dir")], |s| {
        s["mounts"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!({"destination": "/way/dir", "type": "tmpfs", "source": "tmpfs"}));
    });
    let (code, out) = run(&place, &spec);
    assert_eq!((code, out.trim()), (0, marker.as_str()));
    assert!(!Path::new("/tmp/dir").join(&marker).exists());
}

pub(crate) fn privileged_exec_joins_with_a_terminal() {
    let Some(place) = Place::new("exec") else { return };
    let spec = place.spec(&["sleep", "100"], |_| {});
    let (console, _output) = streams();
    let container = place.create(&spec, console).and_then(Created::start).unwrap();
    let inside =
        place.spec(&["sh", "-c", "hostname; id -u; exit 3"], |s| s["process"]["user"]["uid"] = 12.into());
    let (console, output) = streams();
    let request = |spec, console| Exec {
        pid: container.pid,
        pidfd: container.pidfd.as_fd(),
        process: spec,
        cgroup: container.cgroup.as_ref(),
        seccomp: None,
        seccomp_cache: None,
        console,
        preserve_fds: 0,
    };
    let process =
        exec(request(inside.process().as_ref().unwrap(), console)).and_then(Created::start).unwrap();
    assert_eq!(text(output), "inside\n12\n");
    assert_eq!(process::wait(&process.pidfd).unwrap(), 3);
    let inside = place.spec(&["tty"], |_| {});
    let process = exec(request(inside.process().as_ref().unwrap(), Console::Terminal { size: (24, 80) }))
        .and_then(Created::start)
        .unwrap();
    assert_eq!(process::wait(&process.pidfd).unwrap(), 0);
    let mut buffer = [0u8; 100];
    let n = rustix::io::read(process.master.as_ref().unwrap(), &mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"/dev/pts/0\r\n");
    process::signal(&container.pidfd, 9).unwrap();
    assert_eq!(process::wait(&container.pidfd).unwrap(), 137);
    if let Some(cgroup) = container.cgroup {
        cgroup.remove();
    }
}
