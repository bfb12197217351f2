//! The runtime's command line, and other runtimes by theirs.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use robot_env_diag::Kind;
use robot_env_runtime::{Console, ExternalRuntime, Status, Stdio, command};
use robot_env_sys::poll::{Fork, exit_now, fork, replace_stdio};
use robot_env_sys::{mount, namespace, process};
use rustix::mount::MountPropagationFlags as PropagationFlags;
use serde_json::json;

use crate::place::{Place, streams, text};

/// Runs one command of the runtime in a process of its own: exit code, output, errors.
fn run(place: &Place, args: &[&str]) -> (i32, String, String) {
    let directory = &place.directory;
    let file = |name: &str| std::fs::File::create(directory.join(name)).unwrap();
    let (out, err) = (file("out"), file("err"));
    let code = match fork().unwrap() {
        Fork::Child => {
            let null = std::fs::File::open("/dev/null").unwrap();
            replace_stdio(0, &null).unwrap();
            replace_stdio(1, &out).unwrap();
            replace_stdio(2, &err).unwrap();
            let mut all: Vec<OsString> = vec!["--root".into(), directory.join("state").into()];
            all.extend(["--log".into(), directory.join("log").into(), "--log-format".into(), "json".into()]);
            all.extend(args.iter().map(OsString::from));
            exit_now(command::main(&all))
        }
        Fork::Parent(pid) => {
            let pid = rustix::process::Pid::from_raw(pid);
            let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap();
            status.and_then(|(_, status)| status.exit_status()).unwrap_or(-1)
        }
    };
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    (code, read("out"), read("err"))
}

