//! Finding out what became of containers whose monitors died.

use std::fs;

use jiff::Timestamp;
use oci_spec::runtime::Spec;
use robot_env_diag::{Kind, Result};
use robot_env_spec::ContainerId;
use robot_env_sys::cgroup;
use robot_env_sys::fs::Durability;
use robot_env_sys::process;

use crate::control::container_cgroup;
use crate::engine::Engine;
use crate::record::{ExitRecord, ProcessRecord, State};
use crate::records::{Container, ContainerLock, read_json};

impl Engine {
    /// The container as it is: a record that says "running" without a monitor behind it is wrong,
    /// and is put right. What is left of the container's processes is killed: nobody moves their
    /// streams any more.
    pub(crate) fn reconciled(&self, container: Container) -> Result<Container> {
        let id = &container.record.id;
        if is_abandoned(&container) {
            // Its maker holds the lock, and then its monitor, until it runs.
            let Some(lock) = self.records.try_lock(id)? else { return Ok(container) };
            return self.reconciled_under(self.records.load(id)?, &lock);
        }
        if !container.state.state.is_active()
            || (self.records.has_monitor(id) && !self.is_left_frozen(&container))
        {
            return Ok(container);
        }
        let lock = self.records.lock(id)?;
        self.reconciled_under(self.records.load(id)?, &lock)
    }

    /// Whether it is frozen by a commit that was killed.
    fn is_left_frozen(&self, container: &Container) -> bool {
        container.state.committing
            && matches!(container.state.state, State::Running { paused: true, .. })
            && !self.records.is_committed(&container.record.id)
    }

    /// The same for somebody who holds the container's lock and has loaded it since.
    pub(crate) fn reconciled_under(
        &self,
        mut container: Container,
        _lock: &ContainerLock,
    ) -> Result<Container> {
        let id = container.record.id.clone();
        if is_abandoned(&container) {
            self.clean_after_kill(&id);
            self.remove_dead(&container.record)?;
            return self.records.load(&id);
        }
        if self.is_left_frozen(&container) && self.records.has_monitor(&id) {
            if let Some(cgroup) = container_cgroup(&container) {
                cgroup.freeze(false)?;
            }
            container.state.state = container.state.state.with_paused(id.as_str(), false)?;
            container.state.committing = false;
            self.records.save_state(&id, &container.state, Durability::NoSync)?;
            self.tell(&container.record, "unpause", &[]);
        }
        if !container.state.state.is_active() || self.records.has_monitor(&id) {
            return Ok(container);
        }
        let exit = match &container.state.state {
            State::Running { process, started, .. } => {
                kill_leftovers(process);
                ExitRecord {
                    code: 137,
                    oom_killed: false,
                    started: *started,
                    finished: Timestamp::now(),
                    error: Some("the container's monitor was killed".into()),
                }
            }
            State::Restarting { exit } => exit.clone(),
            _ => return Ok(container),
        };
        let _ = self.leave_networks(&id);
        let code = exit.code;
        container.state.state = State::Exited { exit };
        container.state.health = None;
        match self.records.save_state(&id, &container.state, Durability::NoSync) {
            // It is found dead again by the next command; this one, which may be to remove it, goes on.
            Err(error) if error.kind() == Kind::NoSpace => {}
            done => done?,
        }
        let _ = fs::remove_dir_all(self.paths.container_run(&id));
        self.tell(&container.record, "die", &[("exitCode", code.to_string())]);
        if container.record.spec.auto_remove {
            self.remove_dead(&container.record)?;
            return self.records.load(&id);
        }
        Ok(container)
    }
}

impl Engine {
    /// Takes away what a killed monitor has left of a container that does not run: processes, its
    /// cgroup, its run directory. For somebody who holds the container's lock, or knows that there is
    /// no such container any more.
    pub(crate) fn clean_after_kill(&self, id: &ContainerId) {
        let run = self.paths.container_run(id);
        // A monitor that ends by itself takes it away.
        if !run.exists() || self.records.has_monitor(id) {
            return;
        }
        // Its places in networks are taken before anything else is made.
        let _ = self.leave_networks(id);
        let config = run.join("config.json");
        if !config.exists() {
            return;
        }
        // Half of one was written by somebody who was killed before there was a cgroup.
        if let Ok(Some(spec)) = read_json::<Spec>(&config)
            && let Some(path) = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref())
            && path.file_name().is_some_and(|name| name == id.as_str())
        {
            end_cgroup(&path.to_string_lossy());
        }
        let _ = fs::remove_dir_all(run);
    }
}

/// Whether it is a `--rm` container of somebody who was about to start it: where nobody holds its
/// lock, that one was killed, and nothing else would ever remove it.
fn is_abandoned(container: &Container) -> bool {
    let record = &container.record;
    record.starts_at_once && record.spec.auto_remove && container.state.state == State::Created
}

/// Ends what is left of a container: its first process, if it is still that one, and everything in
/// its cgroup.
fn kill_leftovers(process: &ProcessRecord) {
    if let Ok(pidfd) = process::pidfd_open(process.pid)
        && process::start_time(process.pid) == Some(process.start_time)
    {
        let _ = process::signal(&pidfd, libc::SIGKILL);
    }
    if let Some(path) = &process.cgroup {
        end_cgroup(path);
    }
}

/// Kills everything in a cgroup and removes it.
pub(crate) fn end_cgroup(path: &str) {
    // In every hierarchy: limits may have asked for more than each container has.
    let cgroup = cgroup::detect().with_every_controller().cgroup(path, &[]);
    cgroup.kill();
    for _ in 0..1000 {
        if cgroup.processes().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    cgroup.remove();
}
