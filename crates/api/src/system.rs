//! `/_ping`, `/version`, `/info`, `/events`, `/system/df`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use robot_env_build::Kept;
use robot_env_engine::{DiskUsage, Engine, Event};
use robot_env_wire::{
    ContainerSummary, EVENT_FILTERS, EventMessage, Info, InfoSettings, Volume, ZERO, rfc3339, takes_event,
};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::filters;
use crate::http::{Reply, channel};
use crate::routes::{Call, NEWEST, OLDEST};

/// `GET` and `HEAD /_ping`
pub(crate) fn ping() -> Reply {
    Reply::text(200, "OK")
        // Version 2 would make the client ask for BuildKit.
        .with("Builder-Version", "1")
        .with("Swarm", "inactive")
        .with("Cache-Control", "no-cache, no-store, must-revalidate")
        .with("Pragma", "no-cache")
}

/// `GET /version`
pub(crate) fn version(call: &Call<'_, '_>) -> Reply {
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let arch = robot_env_oci::Platform::host().architecture;
    let (version, api, oldest) = (call.server.version, NEWEST.to_string(), OLDEST.to_string());
    let value = json!({
        "Platform": { "Name": "robot-env" },
        "Components": [{
            "Name": "Engine",
            "Version": version,
            "Details": {
                "ApiVersion": api, "MinAPIVersion": oldest, "Arch": arch, "Os": "linux",
                "KernelVersion": kernel, "Experimental": "false",
            },
        }],
        "Version": version,
        "ApiVersion": api,
        "MinAPIVersion": oldest,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": kernel,
    });
    Reply::json(200, &value)
}

/// `GET /info`
pub(crate) async fn info(call: &Call<'_, '_>) -> Result<Reply> {
    let server = call.server;
    let info = server
        .blocking(move |engine| {
            let settings = InfoSettings {
                version: server.version,
                now: Timestamp::now(),
                path: &server.path,
                configuration: &server.configuration,
            };
            Info::of(engine, &settings)
        })
        .await?;
    let bandwidth = info.cpu_shares && robot_env_engine::has_cpu_bandwidth();
    let mut value = serde_json::to_value(&info).map_err(|error| Failure::new(500, error.to_string()))?;
    // What only clients of a daemon look at.
    for (key, more) in [
        (
            "Swarm",
            json!({ "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null }),
        ),
        (
            "RegistryConfig",
            json!({ "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"], "IndexConfigs": {}, "Mirrors": null }),
        ),
        ("IndexServerAddress", json!("https://index.docker.io/v1/")),
        ("Debug", json!(false)),
        ("NFd", json!(0)),
        ("NGoroutines", json!(0)),
        ("NEventsListener", json!(0)),
        ("OomKillDisable", json!(false)),
        ("CpuCfsPeriod", json!(bandwidth)),
        ("CpuCfsQuota", json!(bandwidth)),
        ("BridgeNfIptables", json!(false)),
        ("BridgeNfIp6tables", json!(false)),
        ("HttpProxy", json!("")),
        ("HttpsProxy", json!("")),
        ("NoProxy", json!("")),
        ("Isolation", json!("")),
        ("GenericResources", Value::Null),
    ] {
        value[key] = more;
    }
    Ok(Reply::json(200, &value))
}

/// `GET /events`
pub(crate) async fn events(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, EVENT_FILTERS)?;
    let (since, until) = (call.query.moment("since")?, call.query.moment("until")?);
    let server = call.server;
    let mut listener = server.hub.listen();
    let begun = Timestamp::now().as_nanosecond() as i64;
    let past = match since.or(until.filter(|until| *until <= Timestamp::now())) {
        None => Vec::new(),
        Some(_) => {
            let since = since.map_or(0, |since| since.as_nanosecond() as i64);
            server.blocking(move |engine| past(engine, since)).await?
        }
    };
    let (feed, stream) = channel();
    tokio::spawn(async move {
        let limit = until.map(|until| until.as_nanosecond() as i64);
        let within = |event: &Event| limit.is_none_or(|limit| event.nanoseconds <= limit);
        // What was read of the past and is heard of as well.
        let mut both: Vec<Event> = Vec::new();
        for event in past {
            if within(&event) && takes_event(&filters, &event) && feed.send(line(&event)).await.is_err() {
                return;
            }
            if event.nanoseconds >= begun - 1_000_000_000 {
                both.push(event);
            }
        }
        loop {
            let left = limit.map(|limit| limit - Timestamp::now().as_nanosecond() as i64);
            if left.is_some_and(|left| left <= 0) {
                return;
            }
            let end = async {
                match left {
                    Some(left) => tokio::time::sleep(std::time::Duration::from_nanos(left as u64)).await,
                    None => std::future::pending().await,
                }
            };
            let event: Option<Arc<Event>> = tokio::select! {
                event = listener.next() => event,
                () = end => return,
                () = feed.closed() => return,
            };
            let Some(event) = event else { continue };
            if let Some(at) = both.iter().position(|other| *other == *event) {
                both.swap_remove(at);
                continue;
            }
            if within(&event) && takes_event(&filters, &event) && feed.send(line(&event)).await.is_err() {
                return;
            }
        }
    });
    Ok(Reply::stream("application/json", stream))
}

