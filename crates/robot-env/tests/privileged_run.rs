//! Containers by the command line: their lives, streams, exit codes, users, and what is left when
//! processes of ours are killed. Needs root and busybox-static; a test that cannot run says so.

mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use place::Place;

macro_rules! place {
    ($name:literal) => {
        match Place::new($name) {
            Some(place) => place,
            None => return,
        }
    };
}

#[test]
fn privileged_exit_codes_are_dockers() {
    let place = place!("codes");
    place.sleeper("--name web");
    for (line, code, says) in [
        ("run --rm --network none busybox true", 0, ""),
        ("run --rm --network none busybox false", 1, ""),
        ("run --rm --network none busybox sh -c exit${IFS}42", 42, ""),
        ("run --rm --init --network none busybox sh -c kill${IFS}-9${IFS}$$", 137, ""),
        ("run --rm --network none busybox no-such-program", 127, "not found"),
        ("run --rm --network none busybox /etc/passwd", 126, "permission denied"),
        ("run --rm --network none busybox /data", 126, ""),
        ("run --rm --no-such-flag busybox true", 125, "unknown flag"),
        ("run --rm --network none --user nobody-here busybox true", 125, "nobody-here"),
        ("run --rm --network none -v /no/such:relative busybox true", 125, ""),
        ("run --rm --network no-such-network busybox true", 125, "no-such-network"),
        ("run --rm --network none --storage-opt size=1g busybox true", 125, "has no limit"),
        ("run --rm --pull never --network none no-such-image true", 125, "No such image"),
        ("run", 1, "needs <IMAGE>"),
        ("ps extra", 1, "takes no argument `extra`"),
        ("ps --extra", 125, "unknown flag: --extra"),
        ("rm", 1, "needs <CONTAINER>"),
        ("exec no-such-container true", 1, "No such container"),
        ("exec web true", 0, ""),
        ("exec web sh -c exit${IFS}9", 9, ""),
        ("exec web no-such-program", 127, "not found"),
        ("exec web /etc/passwd", 126, "permission denied"),
        ("exec -u nobody-here web true", 126, "unable to find user nobody-here"),
        ("exec -w relative web true", 126, "it needs to be an absolute path"),
        ("exec -w /no/such web true", 126, "/no/such"),
        ("exec web", 1, "needs <COMMAND>"),
        ("stop no-such-container", 1, "No such container"),
    ] {
        let done = place.run(line);
        assert_eq!(done.code, code, "{line}: {done:?}");
        assert!(done.err.contains(says), "{line}: {done:?}");
    }
    place.run("rm -f web").ok();
    place.assert_empty();
}

#[test]
fn privileged_a_life_from_create_to_rm() {
    let place = place!("life");
    let id = place.run("create --name web --network none --init busybox sleep 10000").ok();
    assert_eq!(id.len(), 64);
    assert_eq!(place.field("web", "{{.State.Status}} {{.State.Pid}}"), "created 0");
    assert_eq!(place.run("start web").ok(), "web");
    assert_eq!(place.field(&id[..12], "{{.State.Status}} {{.State.Running}}"), "running true");
    assert_eq!(place.run("exec web sh -c echo${IFS}kept>/kept").code, 0);
    assert_eq!(place.run("pause web").ok(), "web");
    assert_eq!(place.field("web", "{{.State.Status}}"), "paused");
    assert_eq!(place.run("exec web true").code, 1);
    assert_eq!(place.run("unpause web").ok(), "web");
    assert_eq!(place.run("rename web www").code, 0);
    assert_eq!(place.run("rm www").code, 1, "a running container stays");
    assert_eq!(place.run("stop www").ok(), "www");
    assert_eq!(place.field("www", "{{.State.ExitCode}}"), "143");
    assert_eq!(place.run("stop www").code, 0, "stopping twice is no failure");
    assert_eq!(place.run("start www").code, 0);
    assert_eq!(place.run("exec www cat /kept").ok(), "kept", "its layer lives on");
    assert_eq!(place.run("restart -t 1 www").code, 0);
    assert_eq!(place.run("kill -s TERM www").code, 0);
    assert_eq!(place.run("wait www").ok(), "143");
    assert_eq!(place.run("rm www").ok(), "www");
    assert_eq!(place.run("inspect www").code, 1);
    place.assert_empty();
}

