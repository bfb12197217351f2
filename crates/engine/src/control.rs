//! Acting on containers: signals, stopping, freezing, waiting.

use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::ContainerId;
use robot_env_sys::cgroup::{self, Cgroup};
use robot_env_sys::fs::Durability;
use robot_env_sys::process::{self, parse_signal};

use crate::attach::{Attachment, Waited};
use crate::engine::Engine;
use crate::record::{ProcessRecord, State};
use crate::records::Container;
use crate::stream::Hello;

/// Seconds between the stop signal and SIGKILL when nobody says otherwise.
const STOP_TIMEOUT: i64 = 10;
/// How long the effect of SIGKILL is waited for, as Docker does.
const KILL_TIME: Duration = Duration::from_secs(10);

/// How [`Engine::stop`] goes about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// The signal; absent: the container's own.
    pub signal: Option<String>,
    /// Seconds until SIGKILL; -1 waits for ever; absent: the container's own.
    pub timeout: Option<i64>,
}

/// A container that was asked to stop.
struct Stopping {
    container: Container,
    target: ProcessRecord,
    watch: Option<Attachment>,
    /// When it is killed; `None`: never.
    deadline: Option<Instant>,
}

impl Engine {
    /// Sends a signal (a name with or without `SIG`, or a number) to a container's first process.
    /// SIGKILL's effect is waited for, as Docker does.
    ///
    /// # Errors
    /// `Conflict` when it does not run, `InvalidInput` for an unknown signal.
    pub fn kill(&self, text: &str, signal: &str) -> Result<()> {
        let number = known_signal(signal)?;
        let container = self.container(text)?;
        let id = &container.record.id;
        let Some(target) = container.state.state.process() else {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot kill container: {text}: container {id} is not running"),
            ));
        };
        let ends = number == libc::SIGKILL || parse_signal(container.record.stop_signal()) == Some(number);
        if ends {
            self.note_stop(id)?;
        }
        let mut watch =
            if number == libc::SIGKILL { self.attach_to(id, Hello::default()).ok() } else { None };
        send(target, number)?;
        if number == libc::SIGKILL && matches!(container.state.state, State::Running { paused: true, .. }) {
            // A frozen process dies when it is thawed.
            self.thaw(&container)?;
        }
        self.tell(&container.record, "kill", &[("signal", number.to_string())]);
        // Who has killed it goes on to remove it.
        if watch.is_some() && ended(&mut watch, Some(KILL_TIME))? {
            self.await_monitor(id);
        }
        Ok(())
    }

    /// Stops a container: its stop signal, then, after the time-out, SIGKILL. One that does not run
    /// is left as it is.
    pub fn stop(&self, text: &str, options: &StopOptions) -> Result<()> {
        self.begin_stop(text, options)?.map_or(Ok(()), |stopping| self.finish_stop(stopping))
    }

    /// Stops several: all get their signal before one is waited for. The outcomes are in their order.
    pub fn stop_all(&self, texts: &[String], options: &StopOptions) -> Vec<Result<()>> {
        let begun: Vec<_> = texts.iter().map(|text| self.begin_stop(text, options)).collect();
        begun.into_iter().map(|begun| begun?.map_or(Ok(()), |stopping| self.finish_stop(stopping))).collect()
    }

    /// Sends the stop signal; `None` when nothing is left to wait for.
    fn begin_stop(&self, text: &str, options: &StopOptions) -> Result<Option<Stopping>> {
        let number = options.signal.as_deref().map(known_signal).transpose()?;
        let container = self.container(text)?;
        if !container.state.state.is_active() {
            return Ok(None);
        }
        let id = container.record.id.clone();
        self.note_stop(&id)?;
        let container = match self.container_by_id(&id) {
            Ok(container) => container,
            // It has ended and removed itself.
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let target = match &container.state.state {
            State::Running { process, .. } => process.clone(),
            State::Restarting { .. } => return self.cancel_restart(&id).map(|()| None),
            _ => return Ok(None),
        };
        let timeout = options.timeout.or(container.record.spec.stop_timeout).unwrap_or(STOP_TIMEOUT);
        let number = number.or_else(|| parse_signal(container.record.stop_signal())).unwrap_or(libc::SIGTERM);
        let watch = self.attach_to(&id, Hello::default()).ok();
        send(&target, number)?;
        self.tell(&container.record, "kill", &[("signal", number.to_string())]);
        self.thaw(&container)?;
        let deadline =
            u64::try_from(timeout).ok().map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Ok(Some(Stopping { container, target, watch, deadline }))
    }

    fn finish_stop(&self, stopping: Stopping) -> Result<()> {
        let Stopping { container, target, mut watch, deadline } = stopping;
        let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if !ended(&mut watch, patience)? {
            send(&target, libc::SIGKILL)?;
            self.tell(&container.record, "kill", &[("signal", libc::SIGKILL.to_string())]);
            if !ended(&mut watch, Some(Duration::from_secs(30)))? {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("cannot stop container `{}`: its process does not die", container.record.name),
                ));
            }
        }
        self.await_monitor(&container.record.id);
        self.tell(&container.record, "stop", &[]);
        Ok(())
    }

    /// Stops a container if it runs, and starts it.
    pub fn restart(&self, text: &str, options: &StopOptions) -> Result<()> {
        let id = self.records.find(text)?;
        self.stop(id.as_str(), options)?;
        self.start(id.as_str(), None)?;
        let container = self.records.load(&id)?;
        self.tell(&container.record, "restart", &[]);
        Ok(())
    }

    /// Freezes a container's processes.
    pub fn pause(&self, text: &str) -> Result<()> {
        self.freeze(text, true, false)
    }

    /// The same until the end of a commit: whoever calls it holds the lock that says so.
    pub(crate) fn pause_for_commit(&self, text: &str) -> Result<()> {
        self.freeze(text, true, true)
    }

    /// Lets them go on.
    pub fn unpause(&self, text: &str) -> Result<()> {
        self.freeze(text, false, false)
    }

    fn freeze(&self, text: &str, frozen: bool, committing: bool) -> Result<()> {
        let id = self.records.find(text)?;
        let lock = self.records.lock(&id)?;
        let found = self.records.load(&id)?;
        let left_frozen = found.state.committing;
        let container = self.reconciled_under(found, &lock)?;
        let mut state = container.state.clone();
        if !frozen && left_frozen && !state.committing && state.state.is_running() {
            // A commit was killed, and what it had frozen has just been thawed.
            return Ok(());
        }
        state.committing = committing;
        state.state = state.state.with_paused(id.as_str(), frozen)?;
        let cgroup = container_cgroup(&container).ok_or_else(|| {
            let verb = if frozen { "pause" } else { "unpause" };
            let name = &container.record.name;
            let error = Error::new(
                Kind::Unsupported,
                format!("cannot {verb} container `{name}`: it has no cgroup of its own"),
            );
            if cgroup::detect().is_outside() {
                error.with_hint(
                    "it gets one when it is started behind `loginctl enable-linger`, or with a limit",
                )
            } else {
                error
            }
        })?;
        // Whoever is killed in between leaves a container that is said to be frozen and can be
        // thawed, never one that is frozen and not said to be.
        if frozen {
            self.records.save_state(&id, &state, Durability::NoSync)?;
            if let Err(error) = cgroup.freeze(true) {
                let _ = cgroup.freeze(false);
                self.records.save_state(&id, &container.state, Durability::NoSync)?;
                return Err(error.into());
            }
        } else {
            cgroup.freeze(false)?;
            self.records.save_state(&id, &state, Durability::NoSync)?;
        }
        self.tell(&container.record, if frozen { "pause" } else { "unpause" }, &[]);
        Ok(())
    }

    /// Thaws a frozen container that is about to end.
    pub(crate) fn thaw(&self, container: &Container) -> Result<()> {
        if !matches!(container.state.state, State::Running { paused: true, .. }) {
            return Ok(());
        }
        match self.freeze(container.record.id.as_str(), false, false) {
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => Ok(()),
            done => done,
        }
    }

    /// Waits until the container does not run, and gives its exit code.
    pub fn wait(&self, text: &str) -> Result<i32> {
        let container = self.container(text)?;
        if !container.state.state.is_active() {
            return Ok(container.state.state.exit_code());
        }
        let id = &container.record.id;
        loop {
            if let Ok(watch) = self.attach_to(id, Hello::default())
                && let Some(notice) = watch.wait()?
            {
                return Ok(notice.code);
            }
            // Between two processes of a restart policy, or the monitor has died: that shows soon.
            let now = self.container_by_id(id)?;
            if !now.state.state.is_active() {
                return Ok(now.state.state.exit_code());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes down that the user wants the container to end, for its restart policy.
    pub(crate) fn note_stop(&self, id: &ContainerId) -> Result<()> {
        let _lock = self.records.lock(id)?;
        let container = self.records.load(id)?;
        if container.state.stopped_by_user || !container.state.state.is_active() {
            return Ok(());
        }
        let mut state = container.state;
        state.stopped_by_user = true;
        self.records.save_state(id, &state, Durability::NoSync)
    }

    fn cancel_restart(&self, id: &ContainerId) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.records.has_monitor(id) && Instant::now() < deadline {
            let now = self.records.load(id)?;
            match &now.state.state {
                // It came up once more before it heard.
                State::Running { process, .. } => send(process, libc::SIGKILL)?,
                State::Restarting { .. } => self.wake_monitor(id),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Wakes a monitor that waits to start its container again.
    fn wake_monitor(&self, id: &ContainerId) {
        let path = self.paths.container_run(id).join("monitor.lock");
        if let Ok(text) = std::fs::read_to_string(path)
            && let Ok(pid) = text.trim().parse()
            && let Ok(pidfd) = process::pidfd_open(pid)
            && self.records.has_monitor(id)
        {
            let _ = process::signal(&pidfd, libc::SIGTERM);
        }
    }

    /// Waits a little until the monitor has gone: it cleans up after it has told of the exit.
    pub(crate) fn await_monitor(&self, id: &ContainerId) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut pause = Duration::from_micros(200);
        while self.records.has_monitor(id) && Instant::now() < deadline {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// The cgroup of a running container.
pub(crate) fn container_cgroup(container: &Container) -> Option<Cgroup> {
    let path = container.state.state.process()?.cgroup.as_ref()?;
    Some(cgroup::detect().cgroup(path, &[]))
}

fn known_signal(text: &str) -> Result<i32> {
    parse_signal(text).ok_or_else(|| Error::invalid(format!("invalid signal: {text}")))
}

/// Signals a process if it is still the one that was recorded; one that has ended needs none.
pub(crate) fn send(target: &ProcessRecord, signal: i32) -> Result<()> {
    let Ok(pidfd) = process::pidfd_open(target.pid) else { return Ok(()) };
    if process::start_time(target.pid) != Some(target.start_time) {
        return Ok(());
    }
    match process::signal(&pidfd, signal) {
        Err(error) if error.errno() == rustix::io::Errno::SRCH => Ok(()),
        done => Ok(done?),
    }
}

/// Whether the process ends within `patience`; `None` waits for ever.
fn ended(watch: &mut Option<Attachment>, patience: Option<Duration>) -> Result<bool> {
    match watch {
        // The monitor had ended before anybody could listen.
        None => Ok(true),
        Some(watch) => Ok(watch.wait_for(patience)? != Waited::TimedOut),
    }
}
