//! Clients that are slow, many, or far away.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use robot_env_testkit::tls::Authority;
use serde_json::json;

use crate::place::Place;
use crate::served::Served;

/// Descriptors, threads and memory (KiB) of a process.
fn uses(pid: u32) -> (usize, usize, usize) {
    let count = |part: &str| fs::read_dir(format!("/proc/{pid}/{part}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (count("fd"), count("task"), memory.split_whitespace().next().unwrap().parse().unwrap())
}

/// Two hundred calls; `ROBOT_ENV_EXECS=10000` asks for more.
#[test]
fn privileged_many_execs_leave_nothing_behind() {
    let Some(place) = Place::new("api-execs") else { return };
    let server = Served::new(&place, &[]);
    let count = std::env::var("ROBOT_ENV_EXECS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    place.sleeper("--name box");
    let pid = server.child.id();
    let run = |turn: usize| {
        let wanted = json!({ "Cmd": ["echo", turn.to_string()], "AttachStdout": true });
        let made = server.ask("POST", "/containers/box/exec", Some(wanted)).status(201).json();
        let id = made["Id"].as_str().unwrap();
        let (status, mut stream) =
            server.hijack(&format!("/exec/{id}/start"), Some(json!({})), turn.is_multiple_of(2));
        assert_eq!(status, if turn.is_multiple_of(2) { 101 } else { 200 });
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert_eq!(&said[8..], format!("{turn}\n").as_bytes());
        assert_eq!(server.get(&format!("/exec/{id}/json"))["ExitCode"], 0);
    };
    (0..50).for_each(run);
    let before = uses(pid);
    (0..count).for_each(run);
    // Threads of blocking calls go after two seconds without one.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut after = uses(pid);
    while (after.0 > before.0 + 2 || after.1 > before.1) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        after = uses(pid);
    }
    assert!(after.0 <= before.0 + 2 && after.1 <= before.1, "{before:?} {after:?}");
    assert!(after.2 < before.2 + 4096 + count / 4, "memory grows: {before:?} {after:?}");
}

#[test]
fn privileged_a_client_that_does_not_read_holds_back_nobody() {
    let Some(place) = Place::new("api-stalled") else { return };
    let server = Served::new(&place, &[]);
    let many = "yes | head -c 5000000; echo done > /done; sleep 1000";
    let id = place.command(&["run", "-d", "--network", "none", "busybox", "sh", "-c", many]).run().ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    while place.run(&format!("exec {id} cat /done")).code != 0 {
        assert!(Instant::now() < deadline, "the container does not come to its end");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = server.connect();
        let head = format!("GET /containers/{id}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stalled.push(stream);
    }
    // And some that do not come to the end of their heads, or of their bodies.
    for text in
        ["GET /info HT", "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"]
    {
        let mut stream = server.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stalled.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    for _ in 0..20 {
        server.get("/containers/json");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let (_, _, memory) = uses(server.child.id());
    assert!(memory < 200 * 1024, "{memory} KiB are held for clients that do not read");
    drop(stalled);
    place.run(&format!("rm -f {id}")).ok();
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_tcp_is_for_clients_with_a_certificate() {
    let Some(place) = Place::new("api-tls") else { return };
    let refused = place.run("serve --tcp 127.0.0.1:1");
    assert!(refused.code != 0 && refused.err.contains("--tlscacert"), "{refused:?}");
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl is not installed");
        return;
    }
    let (own, stranger) = (Authority::new(), Authority::new());
    let write = |name: &str, text: &str| {
        let path = place.directory.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let authority = write("ca.pem", &own.certificate());
    let (certificate, key) = own.server();
    let (certificate, key) = (write("cert.pem", &certificate), write("key.pem", &key));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = ["--tcp", &address, "--tlscacert", &authority, "--tlscert", &certificate, "--tlskey", &key];
    let _server = Served::new(&place, &flags);
    let ask = |more: &[&str]| {
        let url = format!("https://{address}/version");
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "10", "--cacert", &authority]).args(more).arg(url);
        let out = curl.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let client = |authority: &Authority, name: &str| {
        let (certificate, key) = authority.client("client");
        (write(&format!("{name}.pem"), &certificate), write(&format!("{name}.key"), &key))
    };
    let (good, good_key) = client(&own, "good");
    let (answered, text) = ask(&["--cert", &good, "--key", &good_key]);
    assert!(answered && text.contains("\"ApiVersion\""), "{text}");
    assert_eq!(ask(&[]), (false, String::new()));
    let (bad, bad_key) = client(&stranger, "bad");
    assert_eq!(ask(&["--cert", &bad, "--key", &bad_key]), (false, String::new()));
    let mut plain = Command::new("curl");
    plain.args(["-s", "--max-time", "10"]).arg(format!("http://{address}/version"));
    assert!(!String::from_utf8_lossy(&plain.output().unwrap().stdout).contains("ApiVersion"));
}
