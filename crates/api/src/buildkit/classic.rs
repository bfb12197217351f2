//! `POST /build?version=2`: how Docker 18.09 to 22 build with `DOCKER_BUILDKIT=1`. The session is the same;
//! what is asked for stands in the query, and what is told comes as JSON lines with BuildKit's messages
//! in them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::bridge::{self, Asking};
use super::job::CancelGuard;
use super::messages::Attributes;
use super::messages::control::{Exporter, SolveRequest};
use crate::failure::{Failure, Result};
use crate::http::{Reply, channel};
use crate::query::Query;
use crate::routes::Call;

/// What stands for a context that the client sends on its session.
const SESSION: &str = "client-session";

/// `POST /build?version=2`
pub(crate) fn build(call: &Call<'_, '_>) -> Result<Reply> {
    let request = request(&call.query)?;
    let server = call.server;
    let asking = Asking {
        frontend: request.frontend.clone(),
        attributes: request.attributes.clone(),
        inputs: request.inputs.clone(),
    };
    let begun = server.builds.jobs.begin(request);
    let job = begun.map_err(|status| Failure::new(400, status.message))?;
    let (feed, stream) = channel();
    job.progress.listen();
    tokio::spawn(async move {
        let _guard = CancelGuard(&job);
        let line = |value: Value| format!("{value}\r\n").into_bytes();
        let built = async {
            let built = bridge::build(server, &job, asking).await;
            job.progress.end();
            built
        };
        let told = async {
            while let Some(message) = job.progress.next().await {
                let trace = STANDARD.encode(message.encode_to_vec());
                if feed.send(line(json!({ "id": "moby.buildkit.trace", "aux": trace }))).await.is_err() {
                    break;
                }
            }
        };
        let built = tokio::select! {
            (built, ()) = async { tokio::join!(built, told) } => built,
            // The client has gone: dropping the guard ends the build.
            () = feed.closed() => return,
        };
        let last = match built {
            Ok(solved) => match solved.attributes.get("containerimage.config.digest") {
                Some(id) => json!({ "id": "moby.image.id", "aux": { "ID": id } }),
                None => return,
            },
            Err(status) => {
                json!({ "errorDetail": { "message": status.message }, "error": status.message })
            }
        };
        let _ = feed.send(line(last)).await;
    });
    Ok(Reply::stream("application/json", stream))
}

