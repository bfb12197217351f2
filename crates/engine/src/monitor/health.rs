//! Checks of a container's health, as the image or the user wants them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use robot_env_diag::Result;
use robot_env_oci::Healthcheck;
use robot_env_sys::fs::Durability;
use robot_env_sys::{cgroup, process, socket};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::monitor::exec::Place;
use crate::monitor::streams;
use crate::monitor::supervise::Aside;
use crate::record::{ContainerRecord, Health, HealthResult, HealthStatus};

/// Bytes of a check's output that are kept (Docker's number).
const OUTPUT: usize = 4096;
/// Results that are kept.
const KEPT: usize = 5;

/// The numbers of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Schedule {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

/// A container's health check at work; with nothing to check it waits for nothing.
pub(super) struct HealthCheck<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    schedule: Option<Schedule>,
    began: Instant,
    next: Instant,
    running: Option<Probe>,
}

struct Probe {
    pidfd: OwnedFd,
    outputs: Vec<OwnedFd>,
    output: Vec<u8>,
    started: Timestamp,
    deadline: Instant,
}

impl<'a> HealthCheck<'a> {
    /// The checks of a container that has just started.
    pub(super) fn of(engine: &'a Engine, record: &'a ContainerRecord) -> Self {
        let schedule = schedule(record);
        let began = Instant::now();
        let mut check = HealthCheck { engine, record, schedule, began, next: began, running: None };
        check.next = began + check.pause(true);
        check
    }

    /// The health of a container whose process has just begun.
    pub(super) fn initial(record: &ContainerRecord) -> Option<Health> {
        schedule(record).map(|_| Health {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: Vec::new(),
        })
    }

    fn pause(&self, starting: bool) -> Duration {
        match &self.schedule {
            Some(schedule) if starting && self.began.elapsed() < schedule.start_period => {
                schedule.start_interval
            }
            Some(schedule) => schedule.interval,
            None => Duration::ZERO,
        }
    }

    fn begin(&mut self) {
        let Some(schedule) = self.schedule.clone() else { return };
        let started = Timestamp::now();
        match self.probe(&schedule, started) {
            Ok(Some(probe)) => self.running = Some(probe),
            // Frozen: nothing can answer.
            Ok(None) => self.next = Instant::now() + self.pause(false),
            Err(error) => self.finish(HealthResult {
                start: started,
                end: Timestamp::now(),
                exit_code: -1,
                output: error.to_report().to_string(),
            }),
        }
    }

    fn probe(&self, schedule: &Schedule, started: Timestamp) -> Result<Option<Probe>> {
        let container = self.engine.records.load(&self.record.id)?;
        if container.state.state.word() == "paused" {
            return Ok(None);
        }
        let hierarchies = cgroup::detect();
        let place = Place::of(self.engine, &container, &hierarchies)?;
        let planned = place.plan(schedule.args.clone(), &self.engine.host_facts_with(&hierarchies))?;
        let (console, io) = streams(false, false, false)?;
        let (_, pidfd, _) = place.run(self.engine, &planned, console)?;
        let outputs: Vec<OwnedFd> = io.outputs.into_iter().map(|(_, fd)| fd).collect();
        for fd in &outputs {
            socket::set_nonblocking(fd)?;
        }
        let deadline = Instant::now() + schedule.timeout;
        Ok(Some(Probe { pidfd, outputs, output: Vec::new(), started, deadline }))
    }

    fn finish(&mut self, result: HealthResult) {
        self.running = None;
        let (in_start, retries) =
            self.schedule.as_ref().map_or((false, 1), |s| (self.began.elapsed() < s.start_period, s.retries));
        let Ok(_lock) = self.engine.records.lock(&self.record.id) else { return };
        let Ok(container) = self.engine.records.load(&self.record.id) else { return };
        let mut state = container.state;
        if !state.state.is_running() {
            return;
        }
        let before = state.health.take();
        let after = verdict(before.clone(), result, in_start, retries);
        let status = after.status;
        state.health = Some(after);
        let _ = self.engine.records.save_state(&self.record.id, &state, Durability::NoSync);
        if before.is_none_or(|before| before.status != status) {
            self.engine.tell(self.record, &format!("health_status: {}", status.as_str()), &[]);
        }
        self.next = Instant::now() + self.pause(status == HealthStatus::Starting);
    }
}

