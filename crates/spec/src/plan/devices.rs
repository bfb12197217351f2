//! Device nodes and the rules about their use.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use robot_env_diag::{Error, Result};

use super::process::clean;
use crate::{ContainerSpec, HostFacts, Resolved};

/// Devices that every container may use, `(major, minor)` of character devices; `None` is any:
/// null, zero, full, random, urandom, tty, console, ptmx, the terminals of devpts, and FUSE.
const ALLOWED: [(i64, Option<i64>); 10] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
    (10, Some(229)),
];

fn kind(letter: char) -> Option<LinuxDeviceType> {
    Some(match letter {
        'a' => LinuxDeviceType::A,
        'b' => LinuxDeviceType::B,
        'c' | 'u' => LinuxDeviceType::C,
        'p' => LinuxDeviceType::P,
        _ => return None,
    })
}

/// The nodes that the runtime makes. In a user namespace it cannot make any; there they are
/// mounts.
pub(super) fn nodes(host: &HostFacts, resolved: &Resolved) -> Result<Option<Vec<LinuxDevice>>> {
    if host.rootless || resolved.devices.is_empty() {
        return Ok(None);
    }
    let mut out: Vec<LinuxDevice> = Vec::new();
    for device in &resolved.devices {
        let kind = kind(device.kind).ok_or_else(|| {
            Error::invalid(format!(
                "invalid device `{}`: `{}` is no kind of device",
                device.host_path, device.kind
            ))
        })?;
        let path = PathBuf::from(clean(&device.path));
        let mut node = LinuxDevice::default();
        node.set_path(path.clone())
            .set_typ(kind)
            .set_major(device.major)
            .set_minor(device.minor)
            .set_file_mode(Some(device.mode & 0o7777))
            .set_uid(Some(device.uid))
            .set_gid(Some(device.gid));
        // The last one that was asked for at a path is the one that is there.
        out.retain(|other| *other.path() != path);
        out.push(node);
    }
    Ok(Some(out))
}

/// Everything denied, then what is allowed; privileged containers may use all.
pub(super) fn rules(spec: &ContainerSpec, resolved: &Resolved) -> Result<Vec<LinuxDeviceCgroup>> {
    if spec.privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]);
    }
    let mut out = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")];
    // A node may be made, which takes CAP_MKNOD; to open it is another matter.
    out.push(rule(true, LinuxDeviceType::C, None, None, "m"));
    out.push(rule(true, LinuxDeviceType::B, None, None, "m"));
    out.extend(
        ALLOWED.iter().map(|&(major, minor)| rule(true, LinuxDeviceType::C, Some(major), minor, "rwm")),
    );
    for device in &resolved.devices {
        let Some(kind) = kind(device.kind) else { continue };
        let permissions = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        out.push(rule(true, kind, Some(device.major), Some(device.minor), permissions));
    }
    for text in &spec.device_cgroup_rules {
        out.push(parse_rule(text)?);
    }
    Ok(out)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut out = LinuxDeviceCgroup::default();
    out.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.into()));
    out
}

/// Reads a rule like `c 189:* rmw`.
pub(crate) fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad =
        || Error::invalid(format!("invalid device cgroup rule `{text}`: it must be like `c 189:* rmw`"));
    let parts: Vec<&str> = text.split(' ').collect();
    let [letter, numbers, access] = parts[..] else { return Err(bad()) };
    let kind = match letter {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| bad())
        }
        _ => Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if !check_permissions(access) {
        return Err(bad());
    }
    Ok(rule(true, kind, number(major)?, number(minor)?, access))
}

/// Whether `text` is one to three different letters of `rwm`.
pub(crate) fn check_permissions(text: &str) -> bool {
    (1..=3).contains(&text.len())
        && text.chars().all(|c| matches!(c, 'r' | 'w' | 'm') && text.matches(c).count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_rules() {
        for (text, want) in [
            ("c 189:* rmw", Some("c 189:* rmw")),
            ("b 8:0 r", Some("b 8:0 r")),
            ("a *:* rwm", Some("a *:* rwm")),
            ("c 1:3", None),
            ("c 1 r", None),
            ("x 1:3 r", None),
            ("c 1:3 rx", None),
            ("c 1:3 rr", None),
            ("c -1:3 r", None),
            ("c +1:3 r", None),
            ("c 1:4294967296 r", None),
            ("c  1:3 r", None),
            ("c 1:3 ", None),
            ("c :3 r", None),
        ] {
            assert_eq!(parse_rule(text).ok().map(|rule| rule.to_string()).as_deref(), want, "{text}");
        }
    }
}
