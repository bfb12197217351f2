//! Limits that this machine does not let an ordinary user keep: what is left out, and the one command
//! that changes that.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Spec;
use robot_env_spec::LIMITS_LEFT_OUT;
use robot_env_sys::cgroup::{self, Hierarchies, Version};

use crate::engine::Engine;
use crate::rootless;

/// Gives everything that limits need to a user's session manager (systemd.resource-control(5)).
const DELEGATE: &str = "sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' \
     | sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload";

/// Why limits are not kept, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlimited {
    /// The reason.
    pub because: String,
    /// A command, or what else to do.
    pub mend: String,
}

impl Engine {
    /// Why an ordinary user's limits of memory, CPU and processes are not kept here; `None` when they
    /// are, and for root.
    pub fn unlimited(&self) -> Option<Unlimited> {
        if self.rootless { Engine::unlimited_of(&cgroup::detect()) } else { None }
    }

    fn unlimited_of(hierarchies: &Hierarchies) -> Option<Unlimited> {
        let user = rootless::Identity::current().map_or(0, |identity| identity.user);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let controllers = hierarchies.controllers();
        let missing = missing(hierarchies, controllers.as_deref());
        let exists = |path: &str| Path::new("/sys/fs/cgroup").join(path).exists();
        unlimited(hierarchies.version(), hierarchies.is_writable(), &missing, &own, user, exists)
    }

    /// Takes out of a plan what would fail for want of a controller, and makes one warning of all that
    /// is left out, which an ordinary user hears once.
    pub(crate) fn leave_out_limits(
        &self,
        spec: &mut Spec,
        hierarchies: &Hierarchies,
        warnings: &mut Vec<String>,
    ) {
        if !self.rootless {
            return;
        }
        if hierarchies.is_outside() {
            // Why it has stayed there, `Ground::settle` tells.
            warnings.retain(|warning| warning != LIMITS_LEFT_OUT);
            return;
        }
        let missing = missing(hierarchies, hierarchies.controllers().as_deref());
        let out = without(spec, &missing);
        let all = warnings.iter().any(|warning| warning == LIMITS_LEFT_OUT);
        if out.is_empty() && !all {
            return;
        }
        warnings.retain(|warning| warning != LIMITS_LEFT_OUT);
        let what = if all {
            LIMITS_LEFT_OUT.to_owned()
        } else {
            format!("limits are left out that need the controllers {}", out.join(", "))
        };
        let told = match Engine::unlimited_of(hierarchies) {
            Some(Unlimited { because, mend }) => format!("{what}: {because} ({mend})"),
            None => what,
        };
        if rootless::once::first(self.paths.run_root(), "limits", &told) {
            warnings.push(told);
        }
    }
}

/// The controllers that limits may need and that are not there; none are named where there is no
/// cgroup at all.
fn missing(hierarchies: &Hierarchies, controllers: Option<&[String]>) -> Vec<&'static str> {
    if hierarchies.version() != Version::V2 || !hierarchies.is_writable() {
        return Vec::new();
    }
    let Some(controllers) = controllers else { return Vec::new() };
    ["cpu", "cpuset", "io", "memory", "pids"]
        .into_iter()
        .filter(|wanted| !controllers.iter().any(|has| has == wanted))
        .collect()
}

/// Takes the settings of these controllers out: the names of those that had any.
fn without(spec: &mut Spec, missing: &[&'static str]) -> Vec<&'static str> {
    let mut out = Vec::new();
    let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) else {
        return out;
    };
    for name in missing {
        let had = match *name {
            "cpu" => resources.cpu_mut().as_mut().is_some_and(|cpu| {
                let had = cpu.shares().is_some() || cpu.quota().is_some() || cpu.period().is_some();
                cpu.set_shares(None).set_quota(None).set_period(None);
                had
            }),
            "cpuset" => resources.cpu_mut().as_mut().is_some_and(|cpu| {
                let had = cpu.cpus().is_some() || cpu.mems().is_some();
                cpu.set_cpus(None).set_mems(None);
                had
            }),
            "io" => {
                resources.block_io().is_some() && {
                    resources.set_block_io(None);
                    true
                }
            }
            "memory" => {
                resources.memory().is_some() && {
                    resources.set_memory(None);
                    true
                }
            }
            _ => {
                resources.pids().is_some() && {
                    resources.set_pids(None);
                    true
                }
            }
        };
        if had {
            out.push(*name);
        }
    }
    out
}

/// `exists` says whether there is a directory below the hierarchy.
fn unlimited(
    version: Version,
    writable: bool,
    missing: &[&str],
    own: &str,
    user: u32,
    exists: impl Fn(&str) -> bool,
) -> Option<Unlimited> {
    let of = |because: String, mend: &str| Some(Unlimited { because, mend: mend.to_owned() });
    let manager = format!("user.slice/user-{user}.slice/user@{user}.service");
    match version {
        Version::None => of("no control groups are mounted".into(), "boot with systemd, or mount cgroup2"),
        Version::V1 => of(
            "control groups of version 1 are root's alone".into(),
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Version::V2 if writable && missing.is_empty() => None,
        Version::V2 if writable => of(format!("{} not delegated to this user", words(missing)), DELEGATE),
        // From a session of the user's own, systemd would put it where the manager's cgroups are.
        Version::V2 if exists(&manager) && own.contains(&format!("/user-{user}.slice/")) => {
            of("nothing is delegated to this user".into(), DELEGATE)
        }
        Version::V2 if exists(&manager) => of(
            "this shell is in no session of the user's".into(),
            "systemd-run --user --scope -p Delegate=yes $SHELL",
        ),
        Version::V2 => of(
            "this user has no session manager".into(),
            &format!("sudo loginctl enable-linger {user}, and log in again"),
        ),
    }
}

fn words(names: &[&str]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_mend() {
        let inside = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope\n";
        let outside = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let elsewhere = "0::/system.slice/cron.service\n";
        for (version, writable, missing, own, manager, mend) in [
            (Version::V2, true, &[][..], inside, true, None),
            (Version::V2, true, &["cpu"], inside, true, Some("delegate.conf")),
            (Version::V2, false, &[], inside, true, Some("delegate.conf")),
            (Version::V2, false, &[], outside, true, Some("delegate.conf")),
            (Version::V2, false, &[], elsewhere, true, Some("systemd-run --user --scope")),
            (Version::V2, false, &[], outside, false, Some("loginctl enable-linger 1000")),
            (Version::V1, false, &[], outside, false, Some("unified_cgroup_hierarchy=1")),
            (Version::None, false, &[], "", false, Some("cgroup2")),
        ] {
            let found = unlimited(version, writable, missing, own, 1000, |path| {
                assert!(path.starts_with("user.slice/user-1000.slice/user@1000"));
                manager
            });
            match mend {
                None => assert_eq!(found, None),
                Some(mend) => assert!(found.as_ref().unwrap().mend.contains(mend), "{found:?}"),
            }
        }
    }

    #[test]
    fn only_what_has_no_controller_is_left_out() {
        let mut spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "linux": {"resources": {"cpu": {"quota": 50000, "period": 100_000, "cpus": "0"},
                "memory": {"limit": 1_000_000}, "pids": {"limit": 5}}}
        }))
        .unwrap();
        assert_eq!(without(&mut spec, &["cpu", "io"]), ["cpu"]);
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.cpus().as_deref()), (None, Some("0")));
        assert!(resources.memory().is_some() && resources.pids().is_some());
        assert_eq!(without(&mut spec, &["cpu", "cpuset", "memory", "pids"]), ["cpuset", "memory", "pids"]);
    }
}
