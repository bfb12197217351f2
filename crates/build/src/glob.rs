//! Go's `filepath.Match` on one component of a path: what `COPY` and `ADD` take as a pattern.

/// Whether a component is a pattern.
pub(crate) fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether `name` matches `pattern`; `None` for a malformed pattern.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> Option<bool> {
    let (mut pattern, mut name) = (pattern, name);
    // Where to go on after the last star: the pattern behind it, and the name from which it was tried.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            star = Some((rest, name));
            pattern = rest;
            continue;
        }
        let step = match (one(pattern)?, name) {
            (None, []) => return Some(true),
            (Some((item, rest)), [first, ..]) => {
                let length = length_of(*first).min(name.len());
                item.takes(&name[..length]).then_some((rest, &name[length..]))
            }
            _ => None,
        };
        match (step, star) {
            (Some((rest, left)), _) => (pattern, name) = (rest, left),
            (None, Some((behind, from))) if !from.is_empty() => {
                star = Some((behind, &from[1..]));
                (pattern, name) = (behind, &from[1..]);
            }
            (None, _) => return Some(false),
        }
    }
}

enum Item<'a> {
    Any,
    Sign(&'a [u8]),
    Class { negated: bool, ranges: Vec<(&'a [u8], &'a [u8])> },
}

impl Item<'_> {
    fn takes(&self, sign: &[u8]) -> bool {
        match self {
            Item::Any => true,
            Item::Sign(wanted) => *wanted == sign,
            Item::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| *low <= sign && sign <= *high) != *negated
            }
        }
    }
}

/// The first item of a pattern and what follows; `Some(None)` at its end, `None` if it is malformed.
#[allow(clippy::option_option)] // the outer one is an error
fn one(pattern: &[u8]) -> Option<Option<(Item<'_>, &[u8])>> {
    match pattern {
        [] => Some(None),
        [b'?', rest @ ..] => Some(Some((Item::Any, rest))),
        [b'[', rest @ ..] => {
            let (negated, mut rest) = match rest {
                [b'^', rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let mut ranges = Vec::new();
            loop {
                if let [b']', behind @ ..] = rest
                    && !ranges.is_empty()
                {
                    return Some(Some((Item::Class { negated, ranges }, behind)));
                }
                let (low, behind) = class_sign(rest)?;
                let (high, behind) = match behind {
                    [b'-', behind @ ..] => class_sign(behind)?,
                    behind => (low, behind),
                };
                ranges.push((low, high));
                rest = behind;
            }
        }
        [b'\\', rest @ ..] | rest => {
            let first = *rest.first()?;
            let length = length_of(first).min(rest.len());
            Some(Some((Item::Sign(&rest[..length]), &rest[length..])))
        }
    }
}

fn class_sign(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = match text {
        [b'\\', rest @ ..] => rest,
        [b'-' | b']', ..] => return None,
        text => text,
    };
    let length = length_of(*text.first()?).min(text.len());
    // A class that is not closed has nothing behind its last sign.
    (text.len() > length).then(|| text.split_at(length))
}

/// Bytes of the UTF-8 sign that begins with `first`; 1 for what is none.
fn length_of(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_table_of_matches() {
        for (pattern, name, want) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*b*c*d*e*", "axbxcxdxe", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("a[", "a", None),
            ("[", "a", None),
            ("", "", Some(true)),
            ("", "a", Some(false)),
        ] {
            let got = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(got, want, "{pattern} {name}");
        }
    }
}
