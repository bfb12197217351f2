//! From an error to what a shell sees: text on standard error and an exit code. The one place that
//! decides either.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use robot_env_diag::{Error, Kind};

/// The exit code of wrong flags, and of `run` and `create` when the engine fails.
pub(crate) const ENGINE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const INTERRUPTED: u8 = 130;

/// What kind of command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It stands for a program: 125 is the engine's failure, 126 and 127 the program's.
    Program,
    /// `exec` and `start -a`: 126 and 127 as above, 1 for the engine's failure.
    Attached,
    /// Anything else: 1.
    Ordinary,
}

/// The exit code for an error of a command.
pub(crate) fn exit_code(class: Class, error: &Error) -> u8 {
    match (class, error.kind()) {
        (_, Kind::Interrupted) => INTERRUPTED,
        (Class::Program | Class::Attached, Kind::CommandNotExecutable) => NOT_EXECUTABLE,
        (Class::Program | Class::Attached, Kind::CommandNotFound) => NOT_FOUND,
        (Class::Program, _) => ENGINE,
        _ => 1,
    }
}

/// The exit code for what clap found wrong: as with Docker 125 for flags, 1 for a wrong number of words.
pub(crate) fn usage_code(error: &clap::Error) -> u8 {
    let word = || match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => !text.starts_with('-'),
        _ => false,
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument | ErrorKind::TooManyValues => 1,
        ErrorKind::UnknownArgument if word() => 1,
        _ => ENGINE,
    }
}

/// What clap found wrong, in our words.
pub(crate) fn of_clap(error: &clap::Error, spelled: &str) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        Some(ContextValue::StyledStr(text)) => Some(text.to_string()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.split([' ', '=']).next().unwrap_or_default().to_owned();
    let help = format!("`{spelled} --help` lists its flags");
    match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => {
            let found = Error::invalid(format!("unknown flag: {flag}"));
            match text(ContextKind::SuggestedArg) {
                Some(near) => found.with_hint(format!("did you mean `{near}`?")),
                None => found.with_hint(help),
            }
        }
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            let letter = flag.chars().nth(1).unwrap_or(' ');
            Error::invalid(format!("unknown shorthand flag: '{letter}' in {flag}")).with_hint(help)
        }
        ErrorKind::UnknownArgument => {
            Error::invalid(format!("'{spelled}' takes no argument `{argument}`")).with_hint(help)
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(texts)) => texts.join(" "),
                _ => argument,
            };
            Error::invalid(format!("'{spelled}' needs {missing}")).with_hint(help)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let bad = Error::invalid(format!("invalid argument `{value}` for {flag}"));
            match std::error::Error::source(error) {
                Some(source) => bad.because(source.to_string()),
                None => bad.with_hint(help),
            }
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Error::invalid(line.strip_prefix("error: ").unwrap_or(line).to_owned()).with_hint(help)
        }
    }
}

/// How many single changes turn one word into another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// The word that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|other| (distance(word, other), other))
        .filter(|(d, other)| *d <= 2 && *d < other.len())
        .min()
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (class, kind, want) in [
            (Class::Program, Kind::NotFound, 125),
            (Class::Program, Kind::CommandNotFound, 127),
            (Class::Program, Kind::CommandNotExecutable, 126),
            (Class::Attached, Kind::CommandNotFound, 127),
            (Class::Attached, Kind::NotFound, 1),
            (Class::Ordinary, Kind::CommandNotFound, 1),
            (Class::Ordinary, Kind::Interrupted, 130),
        ] {
            assert_eq!(exit_code(class, &Error::new(kind, "x")), want, "{class:?} {kind:?}");
        }
    }

    #[test]
    fn near_words() {
        let known = ["run", "images", "volume", "ps", "rm"];
        for (word, want) in [
            ("rnu", Some("run")),
            ("image", Some("images")),
            ("volumes", Some("volume")),
            ("frobnicate", None),
            ("p", Some("ps")),
        ] {
            assert_eq!(nearest(word, known.into_iter()), want, "{word}");
        }
    }
}
