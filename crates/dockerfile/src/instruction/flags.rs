//! `--name=value` in front of an instruction's arguments.

use crate::span::{Fault, Word, nearest};

/// What kind of value a flag has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// May stand several times.
    Texts,
}

/// The flags of one instruction, checked against those it knows.
pub(super) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// Errors: an unknown flag, one that stands twice, one without its value, a value that is no
    /// boolean.
    pub(super) fn parse(words: &[Word], known: &[(&'static str, Kind)]) -> Result<Flags, Fault> {
        let mut flags: Vec<(&'static str, Word)> = Vec::new();
        for word in words {
            let (flag, value) = match word.text.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.text.as_str(), None),
            };
            let bad = |why: String| Fault::new(why, word.span);
            let written = flag.strip_prefix("--").unwrap_or(flag);
            let Some((name, kind)) = known.iter().find(|(name, _)| *name == written).copied() else {
                let near = nearest(written, known.iter().map(|(name, _)| *name));
                let mut fault = bad(format!("unknown flag: {flag}"));
                fault.suggestion = near.map(|name| format!("--{name}"));
                return Err(fault);
            };
            if kind != Kind::Texts && flags.iter().any(|(used, _)| *used == name) {
                return Err(bad(format!("duplicate flag specified: {flag}")));
            }
            let text = match (kind, value) {
                (Kind::Bool, None) => "true".to_owned(),
                (Kind::Bool, Some(value)) => match value.to_ascii_lowercase().as_str() {
                    "" => return Err(bad(format!("missing a value on flag: {flag}"))),
                    text @ ("true" | "false") => text.to_owned(),
                    _ => return Err(bad(format!("expecting boolean value for flag {flag}, not: {value}"))),
                },
                (_, None) => return Err(bad(format!("missing a value on flag: {flag}"))),
                (_, Some(value)) => value.to_owned(),
            };
            flags.push((name, Word { text, span: word.span }));
        }
        Ok(Flags(flags))
    }

    /// The value of a flag that stands at most once; an empty one counts as none.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.texts(name).into_iter().next().filter(|word| !word.text.is_empty())
    }

    pub(super) fn texts(&self, name: &str) -> Vec<Word> {
        self.0.iter().filter(|(known, _)| *known == name).map(|(_, word)| word.clone()).collect()
    }

    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.texts(name).first().map(|word| word.text == "true")
    }
}
