//! Networks by the command line: bridges, addresses, published ports, names, and what is left when
//! processes of ours are killed. Each test has a network namespace of its own that stands for the
//! host. Needs root and busybox-static; a test that cannot run says so.

#[path = "../place/mod.rs"]
mod place;

mod bridge;
mod firewalls;
mod kills;
mod names;
mod ports;
mod robots;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use place::Place;
use robot_env_network::link::Links;
use robot_env_sys::namespace;
use robot_env_sys::netlink::RouteSocket;
use robot_env_testkit::network::here;

/// A host of a test's own, with an engine.
pub(crate) struct Host {
    pub(crate) place: Place,
    /// Put back at the end: test threads are used again.
    _home: Home,
}

/// The namespace that the thread came from.
struct Home(OwnedFd);

impl Drop for Home {
    fn drop(&mut self) {
        namespace::join(self.0.as_fd(), libc::CLONE_NEWNET).expect("the way back");
    }
}

impl Host {
    /// A new host; `None`, with the reason printed, where there cannot be one.
    pub(crate) fn new(name: &str) -> Option<Host> {
        if !rustix::process::geteuid().is_root() {
            return Place::new(name).map(|_| unreachable!("a place needs root, too"));
        }
        let home = Home(here());
        namespace::unshare(libc::CLONE_NEWNET).expect("a network namespace");
        RouteSocket::open().expect("netlink").loopback_up().expect("lo");
        Some(Host { place: Place::new(name)?, _home: home })
    }

    /// Runs the program; it must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        self.place.run(line).ok()
    }

    /// A container that runs SCRIPT in the background.
    #[track_caller]
    pub(crate) fn start(&self, flags: &str, script: &str) -> String {
        let mut args = vec!["run", "-d", "--init"];
        args.extend(flags.split_whitespace());
        args.extend(["busybox", "sh", "-c", script]);
        self.place.command(&args).run().ok()
    }

    /// What SCRIPT prints inside a running container.
    #[track_caller]
    pub(crate) fn inside(&self, container: &str, script: &str) -> String {
        self.place.command(&["exec", container, "sh", "-c", script]).run().ok()
    }

    /// A field of a network.
    #[track_caller]
    pub(crate) fn network_field(&self, network: &str, template: &str) -> String {
        self.place.command(&["network", "inspect", "-f", template, network]).run().ok()
    }

    /// Ends all containers, and the networks' idle bridges at once.
    #[track_caller]
    pub(crate) fn end(&self) {
        for id in self.ok("ps -aq").split_whitespace() {
            self.ok(&format!("rm -f {id}"));
        }
        self.ok("network prune -f");
        assert_clean();
    }
}

/// Nothing of ours is in the kernel: waits until dying namespaces have taken their links along.
#[track_caller]
pub(crate) fn assert_clean() {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let links: Vec<String> =
            Links::open().unwrap().all().unwrap().into_keys().filter(|name| name != "lo").collect();
        let tables = tables();
        if links.is_empty() && tables.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left over: {links:?} {tables:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The nf_tables tables of this namespace by name.
pub(crate) fn tables() -> Vec<String> {
    use robot_env_sys::netlink::{DUMP, Message, NetlinkSocket, attributes};
    const GET_TABLE: u16 = 10 << 8 | 1;
    let mut socket = NetlinkSocket::open(libc::NETLINK_NETFILTER).unwrap();
    let answers = socket.ask(Message::new(GET_TABLE, DUMP, "tables").fixed(&[0; 4])).unwrap();
    answers
        .iter()
        .filter_map(|answer| {
            let (_, name) = attributes(&answer[4..]).find(|(kind, _)| *kind == 1)?;
            Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
        })
        .collect()
}

/// What a server answers, and whether it can be reached at all.
pub(crate) fn call(to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn await_call(to: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = call(to) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{to} does not answer");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A script that answers each connection to a port with a word.
pub(crate) fn server(port: u16, word: &str) -> String {
    format!("while true; do echo {word} | nc -l -p {port} >/dev/null; done")
}

/// A port of the host that a program listens on.
pub(crate) fn listen(at: &str) -> TcpListener {
    TcpListener::bind(at).unwrap()
}

macro_rules! host {
    ($name:literal) => {
        match crate::Host::new($name) {
            Some(host) => host,
            None => return,
        }
    };
}
pub(crate) use host;
