//! Power cuts. The engine's root is a file system on a loop device: a copy of the file behind it has
//! what was written to the "disk" by that moment, and nothing of what still waits in the page cache
//! above. What was reported as done must be in it, and what was there before must be whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;

use crate::disk::inside;
use crate::kills::{Numbers, pids, words};
use crate::place::{Done, Place};
use crate::place_or_return;

/// A disk that is copied while it is in use.
struct Disk {
    /// What is mounted.
    root: PathBuf,
    /// The file behind it.
    file: PathBuf,
    /// Counts of the block device.
    counts: PathBuf,
}

impl Disk {
    /// The one that the temporary directory is on, as [`inside`] makes it.
    fn of_temporaries() -> Disk {
        let root = std::env::temp_dir();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line =
            mounts.lines().find(|line| line.split(' ').nth(4) == root.to_str()).expect("it is mounted");
        let device = line.split(" - ").nth(1).unwrap().split(' ').nth(1).unwrap();
        let counts = Path::new("/sys/block").join(device.trim_start_matches("/dev/")).join("stat");
        Disk { file: root.parent().unwrap().join("image"), root, counts }
    }

    /// How much has been written so far; `None` while something is being written.
    fn written(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(&self.counts).unwrap();
        let fields: Vec<u64> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
        (fields[8] == 0).then_some((fields[4], fields[6]))
    }

    /// A copy of the disk as it is at one moment: nothing was written while it was made.
    fn copy(&self) -> PathBuf {
        let copy = self.root.parent().unwrap().join("copy");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let before = self.written();
            let done = Command::new("cp").arg("--sparse=always").args([&self.file, &copy]).status().unwrap();
            assert!(done.success());
            if before.is_some() && self.written() == before {
                return copy;
            }
            assert!(Instant::now() < deadline, "the disk does not come to rest");
        }
    }
}

/// What the machine finds after the power cut: the engine on a copy of the disk.
struct After {
    mounted: PathBuf,
    root: PathBuf,
    run_root: PathBuf,
}

impl After {
    /// Nothing of the place's may run: what the copy's records say of processes could be taken for true.
    fn mount(place: &Place, disk: &Disk, copy: &Path) -> After {
        let outside = disk.root.parent().unwrap();
        let mounted = outside.join("after");
        fs::create_dir_all(&mounted).unwrap();
        let done = Command::new("mount").args(["-o", "loop"]).args([copy, &mounted]).status().unwrap();
        assert!(done.success(), "the file system itself survives");
        let root = mounted.join(place.directory.join("root").strip_prefix(&disk.root).unwrap());
        After { mounted, root, run_root: outside.join("after-run") }
    }

