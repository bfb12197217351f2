//! Everything ambient that a [`Client`](crate::Client) works with.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use robot_env_config::Configuration;
use robot_env_diag::{Error, Result};
use robot_env_oci::Platform;

use crate::address::{ip_of, is_loopback, split_port};
use crate::credentials::Credentials;
use crate::proxy::Proxies;
use crate::settings;

/// Docker's configuration file of a user.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Everything ambient that a client works with. [`ClientOptions::default`] reads nothing: no
/// credentials, no mirrors, the system's CA bundle.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Docker's `config.json`, which holds credentials; `None`: no credentials are read or stored.
    pub docker_config: Option<PathBuf>,
    /// Credentials by registry (`host[:port]` as in image names) that go before all others.
    pub given: BTreeMap<String, Credentials>,
    /// Where `docker-credential-NAME` programs are looked for, like `PATH`.
    pub program_path: OsString,
    /// Directories of `<host[:port]>/{*.crt, *.cert, *.key}`; all that exist are read.
    pub certificate_directories: Vec<PathBuf>,
    /// Files of trusted certificates (PEM); the first that exists is read, at the first https request.
    pub ca_bundles: Vec<PathBuf>,
    /// What is set for single registries, by `host[:port]` as in image names.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Networks whose registries are insecure, from Docker's `insecure-registries`.
    pub insecure_networks: Vec<Network>,
    /// What images are chosen for where a call names no platform.
    pub platform: Platform,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How long is waited for what.
    pub time_outs: TimeOuts,
    /// How failures are retried.
    pub retry: Retry,
    /// The proxies.
    pub proxies: Proxies,
}

/// What is set for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Mirrors, tried in this order before the registry itself when pulling: `host[:port]`
    /// (https) or a URL, which may have a path.
    pub mirrors: Vec<String>,
    /// Whether certificates are not checked and plain http is spoken where https fails.
    pub insecure: bool,
}

/// An IP network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(net) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(net) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("invalid network `{text}`"));
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(bad());
        }
        Ok(Network { address, prefix })
    }
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOuts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For a connection to a mirror.
    pub mirror_connect: Duration,
    /// For the head of a mirror's answer.
    pub mirror_answer: Duration,
    /// Without a single byte in either direction; at most 60 s ([`TimeOuts::IDLE_LIMIT`]).
    pub idle: Duration,
    /// How long a mirror that failed is left alone.
    pub mirror_rest: Duration,
    /// For a credential helper's answer.
    pub helper: Duration,
}

impl TimeOuts {
    /// The longest idle time-out; a longer one is cut to it.
    pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

    /// The idle time-out that holds.
    pub(crate) fn idle(&self) -> Duration {
        self.idle.min(Self::IDLE_LIMIT)
    }

    /// After this long without progress nothing is tried again: two idle time-outs, a minute by
    /// default.
    pub(crate) fn patience(&self) -> Duration {
        self.idle() * 2
    }
}

impl Default for TimeOuts {
    fn default() -> Self {
        TimeOuts {
            connect: Duration::from_secs(10),
            mirror_connect: Duration::from_secs(2),
            mirror_answer: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            mirror_rest: Duration::from_secs(300),
            helper: Duration::from_secs(120),
        }
    }
}

/// How failures are retried. What says 429 or 503 with `Retry-After` is asked again after that
/// time; everything else after a pause that doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often one request is sent at most, and how often a transfer may break without progress.
    pub attempts: u32,
    /// The first pause; it doubles up to five seconds.
    pub first_pause: Duration,
    /// The most that one request waits in all because the registry asks for it.
    pub longest_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 5, first_pause: Duration::from_millis(250), longest_wait: Duration::from_secs(60) }
    }
}

impl Retry {
    /// The pause after the `failures`-th failure, counted from 1.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(Duration::from_secs(5))
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            docker_config: None,
            given: BTreeMap::new(),
            program_path: OsString::new(),
            certificate_directories: Vec::new(),
            ca_bundles: crate::tls::SYSTEM_BUNDLES.iter().map(PathBuf::from).collect(),
            registries: BTreeMap::new(),
            insecure_networks: Vec::new(),
            platform: Platform::host(),
            user_agent: concat!("robot-env/", env!("CARGO_PKG_VERSION")).to_owned(),
            time_outs: TimeOuts::default(),
            retry: Retry::default(),
            proxies: Proxies::default(),
        }
    }
}

/// [`ClientOptions`] as they were found, and what could not be understood on the way.
#[derive(Debug)]
pub struct Loaded {
    /// The options; what could not be understood is left out.
    pub options: ClientOptions,
    /// What could not be understood: to be shown, not to stop at.
    pub warnings: Vec<Error>,
}

