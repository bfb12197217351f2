//! `--security-opt`, `--device`, `--device-cgroup-rule`, capabilities.

use std::path::Path;

use robot_env_diag::{Context, Error, IoContext, Kind, Result};
use robot_env_spec::{DeviceSpec, SeccompSpec, SecuritySpec};

/// The largest seccomp profile that is read, in bytes.
const PROFILE_LIMIT: usize = 4 << 20;

/// Reads `--security-opt`, and the profile's file where one is named.
pub(crate) fn security(given: &[String], directory: &Path) -> Result<SecuritySpec> {
    let mut out = SecuritySpec { as_given: given.to_vec(), ..SecuritySpec::default() };
    for option in given {
        let bad = || Error::invalid(format!("invalid --security-opt: `{option}`"));
        // Docker's older spelling has a colon.
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((key, value)) => (key, Some(value)),
            None => (option.as_str(), None),
        };
        match (key, value) {
            ("no-new-privileges", None) => out.no_new_privileges = true,
            ("no-new-privileges", Some(value)) => {
                out.no_new_privileges = robot_env_wire::truth(value).ok_or_else(bad)?;
            }
            ("seccomp", Some("unconfined")) => out.seccomp = SeccompSpec::Unconfined,
            ("seccomp", Some("builtin")) => out.seccomp = SeccompSpec::Default,
            ("seccomp", Some(file)) => out.seccomp = SeccompSpec::Profile(profile(file, directory)?),
            ("apparmor", Some(profile)) if !profile.is_empty() => out.apparmor = Some(profile.to_owned()),
            ("systempaths", Some("unconfined")) => out.unmasked_paths = true,
            // Labels are off already.
            ("label", Some("disable")) => {}
            ("label", Some(_)) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("cannot apply --security-opt `{option}`: SELinux labels are not supported"),
                )
                .with_hint("leave it away, or write `--security-opt label=disable`"));
            }
            _ => {
                return Err(bad().with_hint(
                    "the options are seccomp=FILE|unconfined|builtin, no-new-privileges, apparmor=PROFILE and systempaths=unconfined",
                ));
            }
        }
    }
    Ok(out)
}

fn profile(file: &str, directory: &Path) -> Result<String> {
    let what = || format!("cannot read seccomp profile `{file}`");
    let text = std::fs::read_to_string(directory.join(file)).io_context(what)?;
    if text.len() > PROFILE_LIMIT {
        return Err(Error::invalid(format!("{}: it is larger than 4 MiB", what())));
    }
    let value: serde_json::Value = serde_json::from_str(&text).context(Kind::InvalidInput, what)?;
    if !value.is_object() {
        return Err(Error::invalid(format!("{}: it is not a JSON object", what())));
    }
    Ok(text)
}

/// `sys_admin`, `CAP_SYS_ADMIN`, `all` in their canonical form.
pub(super) fn capability(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

pub(super) fn is_permissions(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 3
        && text.bytes().enumerate().all(|(at, b)| b"rwm".contains(&b) && !text.as_bytes()[..at].contains(&b))
}

/// Reads `--device HOST[:CONTAINER][:PERMISSIONS]`.
pub(super) fn device(text: &str) -> Result<DeviceSpec> {
    let bad = |why: &str| Error::invalid(format!("invalid device specification: `{text}`: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, second] if is_permissions(second) => (host, host, second),
        [host, container] => (host, container, "rwm"),
        [host, container, permissions] => (host, container, permissions),
        _ => return Err(bad("it has too many colons")),
    };
    if !host.starts_with('/') || !container.starts_with('/') {
        return Err(bad("the paths must be absolute"));
    }
    if !is_permissions(permissions) {
        return Err(bad(&format!("invalid device mode: {permissions}")));
    }
    Ok(DeviceSpec {
        host: host.to_owned(),
        container: container.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// Checks `--device-cgroup-rule`: `TYPE MAJOR:MINOR PERMISSIONS`.
pub(super) fn device_rule(text: &str) -> Result<String> {
    let number =
        |t: &str| t == "*" || (!t.is_empty() && t.len() <= 10 && t.bytes().all(|b| b.is_ascii_digit()));
    let fine = match text.split(' ').collect::<Vec<_>>()[..] {
        [kind, numbers, permissions] => {
            matches!(kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && is_permissions(permissions)
        }
        _ => false,
    };
    if fine {
        Ok(text.to_owned())
    } else {
        Err(Error::invalid(format!("invalid device cgroup format `{text}`"))
            .with_hint("write it like `c 189:* rmw`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let read = |words: &[&str]| {
            security(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), Path::new("/"))
        };
        let got = read(&[
            "no-new-privileges",
            "seccomp=unconfined",
            "apparmor=unconfined",
            "systempaths=unconfined",
            "label=disable",
        ])
        .unwrap();
        assert!(got.no_new_privileges && got.unmasked_paths);
        assert_eq!((got.seccomp, got.apparmor.as_deref()), (SeccompSpec::Unconfined, Some("unconfined")));
        assert!(!read(&["no-new-privileges:false"]).unwrap().no_new_privileges);
        assert!(read(&["no-new-privileges=true"]).unwrap().no_new_privileges);
        assert_eq!(read(&["seccomp:unconfined"]).unwrap().seccomp, SeccompSpec::Unconfined);
        for bad in [
            "",
            "x",
            "seccomp",
            "apparmor=",
            "no-new-privileges=x",
            "seccomp=/does/not/exist",
            "label=type:x",
            "systempaths=x",
        ] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn profiles_are_json_objects() {
        let path = std::env::temp_dir().join(format!("robot-env-seccomp-{}", std::process::id()));
        let option = [format!("seccomp={}", path.display())];
        std::fs::write(&path, "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}").unwrap();
        assert!(matches!(security(&option, Path::new("/")).unwrap().seccomp, SeccompSpec::Profile(_)));
        for bad in ["", "[]", "{"] {
            std::fs::write(&path, bad).unwrap();
            assert!(security(&option, Path::new("/")).is_err(), "{bad}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn devices() {
        for (text, host, container, permissions) in [
            ("/dev/video0", "/dev/video0", "/dev/video0", "rwm"),
            ("/dev/video0:rw", "/dev/video0", "/dev/video0", "rw"),
            ("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm"),
            ("/dev/a:/dev/b:r", "/dev/a", "/dev/b", "r"),
        ] {
            let want = DeviceSpec {
                host: host.into(),
                container: container.into(),
                permissions: permissions.into(),
            };
            assert_eq!(device(text).unwrap(), want, "{text}");
        }
        for bad in
            ["", "dev", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:rr", "/a:/b:r:w", "nvidia.com/gpu=all"]
        {
            assert!(device(bad).is_err(), "{bad}");
        }
        for good in ["c 189:* rmw", "a *:* r", "b 8:0 rw"] {
            assert!(device_rule(good).is_ok(), "{good}");
        }
        for bad in ["", "c", "c 1:2", "x 1:2 r", "c 1 r", "c 1:2 x", "c  1:2 r"] {
            assert!(device_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities() {
        for (text, want) in [
            ("sys_admin", "CAP_SYS_ADMIN"),
            ("CAP_NET_RAW", "CAP_NET_RAW"),
            ("all", "ALL"),
            ("cap_kill", "CAP_KILL"),
        ] {
            assert_eq!(capability(text), want);
        }
    }
}
