//! Published ports that the kernel does not translate: a process that has the sockets of the host's
//! network namespace and makes its connections where the container is reached from.
//!
//! It is a child of the container's monitor without a program of its own, has one thread, and ends
//! with the monitor, or when nobody has used it for a while. Bytes that one side does not take are
//! kept up to [`BUFFER`]; the other side is not read meanwhile.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use robot_env_diag::{Context, Kind, Result};
use robot_env_network::firewall::{Port, Protocol};
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::{namespace, poll};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, connect, recv,
    recvfrom, send, sendto, shutdown, socket_with, sockopt,
};

use super::publication::Held;

/// Bytes that wait for one direction of a connection.
const BUFFER: usize = 128 * 1024;
/// A datagram at most.
const DATAGRAM: usize = 65_536;
/// Connections and conversations at once.
const CONNECTIONS: usize = 4096;
/// A conversation by datagrams ends when nothing was said for so long.
const SILENCE: Duration = Duration::from_secs(180);

/// Without connections and conversations it ends after so long.
const IDLE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// How long it may take to hand over what a container that has ended has said last.
const FAREWELL: Duration = Duration::from_millis(500);

/// The process that forwards; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pidfd: OwnedFd,
    /// Its end tells the process to finish.
    leash: Option<OwnedFd>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.leash = None;
        let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if !matches!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1)) {
            let _ = process::signal(&self.pidfd, libc::SIGKILL);
        }
        let _ = process::wait(&self.pidfd);
    }
}

impl Forwarder {
    /// Forwards what comes to the sockets, which are bound to (and listen at) the host's ports, to the
    /// containers' addresses, in `network` if that is another one than the caller's. The caller has one
    /// thread.
    ///
    /// # Errors
    /// Where no process can be made.
    pub(crate) fn start(held: &[&Held], network: Option<BorrowedFd<'_>>) -> Result<Forwarder> {
        for Held { port, socket } in held {
            let name = || format!("cannot publish port `{}`", port.name());
            rustix::io::ioctl_fionbio(socket, true).context(Kind::Internal, name)?;
        }
        let (leash, collar) = poll::pipe()?;
        match process::clone(&CloneRequest::default())
            .context(Kind::Internal, || "cannot make the process that forwards ports".into())?
        {
            Cloned::Parent { pidfd, .. } => Ok(Forwarder { pidfd, leash: Some(collar) }),
            Cloned::Child => {
                let ready = (|| -> Result<()> {
                    let kill = Some(rustix::process::Signal::KILL);
                    rustix::process::set_parent_process_death_signal(kill)
                        .context(Kind::Internal, || "prctl(PR_SET_PDEATHSIG)".into())?;
                    process::reset_signals();
                    process::ignore_broken_pipes();
                    process::new_session()?;
                    if let Some(network) = network {
                        namespace::join(network, libc::CLONE_NEWNET)?;
                    }
                    let mut keep: Vec<_> = held.iter().map(|held| held.socket.as_raw_fd()).collect();
                    keep.push(leash.as_raw_fd());
                    process::close_all_but(&keep)?;
                    process::set_undumpable()?;
                    if let Ok(null) = std::fs::File::open("/dev/null") {
                        for number in 0..3 {
                            poll::replace_stdio(number, &null)?;
                        }
                        std::mem::forget(null);
                    }
                    Ok(())
                })();
                if ready.is_ok() {
                    let _ = rustix::thread::set_name(c"robot-env-port");
                    Loop::new(held, &leash).run();
                    poll::exit_now(0)
                }
                poll::exit_now(1)
            }
        }
    }

    /// Whether it has ended by itself, and if so, with what code.
    pub(crate) fn ended(&self) -> Option<i32> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(1))
            .then(|| process::wait(&self.pidfd).unwrap_or(1))
    }
}

impl AsFd for Forwarder {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    start: usize,
    /// Nothing more comes.
    ended: bool,
    /// The other side has been told.
    told: bool,
}

