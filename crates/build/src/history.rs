//! What an image's history says of instructions.

use robot_env_dockerfile::{CommandLine, Instruction};
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
        Instruction::Expose(ports) => format!("EXPOSE [{}]", list(ports)),
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

fn health(check: &Healthcheck) -> String {
    let seconds = |nanoseconds: i64| format!("\"{}s\"", nanoseconds / 1_000_000_000);
    format!(
        "&{{{} {} {} {} {} '{}'}}",
        words(&check.test),
        seconds(check.interval),
        seconds(check.timeout),
        seconds(check.start_period),
        seconds(check.start_interval),
        check.retries
    )
}
