//! The words of a template.

use robot_env_diag::{Error, Result};

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `.A.B`, split; empty for the dot alone.
    Field(Vec<String>),
    /// `$x.A`: the variable's name (empty for `$`) and the fields behind it.
    Variable(String, Vec<String>),
    /// A function or keyword.
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Open,
    /// `)` and the fields behind it.
    Close(Vec<String>),
    Pipe,
    Declare,
    Assign,
    Comma,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Literal(String),
    Action(Vec<Token>),
}

pub(super) fn failure(template: &str, why: &str) -> Error {
    Error::invalid(format!("template parsing error: `{template}`: {why}"))
}

/// Cuts a template into literal text and actions.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece>> {
    let mut out = Vec::new();
    let mut rest = template;
    let mut trim_next = false;
    loop {
        let (literal, action) = match rest.find("{{") {
            Some(at) => (&rest[..at], Some(&rest[at + 2..])),
            None => (rest, None),
        };
        let literal = if trim_next { literal.trim_start_matches([' ', '\t', '\r', '\n']) } else { literal };
        let trims = |text: &str| text.starts_with('-') && text[1..].starts_with([' ', '\t', '\r', '\n']);
        let trim_before = action.is_some_and(trims);
        let literal = if trim_before { literal.trim_end_matches([' ', '\t', '\r', '\n']) } else { literal };
        if !literal.is_empty() {
            out.push(Piece::Literal(literal.to_owned()));
        }
        let Some(action) = action else { return Ok(out) };
        let action = if trim_before { &action[1..] } else { action };
        let comment = action.trim_start_matches([' ', '\t', '\r', '\n']);
        if comment.starts_with("/*") {
            let end = comment.find("*/").ok_or_else(|| failure(template, "unclosed comment"))?;
            let after = &comment[end + 2..];
            let spaced = after.trim_start_matches([' ', '\t', '\r', '\n']);
            (rest, trim_next) = if let Some(after) = spaced.strip_prefix("-}}") {
                (after, true)
            } else if let Some(after) = after.strip_prefix("}}") {
                (after, false)
            } else {
                return Err(failure(template, "comment ends before closing delimiter"));
            };
            continue;
        }
        let (tokens, after, trim) = words(template, action)?;
        out.push(Piece::Action(tokens));
        (rest, trim_next) = (after, trim);
    }
}

/// The words up to `}}`, what is behind it, and whether white space there is trimmed.
fn words<'a>(template: &str, text: &'a str) -> Result<(Vec<Token>, &'a str, bool)> {
    let fail = |why: &str| Err(failure(template, why));
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let spaced = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if spaced.len() < rest.len()
            && let Some(after) = spaced.strip_prefix("-}}")
        {
            return Ok((tokens, after, true));
        }
        rest = spaced;
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        let Some(first) = rest.chars().next() else { return fail("unclosed action") };
        let mut take = |token: Token, length: usize| {
            tokens.push(token);
            length
        };
        let used = match first {
            '(' => take(Token::Open, 1),
            ')' => {
                let (fields, used) = fields(&rest[1..]);
                take(Token::Close(fields), 1 + used)
            }
            '|' => take(Token::Pipe, 1),
            ',' => take(Token::Comma, 1),
            ':' if rest.starts_with(":=") => take(Token::Declare, 2),
            '=' => take(Token::Assign, 1),
            '"' => {
                let Some((value, used)) = quoted(rest) else { return fail("unterminated quoted string") };
                take(Token::Text(value), used)
            }
            '`' => {
                let Some(end) = rest[1..].find('`') else { return fail("unterminated raw quoted string") };
                take(Token::Text(rest[1..=end].to_owned()), end + 2)
            }
            '\'' => {
                let Some((value, used)) = quoted(rest) else {
                    return fail("unterminated character constant");
                };
                let mut chars = value.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => take(Token::Int(c as i64), used),
                    _ => return fail("malformed character constant"),
                }
            }
            '$' => {
                let name_end = 1 + word_end(&rest[1..]);
                let (fields, used) = fields(&rest[name_end..]);
                take(Token::Variable(rest[1..name_end].to_owned(), fields), name_end + used)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (fields, used) = fields(rest);
                if used == 0 { take(Token::Field(Vec::new()), 1) } else { take(Token::Field(fields), used) }
            }
            '+' | '-' | '.' | '0'..='9' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')))
                    .unwrap_or(rest.len());
                match number(&rest[..end]) {
                    Some(token) => take(token, end),
                    None => return fail(&format!("bad number syntax: {:?}", &rest[..end])),
                }
            }
            c if c == '_' || c.is_alphabetic() => {
                let end = word_end(rest);
                take(Token::Word(rest[..end].to_owned()), end)
            }
            c => return fail(&format!("unexpected {c:?} in command")),
        };
        rest = &rest[used..];
        // Two operands need white space between them, as in Go: `{{.A"b"}}` is no call.
        let ends_operand = matches!(
            tokens.last(),
            Some(
                Token::Field(_)
                    | Token::Variable(..)
                    | Token::Word(_)
                    | Token::Int(_)
                    | Token::Float(_)
                    | Token::Text(_)
            )
        );
        if ends_operand && rest.starts_with(['"', '`', '\'', '$', '(']) {
            return fail("words must be separated by spaces");
        }
    }
}

fn word_end(text: &str) -> usize {
    text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len())
}

/// `.A.B...` and how many bytes it has.
fn fields(text: &str) -> (Vec<String>, usize) {
    let (mut out, mut used) = (Vec::new(), 0);
    while let Some(after) = text[used..].strip_prefix('.') {
        let end = word_end(after);
        if end == 0 {
            break;
        }
        out.push(after[..end].to_owned());
        used += 1 + end;
    }
    (out, used)
}

fn number(text: &str) -> Option<Token> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((lower.strip_prefix(prefix)?, radix)));
    let whole = match radix {
        Some((digits, radix)) => i64::from_str_radix(digits, radix).ok(),
        None if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit()) => {
            i64::from_str_radix(&lower[1..], 8).ok()
        }
        None => lower.parse().ok(),
    };
    match whole {
        Some(n) => Some(Token::Int(if negative { -n } else { n })),
        None => {
            let n: f64 =
                lower.parse().ok().filter(|_| lower.starts_with(|c: char| c.is_ascii_digit() || c == '.'))?;
            Some(Token::Float(if negative { -n } else { n }))
        }
    }
}

/// A Go string or character constant at the start of `text`, and how many bytes it has.
fn quoted(text: &str) -> Option<(String, usize)> {
    let quote = text.chars().next()?;
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((out, at + 1)),
            '\n' => return None,
            '\\' => {
                let (_, escape) = chars.next()?;
                let mut hex = |digits: usize| {
                    let mut value = 0;
                    for _ in 0..digits {
                        value = value * 16 + chars.next()?.1.to_digit(16)?;
                    }
                    char::from_u32(value)
                };
                out.push(match escape {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    '\\' | '"' | '\'' => escape,
                    'x' => hex(2)?,
                    'u' => hex(4)?,
                    'U' => hex(8)?,
                    '0'..='7' => {
                        let mut value = escape.to_digit(8)?;
                        for _ in 0..2 {
                            value = value * 8 + chars.next()?.1.to_digit(8)?;
                        }
                        char::from_u32(value)?
                    }
                    _ => return None,
                });
            }
            c => out.push(c),
        }
    }
    None
}
