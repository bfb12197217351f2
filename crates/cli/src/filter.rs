//! `--filter key=value`: reading them, and the ways in which they match.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_diag::{Error, Result};

use crate::quantity;

/// What the user filters by, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filters(Vec<(String, String)>);

impl Filters {
    /// Reads `key=value` words; `known` are the keys that the command understands.
    pub(crate) fn parse(words: &[String], known: &[&str]) -> Result<Filters> {
        let mut out = Vec::with_capacity(words.len());
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(Error::invalid(format!(
                    "invalid argument `{word}` for --filter: bad format of filter (expected name=value)"
                )));
            };
            let key = key.trim().to_ascii_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{key}'"))
                    .with_hint(format!("the filters here are {}", known.join(", "))));
            }
            out.push((key, value.trim().to_owned()));
        }
        Ok(Filters(out))
    }

    /// The values of one key.
    pub(crate) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Whether a key is used.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether the key is not used, or one of its values is taken by `matches`.
    pub(crate) fn any(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        let mut values = self.values(key).peekable();
        values.peek().is_none() || values.any(matches)
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
        let matches = |value: &str| match value.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(value),
        };
        self.values("label").all(matches) && !self.values("label!").any(matches)
    }

    /// The truth value of a key, the last one given.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.values(key).last() else { return Ok(None) };
        match quantity::truth(value) {
            Some(truth) => Ok(Some(truth)),
            None => Err(Error::invalid(format!("invalid filter '{key}={value}': it must be true or false"))),
        }
    }

    /// The moment of `until`.
    pub(crate) fn until(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        self.values("until").last().map(|text| quantity::moment(text, now)).transpose()
    }
}

/// Go's `path.Match`: `*` and `?` within one component, `[a-z]`, `[^a]`, `\` before any sign.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    fn matches(pattern: &[char], text: &[char]) -> bool {
        let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
        match first {
            '*' => {
                let end = text.iter().position(|c| *c == '/').unwrap_or(text.len());
                (0..=end).any(|taken| matches(rest, &text[taken..]))
            }
            '?' => text.first().is_some_and(|c| *c != '/') && matches(rest, &text[1..]),
            '[' => {
                let (Some(close), Some(c)) = (rest.iter().skip(1).position(|c| *c == ']'), text.first())
                else {
                    return false;
                };
                let class = &rest[..=close];
                let (negated, class) = if class[0] == '^' { (true, &class[1..]) } else { (false, class) };
                let (mut found, mut at) = (false, 0);
                while at < class.len() {
                    if class.get(at + 1) == Some(&'-') && at + 2 < class.len() {
                        found |= (class[at]..=class[at + 2]).contains(c);
                        at += 3;
                    } else {
                        found |= class[at] == *c;
                        at += 1;
                    }
                }
                found != negated && *c != '/' && matches(&rest[close + 2..], &text[1..])
            }
            '\\' => rest
                .first()
                .is_some_and(|escaped| text.first() == Some(escaped) && matches(&rest[1..], &text[1..])),
            literal => text.first() == Some(literal) && matches(rest, &text[1..]),
        }
    }
    // Each star may try every length: short patterns only.
    if pattern.matches('*').count() > 16 || pattern.len() > 1024 || text.len() > 1024 {
        return false;
    }
    matches(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(words: &[&str]) -> Filters {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Filters::parse(&words, &["name", "label", "label!", "dangling", "until", "id"]).unwrap()
    }

    #[test]
    fn reads_and_refuses() {
        assert_eq!(filters(&["Name = a=b"]), Filters(vec![("name".into(), "a=b".into())]));
        for bad in ["name", "nope=1"] {
            assert!(Filters::parse(&[bad.to_owned()], &["name"]).is_err(), "{bad}");
        }
        assert_eq!(filters(&["dangling=true"]).truth("dangling").unwrap(), Some(true));
        assert_eq!(filters(&[]).truth("dangling").unwrap(), None);
        assert!(filters(&["dangling=x"]).truth("dangling").is_err());
        assert!(filters(&["until=24h"]).until(Timestamp::UNIX_EPOCH).unwrap().is_some());
        assert!(filters(&["until=x"]).until(Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn values_of_a_key_are_alternatives_and_labels_add_up() {
        let f = filters(&["name=^/?web$", "name=db"]);
        for (name, want) in [("web", true), ("mydb1", true), ("website", false)] {
            assert_eq!(f.any_pattern("name", &[name]), want, "{name}");
        }
        assert!(
            filters(&["name=["]).any_pattern("name", &["["])
                && !filters(&["name=["]).any_pattern("name", &["a"])
        );
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        for (words, want) in [
            (&["label=a"][..], true),
            (&["label=a=1", "label=b"], true),
            (&["label=a=2"], false),
            (&["label=a", "label=c"], false),
            (&["label!=c"], true),
            (&["label!=a"], false),
            (&["label!=a=2"], true),
        ] {
            assert_eq!(filters(words).labels(&labels), want, "{words:?}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("ros", "ros", true),
            ("ros*", "ros:noetic", true),
            ("*/ros", "a/ros", true),
            ("*ros", "a/ros", false),
            ("r?s", "ros", true),
            ("r[a-z]s", "ros", true),
            ("r[^o]s", "ros", false),
            ("r\\*s", "r*s", true),
            ("r[", "r[", false),
            ("*:*", "a:b", true),
            ("", "", true),
            ("[]]", "]", true),
            ("a[b", "ab", false),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }
}
