//! Netlink, by messages of our own: a builder for requests, a socket that sends a batch of them and
//! reads the answers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::{CallError, CallResult};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const IFF_UP: u32 = 1;
const LOOPBACK_INDEX: i32 = 1;
const HEADER: usize = 16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const MESSAGE_TEXT: u16 = 1; // NLMSGERR_ATTR_MSG
const SMALL_BATCH: usize = 96 * 1024;

/// `NLM_F_*`: this is a request.
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`: success is answered too.
pub const ACK: u16 = 4;
/// `NLM_F_EXCL`: with [`CREATE`], an existing one is an error.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_DUMP`: all that match.
pub const DUMP: u16 = 0x300;
/// `NLM_F_APPEND`: with [`CREATE`], behind what is there.
pub const APPEND: u16 = 0x800;

/// A request being written: its header, the fixed part, attributes.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
    what: String,
}

/// An attribute that has others inside, between [`Message::begin`] and [`Message::end`].
#[must_use]
pub struct Nest(usize);

impl Message {
    /// A message of `kind` (`RTM_*`, ...); `what` names it in errors: `RTM_NEWLINK(lo, up)`.
    pub fn new(kind: u16, flags: u16, what: impl Into<String>) -> Message {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]); // sequence, port
        Message { bytes, what: what.into() }
    }

    /// Adds the fixed part, in the kernel's layout.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Message {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Message {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds an attribute that is a text ending with NUL.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that is a number in the machine's byte order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute that is a number in network byte order, as nf_tables wants its numbers.
    pub fn number_be(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// The bytes so far; the header's length and sequence are not yet filled in.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins an attribute that has others inside. Kinds that must carry `NLA_F_NESTED` (0x8000)
    /// are given with it.
    pub fn begin(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend(0u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        Nest(at)
    }

    /// Ends it.
    pub fn end(&mut self, Nest(at): Nest) -> &mut Message {
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32, flags: u16) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// The attributes in `bytes`: kind (without its flag bits) and value. What is cut short ends it.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)? & 0x3fff);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A netlink socket of the network namespace that the calling thread is in.
pub struct NetlinkSocket {
    fd: OwnedFd,
    sequence: u32,
}

/// The route family's socket.
pub struct RouteSocket(NetlinkSocket);

impl NetlinkSocket {
    /// Opens one of a family (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub fn open(family: libc::c_int) -> CallResult<Self> {
        // SAFETY: plain numbers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family) };
        if fd < 0 {
            return Err(CallError::new(format!("socket(AF_NETLINK, {family})"), last_errno()));
        }
        // SAFETY: socket returned a new descriptor that nothing else owns.
        let socket = NetlinkSocket { fd: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 };
        // Kernels before 4.12 lack them: then errors come without the kernel's words.
        let _ = socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        let _ = socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        Ok(socket)
    }

    /// Opens one of the network namespace behind `namespace`. The calling thread goes there and
    /// comes back; nobody else's thread moves.
    pub fn open_in(namespace: BorrowedFd<'_>, family: libc::c_int) -> CallResult<Self> {
        crate::namespace::visit_network(namespace, || Self::open(family))?
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> CallResult<()> {
        // SAFETY: pointer and length describe `value`.
        let rc = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        if rc < 0 {
            Err(CallError::new(format!("setsockopt({level}, {name})"), last_errno()))
        } else {
            Ok(())
        }
    }

    /// Sends `messages` to the netfilter subsystem `subsystem` as one transaction: all of them
    /// happen or none. The first refusal is the error.
    pub fn transaction(&mut self, subsystem: u16, messages: &mut [Message]) -> CallResult<()> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let mut fixed = [0u8; 4]; // family, version, then the subsystem in network byte order
        fixed[2..].copy_from_slice(&subsystem.to_be_bytes());
        let frame = |kind: u16, what: &str| Message::new(kind, 0, what).fixed(&fixed);
        let mut batch = Vec::new();
        self.sequence += 1;
        let first = self.sequence;
        batch.extend_from_slice(frame(BATCH_BEGIN, "begin").finish(first, 0));
        for (at, message) in messages.iter_mut().enumerate() {
            self.sequence += 1;
            // One acknowledgement stands for all: a refused message is answered in any case, and a
            // thousand acknowledgements would not fit the receive buffer.
            batch.extend_from_slice(message.finish(self.sequence, if at == last { ACK } else { 0 }));
        }
        let acknowledged = self.sequence;
        self.sequence += 1;
        batch.extend_from_slice(frame(BATCH_END, "end").finish(self.sequence, 0));
        let name = messages[0].what.clone();
        if batch.len() > SMALL_BATCH {
            self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 2 * batch.len() as libc::c_int)?;
        }
        self.send(&batch, &name)?;
        // The kernel works inside send: every answer is there by now.
        let (mut done, mut failure) = (false, None);
        while let Some(buffer) = self.receive_ready(&name)? {
            for (kind, sequence, body) in parts(&buffer) {
                if kind != NLMSG_ERROR || !(first..=self.sequence).contains(&sequence) {
                    continue;
                }
                let message = (sequence - first).checked_sub(1).and_then(|at| messages.get(at as usize));
                let what = message.map_or("nfnetlink commit", |message| message.what.as_str());
                match i32_at(body, 0) {
                    Some(0) => done |= sequence == acknowledged,
                    Some(code) if failure.is_none() => failure = Some(refusal(what, code, body)),
                    Some(_) => {}
                    None => return Err(CallError::new(what, Errno::BADMSG)),
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None if done => Ok(()),
            None => Err(CallError::new(format!("{name}: no answer"), Errno::BADMSG)),
        }
    }

    /// Sends `messages` in one go and waits for the acknowledgement of each; the first refusal is
    /// the error (what came before it is done).
    pub fn request(&mut self, messages: &mut [Message]) -> CallResult<()> {
        let first = self.sequence + 1;
        let mut batch = Vec::new();
        for message in messages.iter_mut() {
            self.sequence += 1;
            batch.extend_from_slice(message.finish(self.sequence, ACK));
        }
        let Some(name) = messages.first().map(|message| message.what.clone()) else { return Ok(()) };
        self.send(&batch, &name)?;
        let mut open = messages.len();
        let mut failure = None;
        while open > 0 {
            let buffer = self.receive(&name)?;
            for (kind, sequence, body) in parts(&buffer) {
                let Some(message) = sequence.checked_sub(first).and_then(|at| messages.get(at as usize))
                else {
                    continue;
                };
                if kind != NLMSG_ERROR {
                    continue;
                }
                open -= 1;
                match i32_at(body, 0) {
                    Some(0) => {}
                    Some(code) if failure.is_none() => {
                        failure = Some(refusal(&message.what, code, body));
                    }
                    Some(_) => {}
                    None => return Err(CallError::new(message.what.clone(), Errno::BADMSG)),
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends a request and collects the answers' bodies (fixed part and attributes): one, or with
    /// [`DUMP`] all.
    pub fn ask(&mut self, mut message: Message) -> CallResult<Vec<Vec<u8>>> {
        self.sequence += 1;
        let dump = u16_at(&message.bytes, 6).is_some_and(|flags| flags & DUMP == DUMP);
        let what = message.what.clone();
        let wanted = self.sequence;
        self.send(message.finish(wanted, 0), &what)?;
        let mut answers = Vec::new();
        loop {
            let buffer = self.receive(&what)?;
            for (kind, sequence, body) in parts(&buffer) {
                match kind {
                    _ if sequence != wanted => {}
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => match i32_at(body, 0) {
                        Some(0) => return Ok(answers),
                        Some(code) => return Err(refusal(&what, code, body)),
                        None => return Err(CallError::new(what, Errno::BADMSG)),
                    },
                    _ => answers.push(body.to_vec()),
                }
            }
            if !dump && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    fn send(&self, bytes: &[u8], what: &str) -> CallResult<()> {
        // SAFETY: pointer and length describe `bytes`; an unconnected netlink socket sends to the
        // kernel.
        let sent = unsafe { libc::send(self.fd.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(CallError::new(what, last_errno())) } else { Ok(()) }
    }

    /// A datagram that is there already.
    fn receive_ready(&self, what: &str) -> CallResult<Option<Vec<u8>>> {
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            // SAFETY: pointer and length describe `buffer`.
            let n = unsafe {
                libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
            };
            match n {
                0.. => {
                    buffer.truncate(n as usize);
                    return Ok(Some(buffer));
                }
                _ => match last_errno() {
                    Errno::AGAIN => return Ok(None),
                    Errno::INTR => {}
                    errno => return Err(CallError::new(what, errno)),
                },
            }
        }
    }

    fn receive(&self, what: &str) -> CallResult<Vec<u8>> {
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(n) => {
                    buffer.truncate(n);
                    return Ok(buffer);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(CallError::new(what, errno)),
            }
        }
    }
}

/// The error of an answer that refuses `what`, with the kernel's own words where it gave some.
fn refusal(what: &str, code: i32, body: &[u8]) -> CallError {
    let errno = Errno::from_raw_os_error(-code);
    // The answer repeats the request's header, then come attributes.
    let words = attributes(body.get(4 + HEADER..).unwrap_or_default())
        .find(|(kind, _)| *kind == MESSAGE_TEXT)
        .map(|(_, text)| String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned());
    CallError::new(words.map_or_else(|| what.to_owned(), |words| format!("{what} ({words})")), errno)
}

/// The messages in a datagram: kind, sequence, body.
fn parts(buffer: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let mut out = Vec::new();
    let mut rest = buffer;
    while let (Some(length), Some(kind), Some(sequence)) = (i32_at(rest, 0), u16_at(rest, 4), i32_at(rest, 8))
    {
        let Some(body) = rest.get(HEADER..length as usize) else { break };
        out.push((kind, sequence as u32, body));
        rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

impl RouteSocket {
    /// Opens one.
    pub fn open() -> CallResult<Self> {
        NetlinkSocket::open(libc::NETLINK_ROUTE).map(RouteSocket)
    }

    /// Opens one of the network namespace behind `namespace`; see [`NetlinkSocket::open_in`].
    pub fn open_in(namespace: BorrowedFd<'_>) -> CallResult<Self> {
        NetlinkSocket::open_in(namespace, libc::NETLINK_ROUTE).map(RouteSocket)
    }

    /// Brings up the loopback interface.
    pub fn loopback_up(&mut self) -> CallResult<()> {
        let mut body = Vec::with_capacity(16);
        body.extend([0u8, 0]); // family, padding
        body.extend(0u16.to_ne_bytes()); // type
        body.extend(LOOPBACK_INDEX.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes()); // flags
        body.extend(IFF_UP.to_ne_bytes()); // which of them change
        self.0.request(&mut [Message::new(RTM_NEWLINK, 0, "RTM_NEWLINK(lo, up)").fixed(&body)])
    }

    /// The socket, for other messages.
    pub fn socket(&mut self) -> &mut NetlinkSocket {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_layout() {
        let mut message = Message::new(16, CREATE, "x").fixed(&[1, 2, 3, 4]);
        message.text(3, "lo").number(4, 7);
        let nest = message.begin(18);
        message.attribute(1, &[9]);
        message.end(nest);
        let bytes = message.finish(5, ACK).to_vec();
        assert_eq!(bytes.len() as i32, i32_at(&bytes, 0).unwrap());
        assert_eq!(
            (u16_at(&bytes, 4), u16_at(&bytes, 6), i32_at(&bytes, 8)),
            (Some(16), Some(CREATE | ACK | REQUEST), Some(5))
        );
        let found: Vec<(u16, Vec<u8>)> = attributes(&bytes[20..]).map(|(k, v)| (k, v.to_vec())).collect();
        assert_eq!(found[0], (3, b"lo\0".to_vec()));
        assert_eq!(found[1], (4, 7u32.to_ne_bytes().to_vec()));
        assert_eq!(attributes(&found[2].1).next(), Some((1, &[9u8][..])));
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0, "a cut attribute ends it");
    }

    #[test]
    fn the_kernel_answers() {
        const RTM_GETLINK: u16 = 18;
        const IFLA_IFNAME: u16 = 3;
        let mut socket = NetlinkSocket::open(libc::NETLINK_ROUTE).unwrap();
        let links = socket.ask(Message::new(RTM_GETLINK, DUMP, "RTM_GETLINK(all)").fixed(&[0; 16])).unwrap();
        let name = |link: &Vec<u8>| {
            attributes(&link[16..]).find(|(kind, _)| *kind == IFLA_IFNAME).map(|(_, v)| v.to_vec())
        };
        assert!(links.iter().any(|link| name(link) == Some(b"lo\0".to_vec())), "{links:?}");
        let mut body = [0u8; 16];
        body[4..8].copy_from_slice(&9_999_999i32.to_ne_bytes());
        let error = socket.ask(Message::new(RTM_GETLINK, 0, "RTM_GETLINK(none)").fixed(&body)).unwrap_err();
        assert_eq!(error.errno(), Errno::NODEV);
    }
}
