//! kill -9 of our processes at many moments of every command: afterwards the next command works,
//! and every container runs with a monitor, is recorded as dead, or is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use robot_env_testkit::image::{Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;

use crate::place::Place;
use crate::place_or_return;

/// How long the program of a container sleeps, and what its command line is known by.
const PROGRAM: &str = "31536000";
/// The same of an exec.
const FURTHER: &str = "31535999";

/// Numbers that are the same each time (xorshift64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Whom a round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    Everybody,
    Front,
    Monitors,
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(crate) fn words(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Programs of containers with this command line, whoever their parents are.
pub(crate) fn programs(line: &[&str]) -> Vec<i32> {
    pids()
        .filter(|pid| {
            let mut has = words(*pid);
            has.pop();
            has == line
        })
        .collect()
}

pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Kills the program's processes that work on this place, again and again until none is left.
pub(crate) fn kill_ours(place: &Place, front: &Child, victims: Victims) {
    let root = place.directory.join("root").display().to_string();
    if victims == Victims::Front {
        return kill(front.id() as i32);
    }
    loop {
        let found: Vec<i32> = pids()
            .filter(|pid| {
                let words = words(*pid);
                let monitor = words.get(1).is_some_and(|word| word == "monitor");
                words.contains(&root) && (victims == Victims::Everybody || monitor)
            })
            .filter(|pid| !ended(*pid))
            .collect();
        if found.is_empty() {
            return;
        }
        found.into_iter().for_each(kill);
        std::thread::sleep(Duration::from_millis(1));
        if victims == Victims::Monitors {
            return;
        }
    }
}

pub(crate) fn ended(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |text| text.contains(") Z "))
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Everything that is named after a container, on disk.
pub(crate) fn ids(place: &Place) -> BTreeSet<String> {
    let parts = ["root/containers", "root/snapshots", "run/containers"];
    let all = parts.iter().flat_map(|part| names(&place.directory.join(part)));
    all.filter(|name| name.len() == 64).collect()
}

/// What must hold once nobody is at work; what was killed takes a moment to go.
#[track_caller]
fn check(place: &Place, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(reason) = settled(place) {
        assert!(Instant::now() < deadline, "{what}: {reason}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether every container runs with a monitor or is recorded as one that does not, and nothing
/// else runs.
fn settled(place: &Place) -> Result<(), String> {
    let before = Instant::now();
    let listed =
        place.command(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}} {{.Names}}"]).run();
    let took = before.elapsed();
    assert!(listed.code == 0 && listed.err.is_empty(), "{listed:?}");
    assert!(took < Duration::from_secs(5), "the next command works at once: {took:?}");
    let mut running = 0;
    for line in listed.out.lines() {
        let [id, state, name] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let found = place.command(&["inspect", "-f", "{{.Id}} {{.State.Pid}}", name]).run();
        let (by_name, pid) = found.out.trim().split_once(' ').ok_or_else(|| format!("{line}: {found:?}"))?;
        assert_eq!(by_name, id, "a name leads to its container");
        match state {
            "running" | "paused" => {
                running += 1;
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let parent =
                    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
                let monitored = |parent| words(parent).get(1).is_some_and(|word| word == "monitor");
                if parent.is_none_or(|parent| !monitored(parent)) {
                    return Err(format!("{line}: no monitor: {stat}"));
                }
            }
            _ => assert!(matches!(state, "created" | "exited"), "{line}"),
        }
    }
    match programs(&["sleep", PROGRAM]) {
        found if found.len() == running => Ok(()),
        found => Err(format!("{found:?} run, not {running}")),
    }
}

/// What must hold when everything was removed.
#[track_caller]
fn check_nothing_left(place: &Place, seen: &BTreeSet<String>, what: &str) {
    place.run("system prune -f").ok();
    place.assert_empty();
    for hierarchy in names(Path::new("/sys/fs/cgroup")) {
        for id in seen {
            for path in [format!("{hierarchy}/robot-env/{id}"), format!("robot-env/{id}")] {
                assert!(!Path::new("/sys/fs/cgroup").join(&path).exists(), "{what}: cgroup {path}");
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&place.directory.path().display().to_string()), "{what}: {mounts}");
}

/// A command that is killed: what must be there before, and its words.
const ROUNDS: &[(&[&str], &str)] = &[
    (&[], "run -d --name web --network none --cpus 1 busybox sleep 31536000"),
    (&[], "run --rm --name web --network none busybox sleep 31536000"),
    (&[], "run -d --rm --init --name web --network none -v /data busybox sleep 31536000"),
    (&[], "create --name web --network none -v kept:/data busybox sleep 31536000"),
    (&["create"], "start web"),
    (&["create"], "rename web www"),
    (&["create"], "rm web"),
    (&["create", "start"], "exec web sleep 31535999"),
    (&["create", "start"], "stop -t 1 web"),
    (&["create", "start"], "restart -t 0 web"),
    (&["create", "start"], "rm -f web"),
    (&["create", "start"], "kill web"),
    (&["create", "start"], "pause web"),
];

#[test]
fn privileged_kills_at_any_moment_leave_what_the_next_command_copes_with() {
    let place = place_or_return!("kills");
    // Another seed finds other moments.
    let seed = std::env::var("ROBOT_ENV_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let mut numbers = Numbers(seed.unwrap_or(0x9e37_79b9_7f4a_7c15));
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS.len() * 6 {
        let (before, line) = ROUNDS[round % ROUNDS.len()];
        for step in before {
            let words = match *step {
                "create" => "create --name web --network none busybox sleep 31536000",
                _ => "start web",
            };
            place.run(words).ok();
        }
        let victims = match numbers.below(4) {
            0 => Victims::Front,
            1 => Victims::Monitors,
            _ => Victims::Everybody,
        };
        let delay = Duration::from_micros(numbers.below(45_000));
        let what = format!("round {round}: {line}: {victims:?} after {delay:?}");
        let mut call = place.command(&line.split(' ').collect::<Vec<_>>());
        let mut front = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        kill_ours(&place, &front, victims);
        // Without its monitors a front ends by itself, and one that nobody killed is told to.
        let deadline = Instant::now() + Duration::from_secs(5);
        while front.try_wait().unwrap().is_none() {
            if Instant::now() > deadline || line.starts_with("run --rm") || line.starts_with("exec") {
                kill(front.id() as i32);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        seen.extend(ids(&place));
        check(&place, &what);
        // The name can be used again, at once.
        for name in ["web", "www"] {
            place.run(&format!("unpause {name}"));
            let removed = place.run(&format!("rm -f {name}"));
            assert_eq!(removed.code, 0, "{what}: {removed:?}");
        }
        assert_eq!(place.run("ps -aq").ok(), "", "{what}");
        let again = place.run("create --name web --network none busybox true");
        assert_eq!(again.code, 0, "{what}: {again:?}");
        seen.extend(ids(&place));
        place.run("rm web").ok();
        assert!(
            programs(&["sleep", PROGRAM]).is_empty() && programs(&["sleep", FURTHER]).is_empty(),
            "{what}"
        );
        if round % ROUNDS.len() == ROUNDS.len() - 1 {
            check_nothing_left(&place, &seen, &what);
        }
    }
}

/// Commands that make and unmake images: an image is there whole or not at all, and the same command
/// then succeeds.
#[test]
fn privileged_kills_leave_images_whole_or_absent() {
    let place = place_or_return!("image-kills");
    let registry = TestRegistry::start();
    let layer = |seed: u8| {
        let entries: Vec<Entry> =
            (0..60u8).map(|n| Entry::file(&format!("f{n}"), vec![n ^ seed; 20_000])).collect();
        entries
    };
    let image = ImageBuilder::new().layer(&layer(1)).layer(&layer(2)).layer(&layer(3)).build();
    registry.put_image("robot", "1", &image);
    let name = registry.name("robot:1");
    let archive = place.directory.join("archive.tar").display().to_string();
    place.run(&format!("pull -q {name}")).ok();
    place.run(&format!("save -o {archive} {name}")).ok();
    place.run("run --name writer --network none busybox sh -c cp${IFS}-r${IFS}/bin${IFS}/copy").ok();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let lines = [
        format!("pull -q {name}"),
        format!("load -q -i {archive}"),
        "commit writer made:1".to_owned(),
        format!("rmi -f {name}"),
        "image prune -a -f".to_owned(),
    ];
    for round in 0..lines.len() * 4 {
        let line = &lines[round % lines.len()];
        let adds = round % lines.len() < 3;
        if adds {
            place.run(&format!("rmi -f {name} made:1"));
        } else {
            place.run(&format!("pull -q {name}")).ok();
        }
        let delay = Duration::from_micros(numbers.below(60_000));
        let what = format!("round {round}: {line} after {delay:?}");
        let mut call = place.command(&line.split(' ').collect::<Vec<_>>());
        let mut front = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        kill_ours(&place, &front, Victims::Everybody);
        front.wait().unwrap();
        let checked = place.run("system fsck");
        assert_eq!(checked.code, 0, "{what}: {checked:?}");
        for wanted in [name.as_str(), "made:1"] {
            let found = place.run(&format!("image inspect {wanted}"));
            if found.code == 0 {
                let run = format!("run --rm --network none {wanted} true");
                let done = place.run(&run);
                // The one has no program in it, which only a whole image can say.
                let want = if wanted == "made:1" { 0 } else { 127 };
                assert_eq!(done.code, want, "{what}: {done:?}");
            }
        }
        place.run(line).ok();
        assert_eq!(place.run("inspect writer").code, 0, "{what}");
    }
    check_store(&place);
}

/// Nothing is on its way in the store.
#[track_caller]
fn check_store(place: &Place) {
    place.run("rm -f writer");
    place.run("system prune -a -f").ok();
    for part in ["root/staging", "root/layers", "root/images", "root/names"] {
        assert_eq!(names(&place.directory.join(part)), [""; 0], "{part}");
    }
    place.assert_empty();
}

/// A reader that does not read holds up nobody.
#[test]
fn privileged_a_stalled_reader_of_the_log_blocks_nobody() {
    let place = place_or_return!("stalled");
    let words = [
        "run",
        "-d",
        "--name",
        "talker",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "sleep 0.3; yes 0123456789 | head -n 300000; exit 3",
    ];
    place.command(&words).run().ok();
    let mut reader = place.command(&["logs", "-f", "talker"]).spawn();
    let begun = Instant::now();
    assert_eq!(place.run("wait talker").ok(), "3");
    assert!(begun.elapsed() < Duration::from_secs(20));
    kill(reader.id() as i32);
    reader.wait().unwrap();
    assert_eq!(place.field("talker", "{{.State.Error}}"), "", "nothing was dropped");
}

/// A volume has everything that the image has, or nothing yet.
#[test]
fn privileged_kills_leave_no_volume_half_filled() {
    let place = place_or_return!("fill-kills");
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let list = |volume: &str| place.script(&format!("-v {volume}:/x"), "ls -a /x").ok();
    place.run("create --name first --network none -v whole:/bin busybox true").ok();
    let whole = list("whole");
    assert!(whole.lines().count() > 30, "{whole}");
    let mut interrupted = 0;
    for round in 0..14 {
        let volume = format!("vol{round}");
        let line = format!("create --name half --network none -v {volume}:/bin busybox true");
        let mut call = place.command(&line.split(' ').collect::<Vec<_>>());
        let mut front = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(3000 + numbers.below(15_000)));
        kill(front.id() as i32);
        interrupted += i32::from(!front.wait().unwrap().success());
        place.run("rm -f half");
        place.run(&format!("create --name again --network none -v {volume}:/bin busybox true")).ok();
        assert_eq!(list(&volume), whole, "round {round}");
        place.run("rm -f again").ok();
    }
    assert!(interrupted > 0, "no kill came in time");
    // The record of one whose maker was killed.
    fs::write(place.directory.join("root/volumes/whole/.tmp-1-0-0"), "{").unwrap();
    // A move that was interrupted is ended.
    let directory = place.directory.join("root/volumes/moved");
    place.run("volume create moved").ok();
    fs::create_dir(directory.join(".ready")).unwrap();
    fs::write(directory.join(".ready/late"), "").unwrap();
    fs::write(directory.join("_data/early"), "").unwrap();
    place.run("create --name last --network none -v moved:/bin busybox true").ok();
    assert_eq!(list("moved"), ".\n..\nearly\nlate");
    place.run("system prune -f").ok();
    for volume in names(&place.directory.join("root/volumes")).iter().filter(|name| !name.starts_with('.')) {
        let mut left = names(&place.directory.join("root/volumes").join(volume));
        left.sort();
        assert_eq!(left, ["_data", "volume.json"], "{volume}");
    }
}
