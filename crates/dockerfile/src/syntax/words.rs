//! The arguments of an instruction as words.

use super::{Line, Pair};
use crate::span::{Fault, Word};

/// What parts words where no quotes matter.
pub(crate) fn space(sign: char) -> bool {
    matches!(sign, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Words apart at blanks; quotes are no matter.
pub(super) fn blank(line: &Line, from: usize, to: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, sign) in line.text[from..to].char_indices().chain([(to - from, ' ')]) {
        match start {
            Some(first) if space(sign) => {
                words.push(line.word(from + first, from + at));
                start = None;
            }
            None if !space(sign) => start = Some(at),
            _ => {}
        }
    }
    words
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
pub(super) fn quoted(line: &Line, from: usize, to: usize, escape: char) -> Vec<Word> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut start): (String, Option<char>, usize) = (String::new(), None, from);
    let mut signs = line.text[from..to].char_indices();
    while let Some((at, sign)) = signs.next() {
        if word.is_empty() {
            start = from + at;
        }
        match quote {
            None if sign.is_whitespace() => {
                if !word.is_empty() {
                    words.push(Word { text: std::mem::take(&mut word), span: line.span(start, from + at) });
                }
                continue;
            }
            None if matches!(sign, '\'' | '"') => quote = Some(sign),
            Some(open) if open == sign => quote = None,
            _ => {}
        }
        if sign == escape && quote != Some('\'') {
            // At the end it is nothing.
            let Some((_, next)) = signs.next() else { continue };
            word.push(sign);
            word.push(next);
            continue;
        }
        word.push(sign);
    }
    if !word.is_empty() {
        words.push(Word { text: word, span: line.span(start, to) });
    }
    words
}

/// `a=b c="d e"`, or `name the whole rest`.
pub(super) fn pairs(
    line: &Line,
    from: usize,
    to: usize,
    instruction: &str,
    escape: char,
) -> Result<Vec<Pair>, Fault> {
    let words = quoted(line, from, to, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.text.contains('=') {
        let text = &line.text[from..to];
        let span = line.span(from, to);
        let at = text
            .find(space)
            .ok_or_else(|| Fault::new(format!("{instruction} must have two arguments"), span))?;
        let (key, value) = (text[..at].to_owned(), text[at..].trim_start_matches(space).to_owned());
        return Ok(vec![Pair { key, value, legacy: true, span }]);
    }
    let pair = |word: &Word| match word.text.split_once('=') {
        Some((key, value)) => {
            Ok(Pair { key: key.to_owned(), value: value.to_owned(), legacy: false, span: word.span })
        }
        None => Err(Fault::new(
            format!("Syntax error - can't find = in {:?}. Must be of the form: name=value", word.text),
            word.span,
        )),
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
