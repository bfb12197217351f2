//! The rows of lists, made from what the engine knows. Pure: a clock and an option come in as
//! values, and what is dear to find out (sizes) comes in only where it was asked for.

pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod volume;

use crate::format::{Field, Value};

/// The text cut to `width` signs, the last of which says that something is missing.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        out.push('…');
    }
    out
}

/// The first twelve digits of an id.
pub(crate) fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// Labels as lists show them: `a=1,b=2`. They are an image's words: what would drive a terminal is
/// shown as `\u{1b}`.
pub(crate) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let text = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    if !text.contains(char::is_control) {
        return text;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A row with further fields, or with other values of those that it has.
pub(crate) fn with<const N: usize>(row: Value, more: [(&str, String); N]) -> Value {
    let Value::Struct(mut fields) = row else { return row };
    for (name, text) in more {
        match fields.iter_mut().find(|field| field.name == name) {
            Some(field) => field.value = text.into(),
            None => fields.push(Field { name: name.to_owned(), value: text.into(), in_json: true }),
        }
    }
    Value::Struct(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut() {
        for (text, width, want) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("äöüß", 3, "äö…"), ("ab", 1, "…"), ("a", 0, "")]
        {
            assert_eq!(ellipsis(text, width), want);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("0123"), "0123");
    }
}
