//! `robot-env runtime` under Debian's Docker and Podman: they make the bundles, this program makes
//! the containers. Needs root, busybox-static and the packages docker.io and podman; a test whose
//! peer is not there says so. Each peer runs in a directory and a mount namespace of its own
//! (`bench/peers`).

#![allow(clippy::print_stdout)] // why a test is skipped

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_testkit::temporary::TemporaryDirectory;

const IMAGE: &str = "localhost/robot-env-test:1";

/// A peer's command line, with this program as its runtime.
struct Peer {
    is_docker: bool,
    /// `docker`, or `podman --runtime PROGRAM`.
    words: Vec<String>,
    /// What `run` and `create` need beside.
    run: Vec<String>,
    /// Where the runtime's calls are written, a line each.
    calls: PathBuf,
    directory: TemporaryDirectory,
}

/// What a command did.
#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    err: String,
}

fn peers(directory: &Path) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/peers"));
    command.env("ROBOT_ENV_PEERS", directory.join("p"));
    command
}

fn wait(mut command: Command) -> Done {
    let output = command.stdin(Stdio::null()).output().expect("the program is there");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout.as_slice()),
        err: text(output.stderr.as_slice()),
    }
}

/// The peer with an image of busybox; `None`, with the reason printed, where it cannot be.
fn peer(name: &str, program: &str) -> Option<Peer> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|p| p.exists());
    let Some(busybox) = busybox else {
        println!("skipped: busybox-static is not installed");
        return None;
    };
    if !Path::new(program).exists() {
        println!("skipped: `{program}` is not installed");
        return None;
    }
    let directory = TemporaryDirectory::new("peer");
    // A link gives the program its name as a runtime; the script before it keeps what was asked.
    let link = directory.join("robot-env-runtime");
    symlink(env!("CARGO_BIN_EXE_robot-env"), &link).unwrap();
    let (script, calls) = (directory.join("runtime"), directory.join("calls"));
    let text = format!("#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n", calls.display(), link.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = peers(directory.path());
    command.args(["start", name]).env("PEERS_DOCKER_RUNTIME", format!("robot-env={}", script.display()));
    let started = wait(command);
    let wrapper = directory.join("p/bin").join(name).display().to_string();
    let (words, run) = match name {
        "docker" => (vec![wrapper], vec!["--runtime".to_owned(), "robot-env".to_owned()]),
        _ => (vec![wrapper, "--runtime".into(), script.display().to_string()], Vec::new()),
    };
    let peer = Peer { is_docker: name == "docker", words, run, calls, directory };
    assert_eq!(started.code, 0, "{name} does not start: {}", started.err);
    let tar = peer.root_file_system(busybox);
    peer.good(&["import", &tar, IMAGE]);
    Some(peer)
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut command = peers(self.directory.path());
        command.arg("stop");
        let stopped = wait(command);
        let failing = std::thread::panicking();
        assert!(stopped.code == 0 || failing, "the peer does not stop: {}", stopped.err);
    }
}

