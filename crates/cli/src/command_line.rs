//! Docker's command-line grammar on top of clap's.
//!
//! Docker's flags (pflag) differ from clap's in ways that people's scripts use: `--tty=true`,
//! `-t=false`, a value that begins with a dash, the last of several values wins, and behind
//! `run IMAGE` every word is the program's, `--` included. So the words are first put into a
//! canonical form, by what the clap command says about its flags, and then clap reads them.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command};
use robot_env_diag::{Error, Result};

/// Where flags may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    /// Anywhere before `--`.
    Anywhere,
    /// Only before the first word that is no flag (`run`, `create`, `exec`, `top`).
    First,
}

/// Puts `words` (without the command's own name) into the form `--flag=value ... -- words`.
///
/// # Errors
/// A flag without its value, or a truth value that is none. Unknown flags are left to clap, which
/// knows what they resemble.
pub(crate) fn canonical(command: &Command, flags: Flags, words: &[String]) -> Result<Vec<String>> {
    let mut out: Vec<String> = Vec::with_capacity(words.len() + 1);
    let mut positional: Vec<String> = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            positional.extend(rest.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            match find_long(command, name) {
                Some(arg) => push(&mut out, arg, &format!("--{name}"), value, &mut rest)?,
                None => out.push(word.clone()),
            }
        } else if word.len() > 1 && word.starts_with('-') {
            cluster(command, word, &mut out, &mut rest)?;
        } else {
            positional.push(word.clone());
            if flags == Flags::First {
                positional.extend(rest.cloned());
                break;
            }
        }
    }
    if !positional.is_empty() {
        out.push("--".into());
        out.extend(positional);
    }
    Ok(out)
}

/// `-itd`, `-eNAME=x`, `-t=false`.
fn cluster(
    command: &Command,
    word: &str,
    out: &mut Vec<String>,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<()> {
    let mut letters = word[1..].chars();
    while let Some(letter) = letters.next() {
        let Some(arg) = command.get_arguments().find(|arg| arg.get_short() == Some(letter)) else {
            out.push(format!("-{letter}"));
            // What follows an unknown letter cannot be read.
            return Ok(());
        };
        let after = letters.as_str();
        let spelled = format!("-{letter}");
        if let Some(value) = after.strip_prefix('=') {
            return push(out, arg, &spelled, Some(value.to_owned()), rest);
        }
        if takes_value(arg) {
            let value = if after.is_empty() { None } else { Some(after.to_owned()) };
            return push(out, arg, &spelled, value, rest);
        }
        push(out, arg, &spelled, None, rest)?;
    }
    Ok(())
}

fn push(
    out: &mut Vec<String>,
    arg: &Arg,
    spelled: &str,
    value: Option<String>,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<()> {
    let canonical = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => return Ok(()),
    };
    if is_help(arg) {
        out.push(canonical);
        return Ok(());
    }
    if takes_value(arg) {
        let value = match value {
            Some(value) => value,
            // One whose value may be left away has it behind `=` or not at all.
            None if arg.get_num_args().is_some_and(|count| count.min_values() == 0) => {
                out.push(canonical);
                return Ok(());
            }
            None => rest
                .next()
                .cloned()
                .ok_or_else(|| Error::invalid(format!("flag needs an argument: {spelled}")))?,
        };
        out.push(format!("{canonical}={value}"));
        return Ok(());
    }
    let on = match value {
        None => true,
        Some(value) => robot_env_wire::truth(&value).ok_or_else(|| {
            Error::invalid(format!("invalid argument `{value}` for {spelled}: it must be true or false"))
        })?,
    };
    match arg.get_action() {
        ArgAction::SetTrue => {
            out.retain(|earlier| *earlier != canonical);
            if on {
                out.push(canonical);
            }
        }
        _ => out.push(format!("{canonical}={on}")),
    }
    Ok(())
}

fn find_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    })
}

fn is_help(arg: &Arg) -> bool {
    matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

/// Flags that hold a truth value need none behind them.
fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_value_parser().type_id() != ValueParser::bool().type_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("run")
            .arg(Arg::new("tty").short('t').long("tty").action(ArgAction::SetTrue))
            .arg(Arg::new("interactive").short('i').long("interactive").action(ArgAction::SetTrue))
            .arg(Arg::new("env").short('e').long("env").action(ArgAction::Append))
            .arg(Arg::new("network").long("network").alias("net").action(ArgAction::Set))
            .arg(
                Arg::new("proxy")
                    .long("sig-proxy")
                    .action(ArgAction::Set)
                    .value_parser(clap::value_parser!(bool)),
            )
            .arg(Arg::new("words").num_args(0..))
    }

    #[test]
    fn reads_what_docker_reads() {
        for (line, want) in [
            ("-it image ls -l", "--interactive --tty -- image ls -l"),
            ("image -- x", "-- image -- x"),
            ("-- image -- x", "-- image -- x"),
            ("--tty=true --tty=false image", "-- image"),
            ("-t=false -t image", "--tty -- image"),
            ("-it=0 image", "--interactive -- image"),
            (
                "-eA=b -e=C=d -e -E --env=F --env G image",
                "--env=A=b --env=C=d --env=-E --env=F --env=G -- image",
            ),
            ("-tieA image", "--tty --interactive --env=A -- image"),
            ("--net host image", "--network=host -- image"),
            ("--sig-proxy=false --sig-proxy image", "--sig-proxy=false --sig-proxy=true -- image"),
            ("--nope image", "--nope -- image"),
            ("-tx image", "--tty -x -- image"),
            ("- x", "-- - x"),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(canonical(&command(), Flags::First, &words).unwrap().join(" "), want, "{line}");
        }
        let words = ["a", "-t", "b", "--", "-i"].map(str::to_owned);
        assert_eq!(canonical(&command(), Flags::Anywhere, &words).unwrap().join(" "), "--tty -- a b -i");
        for bad in [&["-e"][..], &["--env"], &["--tty=maybe"], &["-t=2"]] {
            let words: Vec<String> = bad.iter().map(|w| (*w).to_owned()).collect();
            assert!(canonical(&command(), Flags::First, &words).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn clap_keeps_the_second_dash_dash() {
        let words = ["run", "--", "image", "--", "-x"];
        let matches = command().try_get_matches_from(words).unwrap();
        let got: Vec<&String> = matches.get_many("words").unwrap().collect();
        assert_eq!(got, ["image", "--", "-x"]);
    }
}
