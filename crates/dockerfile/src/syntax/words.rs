//! The arguments of an instruction as words.

use super::{Line, Pair};
use crate::span::Word;

/// What parts words where no quotes matter.
pub(crate) fn space(sign: char) -> bool {
    matches!(sign, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Words apart at blanks; quotes are no matter.
pub(super) fn blank(text: &str) -> Vec<String> {
    text.split(space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The words that start with `--`, from `at` on, without their quotes and escapes; and where the
/// arguments start.
pub(super) fn flags(line: &Line, at: usize, escape: char) -> (Vec<Word>, usize) {
    let text = line.text.as_str();
    let mut flags = Vec::new();
    let mut at = at;
    loop {
        let rest = &text[at..];
        at += rest.len() - rest.trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let start = at;
        let (mut word, mut quote, mut quoted) = (String::new(), None, false);
        let mut signs = text[start..].char_indices();
        at = text.len();
        while let Some((offset, sign)) = signs.next() {
            match (sign, quote) {
                (_, None) if sign.is_whitespace() => {
                    at = start + offset;
                    break;
                }
                ('\'' | '"', None) => (quote, quoted) = (Some(sign), true),
                (_, Some(open)) if open == sign => quote = None,
                _ if sign == escape => match signs.next() {
                    Some((_, next)) => word.push(next),
                    None => quote = None,
                },
                _ => word.push(sign),
            }
        }
        // `--` alone ends them.
        if word == "--" {
            return (flags, at);
        }
        if quoted || !word.is_empty() {
            flags.push(Word { text: word, span: line.span(start, at) });
        }
    }
}

/// Words apart at white space outside of quotes; quotes and escapes stay.
pub(super) fn quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote): (String, Option<char>) = (String::new(), None);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        match quote {
            None if sign.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(sign, '\'' | '"') => quote = Some(sign),
            Some(open) if open == sign => quote = None,
            _ => {}
        }
        if sign == escape && quote != Some('\'') {
            // At the end it is nothing.
            let Some(next) = signs.next() else { continue };
            word.push(sign);
            word.push(next);
            continue;
        }
        word.push(sign);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `a=b c="d e"`, or `name the whole rest`.
pub(super) fn pairs(text: &str, instruction: &str, escape: char) -> Result<Vec<Pair>, String> {
    let words = quoted(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let at = text.find(space).ok_or_else(|| format!("{instruction} must have two arguments"))?;
        let (key, value) = (text[..at].to_owned(), text[at..].trim_start_matches(space).to_owned());
        return Ok(vec![Pair { key, value, legacy: true }]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) => Ok(Pair { key: key.to_owned(), value: value.to_owned(), legacy: false }),
        None => Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")),
    };
    words.iter().map(pair).collect()
}

/// A JSON list of strings; `None` if `text` is no JSON list at all, which makes it a shell's line.
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, String> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings = list.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned()),
    });
    strings.collect::<Result<_, _>>().map(Some)
}
