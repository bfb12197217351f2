//! The keys: those of Docker's `daemon.json`, and those of our own.

use crate::ranges;
use crate::value::{Data, Position, Value};

/// What a key means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is in force.
    InForce,
    /// Only `config.toml` has it; it is in force.
    OurOwn,
    /// It is right and has no effect: it is about Docker's daemon, or about something that is done
    /// another way here. The text says which.
    None(&'static str),
}

/// What a key's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Truth,
    /// A text.
    Text,
    /// An absolute path.
    Path,
    /// One of these texts.
    Word(&'static [&'static str]),
    /// A whole number from 0 on.
    Number,
    /// Bytes: a number, or a text like `64M`.
    Bytes,
    /// A time: 0, or a text like `24h`.
    Time,
    /// A list of texts.
    Texts,
    /// A list of IP addresses.
    Addresses,
    /// An IP address.
    Address,
    /// An IP address with a prefix: `10.1.2.1/24`.
    Cidr,
    /// `[{ base = "10.1.0.0/16", size = 24 }]`
    Pools,
    /// `DRIVER = { OPTION = "..." }`
    DriverOptions,
    /// A section of texts.
    Map,
    /// `NAME = { path = "...", runtimeArgs = [...] }`.
    Runtimes,
    /// `NAME = { Soft = 1, Hard = 2 }`, as Docker writes it.
    Limits,
    /// `http-proxy`, `https-proxy`, `no-proxy`.
    Proxies,
    /// `"host:port" = { mirrors = [...], insecure = true }`.
    Registries,
    /// Anything: nobody here reads it.
    Any,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// What it means here.
    pub meaning: Meaning,
    /// What holds where nothing is said, for people.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
}

const fn used(name: &'static str, shape: Shape, default: &'static str, about: &'static str) -> Key {
    Key { name, shape, meaning: Meaning::InForce, default, about }
}

const fn own(name: &'static str, shape: Shape, default: &'static str, about: &'static str) -> Key {
    Key { name, shape, meaning: Meaning::OurOwn, default, about }
}

const fn none(name: &'static str, why: &'static str) -> Key {
    Key { name, shape: Shape::Any, meaning: Meaning::None(why), default: "", about: "" }
}

const DAEMON: &str = "it is about Docker's daemon, and there is none";
const SWARM: &str = "it is about swarms";
const BRIDGE: &str = "bridges and rules are the engine's own";
const STORE: &str = "images are stored another way";
const ALWAYS: &str = "containers outlive every command anyway";

