//! Networks of an ordinary user's containers, for real.

mod account;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use account::{Account, HOST, cover, eventually, greeting, root};

const SERVE: &str = "while true; do echo hello | nc -l -p 80; done";

/// Somebody on the host who greets whoever connects.
fn greeter(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // An early pasta says it again and again when the connection ends at once.
        let mut all = Vec::new();
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(text.as_bytes());
            all.push(stream);
        }
    });
    address
}

/// Whether a container reaches the outside.
#[track_caller]
fn assert_goes_out(user: &Account, greeter: SocketAddr) {
    // Early versions of pasta repeat what comes to somebody who has closed his half of a connection.
    let script = format!("sleep 10000 | nc {} {} & sleep 10000", greeter.ip(), greeter.port());
    let id = user.start("", &script);
    eventually(Duration::from_secs(10), || {
        let said = user.run(&["logs", &id]).out;
        if said.trim() == "outside" { Ok(()) } else { Err(format!("the container hears {said:?}")) }
    });
    user.run(&["rm", "-f", &id]).ok();
}

#[test]
fn privileged_containers_of_a_user_reach_each_other_and_the_outside() {
    let Some(user) = Account::new() else { return };
    if !std::path::Path::new("/usr/bin/pasta").exists() {
        println!("skipped: needs pasta (package passt)");
        return;
    }
    // An early pasta is taken where there is nothing else.
    cover("/usr/bin/slirp4netns", "/dev/null");
    let outside = greeter("outside\n");
    assert_goes_out(&user, outside);
    assert!(
        user.processes().iter().any(|(_, name)| name.starts_with("pasta") || name.starts_with("passt")),
        "{:?}",
        user.processes()
    );
    user.run(&["network", "create", "robots"]).ok();
    let web = user.start("--name web --network robots -p 18080:80 -p 127.0.0.1:18081:80", SERVE);
    // By name, from another container; and not from another network.
    let said = eventually(Duration::from_secs(10), || {
        let done = user.script("--network robots", "nc web 80 < /dev/null");
        if done.code == 0 && !done.out.is_empty() { Ok(done.out) } else { Err(format!("{done:?}")) }
    });
    assert_eq!(said.trim(), "hello");
    assert_ne!(user.script("", "nc -w 2 web 80 < /dev/null").code, 0);
    // By its published ports, from the host.
    for address in ["127.0.0.1:18080", &format!("{HOST}:18080"), "127.0.0.1:18081", "[::1]:18080"] {
        assert_eq!(eventually(Duration::from_secs(10), || greeting(address)), "hello", "{address}");
    }
    assert!(greeting(&format!("{HOST}:18081")).is_err(), "published on the loopback alone");
    assert_eq!(user.run(&["port", "web", "80"]).ok(), "0.0.0.0:18080\n127.0.0.1:18081\n[::]:18080");
    let taken = user.script("-p 18080:80", "true");
    assert_eq!(taken.code, 125);
    assert!(taken.err.contains("18080") && taken.err.contains("in use already"), "{}", taken.err);
    // Joining and leaving while it runs.
    user.run(&["network", "create", "other"]).ok();
    user.run(&["network", "connect", "other", "web"]).ok();
    let said = eventually(Duration::from_secs(10), || {
        let done = user.script("--network other", "nc web 80 < /dev/null");
        if done.code == 0 && !done.out.is_empty() { Ok(done.out) } else { Err(format!("{done:?}")) }
    });
    assert_eq!(said.trim(), "hello");
    user.run(&["network", "disconnect", "other", "web"]).ok();
    user.run(&["rm", "-f", &web]).ok();
    user.run(&["network", "rm", "robots", "other"]).ok();
    user.await_nobody();
    let left: Vec<_> = std::fs::read_dir(user.home.join("run/networks")).unwrap().flatten().collect();
    let left: Vec<_> = left
        .iter()
        .map(std::fs::DirEntry::file_name)
        .filter(|n| !n.to_string_lossy().ends_with("lock"))
        .collect();
    assert!(left.is_empty() || left == ["forwarding"], "{left:?}");
}

#[test]
fn privileged_a_users_ports_follow_a_container_from_network_to_network() {
    let Some(user) = Account::new() else { return };
    user.run(&["network", "create", "one"]).ok();
    user.run(&["network", "create", "two"]).ok();
    let reached = |way: &str| {
        for address in ["127.0.0.1:18086", "[::1]:18086"] {
            assert_eq!(eventually(Duration::from_secs(10), || greeting(address)), "hello", "{way} {address}");
        }
    };
    // Nobody was in a network of the user's before.
    let web = user.start("--name web --network none -p 18086:80", SERVE);
    assert!(greeting("127.0.0.1:18086").is_err());
    user.run(&["network", "connect", "one", "web"]).ok();
    reached("connected");
    user.run(&["network", "connect", "two", "web"]).ok();
    user.run(&["network", "disconnect", "one", "web"]).ok();
    reached("in the other network");
    user.run(&["network", "disconnect", "two", "web"]).ok();
    assert!(greeting("127.0.0.1:18086").is_err());
    user.run(&["network", "connect", "two", "web"]).ok();
    reached("connected again");
    let said = user.script("--network two", "nc web 80 < /dev/null");
    assert_eq!(said.out, "hello\n", "{said:?}");
    user.run(&["rm", "-f", &web]).ok();
    user.run(&["network", "rm", "one", "two"]).ok();
    user.await_nobody();
}

