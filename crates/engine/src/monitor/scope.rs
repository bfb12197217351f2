//! A monitor's way into the cgroup that systemd has delegated to its user.
//!
//! Whoever has logged in by ssh runs in a cgroup of root's. A process can get from there to those that
//! the user may write only by the hand of the user's service manager, in a scope. What is there ends
//! with the last session, unless the user lingers (loginctl(1)); so without need nobody is moved:
//! a robot's container is to go on when the operator logs out.

use robot_env_diag::{Error, Kind, Result};
use robot_env_runtime::systemd::{Manager, Scope};
use robot_env_spec::LIMITS_LEFT_OUT;
use robot_env_sys::cgroup;

use super::Ground;
use crate::engine::Engine;
use crate::record::ContainerRecord;
use crate::rootless::{self, Identity};

impl Ground {
    /// Makes cgroups possible for a start of `record`, or leaves them: what the user should hear.
    pub(super) fn settle(&mut self, engine: &Engine, record: &ContainerRecord) -> Option<String> {
        if !self.hierarchies.is_outside() {
            return None;
        }
        let lingers = rootless::linger::is_on();
        let needs = record.spec.resources.need_cgroup();
        if !needs && !lingers {
            self.leave();
            return None;
        }
        let first = |topic: &str, text: &str| rootless::once::first(engine.paths.run_root(), topic, text);
        match self.enter(record) {
            Err(error) => {
                self.leave();
                let text = format!("{LIMITS_LEFT_OUT}: {}", error.in_one_line());
                (needs && first("limits", &text)).then_some(text)
            }
            Ok(()) if lingers => None,
            Ok(()) => {
                let text = "containers with limits end when you log out; `loginctl enable-linger` keeps them";
                first("linger", text).then(|| text.to_owned())
            }
        }
    }

    /// Does without: of the host's facts, that is this one.
    fn leave(&mut self) {
        self.hierarchies = self.hierarchies.clone().untouched();
        self.host.cgroup_writable = false;
    }

    /// Has this monitor moved to where it can put processes into the user's cgroups.
    pub(super) fn enter(&mut self, record: &ContainerRecord) -> Result<()> {
        if !self.hierarchies.is_outside() {
            return Ok(());
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        Manager::User(Identity::current()?.user).start(&Scope {
            name: &format!("robot-env-{}-{pid}.scope", record.id.short()),
            slice: Some("app.slice"),
            description: &format!("robot-env: monitor of {}", record.name),
            pid,
        })?;
        self.hierarchies = cgroup::detect();
        self.host.cgroup_writable = self.hierarchies.is_writable();
        if self.hierarchies.is_outside() {
            return Err(Error::new(Kind::Internal, "the service manager has moved nothing"));
        }
        Ok(())
    }
}
