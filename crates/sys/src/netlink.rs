//! Route netlink (`rtnetlink(7)`), as messages of our own.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::{CallError, CallResult};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFF_UP: u32 = 1;
const LOOPBACK_INDEX: i32 = 1;

/// A route netlink socket of the calling thread's network namespace.
pub struct RouteSocket(OwnedFd);

impl RouteSocket {
    /// Opens one.
    pub fn open() -> CallResult<Self> {
        // SAFETY: plain numbers.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if fd < 0 {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
            return Err(CallError::new("socket(AF_NETLINK, NETLINK_ROUTE)", errno));
        }
        // SAFETY: socket returned a new descriptor that nothing else owns.
        Ok(RouteSocket(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Brings up the loopback interface.
    pub fn loopback_up(&self) -> CallResult<()> {
        let mut body = Vec::with_capacity(16);
        body.extend([0u8, 0]); // family, padding
        body.extend(0u16.to_ne_bytes()); // type
        body.extend(LOOPBACK_INDEX.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes()); // flags
        body.extend(IFF_UP.to_ne_bytes()); // which of them change
        self.request(RTM_NEWLINK, &body, "RTM_NEWLINK(lo, up)")
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(&self, kind: u16, body: &[u8], what: &str) -> CallResult<()> {
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend(1u32.to_ne_bytes()); // sequence
        message.extend(0u32.to_ne_bytes()); // port
        message.extend_from_slice(body);
        let fail = |errno| CallError::new(what, errno);
        // SAFETY: pointer and length describe `message`; an unconnected netlink socket sends to the
        // kernel.
        let sent =
            unsafe { libc::send(self.0.as_fd().as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(fail(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)));
        }
        let mut answer = [0u8; 4096];
        let n = rustix::io::read(&self.0, &mut answer).map_err(fail)?;
        let field =
            |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        let answer_kind = u16::from_ne_bytes([answer[4], answer[5]]);
        match (n >= 20 && answer_kind == NLMSG_ERROR).then(|| field(16)).flatten() {
            Some(0) => Ok(()),
            Some(code) => Err(fail(Errno::from_raw_os_error(-code))),
            None => Err(fail(Errno::BADMSG)),
        }
    }
}
