//! The parameters of `POST /build`.

use std::collections::BTreeMap;

use robot_env_build::{BuildRequest, Cancel, Files};
use robot_env_oci::{Platform, Reference};
use robot_env_spec::{ContainerSpec, NetworkMode};
use robot_env_wire::{HostConfigRequest, ResourcesRequest, UlimitRequest};
use serde::de::DeserializeOwned;

use crate::containers::{conversion, limits};
use crate::failure::{Failure, Result};
use crate::query::Query;

/// What a client asks for.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// The Dockerfile, if it is not where it is by default.
    pub(super) dockerfile: Option<String>,
    /// The address of the files, if they are not the request's body.
    pub(super) remote: Option<String>,
    /// Whether only the image's id is told.
    pub(super) quiet: bool,
    /// The build's name, for `/build/cancel`.
    pub(super) id: Option<String>,
    request: BuildRequest,
}

/// A value that is a JSON document.
fn document<T: DeserializeOwned + Default>(query: &Query, key: &str) -> Result<T> {
    match query.text(key) {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str::<Option<T>>(text)
            .map(Option::unwrap_or_default)
            .map_err(|error| Failure::new(400, format!("invalid value for {key}: {error}"))),
    }
}

/// A list, as one JSON document or as a value each.
fn list(query: &Query, key: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for text in query.all(key).filter(|text| !text.is_empty()) {
        if text.starts_with('[') {
            let some: Vec<String> = serde_json::from_str(text)
                .map_err(|error| Failure::new(400, format!("invalid value for {key}: {error}")))?;
            all.extend(some);
        } else {
            all.push(text.to_owned());
        }
    }
    Ok(all)
}

impl Parameters {
    /// Reads a query. What cannot be done is refused; `rm` and `forcerm` say what always happens, and
    /// `cachefrom` names images whose steps are in the cache already if they were built here.
    pub(super) fn of(query: &Query) -> Result<Parameters> {
        match query.text("version") {
            None | Some("1") => {}
            Some("2") => {
                return Err(Failure::new(
                    501,
                    "cannot build by BuildKit's protocol: set DOCKER_BUILDKIT=0 to build without it",
                ));
            }
            Some(other) => return Err(Failure::new(400, format!("invalid version {other} of the builder"))),
        }
        if let Some(word) = query.text("isolation").filter(|word| *word != "default") {
            return Err(Failure::new(400, format!("unsupported isolation: \"{word}\"")));
        }
        if query.text("outputs").is_some_and(|text| !matches!(text, "[]" | "null")) {
            return Err(Failure::new(400, "outputs are only supported by BuildKit"));
        }
        let names = query.all("t").filter(|name| !name.is_empty()).map(|name| {
            let reference: Reference = name.parse()?;
            if reference.digest().is_some() {
                return Err(Failure::new(400, "build tag cannot contain a digest"));
            }
            Ok(reference.or_latest())
        });
        let names = names.collect::<Result<Vec<_>>>()?;
        let arguments: BTreeMap<String, Option<String>> = document(query, "buildargs")?;
        // One without a value is the client's to fill in: here it has none.
        let arguments: BTreeMap<String, String> =
            arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let epoch = arguments
            .get("SOURCE_DATE_EPOCH")
            .filter(|text| !text.is_empty())
            .map(|text| text.parse::<i64>())
            .transpose()
            .map_err(|_| Failure::new(400, "invalid SOURCE_DATE_EPOCH: it must be a number of seconds"))?;
        let cached: Vec<String> = document(query, "cachefrom")?;
        for name in &cached {
            name.parse::<Reference>()?;
        }
        Ok(Parameters {
            dockerfile: query.text("dockerfile").map(str::to_owned),
            remote: query.text("remote").map(str::to_owned),
            quiet: query.truth("q"),
            id: query.text("buildid").map(str::to_owned),
            request: BuildRequest {
                target: query.text("target").map(str::to_owned),
                arguments,
                labels: document(query, "labels")?,
                platform: query.text("platform").map(str::parse::<Platform>).transpose()?,
                no_cache: query.truth("nocache"),
                squash: query.truth("squash"),
                pull: query.truth("pull"),
                network: network(query.text("networkmode")),
                run: run(query)?,
                names,
                epoch,
                ..BuildRequest::default()
            },
        })
    }

    /// What is to be built of these files.
    pub(super) fn request(self, files: &Files, cancel: Cancel) -> BuildRequest {
        BuildRequest {
            dockerfile: files.dockerfile.clone(),
            file_name: files.file_name.clone(),
            context: files.context.clone(),
            ignore: files.ignore.clone(),
            ignore_name: files.ignore_name.clone(),
            cancel: Some(cancel),
            ..self.request
        }
    }
}

