//! Many lifecycles one after the other: what they leave is nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::kills::{pids, words};
use crate::place::Place;
use crate::place_or_return;

/// How much there is of everything that could grow.
#[derive(Debug, PartialEq, Eq)]
struct Amounts {
    root: usize,
    run_root: usize,
    mounts: usize,
    cgroups: usize,
    processes: usize,
    /// Of the monitor of a container that runs all the time.
    descriptors: usize,
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        // The log of events becomes two at some time.
        .filter(|entry| entry.file_name() != "events.log.1")
        .map(|entry| {
            1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) { files(&entry.path()) } else { 0 }
        })
        .sum()
}

/// Directories below the cgroup `parent`, in every hierarchy.
fn cgroups(parent: &str) -> usize {
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let directories = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
    };
    std::iter::once("/sys/fs/cgroup".into())
        .chain(hierarchies)
        .map(|hierarchy: std::path::PathBuf| directories(&hierarchy.join(parent)))
        .sum()
}

fn amounts(place: &Place, parent: &str, monitor: i32) -> Amounts {
    let root = place.directory.join("root").display().to_string();
    Amounts {
        root: files(&place.directory.join("root")),
        run_root: files(&place.directory.join("run")),
        mounts: fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|line| line.contains(&place.directory.path().display().to_string()))
            .count(),
        cgroups: cgroups(parent),
        processes: pids().filter(|pid| words(*pid).contains(&root)).count(),
        descriptors: fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count(),
    }
}

/// Kilobytes of memory that only this process has.
fn private_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// `ROBOT_ENV_LIFECYCLES` says how many, `ROBOT_ENV_TEST_PROGRAM` of which program.
#[test]
fn privileged_many_lifecycles_leave_nothing() {
    let place = place_or_return!("lifecycles");
    let count: usize =
        std::env::var("ROBOT_ENV_LIFECYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let parent = format!("robot-env-lifecycles-{}", std::process::id());
    let flags = format!("--network none --cgroup-parent {parent}");
    let web = place.run(&format!("run -d --name web {flags} -v kept:/kept busybox sleep 31535995")).ok();
    let monitor = place.monitor("web");
    let cycle = |n: usize| match n % 4 {
        0 => {
            place.run(&format!("create --name life -v /data {flags} busybox sleep 31535994")).ok();
            place.run("start life").ok();
            place.run("stop -t 0 life").ok();
            place.run("start life").ok();
            place.run("rm -f -v life").ok();
        }
        1 => assert_eq!(place.run(&format!("run --rm -v kept:/x {flags} busybox false")).code, 1),
        2 => assert_eq!(place.run("exec web true").code, 0),
        _ => assert_eq!(place.run(&format!("run --rm {flags} busybox true")).ok(), ""),
    };
    (0..8).for_each(cycle);
    place.run("system prune -f").ok();
    let settled = || {
        // The trash is emptied by somebody whom nobody waits for.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = amounts(&place, &parent, monitor);
            std::thread::sleep(Duration::from_millis(150));
            if amounts(&place, &parent, monitor) == now && now.processes == 1 || Instant::now() > deadline {
                return now;
            }
        }
    };
    let (before, memory) = (settled(), private_memory(monitor));
    let (begun, mut marks) = (Instant::now(), Vec::new());
    for n in 0..count {
        cycle(n);
        if (n + 1) % count.div_ceil(10) == 0 || n + 1 == count {
            marks.push((n + 1, begun.elapsed()));
        }
    }
    let (mut last, mut since) = (0, Duration::ZERO);
    for (n, at) in marks {
        let rate = (n - last) as f64 / at.saturating_sub(since).as_secs_f64();
        println!("{n} lifecycles after {:.1} s, {rate:.1} a second", at.as_secs_f64());
        (last, since) = (n, at);
    }
    let after = settled();
    println!("{after:?}; {memory} KB, then {} KB of the monitor's own", private_memory(monitor));
    assert_eq!(before, after);
    assert!(private_memory(monitor) < memory + 512, "{memory} KB, then {} KB", private_memory(monitor));
    assert_eq!(place.run("ps -aq --no-trunc").ok(), web);
    assert_eq!(place.run("volume ls -q").ok(), "kept");
    assert_eq!(place.run("exec web true").code, 0);
    place.run("system fsck").ok();
    place.run("rm -f web").ok();
    place.run("system prune -f").ok();
    place.assert_empty();
    for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path().join(&parent));
    }
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&parent));
}
