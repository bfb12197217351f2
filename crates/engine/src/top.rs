//! The processes of a container, as `ps` shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use robot_env_diag::{Error, Kind, Result};

use crate::control::container_cgroup;
use crate::engine::Engine;
use crate::record::ProcessRecord;
use crate::records::Container;

/// A table of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// The headings.
    pub titles: Vec<String>,
    /// A cell for each heading, a row for each process.
    pub rows: Vec<Vec<String>>,
}

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

impl Engine {
    /// The processes of a running container. Without `arguments` they are read from `/proc`, in the
    /// form of `ps -ef`; with some, the host's `ps` is asked and what is not the container's left
    /// out.
    ///
    /// # Errors
    /// `Conflict` when it does not run; `Unavailable` where there is no `ps`; `InvalidInput` for
    /// arguments that `ps` does not take, or whose output does not tell the processes' ids.
    pub fn top(&self, text: &str, arguments: &[String]) -> Result<Processes> {
        let container = self.container(text)?;
        let state = &container.state.state;
        let Some(process) = state.process() else {
            let why =
                if state.is_active() { "is restarting, wait until it is running" } else { "is not running" };
            return Err(Error::new(Kind::Conflict, format!("container {} {why}", container.record.id)));
        };
        let pids = processes_of(&container, process);
        if arguments.is_empty() {
            let host = Host::read();
            let mut rows: Vec<Line> = pids.iter().filter_map(|pid| Line::read(*pid)).collect();
            rows.sort_by_key(|line| (line.start, line.pid));
            let rows = rows.iter().map(|line| line.cells(&host)).collect();
            return Ok(Processes { titles: TITLES.map(str::to_owned).to_vec(), rows });
        }
        check(arguments)?;
        filter(&ask_ps(arguments, &pids)?, &pids)
    }
}

/// The pids of a container's processes: those of its cgroup; without one, those of its pid
/// namespace; where that is the host's, its first process with all that it started.
fn processes_of(container: &Container, first: &ProcessRecord) -> BTreeSet<i32> {
    if let Some(cgroup) = container_cgroup(container)
        && let Some(pids) = Some(cgroup.processes()).filter(|pids| !pids.is_empty())
    {
        return pids.into_iter().collect();
    }
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(first.pid);
    if own.is_some() && own != fs::read_link("/proc/self/ns/pid").ok() {
        return all.into_iter().filter(|pid| namespace(*pid) == own).collect();
    }
    let parents: BTreeMap<i32, i32> =
        all.iter().filter_map(|pid| Some((*pid, Line::read(*pid)?.parent))).collect();
    let mut found = BTreeSet::from([first.pid]);
    loop {
        let before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| found.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

/// What of the host the lines depend on.
struct Host {
    users: BTreeMap<u32, String>,
    now: Timestamp,
    boot: i64,
    ticks: u64,
}

impl Host {
    fn read() -> Host {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut users = BTreeMap::new();
        for line in passwd.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1))
                && let Ok(uid) = uid.parse()
            {
                // The first one counts.
                users.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Host {
            users,
            now: Timestamp::now(),
            boot: boot.unwrap_or(0),
            ticks: rustix::param::clock_ticks_per_second().max(1),
        }
    }
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    uid: u32,
    pid: i32,
    parent: i32,
    terminal: u32,
    /// Clock ticks on a CPU.
    time: u64,
    /// Clock ticks from boot to its start.
    start: u64,
    command: String,
}

impl Line {
    /// From `/proc`; `None` for a process that has gone.
    fn read(pid: i32) -> Option<Line> {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
        let text = |name: &str| read(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Line::parse(pid, &text("stat")?, &text("status")?, &read("cmdline")?)
    }

    fn parse(pid: i32, stat: &str, status: &str, arguments: &[u8]) -> Option<Line> {
        // The name may hold anything: the other fields are behind its last parenthesis.
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let words: Vec<String> = arguments
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let command = if matches!(fields.first(), Some(&("Z" | "X"))) {
            format!("[{name}] <defunct>")
        } else if words.is_empty() {
            format!("[{name}]")
        } else {
            words.join(" ")
        };
        Some(Line {
            uid: uids.split_whitespace().nth(1)?.parse().ok()?,
            pid,
            parent: number(1)? as i32,
            terminal: fields.get(4)?.parse::<i64>().ok()? as u32,
            time: number(11)? + number(12)?,
            start: number(19)?,
            command,
        })
    }

    fn cells(&self, host: &Host) -> Vec<String> {
        let user = host.users.get(&self.uid).cloned().unwrap_or_else(|| self.uid.to_string());
        let started =
            Timestamp::from_second(host.boot + (self.start / host.ticks) as i64).unwrap_or(host.now);
        let age = (host.now.as_second() - started.as_second()).max(1) as u64;
        let seconds = self.time / host.ticks;
        vec![
            user,
            self.pid.to_string(),
            self.parent.to_string(),
            (seconds * 100 / age).min(99).to_string(),
            start_text(started, host.now),
            terminal_text(self.terminal),
            time_text(seconds),
            self.command.clone(),
        ]
    }
}

/// `13:05` on the same day, `Nov24` in the same year, else the year.
fn start_text(started: Timestamp, now: Timestamp) -> String {
    let (started, now) = (started.to_zoned(TimeZone::system()), now.to_zoned(TimeZone::system()));
    let format = if started.date() == now.date() {
        "%H:%M"
    } else if started.year() == now.year() {
        "%b%d"
    } else {
        "%Y"
    };
    started.strftime(format).to_string()
}

/// `00:01:02`, `3-00:00:00`.
fn time_text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    let text = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 { format!("{days}-{text}") } else { text }
}

/// The name of a controlling terminal (proc(5)'s tty_nr).
fn terminal_text(number: u32) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match (major, minor) {
        (0, 0) => "?".into(),
        (136..=143, minor) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, minor @ 0..=63) => format!("tty{minor}"),
        (4, minor) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".into(),
        (major, minor) => format!("{major}:{minor}"),
    }
}