/// Every key that is known; those in force first.
pub const KEYS: &[Key] = &[
    used("data-root", Shape::Path, "", "where images, containers and volumes are kept"),
    used("registry-mirrors", Shape::Texts, "[]", "mirrors of docker.io, in the order they are asked"),
    used("insecure-registries", Shape::Texts, "[]", "hosts and networks that may speak plain http"),
    own("registry", Shape::Registries, "{}", "mirrors and insecurity of any registry"),
    own(
        "undo-time",
        Shape::Time,
        "\"24h\"",
        "how long what was removed can come back by `undo`; 0: not at all",
    ),
    used("proxies", Shape::Proxies, "{}", "proxies for pulls and pushes"),
    used("default-runtime", Shape::Text, "\"robot-env\"", "the OCI runtime where --runtime is not given"),
    used("runtimes", Shape::Runtimes, "{}", "OCI runtimes by name"),
    used("log-driver", Shape::Word(&["json-file", "local", "none"]), "\"json-file\"", "where output goes"),
    used("log-opts", Shape::Map, "{}", "max-size and max-file of logs"),
    used("default-ulimits", Shape::Limits, "{}", "resource limits of containers"),
    used("default-shm-size", Shape::Bytes, "\"64M\"", "size of /dev/shm"),
    used("default-cgroupns-mode", Shape::Word(&["private", "host"]), "", "cgroup namespace of containers"),
    used("default-ipc-mode", Shape::Word(&["private", "shareable"]), "\"private\"", "IPC namespace"),
    used("dns", Shape::Addresses, "[]", "name servers of containers"),
    used("dns-opts", Shape::Texts, "[]", "resolver options of containers"),
    used("dns-search", Shape::Texts, "[]", "search domains of containers"),
    used("default-address-pools", Shape::Pools, "", "ranges that networks are cut from"),
    used("default-network-opts", Shape::DriverOptions, "{}", "options of new networks, by driver"),
    used("bip", Shape::Cidr, "", "address and subnet of the network bridge"),
    used("bip6", Shape::Cidr, "", "the same for IPv6"),
    used("fixed-cidr", Shape::Cidr, "", "addresses of the network bridge's containers"),
    used("fixed-cidr-v6", Shape::Cidr, "", "the same for IPv6"),
    used("ipv6", Shape::Truth, "false", "addresses of IPv6 in the network bridge"),
    used("mtu", Shape::Number, "", "mtu of the network bridge"),
    used("icc", Shape::Truth, "true", "containers in the network bridge reach each other"),
    used("ip-masq", Shape::Truth, "true", "they leave by the host's address"),
    used("ip", Shape::Address, "\"0.0.0.0\"", "address of the host where ports are published"),
    used("host-gateway-ip", Shape::Address, "", "what host-gateway means in --add-host"),
    used("host-gateway-ips", Shape::Addresses, "", "the same; the first one of IPv4 counts"),
    used("init", Shape::Truth, "false", "a small init as pid 1"),
    used("no-new-privileges", Shape::Truth, "false", "set-user-id programs gain nothing"),
    used("seccomp-profile", Shape::Text, "\"builtin\"", "a file with the filter of system calls"),
    used("cgroup-parent", Shape::Text, "\"robot-env\"", "the cgroup above those of containers"),
    none("allow-nondistributable-artifacts", STORE),
    none("allow-direct-routing", BRIDGE),
    none("api-cors-header", DAEMON),
    none("authorization-plugins", DAEMON),
    none("bridge", BRIDGE),
    none("bridge-accept-fwmark", BRIDGE),
    none("builder", "what a build leaves is pruned by `builder prune`"),
    none("cdi-spec-dirs", "CDI files are read from /etc/cdi and /var/run/cdi"),
    none("cluster-advertise", SWARM),
    none("cluster-store", SWARM),
    none("cluster-store-opts", SWARM),
    none("containerd", DAEMON),
    none("containerd-namespace", DAEMON),
    none("containerd-plugins-namespace", DAEMON),
    none("cpu-rt-period", "real-time budgets are given to each container"),
    none("cpu-rt-runtime", "real-time budgets are given to each container"),
    none("cri-containerd", DAEMON),
    none("debug", DAEMON),
    none("default-gateway", BRIDGE),
    none("default-gateway-v6", BRIDGE),
    none("deprecated-key-path", DAEMON),
    none("exec-opts", "control groups are written to directly"),
    none("exec-root", "it is named by --run-root"),
    none("experimental", DAEMON),
    none("features", STORE),
    none("firewall-backend", BRIDGE),
    none("graph", STORE),
    none("group", DAEMON),
    none("hosts", DAEMON),
    none("init-path", "the init is built in"),
    none("ip-forward", BRIDGE),
    none("ip-forward-no-drop", BRIDGE),
    none("ip6tables", BRIDGE),
    none("iptables", BRIDGE),
    none("labels", DAEMON),
    none("live-restore", ALWAYS),
    none("log-format", DAEMON),
    none("log-level", DAEMON),
    none("max-concurrent-downloads", "transfers choose by themselves how many run at once"),
    none("max-concurrent-uploads", "transfers choose by themselves how many run at once"),
    none("max-download-attempts", "transfers go on as long as they make progress"),
    none("metrics-addr", DAEMON),
    none("min-api-version", DAEMON),
    none("network-control-plane-mtu", SWARM),
    none("node-generic-resources", SWARM),
    none("oom-score-adjust", DAEMON),
    none("pidfile", DAEMON),
    none("raw-logs", DAEMON),
    none("rootless", DAEMON),
    none("selinux-enabled", "SELinux labels are not supported"),
    none("shutdown-timeout", ALWAYS),
    none("storage-driver", STORE),
    none("storage-opts", STORE),
    none("swarm-default-advertise-addr", SWARM),
    none("tls", DAEMON),
    none("tlscacert", DAEMON),
    none("tlscert", DAEMON),
    none("tlskey", DAEMON),
    none("tlsverify", DAEMON),
    none("userland-proxy", BRIDGE),
    none("userland-proxy-path", BRIDGE),
    none("userns-remap", "an ordinary user's engine maps users by itself"),
];

impl Key {
    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }
}

/// A place and what is wrong there.
pub(crate) type Wrong = (Position, String);

impl Shape {
    /// What such a value is, for messages.
    pub fn describe(self) -> String {
        match self {
            Shape::Truth => "true or false".into(),
            Shape::Text => "a text".into(),
            Shape::Path => "an absolute path".into(),
            Shape::Word(words) => format!("one of {}", words.join(", ")),
            Shape::Number => "a whole number from 0 on".into(),
            Shape::Bytes => "a size like \"64M\"".into(),
            Shape::Time => "0 or a time like \"24h\" or \"1h30m\"".into(),
            Shape::Texts => "a list of texts".into(),
            Shape::Addresses => "a list of IP addresses".into(),
            Shape::Address => "an IP address".into(),
            Shape::Cidr => "an IP address with a prefix like \"10.1.2.1/24\"".into(),
            Shape::Pools => "a list of ranges with `base` and `size`".into(),
            Shape::DriverOptions => "a section of drivers".into(),
            Shape::Map => "a section of texts".into(),
            Shape::Runtimes => "a section of runtimes".into(),
            Shape::Limits => "a section of limits".into(),
            Shape::Proxies | Shape::Registries => "a section".into(),
            Shape::Any => "anything".into(),
        }
    }

