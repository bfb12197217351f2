//! Names in networks of users: the resolver of a container.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use robot_env_testkit::network::within;

use crate::robots::namespace_of;
use crate::{Host, host};

/// What the container's resolver says of a name, one address a line.
fn lookup(host: &Host, container: &str, name: &str) -> Vec<String> {
    let script = format!("busybox nslookup {name} 127.0.0.11 2>&1");
    let out = host.place.command(&["exec", container, "sh", "-c", &script]).run().out;
    // Behind the lines about the server itself.
    let answer = out.split_once("\n\n").map_or("", |(_, answer)| answer);
    let mut found: Vec<String> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("Address: ").or_else(|| line.split_once("name = ").map(|p| p.1)))
        .map(|text| text.trim().to_owned())
        .collect();
    found.sort();
    found
}

#[test]
fn privileged_containers_find_each_other_by_name() {
    let host = host!("names");
    host.ok("network create --subnet 10.70.1.0/24 robots");
    host.ok("network create --subnet 10.70.2.0/24 other");
    // Names are there before the program's first instruction.
    let seen = host
        .place
        .command(&[
            "run",
            "--rm",
            "--network",
            "robots",
            "--name",
            "self",
            "busybox",
            "busybox",
            "nslookup",
            "self",
        ])
        .run()
        .ok();
    assert!(seen.contains("10.70.1.2"), "{seen}");
    host.start("--name arm --network name=robots,ip=10.70.1.10,alias=tool -h armbox", "sleep 1000");
    host.start("--name leg --network robots --network-alias tool", "sleep 1000");
    host.start("--name far --network other", "sleep 1000");
    let id = host.place.field("arm", "{{.Id}}");
    assert_eq!(host.inside("leg", "cat /etc/resolv.conf").lines().next(), Some("nameserver 127.0.0.11"));
    let leg = host.place.field("leg", "{{.NetworkSettings.Networks.robots.IPAddress}}");
    for (name, want) in [
        ("arm", vec!["10.70.1.10"]),
        ("ARM.robots", vec!["10.70.1.10"]),
        (&id[..12], vec!["10.70.1.10"]),
        ("armbox", vec!["10.70.1.10"]),
        ("tool", vec!["10.70.1.10", leg.as_str()]),
        ("10.70.1.10", vec!["arm.robots"]),
        ("far", vec![]),
    ] {
        assert_eq!(lookup(&host, "leg", name), want, "{name}");
    }
    // What happens is seen at once.
    host.ok("rename arm hand");
    assert_eq!(lookup(&host, "leg", "hand"), ["10.70.1.10"]);
    host.ok("network connect --alias distant robots far");
    assert_eq!(lookup(&host, "leg", "distant"), lookup(&host, "far", "far.robots"));
    host.ok("stop -t 0 hand");
    assert!(lookup(&host, "leg", "hand").is_empty());
    host.ok("start hand");
    assert_eq!(lookup(&host, "leg", "hand"), ["10.70.1.10"]);
    // From the default network, where there are no names, into one with them.
    host.start("--name late", "sleep 1000");
    assert!(!host.inside("late", "cat /etc/resolv.conf").contains("127.0.0.11"));
    host.ok("network connect robots late");
    assert!(host.inside("late", "cat /etc/resolv.conf").contains("127.0.0.11"));
    assert_eq!(lookup(&host, "late", "hand"), ["10.70.1.10"]);
    // Whoever else is killed takes no names along.
    let monitor = rustix::process::Pid::from_raw(host.place.monitor("hand")).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    assert_eq!(lookup(&host, "leg", "distant").len(), 1);
    host.ok("ps");
    assert!(lookup(&host, "leg", "hand").is_empty());
    host.end();
}

/// Two answers come over a connection: what is the container's network's, and what goes on.
#[test]
fn privileged_questions_over_a_connection() {
    let host = host!("connection");
    host.ok("network create --subnet 10.72.1.0/24 robots");
    let server = TcpListener::bind("0.0.0.0:53").unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = server.accept() {
            let mut length = [0u8; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut query = vec![0u8; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            query[2] |= 0x80;
            query[7] = 1;
            query.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
            let mut answer = (query.len() as u16).to_be_bytes().to_vec();
            answer.extend(query);
            // In pieces, as a network may bring it.
            for piece in answer.chunks(5) {
                stream.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    host.start("--name out --network robots --dns 10.72.1.1", "sleep 1000");
    let ask = |name: &str| {
        let mut query = vec![0, 0, 0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let length = (query.len() - 2) as u16;
        query[..2].copy_from_slice(&length.to_be_bytes());
        let answer = within(&namespace_of(&host, "out"), move || {
            let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(&query).unwrap();
            let mut length = [0u8; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0u8; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            answer
        });
        assert_eq!(answer[..2], [0x12, 0x34]);
        answer[answer.len() - 4..].to_vec()
    };
    assert_eq!(ask("out"), [10, 72, 1, 2]);
    assert_eq!(ask("robot.example"), [192, 0, 2, 7]);
    host.end();
}

#[test]
fn privileged_other_questions_go_on() {
    let host = host!("forward");
    host.ok("network create --subnet 10.71.1.0/24 robots");
    host.ok("network create --internal --subnet 10.71.2.0/24 quiet");
    // A name server of the host's network: it answers every question with 192.0.2.7.
    let server = UdpSocket::bind("0.0.0.0:53").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 512];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            let mut answer = buffer[..count].to_vec();
            answer[2] |= 0x80;
            let asks_v4 = answer[count - 3] == 1;
            if asks_v4 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
            }
            let _ = server.send_to(&answer, from);
        }
    });
    host.start("--name out --network robots --dns 10.71.1.1", "sleep 1000");
    assert_eq!(lookup(&host, "out", "robot.example"), ["192.0.2.7"]);
    assert_eq!(lookup(&host, "out", "out"), ["10.71.1.2"]);
    // No way out: what is not known does not exist.
    host.start("--name in --network quiet", "sleep 1000");
    assert_eq!(lookup(&host, "in", "in"), ["10.71.2.2"]);
    let script = "busybox nslookup robot.example 127.0.0.11 2>&1";
    let done = host.place.command(&["exec", "in", "sh", "-c", script]).run();
    assert!(done.out.contains("NXDOMAIN"), "{done:?}");
    host.end();
}
