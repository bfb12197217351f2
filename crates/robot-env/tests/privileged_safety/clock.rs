//! Clocks that jump by years, forward and back, while our processes are at work: timers go on, and
//! nothing that is in use is taken for old. The clock is libfaketime's, of Debian's package `faketime`:
//! the host's is left alone.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};

use crate::place::{Call, Done, Place};
use crate::place_or_return;

/// The clock of every process that is started with it.
struct Clock {
    place: Place,
    library: PathBuf,
    says: PathBuf,
}

/// A place with a clock of its own; `None`, with the reason printed, where there cannot be one.
#[allow(clippy::print_stdout)] // why a test is skipped
fn clock(place: Place) -> Option<Clock> {
    let library = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library =
        library.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let Some(library) = library else {
        println!("skipped: the package faketime is not installed");
        return None;
    };
    let says = place.directory.join("clock");
    let clock = Clock { place, library, says };
    clock.set("+0");
    Some(clock)
}

macro_rules! clock_or_return {
    ($name:literal) => {
        match clock(place_or_return!($name)) {
            Some(clock) => clock,
            None => return,
        }
    };
}

impl Clock {
    /// Sets it, for all processes at once: so far from the host's.
    fn set(&self, offset: &str) {
        let new = self.place.directory.join(format!("clock.{:?}", std::thread::current().id()));
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.says).unwrap();
    }

    fn command(&self, args: &[&str]) -> Call {
        let mut call = self.place.command(args);
        call.0
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.says)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DISABLE_SHM", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        call
    }

    fn run(&self, line: &str) -> Done {
        self.command(&line.split_whitespace().collect::<Vec<_>>()).run()
    }

    fn script(&self, flags: &str, script: &str) -> Done {
        let mut args: Vec<&str> = flags.split_whitespace().collect();
        args.extend(["--network", "none", "busybox", "sh", "-c", script]);
        self.command(&args).run()
    }

    /// Whether a container's monitor sees this clock, too: only one of a debug build does.
    #[allow(clippy::print_stdout)] // why a test is skipped
    fn reaches_monitors(&self) -> bool {
        self.set("+3y");
        self.run("run -d --name probe --network none busybox true").ok();
        self.run("wait probe").ok();
        let year = |template| {
            let text = self.place.field("probe", template);
            text.split('-').next().unwrap().parse::<i32>().unwrap()
        };
        let now = jiff::Timestamp::now().strftime("%Y").to_string().parse::<i32>().unwrap();
        assert!(year("{{.Created}}") > now + 1, "the front does not see the clock");
        let seen = year("{{.State.StartedAt}}") > now + 1;
        self.run("rm probe").ok();
        self.set("+0");
        if !seen {
            println!("skipped: the monitors of a release build see no other clock");
        }
        seen
    }

    /// Sets it forward and back by years for a while, every few milliseconds.
    fn shake(&self, time: Duration) {
        let begun = Instant::now();
        for offset in ["+3y", "-3y"].into_iter().cycle() {
            if begun.elapsed() > time {
                return self.set("+0");
            }
            self.set(offset);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Time-outs of stop, however the clock jumps meanwhile.
#[test]
fn privileged_a_jump_of_the_clock_changes_no_stop_time_out() {
    let clock = clock_or_return!("clock-stop");
    for (offset, name) in [("+3y", "forward"), ("-3y", "back")] {
        let deaf = "trap '' TERM; while true; do sleep 1; done";
        clock.script(&format!("run -d --name {name}"), deaf).ok();
        std::thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        let mut stop = clock.command(&["stop", "-t", "2", name]).spawn();
        std::thread::sleep(Duration::from_millis(500));
        clock.set(offset);
        assert!(stop.wait().unwrap().success());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(10), "{name}: {took:?}");
        assert_eq!(clock.place.field(name, "{{.State.ExitCode}}"), "137");
        assert_eq!(clock.run("ps -a").code, 0);
        clock.set("+0");
        clock.run(&format!("rm {name}")).ok();
    }
}

/// A health check goes on, at its pace.
#[test]
fn privileged_a_jump_of_the_clock_stops_no_health_check() {
    let clock = clock_or_return!("clock-health");
    if !clock.reaches_monitors() {
        return;
    }
    let flags = "run -d --name web --health-cmd false --health-interval 300ms --health-retries 1000";
    clock.script(flags, "sleep 1000").ok();
    let failed = || clock.place.field("web", "{{.State.Health.FailingStreak}}").parse::<u32>().unwrap();
    for offset in ["+3y", "-3y", "+0"] {
        clock.set(offset);
        let (before, begun) = (failed(), Instant::now());
        while failed() < before + 2 {
            assert!(begun.elapsed() < Duration::from_secs(10), "after {offset}: no check any more");
            std::thread::sleep(Duration::from_millis(20));
        }
        let most = begun.elapsed().as_millis() as u32 / 300 + 2;
        assert!(failed() <= before + most, "after {offset}: {before} to {}", failed());
    }
    clock.run("rm -f web").ok();
}

/// The pauses between restarts grow, whatever the clock says of how long the program ran.
#[test]
fn privileged_a_jump_of_the_clock_hastens_no_restart() {
    let clock = clock_or_return!("clock-restart");
    if !clock.reaches_monitors() {
        return;
    }
    clock.script("run -d --name crash --restart always", "sleep 0.1; exit 1").ok();
    clock.shake(Duration::from_secs(4));
    // 0.1, 0.2, 0.4, 0.8, 1.6, ... s, each with a run of 0.1 s.
    let count: u32 = clock.place.field("crash", "{{.RestartCount}}").parse().unwrap();
    assert!((2..=6).contains(&count), "{count} restarts");
    clock.run("rm -f crash").ok();
}

/// What is read until a time, or since one.
#[test]
fn privileged_a_jump_of_the_clock_ends_what_was_to_end() {
    let clock = clock_or_return!("clock-until");
    clock.script("run -d --name web", "while true; do echo line; sleep 0.05; done").ok();
    for offset in ["+3y", "-3y"] {
        for line in ["logs -f -n 0 --until 2s web", "events --until 2s"] {
            // A time to come: a duration names one that has gone.
            let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
            let until = until.to_string();
            let words: Vec<&str> =
                line.split(' ').map(|word| if word == "2s" { until.as_str() } else { word }).collect();
            let begun = Instant::now();
            let mut reader =
                clock.command(&words).0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            clock.set(offset);
            while reader.try_wait().unwrap().is_none() {
                if begun.elapsed() > Duration::from_secs(10) {
                    crate::kills::kill(reader.id() as i32);
                    reader.wait().unwrap();
                    panic!("{line} does not end after {offset}");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // A line of the log that was written later, as its time says, ends it, too.
            let early = line.starts_with("logs") && offset == "+3y";
            assert!(
                early || begun.elapsed() > Duration::from_millis(1500),
                "{line} ended early after {offset}"
            );
            clock.set("+0");
        }
    }
    // What was written in another time is where it says that it was.
    clock.run("rm -f web").ok();
    clock.script("run -d --name now", "echo now").ok();
    clock.run("wait now").ok();
    for offset in ["+3y", "-3y", "+0"] {
        clock.set(offset);
        assert_eq!(clock.run("logs now").ok(), "now", "{offset}");
        let recent = clock.run("logs --since 1h now").ok();
        assert_eq!(recent, if offset == "+3y" { "" } else { "now" }, "{offset}");
        let events = clock.run("events --since 1h --until 0s --format {{.Action}}");
        let seen = events.out.lines().any(|line| line == "die");
        assert_eq!(seen, offset == "+0", "{offset}: {events:?}");
        for line in ["ps -a", "inspect now", "images", "system df -v", "volume ls", "info"] {
            assert_eq!(clock.run(line).code, 0, "{line} at {offset}");
        }
    }
    clock.run("rm now").ok();
}

/// At no time is anything collected that is in use: by a pull, a container, or one that begins.
#[test]
fn privileged_a_jump_of_the_clock_collects_nothing_in_use() {
    let clock = clock_or_return!("clock-collect");
    let registry = TestRegistry::start();
    let noise = |seed: u32| {
        let bytes = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> (8 + seed)) as u8);
        [Entry::file(&format!("f{seed}"), bytes.collect::<Vec<_>>())]
    };
    let image = ImageBuilder::new()
        .layer_with(&noise(1), Compression::Gzip)
        .layer_with(&noise(2), Compression::None)
        .build();
    registry.put_image("slow", "1", &image);
    let name = registry.name("slow:1");
    clock.script("run -d --name web -v kept:/kept", "sleep 1000").ok();
    for offset in ["+3y", "-3y"] {
        clock.set("+0");
        registry.mend();
        // One layer waits in its middle while the other one is ready and not committed yet.
        let stall = Effect::StallAfter(100_000, Duration::from_secs(2));
        registry.fault(Fault::times(&image.layers[1].descriptor.digest.to_string(), 1, stall));
        let pull = clock.command(&["pull", "-q", &name]).spawn();
        std::thread::sleep(Duration::from_millis(700));
        clock.set(offset);
        for _ in 0..3 {
            clock.run("system prune -a -f --volumes").ok();
            clock.run("image prune -a -f").ok();
        }
        let done = pull.wait_with_output().unwrap();
        assert!(done.status.success(), "{offset}: {}", String::from_utf8_lossy(&done.stderr));
        clock.run("system fsck").ok();
        assert_eq!(clock.place.field("web", "{{.State.Running}}"), "true", "{offset}");
        assert_eq!(clock.run("exec web true").code, 0, "{offset}");
        assert_eq!(clock.run("volume ls -q").ok(), "kept", "{offset}");
        // Its program is not there, which only a whole image can say.
        assert_eq!(clock.run(&format!("run --rm --network none {name} true")).code, 127, "{offset}");
        clock.run(&format!("rmi {name}")).ok();
    }
    clock.set("+0");
    clock.run("rm -f web").ok();
    clock.run("system prune -f").ok();
    clock.place.assert_empty();
}