impl ClientOptions {
    /// The options by the conventions of Docker and of this program:
    ///
    /// - credentials in `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`;
    /// - certificates in `/etc/docker/certs.d`, `/etc/robot-env/certs.d` and
    ///   `$XDG_CONFIG_HOME/robot-env/certs.d` (`~/.config` where unset), and the system's CA bundle
    ///   or `SSL_CERT_FILE`;
    /// - mirrors, insecure registries and proxies as `configuration` says;
    /// - proxies in `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in either case.
    ///
    /// `environment` is the program's environment and `home` the user's home directory. Both are
    /// given, so that nothing here depends on the process.
    pub fn from_environment<'a>(
        environment: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>,
        home: Option<&std::path::Path>,
        configuration: &Configuration,
    ) -> Loaded {
        let variables: BTreeMap<&OsStr, &OsStr> =
            environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let get = |name: &str| variables.get(OsStr::new(name)).copied();
        let mut options = ClientOptions::default();
        let mut warnings = Vec::new();

        options.docker_config = get("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".docker")))
            .map(|directory| directory.join(CONFIG_FILE));
        options.program_path = get("PATH").map(OsStr::to_owned).unwrap_or_default();
        if let Some(file) = get("SSL_CERT_FILE") {
            options.ca_bundles = vec![PathBuf::from(file)];
        }
        let user = get("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".config")))
            .map(|d| d.join("robot-env"));
        options.certificate_directories = [
            Some(PathBuf::from("/etc/docker/certs.d")),
            Some(PathBuf::from("/etc/robot-env/certs.d")),
            user.map(|d| d.join("certs.d")),
        ]
        .into_iter()
        .flatten()
        .collect();
        let text = |name: &str| get(name).and_then(OsStr::to_str).map(str::to_owned);
        let either = |lower: &str, upper: &str| text(lower).or_else(|| text(upper));
        let all = either("all_proxy", "ALL_PROXY");
        options.proxies = Proxies {
            http: text("http_proxy").or_else(|| all.clone()),
            https: either("https_proxy", "HTTPS_PROXY").or(all),
            none: either("no_proxy", "NO_PROXY").unwrap_or_default(),
        };
        settings::apply(configuration, &mut options, &mut warnings);
        Loaded { options, warnings }
    }

    /// Whether plain http may be spoken to `authority` (`host[:port]`) and its certificate is not
    /// checked: loopback addresses and what is set so.
    pub fn is_insecure(&self, authority: &str) -> bool {
        let (host, _) = split_port(authority);
        is_loopback(host)
            || self.registries.get(authority).is_some_and(|settings| settings.insecure)
            || ip_of(host)
                .is_some_and(|address| self.insecure_networks.iter().any(|network| network.contains(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (network, address, want) in [
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "1.2.3.4", false),
        ] {
            assert_eq!(
                network.parse::<Network>().unwrap().contains(address.parse().unwrap()),
                want,
                "{network} {address}"
            );
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn insecure_is_loopback_and_what_is_set() {
        let mut options = ClientOptions::default();
        options
            .registries
            .insert("lab:5000".into(), RegistrySettings { insecure: true, ..RegistrySettings::default() });
        options.insecure_networks.push("10.1.0.0/16".parse().unwrap());
        for (authority, want) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("[::1]:1", true),
            ("lab:5000", true),
            ("lab", false),
            ("10.1.2.3:5000", true),
            ("10.2.0.1", false),
            ("docker.io", false),
        ] {
            assert_eq!(options.is_insecure(authority), want, "{authority}");
        }
    }

    #[test]
    fn the_environment_enters_by_its_names() {
        let pairs = [
            ("DOCKER_CONFIG", "/d"),
            ("SSL_CERT_FILE", "/ca.pem"),
            ("HTTPS_PROXY", "http://p:3128"),
            ("NO_PROXY", "x"),
            ("XDG_CONFIG_HOME", "/nowhere/c"),
            ("PATH", "/bin"),
        ];
        let loaded = ClientOptions::from_environment(
            pairs.iter().map(|(k, v)| (OsStr::new(k), OsStr::new(v))),
            Some(std::path::Path::new("/nowhere/h")),
            &Configuration::default(),
        );
        let options = loaded.options;
        assert_eq!(options.docker_config, Some(PathBuf::from("/d/config.json")));
        assert_eq!(options.ca_bundles, [PathBuf::from("/ca.pem")]);
        assert_eq!(options.proxies.https.as_deref(), Some("http://p:3128"));
        assert_eq!((options.proxies.http, options.proxies.none.as_str()), (None, "x"));
        assert_eq!(
            options.certificate_directories.last(),
            Some(&PathBuf::from("/nowhere/c/robot-env/certs.d"))
        );
        let loaded = ClientOptions::from_environment(
            [],
            Some(std::path::Path::new("/nowhere/h")),
            &Configuration::default(),
        );
        assert_eq!(loaded.options.docker_config, Some(PathBuf::from("/nowhere/h/.docker/config.json")));
    }

    #[test]
    fn pauses_double_and_are_bounded() {
        let retry = Retry::default();
        let pauses: Vec<u128> = [1, 2, 3, 30, u32::MAX].map(|n| retry.pause(n).as_millis()).to_vec();
        assert_eq!(pauses, [250, 500, 1000, 5000, 5000]);
    }
}
