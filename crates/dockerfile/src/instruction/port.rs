//! The ports of `EXPOSE`.

/// What one word of `EXPOSE` says, variables put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The first port.
    pub first: u16,
    /// The last one; the same where it is no range.
    pub last: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The protocol was written with capitals.
    pub capitals: bool,
    /// An address or a port of the host was written too; `EXPOSE` has no use for those.
    pub mapped: bool,
}

impl Port {
    /// Reads `[[address:]port:]port[-port][/protocol]`.
    ///
    /// Errors: the reason.
    pub fn parse(text: &str) -> Result<Port, String> {
        let mut parts = text.rsplitn(3, ':');
        let container = parts.next().unwrap_or_default();
        let (host, address) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
        if range.is_empty() {
            return Err(format!("invalid port: {text:?}: no port specified"));
        }
        let lower = protocol.to_ascii_lowercase();
        let known = match lower.as_str() {
            "" => "tcp",
            "tcp" | "udp" | "sctp" => lower.as_str(),
            _ => return Err(format!("invalid port: {text:?}: invalid proto: {protocol}")),
        };
        if !address.is_empty() {
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            bare.parse::<std::net::IpAddr>().map_err(|_| format!("invalid IP address: {address}"))?;
        }
        let (first, last) = ports(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
        if !host.is_empty() {
            let (start, end) = ports(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
            if end - start != last - first && first != last {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {range} and {host}"
                ));
            }
        }
        Ok(Port {
            first,
            last,
            protocol: known.to_owned(),
            capitals: protocol != lower,
            mapped: !(address.is_empty() && host.is_empty()),
        })
    }

    /// Each port as an image's config names it: `80/tcp`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (self.first..=self.last).map(move |port| format!("{port}/{}", self.protocol))
    }
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
