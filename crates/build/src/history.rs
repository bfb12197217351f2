//! What an image's history says of instructions.

use std::collections::BTreeSet;
use std::time::Duration;

use robot_env_dockerfile::{CommandLine, Instruction, Port};
use robot_env_oci::Healthcheck;

/// A list as Go prints it in the history: `["a" "b"]`.
fn words(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn command(line: &CommandLine, shell: &[String]) -> String {
    match line {
        CommandLine::Exec(list) => words(list),
        CommandLine::Shell(text) => words(&with_shell(shell, text)),
    }
}

/// A text as the words that execute it.
pub(crate) fn with_shell(shell: &[String], text: &str) -> Vec<String> {
    let mut all = if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell.to_vec() };
    all.push(text.to_owned());
    all
}

/// An instruction, variables put in, as its history entry.
pub(crate) fn created_by(instruction: &Instruction, shell: &[String]) -> String {
    let pairs = |pairs: &[robot_env_dockerfile::Pair]| {
        pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect::<Vec<_>>().join(" ")
    };
    let list = |list: &[robot_env_dockerfile::Word]| {
        list.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
    };
    match instruction {
        Instruction::Cmd(line) => format!("CMD {}", command(line, shell)),
        Instruction::Entrypoint(line) => format!("ENTRYPOINT {}", command(line, shell)),
        Instruction::Env(all) => format!("ENV {}", pairs(all)),
        Instruction::Label(all) => format!("LABEL {}", pairs(all)),
        Instruction::Expose(ports) => {
            let parsed = ports.iter().filter_map(|port| Port::parse(&port.text).ok());
            let names: BTreeSet<String> = parsed.flat_map(|port| port.names().collect::<Vec<_>>()).collect();
            let shown: Vec<String> = names.iter().map(|name| format!("{name}:{{}}")).collect();
            format!("EXPOSE map[{}]", shown.join(" "))
        }
        Instruction::Healthcheck(check) => format!("HEALTHCHECK {}", health(check)),
        Instruction::Maintainer(name) => format!("MAINTAINER {name}"),
        Instruction::Onbuild(trigger) => format!("ONBUILD {}", trigger.expression),
        Instruction::Shell(shell) => format!("SHELL [{}]", shell.join(" ")),
        Instruction::Stopsignal(word) => format!("STOPSIGNAL {}", word.text),
        Instruction::User(word) => format!("USER {}", word.text),
        Instruction::Volume(paths) => format!("VOLUME [{}]", list(paths)),
        Instruction::Workdir(word) => format!("WORKDIR {}", word.text),
        Instruction::Arg(arguments) => {
            let one = |argument: &robot_env_dockerfile::Argument| match &argument.default {
                Some(default) => format!("{}={default}", argument.name),
                None => argument.name.clone(),
            };
            format!("ARG {}", arguments.iter().map(one).collect::<Vec<_>>().join(" "))
        }
        Instruction::Copy(copy) => placement("COPY", &copy.placement),
        Instruction::Add(add) => placement("ADD", &add.placement),
        Instruction::Run(run) => match &run.command {
            CommandLine::Exec(list) => format!("RUN {}", list.join(" ")),
            CommandLine::Shell(text) => format!("RUN {}", with_shell(shell, text).join(" ")),
        },
    }
}

fn placement(name: &str, placement: &robot_env_dockerfile::Placement) -> String {
    let flag = |name: &str, word: &Option<robot_env_dockerfile::Word>| {
        word.as_ref().map_or_else(String::new, |word| format!(" --{name}={}", word.text))
    };
    let documents = placement.documents.iter().map(|document| document.name.as_str());
    let sources: Vec<&str> =
        placement.sources.iter().map(|word| word.text.as_str()).chain(documents).collect();
    format!(
        "{name}{}{} {} {}",
        flag("chown", &placement.chown),
        flag("chmod", &placement.chmod),
        sources.join(" "),
        placement.destination.text
    )
}

/// As Go prints the structure.
fn health(check: &Healthcheck) -> String {
    let time = |nanoseconds: i64| format!("\"{}\"", duration(nanoseconds));
    let retries = match u8::try_from(check.retries) {
        Ok(number) if number < 32 => format!("\\x{number:02x}"),
        Ok(number) => char::from(number).to_string(),
        Err(_) => check.retries.to_string(),
    };
    format!(
        "&{{{} {} {} {} {} '{retries}'}}",
        words(&check.test),
        time(check.interval),
        time(check.timeout),
        time(check.start_period),
        time(check.start_interval),
    )
}

/// A time as Go writes it: `1m30s`, `1.5s`, `500ms`.
fn duration(nanoseconds: i64) -> String {
    let time = Duration::from_nanos(nanoseconds.unsigned_abs());
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, rest) = (time.as_secs(), time.subsec_nanos());
    if seconds == 0 && rest > 0 {
        let (unit, each) = match rest {
            1_000_000.. => ("ms", 1e6),
            1_000.. => ("µs", 1e3),
            _ => ("ns", 1.0),
        };
        return format!("{sign}{}{unit}", f64::from(rest) / each);
    }
    let last = (seconds % 60) as f64 + f64::from(rest) / 1e9;
    let mut out = String::from(sign);
    if seconds >= 3600 {
        out.push_str(&format!("{}h", seconds / 3600));
    }
    if seconds >= 60 {
        out.push_str(&format!("{}m", seconds / 60 % 60));
    }
    out.push_str(&format!("{last}s"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_go_writes_them() {
        for (nanoseconds, want) in [
            (0, "0s"),
            (90_000_000_000, "1m30s"),
            (5_000_000_000, "5s"),
            (1_500_000_000, "1.5s"),
            (500_000_000, "500ms"),
            (1_500, "1.5µs"),
            (7, "7ns"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(nanoseconds), want);
        }
    }
}
