//! `filters=`: a map of lists, or of maps whose keys count.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use robot_env_wire::Filters;
use serde::Deserialize;

use crate::failure::{Failure, Result};
use crate::query::{Query, moment};

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Map(BTreeMap<String, bool>),
}

/// Reads the filters of a query; `known` are the keys that mean something here.
pub(crate) fn of(query: &Query, known: &[&str]) -> Result<Filters> {
    query.text("filters").map_or_else(|| Ok(Filters::default()), |text| parse(text, known))
}

fn parse(text: &str, known: &[&str]) -> Result<Filters> {
    let read: BTreeMap<String, Values> =
        serde_json::from_str(text).map_err(|_| Failure::new(400, "invalid filter"))?;
    let mut out = Filters::default();
    for (key, values) in read {
        let values = match values {
            Values::List(list) => list,
            Values::Map(map) => map.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect(),
        };
        if !known.contains(&key.as_str()) {
            return Err(Failure::new(400, format!("invalid filter '{key}'")));
        }
        for value in values {
            out.add(&key, &value, known)?;
        }
    }
    Ok(out)
}

/// The moment of `until`: a moment, or a span before now.
pub(crate) fn until(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>> {
    moment_of(filters, "until", now)
}

/// The moment of a key: a moment, or a span before now.
pub(crate) fn moment_of(filters: &Filters, key: &str, now: Timestamp) -> Result<Option<Timestamp>> {
    let Some(text) = filters.values(key).next_back() else { return Ok(None) };
    if let Some(span) = span(text) {
        return Ok(now.checked_sub(span).ok());
    }
    moment(text).map(Some).ok_or_else(|| Failure::new(400, format!("invalid filter '{key}={text}'")))
}

/// Go's durations: `10m`, `1h30m`.
fn span(text: &str) -> Option<SignedDuration> {
    let mut seconds = 0f64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        seconds += number
            * match &rest[digits..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    SignedDuration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_are_read() {
        let known = &["label", "name"][..];
        let one = parse(r#"{"label":{"a=b":true,"c":true,"d":false}}"#, known).unwrap();
        let two = parse(r#"{"label":["a=b","c"]}"#, known).unwrap();
        assert_eq!(one, two);
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(one.labels(&labels(&[("a", "b"), ("c", "")])) && !one.labels(&labels(&[("a", "b")])));
        for (text, message) in [
            ("x", "invalid filter"),
            (r#"{"nope":["a"]}"#, "invalid filter 'nope'"),
            (r#"{"label":1}"#, "invalid filter"),
        ] {
            assert_eq!(parse(text, known).unwrap_err(), Failure::new(400, message));
        }
    }

    #[test]
    fn spans() {
        assert_eq!(span("1h30m"), Some(SignedDuration::from_secs(5400)));
        assert_eq!(span("10s"), Some(SignedDuration::from_secs(10)));
        for bad in ["", "h", "10", "1x", "2024-01-01T00:00:00Z"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }
}
