//! What a front that is killed between two steps leaves to the next command: a container that a
//! commit has frozen, one that `run --rm` has made and not started.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::kills::{Victims, ids, kill, kill_ours, names};
use crate::place::Place;
use crate::place_or_return;

/// Starts a command, and gives it back as soon as `reached` is true; `None`: it ended before.
fn until(place: &Place, line: &str, mut reached: impl FnMut() -> bool) -> Option<Child> {
    let mut call = place.command(&line.split(' ').collect::<Vec<_>>());
    let mut front = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    loop {
        if reached() {
            return Some(front);
        }
        if front.try_wait().unwrap().is_some() {
            return None;
        }
    }
}

fn end(mut front: Child) {
    kill(front.id() as i32);
    front.wait().unwrap();
}

/// The same with the monitors.
fn kill_all(place: &Place, mut front: Child) {
    kill_ours(place, &front, Victims::Everybody);
    front.wait().unwrap();
}

/// Whether a process of the container gets on with its work: it appends to `/tick` all the time.
fn ticks(place: &Place, id: &str) -> bool {
    let path = place.directory.join("root/snapshots").join(id).join("upper/tick");
    let length = || fs::metadata(&path).map_or(0, |meta| meta.len());
    let (before, deadline) = (length(), Instant::now() + Duration::from_secs(5));
    while length() == before {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_killed_commit_leaves_nothing_frozen() {
    let place = place_or_return!("commit-kill");
    let script = "i=0; while [ $i -lt 1500 ]; do echo $i > /f$i; i=$((i+1)); done; echo > /full; \
                  while true; do echo >> /tick; sleep 0.02; done";
    let create = ["run", "-d", "--name", "web", "--network", "none", "--init", "busybox", "sh", "-c", script];
    let id = place.command(&create).run().ok();
    let upper = place.directory.join("root/snapshots").join(&id).join("upper");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !upper.join("full").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    if place.run("pause web").code != 0 {
        println!("skipped: this host has no cgroup that freezes");
        return;
    }
    place.run("unpause web").ok();
    let state = place.directory.join("root/containers").join(&id).join("state.json");
    let frozen = || fs::read_to_string(&state).is_ok_and(|text| text.contains("\"paused\":true"));
    // Each is the first command that hears of it.
    for line in [
        "ps -q",
        "inspect web",
        "unpause web",
        "start web",
        "exec web true",
        "commit web made:1",
        "top web",
        "system prune -f",
    ] {
        let mut caught = false;
        for _ in 0..20 {
            if let Some(front) = until(&place, "commit web made:0", frozen) {
                end(front);
                caught = frozen();
            }
            if caught {
                break;
            }
        }
        assert!(caught, "{line}: no kill came in time");
        let done = place.run(line);
        assert_eq!(done.code, 0, "{line}: {done:?}");
        assert!(!frozen() && ticks(&place, &id), "{line}");
    }
    // Pausing is then the user's word, and lasts.
    let front = until(&place, "commit web made:0", frozen).expect("it takes its time");
    end(front);
    place.run("pause web").ok();
    assert_eq!(place.run("ps --format {{.State}}").ok(), "paused");
    assert_eq!(place.field("web", "{{.State.Paused}}"), "true");
    place.run("commit web made:2").ok();
    assert_eq!(place.field("web", "{{.State.Paused}}"), "true", "a commit leaves it as it was");
    place.run("unpause web").ok();
    assert!(ticks(&place, &id));
    place.run("stop -t 0 web").ok();
    place.run("rm web").ok();
    place.run("system prune -f").ok();
    place.assert_empty();
}

/// The record of the container that is being made, once it is there.
fn record(place: &Place) -> Option<PathBuf> {
    let containers = place.directory.join("root/containers");
    names(&containers)
        .into_iter()
        .filter(|name| name.len() == 64)
        .map(|id| containers.join(id).join("container.json"))
        .find(|path| path.exists())
}

#[test]
fn privileged_a_killed_run_rm_leaves_no_container() {
    let place = place_or_return!("run-kill");
    let mut left = 0;
    for (round, line) in ["ps -aq", "rm -f web", "inspect web", "start web", "container prune -f"]
        .into_iter()
        .cycle()
        .take(25)
        .enumerate()
    {
        let run = "run --rm --name web --network none -v /data busybox sleep 31535996";
        let front = until(&place, run, || record(&place).is_some()).expect("it runs on");
        kill_all(&place, front);
        let found = record(&place);
        left += i32::from(found.as_ref().is_some_and(|path| !path.with_file_name("state.json").exists()));
        let done = place.run(line);
        match line {
            "inspect web" | "start web" => assert!(done.err.contains("No such"), "{round}: {line}: {done:?}"),
            _ => assert_eq!(done.code, 0, "{round}: {line}: {done:?}"),
        }
        assert_eq!(record(&place), None, "round {round}: {line}");
        assert_eq!(place.run("ps -aq").ok(), "", "round {round}: {line}");
        assert_eq!(place.run("volume ls -q").ok(), "", "round {round}: {line}");
        place.run("create --name web --network none busybox true").ok();
        place.run("rm web").ok();
    }
    assert!(left > 0, "no kill came between making and starting");
    // One without --rm is the user's.
    let front = until(&place, "run --name web --network none busybox true", || record(&place).is_some());
    kill_all(&place, front.expect("it runs on"));
    assert_eq!(place.run("ps -a --format {{.Names}}").ok(), "web");
    place.run("rm -f web").ok();
    // So is one that `create --rm` made: it waits to be started.
    place.run("create --rm --name web --network none busybox true").ok();
    assert_eq!(place.run("ps -a --format {{.Names}}").ok(), "web");
    place.run("start -a web").ok();
    assert_eq!(place.run("ps -aq").ok(), "");
    place.run("system prune -f").ok();
    assert!(ids(&place).is_empty());
    place.assert_empty();
}

fn claims_are_held(place: &Place) -> bool {
    let file = std::fs::File::options().write(true).open(place.directory.join("run/claims.lock")).unwrap();
    !robot_env_sys::lock::try_lock_exclusive(&file).unwrap()
}

/// A front that stands still between making and starting is waited for by nobody, and loses nothing.
#[test]
fn privileged_nothing_that_is_about_to_start_is_pruned() {
    let place = place_or_return!("run-stop");
    let mut between = 0;
    for round in 0..10 {
        let run = "run --rm --name web --network none busybox true";
        let mut front = until(&place, run, || record(&place).is_some()).expect("it runs on");
        let pid = rustix::process::Pid::from_child(&front);
        let send = |signal| rustix::process::kill_process(pid, signal).unwrap();
        send(rustix::process::Signal::STOP);
        // The lock that keeps what a container is made of is let go right behind the record: not there.
        while claims_are_held(&place) {
            send(rustix::process::Signal::CONT);
            std::thread::sleep(Duration::from_micros(100));
            send(rustix::process::Signal::STOP);
        }
        let made = record(&place).is_some_and(|path| !path.with_file_name("state.json").exists());
        if made {
            between += 1;
            std::thread::sleep(Duration::from_millis(if round == 0 { 2100 } else { 0 }));
            let begun = Instant::now();
            for line in ["ps -aq", "container prune -f", "system prune -f"] {
                let done = place.run(line);
                assert_eq!(done.code, 0, "{line}: {done:?}");
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits");
        }
        send(rustix::process::Signal::CONT);
        assert_eq!(front.wait().unwrap().code(), Some(0), "round {round}");
    }
    assert!(between > 0, "no stop came between making and starting");
    assert_eq!(place.run("ps -aq").ok(), "");
}
