//! `/_ping`, `/version`, `/info`, `/events`, `/system/df`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use robot_env_build::CachedStep;
use robot_env_engine::record::State;
use robot_env_engine::{DiskUsage, Engine, Event};
use robot_env_spec::{CgroupVersion, HostFacts};
use robot_env_wire::{ContainerSummary, EventMessage, Info, Plugins, Volume, rfc3339};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::filters::Filters;
use crate::http::{Reply, channel};
use crate::routes::{Call, NEWEST, OLDEST};
use crate::server::Server;

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
    let info = server.blocking(move |engine| collect(server, engine)).await?;
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
        ("IPv4Forwarding", json!(true)),
        ("CpuCfsPeriod", json!(info.cpu_shares)),
        ("CpuCfsQuota", json!(info.cpu_shares)),
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

fn collect(server: &Server, engine: &Engine) -> robot_env_diag::Result<Info> {
    let host = engine.host_facts();
    let containers = engine.containers()?;
    let count = |wanted: fn(&State) -> bool| containers.iter().filter(|c| wanted(&c.state.state)).count();
    let running =
        count(|state| matches!(state, State::Running { paused: false, .. } | State::Restarting { .. }));
    let paused = count(|state| matches!(state, State::Running { paused: true, .. }));
    let uname = rustix::system::uname();
    let release = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let has = |controller: &str| robot_env_engine::has_controller(controller);
    let sysinfo = rustix::system::sysinfo();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Ok(Info {
        containers: containers.len(),
        containers_running: running,
        containers_paused: paused,
        containers_stopped: containers.len() - running - paused,
        images: engine.store().image_ids()?.len(),
        driver: "overlay2".into(),
        driver_status: vec![["userxattr".into(), engine.is_rootless().to_string()]],
        plugins: Plugins {
            volume: names(&["local"]),
            network: names(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            authorization: None,
            log: names(&["json-file", "local", "none"]),
        },
        memory_limit: has("memory"),
        swap_limit: robot_env_engine::has_swap_limit(),
        cpu_shares: has("cpu"),
        cpu_set: has("cpuset"),
        pids_limit: has("pids"),
        system_time: rfc3339(Timestamp::now()),
        logging_driver: "json-file".into(),
        cgroup_driver: if host.cgroup_writable { "cgroupfs".into() } else { "none".into() },
        cgroup_version: match host.cgroup {
            CgroupVersion::V1 => "1".into(),
            CgroupVersion::V2 => "2".into(),
            CgroupVersion::None => String::new(),
        },
        kernel_version: uname.release().to_string_lossy().into_owned(),
        operating_system: release_field(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
        os_version: release_field(&release, "VERSION_ID").unwrap_or_default(),
        os_type: "linux".into(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        ncpu: host.cpus,
        mem_total: u64::from(sysinfo.mem_unit.max(1)).saturating_mul(sysinfo.totalram),
        docker_root_dir: engine.store().path().to_string_lossy().into_owned(),
        name: host.hostname.clone(),
        server_version: server.version.into(),
        runtimes: runtimes(&server.path),
        default_runtime: "robot-env".into(),
        // No container ends with this server.
        live_restore_enabled: true,
        security_options: security(&host),
        ..Info::default()
    })
}

/// A field of os-release(5).
fn release_field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// Our own runtime, and others that are on the path.
fn runtimes(path: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let own = std::env::current_exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let entry = |path: String| BTreeMap::from([("path".to_owned(), path)]);
    let mut found = BTreeMap::from([("robot-env".to_owned(), entry(own))]);
    for name in ["crun", "kata-runtime", "runc", "runsc", "youki"] {
        let directories = path.split(':').filter(|dir| dir.starts_with('/'));
        let mut paths = directories.map(|dir| Path::new(dir).join(name));
        if let Some(path) = paths.find(|path| path.is_file()) {
            found.insert(name.to_owned(), entry(path.to_string_lossy().into_owned()));
        }
    }
    found
}

fn security(host: &HostFacts) -> Vec<String> {
    let mut options = vec!["name=seccomp,profile=builtin".to_owned()];
    if host.apparmor {
        options.insert(0, "name=apparmor".to_owned());
    }
    if host.rootless {
        options.push("name=rootless".to_owned());
    }
    options.push("name=cgroupns".to_owned());
    options
}

/// The keys of the filters of events.
const KEYS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "label!",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// `GET /events`
pub(crate) async fn events(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = Filters::of(&call.query, KEYS)?;
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
            if within(&event) && matches(&event, &filters) && feed.send(line(&event)).await.is_err() {
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
            if within(&event) && matches(&event, &filters) && feed.send(line(&event)).await.is_err() {
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

fn matches(event: &Event, filters: &Filters) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    let is = |kind: &str, value: &str| {
        event.kind == kind
            && (event.id == value || name == value || (kind == "container" && event.id.starts_with(value)))
    };
    let image = |value: &str| {
        let of = event.attributes.get("image").map_or("", String::as_str);
        let bare = |text: &str| text.rsplit_once(':').map_or(text, |(name, _)| name).to_owned();
        is("image", value)
            || of == value
            || (!of.is_empty() && bare(of) == value)
            || (event.kind == "image" && bare(name) == value)
    };
    let action = |value: &str| {
        event.action == value || event.action.split_once(':').is_some_and(|(word, _)| word == value)
    };
    filters.any("type", |value| event.kind == value)
        && filters.any("event", action)
        && filters.any("container", |value| is("container", value.trim_start_matches('/')))
        && filters.any("image", image)
        && filters.any("volume", |value| is("volume", value))
        && filters.any("network", |value| is("network", value))
        && filters.any("scope", |value| value == "local")
        && filters.labels(&event.attributes)
        // There are no such objects.
        && ["config", "daemon", "node", "plugin", "secret", "service"].iter().all(|key| !filters.has(key))
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
            Ok((usage, summaries, robot_env_build::cached_steps(engine.store())?))
        })
        .await?;
    Ok(Reply::json(200, &usage_shape(&usage, &summaries, &cached, &kinds)))
}

/// A step that builds keep.
fn cached_shape(step: &CachedStep) -> Value {
    let used = Timestamp::from_second(step.used as i64).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({
        "ID": step.id(), "Type": "regular", "Description": step.description,
        "Shared": step.shared, "Size": step.bytes, "CreatedAt": step.created,
        "LastUsedAt": rfc3339(used),
    })
}

fn usage_shape(
    usage: &DiskUsage,
    containers: &[ContainerSummary],
    cached: &[CachedStep],
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
        out["BuilderSize"] = cached.iter().map(|step| step.bytes).sum::<u64>().into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;

    #[test]
    fn events_are_filtered() {
        let mut event = Event::now("container", "exec_create: ls", "abc", BTreeMap::new());
        event.attributes.insert("name".into(), "web".into());
        event.attributes.insert("image".into(), "ros:noetic".into());
        event.attributes.insert("role".into(), "x".into());
        for (filter, want) in [
            ("{}", true),
            (r#"{"event":["exec_create"]}"#, true),
            (r#"{"event":["start"]}"#, false),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["ab"],"type":["container"]}"#, true),
            (r#"{"container":["db"]}"#, false),
            (r#"{"image":["ros"]}"#, true),
            (r#"{"image":["ros:noetic"]}"#, true),
            (r#"{"label":["role=x"]}"#, true),
            (r#"{"label":["role=y"]}"#, false),
            (r#"{"volume":["web"]}"#, false),
            (r#"{"daemon":["x"]}"#, false),
        ] {
            let encoded: String = filter.bytes().map(|b| format!("%{b:02x}")).collect();
            let filters = Filters::of(&Query::parse(&format!("filters={encoded}")), KEYS).unwrap();
            assert_eq!(matches(&event, &filters), want, "{filter}");
        }
    }
}
