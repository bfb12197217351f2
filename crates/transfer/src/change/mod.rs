//! `--change`: Dockerfile instructions that change an image's config.
//!
//! Rules: Dockerfile reference, "docker commit --change". Pure: text in, config out.

mod words;

use robot_env_diag::{Error, Result};
use robot_env_oci::{Healthcheck, RuntimeConfig};

use words::{Variables, expand, json_list, pairs, split, strip_continuations};

/// An instruction that changes a config. Its words may name variables, which stand for the
/// config's environment at the time when it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `ENV`: names and values, not expanded.
    Env(Vec<(String, String)>),
    /// `LABEL`: names and values, not expanded.
    Label(Vec<(String, String)>),
    /// `EXPOSE`: ports, not expanded.
    Expose(Vec<String>),
    /// `VOLUME`: paths, not expanded.
    Volume(Vec<String>),
    /// `USER`, not expanded.
    User(String),
    /// `WORKDIR`, not expanded.
    WorkDir(String),
    /// `STOPSIGNAL`, not expanded.
    StopSignal(String),
    /// `ONBUILD`: an instruction for images that are built on this one.
    OnBuild(String),
    /// `HEALTHCHECK`; `None` switches it off.
    Healthcheck(Option<Check>),
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A JSON list.
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is run.
    pub command: Command,
    /// Its times and retries; `test` is empty.
    pub options: Healthcheck,
}

/// What may stand in front.
const KNOWN: &str =
    "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR";

impl Change {
    /// Reads the instructions of `text`, one a line; a backslash at a line's end joins the next one,
    /// and lines that start with `#` are comments.
    ///
    /// Errors: `InvalidInput` naming the instruction.
    pub fn parse(text: &str) -> Result<Vec<Change>> {
        strip_continuations(text).iter().map(|line| Change::parse_line(line)).collect()
    }

    /// Like [`Change::parse`], for several texts.
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for text in texts {
            changes.extend(Change::parse(text)?);
        }
        Ok(changes)
    }

    fn parse_line(line: &str) -> Result<Change> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let instruction = word.to_ascii_uppercase();
        let bad = |why: &str| Error::invalid(format!("invalid change `{line}`: {why}"));
        let missing = || bad(&format!("{instruction} needs an argument"));
        // Found now and not when the image is nearly made.
        let checked = |text: &str| expand(text, &Variables::none()).map(drop).map_err(|why| bad(&why));
        if rest.is_empty() {
            return Err(match instruction.as_str() {
                "CMD" | "ENTRYPOINT" | "ENV" | "LABEL" | "EXPOSE" | "VOLUME" | "USER" | "WORKDIR"
                | "STOPSIGNAL" | "ONBUILD" | "HEALTHCHECK" => missing(),
                _ => bad(&format!("only {KNOWN} can change an image")),
            });
        }
        match instruction.as_str() {
            "CMD" => Ok(Change::Cmd(command(rest))),
            "ENTRYPOINT" => Ok(Change::Entrypoint(command(rest))),
            "ENV" | "LABEL" => {
                let pairs = pairs(rest).map_err(|why| bad(&why))?;
                for (name, value) in &pairs {
                    checked(value)?;
                    let plain = expand(name, &Variables::none()).map_err(|why| bad(&why))?;
                    if plain.is_empty() {
                        return Err(bad("a name is empty"));
                    }
                }
                Ok(if instruction == "ENV" { Change::Env(pairs) } else { Change::Label(pairs) })
            }
            "EXPOSE" => {
                let words = split(rest).map_err(|why| bad(&why))?;
                for word in words.iter().filter(|word| !word.contains('$')) {
                    ports(word).map_err(|why| bad(&why))?;
                }
                Ok(Change::Expose(words))
            }
            "VOLUME" => {
                let words = match json_list(rest) {
                    Some(words) => words,
                    None => split(rest).map_err(|why| bad(&why))?,
                };
                if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
                    return Err(bad("a volume's path is empty"));
                }
                words.iter().try_for_each(|word| checked(word))?;
                Ok(Change::Volume(words))
            }
            "USER" => checked(rest).map(|()| Change::User(rest.into())),
            "WORKDIR" => checked(rest).map(|()| Change::WorkDir(rest.into())),
            "STOPSIGNAL" => {
                checked(rest)?;
                if !rest.contains('$') {
                    signal(rest).map_err(|why| bad(&why))?;
                }
                Ok(Change::StopSignal(rest.into()))
            }
            "ONBUILD" => {
                let first = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                match first.as_str() {
                    "ONBUILD" => Err(bad("ONBUILD cannot stand in ONBUILD")),
                    "FROM" | "MAINTAINER" => Err(bad(&format!("{first} cannot stand in ONBUILD"))),
                    _ => Ok(Change::OnBuild(rest.into())),
                }
            }
            "HEALTHCHECK" => healthcheck(rest).map(Change::Healthcheck).map_err(|why| bad(&why)),
            _ => Err(bad(&format!("only {KNOWN} can change an image"))),
        }
    }
}