    /// What is wrong with `value` as a value of `name`; nothing is left of a value with a fault.
    pub(crate) fn check(self, name: &str, value: &Value) -> Vec<Wrong> {
        let wrong = |value: &Value| (value.at, format!("`{name}` must be {}", self.describe()));
        let texts = |value: &Value, good: &dyn Fn(&str) -> bool| -> Vec<Wrong> {
            let Some(items) = value.items() else { return vec![wrong(value)] };
            items.iter().filter(|item| !item.text().is_some_and(good)).map(wrong).collect()
        };
        let good = match self {
            Shape::Any => true,
            Shape::Truth => value.truth().is_some(),
            Shape::Text => value.text().is_some(),
            Shape::Path => value.text().is_some_and(|path| path.starts_with('/')),
            Shape::Word(words) => value.text().is_some_and(|word| words.contains(&word)),
            Shape::Number => value.integer().is_some_and(|number| number >= 0),
            Shape::Bytes => ranges::bytes(value).is_some(),
            Shape::Time => ranges::duration(value).is_some(),
            Shape::Texts => return texts(value, &|_| true),
            Shape::Addresses => return texts(value, &|text| text.parse::<std::net::IpAddr>().is_ok()),
            Shape::Address => value.text().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
            Shape::Cidr => value.text().is_some_and(|text| ranges::prefix(text).is_some()),
            Shape::Pools => return pools(name, value),
            Shape::DriverOptions => {
                let Some(entries) = value.entries() else { return vec![wrong(value)] };
                let name = |driver: &str| format!("{name}.{driver}");
                return entries.iter().flat_map(|e| Shape::Map.check(&name(&e.key), &e.value)).collect();
            }
            Shape::Map => {
                let Some(entries) = value.entries() else { return vec![wrong(value)] };
                let scalar =
                    |value: &Value| !matches!(value.data, Data::List(_) | Data::Table(_) | Data::Null);
                return entries
                    .iter()
                    .filter(|entry| !scalar(&entry.value))
                    .map(|entry| (entry.value.at, format!("`{name}.{}` must be a text", entry.key)))
                    .collect();
            }
            Shape::Proxies => {
                const KNOWN: [(&str, Shape); 3] =
                    [("http-proxy", Shape::Text), ("https-proxy", Shape::Text), ("no-proxy", Shape::Text)];
                return section(name, value, &KNOWN);
            }
            Shape::Runtimes => {
                const KNOWN: [(&str, Shape); 4] = [
                    ("path", Shape::Text),
                    ("runtimeArgs", Shape::Texts),
                    ("runtimeType", Shape::Text),
                    ("options", Shape::Any),
                ];
                return sections(name, value, &KNOWN);
            }
            Shape::Limits => return limits(name, value),
            Shape::Registries => {
                const KNOWN: [(&str, Shape); 2] = [("mirrors", Shape::Texts), ("insecure", Shape::Truth)];
                return sections(name, value, &KNOWN);
            }
        };
        if good { Vec::new() } else { vec![wrong(value)] }
    }
}

fn pools(name: &str, value: &Value) -> Vec<Wrong> {
    let Some(items) = value.items() else {
        return vec![(value.at, format!("`{name}` must be {}", Shape::Pools.describe()))];
    };
    let mut out = Vec::new();
    for item in items {
        let known = [("base", Shape::Cidr), ("size", Shape::Number)];
        out.extend(section(name, item, &known));
        let base = item.get("base").and_then(Value::text).and_then(ranges::prefix);
        let size = item.get("size").and_then(Value::integer);
        match (base, size) {
            (Some((address, prefix)), Some(size)) => {
                let most = if address.is_ipv6() { 128 } else { 32 };
                if size < i64::from(prefix) || size > most {
                    out.push((item.at, format!("`{name}`: a size of {size} does not fit into the base")));
                }
            }
            _ if item.get("base").is_none() || item.get("size").is_none() => {
                out.push((item.at, format!("`{name}` must be {}", Shape::Pools.describe())));
            }
            _ => {}
        }
    }
    out
}