/// A heading of the user's own for the column of pids could not be told from it.
fn check(arguments: &[String]) -> Result<()> {
    for argument in arguments {
        for part in argument.split([',', ' ']) {
            if let Some((key, heading)) = part.split_once('=')
                && heading.trim_start().to_ascii_uppercase().starts_with("PID")
                && !matches!(key.trim_start_matches('-').trim_start_matches('o'), "pid" | "tgid")
            {
                return Err(Error::invalid(format!("specifying \"{part}\" is not allowed")));
            }
        }
    }
    Ok(())
}

/// What the host's `ps` says. It is asked for these processes; some of its options cannot be used
/// together with that, and then it chooses by itself.
fn ask_ps(arguments: &[String], pids: &BTreeSet<i32>) -> Result<String> {
    let list: Vec<String> = pids.iter().map(i32::to_string).collect();
    let ask = |arguments: &[String]| {
        Command::new("ps").args(arguments).stdin(Stdio::null()).output().map_err(|error| {
            let failed = Error::new(Kind::Unavailable, "cannot list processes: `ps` cannot be started");
            if error.kind() == std::io::ErrorKind::NotFound {
                failed.because(error).with_hint("leave out the arguments of `ps`, or install it (procps)")
            } else {
                failed.because(error)
            }
        })
    };
    let mut chosen = vec![format!("-q{}", list.join(","))];
    chosen.extend_from_slice(arguments);
    let mut output = ask(&chosen)?;
    if !output.status.success() {
        output = ask(arguments)?;
    }
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it says nothing");
    Err(Error::invalid(format!("cannot list processes with `ps {}`: {line}", arguments.join(" "))))
}

/// The lines whose processes are the container's.
fn filter(output: &str, pids: &BTreeSet<i32>) -> Result<Processes> {
    let mut lines = output.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::invalid("couldn't find PID field in ps output"));
    };
    let mut rows = Vec::new();
    // Lines of threads (`-L`, `-m`) follow their process's and have no pid.
    let mut within = false;
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(word) = words.get(column) else { continue };
        within = match *word {
            "-" => within,
            word => word.parse().is_ok_and(|pid| pids.contains(&pid)),
        };
        if within {
            // What is behind the last heading may have spaces.
            let last = titles.len() - 1;
            let mut cells: Vec<String> = words.iter().take(last).map(|word| (*word).to_owned()).collect();
            cells.push(words.get(last..).unwrap_or_default().join(" "));
            rows.push(cells);
        }
    }
    Ok(Processes { titles, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let rest = "S 7 1 1 34817 1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9000 1 2";
        let stat = format!("42 (a) b (c) {rest}");
        let status = "Name:\tx\nUid:\t0\t1000\t0\t0\n";
        let line = Line::parse(42, &stat, status, b"sleep\x00100\x00").unwrap();
        assert_eq!(
            line,
            Line {
                uid: 1000,
                pid: 42,
                parent: 7,
                terminal: 34817,
                time: 200,
                start: 9000,
                command: "sleep 100".into()
            }
        );
        let host = Host {
            users: BTreeMap::from([(1000, "robot".into())]),
            now: Timestamp::from_second(1_000_100).unwrap(),
            boot: 1_000_000,
            ticks: 100,
        };
        let cells = line.cells(&host);
        assert_eq!((cells[0].as_str(), cells[3].as_str(), cells[5].as_str()), ("robot", "20", "pts/1"));
        assert_eq!((cells[6].as_str(), cells[7].as_str()), ("00:00:02", "sleep 100"));
        let zombie = Line::parse(1, &stat.replace(") S", ") Z"), status, b"").unwrap();
        assert_eq!(zombie.command, "[a) b (c] <defunct>");
        assert!(Line::parse(1, "", status, b"").is_none());
    }

    #[test]
    fn texts() {
        for (number, want) in [
            (0, "?"),
            (34816, "pts/0"),
            (1025, "tty1"),
            (1088, "ttyS0"),
            (0x501, "console"),
            (35072, "pts/256"),
        ] {
            assert_eq!(terminal_text(number), want);
        }
        for (seconds, want) in [(0, "00:00:00"), (3723, "01:02:03"), (259_200, "3-00:00:00")] {
            assert_eq!(time_text(seconds), want);
        }
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(start_text(at(1_700_000_000), at(1_900_000_000)), "2023");
        assert_eq!(start_text(at(1_700_000_000), at(1_700_000_001)).len(), 5);
    }

    #[test]
    fn the_output_of_ps_is_filtered() {
        let pids = BTreeSet::from([12, 30]);
        let text = "  PID USER  COMMAND\n   12 root  sh -c  x y\n   13 root init\n   30 me x\n";
        let found = filter(text, &pids).unwrap();
        assert_eq!(found.titles, ["PID", "USER", "COMMAND"]);
        assert_eq!(found.rows, [["12", "root", "sh -c x y"], ["30", "me", "x"]]);
        let threads = "  PID   LWP CMD\n   12     - a\n    -    12 -\n   13     - b\n    -    13 -\n";
        assert_eq!(filter(threads, &pids).unwrap().rows, [["12", "-", "a"], ["-", "12", "-"]]);
        assert!(filter("USER\nroot\n", &pids).is_err() && filter("", &pids).is_err());
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(check(&words("-o pid,user")).is_ok() && check(&words("-o pid=PID,user")).is_ok());
        assert!(check(&words("-o user=PID")).is_err() && check(&words("-eo ppid=PIDS")).is_err());
    }
}
