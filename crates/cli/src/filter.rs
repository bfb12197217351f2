//! `--filter key=value`: reading them, and the ways in which they match.

use jiff::Timestamp;
use robot_env_diag::{Error, Result};
use robot_env_wire::Filters;

use crate::quantity;

/// Reads `key=value` words; `known` are the keys that the command understands.
pub(crate) fn parse(words: &[String], known: &[&str]) -> Result<Filters> {
    let mut out = Filters::default();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Error::invalid(format!(
                "invalid argument `{word}` for --filter: bad format of filter (expected name=value)"
            )));
        };
        out.add(&key.trim().to_ascii_lowercase(), value.trim(), known)?;
    }
    Ok(out)
}

/// The moment of `until`.
pub(crate) fn until(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>> {
    filters.values("until").next_back().map(|text| quantity::moment(text, now)).transpose()
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
        parse(&words, &["name", "until"]).unwrap()
    }

    #[test]
    fn reads_and_refuses() {
        assert!(filters(&["Name = a=b"]).values("name").eq(["a=b"]));
        for bad in ["name", "nope=1"] {
            assert!(parse(&[bad.to_owned()], &["name"]).is_err(), "{bad}");
        }
        assert!(until(&filters(&["until=24h"]), Timestamp::UNIX_EPOCH).unwrap().is_some());
        assert!(until(&filters(&["until=x"]), Timestamp::UNIX_EPOCH).is_err());
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
