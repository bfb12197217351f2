//! Flags in the form of Go's command lines: `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-name`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use robot_env_diag::{Error, Result};

/// A flag that a command knows.
#[derive(Clone, Copy)]
pub(super) struct Flag {
    name: &'static str,
    short: Option<char>,
    takes_value: bool,
}

impl Flag {
    pub(super) const fn value(name: &'static str) -> Flag {
        Flag { name, short: None, takes_value: true }
    }

    pub(super) const fn switch(name: &'static str) -> Flag {
        Flag { name, short: None, takes_value: false }
    }

    pub(super) const fn short(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }
}

/// A command's flags and what follows them.
#[derive(Debug)]
pub(super) struct Arguments {
    flags: Vec<(&'static str, OsString)>,
    pub(super) rest: Vec<OsString>,
}

impl Arguments {
    /// Reads `args`. With `stop` the first word that is no flag ends the flags; else flags may
    /// stand behind it too.
    pub(super) fn parse(args: &[OsString], known: &[Flag], stop: bool) -> Result<Arguments> {
        let mut out = Arguments { flags: Vec::new(), rest: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let bytes = arg.as_bytes();
            if bytes == b"--" {
                out.rest.extend(args.cloned());
                break;
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                out.rest.push(arg.clone());
                if stop {
                    out.rest.extend(args.cloned());
                    break;
                }
                continue;
            }
            let name = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
            let (name, value) = match name.iter().position(|b| *b == b'=') {
                Some(at) => (&name[..at], Some(OsStr::from_bytes(&name[at + 1..]))),
                None => (name, None),
            };
            let text = String::from_utf8_lossy(name).into_owned();
            let matches =
                |flag: &&Flag| flag.name == text || flag.short.is_some_and(|c| text.chars().eq([c]));
            let Some(flag) = known.iter().find(matches) else {
                return Err(Error::invalid(format!("unknown flag `{}`", arg.to_string_lossy())));
            };
            let value = match (flag.takes_value, value) {
                (_, Some(value)) => value.to_owned(),
                (false, None) => "true".into(),
                (true, None) => {
                    let missing =
                        || Error::invalid(format!("flag `{}` needs a value", arg.to_string_lossy()));
                    args.next().ok_or_else(missing)?.clone()
                }
            };
            out.flags.push((flag.name, value));
        }
        Ok(out)
    }

    /// The last value of a flag.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        self.flags.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str())
    }

    /// Every value of a flag, in order.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a OsStr> {
        self.flags.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_os_str())
    }

    /// The last value of a flag as text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        let unreadable = || Error::invalid(format!("the value of `--{name}` is not UTF-8"));
        self.value(name).map(|value| value.to_str().ok_or_else(unreadable)).transpose()
    }

    /// The last value of a flag as a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text
            .parse()
            .map_err(|_| Error::invalid(format!("invalid value `{text}` of `--{name}`: not a number")));
        number.map(Some)
    }

    /// Whether a switch is on.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    /// The only argument: a container's id.
    pub(super) fn only_id(&self) -> Result<&str> {
        match self.rest.as_slice() {
            [id] => check_id(id),
            [] => Err(Error::invalid("a container id is missing")),
            [_, extra, ..] => {
                Err(Error::invalid(format!("unexpected argument `{}`", extra.to_string_lossy())))
            }
        }
    }

    /// The first argument, a container's id, and the others.
    pub(super) fn id_and_rest(&self) -> Result<(&str, &[OsString])> {
        let (id, rest) =
            self.rest.split_first().ok_or_else(|| Error::invalid("a container id is missing"))?;
        Ok((check_id(id)?, rest))
    }
}

/// An id is a file name: letters, digits, `_`, `+`, `-`, `.`; not `.` or `..`.
fn check_id(id: &OsStr) -> Result<&str> {
    let good = |id: &str| {
        !id.is_empty()
            && id.len() <= 1024
            && !matches!(id, "." | "..")
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
    };
    id.to_str()
        .filter(|id| good(id))
        .ok_or_else(|| Error::invalid(format!("invalid container id `{}`", id.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] =
        &[Flag::value("bundle").short('b'), Flag::switch("force").short('f'), Flag::value("env").short('e')];

    fn parse(text: &str, stop: bool) -> Result<Arguments> {
        let words: Vec<OsString> = text.split(' ').filter(|w| !w.is_empty()).map(OsString::from).collect();
        Arguments::parse(&words, KNOWN, stop)
    }

    #[test]
    fn flags_in_all_their_forms() {
        for text in ["--bundle /x id", "--bundle=/x id", "-b /x id", "-bundle /x id", "-b=/x id"] {
            let got = parse(text, true).unwrap();
            assert_eq!(got.value("bundle").unwrap(), "/x", "{text}");
            assert_eq!(got.only_id().unwrap(), "id", "{text}");
        }
        let got = parse("id --force", false).unwrap();
        assert!(got.has("force") && got.only_id().unwrap() == "id");
        assert!(!parse("--force=false id", true).unwrap().has("force"));
        let got = parse("-e A=1 -e B=2 id sh -e x", true).unwrap();
        assert_eq!(got.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(got.id_and_rest().unwrap().1, ["sh", "-e", "x"]);
        assert_eq!(parse("-- -x", true).unwrap().rest, ["-x"]);
    }

    #[test]
    fn bad_ones_are_named() {
        for (text, want) in
            [("--nope id", "unknown flag `--nope`"), ("--bundle", "flag `--bundle` needs a value")]
        {
            assert_eq!(parse(text, true).unwrap_err().to_string(), want);
        }
        for id in ["..", ".", "a/b", "a b", "\u{e4}", "x\n"] {
            assert!(check_id(OsStr::new(id)).is_err(), "{id}");
        }
        assert!(parse("a b", true).unwrap().only_id().is_err());
    }
}
