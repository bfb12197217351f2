//! What a client asks of the Dockerfile frontend, attribute by attribute.
//!
//! Source of the names: frontend/dockerui/config.go and context.go of BuildKit, build/opt.go of
//! buildx. An attribute that is not known is refused.

use std::collections::BTreeMap;

use robot_env_build::BuildRequest;
use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::Platform;
use robot_env_spec::{HostEntry, NetworkMode, Ulimit};

use super::messages::Attributes;

/// The parts of a request that are no [`BuildRequest`] yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// What is known of the request.
    pub(super) request: BuildRequest,
    /// The Dockerfile's name in its directory.
    pub(super) file: String,
    /// What the client calls the Dockerfile's directory; `None`: it is in the context.
    pub(super) file_directory: Option<String>,
    /// The context: what the client calls its directory, or an address.
    pub(super) context: ContextSource,
    /// Further contexts, by name.
    pub(super) contexts: BTreeMap<String, ContextSource>,
    /// Other sessions that have the files of a directory, by its name.
    pub(super) sessions: BTreeMap<String, String>,
    /// Caches of other builds: type and attributes.
    pub(super) caches: Vec<(String, BTreeMap<String, String>)>,
    /// Not an image is wanted, but an answer to a question about the Dockerfile.
    pub(super) question: Option<String>,
}

/// Where a context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContextSource {
    /// A directory of the client's, by the client's name.
    Local(String),
    /// Somewhere else: a git repository, an archive, what the client reads from its input.
    Address(String),
    /// An image.
    Image(String),
    /// What another build of the same client has made.
    Input(String),
}

impl Default for ContextSource {
    fn default() -> Self {
        ContextSource::Local("context".to_owned())
    }
}

impl Asked {
    /// Reads attributes. `entitlements` are rights that the client grants.
    pub(super) fn read(attributes: &Attributes, entitlements: &[String]) -> Result<Asked> {
        let mut asked = Asked { file: "Dockerfile".to_owned(), ..Asked::default() };
        let mut contextkey = None;
        let mut filekey = None;
        // In an order, so that of several mistakes always the same is told.
        let sorted: BTreeMap<&String, &String> = attributes.iter().collect();
        for (key, value) in sorted {
            match key.as_str() {
                "contextkey" => contextkey = Some(value.clone()),
                "dockerfilekey" => filekey = Some(value.clone()),
                "context" => asked.context = context_source(value)?,
                _ => asked.attribute(key, value)?,
            }
        }
        if let (Some(name), ContextSource::Local(known)) = (contextkey, &mut asked.context) {
            *known = name;
        }
        let local = matches!(asked.context, ContextSource::Local(_));
        asked.file_directory = filekey.or_else(|| local.then(|| "dockerfile".to_owned()));
        asked.allow(entitlements)?;
        let request = &mut asked.request;
        request.file_name.clone_from(&asked.file);
        if let Some(text) = request.arguments.get("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) {
            request.epoch = Some(text.parse().map_err(|_| {
                Error::invalid(format!("invalid SOURCE_DATE_EPOCH `{text}`: it must be a number of seconds"))
            })?);
        }
        Ok(asked)
    }

