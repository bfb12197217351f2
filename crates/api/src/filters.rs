//! `filters=`: a map of lists, or of maps whose keys count.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::failure::{Failure, Result};
use crate::query::{Query, moment};

/// What a client filters by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Map(BTreeMap<String, bool>),
}

impl Filters {
    /// Reads the filters of a query; `known` are the keys that mean something here.
    pub(crate) fn of(query: &Query, known: &[&str]) -> Result<Filters> {
        query.text("filters").map_or_else(|| Ok(Filters::default()), |text| Filters::parse(text, known))
    }

    fn parse(text: &str, known: &[&str]) -> Result<Filters> {
        let read: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|_| Failure::new(400, "invalid filter"))?;
        let mut out = BTreeMap::new();
        for (key, values) in read {
            if !known.contains(&key.as_str()) {
                return Err(Failure::new(400, format!("invalid filter '{key}'")));
            }
            let values = match values {
                Values::List(list) => list,
                Values::Map(map) => map.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect(),
            };
            out.insert(key, values);
        }
        Ok(Filters(out))
    }

    /// The values of a key.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a key is used.
    pub(crate) fn has(&self, key: &str) -> bool {
        !self.values(key).is_empty()
    }

    /// Whether the key is not used, or one of its values is taken by `matches`.
    pub(crate) fn any(&self, key: &str, matches: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).iter().map(String::as_str).any(matches)
    }

    /// Like [`Filters::any`], with values that are regular expressions, found anywhere in one of
    /// `texts`. One that is no regular expression is compared as it stands.
    pub(crate) fn any_pattern(&self, key: &str, texts: &[&str]) -> bool {
        self.any(key, |value| match regex_lite::Regex::new(value) {
            Ok(pattern) => texts.iter().any(|text| pattern.is_match(text)),
            Err(_) => texts.contains(&value),
        })
    }

    /// Whether all `label` values match and no `label!` value does. `key` alone asks for presence.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let matches = |value: &String| match value.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(value),
        };
        self.values("label").iter().all(matches) && !self.values("label!").iter().any(matches)
    }

    /// The truth value of a key.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>> {
        match self.values(key) {
            [] => Ok(None),
            [one] => match one.as_str() {
                "1" | "true" | "True" => Ok(Some(true)),
                "0" | "false" | "False" => Ok(Some(false)),
                _ => Err(Failure::new(400, format!("invalid filter '{key}={one}'"))),
            },
            several => Err(Failure::new(400, format!("invalid filter '{key}={several:?}'"))),
        }
    }

    /// The moment of `until`: a moment, or a span before now.
    pub(crate) fn until(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        self.moment("until", now)
    }

    /// The moment of a key: a moment, or a span before now.
    pub(crate) fn moment(&self, key: &str, now: Timestamp) -> Result<Option<Timestamp>> {
        let Some(text) = self.values(key).last() else { return Ok(None) };
        if let Some(span) = span(text) {
            return Ok(now.checked_sub(span).ok());
        }
        moment(text).map(Some).ok_or_else(|| Failure::new(400, format!("invalid filter '{key}={text}'")))
    }
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
        let one = Filters::parse(r#"{"label":{"a=b":true,"c":true,"d":false}}"#, known).unwrap();
        let two = Filters::parse(r#"{"label":["a=b","c"]}"#, known).unwrap();
        assert_eq!(one, two);
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(one.labels(&labels(&[("a", "b"), ("c", "")])) && !one.labels(&labels(&[("a", "b")])));
        for (text, message) in [
            ("x", "invalid filter"),
            (r#"{"nope":["a"]}"#, "invalid filter 'nope'"),
            (r#"{"label":1}"#, "invalid filter"),
        ] {
            assert_eq!(Filters::parse(text, known).unwrap_err(), Failure::new(400, message));
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
