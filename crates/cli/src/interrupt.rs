//! Ctrl-C: while registries are talked to, what was begun is taken back, and then the command ends;
//! commands that watch something end at their next look.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use robot_env_diag::Result;
use robot_env_registry::Client;
use robot_env_sys::poll::{SignalFd, exit_now, pipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::verb::Exit;

/// Does something with `client`; SIGINT, SIGTERM and SIGHUP cancel it. A second one ends the
/// process at once: what is left then is cleaned up by a later command.
pub(crate) fn interruptible<T>(client: &Client, act: impl FnOnce() -> Result<T>) -> Result<T> {
    interruptible_by(client, &|| {}, act)
}

/// [`interruptible`], with more to do when it is cancelled.
pub(crate) fn interruptible_by<T>(
    client: &Client,
    cancel: &(dyn Fn() + Sync),
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let signals = SignalFd::new(&[Signal::INT.as_raw(), Signal::TERM.as_raw(), Signal::HUP.as_raw()])?;
    let (ended, end) = pipe()?;
    std::thread::scope(|scope| {
        let watch = || {
            let mut cancelled = false;
            loop {
                let mut fds = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
                if poll(&mut fds, None).is_err() {
                    continue;
                }
                if !fds[0].revents().is_empty() {
                    return;
                }
                while let Some(signal) = signals.next() {
                    if std::mem::replace(&mut cancelled, true) {
                        exit_now(128 + signal);
                    }
                    client.cancel();
                    cancel();
                }
            }
        };
        let _watching = scope.spawn(watch);
        let done = act();
        // The watcher sees the other end close.
        drop(end);
        done
    })
}

/// SIGINT, SIGTERM and SIGHUP for a command that watches something until it is told to stop.
pub(crate) struct Interrupts(SignalFd);

impl Interrupts {
    /// From now on these signals wait here.
    pub(crate) fn new() -> Result<Interrupts> {
        Ok(Interrupts(SignalFd::new(&[Signal::INT.as_raw(), Signal::TERM.as_raw(), Signal::HUP.as_raw()])?))
    }

    /// The exit that a signal which has arrived stands for.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.0.next().map(|signal| Exit((128 + signal) as u8))
    }

    /// Waits so long, or until a signal arrives.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Exit> {
        let time =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time));
        self.exit()
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
