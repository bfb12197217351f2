//! What a user filters lists and streams by: keys, and the values of each.

use std::collections::BTreeMap;

use robot_env_diag::{Error, Result};

/// Filters by key, the values of each in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Adds a value.
    ///
    /// # Errors
    /// A key that is not among `known`.
    pub fn add(&mut self, key: &str, value: &str, known: &[&str]) -> Result<()> {
        if !known.contains(&key) {
            return Err(Error::invalid(format!("invalid filter '{key}'"))
                .with_hint(format!("the filters here are {}", known.join(", "))));
        }
        self.0.entry(key.to_owned()).or_default().push(value.to_owned());
        Ok(())
    }

    /// The values of a key.
    pub fn values(&self, key: &str) -> impl DoubleEndedIterator<Item = &str> + use<'_> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether a key is used.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether the key is not used, or one of its values is taken by `matches`.
    pub fn any(&self, key: &str, matches: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(matches)
    }

    /// Like [`Filters::any`], with values that are regular expressions, found anywhere in one of
    /// `texts`. One that is no regular expression is compared as it stands.
    pub fn any_pattern(&self, key: &str, texts: &[&str]) -> bool {
        self.any(key, |value| match regex_lite::Regex::new(value) {
            Ok(pattern) => texts.iter().any(|text| pattern.is_match(text)),
            Err(_) => texts.contains(&value),
        })
    }

    /// Whether all `label` values match and no `label!` value does. `key` alone asks for presence.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let matches = |value: &str| match value.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(value),
        };
        self.values("label").all(matches) && !self.values("label!").any(matches)
    }

    /// The truth value of a key, the last one given: see [`truth`].
    ///
    /// # Errors
    /// Any other word.
    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.values(key).next_back() else { return Ok(None) };
        truth(value).map(Some).ok_or_else(|| {
            Error::invalid(format!("invalid filter '{key}={value}'")).with_hint("it must be true or false")
        })
    }
}

/// The words that Go takes for truth values (`strconv.ParseBool`).
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(words: &[(&str, &str)]) -> Filters {
        let mut out = Filters::default();
        for (key, value) in words {
            out.add(key, value, &["name", "label", "label!", "dangling"]).unwrap();
        }
        out
    }

    #[test]
    fn keys_and_truths_are_checked() {
        assert!(Filters::default().add("nope", "1", &["name"]).is_err());
        assert_eq!(
            filters(&[("dangling", "0"), ("dangling", "true")]).truth("dangling").unwrap(),
            Some(true)
        );
        assert_eq!(filters(&[]).truth("dangling").unwrap(), None);
        assert!(filters(&[("dangling", "x")]).truth("dangling").is_err());
    }

    #[test]
    fn values_of_a_key_are_alternatives_and_labels_add_up() {
        let f = filters(&[("name", "^/?web$"), ("name", "db")]);
        for (name, want) in [("web", true), ("mydb1", true), ("website", false)] {
            assert_eq!(f.any_pattern("name", &[name]), want, "{name}");
        }
        let broken = filters(&[("name", "[")]);
        assert!(broken.any_pattern("name", &["["]) && !broken.any_pattern("name", &["a"]));
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        for (words, want) in [
            (&[("label", "a")][..], true),
            (&[("label", "a=1"), ("label", "b")], true),
            (&[("label", "a=2")], false),
            (&[("label", "a"), ("label", "c")], false),
            (&[("label!", "c")], true),
            (&[("label!", "a")], false),
            (&[("label!", "a=2")], true),
        ] {
            assert_eq!(filters(words).labels(&labels), want, "{words:?}");
        }
    }
}
