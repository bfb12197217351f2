//! `state`, `list`, `ps`, `events`, `features`, `spec`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_sys::capability;
use serde_json::{Value, json};

use super::arguments::{Arguments, Flag};
use super::records::{Directory, Record};
use super::{Global, print};
use crate::state::Status;

/// The runtime spec that this runtime follows.
pub(super) const SPEC_VERSION: &str = "1.2.0";

fn word(status: Status) -> String {
    format!("{status:?}").to_lowercase()
}

fn json_line(value: &Value) -> Result<i32> {
    print(&format!("{value}\n"))
}

pub(super) fn state(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[], false)?;
    let directory = Directory::of(&global.root, arguments.only_id()?);
    let record = directory.record()?;
    let state = directory.state(&record);
    let spec = directory.spec().unwrap_or_default();
    let rootfs = spec.root().as_ref().map(|root| record.bundle.join(root.path()));
    let mut value = serde_json::to_value(&state).unwrap_or_default();
    value["rootfs"] = rootfs.map(|path| path.display().to_string()).into();
    value["created"] = record.created.clone().into();
    value["owner"] = "".into();
    print(&format!("{}\n", serde_json::to_string_pretty(&value).unwrap_or_default()))
}

pub(super) fn list(global: &Global, args: &[OsString]) -> Result<i32> {
    let flags = [Flag::value("format").short('f'), Flag::switch("quiet").short('q')];
    let arguments = Arguments::parse(args, &flags, false)?;
    let mut rows: Vec<(Record, Status)> = Vec::new();
    let entries = match fs::read_dir(&global.root) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).io_context(|| format!("cannot read `{}`", global.root.display())),
    };
    for entry in entries.into_iter().flatten() {
        let directory = Directory::of(&global.root, &entry.file_name().to_string_lossy());
        if let Ok(record) = directory.record() {
            let status = directory.status(&record);
            rows.push((record, status));
        }
    }
    rows.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    let pid = |(record, status): &(Record, Status)| if *status == Status::Stopped { 0 } else { record.pid };
    if arguments.has("quiet") {
        return print(&rows.iter().map(|(record, _)| format!("{}\n", record.id)).collect::<String>());
    }
    if arguments.text("format")? == Some("json") {
        let row = |row: &(Record, Status)| {
            json!({"ociVersion": SPEC_VERSION, "id": row.0.id, "pid": pid(row), "status": word(row.1),
                "bundle": row.0.bundle, "created": row.0.created, "owner": row.0.owner.to_string()})
        };
        return json_line(&rows.iter().map(row).collect());
    }
    let mut table = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for row in &rows {
        let (record, status) = row;
        table.push([
            record.id.clone(),
            pid(row).to_string(),
            word(*status),
            record.bundle.display().to_string(),
            record.created.clone(),
            record.owner.to_string(),
        ]);
    }
    let widths: Vec<usize> =
        (0..6).map(|c| table.iter().map(|row| row[c].len()).max().unwrap_or(0).max(11)).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join(" ").trim_end())
    };
    print(&table.iter().map(line).collect::<String>())
}

pub(super) fn ps(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[Flag::value("format").short('f')], true)?;
    let (id, options) = arguments.id_and_rest()?;
    let record = Directory::of(&global.root, id).record()?;
    let within = || Error::new(Kind::Unsupported, format!("container `{id}` has no cgroup to list"));
    let pids = record.cgroup().ok_or_else(within)?.processes();
    if arguments.text("format")? == Some("json") {
        return json_line(&json!(pids));
    }
    let mut command = std::process::Command::new("ps");
    if options.is_empty() {
        command.arg("-ef")
    } else {
        command.args(options)
    };
    let output = command.output().io_context(|| "cannot run `ps`".into())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::invalid("the output of `ps` has no PID column"))?;
    let mut out = format!("{header}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            out.push_str(line);
            out.push('\n');
        }
    }
    print(&out)
}

