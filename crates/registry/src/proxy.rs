//! Which proxy a request takes.

use crate::address::{Origin, Scheme, ip_of, split_port};
use crate::options::Network;

/// The proxies: URLs of http or https proxies, with user information where they want it. Every
/// connection through one is a tunnel (`CONNECT`).
#[derive(Clone, Default)]
pub struct Proxies {
    /// For http.
    pub http: Option<String>,
    /// For https.
    pub https: Option<String>,
    /// What takes none: names, `.suffixes`, addresses, networks, each with an optional port, and
    /// `*`, separated by commas.
    pub none: String,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URLs may carry passwords.
        let set = |proxy: &Option<String>| if proxy.is_some() { "set" } else { "not set" };
        write!(
            f,
            "Proxies {{ http: {}, https: {}, none: {:?} }}",
            set(&self.http),
            set(&self.https),
            self.none
        )
    }
}

impl Proxies {
    /// The proxy for `origin`; loopback addresses take none.
    pub(crate) fn proxy_for(&self, origin: &Origin) -> Option<&str> {
        let proxy = match origin.scheme {
            Scheme::Http => self.http.as_deref(),
            Scheme::Https => self.https.as_deref(),
        }?;
        (!origin.is_loopback() && !self.none.split(',').any(|entry| excepts(entry.trim(), origin)))
            .then_some(proxy)
    }
}

fn excepts(entry: &str, origin: &Origin) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    let address = ip_of(&origin.host);
    if let Ok(network) = entry.parse::<Network>() {
        return address.is_some_and(|address| network.contains(address));
    }
    let (name, port) = split_port(entry);
    if port.is_some_and(|port| port != origin.port) {
        return false;
    }
    if let Some(wanted) = ip_of(name) {
        return address == Some(wanted);
    }
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix('*').unwrap_or(&name);
    match name.strip_prefix('.') {
        Some(suffix) => origin.host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
        None => origin.host == name || origin.host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_match_as_documented() {
        for (none, url, proxied) in [
            ("", "https://a.example/", true),
            ("", "https://127.0.0.1:5/", false),
            ("*", "https://a.example/", false),
            ("example", "https://a.example/", false),
            (".example", "https://example/", true),
            (".example", "https://a.example/", false),
            ("*.example", "https://a.example/", false),
            ("a.example:5000", "https://a.example/", true),
            ("a.example:443", "https://a.example/", false),
            ("x, 10.0.0.0/8", "https://10.2.3.4/", false),
            ("10.0.0.1", "https://10.0.0.1:5000/", false),
            ("ple", "https://a.example/", true),
        ] {
            let proxies = Proxies { http: None, https: Some("http://p".into()), none: none.into() };
            let origin = crate::address::Url::parse(url).unwrap().origin;
            assert_eq!(proxies.proxy_for(&origin).is_some(), proxied, "{none} {url}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let proxies = Proxies { http: Some("http://u:secret@p".into()), ..Proxies::default() };
        assert!(!format!("{proxies:?}").contains("secret"));
    }
}
