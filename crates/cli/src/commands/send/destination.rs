//! The other machine, as ssh's words name it.

use robot_env_diag::{Error, Result};

/// `[USER@]HOST[:PORT]`, `[USER@][ADDRESS]:PORT` or `ssh://[USER@]HOST[:PORT]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// `[USER@]HOST`
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

impl Destination {
    pub(super) fn parse(text: &str) -> Result<Destination> {
        let refused = |why: &str| {
            Error::invalid(format!("cannot send to `{text}`: {why}"))
                .with_hint("the last word is the machine, e.g. `robot@192.168.1.20` or `robot@arm:2222`")
        };
        let rest = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (user, place) = rest.rsplit_once('@').map_or(("", rest), |(user, place)| (user, place));
        let (host, port) = match place.strip_prefix('[') {
            Some(inner) => {
                let (host, port) = inner.split_once(']').ok_or_else(|| refused("`]` is missing"))?;
                (host, port.strip_prefix(':').or((!port.is_empty()).then_some("")))
            }
            // An address of version 6 without brackets has no port.
            None if place.matches(':').count() > 1 => (place, None),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(refused("the port is no number from 1 to 65535")),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "'\"`$;&|<>()\\/".contains(c);
        if host.is_empty() || host.starts_with('-') || user.starts_with('-') || rest.contains(odd) {
            return Err(refused("it is no host"));
        }
        if rest.starts_with('@') {
            return Err(refused("there is no user before the `@`"));
        }
        let host = if user.is_empty() { host.to_owned() } else { format!("{user}@{host}") };
        Ok(Destination { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in [
            ("arm", "arm", None),
            ("robot@arm", "robot@arm", None),
            ("robot@arm:2222", "robot@arm", Some(2222)),
            ("ssh://robot@arm:2222/", "robot@arm", Some(2222)),
            ("robot@[fe80::1]:22", "robot@fe80::1", Some(22)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
            ("a@b@arm", "a@b@arm", None),
        ] {
            assert_eq!(Destination::parse(text).unwrap(), Destination { host: host.into(), port }, "{text}");
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "robot@-oProxyCommand=x",
            "-l@arm",
            "@arm",
            "arm:",
            "arm:0",
            "arm:70000",
            "[::1",
            "[::1]22",
            "a b",
            "arm;reboot",
            "robot@arm/path",
            "robot@",
        ] {
            assert!(Destination::parse(bad).is_err(), "{bad}");
        }
    }
}
