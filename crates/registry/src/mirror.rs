//! Mirrors and what is remembered of their health.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address::{Origin, Scheme, Url};

/// A mirror as it is set: where its API stands below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) origin: Origin,
    /// `host[:port]` as it was set: what credentials, certificates and insecurity are looked up by.
    pub(crate) authority: String,
    /// The path in front of `/v2/`, without a trailing slash.
    pub(crate) prefix: String,
    /// Whether the scheme was written, and so is not to be found out.
    pub(crate) explicit: bool,
}

impl Mirror {
    /// Reads `host[:port]` or an http(s) URL.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let explicit = text.contains("://");
        let url = if explicit {
            Url::parse(text)?
        } else {
            Url::parse(&format!("{}://{text}", Scheme::Https.as_str()))?
        };
        if url.query.is_some() {
            return None;
        }
        let prefix = url.path.trim_end_matches('/').to_owned();
        let prefix = prefix.strip_suffix("/v2").unwrap_or(&prefix).to_owned();
        Some(Mirror { authority: url.origin.authority(), origin: url.origin, prefix, explicit })
    }
}

/// Which mirrors failed lately, shared by all threads of a client.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<HashMap<Origin, Instant>>);

impl Health {
    /// Whether `origin` may be asked.
    pub(crate) fn is_up(&self, origin: &Origin) -> bool {
        let down = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        down.get(origin).is_none_or(|until| Instant::now() >= *until)
    }

    /// Leaves `origin` alone for `rest`.
    pub(crate) fn mark_down(&self, origin: &Origin, rest: Duration) {
        let until = Instant::now() + rest;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(origin.clone(), until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_urls() {
        for (text, want) in [
            ("m.example", Some(("https://m.example", "m.example", ""))),
            ("10.0.0.2:5000", Some(("https://10.0.0.2:5000", "10.0.0.2:5000", ""))),
            ("http://m:80/", Some(("http://m", "m", ""))),
            ("https://m/cache/hub/", Some(("https://m", "m", "/cache/hub"))),
            ("https://m/v2/", Some(("https://m", "m", ""))),
            ("ftp://m", None),
            ("https://u:p@m", None),
            ("", None),
            ("not a url", None),
        ] {
            let got = Mirror::parse(text);
            let got = got.as_ref().map(|m| (m.origin.to_string(), m.authority.clone(), m.prefix.clone()));
            assert_eq!(got, want.map(|(o, a, p)| (o.to_owned(), a.to_owned(), p.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_failed_mirror_rests() {
        let (health, origin) = (Health::default(), Mirror::parse("m").unwrap().origin);
        assert!(health.is_up(&origin));
        health.mark_down(&origin, Duration::from_secs(60));
        assert!(!health.is_up(&origin));
        health.mark_down(&origin, Duration::ZERO);
        assert!(health.is_up(&origin));
    }
}