impl Pipe {
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Reads once.
    fn fill(&mut self, from: &OwnedFd, buffer: &mut [u8]) -> Result<(), Errno> {
        match recv(from, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.ended = true,
            Ok((n, _)) => {
                if self.is_empty() {
                    self.bytes.clear();
                    self.start = 0;
                }
                self.bytes.extend_from_slice(&buffer[..n]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Writes what there is, and passes the end on.
    fn drain(&mut self, to: &OwnedFd) -> Result<(), Errno> {
        while !self.is_empty() {
            match send(to, &self.bytes[self.start..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => self.start += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        if self.ended && !self.told {
            self.told = true;
            let _ = shutdown(to, Shutdown::Write);
        }
        Ok(())
    }
}

/// A connection from outside, and ours to the container.
struct Connection {
    outside: OwnedFd,
    inside: OwnedFd,
    connected: bool,
    inward: Pipe,
    outward: Pipe,
}

impl Connection {
    fn flags(&self) -> (PollFlags, PollFlags) {
        if !self.connected {
            return (PollFlags::empty(), PollFlags::OUT);
        }
        let side = |from: &Pipe, to: &Pipe| {
            let mut flags = PollFlags::empty();
            if !from.ended && from.bytes.len() - from.start < BUFFER {
                flags |= PollFlags::IN;
            }
            if !to.is_empty() {
                flags |= PollFlags::OUT;
            }
            flags
        };
        (side(&self.inward, &self.outward), side(&self.outward, &self.inward))
    }

    /// Moves what can be moved; false: it is over.
    fn step(&mut self, outside: PollFlags, inside: PollFlags, buffer: &mut [u8]) -> bool {
        if !self.connected {
            if inside.is_empty() {
                return true;
            }
            if !matches!(sockopt::socket_error(&self.inside), Ok(Ok(()))) {
                return false;
            }
            self.connected = true;
        }
        let ready = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let moved = (|| {
            let room = |pipe: &Pipe| !pipe.ended && pipe.bytes.len() - pipe.start < BUFFER;
            if outside.intersects(ready) && room(&self.inward) {
                self.inward.fill(&self.outside, buffer)?;
            }
            if inside.intersects(ready) && room(&self.outward) {
                self.outward.fill(&self.inside, buffer)?;
            }
            self.inward.drain(&self.inside)?;
            self.outward.drain(&self.outside)
        })();
        moved.is_ok() && !(self.inward.told && self.outward.told)
    }
}

/// Somebody outside who has sent datagrams to a port.
struct Conversation {
    inside: OwnedFd,
    last: Instant,
}

struct Loop<'a> {
    held: &'a [&'a Held],
    leash: &'a OwnedFd,
    connections: Vec<Connection>,
    conversations: HashMap<(usize, SocketAddr), Conversation>,
}

/// What a descriptor that is waited for belongs to.
enum Slot {
    Listener(usize),
    Datagrams(usize),
    Outside(usize),
    Inside(usize),
    Answer(usize, SocketAddr),
    Leash,
}

impl<'a> Loop<'a> {
    fn new(held: &'a [&'a Held], leash: &'a OwnedFd) -> Loop<'a> {
        Loop { held, leash, connections: Vec::new(), conversations: HashMap::new() }
    }

    /// Returns when nobody needs it any more.
    fn run(&mut self) {
        let mut buffer = vec![0u8; DATAGRAM];
        loop {
            let Some(ready) = self.wait(true, self.patience()) else { continue };
            if ready.is_empty() && self.connections.is_empty() && self.conversations.is_empty() {
                return;
            }
            if ready.iter().any(|(slot, _)| matches!(slot, Slot::Leash)) {
                return self.take_leave(&mut buffer);
            }
            self.serve(ready, &mut buffer);
            self.conversations.retain(|_, conversation| conversation.last.elapsed() < SILENCE);
        }
    }

    fn patience(&self) -> Option<Timespec> {
        if !self.conversations.is_empty() {
            return Some(Timespec { tv_sec: 10, tv_nsec: 0 });
        }
        self.connections.is_empty().then_some(IDLE)
    }

    /// The container has ended: what it has said is still handed over.
    fn take_leave(&mut self, buffer: &mut [u8]) {
        let deadline = Instant::now() + FAREWELL;
        let turn = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        while Instant::now() < deadline {
            let Some(ready) = self.wait(false, Some(turn)) else { continue };
            let is_quiet = ready.is_empty();
            self.serve(ready, buffer);
            if is_quiet && self.connections.iter().all(|connection| connection.outward.is_empty()) {
                return;
            }
        }
    }

    fn serve(&mut self, ready: Vec<(Slot, PollFlags)>, buffer: &mut [u8]) {
        let none = (PollFlags::empty(), PollFlags::empty());
        let mut sides: HashMap<usize, (PollFlags, PollFlags)> = HashMap::new();
        for (slot, flags) in ready {
            match slot {
                Slot::Listener(at) => self.admit(at),
                Slot::Datagrams(at) => self.forward_datagrams(at, buffer),
                Slot::Outside(at) => sides.entry(at).or_insert(none).0 |= flags,
                Slot::Inside(at) => sides.entry(at).or_insert(none).1 |= flags,
                Slot::Answer(at, from) => self.answer(at, from, buffer),
                Slot::Leash => {}
            }
        }
        let mut over: Vec<usize> = sides
            .into_iter()
            .filter(|(at, (outside, inside))| !self.connections[*at].step(*outside, *inside, buffer))
            .map(|(at, _)| at)
            .collect();
        over.sort_unstable();
        for at in over.into_iter().rev() {
            self.connections.swap_remove(at);
        }
    }

    /// What is ready. Only while it is `open` for new ones are the ports among it, and the leash.
    fn wait(&self, open: bool, timeout: Option<Timespec>) -> Option<Vec<(Slot, PollFlags)>> {
        let (mut slots, mut fds) = (Vec::new(), Vec::new());
        if open {
            slots.push(Slot::Leash);
            fds.push(PollFd::new(self.leash, PollFlags::IN));
        }
        let full = self.connections.len() + self.conversations.len() >= CONNECTIONS;
        for (at, Held { port, socket }) in self.held.iter().enumerate().filter(|_| open) {
            match port.protocol {
                Protocol::Tcp if full => continue,
                Protocol::Tcp => slots.push(Slot::Listener(at)),
                Protocol::Udp => slots.push(Slot::Datagrams(at)),
            }
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        for (at, connection) in self.connections.iter().enumerate() {
            let (outside, inside) = connection.flags();
            if !outside.is_empty() {
                slots.push(Slot::Outside(at));
                fds.push(PollFd::new(&connection.outside, outside));
            }
            if !inside.is_empty() {
                slots.push(Slot::Inside(at));
                fds.push(PollFd::new(&connection.inside, inside));
            }
        }
        for ((at, from), conversation) in &self.conversations {
            slots.push(Slot::Answer(*at, *from));
            fds.push(PollFd::new(&conversation.inside, PollFlags::IN));
        }
        rustix::event::poll(&mut fds, timeout.as_ref()).ok()?;
        let flags: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        Some(slots.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// A socket in the container's network that is on its way to the container's port.
    fn reach(port: &Port, kind: SocketType) -> Result<(OwnedFd, bool), Errno> {
        let family = if port.container.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &SocketAddr::new(port.container, port.container_port)) {
            Ok(()) => Ok((socket, true)),
            Err(Errno::INPROGRESS) => Ok((socket, false)),
            Err(errno) => Err(errno),
        }
    }

    fn admit(&mut self, at: usize) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(outside) = accept_with(&self.held[at].socket, flags) else { return };
        // Somebody who cannot be served is told by a closed connection.
        if let Ok((inside, connected)) = Loop::reach(&self.held[at].port, SocketType::STREAM) {
            for socket in [&outside, &inside] {
                let _ = sockopt::set_tcp_nodelay(socket, true);
            }
            let (inward, outward) = (Pipe::default(), Pipe::default());
            self.connections.push(Connection { outside, inside, connected, inward, outward });
        }
    }

    fn forward_datagrams(&mut self, at: usize, buffer: &mut [u8]) {
        // A few at a time: others want their turn.
        for _ in 0..64 {
            let Ok((length, _, Some(from))) =
                recvfrom(&self.held[at].socket, &mut *buffer, RecvFlags::DONTWAIT)
            else {
                return;
            };
            let Ok(from) = SocketAddr::try_from(from) else { continue };
            let full = self.conversations.len() + self.connections.len() >= CONNECTIONS;
            if !self.conversations.contains_key(&(at, from)) {
                if full {
                    continue;
                }
                let Ok((inside, _)) = Loop::reach(&self.held[at].port, SocketType::DGRAM) else { continue };
                self.conversations.insert((at, from), Conversation { inside, last: Instant::now() });
            }
            if let Some(conversation) = self.conversations.get_mut(&(at, from)) {
                conversation.last = Instant::now();
                let _ = send(&conversation.inside, &buffer[..length], SendFlags::DONTWAIT);
            }
        }
    }

    fn answer(&mut self, at: usize, to: SocketAddr, buffer: &mut [u8]) {
        let Some(conversation) = self.conversations.get_mut(&(at, to)) else { return };
        for _ in 0..64 {
            match recv(&conversation.inside, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    conversation.last = Instant::now();
                    let _ = sendto(&self.held[at].socket, &buffer[..length], SendFlags::DONTWAIT, &to);
                }
                // Nobody listens there (now); the next datagram asks again.
                Err(_) => return,
            }
        }
    }
}
