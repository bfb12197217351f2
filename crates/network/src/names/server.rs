//! The resolver's sockets and the queries that wait for somebody else's answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use robot_env_diag::Result;
use robot_env_sys::{CallError, namespace};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::message::{self, Code, Found, Kind};
use super::{ADDRESS, Zone};
use crate::plan::random;

const PORT: u16 = 53;
/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Servers that are asked for one query, one after another.
const TRIES: usize = 3;
/// Queries that wait at once; the oldest gives way.
const WAITING: usize = 128;
/// Connections at once.
const CONNECTIONS: usize = 16;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams and connections that are taken in one turn, so that others get theirs.
const TURN: usize = 64;
/// How often a connection that is being made is looked at.
const PULSE: Duration = Duration::from_millis(5);

/// A container's resolver.
pub struct Server {
    datagrams: OwnedFd,
    listener: OwnedFd,
    namespace: OwnedFd,
    waiting: Vec<Waiting>,
    connections: Vec<Connection>,
    /// Tells connections apart.
    next: u64,
    /// Which of several addresses of a name comes first.
    turn: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Datagram(SocketAddr),
    Connection(u64),
}

/// A query that somebody else answers.
struct Waiting {
    client: Client,
    /// As the client sent it.
    query: Vec<u8>,
    /// As it went on, with an id of our own.
    sent: Vec<u8>,
    socket: OwnedFd,
    /// Over a connection: what is not yet sent, and what has come.
    stream: Option<(Vec<u8>, Vec<u8>)>,
    tried: usize,
    until: Instant,
}

struct Connection {
    number: u64,
    socket: OwnedFd,
    received: Vec<u8>,
    until: Instant,
}

fn socket(address: IpAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Does something in a network namespace; the calling thread comes back.
fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    act: impl FnOnce() -> Result<T, Errno> + Send,
) -> Result<T, CallError> {
    let done = namespace::visit_network(namespace, act)?;
    done.map_err(|errno| CallError::new(format!("socket in the container at {ADDRESS}:{PORT}"), errno))
}

impl Server {
    /// Opens the sockets in a container's network namespace, whose loopback is up.
    pub fn open(namespace: OwnedFd) -> Result<Server> {
        let at = SocketAddr::new(ADDRESS.into(), PORT);
        let (datagrams, listener) = inside(namespace.as_fd(), || {
            let datagrams = socket(ADDRESS.into(), SocketType::DGRAM)?;
            // A name server of the container's own may listen on every address.
            sockopt::set_socket_reuseaddr(&datagrams, true)?;
            rustix::net::bind(&datagrams, &at)?;
            let listener = socket(ADDRESS.into(), SocketType::STREAM)?;
            sockopt::set_socket_reuseaddr(&listener, true)?;
            rustix::net::bind(&listener, &at)?;
            rustix::net::listen(&listener, 16)?;
            Ok((datagrams, listener))
        })?;
        Ok(Server {
            datagrams,
            listener,
            namespace,
            waiting: Vec::new(),
            connections: Vec::new(),
            next: 0,
            turn: 0,
        })
    }

