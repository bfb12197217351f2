//! What parent and child say to each other while a process is made.

use std::os::fd::{AsFd, OwnedFd};

use robot_env_diag::{Error, Kind, Report, Result};
use robot_env_sys::socket;

/// One end.
pub(crate) struct Sync(OwnedFd);

/// A message.
pub(crate) enum Message {
    /// Parent: go on.
    Go,
    /// Child: its surroundings are there but not entered; the parent's hooks may run.
    Surroundings,
    /// Child: everything is ready, waiting for [`Message::Go`].
    Ready,
    /// Child: the master of its terminal.
    Terminal(OwnedFd),
    /// Child: the pidfd of the process that goes on in its place.
    Successor(OwnedFd),
    /// Child: it failed.
    Failed(Report),
    /// The other end is closed: the child has executed the program, or either has died.
    Closed,
}

/// Reports are cut to this many bytes.
const LIMIT: usize = 16 * 1024;

impl Sync {
    pub(crate) fn pair() -> Result<(Sync, Sync)> {
        let (a, b) = socket::pair()?;
        Ok((Sync(a), Sync(b)))
    }

    pub(crate) fn over(socket: OwnedFd) -> Sync {
        Sync(socket)
    }

    pub(crate) fn go(&self) -> Result<()> {
        Ok(socket::send_with_fd(&self.0, b"G", None)?)
    }

    pub(crate) fn ready(&self) -> Result<()> {
        Ok(socket::send_with_fd(&self.0, b"R", None)?)
    }

    pub(crate) fn surroundings(&self) -> Result<()> {
        Ok(socket::send_with_fd(&self.0, b"S", None)?)
    }

    pub(crate) fn terminal(&self, master: impl AsFd) -> Result<()> {
        Ok(socket::send_with_fd(&self.0, b"T", Some(master.as_fd()))?)
    }

    pub(crate) fn successor(&self, pidfd: impl AsFd) -> Result<()> {
        Ok(socket::send_with_fd(&self.0, b"P", Some(pidfd.as_fd()))?)
    }

    pub(crate) fn failed(&self, error: &Error) {
        let encode = |error: &Error| {
            let mut bytes = vec![b'F'];
            bytes.extend(serde_json::to_vec(&error.to_report()).unwrap_or_default());
            bytes
        };
        let mut bytes = encode(error);
        if bytes.len() > LIMIT {
            bytes = encode(&Error::new(error.kind(), "a failure too long to tell"));
        }
        // write(2), not sendmsg(2): of the two it is the one that every filter allows.
        let _ = rustix::io::write(&self.0, &bytes);
    }

    pub(crate) fn receive(&self) -> Result<Message> {
        // One byte at a time, except for a report, which is the last thing that is ever sent.
        let mut kind = [0u8; 1];
        let (n, fd) = match socket::receive_with_fd(&self.0, &mut kind) {
            // The other end died with something of ours unread.
            Err(error) if error.errno() == rustix::io::Errno::CONNRESET => return Ok(Message::Closed),
            other => other?,
        };
        if n == 0 {
            return Ok(Message::Closed);
        }
        Ok(match (kind[0], fd) {
            (b'G', _) => Message::Go,
            (b'S', _) => Message::Surroundings,
            (b'R', _) => Message::Ready,
            (b'T', Some(fd)) => Message::Terminal(fd),
            (b'P', Some(fd)) => Message::Successor(fd),
            (b'F', _) => {
                let mut bytes = Vec::new();
                let mut buffer = [0u8; 4096];
                while bytes.len() < LIMIT {
                    match socket::receive_with_fd(&self.0, &mut buffer)? {
                        (0, _) => break,
                        (n, _) => bytes.extend_from_slice(&buffer[..n]),
                    }
                    if serde_json::from_slice::<Report>(&bytes).is_ok() {
                        break;
                    }
                }
                Message::Failed(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                    Error::new(Kind::Internal, "the container's first process failed and could not say why")
                        .to_report()
                }))
            }
            _ => {
                return Err(Error::new(
                    Kind::Internal,
                    "the container's first process said something unknown",
                ));
            }
        })
    }
}

impl AsFd for Sync {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