fn document<T: DeserializeOwned + Default>(query: &Query, key: &str) -> Result<T> {
    match query.text(key) {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str::<Option<T>>(text)
            .map(Option::unwrap_or_default)
            .map_err(|error| Failure::new(400, format!("invalid value for {key}: {error}"))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OutputEntry {
    r#type: String,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    hard: i64,
    soft: i64,
}

/// The query as a request.
fn request(query: &Query) -> Result<SolveRequest> {
    let mut attributes = Attributes::new();
    let mut set = |key: &str, value: String| drop(attributes.insert(key.to_owned(), value));
    if query.truth("squash") {
        return Err(Failure::new(400, "squash is not supported by BuildKit's protocol"));
    }
    match query.text("remote") {
        Some(SESSION) => {}
        Some("upload-request") | None => {
            return Err(Failure::new(
                501,
                "a context from standard input is not supported by this protocol: set DOCKER_BUILDKIT=0",
            ));
        }
        Some(address) => set("context", address.to_owned()),
    }
    for (key, name) in [
        ("target", "target"),
        ("dockerfile", "filename"),
        ("platform", "platform"),
        ("cgroupparent", "cgroup-parent"),
        ("cpusetcpus", "cpusetcpus"),
        ("cpusetmems", "cpusetmems"),
    ] {
        if let Some(value) = query.text(key).filter(|value| !value.is_empty() && *value != ".") {
            set(name, value.to_owned());
        }
    }
    for (key, name) in [
        ("shmsize", "shm-size"),
        ("memory", "memory"),
        ("memswap", "memswap"),
        ("cpushares", "cpushares"),
        ("cpuperiod", "cpuperiod"),
        ("cpuquota", "cpuquota"),
    ] {
        if let Some(value) = query.number(key)?.filter(|value| *value != 0) {
            set(name, value.to_string());
        }
    }
    for (name, value) in document::<BTreeMap<String, Option<String>>>(query, "buildargs")? {
        if let Some(value) = value {
            set(&format!("build-arg:{name}"), value);
        }
    }
    for (name, value) in document::<BTreeMap<String, String>>(query, "labels")? {
        set(&format!("label:{name}"), value);
    }
    if query.truth("nocache") {
        set("no-cache", String::new());
    }
    if query.truth("pull") {
        set("image-resolve-mode", "pull".to_owned());
    }
    let caches: Vec<String> = document(query, "cachefrom")?;
    if !caches.is_empty() {
        set("cache-from", caches.join(","));
    }
    let hosts: Vec<String> = query
        .all("extrahosts")
        .filter_map(|text| text.split_once([':', '=']))
        .map(|(name, address)| format!("{name}={address}"))
        .collect();
    if !hosts.is_empty() {
        set("add-hosts", hosts.join(","));
    }
    let limits: Vec<Ulimit> = document(query, "ulimits")?;
    if !limits.is_empty() {
        let limits = limits.iter().map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard));
        set("ulimit", limits.collect::<Vec<_>>().join(","));
    }
    let mut entitlements = Vec::new();
    match query.text("networkmode") {
        None | Some("" | "default" | "bridge") => {}
        Some(mode @ ("host" | "none")) => {
            set("force-network-mode", mode.to_owned());
            if mode == "host" {
                entitlements.push("network.host".to_owned());
            }
        }
        Some(other) => {
            return Err(Failure::new(400, format!("network mode \"{other}\" not supported by BuildKit")));
        }
    }
    let names: Vec<&str> = query.all("t").filter(|name| !name.is_empty()).collect();
    let mut outputs: Vec<OutputEntry> = document(query, "outputs")?;
    if outputs.is_empty() {
        outputs.push(OutputEntry { r#type: "moby".to_owned(), attrs: None });
    }
    let exporters = outputs.into_iter().filter(|output| output.r#type != "cacheonly").map(|output| {
        let mut attributes: Attributes = output.attrs.unwrap_or_default().into_iter().collect();
        // The client writes the file itself.
        attributes.remove("dest");
        if !names.is_empty() && matches!(output.r#type.as_str(), "moby" | "image" | "docker" | "oci") {
            attributes.insert("name".to_owned(), names.join(","));
        }
        Exporter { kind: output.r#type, attributes }
    });
    let exporters = exporters.collect();
    let reference = match query.text("buildid") {
        Some(id) => id.to_owned(),
        None => robot_env_sys::fs::temporary_name(),
    };
    Ok(SolveRequest {
        reference,
        session: query.text("session").unwrap_or_default().to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        attributes,
        entitlements,
        exporters,
        ..SolveRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_docker_20() {
        let query = "buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&buildid=b1&cachefrom=%5B%5D&cgroupparent=&\
            cpuperiod=0&cpuquota=0&cpusetcpus=&cpusetmems=&cpushares=0&dockerfile=Dockerfile.dev&\
            extrahosts=a%3A1.2.3.4&labels=%7B%22l%22%3A%22v%22%7D&memory=0&memswap=0&networkmode=host&\
            nocache=1&pull=1&remote=client-session&rm=1&session=s1&shmsize=0&t=a%3A1&t=b&target=x&\
            ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Hard%22%3A20%2C%22Soft%22%3A10%7D%5D&version=2";
        let request = request(&Query::parse(query)).unwrap();
        assert_eq!((request.reference.as_str(), request.session.as_str()), ("b1", "s1"));
        let mut all: Vec<_> =
            request.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        all.sort();
        assert_eq!(
            all,
            [
                "add-hosts=a=1.2.3.4",
                "build-arg:A=1",
                "filename=Dockerfile.dev",
                "force-network-mode=host",
                "image-resolve-mode=pull",
                "label:l=v",
                "no-cache=",
                "target=x",
                "ulimit=nofile=10:20",
            ]
        );
        assert_eq!(request.entitlements, ["network.host"]);
        assert_eq!(request.exporters[0].attributes["name"], "a:1,b");
        for bad in [
            "remote=client-session&networkmode=vlan",
            "remote=upload-request",
            "remote=client-session&labels=x",
        ] {
            assert!(super::request(&Query::parse(bad)).is_err(), "{bad}");
        }
    }
}