    fn run(&self, line: &str) -> Done {
        let output = Command::new(env!("CARGO_BIN_EXE_robot-env"))
            .arg("--root")
            .arg(&self.root)
            .arg("--run-root")
            .arg(&self.run_root)
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Drop for After {
    fn drop(&mut self) {
        for id in self.run("ps -aq").out.split_whitespace() {
            self.run(&format!("rm -f {id}"));
        }
        // Whoever empties the trash holds it for a moment more.
        for _ in 0..200 {
            if Command::new("umount").arg(&self.mounted).stderr(Stdio::null()).status().unwrap().success() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir_all(&self.run_root);
    }
}

/// Our processes on this place, with all their threads.
fn ours(place: &Place) -> Vec<i32> {
    let root = place.directory.join("root").display().to_string();
    pids().filter(|pid| words(*pid).contains(&root)).collect()
}

fn signal(pids: &[i32], signal: rustix::process::Signal) {
    for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether every thread has stopped: none is in the middle of a system call that writes.
fn all_stopped(pids: &[i32]) -> bool {
    pids.iter().all(|pid| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.into_iter().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.is_empty() || [") T ", ") Z ", ") X "].iter().any(|state| stat.contains(state))
        })
    })
}

/// A layer whose files can be told from others'.
fn layer(seed: u8) -> Vec<Entry> {
    (0..40u8).map(|n| Entry::file(&format!("part{seed}/f{n}"), vec![n ^ seed; 9000])).collect()
}

const TEST: &str = "power::privileged_a_power_cut_loses_nothing_that_was_done";

#[test]
fn privileged_a_power_cut_loses_nothing_that_was_done() {
    if !inside(TEST) {
        return;
    }
    let place = place_or_return!("power");
    let disk = Disk::of_temporaries();
    let registry = TestRegistry::start();
    let image = ImageBuilder::new()
        .layer_with(&layer(1), Compression::Gzip)
        .layer_with(&layer(2), Compression::Zstd)
        .build();
    registry.put_image("robot", "1", &image);
    let name = registry.name("robot:1");
    let archive = disk.root.parent().unwrap().join("archive.tar").display().to_string();
    // What was there before, and must stay.
    place.run("create --name old --network none busybox cat /data/from-image").ok();
    place.run("volume create kept").ok();
    place
        .command(&["run", "--name", "writer", "--network", "none", "busybox", "sh", "-c", "cp -r /bin /copy"])
        .run()
        .ok();
    place.run(&format!("pull -q {name}")).ok();
    place.run(&format!("save -o {archive} {name}")).ok();
    place.run(&format!("rmi {name}")).ok();
    place.run("image prune -a -f").ok();

    let steady = |after: &After, what: &str| {
        let checked = after.run("system fsck");
        assert_eq!(checked.code, 0, "{what}: {checked:?}");
        let told = after.run("ps -a --format {{.Names}}");
        assert!(told.err.is_empty(), "{what}: {told:?}");
        for old in ["old", "writer"] {
            assert!(told.out.lines().any(|line| line == old), "{what}: {told:?}");
        }
        assert_eq!(after.run("volume ls -q").ok(), "kept", "{what}");
        assert_eq!(after.run("run --rm --network none busybox cat /data/from-image").ok(), "seed", "{what}");
        assert_eq!(after.run("start -a old").ok(), "seed", "{what}");
    };
    // What is there under a name is whole: all of its files are what they were.
    let whole = |after: &After, image: &str, what: &str| {
        if image == "made:1" {
            assert_eq!(
                after.run("run --rm --network none made:1 /copy/busybox echo whole").ok(),
                "whole",
                "{what}"
            );
        } else {
            // Nothing in it can be run: its files are read by their volume.
            after.run(&format!("create --name files --network none {image} true")).ok();
            for (seed, n) in [(1, 0), (1, 39), (2, 0), (2, 39)] {
                let out = after.mounted.join("copied");
                let copied = after.run(&format!("cp files:/part{seed}/f{n} {}", out.display()));
                assert_eq!(copied.code, 0, "{what}: {copied:?}");
                assert_eq!(fs::read(&out).unwrap(), vec![n ^ seed; 9000], "{what}");
            }
            after.run("rm files").ok();
        }
    };
    let lines: [(String, &str); 5] = [
        (format!("pull -q {name}"), &name),
        (format!("load -q -i {archive}"), &name),
        ("commit writer made:1".into(), "made:1"),
        ("run -d --name web --network none --init busybox sleep 31535993".into(), ""),
        ("volume create more".into(), ""),
    ];
    let clean = || {
        place.run("rm -f web");
        place.run(&format!("rmi -f {name} made:1"));
        place.run("volume rm -f more");
        place.run("image prune -a -f").ok();
    };

    // After exit 0 it is all there.
    for (line, made) in &lines {
        place.run(line).ok();
        let copy = disk.copy();
        clean();
        let after = After::mount(&place, &disk, &copy);
        let what = format!("after `{line}`");
        if !made.is_empty() {
            assert_eq!(after.run(&format!("image inspect {made}")).code, 0, "{what}");
            whole(&after, made, &what);
        } else if line.starts_with("run") {
            assert_eq!(after.run("inspect -f {{.State.Running}} web").ok(), "false", "{what}");
            after.run("start web").ok();
            assert_eq!(after.run("exec web cat /data/from-image").ok(), "seed", "{what}");
            after.run("rm -f web").ok();
        } else {
            assert_eq!(after.run("volume rm more").ok(), "more", "{what}");
        }
        steady(&after, &what);
    }

    // Before it, it is all there or not at all.
    let mut numbers = Numbers(0x6a09_e667_f3bc_c909);
    let mut amid = 0;
    for round in 0..lines.len() * 2 {
        let (line, made) = &lines[round % lines.len()];
        let delay = Duration::from_micros(numbers.below(40_000));
        let what = format!("round {round}: `{line}` after {delay:?}");
        let mut call = place.command(&line.split(' ').collect::<Vec<_>>());
        let mut front = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        let stopped = ours(&place);
        signal(&stopped, rustix::process::Signal::STOP);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !all_stopped(&stopped) {
            assert!(Instant::now() < deadline, "{what}: it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        amid += usize::from(front.try_wait().unwrap().is_none());
        let copy = disk.copy();
        signal(&stopped, rustix::process::Signal::CONT);
        assert!(front.wait().unwrap().success(), "{what}");
        clean();
        let after = After::mount(&place, &disk, &copy);
        if !made.is_empty() && after.run(&format!("image inspect {made}")).code == 0 {
            whole(&after, made, &what);
        }
        let web = after.run("rm -f web");
        assert!(web.code == 0 || web.err.contains("No such container"), "{what}: {web:?}");
        after.run("volume rm -f more").ok();
        steady(&after, &what);
        after.run("image prune -f").ok();
        after.run(line).ok();
        if !made.is_empty() {
            whole(&after, made, &what);
        }
    }
    assert!(amid > 0, "no cut came in time");
    place.run("rm -f old writer").ok();
    place.run("system prune -f").ok();
    place.assert_empty();
}
