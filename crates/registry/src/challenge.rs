//! The `WWW-Authenticate` header (RFC 9110, section 11), parsed totally: any text gives a list of
//! challenges, never a panic, and what cannot be read is left out.

/// A way in that the registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from a token service (distribution-spec's token authentication).
    Bearer { realm: String, service: Option<String>, scopes: Vec<String> },
    /// User name and password in each request.
    Basic,
}

const CHALLENGE_LIMIT: usize = 8;
const PARAMETER_LIMIT: usize = 16;

/// The challenges of one header value, in order.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut out = Vec::new();
    let mut rest = header;
    while out.len() < CHALLENGE_LIMIT {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        let Some((scheme, after)) = token(rest) else { break };
        let (parameters, after) = parameters(after);
        rest = after;
        let get = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            out.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            let scopes =
                get("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
            out.push(Challenge::Bearer { realm, service: get("service").filter(|s| !s.is_empty()), scopes });
        }
    }
    out
}

/// A token of RFC 9110 at the front of `text`, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `key=value` pairs up to the next challenge, and what follows them.
fn parameters(mut text: &str) -> (Vec<(&str, String)>, &str) {
    let mut out = Vec::new();
    loop {
        let here = text.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        let Some((key, after)) = token(here) else { return (out, skip_junk(here)) };
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else { return (out, here) };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)
        } else {
            let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        if out.len() < PARAMETER_LIMIT {
            out.push((key, value));
        }
        text = after;
    }
}

/// Drops what is neither a token nor a separator, so that every round makes progress.
fn skip_junk(text: &str) -> &str {
    let mut characters = text.chars();
    characters.next();
    characters.as_str()
}

/// The value of a quoted string whose opening quote was taken, and what follows the closing one.
fn unquote(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (out, &text[at + 1..]),
            '\\' => out.extend(characters.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn reads_what_registries_send() {
        for (header, want) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    &["repository:library/a:pull"],
                )],
            ),
            (
                r#"bearer realm=https://a/t , scope="x:y:pull,push z:w:*""#,
                vec![bearer("https://a/t", None, &["x:y:pull,push", "z:w:*"])],
            ),
            (r#"Basic realm="a, b=\"c\" d""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (
                r#"Negotiate abc==, Basic realm=x, Bearer realm="y""#,
                vec![Challenge::Basic, bearer("y", None, &[])],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="unterminated"#, vec![bearer("unterminated", None, &[])]),
            ("", vec![]),
            ("===,,, \"", vec![]),
        ] {
            assert_eq!(parse(header), want, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(header in "\\PC{0,200}") {
            proptest::prop_assert!(parse(&header).len() <= CHALLENGE_LIMIT);
        }

        #[test]
        fn never_panics_near_the_grammar(header in "(Bearer|Basic|x|,| |=|\"|\\\\|realm|scope|é){0,40}") {
            proptest::prop_assert!(parse(&header).len() <= CHALLENGE_LIMIT);
        }
    }
}
