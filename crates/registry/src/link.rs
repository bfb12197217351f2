//! The `Link` header (RFC 8288): where the next page of a list is.

/// The target of the first link with `rel="next"`; `None` for anything else, malformed or not.
pub(crate) fn next(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let start = rest.find('<')?;
        let after = &rest[start + 1..];
        let end = after.find('>')?;
        let (target, tail) = (&after[..end], &after[end + 1..]);
        let (parameters, next) = split_outside_quotes(tail);
        let is_next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(key, value)| {
                key.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return (!target.trim().is_empty()).then(|| target.trim());
        }
        rest = next;
    }
}

/// `text` up to the first comma that stands outside quotes, and what follows it.
fn split_outside_quotes(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_page() {
        for (header, want) in [
            (r#"</v2/a/tags/list?last=b&n=2>; rel="next""#, Some("/v2/a/tags/list?last=b&n=2")),
            ("<https://a/b>;rel=next", Some("https://a/b")),
            (r#"<x>; rel="prev", <y>; title="a, b"; rel="first NEXT""#, Some("y")),
            (r#"<x>; rel="prev""#, None),
            ("<>; rel=next", None),
            ("<x; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next(header), want, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(header in "\\PC{0,200}") {
            let _ = next(&header);
        }

        #[test]
        fn never_panics_near_the_grammar(header in "(<|>|;|,|rel=|next|\"| |é){0,40}") {
            let _ = next(&header);
        }
    }
}
