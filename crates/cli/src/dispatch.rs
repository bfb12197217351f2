//! From the words of the command line to a command that runs.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};
use robot_env_diag::{Error, Kind, Result};

use crate::ambient::Ambient;
use crate::app::{App, Globals, Loudness, Server};
use crate::command_line::{Flags, canonical};
use crate::commands::{ENTRIES, GROUPS};
use crate::failure;
use crate::verb::{Entry, Exit};

/// Runs the program; `arguments` are those of the process, its own name first; `server` serves the
/// API.
pub fn main(arguments: Vec<OsString>, server: Server) -> Exit {
    let mut words = arguments.into_iter();
    let program = words.next().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "robot-env".into());
    let ambient = Ambient::of_process(&program);
    let plain = App::new(ambient.clone(), Globals::default());
    let words: Result<Vec<String>> = words
        .map(|word| {
            word.into_string().map_err(|word| {
                Error::invalid(format!(
                    "invalid argument `{}`: it is not valid UTF-8",
                    word.to_string_lossy()
                ))
            })
        })
        .collect();
    match words.and_then(|words| start(ambient, server, &words)) {
        Ok(exit) => exit,
        Err(error) => {
            plain.show(&error);
            Exit(failure::ENGINE)
        }
    }
}

fn start(ambient: Ambient, server: Server, words: &[String]) -> Result<Exit> {
    let root = root_command().arg(Arg::new("words").num_args(0..).hide(true));
    let words = canonical(&root, Flags::First, words)?;
    let matches = match root.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => return Err(failure::of_clap(&error, &ambient.program)),
    };
    let globals = globals(&matches)?;
    let app = App::new(ambient, globals).with_server(server);
    let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
    if matches.get_flag("version") {
        app.print_line(&format!("{} version {}", app.program(), env!("CARGO_PKG_VERSION")))?;
        return Ok(Exit::SUCCESS);
    }
    let Some(first) = words.first() else {
        app.print(&overview(app.program()))?;
        return Ok(Exit::SUCCESS);
    };
    if matches.get_flag("help") {
        return help(&app, &words);
    }
    if first == "help" {
        return help(&app, &words[1..]);
    }
    match find(&words) {
        Some((entry, spelling, rest)) => Ok(run(&app, entry, spelling, rest)),
        None => unknown(&app, &words),
    }
}

/// Runs another command by its words, as if it had been typed; `None` where there is no such command.
/// What goes wrong has been said.
pub(crate) fn call(app: &App, words: &[String]) -> Option<Exit> {
    let (entry, spelling, rest) = find(words)?;
    Some(run(app, entry, spelling, rest))
}

/// The entry whose spelling begins `words`; the longest one.
fn find(words: &[String]) -> Option<(&'static Entry, &'static str, &[String])> {
    for length in [2, 1] {
        let Some(head) = words.get(..length) else { continue };
        let spelled = head.join(" ");
        for entry in ENTRIES {
            if let Some(spelling) = entry.spellings.iter().find(|spelling| **spelling == spelled) {
                return Some((entry, spelling, &words[length..]));
            }
        }
    }
    None
}

fn run(app: &App, entry: &Entry, spelling: &'static str, words: &[String]) -> Exit {
    let spelled = format!("{} {spelling}", app.program());
    let command = (entry.command)(spelling).no_binary_name(true).bin_name(&spelled);
    let usage_error = |error: Error, code: u8| {
        app.show(&error);
        Exit(code)
    };
    let words = match canonical(&command, entry.flags, words) {
        Ok(words) => words,
        Err(error) => return usage_error(error, failure::ENGINE),
    };
    let matches = match command.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
            return match app.print(&error.to_string()) {
                Ok(()) => Exit::SUCCESS,
                Err(error) => usage_error(error, 1),
            };
        }
        Err(error) => {
            let code = failure::usage_code(&error);
            return usage_error(failure::of_clap(&error, &spelled), code);
        }
    };
    match (entry.run)(&matches, app) {
        Ok(exit) => exit,
        // `robot-env ps | head -1` is no mistake.
        Err(error) if error.kind() == Kind::Interrupted && error.message().starts_with("the reader of") => {
            Exit(141)
        }
        Err(error) => {
            let code = failure::exit_code(entry.class, &error);
            usage_error(error, code)
        }
    }
}

