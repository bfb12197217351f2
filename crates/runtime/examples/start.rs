//! Starts a container again and again and says how long it takes:
//! `start ROOTFS ANCHOR [--net] [--seccomp PROFILE.json] [--no-cgroup] [--exec] [--count N]`.
#![allow(clippy::print_stdout)] // it is a program

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use robot_env_runtime::{Console, Create, Created, Exec, Rootfs, Stdio, create, exec};
use robot_env_sys::{cgroup, mount, process};

fn streams() -> Console {
    let open = || {
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").expect("/dev/null opens").into()
    };
    Console::Pipes(Stdio { stdin: open(), stdout: open(), stderr: open() })
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let us = |d: Duration| d.as_micros();
    println!(
        "{what:>10}: min {:>6} us, p50 {:>6} us, p90 {:>6} us",
        us(times[0]),
        us(times[times.len() / 2]),
        us(times[times.len() * 9 / 10])
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1));
    let has = |name: &str| args.iter().any(|a| a == name);
    let (rootfs, anchor) = (PathBuf::from(&args[0]), PathBuf::from(&args[1]));
    let count: usize = after("--count").map_or(100, |n| n.parse().expect("a number"));
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if has("--net") {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces.iter().map(|kind| serde_json::json!({"type": kind})).collect();
    let program =
        if has("--exec") { vec!["/bin/busybox", "sleep", "1000"] } else { vec!["/bin/busybox", "true"] };
    let mut json = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": program, "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"pids": {"limit": 2048}},
        },
    });
    if let Some(path) = after("--seccomp") {
        json["linux"]["seccomp"] =
            serde_json::from_slice(&std::fs::read(path).expect("the profile")).expect("JSON");
    }
    let spec = serde_json::from_value(json).expect("a spec");
    let hierarchies = cgroup::detect();
    let (mut created, mut started, mut ended, mut cleaned, mut whole) =
        (vec![], vec![], vec![], vec![], vec![]);
    let mut execs = vec![];
    for round in 0..if has("--exec") { 1 } else { count } {
        let path = format!("/robot-env-bench/{round}");
        let t0 = Instant::now();
        let lower = mount::clone_path(&rootfs.to_string_lossy(), false).expect("the rootfs");
        let made = create(Create {
            id: "bench",
            spec: &spec,
            bundle: Path::new("/"),
            anchor: &anchor,
            rootfs: Rootfs::Mount(lower),
            console: streams(),
            cgroup: (!has("--no-cgroup")).then_some((&hierarchies, path.as_str())),
            seccomp_cache: None,
            preserve_fds: 0,
            init: false,
            gate: None,
        })
        .expect("it is made");
        let t1 = Instant::now();
        let running = made.start().expect("it starts");
        let t2 = Instant::now();
        if has("--exec") {
            let inside: oci_spec::runtime::Process = serde_json::from_value(serde_json::json!({
                "user": {"uid": 0, "gid": 0}, "args": ["/bin/busybox", "true"], "env": ["PATH=/bin"], "cwd": "/"}))
            .expect("a process");
            for _ in 0..count {
                let t = Instant::now();
                let process = exec(Exec {
                    pid: running.pid,
                    pidfd: running.pidfd.as_fd(),
                    process: &inside,
                    cgroup: running.cgroup.as_ref(),
                    seccomp: spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()),
                    seccomp_cache: None,
                    console: streams(),
                    preserve_fds: 0,
                })
                .and_then(Created::start)
                .expect("it executes");
                assert_eq!(process::wait(&process.pidfd).expect("it ends"), 0);
                execs.push(t.elapsed());
            }
            process::signal(&running.pidfd, 9).expect("it is killed");
        }
        let code = process::wait(&running.pidfd).expect("it ends");
        assert!(code == 0 || has("--exec"));
        let t3 = Instant::now();
        if let Some(cgroup) = &running.cgroup {
            cgroup.remove();
        }
        let t4 = Instant::now();
        created.push(t1 - t0);
        started.push(t2 - t1);
        ended.push(t3 - t2);
        cleaned.push(t4 - t3);
        whole.push(t4 - t0);
    }
    if has("--exec") {
        return say("exec", execs);
    }
    say("create", created);
    say("start", started);
    say("end", ended);
    say("cgroup rm", cleaned);
    say("whole", whole);
}
