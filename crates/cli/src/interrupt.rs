//! Ctrl-C while registries are talked to: what was begun is taken back, and then the command ends.

use std::os::fd::AsFd;

use robot_env_diag::Result;
use robot_env_registry::Client;
use robot_env_sys::poll::{SignalFd, exit_now, pipe};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

/// Does something with `client`; SIGINT, SIGTERM and SIGHUP cancel it. A second one ends the
/// process at once: what is left then is cleaned up by a later command.
pub(crate) fn interruptible<T>(client: &Client, act: impl FnOnce() -> Result<T>) -> Result<T> {
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