fn unknown(app: &App, words: &[String]) -> Result<Exit> {
    let program = app.program();
    let group = GROUPS.iter().find(|(name, _)| *name == words[0]);
    if let Some((name, _)) = group {
        match words.get(1) {
            None => {
                app.print(&group_overview(program, name))?;
                return Ok(Exit::SUCCESS);
            }
            Some(word) if matches!(word.as_str(), "--help" | "-h" | "help") => {
                app.print(&group_overview(program, name))?;
                return Ok(Exit::SUCCESS);
            }
            Some(_) => {}
        }
    }
    let spelled = if group.is_some() { words[..2].join(" ") } else { words[0].clone() };
    let all = ENTRIES
        .iter()
        .flat_map(|entry| entry.spellings.iter().copied())
        .chain(GROUPS.iter().map(|(name, _)| *name));
    let error = Error::invalid(format!("unknown command: {program} {spelled}"));
    app.show(&match failure::nearest(&spelled, all) {
        Some(near) => error.with_hint(format!("did you mean `{program} {near}`?")),
        None => error.with_hint(format!("`{program} --help` lists the commands")),
    });
    Ok(Exit::FAILURE)
}

fn help(app: &App, words: &[String]) -> Result<Exit> {
    if words.is_empty() {
        app.print(&overview(app.program()))?;
        return Ok(Exit::SUCCESS);
    }
    match find(words) {
        Some((entry, spelling, _)) => Ok(run(app, entry, spelling, &["--help".to_owned()])),
        None => unknown(app, words),
    }
}

fn root_command() -> Command {
    let text = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Set);
    Command::new("robot-env")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(text("root").value_name("DIRECTORY").help("Where images, containers and volumes are kept"))
        .arg(text("run-root").value_name("DIRECTORY").help("Where the state of running containers is kept"))
        .arg(
            text("config")
                .value_name("DIRECTORY")
                .help("Where config.json with the registries' credentials is"),
        )
        .arg(text("context").short('c').value_name("NAME").help("Only `default`: there is no daemon"))
        .arg(
            Arg::new("host")
                .short('H')
                .long("host")
                .action(ArgAction::Append)
                .value_name("ADDRESS")
                .help("Not supported: there is no daemon"),
        )
        .arg(text("log-level").short('l').value_name("LEVEL").help("debug, info, warn, error or fatal"))
        .arg(
            Arg::new("debug")
                .short('D')
                .long("debug")
                .action(ArgAction::SetTrue)
                .help("Say more about errors"),
        )
        .arg(Arg::new("help").short('h').long("help").action(ArgAction::SetTrue).help("Show this help"))
        .arg(
            Arg::new("version")
                .short('v')
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Show the version"),
        )
}

fn globals(matches: &ArgMatches) -> Result<Globals> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    if let Some(host) = matches.get_many::<String>("host").and_then(|mut hosts| hosts.next()) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot talk to `{host}`: there is no daemon, --host is not supported"),
        )
        .with_hint("leave --host away: the command works on this machine"));
    }
    if let Some(context) = text("context").filter(|name| !matches!(*name, "" | "default")) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot use context `{context}`: there is no daemon, --context is not supported"),
        )
        .with_hint("leave --context away: the command works on this machine"));
    }
    let mut loudness = match text("log-level") {
        None | Some("info" | "warn" | "warning") => Loudness::Warn,
        Some("debug" | "trace") => Loudness::Debug,
        Some("error" | "fatal" | "panic") => Loudness::Error,
        Some(other) => return Err(Error::invalid(format!("unable to parse logging level: {other}"))),
    };
    if matches.get_flag("debug") {
        loudness = Loudness::Debug;
    }
    let path = |name: &str| text(name).filter(|path| !path.is_empty()).map(std::path::PathBuf::from);
    Ok(Globals { root: path("root"), run_root: path("run-root"), config: path("config"), loudness })
}

fn about(entry: &Entry, spelling: &'static str) -> String {
    (entry.command)(spelling).get_about().map(ToString::to_string).unwrap_or_default()
}

fn listed(out: &mut String, heading: &str, lines: impl Iterator<Item = (String, String)>) {
    let lines: Vec<_> = lines.collect();
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    out.push_str(&format!("\n{heading}:\n"));
    for (name, about) in lines {
        out.push_str(&format!("  {name:width$}  {about}\n"));
    }
}

