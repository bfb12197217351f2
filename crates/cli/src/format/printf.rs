//! Go's `printf` for the verbs that templates use.

use super::functions::{float, text};
use super::number;
use super::value::Value;

#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    zero: bool,
    space: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Widths and precisions beyond this are taken as this.
const WIDTH_LIMIT: usize = 4096;

/// Prints `values` as `format` says; what does not fit is marked as Go marks it.
pub(super) fn printf(format: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut rest = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "-+# 0".contains(*c)) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '0' => verb.zero = true,
                '#' => verb.sharp = true,
                _ => verb.space = true,
            }
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
                      rest: &mut std::slice::Iter<'_, Value>| {
            if chars.next_if_eq(&'*').is_some() {
                return match rest.next() {
                    Some(Value::Int(n)) => Some((n.unsigned_abs() as usize).min(WIDTH_LIMIT)),
                    _ => None,
                };
            }
            let mut found = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                found = Some((found.unwrap_or(0) * 10 + digit as usize - '0' as usize).min(WIDTH_LIMIT));
            }
            found
        };
        verb.width = number(&mut chars, &mut rest);
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut chars, &mut rest).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match rest.next() {
                None => {
                    out.push_str("%!");
                    out.push(letter);
                    out.push_str("(MISSING)");
                }
                Some(value) => out.push_str(&one(&verb, letter, value)),
            },
        }
    }
    let extra: Vec<String> = rest.map(|value| format!("{}={}", kind(value), text(value))).collect();
    if !extra.is_empty() {
        out.push_str("%!(EXTRA ");
        out.push_str(&extra.join(", "));
        out.push(')');
    }
    out
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil | Value::Missing => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) | Value::Lookup(_) => "map[string]interface {}",
        Value::Struct(_) => "struct",
    }
}

fn one(verb: &Verb, letter: char, value: &Value) -> String {
    let signed = |text: String| {
        if verb.plus && !text.starts_with('-') {
            format!("+{text}")
        } else if verb.space && !text.starts_with('-') {
            format!(" {text}")
        } else {
            text
        }
    };
    let body = match (letter, value) {
        ('T', value) => kind(value).to_owned(),
        ('s' | 'v', Value::Text(text)) => truncated(text, verb.precision),
        ('q', Value::Text(text)) => format!("{text:?}"),
        ('x', Value::Text(text)) => text.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|b| format!("{b:02X}")).collect(),
        ('d' | 'v', Value::Int(n)) => signed(n.to_string()),
        ('x', Value::Int(n)) => radix(*n, if verb.sharp { "0x" } else { "" }, |n| format!("{n:x}")),
        ('X', Value::Int(n)) => radix(*n, if verb.sharp { "0X" } else { "" }, |n| format!("{n:X}")),
        ('o', Value::Int(n)) => radix(*n, if verb.sharp { "0" } else { "" }, |n| format!("{n:o}")),
        ('b', Value::Int(n)) => radix(*n, "", |n| format!("{n:b}")),
        ('c', Value::Int(n)) => u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').into(),
        ('q', Value::Int(n)) => {
            format!("{:?}", u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'))
        }
        ('t' | 'v', Value::Bool(b)) => b.to_string(),
        ('f' | 'F' | 'e' | 'g' | 'v', value) if float(value).is_some() => {
            let n = float(value).unwrap_or_default();
            signed(match (letter, verb.precision) {
                ('f' | 'F', precision) => format!("{n:.*}", precision.unwrap_or(6)),
                ('e', precision) => number::exponential(&format!("{n:.*e}", precision.unwrap_or(6))),
                (_, Some(precision)) => number::significant(n, precision.max(1)),
                (_, None) => number::shortest(n),
            })
        }
        ('v', value) => text(value),
        // A verb is applied to each item of a list.
        (letter, Value::List(items)) => {
            let inner = Verb { width: None, ..Verb { precision: verb.precision, ..Verb::default() } };
            format!("[{}]", items.iter().map(|item| one(&inner, letter, item)).collect::<Vec<_>>().join(" "))
        }
        ('s', Value::Nil | Value::Missing) => "%!s(<nil>)".to_owned(),
        (letter, value) => format!("%!{letter}({}={})", kind(value), text(value)),
    };
    let width = verb.width.unwrap_or(0);
    let length = body.chars().count();
    if length >= width {
        return body;
    }
    let fill = width - length;
    if verb.minus {
        format!("{body}{}", " ".repeat(fill))
    } else if verb.zero && matches!(value, Value::Int(_) | Value::Float(_)) {
        let (sign, digits) =
            if body.starts_with(['-', '+']) { body.split_at(1) } else { ("", body.as_str()) };
        format!("{sign}{}{digits}", "0".repeat(fill))
    } else {
        format!("{}{body}", " ".repeat(fill))
    }
}

fn truncated(text: &str, precision: Option<usize>) -> String {
    precision.map_or_else(|| text.to_owned(), |n| text.chars().take(n).collect())
}

fn radix(n: i64, prefix: &str, print: impl Fn(u64) -> String) -> String {
    format!("{}{prefix}{}", if n < 0 { "-" } else { "" }, print(n.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs() {
        let text = |t: &str| Value::Text(t.to_owned());
        for (format, values, want) in [
            (
                "%5d|%-5s|%q|%v",
                vec![Value::Int(3), text("a"), text("b\"\n"), Value::Bool(true)],
                "    3|a    |\"b\\\"\\n\"|true",
            ),
            (
                "%05d %+d %x %X %o %c",
                vec![
                    Value::Int(-3),
                    Value::Int(3),
                    Value::Int(255),
                    Value::Int(255),
                    Value::Int(8),
                    Value::Int(65),
                ],
                "-0003 +3 ff FF 10 A",
            ),
            (
                "%.2f %6.1f %g",
                vec![Value::Float(1.005), Value::Float(2.25), Value::Float(0.5)],
                "1.00    2.2 0.5",
            ),
            ("%.3s %x %10.2s|", vec![text("abcdef"), text("az"), text("xyz")], "abc 617a         xy|"),
            ("%d %s", vec![text("a"), Value::Int(1)], "%!d(string=a) %!s(int=1)"),
            ("%d", vec![], "%!d(MISSING)"),
            ("x", vec![Value::Int(1)], "x%!(EXTRA int=1)"),
            ("100%% %", vec![], "100% %!(NOVERB)"),
            ("%s", vec![Value::List(vec![text("a"), text("b")])], "[a b]"),
            ("%*d", vec![Value::Int(4), Value::Int(7)], "   7"),
        ] {
            assert_eq!(printf(format, &values), want, "{format}");
        }
    }
}
