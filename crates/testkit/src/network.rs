//! Network namespaces for tests: one that stands for the host, others for machines beside it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use robot_env_sys::namespace;
use robot_env_sys::netlink::{CREATE, Message, RouteSocket};

/// The network namespace of the calling thread.
pub fn here() -> OwnedFd {
    namespace::open("/proc/thread-self/ns/net").expect("a network namespace")
}

/// A new one; the calling thread stays where it is.
pub fn new_namespace() -> OwnedFd {
    let work = || {
        namespace::unshare(libc::CLONE_NEWNET).expect("a new network namespace");
        here()
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("a namespace"))
}

/// Does something in another network namespace.
pub fn within<T: Send>(namespace: &OwnedFd, act: impl FnOnce() -> T + Send) -> T {
    let work = || {
        namespace::join(namespace.as_fd(), libc::CLONE_NEWNET).expect("the other namespace");
        act()
    };
    match std::thread::scope(|scope| scope.spawn(work).join()) {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A machine on a network of the host's, which is the calling thread's namespace: the host is
/// 192.0.2.1 at `wan0`, the machine 192.0.2.2 at `lan0`.
pub fn neighbour() -> OwnedFd {
    const HOST: u8 = 77;
    const MACHINE: u8 = 78;
    let outside = new_namespace();
    let interface = |index: u8, up: bool| {
        let mut body = [0u8; 16];
        body[4..8].copy_from_slice(&i32::from(index).to_ne_bytes());
        body[8..12].copy_from_slice(&u32::from(up).to_ne_bytes());
        body[12..].copy_from_slice(&u32::from(up).to_ne_bytes());
        body
    };
    let address = |index: u8, last: u8| {
        let mut message = Message::new(20, CREATE, "address").fixed(&[2, 24, 0, 0, index, 0, 0, 0]);
        message.attribute(2, &[192, 0, 2, last]).attribute(1, &[192, 0, 2, last]);
        message
    };
    let mut link = Message::new(16, CREATE, "veth").fixed(&interface(HOST, true));
    link.text(3, "wan0");
    let info = link.begin(18);
    link.text(1, "veth");
    let data = link.begin(2);
    let peer = link.begin(1);
    link = link.fixed(&interface(MACHINE, false));
    link.text(3, "lan0").number(28, outside.as_raw_fd() as u32);
    link.end(peer);
    link.end(data);
    link.end(info);
    let ask = |mut socket: RouteSocket, mut messages: [Message; 2]| {
        socket.socket().request(&mut messages).expect("the wire between two machines");
    };
    ask(RouteSocket::open().expect("netlink"), [link, address(HOST, 1)]);
    let up = Message::new(16, 0, "up").fixed(&interface(MACHINE, true));
    ask(RouteSocket::open_in(outside.as_fd()).expect("netlink"), [up, address(MACHINE, 2)]);
    outside
}
