//! The kernel's news of devices that come and go (`NETLINK_KOBJECT_UEVENT`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with,
};

use crate::{CallError, CallResult, ErrnoContext};

/// The multicast group in which the kernel itself speaks.
const KERNEL: u32 = 1;
/// The largest message, as udev has it.
const LIMIT: usize = 8192;

/// A socket that hears of devices, of the network namespace that the caller is in.
#[derive(Debug)]
pub struct UeventSocket(OwnedFd);

/// What a message is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, ...
    pub action: String,
    /// Path below `/sys`.
    pub path: String,
    /// `tty`, `usb`, ...
    pub subsystem: String,
}

impl UeventSocket {
    /// Opens one; it does not block.
    pub fn open() -> CallResult<UeventSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))
            .call(|| "socket(AF_NETLINK, NETLINK_KOBJECT_UEVENT)".into())?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).call(|| "bind(NETLINK_KOBJECT_UEVENT)".into())?;
        Ok(UeventSocket(socket))
    }

    /// The next message; `None` when there is none now.
    ///
    /// # Errors
    /// ENOBUFS where messages were lost: what there is must be looked at anew.
    pub fn receive(&self) -> CallResult<Option<Uevent>> {
        let mut buffer = [0u8; LIMIT];
        loop {
            match recvfrom(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Only the kernel has no port of its own.
                    if sender.is_some_and(|sender| sender.pid() == 0)
                        && let Some(event) = parse(&buffer[..length])
                    {
                        return Ok(Some(event));
                    }
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(CallError::new("recv(NETLINK_KOBJECT_UEVENT)", errno)),
            }
        }
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `message` to whoever listens to udev in the network namespace `namespace`. The calling
/// thread goes there and comes back.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over that namespace. That nobody listens is no error.
pub fn tell(namespace: BorrowedFd<'_>, message: &[u8]) -> CallResult<()> {
    const UDEV: u32 = 2;
    let home = crate::namespace::open("/proc/thread-self/ns/net")?;
    crate::namespace::join(namespace, libc::CLONE_NEWNET)?;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT));
    crate::namespace::join(home.as_fd(), libc::CLONE_NEWNET)?;
    let socket = socket.call(|| "socket(AF_NETLINK, NETLINK_KOBJECT_UEVENT)".into())?;
    match sendto(&socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, UDEV)) {
        Ok(_) | Err(Errno::CONNREFUSED | Errno::SRCH) => Ok(()),
        Err(errno) => Err(CallError::new("send(NETLINK_KOBJECT_UEVENT)", errno)),
    }
}

/// Reads `add@/devices/x\0ACTION=add\0DEVPATH=...\0`.
fn parse(bytes: &[u8]) -> Option<Uevent> {
    let mut parts = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    parts.next()?.split_once('@')?;
    let mut event = Uevent::default();
    for part in parts {
        match part.split_once('=') {
            Some(("ACTION", value)) => value.clone_into(&mut event.action),
            Some(("DEVPATH", value)) => value.clone_into(&mut event.path),
            Some(("SUBSYSTEM", value)) => value.clone_into(&mut event.subsystem),
            _ => {}
        }
    }
    (!event.action.is_empty() && !event.path.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        // As the kernel sends it when a serial adapter is plugged in.
        let message =
            b"add@/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/ttyUSB0/tty/ttyUSB0\0ACTION=add\0\
            DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/ttyUSB0/tty/ttyUSB0\0SUBSYSTEM=tty\0\
            MAJOR=188\0MINOR=0\0DEVNAME=ttyUSB0\0SEQNUM=4321\0";
        let event = parse(message).unwrap();
        assert_eq!((event.action.as_str(), event.subsystem.as_str()), ("add", "tty"));
        assert!(event.path.ends_with("/tty/ttyUSB0"));
        for bad in [&b""[..], b"libudev\0\xfe\xed", b"add@/x\0", b"no at\0ACTION=add\0DEVPATH=/x\0"] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn privileged_the_kernel_says_what_happens() {
        let trigger = "/sys/class/mem/null/uevent";
        let socket = UeventSocket::open().unwrap();
        if std::fs::write(trigger, "change").is_err() {
            println!("skipped: {trigger} cannot be written");
            return;
        }
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::time::Instant::now() < deadline {
            match socket.receive().unwrap() {
                Some(event) if event.path == "/devices/virtual/mem/null" => return,
                Some(_) => {}
                None => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
        panic!("the event did not come");
    }
}
