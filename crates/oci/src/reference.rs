use std::fmt;
use std::str::FromStr;

use robot_env_diag::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// A repository: `domain[:port]/path`, normalised (`docker.io/library/` filled in).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    domain: String,
    path: String,
}

impl Repository {
    /// The registry's host, with its port if one was given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path below the registry, with `library/` filled in.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The short form that users write: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.to_string();
        }
        match self.path.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let reference: Reference = text.parse()?;
        if reference.tag.is_some() || reference.digest.is_some() {
            return Err(Error::invalid(format!(
                "invalid repository name `{text}`: it must not have a tag or digest"
            )));
        }
        Ok(reference.repository)
    }
}

/// An image name by the grammar of the distribution project (`reference/regexp.go`):
/// `[domain[:port]/]path[:tag][@digest]`, normalised as Docker does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag as it was written; see [`Reference::or_latest`].
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same with the tag `latest` when neither tag nor digest was written.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.into());
        }
        self
    }

    /// The reference `repository:tag`.
    pub fn with_tag(repository: Repository, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid(format!("invalid tag `{tag}`")).with_hint(
                "a tag has up to 128 letters, digits, `_`, `.` or `-` and starts with none of the last two",
            ));
        }
        Ok(Reference { repository, tag: Some(tag.to_owned()), digest: None })
    }

    /// The reference `repository@digest`.
    pub fn with_digest(repository: Repository, digest: Digest) -> Self {
        Reference { repository, tag: None, digest: Some(digest) }
    }

    /// The short form that users write and lists show.
    pub fn familiar(&self) -> String {
        let mut out = self.repository.familiar();
        self.push_suffix(&mut out);
        out
    }

    fn push_suffix(&self, out: &mut String) {
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = self.repository.to_string();
        self.push_suffix(&mut out);
        f.write_str(&out)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("invalid image name `{text}`: {why}"));
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("64 hexadecimal digits are an image id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| bad(e.message()))?)),
            None => (text, None),
        };
        // A tag's colon stands behind the last slash; any other one belongs to a port.
        let path_start = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[path_start..].split_once(':') {
            Some((last, tag)) => (&rest[..path_start + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad(
                "the tag must be up to 128 letters, digits, `_`, `.` or `-`, and must not start with `.` or `-`",
            ));
        }
        let (domain, path) = split_domain(name);
        if !is_domain(&domain) {
            return Err(bad("the registry's host name is malformed"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("the repository's name must be lower case"));
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(bad(
                "the repository's name must be made of a-z, 0-9 and single separators `.`, `_`, `__`, `-`",
            ));
        }
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return Err(bad("it is longer than 255 characters"));
        }
        Ok(Reference { repository: Repository { domain, path }, tag: tag.map(str::to_owned), digest })
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
        format!("{OFFICIAL_NAMESPACE}/{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

/// host names, IPv4 and bracketed IPv6 addresses, with an optional port
fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        return after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let label = |l: &str| {
        let b = l.as_bytes();
        matches!((b.first(), b.last()), (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_LIMIT
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let bytes = component.as_bytes();
    if !matches!((bytes.first(), bytes.last()), (Some(f), Some(l)) if alnum(*f) && alnum(*l)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii() && alnum(c as u8))
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

/// What a user may write where an image is wanted: an id (or a prefix of one) or a name. A text
/// that could be both is first looked up as an id, so an id always wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageText {
    /// A whole id or a prefix of one, at least one digit, without `sha256:`.
    IdPrefix {
        /// Lower-case hexadecimal digits, at most 64.
        hex: String,
        /// The name that the same text may also be; `None` if `sha256:` was written or 64 digits.
        or_name: Option<Reference>,
    },
    /// A name.
    Name(Reference),
}

impl FromStr for ImageText {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hexadecimal = |t: &str| {
            !t.is_empty() && t.len() <= 64 && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if let Some(hex) = text.strip_prefix("sha256:")
            && hexadecimal(hex)
        {
            return Ok(ImageText::IdPrefix { hex: hex.to_owned(), or_name: None });
        }
        if hexadecimal(text) {
            let or_name = text.parse::<Reference>().ok().map(Reference::or_latest);
            return Ok(ImageText::IdPrefix { hex: text.to_owned(), or_name });
        }
        Ok(ImageText::Name(text.parse::<Reference>()?.or_latest()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_docker_does() {
        for (text, full, familiar) in [
            ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("ubuntu:22.04", "docker.io/library/ubuntu:22.04", "ubuntu:22.04"),
            ("ros/ros:noetic", "docker.io/ros/ros:noetic", "ros/ros:noetic"),
            ("index.docker.io/a", "docker.io/library/a", "a"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/a", "localhost/a", "localhost/a"),
            ("localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b"),
            (
                "127.0.0.1:5000/robot-env/robot-env:cuda10.0-py2-ubuntu16.04",
                "127.0.0.1:5000/robot-env/robot-env:cuda10.0-py2-ubuntu16.04",
                "127.0.0.1:5000/robot-env/robot-env:cuda10.0-py2-ubuntu16.04",
            ),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f", "a__b/c-d--e.f"),
            ("Registry.Example/a", "Registry.Example/a", "Registry.Example/a"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (full, familiar),
                "{text}"
            );
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn refuses_what_the_grammar_refuses() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        let id = "0".repeat(64);
        for bad in [
            "",
            ":",
            "a:",
            "a:.b",
            "a:-b",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a_",
            "a@",
            "a@sha256:12",
            "a:b:c",
            "a b",
            "a:b c",
            "../a",
            "a/../b",
            "http://a/b",
            "host:port/a",
            "-h.x/a",
            "[::1/a",
            &long,
            &tag,
            &id,
            "a\n",
            "ä",
            "localhost/",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_id_wins_over_a_name() {
        assert_eq!(
            "cafe".parse::<ImageText>().unwrap(),
            ImageText::IdPrefix { hex: "cafe".into(), or_name: Some("cafe:latest".parse().unwrap()) }
        );
        assert!(matches!(
            "sha256:cafe".parse::<ImageText>().unwrap(),
            ImageText::IdPrefix { or_name: None, .. }
        ));
        assert!(matches!(ImageText::from_str("cafe:1").unwrap(), ImageText::Name(_)));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_prints_what_it_reads(text in "[a-z0-9A-Z:/@._\\-\\[\\]]{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