    fn attribute(&mut self, key: &str, value: &str) -> Result<()> {
        let bad = |why: &str| Error::invalid(format!("invalid value `{value}` for `{key}`: {why}"));
        let unsupported = |what: &str| Error::new(Kind::Unsupported, what.to_owned());
        let request = &mut self.request;
        if let Some((kind, name)) = key.split_once(':') {
            let name = name.to_owned();
            match kind {
                "build-arg" => drop(request.arguments.insert(name, value.to_owned())),
                "label" => drop(request.labels.insert(name, value.to_owned())),
                "context" => drop(self.contexts.insert(name, context_source(value)?)),
                "local-sessionid" => drop(self.sessions.insert(name, value.to_owned())),
                // What they say stands in attestations only, and in the config of inputs.
                "vcs" | "input-metadata" => {}
                "attest" => {
                    return Err(unsupported("attestations are not supported")
                        .with_hint("build with `--provenance=false --sbom=false`"));
                }
                _ => return Err(unsupported(&format!("the build attribute `{key}` is not supported"))),
            }
            return Ok(());
        }
        match key {
            "filename" => value.clone_into(&mut self.file),
            "target" => request.target = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "no-cache" if value.is_empty() => request.no_cache = true,
            "no-cache" => request.no_cache_filter = value.split(',').map(str::to_owned).collect(),
            "image-resolve-mode" => request.pull = value == "pull",
            "platform" => {
                let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
                request.platforms = words.map(str::parse::<Platform>).collect::<Result<_>>()?;
                if request.platforms.len() == 1 {
                    request.platform = request.platforms.pop();
                }
            }
            "multi-platform" => {
                if !matches!(value, "" | "false" | "0") {
                    return Err(unsupported("an index of one platform is not supported"));
                }
            }
            "force-network-mode" => {
                request.network = match value {
                    "" | "sandbox" | "default" => NetworkMode::Default,
                    "host" => NetworkMode::Host,
                    "none" => NetworkMode::None,
                    _ => return Err(bad("there are sandbox, host and none")),
                }
            }
            "add-hosts" => {
                for word in value.split(',').filter(|word| !word.is_empty()) {
                    let (name, address) =
                        word.split_once('=').ok_or_else(|| bad("it must be like NAME=ADDRESS"))?;
                    let address = address.trim_start_matches('[').trim_end_matches(']');
                    request
                        .run
                        .add_hosts
                        .push(HostEntry { name: name.to_owned(), address: address.to_owned() });
                }
            }
            "shm-size" => {
                request.run.shm_size = Some(value.parse().map_err(|_| bad("it must be a number of bytes"))?);
            }
            "ulimit" => {
                request.run.ulimits = value
                    .split(',')
                    .filter(|word| !word.is_empty())
                    .map(|word| ulimit(word).ok_or_else(|| bad("it must be like NAME=SOFT:HARD")))
                    .collect::<Result<_>>()?;
            }
            "cgroup-parent" => {
                if !value.is_empty() {
                    request.run.cgroup_parent = Some(value.to_owned());
                }
            }
            "memory" | "memswap" | "cpushares" | "cpuperiod" | "cpuquota" => {
                let number: i64 = value.parse().map_err(|_| bad("it must be a number"))?;
                let limits = &mut request.run.resources;
                match key {
                    "memory" => limits.memory = Some(number),
                    "memswap" => limits.memory_swap = Some(number),
                    "cpushares" => limits.cpu_shares = Some(number.max(0) as u64),
                    "cpuperiod" => limits.cpu_period = Some(number.max(0) as u64),
                    _ => limits.cpu_quota = Some(number),
                }
            }
            "cpusetcpus" => request.run.resources.cpuset_cpus = Some(value.to_owned()),
            "cpusetmems" => request.run.resources.cpuset_mems = Some(value.to_owned()),
            "cache-imports" => {
                #[derive(serde::Deserialize)]
                #[serde(rename_all = "PascalCase")]
                struct Entry {
                    r#type: String,
                    #[serde(default)]
                    attrs: BTreeMap<String, String>,
                }
                let entries: Vec<Entry> =
                    serde_json::from_str(value).map_err(|_| bad("it is no list of caches"))?;
                self.caches.extend(entries.into_iter().map(|entry| (entry.r#type, entry.attrs)));
            }
            "cache-from" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                self.caches.extend(
                    names.map(|name| ("registry".to_owned(), [("ref".to_owned(), name.to_owned())].into())),
                );
            }
            "requestid" => self.question = Some(value.to_owned()),
            // Which of its features a client uses: they are known by their own attributes.
            "frontend.caps" => {}
            "source" | "cmdline" => {
                return Err(unsupported(
                    "frontends in images are not supported: the builder reads Dockerfiles itself",
                )
                .with_hint("build without the build argument BUILDKIT_SYNTAX"));
            }
            "hostname" => return Err(unsupported("a build's containers have no hostname of their own")),
            _ => return Err(unsupported(&format!("the build attribute `{key}` is not supported"))),
        }
        Ok(())
    }

    /// Rights that the client grants to a build.
    pub(super) fn allow(&mut self, entitlements: &[String]) -> Result<()> {
        for right in entitlements {
            match right.as_str() {
                "security.insecure" => self.request.run.privileged = true,
                "network.host" => {}
                _ => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!(
                            "the right `{right}` is not known: there are security.insecure and network.host"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn context_source(text: &str) -> Result<ContextSource> {
    Ok(if let Some(name) = text.strip_prefix("local:") {
        ContextSource::Local(name.to_owned())
    } else if let Some(name) = text.strip_prefix("docker-image://") {
        ContextSource::Image(name.to_owned())
    } else if let Some(name) = text.strip_prefix("input:") {
        ContextSource::Input(name.to_owned())
    } else if text.starts_with("oci-layout://") {
        return Err(Error::new(Kind::Unsupported, "OCI layouts as contexts are not supported")
            .with_hint("load the image, and name it by docker-image://"));
    } else {
        ContextSource::Address(text.to_owned())
    })
}

/// `NAME=SOFT[:HARD]`
fn ulimit(text: &str) -> Option<Ulimit> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)], entitlements: &[&str]) -> Result<Asked> {
        let attributes = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let entitlements: Vec<String> = entitlements.iter().map(|right| (*right).to_owned()).collect();
        Asked::read(&attributes, &entitlements)
    }

    #[test]
    fn attributes_of_buildx() {
        let asked = read(
            &[
                ("filename", "Dockerfile.dev"),
                ("build-arg:A", "1"),
                ("build-arg:SOURCE_DATE_EPOCH", "42"),
                ("label:a.b", "c"),
                ("target", "dev"),
                ("no-cache", ""),
                ("platform", "linux/arm64"),
                ("add-hosts", "a=1.2.3.4,b=[::1]"),
                ("shm-size", "1024"),
                ("ulimit", "nofile=10:20,core=0"),
                ("force-network-mode", "host"),
                ("image-resolve-mode", "pull"),
                ("context:base", "docker-image://alpine:3"),
                ("context:other", "local:other"),
                ("local-sessionid:context", "xyz"),
                ("cache-imports", r#"[{"Type":"local","Attrs":{"src":"x"}}]"#),
                ("frontend.caps", "moby.buildkit.frontend.contexts+forward"),
                ("vcs:source", "x"),
            ],
            &["network.host", "security.insecure"],
        )
        .unwrap();
        let request = &asked.request;
        assert_eq!(
            (asked.file.as_str(), asked.file_directory.as_deref()),
            ("Dockerfile.dev", Some("dockerfile"))
        );
        assert_eq!(asked.context, ContextSource::Local("context".into()));
        assert_eq!(request.arguments["A"], "1");
        assert_eq!((request.epoch, request.target.as_deref()), (Some(42), Some("dev")));
        assert!(request.no_cache && request.pull && request.run.privileged);
        assert_eq!(request.network, NetworkMode::Host);
        assert_eq!(request.run.add_hosts[1], HostEntry { name: "b".into(), address: "::1".into() });
        assert_eq!(request.run.ulimits.len(), 2);
        assert_eq!((request.run.ulimits[0].soft, request.run.ulimits[0].hard), (10, 20));
        assert_eq!(asked.contexts["base"], ContextSource::Image("alpine:3".into()));
        assert_eq!(asked.contexts["other"], ContextSource::Local("other".into()));
        assert_eq!((asked.sessions["context"].as_str(), asked.caches.len()), ("xyz", 1));
    }

    #[test]
    fn a_remote_context_has_its_own_dockerfile() {
        let asked = read(&[("context", "https://example.com/a.git")], &[]).unwrap();
        assert_eq!(asked.file_directory, None);
        let asked =
            read(&[("context", "https://example.com/a.git"), ("dockerfilekey", "dockerfile")], &[]).unwrap();
        assert_eq!(asked.file_directory.as_deref(), Some("dockerfile"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (key, value) in [
            ("attest:provenance", "mode=max"),
            ("platform", "linux/amd64,?"),
            ("multi-platform", "true"),
            ("context:x", "oci-layout://x"),
            ("ulimit", "nofile"),
            ("shm-size", "1g"),
            ("cache-imports", "x"),
            ("source", "docker/dockerfile:1"),
            ("new-thing", "1"),
            ("new:thing", "1"),
            ("build-arg:SOURCE_DATE_EPOCH", "soon"),
            ("force-network-mode", "vlan"),
        ] {
            assert!(read(&[(key, value)], &[]).is_err(), "{key}");
        }
        assert!(read(&[], &["device"]).is_err());
    }
}
