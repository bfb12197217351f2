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
    place
        .command(&["run", "-d", "--name", "log1", "--network", "none", "busybox", "sh", "-c", script])
        .run()
        .ok();
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
    assert!(
        done.code == 1 && done.err.contains("configured logging driver does not support reading"),
        "{done:?}"
    );
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
            fs::read_dir(&directory)
                .unwrap()
                .flatten()
                .filter_map(|e| e.file_name().into_string().ok())
                .collect()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        // The last file is compressed behind everybody's back.
        while driver == "local" && !names().iter().any(|name| name.ends_with(".1.gz")) {
            assert!(Instant::now() < deadline, "{:?}", names());
            std::thread::sleep(Duration::from_millis(10));
        }
        let compressed = names().iter().filter(|name| name.ends_with(".gz")).count();
        assert!(if driver == "local" { compressed > 1 } else { compressed == 0 }, "{:?}", names());
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
    let mut child =
        place.command(&["events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"]).spawn();
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
        "create first",
        "start first",
        "rename second",
        "pause second",
        "unpause second",
        "exec_start: true second",
        "kill second",
        "die",
        "stop second",
        "start second",
        "restart second",
        "kill second",
        "die",
        "destroy second",
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

#[test]
fn privileged_top_shows_the_processes() {
    let place = place!("top");
    place.sleeper("--name box1 --user 1000");
    place.sleeper("--name box2 --pid host --cgroupns host");
    place.run("exec -d box1 sleep 7777").ok();
    for name in ["box1", "box2"] {
        let out = place.run(&format!("top {name}")).ok();
        let mut rows = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(rows.next().unwrap(), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        let rows: Vec<Vec<&str>> = rows.collect();
        let pid = place.field(name, "{{.State.Pid}}");
        assert_eq!(rows[0][1], pid, "the oldest is the first process: {out}");
        assert!(rows.iter().any(|row| row[7..] == ["sleep", "10000"] && row[5] == "?"), "{out}");
        assert_eq!(out.contains("sleep 7777"), name == "box1", "{out}");
    }
    if std::path::Path::new("/bin/ps").exists() {
        let out = place.run("top box1 -o user:20,pid,args").ok();
        assert!(lines(&out)[0].starts_with("USER"), "{out}");
        assert!(out.contains("sleep 10000") && out.contains("sleep 7777"), "{out}");
        assert_eq!(lines(&out).len(), lines(&place.run("top box1").ok()).len(), "{out}");
        let done = place.run("top box1 -o user");
        assert!(done.code == 1 && done.err.contains("PID field"), "{done:?}");
        assert_eq!(place.run("container top box1 --no-such-option").code, 1);
    } else {
        println!("skipped: top with arguments: ps is not installed");
    }
    place.run("stop -t 5 box1").ok();
    let done = place.run("top box1");
    assert!(done.code == 1 && done.err.contains("is not running"), "{done:?}");
}

#[test]
fn privileged_stats_measure_what_containers_use() {
    let place = place!("stats");
    place.sleeper("--name idle --memory 64m");
    let busy = [
        "run",
        "-d",
        "--init",
        "--name",
        "busy",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    ];
    place.command(&busy).run().ok();
    place.run("create --name never --network none busybox true").ok();
    let format = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}|{{.NetIO}}|{{.ID}}";
    let stats = |args: &[&str]| {
        let mut words = vec!["stats", "--no-stream", "--format", format];
        words.extend(args);
        place.command(&words).run().ok()
    };
    let out = stats(&["busy", "idle"]);
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!((rows[0][0], rows[1][0]), ("busy", "idle"));
    if rows[0][1] != "--" {
        let percent = |text: &str| text.trim_end_matches('%').parse::<f64>().unwrap();
        assert!(percent(rows[0][1]) > 20.0 && percent(rows[0][1]) < 130.0, "{out}");
        assert!(percent(rows[1][1]) < 20.0, "{out}");
        assert!(rows[1][2].ends_with(" / 64MiB"), "{out}");
        assert!(rows[1][3].parse::<u32>().unwrap() >= 2, "init and sleep: {out}");
    }
    assert_eq!(rows[0][4], "0B / 0B");
    assert_eq!(rows[0][5].len(), 12);
    assert_eq!(lines(&stats(&[])).len(), 2);
    let all = stats(&["--all", "--no-trunc"]);
    assert_eq!(lines(&all).len(), 3);
    let never = all.lines().find(|line| line.starts_with("never|")).unwrap();
    assert!(never.starts_with("never|0.00%|0B / 0B|0|0B / 0B|") && never.len() > 80, "{never}");
    let table = place.run("stats --no-stream idle").ok();
    assert!(table.starts_with("CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT"), "{table}");
    assert_eq!(place.run("stats --no-stream no-such").code, 1);
    // It goes on until it is told to stop, or until nothing is left of what it was asked for.
    let mut child = place.command(&["stats", "--format", "{{.Name}}", "idle"]).spawn();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..2 {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "idle\n");
    }
    place.run("rm -f idle").ok();
    out.read_to_string(&mut String::new()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn privileged_volumes_live_and_die_by_name() {
    let place = place!("volumes");
    assert_eq!(place.run("volume create --label kind=maps data").ok(), "data");
    assert_eq!(place.run("volume create data").ok(), "data");
    let anonymous = place.run("volume create").ok();
    assert_eq!(anonymous.len(), 64);
    place.run("run --name user -v data:/maps --network none busybox touch /maps/a").ok();
    assert_eq!(lines(&place.run("volume ls").ok())[0], "DRIVER    VOLUME NAME");
    assert_eq!(place.run("volume ls -q --filter name=dat").ok(), "data");
    assert_eq!(place.run("volume ls -q --filter dangling=true").ok(), anonymous);
    assert_eq!(place.run("volume ls -q --filter label=kind=maps").ok(), "data");
    assert_eq!(place.run("volume ls -q --filter driver=nfs").ok(), "");
    assert_eq!(place.run("volume inspect -f {{.Name}}:{{.Labels.kind}} data").ok(), "data:maps");
    let path = place.run("volume inspect -f {{.Mountpoint}} data").ok();
    assert!(fs::exists(format!("{path}/a")).unwrap());
    let json: serde_json::Value = serde_json::from_str(&place.run("volume inspect data").ok()).unwrap();
    assert_eq!((json[0]["Driver"].as_str(), json[0]["Scope"].as_str()), (Some("local"), Some("local")));
    let done = place.run("volume rm data");
    assert!(done.code == 1 && done.err.contains("volume is in use"), "{done:?}");
    let done = place.run("volume rm no-such");
    assert!(done.code == 1 && done.err.contains("no such volume"), "{done:?}");
    assert_eq!(place.run("volume rm -f no-such").code, 0);
    // Pruning takes the anonymous ones; the others only when asked, and none that is used.
    place.run("volume create spare").ok();
    let out = place.run("volume prune -f").ok();
    assert!(out.starts_with(&format!("Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: ")), "{out}");
    let out = place.run("volume prune -f -a").ok();
    assert!(out.starts_with("Deleted Volumes:\nspare\n"), "{out}");
    assert_eq!(place.run("volume ls -q").ok(), "data");
    assert!(fs::exists(format!("{path}/a")).unwrap());
    place.run("rm user").ok();
    assert_eq!(place.run("volume prune -a -f --filter label=kind=other").ok(), "Total reclaimed space: 0B");
    // Without an answer nothing goes.
    let done = place.run("volume prune -a");
    assert!(done.code == 0 && done.out.contains("WARNING! This will remove all local volumes"), "{done:?}");
    assert_eq!(place.run("volume rm data").ok(), "data");
    assert!(!fs::exists(&path).unwrap());
    assert_eq!(place.run("volume create -o type=tmpfs x1").code, 1);
    assert_eq!(place.run("volume create -d nfs x1").code, 1);
}

/// Waits until the store's trash is empty.
#[track_caller]
fn await_empty_trash(place: &Place) {
    let trash = place.directory.join("root/trash");
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(&trash).unwrap().next().is_some() {
        assert!(Instant::now() < deadline, "the trash is never emptied");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn privileged_pruning_leaves_what_containers_use() {
    let place = place!("prune");
    place.run("tag busybox busybox:other").ok();
    place.sleeper("--name runs -v kept:/data -v /anonymous");
    place
        .command(&["run", "--name", "stays", "--network", "none", "busybox", "sh", "-c", "echo x > /x"])
        .run()
        .ok();
    place
        .command(&[
            "run",
            "--name",
            "goes",
            "--network",
            "none",
            "-v",
            "/mine",
            "busybox",
            "dd",
            "if=/dev/zero",
            "of=/big",
            "bs=1k",
            "count=3000",
        ])
        .run()
        .ok();
    let id = place.field("goes", "{{.Id}}");
    let df = place.run("system df").ok();
    let row = |df: &str, kind: &str| -> Vec<String> {
        df.lines()
            .find_map(|line| line.strip_prefix(kind))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(row(&df, "Images")[..2], ["1", "1"], "{df}");
    assert_eq!(row(&df, "Containers")[..2], ["3", "1"], "{df}");
    assert_eq!(row(&df, "Local Volumes")[..2], ["3", "3"], "{df}");
    assert!(row(&df, "Containers")[2].ends_with("MB"), "{df}");
    assert_eq!(row(&df, "Images")[3..], ["0B", "(0%)"], "{df}");
    let verbose = place.run("system df -v").ok();
    assert!(
        verbose.contains("Images space usage:\n\nREPOSITORY") && verbose.contains("UNIQUE SIZE"),
        "{verbose}"
    );
    assert!(verbose.contains("Local Volumes space usage:") && verbose.contains("kept"), "{verbose}");
    let json = place.run("system df --format json").ok();
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((first["Type"].as_str(), first["Active"].as_str()), (Some("Images"), Some("1")));
    let whole: serde_json::Value =
        serde_json::from_str(&place.run("system df -v --format json").ok()).unwrap();
    assert_eq!(whole["Containers"].as_array().unwrap().len(), 3);

    let out = place.run("container prune -f --filter until=10m").ok();
    assert_eq!(out, "Total reclaimed space: 0B");
    let before = place.field("stays", "{{.Id}}");
    let out = place.command(&["container", "prune", "-f"]).run().ok();
    assert!(out.starts_with("Deleted Containers:\n") && out.contains(&id) && out.contains(&before), "{out}");
    assert!(out.lines().last().unwrap().ends_with("MB"), "{out}");
    assert_eq!(place.run("ps -aq").ok().lines().count(), 1);
    place.run("run --name later --network none -v extra:/e busybox true").ok();
    // The running one, its image and its volumes stay whatever is asked for.
    let done = place.command(&["system", "prune", "-a", "--volumes"]).feed(b"y\n");
    assert!(done.out.contains("WARNING! This will remove:\n  - all stopped containers\n"), "{done:?}");
    assert!(done.out.contains("Deleted Containers:") && done.out.contains("Deleted Volumes:"), "{done:?}");
    assert!(!done.out.contains("Deleted Images:"), "{done:?}");
    assert!(done.out.contains("Total reclaimed space: "), "{done:?}");
    let volumes = place.run("volume ls -q").ok();
    assert_eq!(
        lines(&volumes).len(),
        3,
        "kept, the running one's anonymous one, and the named `extra`: {volumes}"
    );
    assert_eq!(place.run("exec runs true").code, 0);
    place.run("stop -t 5 runs").ok();
    place.run("rename runs stopped").ok();
    assert!(!place.run("image prune -a -f").ok().contains("deleted"), "a stopped container has its image");
    assert_eq!(place.run("start stopped").ok(), "stopped");
    place.run("rm -f -v stopped").ok();
    let out = place.run("system prune -a -f --volumes").ok();
    assert!(out.contains("untagged: busybox:latest") && out.contains("deleted: sha256:"), "{out}");
    assert_eq!(place.run("images -q").ok(), "");
    assert_eq!(place.run("volume ls -q").ok(), "extra\nkept");
    await_empty_trash(&place);
    assert_eq!(fs::read_dir(place.directory.join("root/layers")).unwrap().count(), 0);
    assert_eq!(place.run("system prune --volumes --filter until=1h -f").code, 1);
}

#[test]
fn privileged_an_image_that_is_only_mounted_is_not_pruned() {
    let place = place!("mounted");
    let tar = robot_env_testkit::image::tar(&[robot_env_testkit::image::Entry::file("note", "mounted\n")]);
    let done = place.command(&["import", "-", "model:1"]).feed(&tar);
    assert_eq!(done.code, 0, "{done:?}");
    let mount = "type=image,source=model:1,target=/model";
    place
        .command(&[
            "create",
            "--name",
            "has",
            "--network",
            "none",
            "--mount",
            mount,
            "busybox",
            "cat",
            "/model/note",
        ])
        .run()
        .ok();
    let out = place.run("system prune -a -f --filter label=no-such").ok();
    assert_eq!(out, "Total reclaimed space: 0B");
    // Everything stopped goes, so what has the image mounted must run.
    let script = "cat /model/note; sleep 10000";
    place
        .command(&[
            "run",
            "-d",
            "--init",
            "--name",
            "runs",
            "--network",
            "none",
            "--mount",
            mount,
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .run()
        .ok();
    place.run("system prune -a -f").ok();
    assert!(place.run("images").ok().contains("model "));
    await_empty_trash(&place);
    assert_eq!(place.run("exec runs cat /model/note").ok(), "mounted");
    // One that was made a moment ago is not pruned.
    place.run("rm -f runs has");
    let out = place.run("system prune -a -f").ok();
    assert!(out.contains("untagged: model:1"), "{out}");
}

#[test]
fn privileged_damage_is_found_named_and_repaired() {
    let place = place!("fsck");
    assert_eq!(place.run("system fsck").ok(), "nothing is damaged");
    place.sleeper("--name runs");
    let layers = place.directory.join("root/layers");
    let layer = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    fs::write(layer.join("fs/etc/group"), "changed by a bad disk\n").unwrap();
    assert_eq!(place.run("system fsck --quick").ok(), "nothing is damaged");
    let done = place.run("system fsck");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.out.contains("damaged layer `sha256:") && done.out.contains("pull busybox"), "{done:?}");
    assert!(done.out.contains("system fsck --repair"), "{done:?}");
    assert!(layer.exists());
    let done = place.run("system fsck --repair");
    assert!(done.code == 1 && done.out.contains("(set aside)"), "{done:?}");
    assert!(!layer.exists());
    assert_eq!(place.run("exec runs cat /etc/group").ok(), "changed by a bad disk");
    assert_ne!(place.run("run --rm --network none busybox true").code, 0, "damaged content never runs");
}

#[test]
fn privileged_what_fsck_names_a_pull_brings_anew() {
    let place = place!("mend");
    let registry = robot_env_testkit::registry::TestRegistry::start();
    registry.put_image("maps", "1", &robot_env_testkit::image::small());
    let name = registry.name("maps:1");
    place.run(&format!("pull -q {name}")).ok();
    let layers = fs::read_dir(place.directory.join("root/layers")).unwrap().flatten();
    let layer = layers.map(|entry| entry.path()).find(|path| path.join("fs/etc/hostname").exists()).unwrap();
    fs::write(layer.join("fs/etc/hostname"), "tobor\n").unwrap();
    let done = place.run("system fsck --repair");
    assert!(done.code == 1 && done.out.contains(&format!("pull {name}`")), "{done:?}");
    assert!(!done.out.contains("pull busybox"), "{done:?}");
    assert_eq!(place.run("system fsck").code, 1, "its layer is missing");
    place.run(&format!("pull -q {name}")).ok();
    assert_eq!(place.run("system fsck").ok(), "nothing is damaged");
    assert_eq!(fs::read_to_string(layer.join("fs/etc/hostname")).unwrap(), "robot\n");
}

#[test]
fn privileged_info_and_version_tell_the_truth() {
    let place = place!("info");
    place.sleeper("--name runs");
    place.run("create --network none busybox true").ok();
    let field = |template: &str| place.command(&["info", "--format", template]).run().ok();
    assert_eq!(field("{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}"), "2 1 1 1");
    assert_eq!(field("{{.DockerRootDir}}"), place.directory.join("root").display().to_string());
    assert_eq!(field("{{.OSType}} {{.DefaultRuntime}} {{.LoggingDriver}}"), "linux robot-env json-file");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(field("{{.KernelVersion}}"), release.trim());
    let json: serde_json::Value = serde_json::from_str(&field("json")).unwrap();
    assert_eq!(json["ServerVersion"], json["ClientInfo"]["Version"]);
    let text = place.run("system info").ok();
    for part in [
        "Client:\n",
        "\n Containers: 2\n  Running: 1\n",
        "\n Storage Driver: overlay2\n",
        "\n Cgroup Version: ",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let version = |template: &str| place.command(&["version", "--format", template]).run().ok();
    assert_eq!(version("{{.Client.Version}}"), version("{{.Server.Version}}"));
    assert_eq!(version("{{.Server.APIVersion}}"), version("{{.Client.ApiVersion}}"));
}

#[test]
fn privileged_pruning_and_making_at_once_lose_nothing() {
    let place = place!("race");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let rounds = 12;
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut times = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                place.run("volume prune -a -f").ok();
                place.run("system prune -f").ok();
                times += 1;
            }
            times
        });
        for round in 0..rounds {
            // What it writes into volumes that are made for it must be there when it looks again.
            let line = format!(
                "run -d --init --name box{round} --network none -v named{round}:/a -v /b busybox sleep 10000"
            );
            place.run(&line).ok();
            for path in ["/a/x", "/b/x"] {
                place.run(&format!("exec box{round} touch {path}")).ok();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(pruning.join().unwrap() > 2, "there was no pruning beside it");
    });
    for round in 0..rounds {
        assert_eq!(place.run(&format!("exec box{round} ls /a /b")).ok(), "/a:\nx\n\n/b:\nx");
    }
}