/// A section whose keys are `known`.
fn section(name: &str, value: &Value, known: &[(&str, Shape)]) -> Vec<Wrong> {
    let Some(entries) = value.entries() else {
        return vec![(value.at, format!("`{name}` must be a section"))];
    };
    let mut out = Vec::new();
    for entry in entries {
        let full = format!("{name}.{}", entry.key);
        match known.iter().find(|(key, _)| *key == entry.key) {
            Some((_, shape)) => out.extend(shape.check(&full, &entry.value)),
            None => {
                let names: Vec<&str> = known.iter().map(|(key, _)| *key).collect();
                out.push((entry.at, format!("unknown key `{full}`; known are {}", names.join(", "))));
            }
        }
    }
    out
}

/// A section of such sections.
fn sections(name: &str, value: &Value, known: &[(&str, Shape)]) -> Vec<Wrong> {
    match value.entries() {
        Some(entries) => entries
            .iter()
            .flat_map(|entry| section(&format!("{name}.{}", entry.key), &entry.value, known))
            .collect(),
        None => vec![(value.at, format!("`{name}` must be a section"))],
    }
}

/// The names of the kernel's resource limits, as `--ulimit` has them.
pub const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn limits(name: &str, value: &Value) -> Vec<Wrong> {
    let known = [("Name", Shape::Text), ("Hard", Shape::Any), ("Soft", Shape::Any)];
    let mut out = sections(name, value, &known);
    for entry in value.entries().unwrap_or_default() {
        if !LIMITS.contains(&entry.key.as_str()) {
            let message = format!("there is no limit `{}`; the limits are {}", entry.key, LIMITS.join(", "));
            out.push((entry.at, message));
        }
        for part in ["Soft", "Hard"] {
            match entry.value.get(part) {
                Some(number) if number.integer().is_some_and(|number| number >= -1) => {}
                Some(other) => {
                    out.push((other.at, format!("`{name}.{}.{part}` must be a whole number", entry.key)));
                }
                None => out.push((entry.at, format!("`{name}.{}` needs `{part}`", entry.key))),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_there_twice() {
        let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn addresses_of_networks_are_checked() {
        let text = r#"{"bip": "10.1.0.1", "fixed-cidr": "10.1.0.0/33", "mtu": -1, "ip": "lan", "icc": 1,
            "default-address-pools": [{"base": "10.0.0.0/16", "size": 8}, {"base": "10.0.0.0/16"}, {"bas": 1, "size": 24}],
            "default-network-opts": {"bridge": {"x": []}, "macvlan": 3}}"#;
        let value = crate::json::parse(text, false).unwrap();
        let found = |name: &str| -> Vec<String> {
            let key = Key::find(name).unwrap();
            key.shape.check(name, value.get(name).unwrap()).into_iter().map(|(_, message)| message).collect()
        };
        for (name, count, says) in [
            ("bip", 1, "`bip` must be an IP address with a prefix"),
            ("fixed-cidr", 1, "with a prefix"),
            ("mtu", 1, "a whole number"),
            ("ip", 1, "`ip` must be an IP address"),
            ("icc", 1, "true or false"),
            ("default-address-pools", 4, "a size of 8 does not fit into the base"),
            ("default-network-opts", 2, "`default-network-opts.bridge.x` must be a text"),
        ] {
            let messages = found(name);
            assert_eq!(messages.len(), count, "{messages:?}");
            assert!(messages[0].contains(says), "{messages:?}");
        }
    }

    #[test]
    fn values_are_checked_by_shape() {
        let text = r#"{"init": "yes", "dns": ["1.1.1.1", "x"], "log-opts": {"max-size": "1m", "x": []},
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": "a"}, "core": {"Soft": 0}, "nofiles": {"Soft": 0, "Hard": 0}},
            "runtimes": {"a": {"path": "/x", "runtimeArgs": ["--y"]}, "b": {"paht": "/x"}},
            "default-shm-size": "1q", "log-driver": "syslog", "data-root": "here", "proxies": {"no-proxy": 1}}"#;
        let document = crate::json::parse(text, false).unwrap();
        let mut found: Vec<String> = Vec::new();
        for entry in document.entries().unwrap() {
            let shape = Key::find(&entry.key).unwrap().shape;
            found.extend(shape.check(&entry.key, &entry.value).into_iter().map(|(_, message)| message));
        }
        assert_eq!(
            found,
            [
                "`init` must be true or false",
                "`dns` must be a list of IP addresses",
                "`log-opts.x` must be a text",
                "`default-ulimits.nofile.Soft` must be a whole number",
                "`default-ulimits.core` needs `Hard`",
                "there is no limit `nofiles`; the limits are as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack",
                "unknown key `runtimes.b.paht`; known are path, runtimeArgs, runtimeType, options",
                "`default-shm-size` must be a size like \"64M\"",
                "`log-driver` must be one of json-file, local, none",
                "`data-root` must be an absolute path",
                "`proxies.no-proxy` must be a text",
            ]
        );
    }
}
