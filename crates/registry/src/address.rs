//! Where a request goes: scheme, host, port and path, and how a `Location` is resolved.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

/// The longest URL that is followed, in bytes.
const URL_LIMIT: usize = 16 * 1024;

/// The two schemes that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// What credentials are bound to: any change of one of the three drops them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    /// Lower case; an IPv6 address stands in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// The origin of `host[:port]` (as in an image's name) under `scheme`.
    pub(crate) fn new(scheme: Scheme, authority: &str) -> Option<Self> {
        Url::parse(&format!("{}://{authority}/", scheme.as_str())).map(|url| url.origin)
    }

    /// `host`, or `host:port` where the port is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Splits `host[:port]`; the host keeps the brackets of an IPv6 address.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
            port.parse().map_or((authority, None), |port| (host, Some(port)))
        }
        _ => (authority, None),
    }
}

/// The address that `host` writes, if it is one; brackets are understood.
pub(crate) fn ip_of(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// 127.0.0.0/8, `localhost` and `::1`, without looking any name up.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || ip_of(host).is_some_and(|address| address.is_loopback())
}

/// An absolute http or https URL without user information or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Starts with `/`; no query.
    pub(crate) path: String,
    pub(crate) query: Option<String>,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > URL_LIMIT {
            return None;
        }
        let text = text.split('#').next()?;
        let uri: Uri = text.parse().ok()?;
        let scheme = match uri.scheme_str()? {
            s if s.eq_ignore_ascii_case("http") => Scheme::Http,
            s if s.eq_ignore_ascii_case("https") => Scheme::Https,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        if authority.as_str().contains('@') || host.is_empty() {
            return None;
        }
        let rest = &authority.as_str()[host.len()..];
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => scheme.default_port(),
            None => return None,
        };
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        Some(Url {
            origin: Origin { scheme, host: host.to_ascii_lowercase(), port },
            path: path.to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }

    /// The URL that `location` means in an answer to a request for `self`.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.trim();
        if location.is_empty() || location.len() > URL_LIMIT {
            return None;
        }
        let has_scheme = location.split_once(':').is_some_and(|(s, _)| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        });
        if has_scheme && !location.starts_with('/') {
            return Url::parse(location);
        }
        if location.starts_with("//") {
            return Url::parse(&format!("{}:{location}", self.origin.scheme.as_str()));
        }
        let rest = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{}{location}", self.path)
        } else {
            let directory = &self.path[..=self.path.rfind('/').unwrap_or(0)];
            format!("{directory}{location}")
        };
        Url::parse(&format!("{}{rest}", self.origin))
    }

    /// The same with `key=value` added to the query; `value` is percent-encoded.
    pub(crate) fn with_query(mut self, key: &str, value: &str) -> Self {
        let pair = format!("{key}={}", percent_encode(value));
        self.query = Some(match self.query.filter(|query| !query.is_empty()) {
            Some(query) => format!("{query}&{pair}"),
            None => pair,
        });
        self
    }

    /// What an error may show: no query, which often carries a signature.
    pub(crate) fn shown(&self) -> String {
        format!("{}{}", self.origin, self.path)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// `value` with everything but the unreserved characters of RFC 3986 encoded.
pub(crate) fn percent_encode(value: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_urls() {
        for (text, want) in [
            ("https://Registry.Example/v2/", "https://registry.example/v2/"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/"),
            ("https://a:443/x?y=z#f", "https://a/x?y=z"),
            ("http://[::1]:5000/a", "http://[::1]:5000/a"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), want);
        }
        for bad in [
            "",
            "/x",
            "ftp://a/",
            "https://user:pw@a/",
            "https://",
            "https://a:99999/",
            "https://a b/",
            "file:///etc/passwd",
        ] {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn resolves_locations() {
        let base = Url::parse("https://a:5000/v2/x/blobs/uploads/?from=y").unwrap();
        for (location, want) in [
            ("/v2/x/uploads/1?_state=ab%3D", Some("https://a:5000/v2/x/uploads/1?_state=ab%3D")),
            ("http://b/c", Some("http://b/c")),
            ("//b/c", Some("https://b/c")),
            ("7?q", Some("https://a:5000/v2/x/blobs/uploads/7?q")),
            ("?n=2", Some("https://a:5000/v2/x/blobs/uploads/?n=2")),
            ("/v2/a:b", Some("https://a:5000/v2/a:b")),
            ("file:///x", None),
            ("javascript:x", None),
            ("", None),
        ] {
            assert_eq!(base.join(location).map(|u| u.to_string()).as_deref(), want, "{location}");
        }
        assert_eq!(
            base.with_query("digest", "sha256:a b").to_string(),
            "https://a:5000/v2/x/blobs/uploads/?from=y&digest=sha256%3Aa%20b"
        );
    }

    #[test]
    fn knows_loopback() {
        for (host, want) in [
            ("localhost", true),
            ("127.9.0.1", true),
            ("[::1]", true),
            ("128.0.0.1", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
        ] {
            assert_eq!(is_loopback(host), want, "{host}");
        }
        for (text, want) in [
            ("a:5", ("a", Some(5))),
            ("a", ("a", None)),
            ("[::1]:5", ("[::1]", Some(5))),
            ("[::1]", ("[::1]", None)),
            ("::1", ("::1", None)),
        ] {
            assert_eq!(split_port(text), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(base in "https?://[a-z0-9.:\\[\\]]{1,12}/[ -~]{0,20}", location in "\\PC{0,60}") {
            if let Some(base) = Url::parse(&base) && let Some(url) = base.join(&location) {
                let again = Url::parse(&url.to_string());
                proptest::prop_assert_eq!(again, Some(url));
            }
        }
    }
}