#[test]
fn privileged_lists_find_containers_by_what_they_are() {
    let place = place!("lists");
    place.sleeper("--name a1 --label team=arm");
    place.run("create --name b1 --label team=leg --network none busybox true").ok();
    let names = |flags: &str| {
        let done = place.run(&format!("ps --format {{{{.Names}}}} {flags}"));
        let mut names: Vec<String> = done.ok().split_whitespace().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    for (flags, want) in [
        ("", "a1"),
        ("-a", "a1 b1"),
        ("-a --filter label=team=leg", "b1"),
        ("-a --filter status=running", "a1"),
        ("-a --filter name=^b", "b1"),
        ("-a --filter ancestor=busybox", "a1 b1"),
        ("-l", "b1"),
        ("--filter label=team=leg", ""),
    ] {
        assert_eq!(names(flags), want, "{flags}");
    }
    assert_eq!(place.run("rm -f a1 b1 nobody").code, 0, "what is not there need not be removed");
    place.assert_empty();
}

#[test]
fn privileged_streams_go_where_they_should() {
    let place = place!("streams");
    let done = place.script("", "echo out; echo err >&2; exit 3");
    assert_eq!((done.out.as_str(), done.code), ("out\n", 3));
    assert!(done.err.ends_with("err\n"), "{done:?}");
    let megabyte = vec![b'x'; 1 << 20];
    let counted = place.command(&["run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c"]);
    assert_eq!(counted.feed(&megabyte).ok().trim(), "1048576");
    // Without -i there is nothing to read.
    let counted = place.command(&["run", "--rm", "--network", "none", "busybox", "wc", "-c"]);
    assert_eq!(counted.feed(b"abc").ok().trim(), "0");
    // Not a byte is lost, however fast the program ends.
    let many = place.script("", "yes 0123456789 | head -n 100000").ok();
    assert_eq!(many.len() + 1, 1_100_000);
    let name = place.sleeper("--name str");
    let back = place.command(&["exec", "-i", &name, "cat"]).feed(&megabyte);
    assert_eq!(back.out.len(), megabyte.len());
    assert!(place.script("-t", "tty").ok().starts_with("/dev/pts/"));
}

#[test]
fn privileged_the_front_may_be_killed() {
    let place = place!("front");
    let mut front = place.command(&[
        "run",
        "--name",
        "front",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo up; sleep 10000",
    ]);
    let mut front = {
        front.0.stderr(std::process::Stdio::null());
        front.spawn()
    };
    let mut line = String::new();
    BufReader::new(front.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    front.kill().unwrap();
    front.wait().unwrap();
    assert_eq!(place.field("front", "{{.State.Running}}"), "true");
    assert_eq!(place.run("rm -f front").code, 0);
}

#[test]
fn privileged_a_killed_monitor_is_noticed() {
    let place = place!("monitor");
    place.sleeper("--name mon");
    let pid: i32 = place.field("mon", "{{.State.Pid}}").parse().unwrap();
    kill(place.monitor("mon"));
    place.await_field("mon", "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
    await_end(pid);
    assert_eq!(place.run("start mon").code, 0, "it can be started again");
    // One that removes itself is removed by whoever finds it.
    let id = place.sleeper("--rm --name rem");
    kill(place.monitor("rem"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while place.run(&format!("inspect {id}")).code == 0 {
        assert!(Instant::now() < deadline, "it is still there");
    }
    assert_eq!(place.run("rm -f mon").code, 0);
    place.assert_empty();
}

#[test]
fn privileged_signals_reach_the_program() {
    let place = place!("signals");
    let script = "trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.05; done";
    let call =
        place.command(&["run", "--rm", "--name", "sig", "--network", "none", "busybox", "sh", "-c", script]);
    let mut front = call.spawn();
    let mut out = BufReader::new(front.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let pid = rustix::process::Pid::from_child(&front);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    out.read_to_string(&mut line).unwrap();
    assert_eq!(line, "up\ngot\n");
    assert_eq!(front.wait().unwrap().code(), Some(5));
}

#[test]
fn privileged_stopping_is_patient_and_then_is_not() {
    let place = place!("stop");
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    place
        .command(&["run", "-d", "--name", "deaf", "--network", "none", "busybox", "sh", "-c", script])
        .run()
        .ok();
    std::thread::sleep(Duration::from_millis(200));
    let before = Instant::now();
    assert_eq!(place.run("stop -t 1 deaf").code, 0);
    let took = before.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_eq!(place.field("deaf", "{{.State.ExitCode}}"), "137");
}

#[test]
fn privileged_restart_policies() {
    let place = place!("restart");
    let script = "echo x >> /count; exit 3";
    let run = |name: &str, policy: &str| {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            script,
        ];
        place.command(&args).run().ok();
    };
    run("twice", "on-failure:2");
    place.await_field("twice", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "exited 2 3");
    run("always", "always");
    place.await_field("always", "{{.State.Status}}", "restarting");
    assert_eq!(place.run("stop always").code, 0);
    place.await_field("always", "{{.State.Status}}", "exited");
    assert_eq!(place.run("update --restart no always").code, 0);
    assert_eq!(place.run("rm -f twice always").code, 0);
    place.assert_empty();
}

#[test]
fn privileged_health_is_checked() {
    let place = place!("health");
    let id = place.sleeper("--health-cmd test${IFS}-e${IFS}/well --health-interval 100ms --health-retries 2");
    place.await_field(&id, "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "unhealthy 2");
    assert_eq!(place.run(&format!("exec {id} touch /well")).code, 0);
    place.await_field(&id, "{{.State.Health.Status}}", "healthy");
    let slow = place.sleeper(
        "--health-cmd sleep${IFS}100 --health-interval 100ms --health-timeout 200ms --health-retries 1",
    );
    place.await_field(
        &slow,
        "{{.State.Health.Status}} {{(index .State.Health.Log 0).ExitCode}}",
        "unhealthy -1",
    );
}

#[test]
fn privileged_users_and_environments() {
    let place = place!("users");
    for (flags, script, want) in [
        ("", "id -u; echo $HOME", "0\n/root"),
        (
            "-u robot",
            "id; echo $HOME",
            "uid=1000(robot) gid=1000(robot) groups=20(dialout),1000(robot)\n/home/robot",
        ),
        ("-u 1234:20", "id; pwd", "uid=1234 gid=20(dialout) groups=20(dialout)\n/"),
        ("-u robot --group-add root", "id -G", "1000 0 20"),
        ("-e A=1 -e FROM_IMAGE=2", "echo $A $FROM_IMAGE", "1 2"),
        ("-w /new/directory", "pwd", "/new/directory"),
        ("--hostname bot", "hostname; cat /etc/hostname", "bot\nbot"),
        ("--add-host arm:10.0.0.7", "grep arm /etc/hosts", "10.0.0.7\tarm"),
        ("--dns 9.9.9.9 --dns-search lab", "cat /etc/resolv.conf", "nameserver 9.9.9.9\nsearch lab"),
        ("--read-only", "touch /x 2>&1; echo $?", "touch: /x: Read-only file system\n1"),
        ("--tmpfs /scratch:size=1m", "touch /scratch/x && echo fine", "fine"),
        ("--shm-size 8m", "stat -f -c %b /dev/shm", "2048"),
        ("--ulimit nofile=64:128", "ulimit -n", "64"),
        ("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward", "1"),
        ("--cap-drop ALL", "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
        ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
        ("", "grep Seccomp: /proc/self/status", "Seccomp:\t2"),
        ("--privileged", "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
        ("--init", "ps -o pid,comm | grep -c init", "1"),
    ] {
        let done = place.script(flags, script);
        let sorted = |text: &str| {
            let mut words: Vec<&str> = text.split([' ', ',']).collect();
            words.sort_unstable();
            words.join(" ")
        };
        assert_eq!(sorted(done.out.trim_end()), sorted(want), "{flags}: {done:?}");
    }
}

#[test]
fn privileged_volumes_binds_and_copy_up() {
    let place = place!("volumes");
    assert_eq!(place.script("-v vol:/data", "cat /data/from-image; echo more > /data/more").ok(), "seed");
    assert_eq!(place.script("-v vol:/elsewhere", "cat /elsewhere/more").ok(), "more");
    assert_eq!(
        place.script("--mount type=volume,source=empty,target=/data,volume-nocopy", "ls /data").ok(),
        ""
    );
    let shared = place.directory.join("shared");
    fs::create_dir(&shared).unwrap();
    let bind = format!("-v {}:/b", shared.display());
    assert_eq!(place.script(&bind, "echo hello > /b/file").code, 0);
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "hello\n");
    let done = place.script(&format!("{bind}:ro"), "echo no > /b/file");
    assert_ne!(done.code, 0, "{done:?}");
    let missing = place.directory.join("missing");
    let done = place.script(&format!("--mount type=bind,source={},target=/b", missing.display()), "true");
    assert_eq!(done.code, 125, "{done:?}");
    assert!(!missing.exists());
    assert_eq!(place.script(&format!("-v {}:/b", missing.display()), "true").code, 0);
    assert!(missing.is_dir(), "-v makes it, as Docker does");
    // An anonymous volume goes with the container that removes itself, a named one stays.
    let left = |name: &str| place.directory.join("root/volumes").join(name).exists();
    let before = fs::read_dir(place.directory.join("root/volumes")).unwrap().count();
    assert_eq!(place.script("-v /anonymous", "touch /anonymous/x").code, 0);
    assert_eq!(fs::read_dir(place.directory.join("root/volumes")).unwrap().count(), before);
    assert!(left("vol") && left("empty"));
    let one = place.sleeper("--name one -v vol:/data");
    assert_eq!(place.script("--volumes-from one", "cat /data/more").ok(), "more");
    assert_eq!(place.script(&format!("--volumes-from {one}:ro"), "touch /data/x").code, 1);
}

#[test]
fn privileged_namespaces_are_shared_when_asked() {
    let place = place!("namespaces");
    place.run("run -d --name first --ipc shareable --network none busybox sleep 10000").ok();
    let inode = |script: &str, flags: &str| {
        place
            .command(
                &[
                    &["run", "--rm"],
                    flags.split_whitespace().collect::<Vec<_>>().as_slice(),
                    &["busybox", "readlink", script],
                ]
                .concat(),
            )
            .run()
            .ok()
    };
    for (flags, namespace) in [
        ("--network container:first", "net"),
        ("--network none --ipc container:first", "ipc"),
        ("--network none --pid container:first", "pid"),
    ] {
        let inside = inode(&format!("/proc/self/ns/{namespace}"), flags);
        let theirs = place.run(&format!("exec first readlink /proc/1/ns/{namespace}")).ok();
        assert_eq!(inside, theirs, "{flags}");
    }
    let host = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    for (flags, namespace) in [
        ("--network host", "net"),
        ("--network none --ipc host", "ipc"),
        ("--network none --pid host", "pid"),
        ("--network none --uts host", "uts"),
    ] {
        assert_eq!(inode(&format!("/proc/self/ns/{namespace}"), flags), host(namespace), "{flags}");
    }
    assert_eq!(place.run("rm -f first").code, 0);
    let done = place.run("run --rm --network container:first busybox true");
    assert_eq!(done.code, 125, "{done:?}");
}

#[test]
fn privileged_a_terminal_detaches_by_its_keys() {
    let place = place!("keys");
    let id = place.run("run -dit --name det --network none busybox sh").ok();
    let script = format!(
        "import os,pty,sys,time\npid,fd=pty.fork()\nif pid==0: os.execv({:?},{:?})\n\
         def read(want):\n    data=b''\n    end=time.time()+10\n    while want not in data and time.time()<end: data+=os.read(fd,1000)\n    return data\n\
         os.write(fd,b'echo ma\"\"rk\\n')\nread(b'\\nmark')\nos.write(fd,bytes([16,17]))\n\
         print(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))\n",
        env!("CARGO_BIN_EXE_robot-env"),
        [
            "robot-env",
            "--root",
            &place.directory.join("root").to_string_lossy(),
            "--run-root",
            &place.directory.join("run").to_string_lossy(),
            "attach",
            &id
        ],
    );
    let output = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
    assert_eq!(place.field("det", "{{.State.Running}}"), "true");
}

#[test]
fn privileged_a_cidfile_is_written_once() {
    let place = place!("cidfile");
    let path = place.directory.join("cid");
    let args = ["run", "--rm", "--network", "none", "--cidfile", path.to_str().unwrap(), "busybox", "true"];
    assert_eq!(place.command(&args).run().code, 0);
    assert_eq!(fs::read_to_string(&path).unwrap().len(), 64);
    let again = place.command(&args).run();
    assert_eq!(again.code, 125, "{again:?}");
    fs::remove_file(&path).unwrap();
    let args = [
        "run",
        "--rm",
        "--network",
        "none",
        "--cidfile",
        path.to_str().unwrap(),
        "--pull",
        "never",
        "none:1",
    ];
    assert_eq!(place.command(&args).run().code, 125);
    assert!(!path.exists(), "no container, no file");
}

#[test]
fn privileged_a_detached_container_holds_no_pipe_of_the_shell() {
    let place = place!("pipes");
    let mut call =
        place.command(&["run", "-d", "--name", "pipe", "--network", "none", "busybox", "sleep", "10000"]);
    let (reader, writer) = std::io::pipe().unwrap();
    call.0.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = call.0.spawn().unwrap();
    drop(call);
    assert!(child.wait().unwrap().success());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let mut reader = reader;
        let _ = reader.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    let text = receiver.recv_timeout(Duration::from_secs(10)).expect("somebody holds the pipe open");
    assert_eq!(text.trim().len(), 64);
}

#[test]
fn privileged_fifty_containers_come_and_go() {
    let place = place!("fifty");
    let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
    for name in &names {
        place.sleeper(&format!("--name {name}"));
    }
    assert_eq!(place.run("ps -q").ok().lines().count(), 50);
    let mut args = vec!["rm", "-f"];
    args.extend(names.iter().map(String::as_str));
    assert_eq!(place.command(&args).run().code, 0);
    place.assert_empty();
}

#[test]
fn privileged_what_a_container_wrote_can_be_kept() {
    let place = place!("keep");
    place.sleeper("--name work");
    let write = "exec work dd if=/dev/zero of=/result bs=1000000 count=2";
    assert_eq!(place.run(write).code, 0);
    assert_eq!(place.run("rm --keep kept:1 work").code, 1, "it runs");
    let done = place.run("rm -f --keep kept:1 work");
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains("kept as kept:1"), "{done:?}");
    assert_eq!(place.run("inspect work").code, 1);
    assert_eq!(place.run("run --rm --network none kept:1 stat -c %s /result").ok(), "2000000");
    place.sleeper("--name lost");
    assert_eq!(place.run("exec lost dd if=/dev/zero of=/result bs=1000000 count=2").code, 0);
    let done = place.run("rm -f lost");
    assert_eq!(done.out, "lost\n");
    assert!(done.err.contains("2MB (/ 2MB) that it had written are gone"), "{done:?}");
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn await_end(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while pid != 0 && fs::metadata(format!("/proc/{pid}")).is_ok() {
        let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "));
        if zombie {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}
