//! Unix sockets and passing file descriptors.
//!
//! Paths of sockets may be longer than `sun_path` allows (107 bytes), so a socket is named by a
//! directory descriptor and a short file name: the kernel then sees `/proc/self/fd/N/NAME`.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with, socketpair,
};

use crate::{CallResult, ErrnoContext};

/// A connected pair of stream sockets, close-on-exec.
pub fn pair() -> CallResult<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call(|| "socketpair(AF_UNIX, SOCK_STREAM)".into())
}

fn address(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Listens on a stream socket `name` in `directory`; a stale one is replaced. Only the owner of the
/// directory can reach it if the directory is 0700.
pub fn listen_at(directory: BorrowedFd<'_>, name: &str) -> CallResult<OwnedFd> {
    let _ = rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty());
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .call(|| "socket(AF_UNIX)".into())?;
    address(directory, name)
        .and_then(|address| bind(&socket, &address))
        .call(|| format!("bind(unix:{name})"))?;
    listen(&socket, 64).call(|| format!("listen(unix:{name})"))?;
    Ok(socket)
}

/// Connects to the stream socket `name` in `directory`.
pub fn connect_at(directory: BorrowedFd<'_>, name: &str) -> CallResult<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call(|| "socket(AF_UNIX)".into())?;
    address(directory, name)
        .and_then(|address| connect(&socket, &address))
        .call(|| format!("connect(unix:{name})"))?;
    Ok(socket)
}

/// Takes a waiting connection, non-blocking; `None` when there is none.
pub fn accept(listener: impl AsFd) -> CallResult<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => Ok(None),
        Err(errno) => Err(crate::CallError::new("accept4()", errno)),
    }
}

/// Makes a descriptor non-blocking.
pub fn set_nonblocking(fd: impl AsFd) -> CallResult<()> {
    rustix::io::ioctl_fionbio(fd, true).call(|| "ioctl(FIONBIO)".into())
}

/// What was sent over a unix stream socket and was not read by the other side, in bytes of the
/// kernel's buffers: 0 exactly when all of it was read.
pub fn unread(socket: BorrowedFd<'_>) -> CallResult<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the number of TIOCOUTQ) writes one int to the address given.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if rc < 0 {
        return Err(crate::CallError::new(
            "ioctl(SIOCOUTQ)",
            rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::IO),
        ));
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sends bytes, and a descriptor with them.
pub fn send_with_fd(socket: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> CallResult<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds;
    if let Some(fd) = fd {
        fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        .call(|| format!("sendmsg({} bytes)", bytes.len()))
}

/// Receives bytes, at most `buffer`'s length, and the descriptor that came with them. 0 bytes: the
/// other side has closed.
pub fn receive_with_fd(socket: impl AsFd, buffer: &mut [u8]) -> CallResult<(usize, Option<OwnedFd>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                let fd = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                return Ok((received.bytes, fd));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(crate::CallError::new("recvmsg()", errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_socket_below_a_long_path_works() {
        let base = std::env::temp_dir().join(format!("re-socket-{}", std::process::id()));
        let long = base.join("d".repeat(120));
        std::fs::create_dir_all(&long).unwrap();
        let directory = rustix::fs::open(
            &long,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let listener = listen_at(directory.as_fd(), "attach.sock").unwrap();
        assert!(accept(&listener).unwrap().is_none());
        let mut client: std::os::unix::net::UnixStream =
            connect_at(directory.as_fd(), "attach.sock").unwrap().into();
        let server = accept(&listener).unwrap().expect("the client is waiting");
        client.write_all(b"hello").unwrap();
        let mut server: std::os::unix::net::UnixStream = server.into();
        server.set_nonblocking(false).unwrap();
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
        assert_eq!(unread(client.as_fd()).unwrap(), 0);
        client.write_all(b"more").unwrap();
        assert!(unread(client.as_fd()).unwrap() >= 4);
        server.read_exact(&mut buffer[..4]).unwrap();
        assert_eq!(unread(client.as_fd()).unwrap(), 0);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