fn bundle(place: &Place, args: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> String {
    let spec = place.spec(args, |s| {
        s["ociVersion"] = json!(ExternalRuntime::SPEC_VERSION);
        s["linux"]["cgroupsPath"] = json!(format!("/robot-env-test/{}", place.id()));
        change(s);
    });
    std::fs::write(place.directory.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    place.directory.to_str().unwrap().to_owned()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn privileged_a_container_lives_its_life_by_commands() {
    let Some(place) = Place::new("command") else { return };
    let hook = |name: &str| {
        let script = format!("cat > /dev/null; echo {name} >> {}", place.directory.join("hooks").display());
        json!([{"path": "/bin/busybox", "args": ["sh", "-c", script]}])
    };
    let bundle = bundle(
        &place,
        &["sh", "-c", "trap 'exit 0' TERM; echo up > /tmp/up; while :; do sleep 0.05; done"],
        |s| {
            s["hooks"] = json!({"poststart": hook("poststart"), "poststop": hook("poststop")});
            s["annotations"] = json!({"a": "b"});
        },
    );
    let status = || {
        let (code, out, err) = run(&place, &["state", "c"]);
        assert_eq!(code, 0, "{err}");
        let state: robot_env_runtime::State = serde_json::from_str(&out).unwrap();
        assert_eq!((state.id.as_str(), state.bundle.as_path()), ("c", place.directory.as_path()));
        assert_eq!(state.annotations["a"], "b");
        state
    };
    let good = |args: &[&str]| {
        let (code, out, err) = run(&place, args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        out
    };
    let bad = |args: &[&str], words: &str| {
        let (code, _, err) = run(&place, args);
        assert!(code != 0 && err.contains(words), "{args:?}: {code} {err}");
        let log = std::fs::read_to_string(place.directory.join("log")).unwrap();
        let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert!(last["level"] == "error" && last["msg"].as_str().unwrap().contains(words), "{last}");
    };
    let pid_file = place.directory.join("pid");
    good(&["create", "--bundle", &bundle, "--pid-file", pid_file.to_str().unwrap(), "c"]);
    assert_eq!(status().status, Status::Created);
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(status().pid, pid);
    bad(&["create", "-b", &bundle, "c"], "exists");
    bad(&["resume", "c"], "not paused");
    assert!(!place.directory.join("rootfs/tmp/up").exists());
    good(&["start", "c"]);
    assert_eq!(status().status, Status::Running);
    bad(&["start", "c"], "running already");
    bad(&["delete", "c"], "not stopped");
    until("it is up", || place.directory.join("rootfs/tmp/up").exists());
    assert_eq!(
        run(&place, &["exec", "-u", "5:6", "-e", "A=1", "c", "sh", "-c", "id -u; echo $A; exit 4"]).0,
        4
    );
    assert_eq!(good(&["exec", "c", "hostname"]), "inside\n");
    bad(&["exec", "c", "nothing"], "executable file not found in $PATH");
    assert!(good(&["list"]).contains("running"));
    assert_eq!(good(&["list", "-q"]), "c\n");
    if robot_env_sys::cgroup::detect().is_writable() {
        let pids: Vec<i32> = serde_json::from_str(&good(&["ps", "--format", "json", "c"])).unwrap();
        assert!(pids.contains(&pid));
        good(&["pause", "c"]);
        assert_eq!(status().status, Status::Paused);
        bad(&["exec", "c", "true"], "paused");
        good(&["resume", "c"]);
        good(&["update", "--pids-limit", "33", "c"]);
        let stats: serde_json::Value = serde_json::from_str(&good(&["events", "--stats", "c"])).unwrap();
        assert_eq!(stats["data"]["pids"]["limit"], 33);
    }
    good(&["kill", "c", "TERM"]);
    until("it has stopped", || status().status == Status::Stopped);
    bad(&["kill", "c", "TERM"], "not running");
    good(&["delete", "c"]);
    bad(&["state", "c"], "does not exist");
    assert_eq!(std::fs::read_to_string(place.directory.join("hooks")).unwrap(), "poststart\npoststop\n");
    let left = robot_env_sys::cgroup::detect().cgroup(&format!("/robot-env-test/{}", place.id()), &[]);
    assert!(left.read("pids", "pids.max").is_none());
}

pub(crate) fn privileged_commands_clean_up_after_failures() {
    let Some(place) = Place::new("failing") else { return };
    let there = bundle(&place, &["nothing"], |_| {});
    let (code, _, err) = run(&place, &["create", "-b", &there, "c"]);
    assert!(code == 1 && err.contains("executable file not found"), "{err}");
    assert_eq!(std::fs::read_dir(place.directory.join("state")).unwrap().count(), 0);
    let there = bundle(&place, &["sh", "-c", "exit 6"], |_| {});
    assert_eq!(run(&place, &["run", "-b", &there, "c"]).0, 6);
    let left = std::fs::read_dir(place.directory.join("state")).unwrap();
    assert_eq!(left.count(), 0);
    // One that was made and is not wanted any more.
    assert_eq!(run(&place, &["create", "-b", &there, "c"]).0, 0);
    assert_eq!(run(&place, &["delete", "c"]), (0, String::new(), String::new()));
    for (args, words) in [
        (&["create"][..], "id is missing"),
        (&["create", "-b", "/nonexistent", "x"], "cannot open bundle"),
        (&["create", "--no-pivot", "-b", &there, "x"], "not supported"),
        (&["nonsense"], "unknown command"),
        (&["kill", "x"], "does not exist"),
        (&["delete", "../x"], "invalid container id"),
        (&["state", "x", "y"], "unexpected"),
    ] {
        let (code, _, err) = run(&place, args);
        assert!(code == 1 && err.contains(words), "{args:?}: {err}");
    }
    assert_eq!(run(&place, &["delete", "--force", "never"]).0, 0);
}

pub(crate) fn privileged_runc_runs_our_bundles() {
    other_runtime("runc");
}

/// It reads a v2 tree beside v1 controllers as if the machine had cgroup v2, so it sees none.
pub(crate) fn privileged_crun_runs_our_bundles() {
    if rustix::process::geteuid().is_root() && Path::new("/sys/fs/cgroup/unified").exists() {
        namespace::unshare(libc::CLONE_NEWNS).unwrap();
        mount::set_propagation("/", PropagationFlags::PRIVATE | PropagationFlags::REC).unwrap();
        mount::detach("/sys/fs/cgroup/unified").unwrap();
    }
    other_runtime("crun");
}

fn other_runtime(name: &str) {
    let Some(place) = Place::new(name) else { return };
    let paths = ["/usr/sbin", "/usr/bin"].map(|directory| Path::new(directory).join(name));
    let Some(program) = paths.into_iter().find(|path| path.exists()) else {
        println!("skipped: needs {name}");
        return;
    };
    let root = Some(place.directory.join("state"));
    drive(&place, ExternalRuntime { root, ..ExternalRuntime::new(program) });
}

fn drive(place: &Place, runtime: ExternalRuntime) {
    process::become_subreaper().unwrap();
    bundle(place, &["sh", "-c", "echo up; sleep 100"], |_| {});
    let (console, output) = streams();
    let container = runtime.create("c", &place.directory, console).unwrap();
    assert_eq!(runtime.state("c").unwrap().status, Status::Created);
    runtime.start("c").unwrap();
    assert_eq!(runtime.state("c").unwrap().pid, container.pid);
    let inside = place.spec(&["sh", "-c", "hostname; id -u"], |s| s["process"]["user"]["uid"] = json!(9));
    let (console, said) = streams();
    let process = runtime.exec("c", &place.directory, inside.process().as_ref().unwrap(), console).unwrap();
    assert_eq!(text(said), "inside\n9\n");
    assert_eq!(process::wait(&process.pidfd).unwrap(), 0);
    let inside = place.spec(&["tty"], |s| s["process"]["terminal"] = json!(true));
    let console = Console::Terminal { size: (0, 0) };
    let process = runtime.exec("c", &place.directory, inside.process().as_ref().unwrap(), console).unwrap();
    assert_eq!(process::wait(&process.pidfd).unwrap(), 0);
    assert!(process.master.is_some());
    let inside = place.spec(&["nothing"], |_| {});
    let error = runtime.exec("c", &place.directory, inside.process().as_ref().unwrap(), null()).unwrap_err();
    assert_eq!(error.kind(), Kind::CommandNotFound, "{error:?}");
    process::reap_others(container.pid);
    if robot_env_sys::cgroup::detect().is_writable() {
        runtime.pause("c").unwrap();
        assert_eq!(runtime.state("c").unwrap().status, Status::Paused);
        runtime.resume("c").unwrap();
        assert_eq!(runtime.state("c").unwrap().status, Status::Running);
    }
    let error = runtime.delete("c", false).unwrap_err();
    assert!(runtime.state("c").is_ok(), "a running one stays: {error:?}");
    runtime.kill("c", 9).unwrap();
    assert_eq!(process::wait(&container.pidfd).unwrap(), 137);
    assert_eq!(text(output), "up\n");
    runtime.delete("c", true).unwrap();
    assert_eq!(runtime.state("c").unwrap_err().kind(), Kind::NotFound);
    bundle(place, &["nothing"], |_| {});
    let error = runtime.create("d", &place.directory, null()).unwrap_err();
    assert_eq!(error.kind(), Kind::CommandNotFound, "{error:?}");
    assert_eq!(runtime.state("d").unwrap_err().kind(), Kind::NotFound, "nothing of it is left");
    bundle(place, &["sh", "-c", "tty; stty size"], |s| s["process"]["terminal"] = json!(true));
    let container = runtime.create("t", &place.directory, Console::Terminal { size: (0, 0) }).unwrap();
    let master = container.master.unwrap();
    robot_env_sys::terminal::set_size(&master, (33, 99)).unwrap();
    runtime.start("t").unwrap();
    assert_eq!(process::wait(&container.pidfd).unwrap(), 0);
    let mut said = [0; 100];
    let length = rustix::io::read(&master, &mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    assert!(said.starts_with("/dev/"), "{said}");
    assert!(said.ends_with("33 99\r\n"), "{said}");
    runtime.delete("t", true).unwrap();
    let scratch = std::fs::read_dir(&place.directory).unwrap().flatten();
    assert!(
        !scratch
            .map(|e| e.file_name().into_string().unwrap())
            .any(|n| n.starts_with(".create") || n.starts_with(".exec"))
    );
}

fn null() -> Console {
    let open =
        || std::fs::File::options().read(true).write(true).open(Path::new("/dev/null")).unwrap().into();
    Console::Pipes(Stdio { stdin: open(), stdout: open(), stderr: open() })
}