impl Aside for HealthCheck<'_> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.running
            .iter()
            .flat_map(|probe| {
                std::iter::once(probe.pidfd.as_fd()).chain(probe.outputs.iter().map(AsFd::as_fd))
            })
            .collect()
    }

    fn deadline(&self) -> Option<Instant> {
        self.schedule.as_ref()?;
        Some(self.running.as_ref().map_or(self.next, |probe| probe.deadline))
    }

    fn wake(&mut self) {
        let Some(probe) = &mut self.running else {
            if self.schedule.is_some() && Instant::now() >= self.next {
                self.begin();
            }
            return;
        };
        probe.read();
        let late = Instant::now() >= probe.deadline;
        if late {
            let _ = process::signal(&probe.pidfd, libc::SIGKILL);
        } else if !probe.has_ended() {
            return;
        }
        let code = process::wait(&probe.pidfd).unwrap_or(-1);
        probe.read();
        let (exit_code, output) = if late {
            let seconds = self.schedule.as_ref().map_or(0.0, |s| s.timeout.as_secs_f64());
            (-1, format!("Health check exceeded timeout ({seconds}s)"))
        } else {
            (code, String::from_utf8_lossy(&probe.output).into_owned())
        };
        let result = HealthResult { start: probe.started, end: Timestamp::now(), exit_code, output };
        self.finish(result);
    }
}

impl Drop for HealthCheck<'_> {
    fn drop(&mut self) {
        if let Some(probe) = self.running.take() {
            let _ = process::signal(&probe.pidfd, libc::SIGKILL);
            let _ = process::wait(&probe.pidfd);
        }
    }
}

impl Probe {
    fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&now)), Ok(1))
    }

    fn read(&mut self) {
        let (mut buffer, output) = ([0u8; 4096], &mut self.output);
        self.outputs.retain(|fd| {
            loop {
                match rustix::io::read(fd, &mut buffer) {
                    Ok(0) => return false,
                    Ok(n) => output.extend_from_slice(&buffer[..n.min(OUTPUT.saturating_sub(output.len()))]),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
        });
    }
}

/// What a result means for the health that was.
fn verdict(before: Option<Health>, result: HealthResult, in_start: bool, retries: u32) -> Health {
    let mut health =
        before.unwrap_or(Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() });
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if !(in_start && health.status == HealthStatus::Starting) {
        health.failing_streak += 1;
        if health.failing_streak >= retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.log.push(result);
    let surplus = health.log.len().saturating_sub(KEPT);
    health.log.drain(..surplus);
    health
}

/// The user's check over the image's; `None` when there is nothing to check.
fn schedule(record: &ContainerRecord) -> Option<Schedule> {
    let default = Healthcheck::default();
    let user = record.spec.healthcheck.as_ref().unwrap_or(&default);
    let image = record.image_config.healthcheck.as_ref().unwrap_or(&default);
    let test = if user.test.is_empty() { &image.test } else { &user.test };
    let args = match test.split_first() {
        Some((kind, args)) if kind == "CMD" && !args.is_empty() => args.to_vec(),
        Some((kind, [text])) if kind == "CMD-SHELL" => {
            let shell = &record.image_config.shell;
            let mut args: Vec<String> =
                if shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { shell.clone() };
            args.push(text.clone());
            args
        }
        _ => return None,
    };
    let time = |user: i64, image: i64, default: u64| {
        let nanoseconds = if user > 0 { user } else { image };
        if nanoseconds > 0 { Duration::from_nanos(nanoseconds as u64) } else { Duration::from_secs(default) }
    };
    let retries = if user.retries > 0 { user.retries } else { image.retries };
    Some(Schedule {
        args,
        interval: time(user.interval, image.interval, 30),
        timeout: time(user.timeout, image.timeout, 30),
        start_period: time(user.start_period, image.start_period, 0),
        start_interval: time(user.start_interval, image.start_interval, 5),
        retries: if retries > 0 { retries as u32 } else { 3 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult {
            start: Timestamp::UNIX_EPOCH,
            end: Timestamp::UNIX_EPOCH,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn verdicts_follow_dockers_rules() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let run = |codes: &[(i32, bool)]| {
            let mut health = None;
            for (code, in_start) in codes {
                health = Some(verdict(health, result(*code), *in_start, 2));
            }
            health.map(|h| (h.status, h.failing_streak, h.log.len())).unwrap()
        };
        assert_eq!(run(&[(0, false)]), (Healthy, 0, 1));
        assert_eq!(run(&[(1, true), (1, true), (1, true)]), (Starting, 0, 3));
        assert_eq!(run(&[(1, false)]), (Starting, 1, 1));
        assert_eq!(run(&[(1, false), (1, false)]), (Unhealthy, 2, 2));
        assert_eq!(run(&[(0, true), (1, true), (1, true)]), (Unhealthy, 2, 3));
        assert_eq!(run(&[(1, false), (0, false), (1, false)]), (Healthy, 1, 3));
        assert_eq!(run(&[(0, false); 9]).2, KEPT);
    }
}