    /// What to wait for before the next [`Server::serve`].
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.datagrams.as_fd(), self.listener.as_fd()];
        // A socket that is not connected yet would always be ready.
        let answering = |w: &&Waiting| w.stream.as_ref().is_none_or(|(unsent, _)| unsent.is_empty());
        all.extend(self.waiting.iter().filter(answering).map(|w| w.socket.as_fd()));
        all.extend(self.connections.iter().map(|connection| connection.socket.as_fd()));
        all
    }

    /// When to call [`Server::serve`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let connecting =
            self.waiting.iter().any(|w| w.stream.as_ref().is_some_and(|(unsent, _)| !unsent.is_empty()));
        let ends = self.waiting.iter().map(|w| w.until).chain(self.connections.iter().map(|c| c.until));
        ends.chain(connecting.then(|| Instant::now() + PULSE)).min()
    }

    /// Does what can be done without waiting.
    pub fn serve(&mut self, zone: &mut dyn Zone) {
        let mut buffer = vec![0u8; 4096];
        for _ in 0..TURN {
            let Ok((count, from)) = receive_from(&self.datagrams, &mut buffer) else { break };
            self.answer(&buffer[..count], Client::Datagram(from), zone);
        }
        for _ in 0..CONNECTIONS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { break };
            if self.connections.len() < CONNECTIONS {
                self.next += 1;
                let until = Instant::now() + IDLE;
                self.connections.push(Connection { number: self.next, socket, received: Vec::new(), until });
            }
        }
        self.read_connections(zone);
        self.read_answers();
        self.give_up(zone);
    }

    fn answer(&mut self, query: &[u8], client: Client, zone: &mut dyn Zone) {
        let stream = matches!(client, Client::Connection(_));
        let question = match message::parse(query) {
            Ok(question) => question,
            Err(Some(code)) => return self.send(client, &message::refusal(query, code)),
            Err(None) => return,
        };
        let found = match question.kind {
            Kind::Name => message::reverse(&question.name).and_then(|at| zone.name_of(at)).map(Found::Name),
            _ => zone.addresses(&question.name).map(|mut addresses| {
                if !addresses.is_empty() {
                    self.turn = self.turn.wrapping_add(1);
                    let first = self.turn % addresses.len();
                    addresses.rotate_left(first);
                }
                Found::Addresses(addresses)
            }),
        };
        match found {
            Some(found) => self.send(client, &message::reply(query, &question, &found, stream)),
            None => self.forward(query, client, 0, zone),
        }
    }

    /// Asks the server behind the `tried` first ones.
    fn forward(&mut self, query: &[u8], client: Client, tried: usize, zone: &mut dyn Zone) {
        let Some(servers) = zone.servers() else {
            return self.send(client, &message::refusal(query, Code::NoSuchName));
        };
        let stream = matches!(client, Client::Connection(_));
        for (at, server) in servers.addresses.iter().enumerate().take(TRIES).skip(tried) {
            let open = || {
                let kind = if stream { SocketType::STREAM } else { SocketType::DGRAM };
                let socket = socket(server.ip(), kind)?;
                match rustix::net::connect(&socket, server) {
                    Err(Errno::INPROGRESS) | Ok(()) => Ok(socket),
                    Err(errno) => Err(errno),
                }
            };
            let opened = if servers.inside {
                inside(self.namespace.as_fd(), open).map_err(|error| error.errno())
            } else {
                open()
            };
            let Ok(socket) = opened else { continue };
            // An id that nobody outside can know.
            let sent = message::with_id(query, u16::from_ne_bytes(random::<2>()));
            let stream = stream.then(|| (framed(&sent), Vec::new()));
            if stream.is_none() && rustix::net::send(&socket, &sent, SendFlags::NOSIGNAL).is_err() {
                continue;
            }
            if self.waiting.len() >= WAITING {
                self.waiting.remove(0);
            }
            let until = Instant::now() + PATIENCE;
            let query = query.to_vec();
            self.waiting.push(Waiting { client, query, sent, socket, stream, tried: at + 1, until });
            return;
        }
        self.send(client, &message::refusal(query, Code::ServerFailure));
    }

    fn read_connections(&mut self, zone: &mut dyn Zone) {
        let mut queries = Vec::new();
        let now = Instant::now();
        self.connections.retain_mut(|connection| {
            let mut buffer = [0u8; 4096];
            match rustix::net::recv(&connection.socket, &mut buffer, RecvFlags::empty()) {
                Ok((_, 0)) => return false,
                Ok((_, count)) => {
                    connection.received.extend(&buffer[..count]);
                    connection.until = now + IDLE;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
            while let Some(query) = unframed(&mut connection.received) {
                queries.push((query, connection.number));
            }
            // Nobody asks a question of 64 KiB in pieces.
            connection.received.len() <= usize::from(u16::MAX) + 2 && connection.until > now
        });
        for (query, number) in queries {
            self.answer(&query, Client::Connection(number), zone);
        }
    }

    fn read_answers(&mut self) {
        let mut done = Vec::new();
        let mut buffer = vec![0u8; 65_535];
        for waiting in &mut self.waiting {
            let answer = match &mut waiting.stream {
                None => match rustix::net::recv(&waiting.socket, &mut *buffer, RecvFlags::empty()) {
                    Ok((_, count)) => Some(buffer[..count].to_vec()),
                    Err(Errno::AGAIN | Errno::INTR) => None,
                    // Refused: the next one is asked at once.
                    Err(_) => {
                        waiting.until = Instant::now();
                        None
                    }
                },
                Some((unsent, received)) => match exchange(&waiting.socket, unsent, received, &mut buffer) {
                    Ok(()) => unframed(received),
                    Err(_) => {
                        waiting.until = Instant::now();
                        None
                    }
                },
            };
            // Anybody may send a datagram: what does not answer is left, and waited on.
            if waiting.stream.is_some()
                && answer.as_ref().is_some_and(|answer| !message::answers(&waiting.sent, answer))
            {
                // A server that was asked one question has said something else.
                waiting.until = Instant::now();
            }
            if let Some(answer) = answer.filter(|answer| message::answers(&waiting.sent, answer))
                && let Some(id) = message::id(&waiting.query)
            {
                done.push((waiting.client, message::with_id(&answer, id)));
                waiting.query.clear();
            }
        }
        self.waiting.retain(|waiting| !waiting.query.is_empty());
        for (client, answer) in done {
            self.send(client, &answer);
        }
    }

    fn give_up(&mut self, zone: &mut dyn Zone) {
        let now = Instant::now();
        let mut late = Vec::new();
        while let Some(at) = self.waiting.iter().position(|waiting| waiting.until <= now) {
            late.push(self.waiting.swap_remove(at));
        }
        for waiting in late {
            self.forward(&waiting.query, waiting.client, waiting.tried, zone);
        }
    }

    /// Sends an answer. A client that does not take it asks again.
    fn send(&mut self, client: Client, answer: &[u8]) {
        match client {
            Client::Datagram(to) => {
                let _ = rustix::net::sendto(&self.datagrams, answer, SendFlags::NOSIGNAL, &to);
            }
            Client::Connection(number) => {
                let Some(at) = self.connections.iter().position(|c| c.number == number) else { return };
                let bytes = framed(answer);
                let sent = rustix::net::send(&self.connections[at].socket, &bytes, SendFlags::NOSIGNAL);
                if sent != Ok(bytes.len()) {
                    self.connections.swap_remove(at);
                }
            }
        }
    }
}

/// A datagram and who sent it.
fn receive_from(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
    loop {
        match rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((count, _, Some(from))) => {
                let from = SocketAddr::try_from(from).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
                return Ok((count, from));
            }
            Ok((_, _, None)) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Sends what is left and takes what has come.
fn exchange(
    socket: &OwnedFd,
    unsent: &mut Vec<u8>,
    received: &mut Vec<u8>,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    if !unsent.is_empty() {
        match rustix::net::send(socket, unsent, SendFlags::NOSIGNAL) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN | Errno::INPROGRESS | Errno::ALREADY) => {
                return Ok(());
            }
            Err(errno) => return Err(errno),
        }
    }
    match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((_, 0)) => Err(Errno::CONNRESET),
        Ok((_, count)) => {
            received.extend(&buffer[..count]);
            Ok(())
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A message as it goes over a connection: its length first.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u16).to_be_bytes().to_vec();
    out.extend(message);
    out
}

/// Takes the first whole message out of what has come.
fn unframed(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(received.get(..2)?.try_into().ok()?));
    let message = received.get(2..2 + length)?.to_vec();
    received.drain(..2 + length);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_pieces() {
        let mut received = framed(b"one");
        received.extend(framed(b"two!"));
        received.extend([0, 9, b'x']);
        assert_eq!(unframed(&mut received).as_deref(), Some(&b"one"[..]));
        assert_eq!(unframed(&mut received).as_deref(), Some(&b"two!"[..]));
        assert_eq!(unframed(&mut received), None);
        assert_eq!(received, [0, 9, b'x']);
    }
}