fn network(word: Option<&str>) -> NetworkMode {
    match word {
        None | Some("default" | "bridge") => NetworkMode::Default,
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        Some(other) => match other.strip_prefix("container:") {
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => NetworkMode::Network(other.to_owned()),
        },
    }
}

/// What every `RUN` gets.
fn run(query: &Query) -> Result<ContainerSpec> {
    let number = |key: &str| Ok::<_, Failure>(query.number(key)?.unwrap_or(0));
    let text = |key: &str| query.text(key).unwrap_or_default().to_owned();
    let ulimits: Vec<UlimitRequest> = document(query, "ulimits")?;
    let wanted = ResourcesRequest {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: u64::try_from(number("cpushares")?)
            .map_err(|_| Failure::new(400, "invalid value for cpushares: it is negative"))?,
        cpu_period: u64::try_from(number("cpuperiod")?)
            .map_err(|_| Failure::new(400, "invalid value for cpuperiod: it is negative"))?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        ulimits,
        ..ResourcesRequest::default()
    };
    let security =
        HostConfigRequest { security_opt: list(query, "securityopt")?, ..HostConfigRequest::default() };
    let hosts = list(query, "extrahosts")?;
    let shm_size = u64::try_from(number("shmsize")?)
        .map_err(|_| Failure::new(400, "SHM size can not be less than 0"))?;
    Ok(ContainerSpec {
        add_hosts: hosts.iter().map(|text| conversion::host_entry(text)).collect::<Result<_>>()?,
        ulimits: limits::ulimits(&wanted)?,
        resources: limits::resources(&wanted)?,
        security: conversion::security(&security)?,
        shm_size: Some(shm_size).filter(|size| *size > 0),
        cgroup_parent: query.text("cgroupparent").map(str::to_owned),
        ..ContainerSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_as_clients_send_them() {
        let text = "t=a&t=b%3A1&dockerfile=d%2FDockerfile&q=False&nocache=1&pull=true&rm=1&forcerm=0\
            &buildargs=%7B%22A%22%3A%22b%22%2C%22C%22%3Anull%7D&labels=%7B%22x%22%3A%22y%22%7D&target=t\
            &networkmode=host&extrahosts=%5B%22h%3A1.2.3.4%22%5D&extrahosts=i%3A1.2.3.5&shmsize=4096\
            &memory=8388608&memswap=-1&cpushares=2&cpusetcpus=0\
            &ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D\
            &platform=linux%2Famd64&cachefrom=%5B%22a%3A1%22%5D&version=1";
        let found = Parameters::of(&Query::parse(text)).unwrap();
        let request = &found.request;
        assert_eq!(found.dockerfile.as_deref(), Some("d/Dockerfile"));
        let names: Vec<String> = request.names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:latest", "b:1"]);
        assert!(request.no_cache && request.pull && !found.quiet);
        assert_eq!(request.arguments, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
        assert_eq!((request.labels["x"].as_str(), request.target.as_deref()), ("y", Some("t")));
        assert_eq!(request.network, NetworkMode::Host);
        let run = &request.run;
        assert_eq!(run.add_hosts.len(), 2);
        assert_eq!(
            (run.shm_size, run.resources.memory, run.resources.memory_swap),
            (Some(4096), Some(8 << 20), Some(-1))
        );
        assert_eq!((run.ulimits[0].soft, run.ulimits[0].hard), (1, 2));
        assert!(!Parameters::of(&Query::parse("buildargs=null&cachefrom=null&labels=")).unwrap().quiet);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (text, status) in [
            ("version=2", 501),
            ("version=3", 400),
            ("isolation=hyperv", 400),
            ("outputs=%5B%7B%7D%5D", 400),
            ("t=A", 400),
            ("t=a%40sha256%3A0123456789012345678901234567890123456789012345678901234567890123", 400),
            ("buildargs=x", 400),
            ("labels=%5B%5D", 400),
            ("memory=x", 400),
            ("memory=1", 400),
            ("cpushares=-1", 400),
            ("extrahosts=x", 400),
            ("securityopt=x", 400),
            ("platform=a%2Fb%2Fc%2Fd%2Fe", 400),
            ("cachefrom=%5B%22A%22%5D", 400),
        ] {
            assert_eq!(
                Parameters::of(&Query::parse(text)).map_err(|f| f.status).err(),
                Some(status),
                "{text}"
            );
        }
    }
}
