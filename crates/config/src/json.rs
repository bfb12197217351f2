//! JSON with places, and with comments and trailing commas where they are allowed.

use std::cell::Cell;

use crate::value::{Data, Entry, Position, Value};

/// How deep lists and tables may nest.
const DEPTH: usize = 128;

/// Where and why a text is not JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SyntaxError {
    pub(crate) at: Position,
    pub(crate) message: String,
}

/// Reads a document. With `relaxed`, `//` and `/* */` comments and commas before a closing bracket
/// are allowed, as in `devcontainer.json`.
pub(crate) fn parse(text: &str, relaxed: bool) -> Result<Value, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { text, bytes: text.as_bytes(), offset: 0, relaxed, last: Cell::default() };
    reader.space()?;
    let value = reader.value(0)?;
    reader.space()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.error("there is more behind the end of the document")),
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    offset: usize,
    relaxed: bool,
    /// The last place that was asked for: the next one is counted from there.
    last: Cell<(usize, Position)>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.offset).copied()
    }

    fn position(&self) -> Position {
        let (from, last) = self.last.get();
        let Some(between) = self.text.get(from..self.offset) else {
            return Position::of(self.text, self.offset);
        };
        let within = Position::of(between, between.len());
        let column = if within.line == 1 { last.column + within.column - 1 } else { within.column };
        let position = Position { line: last.line + within.line - 1, column };
        self.last.set((self.offset, position));
        position
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { at: self.position(), message: message.into() }
    }

    fn found(&self) -> String {
        match self.text.get(self.offset..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!("not `{c}`"),
            None => "not the end of the file".into(),
        }
    }

    fn space(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.offset += 1,
                Some(b'/') => {
                    let rest = &self.text[self.offset..];
                    let length = if rest.starts_with("//") {
                        rest.find('\n').unwrap_or(rest.len())
                    } else if rest.starts_with("/*") {
                        rest.find("*/").ok_or_else(|| self.error("this comment has no end"))? + 2
                    } else {
                        return Ok(());
                    };
                    if !self.relaxed {
                        return Err(self.error("comments are not allowed in this file"));
                    }
                    self.offset += length;
                }
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        if depth > DEPTH {
            return Err(self.error("this is nested too deep"));
        }
        let at = self.position();
        let data = match self.peek() {
            Some(b'{') => Data::Table(self.table(depth)?),
            Some(b'[') => Data::List(self.list(depth)?),
            Some(b'"') => Data::Text(self.text()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'a'..=b'z' | b'A'..=b'Z') => self.word()?,
            _ => return Err(self.error(format!("a value is expected here, {}", self.found()))),
        };
        Ok(Value { at, data })
    }

    fn table(&mut self, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        self.offset += 1;
        loop {
            self.space()?;
            let closes = self.peek() == Some(b'}');
            if closes && (entries.is_empty() || self.relaxed) {
                self.offset += 1;
                return Ok(entries);
            }
            if closes {
                return Err(self.error("a key is expected behind the comma, not `}`"));
            }
            if self.peek() != Some(b'"') {
                return Err(self.error(format!("a key in quotes is expected here, {}", self.found())));
            }
            let at = self.position();
            let key = self.text()?;
            self.space()?;
            if self.peek() != Some(b':') {
                return Err(self.error(format!("`:` is expected behind the key `{key}`, {}", self.found())));
            }
            self.offset += 1;
            self.space()?;
            let value = self.value(depth + 1)?;
            entries.push(Entry { key, at, value });
            self.space()?;
            match self.peek() {
                Some(b',') => self.offset += 1,
                Some(b'}') => {
                    self.offset += 1;
                    return Ok(entries);
                }
                _ => return Err(self.error(format!("`,` or `}}` is expected here, {}", self.found()))),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, SyntaxError> {
        let mut items = Vec::new();
        self.offset += 1;
        loop {
            self.space()?;
            if self.peek() == Some(b']') && (items.is_empty() || self.relaxed) {
                self.offset += 1;
                return Ok(items);
            }
            items.push(self.value(depth + 1)?);
            self.space()?;
            match self.peek() {
                Some(b',') => self.offset += 1,
                Some(b']') => {
                    self.offset += 1;
                    return Ok(items);
                }
                _ => return Err(self.error(format!("`,` or `]` is expected here, {}", self.found()))),
            }
        }
    }

    fn text(&mut self) -> Result<String, SyntaxError> {
        let start = self.offset;
        self.offset += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.offset += 2,
                Some(0..=0x1f) => {
                    return Err(self.error("a text ends with `\"`, on the line where it begins"));
                }
                Some(_) => self.offset += 1,
                None => {
                    self.offset = start;
                    return Err(self.error("this text has no end"));
                }
            }
        }
        self.offset += 1;
        // Escapes are serde_json's.
        self.text.get(start..self.offset).and_then(|quoted| serde_json::from_str(quoted).ok()).ok_or_else(
            || {
                self.offset = start;
                self.error("this text has an escape that JSON does not know")
            },
        )
    }

    fn number(&mut self) -> Result<Data, SyntaxError> {
        let rest = &self.text[self.offset..];
        let end =
            rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let word = &rest[..end];
        let data = match serde_json::from_str::<serde_json::Number>(word) {
            Ok(number) => number.as_i64().map_or_else(|| Data::Number(word.to_owned()), Data::Integer),
            Err(_) => return Err(self.error(format!("`{word}` is not a number"))),
        };
        self.offset += end;
        Ok(data)
    }

    fn word(&mut self) -> Result<Data, SyntaxError> {
        let rest = &self.text[self.offset..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let data = match &rest[..end] {
            "true" => Data::Bool(true),
            "false" => Data::Bool(false),
            "null" => Data::Null,
            word => return Err(self.error(format!("`{word}` is no value; a text needs quotes"))),
        };
        self.offset += end;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_serde_json_reads_is_read_the_same() {
        for text in [
            "{}",
            "[]",
            " { \"a\" : [1, -2.5, 1e3, true, false, null, \"x\\u00e9\\n\\\"\"], \"b\": {\"c\": []} } ",
            "\"plain\"",
            "12345678901234567890",
            "{\"a\":{\"b\":[[],{}]}}",
        ] {
            let want: serde_json::Value = serde_json::from_str(text).unwrap();
            let got = parse(text, false).unwrap().to_json();
            // Large and broken numbers compare as floats.
            assert_eq!(got.to_string().parse::<f64>().ok(), want.to_string().parse::<f64>().ok(), "{text}");
            if want.as_u64().is_none() {
                assert_eq!(got, want, "{text}");
            }
        }
    }

    #[test]
    fn errors_have_their_places() {
        for (text, want) in [
            ("", "1:1: a value is expected here, not the end of the file"),
            ("{\n  \"a\": 1,\n}", "3:1: a key is expected behind the comma, not `}`"),
            ("{\"a\" 1}", "1:6: `:` is expected behind the key `a`, not `1`"),
            ("{\"a\": 1 \"b\": 2}", "1:9: `,` or `}` is expected here, not `\"`"),
            ("{\n\"a\": yes}", "2:6: `yes` is no value; a text needs quotes"),
            ("[1,]", "1:4: a value is expected here, not `]`"),
            ("[1", "1:3: `,` or `]` is expected here, not the end of the file"),
            ("[\"a]", "1:2: this text has no end"),
            ("[\"a\n\"]", "1:4: a text ends with `\"`, on the line where it begins"),
            ("[\"\\q\"]", "1:2: this text has an escape that JSON does not know"),
            ("{} x", "1:4: there is more behind the end of the document"),
            ("// c\n{}", "1:1: comments are not allowed in this file"),
            ("{a: 1}", "1:2: a key in quotes is expected here, not `a`"),
            ("01", "1:1: `01` is not a number"),
        ] {
            let error = parse(text, false).unwrap_err();
            assert_eq!(format!("{}: {}", error.at, error.message), want, "{text}");
        }
        assert!(parse(&"[".repeat(100_000), false).is_err());
    }

    #[test]
    fn comments_and_trailing_commas_where_they_are_allowed() {
        let text = "// one\n{ /* two */ \"a\": [1, 2,], // three\n \"u\": \"http://x/*y*/\",\n}\n";
        let value = parse(text, true).unwrap();
        assert_eq!(value.to_json(), serde_json::json!({"a": [1, 2], "u": "http://x/*y*/"}));
        assert_eq!(value.get("u").unwrap().at.to_string(), "3:7");
        for bad in ["{,}", "[,]", "{\"a\":1,,}", "/* x", "{} /"] {
            assert!(parse(bad, true).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[\\[\\]{}:,\"/*a-z0-9\\\\\u{e9}\n ]{0,40}", relaxed in any::<bool>()) {
            let ours = parse(&text, relaxed);
            if !relaxed {
                let theirs = serde_json::from_str::<serde_json::Value>(&text);
                prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{} {:?} {:?}", text, ours, theirs);
            }
        }
    }
}