impl Peer {
    /// A tar of busybox and what a program looks for.
    fn root_file_system(&self, busybox: &Path) -> String {
        let root = self.directory.join("rootfs");
        for name in ["bin", "etc", "tmp", "data"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        let tools =
            "sh echo sleep id cat tty stat touch test hostname ls mount grep env pwd kill true ps stty";
        for name in tools.split(' ') {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nrobot:x:1000:1000::/data:/bin/sh\n")
            .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nrobot:x:1000:\n").unwrap();
        std::fs::write(root.join("bin/text"), "no program\n").unwrap();
        let tar = self.directory.join("rootfs.tar").display().to_string();
        let mut command = Command::new("tar");
        command.arg("-C").arg(&root).args(["-cf", &tar, "."]);
        assert_eq!(wait(command).code, 0);
        tar
    }

    fn call(&self, args: &[&str]) -> Done {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(args);
        wait(command)
    }

    /// Its output, without spaces around; it must do.
    fn good(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done.out.trim().to_owned()
    }

    fn words<'a>(&'a self, flags: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["run"];
        words.extend(self.run.iter().map(String::as_str));
        words.extend(["--network", "none"]);
        words.extend(flags);
        words.push(IMAGE);
        words.extend(program);
        words
    }

    /// `run --rm` with a program.
    fn run(&self, flags: &[&str], program: &[&str]) -> Done {
        let flags: Vec<&str> = ["--rm"].into_iter().chain(flags.iter().copied()).collect();
        self.call(&self.words(&flags, program))
    }

    /// `run --rm` with a script that must do; its output.
    fn script(&self, flags: &[&str], script: &str) -> String {
        let done = self.run(flags, &["sh", "-c", script]);
        assert_eq!(done.code, 0, "{flags:?} {script}: {done:?}");
        done.out.trim().to_owned()
    }

    /// A container in the background.
    fn start(&self, name: &str, flags: &[&str], script: &str) {
        let mut all = vec!["-d", "--name", name];
        all.extend(flags);
        self.good(&self.words(&all, &["sh", "-c", script]));
    }

    /// Removes a running container at once: podman would wait for its end.
    fn remove(&self, name: &str) {
        let wait: &[&str] = if self.is_docker { &[] } else { &["-t", "0"] };
        self.good(&[&["rm", "-f"], wait, &[name]].concat());
    }

    /// Whether the runtime was asked for `verb`.
    fn was_asked(&self, verb: &str) -> bool {
        let calls = std::fs::read_to_string(&self.calls).unwrap();
        calls.lines().any(|line| line.split(' ').any(|word| word == verb))
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What both peers must be able to do.
fn try_everything(peer: &Peer) {
    output_and_exit_codes(peer);
    what_flags_ask_for(peer);
    a_life_in_the_background(peer);
    terminals(peer);
    for verb in ["create", "start", "exec", "kill", "delete", "pause", "resume", "update"] {
        assert!(peer.was_asked(verb), "`{verb}` was called");
    }
}

fn output_and_exit_codes(peer: &Peer) {
    let done = peer.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(peer.run(&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).code, 137);
    for (program, code) in [("nothing", 127), ("/etc/nothing", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let done = peer.run(&[], &[program]);
        assert_eq!(done.code, code, "{program}: {done:?}");
        assert!(!done.err.is_empty(), "{program}");
    }
    // Nothing of those is left.
    assert_eq!(peer.good(&["ps", "-aq"]), "");
}

fn what_flags_ask_for(peer: &Peer) {
    let volume = peer.directory.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from outside\n").unwrap();
    let read_only = format!("{}:/data:ro", volume.display());
    let writable = format!("{}:/data", volume.display());
    for (flags, script, want) in [
        (&["--user", "1000:1000"][..], "id -u; id -g", "1000\n1000"),
        (&["--user", "robot", "--group-add", "44"], "id -u; id -G", "1000\n1000 44"),
        (&["--hostname", "arm", "-e", "A=b c"], "hostname; echo $A", "arm\nb c"),
        (&["-w", "/tmp"], "pwd", "/tmp"),
        (&["-v", &read_only], "cat /data/file; touch /data/x 2>/dev/null || echo no", "from outside\nno"),
        (&["-v", &writable], "touch /data/x && echo yes", "yes"),
        (
            &["--read-only", "--tmpfs", "/tmp"],
            "touch /x 2>/dev/null || echo no; touch /tmp/x && echo yes",
            "no\nyes",
        ),
        (&["--cap-drop", "ALL"], "grep CapEff /proc/self/status | cat", "CapEff:\t0000000000000000"),
        (
            &["--cap-drop", "ALL", "--cap-add", "SYS_TIME"],
            "grep CapBnd /proc/self/status",
            "CapBnd:\t0000000002000000",
        ),
        (&[], "grep '^Seccomp:' /proc/self/status", "Seccomp:\t2"),
        (&["--security-opt", "seccomp=unconfined"], "grep '^Seccomp:' /proc/self/status", "Seccomp:\t0"),
        (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
        (&["--ulimit", "nofile=99:100"], "ulimit -n; ulimit -Hn", "99\n100"),
        (&["--shm-size", "1m"], "grep -o 'shm.*size=1024k' /proc/mounts | grep -c .", "1"),
        (&[], "echo $$; ls /proc | grep -c '^[0-9]*$'", "1\n3"),
        (&["--device", "/dev/full:/dev/whole:r"], "test -c /dev/whole && echo yes", "yes"),
        (&["--privileged"], "grep CapEff /proc/self/status | grep -c 0000000000000000", ""),
        (&["--pid", "host"], "test $$ != 1 && echo host", "host"),
    ] {
        if want.is_empty() {
            assert_eq!(peer.run(flags, &["sh", "-c", script]).code, 1, "{flags:?} {script}");
        } else {
            assert_eq!(peer.script(flags, script), want, "{flags:?} {script}");
        }
    }
    assert!(volume.join("x").exists());
    // Podman looks for an init of its own, which Debian has not got.
    if !peer.is_docker && !Path::new("/usr/libexec/podman/catatonit").exists() {
        println!("skipped: --init, podman has no init program");
    } else {
        assert_eq!(peer.script(&["--init"], "test $$ != 1 && echo child"), "child");
    }
}

fn a_life_in_the_background(peer: &Peer) {
    peer.start(
        "life",
        &["--memory", "64m"],
        "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done",
    );
    let state = |what: &str| peer.good(&["inspect", "-f", &format!("{{{{.State.{what}}}}}"), "life"]);
    until("it is up", || peer.good(&["logs", "life"]) == "up");
    assert_eq!(state("Running"), "true");
    let pid: i32 = state("Pid").parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(
        peer.good(&[
            "exec",
            "-e",
            "X=1",
            "-u",
            "1000",
            "-w",
            "/tmp",
            "life",
            "sh",
            "-c",
            "echo $X; id -u; pwd"
        ]),
        "1\n1000\n/tmp"
    );
    assert_eq!(peer.call(&["exec", "life", "sh", "-c", "exit 9"]).code, 9);
    // Docker 20.10 says 126, whatever the runtime's words are.
    let code = peer.call(&["exec", "life", "nothing"]).code;
    assert!([126, 127].contains(&code), "{code}");
    assert_eq!(peer.call(&["exec", "life", "/etc/passwd"]).code, 126);
    peer.good(&["exec", "-d", "life", "touch", "/tmp/done"]);
    until("the detached program has run", || {
        peer.call(&["exec", "life", "test", "-e", "/tmp/done"]).code == 0
    });
    peer.good(&["pause", "life"]);
    assert_eq!(state("Paused"), "true");
    assert_ne!(peer.call(&["exec", "life", "true"]).code, 0, "a paused one starts nothing");
    peer.good(&["unpause", "life"]);
    peer.good(&["update", "--cpu-shares", "512", "life"]);
    assert!(peer.good(&["top", "life"]).contains("sleep"));
    assert!(peer.good(&["stats", "--no-stream", "life"]).contains("life"));
    peer.good(&["stop", "life"]);
    assert_eq!(state("ExitCode"), "5");
    assert_eq!(peer.good(&["logs", "life"]), "up\nbye");
    peer.good(&["start", "life"]);
    until("it is up again", || peer.good(&["logs", "life"]) == "up\nbye\nup");
    peer.good(&["kill", "-s", "TERM", "life"]);
    assert_eq!(peer.good(&["wait", "life"]), "5");
    peer.good(&["start", "life"]);
    peer.remove("life");
    assert_eq!(peer.good(&["ps", "-aq"]), "");
}

fn terminals(peer: &Peer) {
    assert_eq!(
        peer.script(&["-t"], "tty; test -t 0 && test -t 1 && test -t 2 && echo yes"),
        "/dev/pts/0\r\nyes"
    );
    peer.start("screen", &["-t"], "sleep 100");
    let seen = peer.good(&["exec", "-t", "screen", "sh", "-c", "tty"]);
    assert!(seen.starts_with("/dev/pts/"), "{seen}");
    peer.remove("screen");
}

#[test]
fn privileged_docker_runs_containers_with_this_runtime() {
    let Some(peer) = peer("docker", "/usr/sbin/dockerd") else { return };
    try_everything(&peer);
}

#[test]
fn privileged_podman_runs_containers_with_this_runtime() {
    let Some(peer) = peer("podman", "/usr/bin/podman") else { return };
    try_everything(&peer);
}