/// Applies `changes` in their order.
///
/// As in a Dockerfile, `ENTRYPOINT` takes a command away that no change before it set: it was made
/// for another entry point.
///
/// Errors: `InvalidInput` for what variables turn into something wrong; `config` is then unchanged.
pub fn apply_changes(config: &mut RuntimeConfig, changes: &[Change]) -> Result<()> {
    let mut new = config.clone();
    let mut command_set = false;
    for change in changes {
        let bad = |why: String| Error::invalid("cannot apply a change to the image's config").because(why);
        let variables = Variables::of(&new.env);
        let words = |texts: &[String]| -> Result<Vec<String>> {
            texts.iter().map(|text| expand(text, &variables).map_err(bad)).collect()
        };
        match change {
            Change::Cmd(command) => {
                command_set = true;
                new.cmd = list(command, &new.shell);
            }
            Change::Entrypoint(command) => {
                new.entrypoint = list(command, &new.shell);
                if !command_set {
                    new.cmd = None;
                }
            }
            Change::Env(pairs) => {
                for (name, value) in pairs {
                    // All of one instruction see the environment before it.
                    let (name, value) =
                        (expand(name, &variables).map_err(bad)?, expand(value, &variables).map_err(bad)?);
                    let entry = format!("{name}={value}");
                    let same = |known: &&mut String| known.split('=').next() == Some(name.as_str());
                    match new.env.iter_mut().find(same) {
                        Some(known) => *known = entry,
                        None => new.env.push(entry),
                    }
                }
            }
            Change::Label(pairs) => {
                for (name, value) in pairs {
                    new.labels.insert(
                        expand(name, &variables).map_err(bad)?,
                        expand(value, &variables).map_err(bad)?,
                    );
                }
            }
            Change::Expose(texts) => {
                for text in words(texts)? {
                    // A variable may stand for several.
                    for word in text.split_whitespace() {
                        for port in ports(word).map_err(bad)? {
                            new.exposed_ports.insert(port, serde_json::json!({}));
                        }
                    }
                }
            }
            Change::Volume(paths) => {
                for path in words(paths)? {
                    new.volumes.insert(path, serde_json::json!({}));
                }
            }
            Change::User(text) => new.user = expand(text, &variables).map_err(bad)?,
            Change::WorkDir(text) => {
                new.working_dir = directory(&new.working_dir, &expand(text, &variables).map_err(bad)?);
            }
            Change::StopSignal(text) => {
                let text = expand(text, &variables).map_err(bad)?;
                signal(&text).map_err(bad)?;
                new.stop_signal = text;
            }
            Change::OnBuild(text) => new.on_build.push(text.clone()),
            Change::Healthcheck(None) => {
                new.healthcheck = Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() });
            }
            Change::Healthcheck(Some(check)) => {
                let mut test = Vec::new();
                match &check.command {
                    Command::Exec(list) => {
                        test.push("CMD".to_owned());
                        test.extend(list.iter().cloned());
                    }
                    Command::Shell(line) => test.extend(["CMD-SHELL".to_owned(), line.clone()]),
                }
                new.healthcheck = Some(Healthcheck { test, ..check.options.clone() });
            }
        }
    }
    *config = new;
    Ok(())
}

fn command(text: &str) -> Command {
    json_list(text).map_or_else(|| Command::Shell(text.to_owned()), Command::Exec)
}

/// The list that a config has; `None` for an empty one.
fn list(command: &Command, shell: &[String]) -> Option<Vec<String>> {
    match command {
        Command::Exec(list) if list.is_empty() => None,
        Command::Exec(list) => Some(list.clone()),
        Command::Shell(line) => {
            let mut out =
                if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell.to_vec() };
            out.push(line.clone());
            Some(out)
        }
    }
}

/// `80`, `80/udp`, `8000-8010/tcp` as `port/protocol`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let bad = || format!("`{text}` is no port like `80`, `53/udp` or `8000-8010/tcp`");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(bad)
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(range)?, port(range)?),
    };
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn signal(text: &str) -> Result<(), String> {
    match robot_env_sys::process::parse_signal(text) {
        Some(_) => Ok(()),
        None => Err(format!("`{text}` is no signal")),
    }
}

/// `to`, seen from `from`, without `.` and `..`.
fn directory(from: &str, to: &str) -> String {
    let from = if to.starts_with('/') { "" } else { from };
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(to.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn healthcheck(text: &str) -> Result<Option<Check>, String> {
    let mut options = Healthcheck::default();
    let mut rest = text;
    while rest.starts_with("--") {
        let (flag, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = behind.trim_start();
        let (name, value) = flag.split_once('=').ok_or_else(|| format!("`{flag}` has no value"))?;
        let time = || duration(value).ok_or_else(|| format!("`{value}` is no time like `30s` for {name}"));
        match name {
            "--interval" => options.interval = time()?,
            "--timeout" => options.timeout = time()?,
            "--start-period" => options.start_period = time()?,
            "--start-interval" => options.start_interval = time()?,
            "--retries" => {
                options.retries = value
                    .parse()
                    .ok()
                    .filter(|n| *n >= 0)
                    .ok_or_else(|| format!("`{value}` is no number of retries"))?;
            }
            _ => return Err(format!("HEALTHCHECK has no flag {name}")),
        }
    }
    let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let behind = behind.trim();
    match word.to_ascii_uppercase().as_str() {
        "NONE" if behind.is_empty() && options == Healthcheck::default() => Ok(None),
        "NONE" => Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" if behind.is_empty() => Err("HEALTHCHECK CMD needs a command".into()),
        "CMD" => match command(behind) {
            Command::Exec(list) if list.is_empty() => Err("HEALTHCHECK CMD needs a command".into()),
            command => Ok(Some(Check { command, options })),
        },
        _ => Err("HEALTHCHECK is followed by NONE or CMD".into()),
    }
}

/// Go's `1h2m3.5s`, in nanoseconds; 0 or at least a millisecond.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let behind = &rest[end..];
        let (unit, length) =
            [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)]
                .into_iter()
                .find(|(unit, _)| behind.starts_with(unit))?;
        total += number * length;
        rest = &behind[unit.len()..];
    }
    let whole = total.round();
    (!text.is_empty() && (whole == 0.0 || whole >= 1e6) && whole < 9e18).then_some(whole as i64)
}

#[cfg(test)]
mod tests;
