//! What users see of containers by the command line: logs, events, processes, usage, disk space,
//! and what pruning takes. Needs root and busybox-static; a test that cannot run says so.

mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Child;
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

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// Sends a signal to a program that a test has started.
fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn privileged_logs_are_chosen_by_stream_time_and_number() {
    let place = place!("logs");
    let script = "for i in 1 2 3; do echo out $i; done; echo problem >&2; sleep 0.3; echo late; printf rest";
    place.command(&["run", "-d", "--name", "log1", "--network", "none", "busybox", "sh", "-c", script]).run().ok();
    place.run("wait log1").ok();
    let done = place.run("logs log1");
    assert_eq!(done.out, "out 1\nout 2\nout 3\nlate\nrest");
    assert_eq!(done.err, "problem\n");
    for (line, out) in [
        ("logs -n 2 log1", "late\nrest"),
        ("logs --tail 1 log1", "rest"),
        ("logs --tail=0 log1", ""),
        ("logs --tail all log1", "out 1\nout 2\nout 3\nlate\nrest"),
        ("container logs --tail 100 log1", "out 1\nout 2\nout 3\nlate\nrest"),
        ("logs --details --tail 2 log1", " late\n rest"),
        ("logs --since 2999-01-01T00:00:00Z log1", ""),
        ("logs --until 10m log1", ""),
        ("logs --until 2999-01-01T00:00:00Z -n 1 log1", "rest"),
        ("logs -f -n 2 log1", "late\nrest"),
    ] {
        let done = place.run(line);
        assert_eq!((done.code, done.out.as_str()), (0, out), "{line}: {done:?}");
    }
    let stamped = place.run("logs -t log1").out;
    let late = stamped.lines().find(|line| line.ends_with(" late")).unwrap();
    let (time, _) = late.split_once(' ').unwrap();
    assert_eq!(time.len(), "2024-05-06T07:08:09.123456789Z".len(), "{time}");
    assert_eq!(place.run(&format!("logs --since {time} log1")).out, "late\nrest");
    assert_eq!(place.run("logs --tail x log1").code, 1);
    assert_eq!(place.run("logs --since yesterday log1").code, 1);
    let done = place.run("logs no-such");
    assert!(done.code == 1 && done.err.contains("No such container: no-such"), "{done:?}");
    place.run("run --name silent --network none --log-driver none busybox echo x").ok();
    let done = place.run("logs silent");
    assert!(done.code == 1 && done.err.contains("configured logging driver does not support reading"), "{done:?}");
}

#[test]
fn privileged_a_log_is_followed_through_rotation_until_the_container_ends() {
    let place = place!("follow");
    let script = "i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo $i; done";
    for driver in ["json-file", "local"] {
        let line = format!(
            "create --name {driver} --network none --log-driver {driver} --log-opt max-size=32k --log-opt max-file=100 busybox sh -c"
        );
        let mut words: Vec<&str> = line.split(' ').collect();
        words.push(script);
        place.command(&words).run().ok();
        place.run(&format!("start {driver}")).ok();
        let done = place.run(&format!("logs -f {driver}"));
        let want: Vec<String> = (1..=6000).map(|n| n.to_string()).collect();
        assert!(done.out.lines().eq(&want), "{driver}: {} lines", done.out.lines().count());
        assert_eq!(place.run(&format!("logs -n 2500 {driver}")).out.lines().next(), Some("3501"));
        let id = place.field(driver, "{{.Id}}");
        let directory = place.directory.join("root/containers").join(&id);
        let names = || -> Vec<String> {
            fs::read_dir(&directory).unwrap().flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        // The last file is compressed behind everybody's back.
        while driver == "local" && !names().iter().any(|name| name.ends_with(".1.gz")) {
            assert!(Instant::now() < deadline, "{:?}", names());
            std::thread::sleep(Duration::from_millis(10));
        }
        let compressed = names().iter().filter(|name| name.ends_with(".gz")).count();
        assert!(if driver == "local" { compressed > 3 } else { compressed == 0 }, "{:?}", names());
    }
}

#[test]
fn privileged_following_ends_with_the_container_or_with_a_signal() {
    let place = place!("ends");
    let script = "while :; do echo heard; sleep 0.05; done";
    let words = ["run", "-d", "--init", "--name", "box1", "--network", "none", "busybox", "sh", "-c", script];
    let id = place.command(&words).run().ok();
    let mut child = place.command(&["logs", "-f", "box1"]).spawn();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "heard\n");
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut child = place.command(&["logs", "-f", "box1"]).spawn();
    let mut first = [0u8; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    // A container that is removed with force has no log any more; the reader ends all the same.
    place.run("rm -f box1").ok();
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.lines().all(|line| line == "heard"), "{rest}");
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!place.run(&format!("logs {id}")).err.is_empty());
}

#[test]
fn privileged_events_tell_of_everything_that_happens() {
    let place = place!("events");
    let since = "1h";
    let mut child = place.command(&["events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"]).spawn();
    let mut live = BufReader::new(child.stdout.take().unwrap());
    // It must listen before something happens: a volume's events show that it does.
    let mut line = String::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    let ready = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            live.read_line(&mut line).unwrap();
        });
        while !reader.is_finished() {
            assert!(Instant::now() < deadline);
            place.run("volume create probe").ok();
            place.run("volume rm probe").ok();
        }
        true
    });
    assert!(ready && line.starts_with("volume "), "{line}");
    place.sleeper("--name first --label robot=r2");
    place.run("rename first second").ok();
    place.run("pause second").ok();
    place.run("unpause second").ok();
    place.run("exec second true").ok();
    place.run("restart -t 5 second").ok();
    place.run("stop -t 5 second").ok();
    place.run("rm second").ok();
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        live.read_line(&mut line).unwrap();
        if line.starts_with("container ") {
            seen.push(line.trim_end().strip_prefix("container ").unwrap().to_owned());
        }
        if line.contains(" destroy second") {
            break;
        }
    }
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut rest = String::new();
    child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let mut last = 0;
    for want in [
        "create first", "start first", "rename second", "pause second", "unpause second", "exec_start: true second",
        "kill second", "die", "stop second", "start second", "restart second", "kill second", "die", "destroy second",
    ] {
        let found = seen[last..].iter().position(|event| event.starts_with(want));
        assert!(found.is_some(), "{want} is missing or out of order: {seen:#?}");
        last += found.unwrap();
    }
    // What was is told again.
    let again = |flags: &str| place.run(&format!("events --since {since} --until 0s {flags}")).ok();
    assert_eq!(lines(&again("--filter event=rename")).len(), 1);
    let text = again("--filter container=second --filter event=destroy");
    assert!(text.contains(" container destroy ") && text.contains("robot=r2"), "{text}");
    assert_eq!(again("--filter label=robot=c3po"), "");
    assert_eq!(lines(&again("--filter event=pause --filter event=unpause --format json")).len(), 2);
    let json: serde_json::Value =
        serde_json::from_str(&again("--filter event=rename --format json")).unwrap();
    assert_eq!(json["Actor"]["Attributes"]["oldName"], "/first");
    assert!(json["timeNano"].as_i64().unwrap() / 1_000_000_000 == json["time"].as_i64().unwrap());
    assert_eq!(place.run("events --filter nope=1").code, 1);
    assert_eq!(place.run("system events --since 1h --until 30m").ok(), "");
}