fn past(engine: &Engine, since: i64) -> robot_env_diag::Result<Vec<Event>> {
    let mut reader = engine.events(false)?;
    let mut events = reader.older();
    while let Some(event) = reader.next_event()? {
        events.push(event);
    }
    events.retain(|event| event.nanoseconds >= since);
    Ok(events)
}

fn line(event: &Event) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&EventMessage::new(event)).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// `GET /system/df`
pub(crate) async fn disk_usage(call: &Call<'_, '_>) -> Result<Reply> {
    let kinds: Vec<String> = call.query.all("type").map(str::to_owned).collect();
    let (usage, summaries, cached) = call
        .server
        .blocking(|engine| {
            let usage = engine.disk_usage()?;
            let now = Timestamp::now();
            let summaries = usage
                .containers
                .iter()
                .map(|(container, bytes)| {
                    let sizes = engine.sizes(container).map(|(_, all)| (*bytes, all))?;
                    Ok(ContainerSummary::new(container, &engine.places(container)?, Some(sizes), now))
                })
                .collect::<robot_env_diag::Result<Vec<_>>>()?;
            Ok((usage, summaries, robot_env_build::kept(engine)?))
        })
        .await?;
    Ok(Reply::json(200, &usage_shape(&usage, &summaries, &cached, &kinds)))
}

fn cached_shape(kept: &Kept) -> Value {
    let used = Timestamp::from_second(kept.used as i64).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({
        "ID": kept.id, "Type": kept.kind, "Description": kept.description,
        "InUse": kept.in_use, "Shared": kept.shared, "Size": kept.bytes,
        "CreatedAt": kept.created.as_deref().unwrap_or(ZERO), "LastUsedAt": rfc3339(used),
    })
}

fn usage_shape(
    usage: &DiskUsage,
    containers: &[ContainerSummary],
    cached: &[Kept],
    kinds: &[String],
) -> Value {
    let wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|other| other == kind);
    let mut out = json!({ "LayersSize": usage.layers, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null, "BuilderSize": 0 });
    if wanted("image") {
        let images = usage.images.iter().map(|found| {
            crate::images::summary(
                &found.image,
                &found.names,
                Some(found.containers as i64),
                Some(found.shared as i64),
                BTreeMap::new(),
            )
        });
        out["Images"] = images.collect();
    }
    if wanted("container") {
        out["Containers"] = serde_json::to_value(containers).unwrap_or_default();
    }
    if wanted("volume") {
        let volumes = usage.volumes.iter().map(|found| {
            let mut volume = serde_json::to_value(Volume::new(&found.volume)).unwrap_or_default();
            volume["UsageData"] = json!({ "Size": found.bytes, "RefCount": found.containers });
            volume
        });
        out["Volumes"] = volumes.collect();
    }
    if wanted("build-cache") {
        out["BuildCache"] = cached.iter().map(cached_shape).collect();
        out["BuilderSize"] = cached.iter().map(|kept| kept.bytes).sum::<u64>().into();
    }
    out
}
