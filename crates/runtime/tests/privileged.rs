//! Real containers: a busybox root file system, real namespaces, real cgroups. Needs root and
//! `busybox-static`; says why when it skips.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use robot_env_diag::Kind;
use robot_env_runtime::{Console, Create, Exec, Rootfs, Stdio, create, exec};
use robot_env_sys::{cgroup, poll, process};

struct Place {
    directory: PathBuf,
}

impl Place {
    fn new(name: &str) -> Option<Place> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            println!("skipped: needs /bin/busybox (package busybox-static)");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("re-runtime-{name}-{}", std::process::id()));
        for sub in ["rootfs/bin", "rootfs/etc", "rootfs/tmp", "anchor"] {
            std::fs::create_dir_all(directory.join(sub)).unwrap();
        }
        std::fs::copy("/bin/busybox", directory.join("rootfs/bin/busybox")).unwrap();
        for tool in ["sh", "id", "cat", "hostname", "ls", "echo", "sleep", "tty", "mount", "touch", "grep"] {
            symlink("busybox", directory.join("rootfs/bin").join(tool)).unwrap();
        }
        Some(Place { directory })
    }

    fn spec(&self, args: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            },
            "root": {"path": "rootfs"},
            "hostname": "inside",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/kcore", "/proc/timer_list"], "readonlyPaths": ["/proc/sys"],
                "resources": {"pids": {"limit": 50}},
            },
        });
        change(&mut spec);
        serde_json::from_value(spec).expect("the spec is well-formed")
    }

    fn create(&self, spec: &Spec, console: Console) -> robot_env_diag::Result<robot_env_runtime::Created> {
        let hierarchies = cgroup::detect();
        let path = format!("/robot-env-test/{}", self.directory.file_name().unwrap().to_str().unwrap());
        create(Create {
            spec,
            anchor: &self.directory.join("anchor"),
            rootfs: Rootfs::Path(self.directory.join("rootfs")),
            console,
            cgroup: hierarchies.is_writable().then_some((&hierarchies, path.as_str())),
            seccomp_cache: None,
            preserve_fds: 0,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Streams that end in the returned pipe.
fn streams() -> (Console, OwnedFd) {
    let (read, write) = poll::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let stdio = Stdio { stdin: null.into(), stdout: write.try_clone().unwrap(), stderr: write };
    (Console::Pipes(stdio), read)
}

fn text(fd: OwnedFd) -> String {
    let mut out = String::new();
    std::fs::File::from(fd).read_to_string(&mut out).unwrap();
    out
}

/// Runs to the end: exit code and output.
fn run(place: &Place, spec: &Spec) -> (i32, String) {
    let (console, output) = streams();
    let process = place.create(spec, console).and_then(robot_env_runtime::Created::start).expect("it starts");
    let output = text(output);
    let code = process::wait(&process.pidfd).unwrap();
    if let Some(cgroup) = process.cgroup {
        cgroup.remove();
    }
    (code, output)
}

// The tests clone a single-threaded process, which a test harness with threads is not; so all of
// them run in a process of their own.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os("RE_RUNTIME_ALONE").is_some_and(|v| v == name) {
        body();
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("RE_RUNTIME_ALONE", name)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    if let Some(line) = text.lines().find(|l| l.contains("skipped:")) {
        println!("{line}");
    }
}

/// Forks, so that the child has one thread, and fails if the child fails.
fn forked(body: impl FnOnce()) {
    let code = match process::clone_for_test() {
        process::Cloned::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            poll::exit_now(i32::from(result.is_err()))
        }
        process::Cloned::Parent { pidfd, .. } => process::wait(&pidfd).unwrap(),
    };
    assert_eq!(code, 0, "see the message above");
}

#[test]
fn privileged_a_container_is_isolated() {
    alone("privileged_a_container_is_isolated", || {
        forked(|| {
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
        });
    });
}

#[test]
fn privileged_failures_have_their_kinds() {
    alone("privileged_failures_have_their_kinds", || {
        forked(|| {
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
                let error = place.create(&spec, console).and_then(robot_env_runtime::Created::start).expect_err("it fails");
                assert_eq!(error.kind(), kind, "{args:?}: {error:?}");
            }
            let (code, _) = run(&place, &place.spec(&["sh", "-c", "exit 7"], |_| {}));
            assert_eq!(code, 7);
            let (code, _) = run(&place, &place.spec(&["sh", "-c", "kill -9 $$; sleep 1"], |s| s["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}])));
            assert_eq!(code, 137);
        });
    });
}

#[test]
fn privileged_an_image_cannot_redirect_mounts() {
    alone("privileged_an_image_cannot_redirect_mounts", || {
        forked(|| {
            let Some(place) = Place::new("redirect") else { return };
            symlink("/etc", place.directory.join("rootfs/proc")).unwrap();
            let (console, _output) = streams();
            let error = place.create(&place.spec(&["true"], |_| {}), console).expect_err("a symbolic link at /proc is refused");
            assert_eq!(error.kind(), Kind::Denied, "{error:?}");
            std::fs::remove_file(place.directory.join("rootfs/proc")).unwrap();
            // A destination behind a link is resolved inside the root.
            symlink("/../../../tmp", place.directory.join("rootfs/way")).unwrap();
            let marker = format!("re-marker-{}", std::process::id());
            let spec = place.spec(&["sh", "-c", &format!("touch /tmp/dir/{marker}; ls /tmp/dir")], |s| {
                s["mounts"].as_array_mut().unwrap().push(serde_json::json!({"destination": "/way/dir", "type": "tmpfs", "source": "tmpfs"}));
            });
            let (code, out) = run(&place, &spec);
            assert_eq!((code, out.trim()), (0, marker.as_str()));
            assert!(!Path::new("/tmp/dir").join(&marker).exists());
        });
    });
}

#[test]
fn privileged_exec_joins_with_a_terminal() {
    alone("privileged_exec_joins_with_a_terminal", || {
        forked(|| {
            let Some(place) = Place::new("exec") else { return };
            let spec = place.spec(&["sleep", "100"], |_| {});
            let (console, _output) = streams();
            let container = place.create(&spec, console).and_then(robot_env_runtime::Created::start).unwrap();
            let inside = place.spec(&["sh", "-c", "hostname; id -u; exit 3"], |s| s["process"]["user"]["uid"] = 12.into());
            let (console, output) = streams();
            let request = |spec, console| Exec {
                pid: container.pid,
                pidfd: container.pidfd.as_fd(),
                process: spec,
                cgroup: container.cgroup.as_ref(),
                filter: None,
                console,
                preserve_fds: 0,
            };
            let process = exec(request(inside.process().as_ref().unwrap(), console)).and_then(robot_env_runtime::Created::start).unwrap();
            assert_eq!(text(output), "inside\n12\n");
            assert_eq!(process::wait(&process.pidfd).unwrap(), 3);
            let inside = place.spec(&["tty"], |_| {});
            let process = exec(request(inside.process().as_ref().unwrap(), Console::Terminal { size: (24, 80) }))
                .and_then(robot_env_runtime::Created::start)
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
        });
    });
}
