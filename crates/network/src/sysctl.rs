//! The kernel settings of interfaces, by their files. `/proc/sys/net` shows the network namespace
//! of the thread that opens it.

use std::io::ErrorKind;

use robot_env_diag::{Error, Kind, Result};

/// Writes `value` unless the file says it already (a read-only /proc/sys is no trouble then).
pub(crate) fn set(path: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/net/{path}");
    let now = std::fs::read_to_string(&file);
    if now.as_deref().map(str::trim).ok() == Some(value) {
        return Ok(());
    }
    std::fs::write(&file, value).map_err(|error| {
        Error::new(Kind::of_io(&error), format!("cannot set kernel setting `{file}` to {value}"))
            .because(error)
    })
}

/// The same where the kernel may lack the setting (IPv6 off).
pub(crate) fn set_if_there(path: &str, value: &str) -> Result<()> {
    match std::fs::metadata(format!("/proc/sys/net/{path}")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => set(path, value),
    }
}

/// The setting's value.
pub(crate) fn get(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?.trim().to_owned())
}

/// Turns on IPv4 forwarding; says whether it was off.
pub(crate) fn forward_v4() -> Result<bool> {
    if get("ipv4/ip_forward").as_deref() == Some("1") {
        return Ok(false);
    }
    set("ipv4/ip_forward", "1").map(|()| true)
}

/// Turns on IPv6 forwarding; says whether it was off. A host that forwards ignores router
/// advertisements and would lose its own default route, unless its interfaces are told otherwise
/// (`accept_ra` 2) first.
pub(crate) fn forward_v6() -> Result<bool> {
    if get("ipv6/conf/all/forwarding").is_none_or(|value| value == "1") {
        return Ok(false);
    }
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if get(&format!("ipv6/conf/{name}/accept_ra")).as_deref() == Some("1") {
            set_if_there(&format!("ipv6/conf/{name}/accept_ra"), "2")?;
        }
    }
    set("ipv6/conf/all/forwarding", "1").map(|()| true)
}
