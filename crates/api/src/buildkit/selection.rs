//! The filters of `DiskUsage` and `Prune`: containerd's, `id~=ab,type==regular,!shared` among them.
//!
//! A filter is a list of conditions that must all hold; of several filters one must. A condition is a
//! field that must be there, or a field, `==`, `!=` or `~=`, and a value, which may be quoted.

use regex_lite::Regex;
use robot_env_build::Kept;
use robot_env_diag::{Error, Result};

/// The kind of a cache mount.
pub(super) const MOUNT: &str = "exec.cachemount";
const FIELDS: &[&str] =
    &["id", "parents", "description", "inuse", "mutable", "immutable", "type", "shared", "private"];

/// What is meant of all that builds keep.
#[derive(Debug)]
pub(super) struct Selection(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    field: &'static str,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Is(String),
    IsNot(String),
    Matches(Regex),
}

impl Selection {
    /// Reads filters; none of them mean everything.
    ///
    /// # Errors
    /// `InvalidInput` for what is no filter, or names no field.
    pub(super) fn parse(filters: &[String]) -> Result<Selection> {
        filters
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| conditions(text))
            .collect::<Result<_>>()
            .map(Selection)
    }

    pub(super) fn has(&self, kept: &Kept) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|one| one.holds(kept)))
    }
}

impl Condition {
    fn holds(&self, kept: &Kept) -> bool {
        let truth = match self.field {
            "id" => return self.test.holds(Some(&kept.id)),
            "description" => return self.test.holds(Some(&kept.description)),
            "type" => return self.test.holds(Some(kept.kind)),
            "inuse" => kept.in_use,
            "mutable" => kept.kind == MOUNT,
            "immutable" => kept.kind != MOUNT,
            "shared" => kept.shared,
            "private" => !kept.shared,
            // Steps are found by their content: none has a parent.
            _ => return self.test.holds(None),
        };
        // `inuse==false` and the like are understood, too.
        match &self.test {
            Test::Is(word) => robot_env_wire::truth(word) == Some(truth),
            Test::IsNot(word) => robot_env_wire::truth(word) != Some(truth),
            Test::Present => truth,
            Test::Matches(_) => self.test.holds(truth.then_some("true")),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Test::Present => value.is_some_and(|value| !value.is_empty()),
            Test::Is(want) => value == Some(want),
            Test::IsNot(want) => value != Some(want),
            Test::Matches(pattern) => value.is_some_and(|value| pattern.is_match(value)),
        }
    }
}

fn conditions(text: &str) -> Result<Vec<Condition>> {
    let bad = |what: &str| Error::invalid(format!("cannot read filter `{text}`: {what}"));
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(['=', '!', '~', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(field) = FIELDS.iter().find(|field| **field == name.trim()) else {
            return Err(bad(&format!("there is no field `{name}`"))
                .with_hint(format!("the fields are {}", FIELDS.join(", "))));
        };
        let operators = [("==", 0), ("!=", 1), ("~=", 2)];
        let found = operators.iter().find_map(|(sign, kind)| Some((after.strip_prefix(sign)?, kind)));
        let test = match found {
            None => {
                rest = after;
                Test::Present
            }
            Some((after, kind)) => {
                let (value, left) = value(after).ok_or_else(|| bad("a quoted value has no end"))?;
                rest = left;
                match kind {
                    0 => Test::Is(value),
                    1 => Test::IsNot(value),
                    _ => Test::Matches(
                        Regex::new(&value).map_err(|_| bad("a value is no regular expression"))?,
                    ),
                }
            }
        };
        out.push(Condition { field, test });
        if rest.is_empty() {
            return Ok(out);
        }
        rest = rest.strip_prefix(',').ok_or_else(|| bad("there are ==, != and ~="))?;
    }
}

/// A value, quoted or up to the next comma, and what comes after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quote) = text.chars().next().filter(|first| matches!(first, '"' | '|' | '/')) else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut out = String::new();
    let mut escaped = false;
    for (at, sign) in text.char_indices().skip(1) {
        match sign {
            _ if escaped => {
                out.push(sign);
                escaped = false;
            }
            '\\' if quote == '"' => escaped = true,
            _ if sign == quote => return Some((out, &text[at + 1..])),
            _ => out.push(sign),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        for (text, want) in [
            ("id~=ab", 1),
            ("type==regular,description~=\"a, b\"", 2),
            ("shared,inuse!=true", 2),
            ("id==|x,y|", 1),
        ] {
            assert_eq!(conditions(text).unwrap().len(), want, "{text}");
        }
        for text in ["size==3", "id=ab", "id==\"ab", "id~=(", "id==a,", "!shared", "id==\"a\"b"] {
            assert!(conditions(text).is_err(), "{text}");
        }
        assert_eq!(value("\"a\\\"b\",c"), Some(("a\"b".to_owned(), ",c")));
    }
}
