//! `GET /containers/{id}/stats`.

use std::time::Duration;

use robot_env_engine::{Container, Engine, Sample};
use robot_env_wire::{ZERO, rfc3339};
use serde_json::{Value, json};

use crate::failure::Result;
use crate::http::{Reply, channel};
use crate::routes::Call;

const SECOND: Duration = Duration::from_secs(1);

/// `GET /containers/{id}/stats`
pub(crate) async fn answer(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let server = call.server;
    let container = super::find(server, name).await?;
    let id = container.record.id.to_string();
    let stream = call.query.truth_or("stream", true);
    let one_shot = call.query.truth("one-shot");
    if !stream {
        let first = if one_shot { None } else { Some(sample(server, &id).await?) };
        if first.as_ref().is_some_and(|(_, sample)| sample.running) {
            tokio::time::sleep(SECOND).await;
        }
        let (container, now) = sample(server, &id).await?;
        return Ok(Reply::json(200, &shape(&container, &now, first.as_ref().map(|(_, sample)| sample))));
    }
    let (feed, output) = channel();
    tokio::spawn(async move {
        let mut earlier: Option<Sample> = None;
        // One that has gone has no statistics any more.
        while let Ok((container, now)) = sample(server, &id).await {
            let mut bytes = shape(&container, &now, earlier.as_ref()).to_string().into_bytes();
            bytes.push(b'\n');
            if feed.send(bytes).await.is_err() {
                return;
            }
            earlier = Some(now);
            tokio::select! {
                () = tokio::time::sleep(SECOND) => {}
                () = feed.closed() => return,
            }
        }
    });
    Ok(Reply::stream("application/json", output))
}

async fn sample(server: &'static crate::server::Server, id: &str) -> Result<(Container, Sample)> {
    let text = id.to_owned();
    server
        .blocking(move |engine: &Engine| {
            let container = engine.container(&text)?;
            let sample = engine.sample(&container);
            Ok((container, sample))
        })
        .await
}

/// What Docker shows of a sample and the one before it.
fn shape(container: &Container, now: &Sample, earlier: Option<&Sample>) -> Value {
    let networks: serde_json::Map<String, Value> = now
        .interfaces
        .iter()
        .map(|interface| {
            let value = json!({
                "rx_bytes": interface.received, "rx_packets": interface.received_packets,
                "rx_errors": interface.received_errors, "rx_dropped": interface.received_dropped,
                "tx_bytes": interface.sent, "tx_packets": interface.sent_packets,
                "tx_errors": interface.sent_errors, "tx_dropped": interface.sent_dropped,
            });
            (interface.name.clone(), value)
        })
        .collect();
    let usage = now.cgroup.unwrap_or_default();
    let io = |op: &str, bytes: u64| json!({ "major": 0, "minor": 0, "op": op, "value": bytes });
    let mut out = json!({
        "id": container.record.id.as_str(),
        "name": format!("/{}", container.record.name),
        "read": if now.running { rfc3339(now.time) } else { ZERO.to_owned() },
        "preread": earlier.filter(|sample| sample.running).map_or_else(|| ZERO.to_owned(), |sample| rfc3339(sample.time)),
        "num_procs": 0,
        "pids_stats": {},
        "storage_stats": {},
        "blkio_stats": {
            "io_service_bytes_recursive": if now.running {
                json!([io("read", usage.read_bytes), io("write", usage.written_bytes)])
            } else {
                Value::Null
            },
            "io_serviced_recursive": null, "io_queue_recursive": null,
            "io_service_time_recursive": null, "io_wait_time_recursive": null,
            "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
        },
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(earlier.unwrap_or(&Sample::default())),
        "memory_stats": {},
    });
    if now.running {
        let mut pids = json!({ "current": usage.processes });
        if let Some(limit) = usage.processes_limit {
            pids["limit"] = limit.into();
        }
        out["pids_stats"] = pids;
        out["memory_stats"] = json!({
            "usage": usage.memory,
            "max_usage": usage.memory_peak,
            // Under both names: clients look for that of the cgroup version they think of.
            "stats": {
                "cache": usage.memory_cache,
                "inactive_file": usage.memory_inactive_file,
                "total_inactive_file": usage.memory_inactive_file,
            },
            "failcnt": 0,
            "limit": now.memory_limit(),
        });
    }
    if !networks.is_empty() {
        out["networks"] = Value::Object(networks);
    }
    out
}

fn cpu(sample: &Sample) -> Value {
    let usage = sample.cgroup.unwrap_or_default();
    let mut out = json!({
        "cpu_usage": {
            "total_usage": usage.cpu_nanoseconds,
            "usage_in_kernelmode": usage.cpu_kernel_nanoseconds,
            "usage_in_usermode": usage.cpu_user_nanoseconds,
        },
        "throttling_data": {
            "periods": usage.periods,
            "throttled_periods": usage.throttled_periods,
            "throttled_time": usage.throttled_nanoseconds,
        },
    });
    if sample.running {
        out["system_cpu_usage"] = sample.machine_nanoseconds.into();
        out["online_cpus"] = sample.cpus.into();
    }
    out
}
