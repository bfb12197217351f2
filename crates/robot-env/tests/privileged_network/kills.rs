//! kill -9 of every process of ours at many moments: the next command works, and nothing is left.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::{Host, assert_clean, host};

/// Numbers that are the same each time (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The program's processes that work on this place.
fn ours(host: &Host) -> Vec<i32> {
    let root = host.place.directory.join("root").display().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let dead =
                fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "));
            !dead && line.split(|byte| *byte == 0).any(|word| word == root.as_bytes())
        })
        .collect()
}

fn kill_ours(host: &Host) {
    loop {
        let found = ours(host);
        if found.is_empty() {
            return;
        }
        for pid in found.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What is done before, and the command that is killed.
const ROUNDS: &[(&[&str], &str)] = &[
    (&[], "run -d --name web --network robots --ip 10.77.0.9 -p 8080:80 busybox sleep 31536000"),
    (&[], "run --rm --name web -p 8080:80 busybox true"),
    (&[], "run --rm --name web --network robots --network side busybox true"),
    (&["create"], "start web"),
    (&["create", "start"], "stop -t 0 web"),
    (&["create", "start"], "restart -t 0 web"),
    (&["create", "start"], "rm -f web"),
    (&["create", "start"], "network connect side web"),
    (&["create", "start"], "network disconnect robots web"),
    (&["create", "start", "connect"], "network disconnect side web"),
    (&["create", "start"], "network reload"),
    (&[], "network create --subnet 10.79.0.0/24 more"),
    (&["more"], "network rm more"),
    (&["create", "start", "end"], "network prune -f"),
];

fn make_networks(host: &Host) {
    for (name, subnet) in [("robots", "10.77.0.0/24"), ("side", "10.78.0.0/24")] {
        let made = host.place.run(&format!("network create --subnet {subnet} {name}"));
        assert!(made.code == 0 || made.err.contains("already exists"), "{made:?}");
    }
}

#[test]
fn privileged_kills_leave_nothing_of_a_network() {
    let host = host!("network-kills");
    let mut numbers = Numbers(setting("ROBOT_ENV_TEST_SEED", 0x9e37_79b9_7f4a_7c15));
    let rounds = setting("ROBOT_ENV_TEST_ROUNDS", 3 * ROUNDS.len() as u64);
    for round in 0..rounds {
        make_networks(&host);
        let (before, line) = ROUNDS[round as usize % ROUNDS.len()];
        for step in before {
            host.ok(match *step {
                "create" => {
                    "create --name web --network robots --ip 10.77.0.9 -p 8080:80 busybox sleep 31536000"
                }
                "start" => "start web",
                "connect" => "network connect side web",
                "more" => "network create --subnet 10.79.0.0/24 more",
                _ => "rm -f web",
            });
        }
        let delay = Duration::from_micros(numbers.below(60_000));
        let what = format!("round {round}: {line}: after {delay:?}");
        let mut call = host.place.command(&line.split(' ').collect::<Vec<_>>());
        let mut front = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        kill_ours(&host);
        front.wait().unwrap();
        let began = Instant::now();
        let listed = host.place.run("ps -a");
        assert!(listed.code == 0 && listed.err.is_empty(), "{what}: {listed:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: the next command works at once");
        let removed = host.place.run("rm -f web");
        assert_eq!(removed.code, 0, "{what}: {removed:?}");
        host.ok("network rm -f more");
        make_networks(&host); // `prune` may have done its work
        // Names, addresses and ports can be used again.
        let again = host.place.run(
            "run --rm --name web --network name=robots,ip=10.77.0.9 --network side -p 8080:80 busybox true",
        );
        assert_eq!(again.code, 0, "{what}: {again:?}");
        if round % 4 == 3 || round + 1 == rounds {
            // Whoever waits to take the networks away is killed, too.
            if numbers.below(2) == 0 {
                kill_ours(&host);
                host.ok("ps");
            } else {
                host.ok("network prune -f");
            }
            assert_clean();
            let left: Vec<_> = fs::read_dir(host.place.directory.join("run/networks"))
                .unwrap()
                .flatten()
                .map(|entry| entry.file_name().into_string().unwrap())
                .filter(|name| !matches!(name.as_str(), "lock" | "rest.lock" | "forwarding"))
                .collect();
            assert!(left.is_empty(), "{what}: {left:?}");
        }
    }
    host.end();
    kill_ours(&host);
}

#[test]
fn privileged_a_hundred_starts_leave_nothing() {
    let host = host!("hundred");
    host.ok("network create robots");
    for at in 0..100 {
        let line = match at % 4 {
            0 => "run --rm busybox true",
            1 => "run --rm -p 8080:80 busybox true",
            2 => "run --rm --network robots busybox true",
            _ => "run --rm --network robots --network bridge -p 8080:80/udp busybox true",
        };
        host.ok(line);
    }
    // The last one's monitor takes everything away by itself.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ours(&host).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", ours(&host));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_clean();
    host.place.assert_empty();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&host.place.directory.path().display().to_string()), "{mounts}");
}

#[test]
fn privileged_many_start_at_once() {
    let host = host!("at-once");
    host.ok("network create --subnet 10.77.0.0/24 robots");
    let mut fronts: Vec<_> = (0..12)
        .map(|at| {
            let line =
                format!("run -d --name box{at:02} --network robots -p {}:80 busybox sleep 1000", 9000 + at);
            let mut call = host.place.command(&line.split(' ').collect::<Vec<_>>());
            call.0.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for front in &mut fronts {
        assert!(front.wait().unwrap().success());
    }
    let all = host.network_field("robots", "{{range .Containers}}{{.IPv4Address}} {{end}}");
    let mut addresses: Vec<&str> = all.split_whitespace().collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 12, "{all}");
    host.end();
}