/// What `--help` prints.
fn overview(program: &str) -> String {
    let mut out = format!(
        "Usage: {program} [OPTIONS] COMMAND\n\nContainers for robot development, without a daemon.\n"
    );
    let plain = |entry: &&Entry| !entry.spellings[0].contains(' ');
    listed(
        &mut out,
        "Commands",
        ENTRIES
            .iter()
            .filter(plain)
            .map(|entry| (entry.spellings[0].to_owned(), about(entry, entry.spellings[0]))),
    );
    listed(
        &mut out,
        "Groups of commands",
        GROUPS.iter().map(|(name, about)| ((*name).to_owned(), (*about).to_owned())),
    );
    let root = root_command();
    let flags = root.get_arguments().filter(|arg| !arg.is_hide_set()).map(|arg| {
        let short = arg.get_short().map_or("    ".to_owned(), |letter| format!("-{letter}, "));
        let value = arg
            .get_value_names()
            .filter(|_| arg.get_action().takes_values())
            .map(|names| format!(" {}", names[0]))
            .unwrap_or_default();
        (
            format!("{short}--{}{value}", arg.get_long().unwrap_or_default()),
            arg.get_help().map(ToString::to_string).unwrap_or_default(),
        )
    });
    listed(&mut out, "Options", flags);
    out.push_str(&format!("\n`{program} COMMAND --help` says more about a command.\n"));
    out
}

fn group_overview(program: &str, group: &str) -> String {
    let about_group = GROUPS.iter().find(|(name, _)| *name == group).map_or("", |(_, about)| about);
    let mut out = format!("Usage: {program} {group} COMMAND\n\n{about_group}\n");
    let lines = ENTRIES.iter().filter_map(|entry| {
        let spelling = entry
            .spellings
            .iter()
            .find(|spelling| spelling.split_once(' ').is_some_and(|(first, _)| first == group))?;
        Some((spelling.split_once(' ').map_or("", |(_, second)| second).to_owned(), about(entry, spelling)))
    });
    listed(&mut out, "Commands", lines);
    out.push_str(&format!("\n`{program} {group} COMMAND --help` says more about a command.\n"));
    out
}

/// The whole tree, for shell completion and for tests.
pub(crate) fn tree(program: &str) -> Command {
    let tree =
        root_command().name(if program == "docker" { "docker" } else { "robot-env" }).no_binary_name(false);
    let mut groups: Vec<Command> =
        GROUPS.iter().map(|(name, about)| Command::new(*name).about(*about)).collect();
    let mut plain = Vec::new();
    for entry in ENTRIES {
        for spelling in entry.spellings {
            let command = (entry.command)(spelling);
            match spelling.split_once(' ') {
                Some((group, _)) => {
                    if let Some(at) = groups.iter().position(|known| known.get_name() == group) {
                        let known = groups.remove(at);
                        groups.insert(at, known.subcommand(command));
                    }
                }
                None => plain.push(command),
            }
        }
    }
    tree.subcommands(plain).subcommands(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_tree_is_sound() {
        tree("robot-env").debug_assert();
    }

    #[test]
    fn no_spelling_is_there_twice_and_every_group_is_known() {
        let mut all: Vec<&str> = ENTRIES.iter().flat_map(|entry| entry.spellings.iter().copied()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for spelling in all {
            if let Some((group, _)) = spelling.split_once(' ') {
                assert!(GROUPS.iter().any(|(name, _)| *name == group), "{spelling}");
            }
        }
    }

    #[test]
    fn every_command_says_what_it_does() {
        for entry in ENTRIES {
            assert!(!about(entry, entry.spellings[0]).is_empty(), "{}", entry.spellings[0]);
        }
    }

    #[test]
    fn wrong_global_flags_are_refused() {
        let ambient = || Ambient { program: "robot-env".into(), ..Ambient::default() };
        for bad in [
            &["-H", "tcp://x", "ps"][..],
            &["--context", "x", "ps"],
            &["--log-level", "loud", "ps"],
            &["--nope", "ps"],
            &["--root"],
        ] {
            let words: Vec<String> = bad.iter().map(|w| (*w).to_owned()).collect();
            assert!(start(ambient(), |_| Ok(()), &words).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_spelling_wins() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = words("completion bash");
        let (entry, spelling, rest) = find(&line).unwrap();
        assert_eq!((entry.spellings[0], spelling, rest), ("completion", "completion", &line[1..]));
        assert!(find(&words("nope")).is_none());
    }
}
