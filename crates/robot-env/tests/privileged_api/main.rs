//! `serve`: the Docker Engine API, as its clients speak it, over the built program's socket.

#[path = "../place/mod.rs"]
mod place;

mod builds;
mod clients;
mod served;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use place::Place;
use serde_json::{Value, json};
use served::{Served, parse};

/// The two streams of framed output.
fn unframed(mut bytes: &[u8]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while bytes.len() >= 8 {
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        if bytes[0] == 1 { &mut out } else { &mut err }.extend_from_slice(&bytes[8..8 + length]);
        bytes = &bytes[8 + length..];
    }
    assert!(bytes.is_empty(), "a frame is cut off");
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn busybox(script: &str) -> Value {
    json!({
        "Image": "busybox", "Cmd": ["sh", "-c", script],
        "AttachStdout": true, "AttachStderr": true, "HostConfig": { "NetworkMode": "none" },
    })
}

#[test]
fn privileged_versions_errors_and_pages() {
    let Some(place) = Place::new("api-versions") else { return };
    let server = Served::new(&place, &[]);
    let mode = std::fs::metadata(&server.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ping = server.ask("GET", "/_ping", None).status(200);
    assert_eq!(ping.body, b"OK");
    for field in ["Api-Version: 1.51", "Ostype: linux", "Docker-Experimental: false", "Builder-Version: "] {
        assert!(ping.head.contains(field), "{}", ping.head);
    }
    let peek = server.ask("HEAD", "/v1.30/_ping", None).status(200);
    assert!(peek.body.is_empty());
    assert_eq!(server.get("/version")["MinAPIVersion"], "1.24");
    assert_eq!(server.get("/v1.24/info")["OSType"], "linux");
    for (method, path, status, message) in [
        ("GET", "/v9.99/info", 400, "client version 9.99 is too new. Maximum supported API version is 1.51"),
        ("GET", "/nothing", 404, "page not found"),
        ("PATCH", "/info", 404, "page not found"),
        ("GET", "/containers/nobody/json", 404, "No such container: nobody"),
        ("GET", "/images/a/b:1/json", 404, "No such image: a/b:1"),
        ("GET", "/networks/x", 404, "network x not found"),
        ("GET", "/volumes/x", 404, "get x: no such volume"),
        ("GET", "/exec/x/json", 404, "No such exec instance: x"),
        ("GET", "/swarm", 503, "This node is not a swarm manager."),
        ("GET", "/containers/json?filters=x", 400, "invalid filter"),
        ("POST", "/containers/create", 400, "invalid JSON"),
    ] {
        let answer = server.ask(method, path, None).status(status);
        let got = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(got.starts_with(message), "{method} {path}: {got}");
    }
    let old = server.ask("GET", "/v1.5/info", None).status(400);
    assert!(old.head.contains("text/plain") && old.body.starts_with(b"client version 1.5 is too old"));
    // Two servers on one socket would take each other's clients.
    let second = place.run(&format!("serve --socket {}", server.socket.display()));
    assert!(second.code != 0 && second.err.contains("another server listens there"), "{second:?}");
}

#[test]
fn privileged_what_two_readers_could_take_differently_ends_the_connection() {
    let Some(place) = Place::new("api-smuggling") else { return };
    let server = Served::new(&place, &[]);
    let inner = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    for (more, status) in [
        (format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"), 400),
        (format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()), 400),
        (format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"), 501),
        (format!("A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"), 400),
    ] {
        let text = format!("POST /_ping HTTP/1.1\r\nHost: x\r\n{more}");
        let got = String::from_utf8(server.raw(text.as_bytes())).unwrap();
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{more:?}: {got}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "the second request was answered: {got}");
    }
    // Two honest ones in one piece are two.
    let two = format!("{}{}", inner, inner.replace("Host: x", "Host: x\r\nConnection: close"));
    assert_eq!(String::from_utf8(server.raw(two.as_bytes())).unwrap().matches("HTTP/1.1 200").count(), 2);
}

#[test]
fn privileged_run_as_the_docker_command_does_it() {
    let Some(place) = Place::new("api-run") else { return };
    let server = Served::new(&place, &[]);
    let id = server.create("web", busybox("echo out; echo err >&2; exit 3"));
    let (status, mut stream) =
        server.hijack(&format!("/v1.45/containers/{id}/attach?stream=1&stdout=1&stderr=1"), None, true);
    assert_eq!(status, 101);
    // The head comes before the container has even started.
    let (status, mut waiting) =
        server.hijack(&format!("/v1.45/containers/{id}/wait?condition=next-exit"), None, false);
    assert_eq!(status, 200);
    server.ask("POST", &format!("/containers/{id}/start"), None).status(204);
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    assert_eq!(unframed(&output), ("out\n".into(), "err\n".into()));
    let mut said = [0u8; 256];
    let count = waiting.read(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said[..count]).contains("\"StatusCode\":3"));
    assert_eq!(server.get("/containers/web/json")["State"]["ExitCode"], 3);
    let logs =
        server.ask("GET", &format!("/containers/{}/logs?stdout=1&stderr=1", &id[..8]), None).status(200);
    assert_eq!(unframed(&logs.body), ("out\n".into(), "err\n".into()));
    // What the server does, the command line sees.
    assert!(place.run("ps -a").out.contains("Exited (3)"));
    server.ask("POST", "/containers/web/start", None).status(204);
    server.ask("DELETE", "/containers/web?force=1", None).status(204);
    server.ask("DELETE", "/containers/web", None).status(404);
    place.assert_empty();
}

#[test]
fn privileged_a_container_that_removes_itself_is_waited_for() {
    let Some(place) = Place::new("api-removed") else { return };
    let server = Served::new(&place, &[]);
    let mut wanted = busybox("exit 7");
    wanted["HostConfig"]["AutoRemove"] = true.into();
    for _ in 0..3 {
        let id = server.create("", wanted.clone());
        let (_, mut waiting) =
            server.hijack(&format!("/containers/{id}/wait?condition=removed"), None, false);
        server.ask("POST", &format!("/containers/{id}/start"), None).status(204);
        let mut said = [0u8; 256];
        let count = waiting.read(&mut said).unwrap();
        assert!(String::from_utf8_lossy(&said[..count]).contains("\"StatusCode\":7"));
        server.ask("GET", &format!("/containers/{id}/json"), None).status(404);
    }
}

#[test]
fn privileged_input_reaches_its_end_and_output_still_comes() {
    let Some(place) = Place::new("api-stdin") else { return };
    let server = Served::new(&place, &[]);
    let mut wanted = busybox("cat; echo done");
    wanted["OpenStdin"] = true.into();
    wanted["StdinOnce"] = true.into();
    for upgrade in [true, false] {
        let id = server.create("", wanted.clone());
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let (status, mut stream) = server.hijack(&path, None, upgrade);
        assert_eq!(status, if upgrade { 101 } else { 200 });
        server.ask("POST", &format!("/containers/{id}/start"), None).status(204);
        let sent = "x".repeat(1_000_000);
        let mut half = stream.try_clone().unwrap();
        let text = sent.clone();
        let writer = std::thread::spawn(move || {
            half.write_all(text.as_bytes()).unwrap();
            half.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut output = Vec::new();
        stream.read_to_end(&mut output).unwrap();
        writer.join().unwrap();
        assert_eq!(unframed(&output).0, sent + "done\n");
    }
}

#[test]
fn privileged_exec_is_made_started_and_looked_at() {
    let Some(place) = Place::new("api-exec") else { return };
    let server = Served::new(&place, &[]);
    let id = place.sleeper("--name box");
    let make = |document: Value| {
        server.ask("POST", "/containers/box/exec", Some(document)).status(201).json()["Id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let exec = make(
        json!({ "Cmd": ["sh", "-c", "cat; echo $A; exit 5"], "Env": ["A=b"], "DetachKeys": "", "AttachStdin": true, "AttachStdout": true, "AttachStderr": true }),
    );
    assert_eq!(server.get(&format!("/exec/{exec}/json"))["Running"], false);
    assert_eq!(server.get("/containers/box/json")["ExecIDs"], json!([exec]));
    let (status, mut stream) = server.hijack(&format!("/exec/{exec}/start"), Some(json!({})), true);
    assert_eq!(status, 101);
    stream.write_all(b"in\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    assert_eq!(unframed(&output).0, "in\nb\n");
    // The end is known when the stream ends.
    let seen = server.get(&format!("/exec/{exec}/json"));
    assert_eq!((&seen["Running"], &seen["ExitCode"]), (&json!(false), &json!(5)));
    // Again, as Docker tells it: in the stream.
    let (status, mut stream) = server.hijack(&format!("/exec/{exec}/start"), Some(json!({})), true);
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    assert!(status == 101 && unframed(&output).1.contains("already run"));
    let missing = make(json!({ "Cmd": ["nothing-like-this"], "AttachStdout": true }));
    let (_, mut stream) = server.hijack(&format!("/exec/{missing}/start"), Some(json!({})), true);
    let mut output = Vec::new();
    stream.read_to_end(&mut output).unwrap();
    assert!(unframed(&output).1.contains("executable file not found in $PATH"));
    assert_eq!(server.get(&format!("/exec/{missing}/json"))["ExitCode"], 127);
    for (document, status) in
        [(json!({ "Cmd": [] }), 400), (json!({ "Cmd": ["id"], "User": "nobody-here" }), 400)]
    {
        server.ask("POST", "/containers/box/exec", Some(document)).status(status);
    }
    server.ask("POST", "/containers/box/pause", None).status(204);
    server.ask("POST", "/containers/box/exec", Some(json!({ "Cmd": ["id"] }))).status(409);
    server.ask("POST", "/containers/box/unpause", None).status(204);
    server.ask("POST", "/containers/box/unpause", None).status(500);
    server.ask("POST", &format!("/containers/{id}/kill"), None).status(204);
    server.ask("POST", &format!("/containers/{id}/wait"), None).status(200);
    server.ask("POST", "/containers/box/exec", Some(json!({ "Cmd": ["id"] }))).status(409);
    server.ask("POST", "/containers/box/stop", None).status(304);
}

#[test]
fn privileged_a_terminal_has_a_size_and_detach_keys() {
    let Some(place) = Place::new("api-tty") else { return };
    let server = Served::new(&place, &[]);
    place.sleeper("--name box");
    let wanted = json!({ "Cmd": ["sh", "-c", "read a; stty size; cat"], "Tty": true, "AttachStdin": true, "AttachStdout": true, "DetachKeys": "ctrl-a,b" });
    let exec = server.ask("POST", "/containers/box/exec", Some(wanted)).status(201).json()["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    // The size may come before the process.
    server.ask("POST", &format!("/exec/{exec}/resize?h=33&w=77"), None).status(200);
    let (_, mut stream) = server.hijack(&format!("/exec/{exec}/start"), Some(json!({ "Tty": true })), true);
    stream.write_all(b"go\n").unwrap();
    let mut seen = String::new();
    while !seen.contains("33 77") {
        let mut piece = [0u8; 256];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    stream.write_all(b"\x01b").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(server.get(&format!("/exec/{exec}/json"))["Running"], true, "detached, not ended");
}

#[test]
fn privileged_events_of_every_process_are_heard() {
    let Some(place) = Place::new("api-events") else { return };
    let server = Served::new(&place, &[]);
    let mut stream = server.connect();
    stream
        .write_all(b"GET /events?filters=%7B%22event%22%3A%5B%22die%22%5D%7D HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut seen = String::new();
    let mut listen = |until: &str| {
        while !seen.contains(until) {
            let mut piece = [0u8; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    listen("\r\n\r\n");
    place.script("--name short", "exit 4");
    listen("\"exitCode\":\"4\"");
    // What is past is told, too, and the stream ends at once.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let filters = "%7B%22event%22%3A%7B%22die%22%3Atrue%7D%7D";
    let past = server.ask("GET", &format!("/events?since=0&until={now}&filters={filters}"), None).status(200);
    assert!(String::from_utf8_lossy(&past.body).contains("\"exitCode\":\"4\""));
}

#[test]
fn privileged_files_go_in_and_out() {
    let Some(place) = Place::new("api-archive") else { return };
    let server = Served::new(&place, &[]);
    let id = server.create("files", busybox("cat /tmp/hello"));
    let mut tar = tar_of("hello", b"from a client\n");
    let head = format!(
        "PUT /containers/{id}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        tar.len()
    );
    let mut bytes = head.into_bytes();
    bytes.append(&mut tar);
    bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    parse(&server.raw(&bytes)).status(200);
    let stat = server.ask("HEAD", &format!("/containers/{id}/archive?path=/tmp/hello"), None).status(200);
    assert!(stat.head.contains("X-Docker-Container-Path-Stat: "), "{}", stat.head);
    let got = server.ask("GET", &format!("/containers/{id}/archive?path=/tmp/hello"), None).status(200);
    assert!(got.body.windows(13).any(|part| part == b"from a client"));
    server.ask("GET", &format!("/containers/{id}/archive?path=/nothing"), None).status(404);
    server.ask("POST", &format!("/containers/{id}/start"), None).status(204);
    server.ask("POST", &format!("/containers/{id}/wait"), None).status(200);
    let changes = server.get(&format!("/containers/{id}/changes"));
    assert!(changes.as_array().unwrap().contains(&json!({ "Path": "/tmp/hello", "Kind": 1 })), "{changes}");
    let image = server
        .ask("POST", &format!("/commit?container={id}&repo=kept&tag=1&comment=c"), None)
        .status(201)
        .json();
    let inspected = server.get("/images/kept:1/json");
    assert_eq!(inspected["Id"], image["Id"]);
    assert!(inspected["ContainerConfig"].is_object());
    let saved = server.ask("GET", "/images/kept:1/get", None).status(200);
    let gone = server.ask("DELETE", "/images/kept:1?force=1", None).status(200).json();
    assert!(gone.as_array().unwrap().iter().any(|item| item["Untagged"] == "kept:1"), "{gone}");
    let mut load = format!(
        "POST /images/load HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        saved.body.len()
    )
    .into_bytes();
    load.extend_from_slice(&saved.body);
    let loaded = parse(&server.raw(&load)).status(200);
    assert!(String::from_utf8_lossy(&loaded.body).contains("Loaded image: kept:1"));
}

/// A tar with one file.
fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = head.to_vec();
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

#[test]
fn privileged_an_idle_server_ends_and_leaves_containers_alone() {
    let Some(place) = Place::new("api-idle") else { return };
    let mut server = Served::new(&place, &["--idle-exit", "1s"]);
    let id = server.create("stays", busybox("sleep 1000"));
    server.ask("POST", &format!("/containers/{id}/start"), None).status(204);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the server stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!server.socket.exists());
    assert_eq!(place.field("stays", "{{.State.Running}}"), "true");
    let again = Served::new(&place, &[]);
    assert_eq!(again.get("/containers/json").as_array().unwrap().len(), 1);
}

/// A tar of files with these names and contents.
fn tar_of_files(files: &[(&str, &str)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, content) in files {
        let mut one = tar_of(name, content.as_bytes());
        one.truncate(512 + content.len().div_ceil(512) * 512);
        all.extend(one);
    }
    all.resize(all.len() + 1024, 0);
    all
}

/// A tar of one symbolic link.
fn tar_of_link(name: &str, to: &str) -> Vec<u8> {
    let mut tar = tar_of(name, b"");
    tar[156] = b'2';
    tar[157..157 + to.len()].copy_from_slice(to.as_bytes());
    let sum: u32 = tar[..148].iter().chain(&tar[156..512]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

/// A client's frame of a websocket.
fn masked(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | kind, 0x80 | content.len() as u8, 1, 2, 3, 4];
    frame.extend(content.iter().zip([1u8, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[test]
fn privileged_a_websocket_attaches() {
    let Some(place) = Place::new("api-websocket") else { return };
    let server = Served::new(&place, &[]);
    let mut document = busybox("read a; echo got $a; read b; echo then $b");
    document["OpenStdin"] = true.into();
    let id = server.create("ws", document);
    let plain = server.ask("GET", "/containers/ws/attach/ws?stream=1&stdout=1", None).status(400);
    assert!(plain.json()["message"].as_str().unwrap().contains("websocket"), "{plain:?}");
    let mut stream = server.connect();
    let head = "GET /v1.44/containers/ws/attach/ws?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("Upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    server.ask("POST", "/containers/ws/start", None).status(204);
    stream.write_all(&[masked(9, b"there?"), masked(1, b"one\n"), masked(2, b"two\n")].concat()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    // A pong, what the process said (in a frame or two), the end.
    let mut texts = Vec::new();
    let mut kinds = Vec::new();
    let mut rest = &all[..];
    while let [kind, length, more @ ..] = rest {
        let (content, next) = more.split_at(usize::from(*length));
        if *kind == 0x82 {
            texts.extend_from_slice(content);
        }
        kinds.push(*kind);
        rest = next;
    }
    assert_eq!(String::from_utf8(texts).unwrap(), "got one\nthen two\n");
    assert!(kinds.contains(&0x8a) && kinds.last() == Some(&0x88), "{kinds:x?}");
    server.ask("DELETE", &format!("/containers/{id}"), None).status(204);
}

#[test]
fn privileged_a_stream_does_not_arrive_with_its_head() {
    let Some(place) = Place::new("api-head") else { return };
    let server = Served::new(&place, &[]);
    let box_ = place.sleeper("--name box");
    for upgrade in ["Connection: Upgrade\r\nUpgrade: tcp\r\n", ""] {
        let exec = server.ask(
            "POST",
            "/containers/box/exec",
            Some(json!({ "Cmd": ["echo", "hi"], "AttachStdout": true })),
        );
        let id = exec.status(201).json()["Id"].as_str().unwrap().to_owned();
        let mut stream = server.connect();
        let head = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\n{upgrade}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // What comes by one read is what a client's buffer takes: the head and nothing else.
        std::thread::sleep(Duration::from_millis(50));
        let mut buffer = [0u8; 8192];
        let count = stream.read(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"\r\n\r\n"), "{}", String::from_utf8_lossy(&buffer[..count]));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"\x01\0\0\0\0\0\0\x03hi\n");
    }
    place.run(&format!("rm -f {box_}")).ok();
}
