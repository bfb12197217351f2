//! A container's published ports in its monitor's loop.
//!
//! What is published stands in the networks' files, which others change while the container runs
//! (`network connect`, `disconnect`); whoever does knocks. The monitor keeps the host's sockets: bound,
//! so that no other program takes the ports, and listening where the kernel does not translate. For
//! those a process is made when the first connection or datagram comes, not before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use robot_env_network::firewall::Port;
use robot_env_network::port::{Listening, hold_again};
use robot_env_spec::ContainerId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::forward::Forwarder;
use crate::engine::Engine;
use crate::monitor::Aside;

/// A port of the host, kept for a container.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) port: Port,
    pub(crate) socket: OwnedFd,
}

impl Held {
    fn is_relayed(&self, listening: Listening) -> bool {
        listening == Listening::All || self.port.is_relayed()
    }
}

/// The ports of a container that runs.
pub(crate) struct Publication<'a> {
    engine: &'a Engine,
    container: &'a ContainerId,
    held: &'a mut Vec<Held>,
    forwarder: Option<Forwarder>,
    /// A forwarder has failed: the next one is not made before this.
    pause: Option<Instant>,
}

/// How long a forwarder that failed is missed.
const PAUSE: Duration = Duration::from_secs(1);

impl<'a> Publication<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        container: &'a ContainerId,
        held: &'a mut Vec<Held>,
    ) -> Publication<'a> {
        Publication { engine, container, held, forwarder: None, pause: None }
    }

    fn relayed(&self) -> impl Iterator<Item = &Held> {
        let listening = self.engine.listening();
        self.held.iter().filter(move |held| held.is_relayed(listening))
    }

    /// Whether somebody is at a port that waits for a forwarder.
    fn is_called(&self) -> bool {
        let mut fds: Vec<PollFd<'_>> =
            self.relayed().map(|held| PollFd::new(&held.socket, PollFlags::IN)).collect();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        !fds.is_empty() && matches!(poll(&mut fds, Some(&at_once)), Ok(ready) if ready > 0)
    }

    /// Makes the sockets those of the ports that stand in the networks' files.
    fn follow(&mut self) {
        let Ok(mut published) = self.engine.published_ports() else { return };
        let wanted = published.remove(self.container.as_str()).unwrap_or_default();
        if self.held.iter().map(|held| held.port).eq(wanted.iter().copied()) {
            return;
        }
        self.forwarder = None;
        let listening = self.engine.listening();
        let mut before = std::mem::take(self.held);
        for port in &wanted {
            let place = |port: &Port| (port.host_address(), port.host_port, port.protocol);
            let same =
                |held: &Held| place(&held.port) == place(port) && held.port.is_relayed() == port.is_relayed();
            let kept = before.iter().position(same).map(|at| before.swap_remove(at).socket);
            self.held.extend(kept.map(|socket| Held { port: *port, socket }));
        }
        drop(before);
        for port in wanted {
            // Somebody may have taken it since it was chosen; what is translated works all the same.
            if !self.held.iter().any(|held| held.port == port)
                && let Ok(socket) = hold_again(&port, listening)
            {
                self.held.push(Held { port, socket });
            }
        }
    }
}

impl Aside for Publication<'_> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.forwarder {
            Some(forwarder) => vec![forwarder.as_fd()],
            None if self.pause.is_some() => Vec::new(),
            None => self.relayed().map(|held| held.socket.as_fd()).collect(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.pause
    }

    fn wake(&mut self) {
        if let Some(forwarder) = &self.forwarder {
            let Some(code) = forwarder.ended() else { return };
            // One that was not needed any more ends with 0.
            self.pause = (code != 0).then(|| Instant::now() + PAUSE);
            self.forwarder = None;
        }
        if self.pause.is_some_and(|until| until > Instant::now()) {
            return;
        }
        self.pause = None;
        if self.is_called() {
            let network = self.engine.user_network();
            let relayed: Vec<&Held> = self.relayed().collect();
            match Forwarder::start(&relayed, network.as_ref().map(|network| (**network).as_fd())) {
                Ok(forwarder) => self.forwarder = Some(forwarder),
                Err(_) => self.pause = Some(Instant::now() + PAUSE),
            }
        }
    }

    fn knocked(&mut self) {
        let engine = self.engine;
        if engine.rootless && engine.user_network().is_none() && engine.has_joined_later(self.container) {
            // Whoever connects the container fails where this does.
            let _ = engine.lock_networks().and_then(|networks| networks.settle());
        }
        self.follow();
        self.wake();
    }
}