pub(super) fn events(global: &Global, args: &[OsString]) -> Result<i32> {
    let flags = [Flag::value("interval"), Flag::switch("stats")];
    let arguments = Arguments::parse(args, &flags, false)?;
    let id = arguments.only_id()?;
    let record = Directory::of(&global.root, id).record()?;
    let none = || Error::new(Kind::Unsupported, format!("container `{id}` has no cgroup to read"));
    let cgroup = record.cgroup().ok_or_else(none)?;
    let seconds =
        arguments.text("interval")?.unwrap_or("5s").trim_end_matches('s').parse().unwrap_or(5u64).max(1);
    loop {
        let usage = cgroup.usage();
        json_line(&json!({"type": "stats", "id": id, "data": {
            "cpu": {"usage": {"total": usage.cpu_nanoseconds, "kernel": usage.cpu_kernel_nanoseconds,
                "user": usage.cpu_user_nanoseconds},
                "throttling": {"periods": usage.periods, "throttledPeriods": usage.throttled_periods,
                    "throttledTime": usage.throttled_nanoseconds}},
            "memory": {"usage": {"usage": usage.memory, "limit": usage.memory_limit, "max": usage.memory_peak},
                "cache": usage.memory_cache, "oomKills": usage.oom_kills},
            "pids": {"current": usage.processes, "limit": usage.processes_limit},
            "blkio": {"read": usage.read_bytes, "write": usage.written_bytes},
        }}))?;
        if arguments.has("stats") || !record.is_alive() {
            return Ok(0);
        }
        std::thread::sleep(std::time::Duration::from_secs(seconds));
    }
}

pub(super) fn features() -> Result<i32> {
    print(&format!("{}\n", serde_json::to_string_pretty(&known_features()).unwrap_or_default()))
}

/// What the runtime knows, in the form of runtime-spec's features.md.
fn known_features() -> Value {
    let apparmor =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'));
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec",
            "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec",
            "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnosuid", "rnosymfollow", "ro", "rprivate", "rro", "rrw",
            "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "slave",
            "strictatime", "suid", "symfollow", "tmpcopyup", "unbindable",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capability::NAMES.to_vec(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"],
                "supportedFlags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"],
            },
            "apparmor": {"enabled": apparmor},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
        "annotations": {"io.robot-env.version": env!("CARGO_PKG_VERSION")},
    })
}

pub(super) fn spec(args: &[OsString]) -> Result<i32> {
    let flags = [Flag::value("bundle").short('b'), Flag::switch("rootless")];
    let arguments = Arguments::parse(args, &flags, false)?;
    let bundle = arguments.value("bundle").map_or(Path::new("."), Path::new);
    let path = bundle.join("config.json");
    let text = serde_json::to_string_pretty(&example(arguments.has("rootless"))).unwrap_or_default();
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .open(&path)
        .io_context(|| format!("cannot make `{}`", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .io_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(0)
}

/// A bundle's config to begin with.
fn example(rootless: bool) -> Value {
    let capabilities = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    namespaces.push(if rootless { "user" } else { "network" });
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
    ];
    if rootless {
        mounts.push(json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}));
    } else {
        mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]}));
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    }
    let mut linux = json!({
        "namespaces": namespaces.iter().map(|kind| json!({"type": kind})).collect::<Vec<_>>(),
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if rootless {
        let id = |own: u32| json!([{"containerID": 0, "hostID": own, "size": 1}]);
        linux["uidMappings"] = id(rustix::process::geteuid().as_raw());
        linux["gidMappings"] = id(rustix::process::getegid().as_raw());
    } else {
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "container",
        "mounts": mounts,
        "linux": linux,
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Features, Spec};

    use super::*;

    /// Where `known` has what `read` has not.
    fn lost(known: &Value, read: &Value, at: &str, out: &mut Vec<String>) {
        match known {
            Value::Object(fields) => {
                for (name, value) in fields {
                    lost(value, &read[name], &format!("{at}.{name}"), out);
                }
            }
            _ if known != read => out.push(format!("{at}: {known} read as {read}")),
            _ => {}
        }
    }

    #[test]
    fn features_are_read_as_they_are_meant() {
        let known = known_features();
        let read: Features = serde_json::from_value(known.clone()).unwrap();
        let mut out = Vec::new();
        lost(&known, &serde_json::to_value(&read).unwrap(), "", &mut out);
        assert!(out.is_empty(), "{out:#?}");
    }

    #[test]
    fn the_example_is_a_spec_for_root_and_others() {
        for rootless in [true, false] {
            let example = example(rootless);
            let read: Spec = serde_json::from_value(example.clone()).unwrap();
            let mut out = Vec::new();
            lost(&example, &serde_json::to_value(&read).unwrap(), "", &mut out);
            out.retain(|line| !line.starts_with(".mounts") && !line.starts_with(".process.capabilities"));
            assert!(out.is_empty(), "{out:#?}");
            assert_eq!(read.linux().as_ref().unwrap().uid_mappings().is_some(), rootless);
        }
    }
}
