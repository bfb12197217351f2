//! The functions of Go's templates and those that Docker adds.

use std::cmp::Ordering;

use super::value::Value;
use super::{number, printf};

const NAMES: [&str; 27] = [
    "and",
    "or",
    "not",
    "len",
    "index",
    "slice",
    "print",
    "printf",
    "println",
    "html",
    "urlquery",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "json",
    "split",
    "join",
    "title",
    "lower",
    "upper",
    "pad",
    "truncate",
    "contains",
    "hasPrefix",
];

/// Whether there is a function `name`.
pub(super) fn is_function(name: &str) -> bool {
    NAMES.contains(&name)
}

type Done = Result<Value, String>;

/// Calls a function (`and` and `or` are the evaluator's).
pub(super) fn call(name: &str, arguments: Vec<Value>) -> Done {
    let wrong = || format!("wrong number of args: {}", arguments.len());
    match (name, arguments.as_slice()) {
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("len", [value]) => match value {
            Value::Text(text) => Ok(Value::Int(text.len() as i64)),
            Value::List(items) => Ok(Value::Int(items.len() as i64)),
            Value::Map(map) => Ok(Value::Int(map.len() as i64)),
            // A list or map that the JSON form leaves out because it is empty.
            Value::Nil => Ok(Value::Int(0)),
            _ => Err("len of a value that has no length".into()),
        },
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds),
        ("print", values) => Ok(Value::Text(print(values, false))),
        ("println", values) => Ok(Value::Text(print(values, true))),
        ("printf", [Value::Text(format), values @ ..]) => Ok(Value::Text(printf::printf(format, values))),
        ("html", values) => {
            let escaped =
                print(values, false).replace('&', "&amp;").replace('\'', "&#39;").replace('<', "&lt;");
            Ok(Value::Text(escaped.replace('>', "&gt;").replace('"', "&#34;")))
        }
        ("urlquery", values) => Ok(Value::Text(urlquery(&print(values, false)))),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            for other in rest {
                if equal(first, other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b)?)),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = compare(a, b)?;
            Ok(Value::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        ("json", [value]) => Ok(Value::Text(value.to_json())),
        ("split", [Value::Text(text), Value::Text(separator)]) => Ok(Value::List(if separator.is_empty() {
            text.chars().map(|c| Value::Text(c.into())).collect()
        } else {
            text.split(separator.as_str()).map(Value::from).collect()
        })),
        ("join", [Value::List(items), Value::Text(separator)]) => {
            let texts: Vec<String> =
                items.iter().map(|item| print(std::slice::from_ref(item), false)).collect();
            Ok(Value::Text(texts.join(separator)))
        }
        ("join", [Value::Nil, Value::Text(_)]) => Ok(Value::Text(String::new())),
        ("title", [Value::Text(text)]) => Ok(Value::Text(title(text))),
        ("lower", [Value::Text(text)]) => Ok(Value::Text(text.to_lowercase())),
        ("upper", [Value::Text(text)]) => Ok(Value::Text(text.to_uppercase())),
        ("pad", [Value::Text(text), Value::Int(before), Value::Int(after)]) => {
            Ok(Value::Text(if text.is_empty() {
                String::new()
            } else {
                let spaces = |n: &i64| " ".repeat((*n).clamp(0, 4096) as usize);
                format!("{}{text}{}", spaces(before), spaces(after))
            }))
        }
        ("truncate", [Value::Text(text), Value::Int(length)]) => {
            Ok(Value::Text(text.chars().take((*length).max(0) as usize).collect()))
        }
        ("contains", [Value::Text(text), Value::Text(part)]) => Ok(Value::Bool(text.contains(part.as_str()))),
        ("hasPrefix", [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.starts_with(part.as_str())))
        }
        (
            "printf" | "split" | "join" | "title" | "lower" | "upper" | "pad" | "truncate" | "contains"
            | "hasPrefix",
            [_, ..],
        ) => Err("wrong type of argument".into()),
        _ => Err(wrong()),
    }
}

fn index(value: &Value, key: &Value) -> Done {
    match (value, key) {
        (Value::List(items), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| items.get(at))
            .cloned()
            .ok_or_else(|| format!("index out of range: {at}")),
        (Value::Text(text), Value::Int(at)) => {
            let byte = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            byte.map(|byte| Value::Int((*byte).into())).ok_or_else(|| format!("index out of range: {at}"))
        }
        // The zero value of the map's values: an empty text where they are texts.
        (Value::Map(map), Value::Text(key)) => {
            Ok(map.get(key).cloned().unwrap_or_else(|| match map.values().next() {
                Some(Value::Text(_)) | None => Value::Text(String::new()),
                Some(Value::Int(_)) => Value::Int(0),
                Some(Value::Bool(_)) => Value::Bool(false),
                Some(_) => Value::Nil,
            }))
        }
        // A map that its JSON form leaves out because it is empty.
        (Value::Nil, Value::Text(_)) => Ok(Value::Text(String::new())),
        (Value::Nil | Value::Missing, _) => Err("index of untyped nil".into()),
        (Value::Struct(_), Value::Text(key)) => Err(format!("can't index a struct by {key:?}: write .{key}")),
        (Value::List(_) | Value::Text(_), _) => Err("cannot index slice/array with type string".into()),
        _ => Err("can't index this value".into()),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Done {
    let length = match value {
        Value::List(items) => items.len(),
        Value::Text(text) => text.len(),
        _ => return Err("can't slice this value".into()),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(Value::Int(n)) => usize::try_from(*n)
            .ok()
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("index out of range: {n}")),
        Some(_) => Err("cannot slice with this type".to_owned()),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match value {
        Value::List(items) => Value::List(items[from..to].to_vec()),
        Value::Text(text) => Value::Text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()),
        _ => Value::Nil,
    })
}

/// Go's `Sprint`: a space between operands neither of which is a text; `Sprintln`: always.
fn print(values: &[Value], line: bool) -> String {
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        let texts = at > 0 && (matches!(value, Value::Text(_)) || matches!(values[at - 1], Value::Text(_)));
        if at > 0 && (line || !texts) {
            out.push(' ');
        }
        value.print(&mut out);
    }
    if line {
        out.push('\n');
    }
    out
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Nil | Value::Missing, Value::Nil | Value::Missing) => Ok(true),
        (Value::Nil | Value::Missing, _) | (_, Value::Nil | Value::Missing) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        _ => compare(a, b).map(|order| order == Ordering::Equal),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).ok_or_else(|| "not a number".into()),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (
            Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Bool(_),
            Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Bool(_),
        ) => Err("incompatible types for comparison".into()),
        _ => Err("invalid type for comparison".into()),
    }
}

fn title(text: &str) -> String {
    let mut before = ' ';
    text.chars()
        .map(|c| {
            let starts = !(before.is_alphanumeric() || before == '_' || before == '\'');
            before = c;
            if starts { c.to_uppercase().next().unwrap_or(c) } else { c }
        })
        .collect()
}

fn urlquery(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b' ' => out.push('+'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The number that a value stands for in `%f` and `%d`.
pub(super) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(n) => Some(*n),
        _ => None,
    }
}

/// `%v` as a text of its own.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Float(n) => number::shortest(*n),
        value => print(std::slice::from_ref(value), false),
    }
}