#[test]
fn privileged_a_users_port_takes_datagrams() {
    let Some(user) = Account::new() else { return };
    let id = user.start("-p 18082:53/udp", "sleep 10000");
    let pid = user.run(&["inspect", "-f", "{{.State.Pid}}", &id]).ok();
    // Somebody in the container's network who says everything again.
    std::thread::spawn(move || {
        let network = robot_env_sys::namespace::open(&format!("/proc/{pid}/ns/net")).unwrap();
        robot_env_sys::namespace::join(network.as_fd(), libc::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
        let mut buffer = [0u8; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let answer = eventually(Duration::from_secs(10), || {
        socket.send_to(b"ping", "127.0.0.1:18082").map_err(|error| error.to_string())?;
        let mut buffer = [0u8; 16];
        let (length, from) = socket.recv_from(&mut buffer).map_err(|error| error.to_string())?;
        assert_eq!(from.port(), 18082);
        Ok(buffer[..length].to_vec())
    });
    assert_eq!(answer, b"ping");
}

#[test]
fn privileged_a_killed_monitor_leaves_nothing_of_a_users_network() {
    let Some(user) = Account::new() else { return };
    user.start("--name web -p 18083:80", SERVE);
    eventually(Duration::from_secs(10), || greeting("127.0.0.1:18083"));
    for (pid, name) in user.processes() {
        if name.starts_with("robot-env") {
            let pidfd = robot_env_sys::process::pidfd_open(pid).unwrap();
            let _ = robot_env_sys::process::signal(&pidfd, libc::SIGKILL);
        }
    }
    // The next command cleans, and what comes after it works.
    user.run(&["ps"]).ok();
    let again = user.start("--name again -p 18083:80", SERVE);
    assert_eq!(eventually(Duration::from_secs(10), || greeting("127.0.0.1:18083")), "hello");
    user.run(&["rm", "-f", "web", &again]).ok();
    user.await_nobody();
}

#[test]
fn privileged_slirp4netns_does_where_there_is_no_pasta() {
    let Some(user) = Account::new() else { return };
    if !std::path::Path::new("/usr/bin/slirp4netns").exists() {
        println!("skipped: needs slirp4netns");
        return;
    }
    cover("/usr/bin/pasta", "/dev/null");
    let outside = greeter("outside\n");
    assert_goes_out(&user, outside);
    assert!(
        user.processes().iter().any(|(_, name)| name.starts_with("slirp4netns")),
        "{:?}",
        user.processes()
    );
    let web = user.start("-p 18084:80", SERVE);
    assert_eq!(eventually(Duration::from_secs(10), || greeting("127.0.0.1:18084")), "hello");
    user.run(&["rm", "-f", &web]).ok();
    user.await_nobody();
}

#[test]
fn privileged_what_keeps_a_user_from_the_outside_is_named_once() {
    let Some(user) = Account::new() else { return };
    // A closed node: only root may open it.
    root("mknod", &["-m", "0600", "/mnt/closed", "c", "10", "200"]);
    cover("/dev/net/tun", "/mnt/closed");
    let closed = user.script("", "ip -4 addr show eth0");
    assert!(closed.out.contains("inet "), "{closed:?}");
    if std::path::Path::new("/usr/bin/pasta").exists() {
        assert!(closed.err.contains("(sudo chmod 0666 /dev/net/tun)"), "{}", closed.err);
        assert_eq!(user.script("", "true").err, "", "said once");
    }
    let told = user.run(&["info"]);
    assert!(told.err.contains("(sudo "), "{told:?}");
    for program in ["/usr/bin/pasta", "/usr/bin/slirp4netns"] {
        cover(program, "/dev/null");
    }
    user.await_nobody();
    let none = user.script("", "ip -4 addr show eth0");
    assert!(none.out.contains("inet ") && none.err.contains("install passt)"), "{none:?}");
    // Ports and names need no way out.
    user.run(&["network", "create", "robots"]).ok();
    let web = user.start("--name web --network robots -p 18085:80", SERVE);
    assert_eq!(eventually(Duration::from_secs(10), || greeting("127.0.0.1:18085")), "hello");
    user.run(&["rm", "-f", &web]).ok();
}
