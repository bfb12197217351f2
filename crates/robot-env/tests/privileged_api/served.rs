//! A server, and what it answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::Place;

/// A server of a place.
pub(crate) struct Served<'p> {
    pub(crate) place: &'p Place,
    pub(crate) socket: PathBuf,
    pub(crate) child: Child,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn status(self, want: u16) -> Answer {
        assert_eq!(self.status, want, "{} {}", self.head, String::from_utf8_lossy(&self.body));
        self
    }
}

impl<'p> Served<'p> {
    pub(crate) fn new(place: &'p Place, flags: &[&str]) -> Served<'p> {
        let socket = place.directory.join("api.sock");
        let mut args = vec!["serve", "--socket", socket.to_str().unwrap()];
        args.extend(flags);
        let child = place.command(&args).spawn();
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Served { place, socket, child }
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes as they are, and reads until the server closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    }

    pub(crate) fn ask(&self, method: &str, path: &str, document: Option<Value>) -> Answer {
        let text = document.map(|document| document.to_string()).unwrap_or_default();
        let kind = if text.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{text}",
            text.len()
        );
        parse(&self.raw(head.as_bytes()))
    }

    /// The same with a body that is no document.
    pub(crate) fn send(&self, method: &str, path: &str, more: &str, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n",
            body.len()
        );
        parse(&self.raw(&[head.as_bytes(), body].concat()))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).status(200).json()
    }

    #[track_caller]
    pub(crate) fn create(&self, name: &str, document: Value) -> String {
        let answer = self.ask("POST", &format!("/v1.45/containers/create?name={name}"), Some(document));
        answer.status(201).json()["Id"].as_str().unwrap().to_owned()
    }

    /// Makes a request whose connection becomes a stream, and reads the answer's head.
    #[track_caller]
    pub(crate) fn hijack(&self, path: &str, document: Option<Value>, upgrade: bool) -> (u16, UnixStream) {
        let text = document.map(|document| document.to_string()).unwrap_or_default();
        let more = if upgrade { "Connection: Upgrade\r\nUpgrade: tcp\r\n" } else { "" };
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\n{more}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0u8];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let text = String::from_utf8(head).unwrap();
        (text.split(' ').nth(1).unwrap().parse().unwrap(), stream)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
        let _ = self.place;
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no head: {}", String::from_utf8_lossy(bytes));
    });
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut rest = &bytes[end + 4..];
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        loop {
            let line = rest.iter().position(|byte| *byte == b'\n').expect("a chunk's length");
            let text = std::str::from_utf8(&rest[..line]).unwrap().trim();
            let length = usize::from_str_radix(text, 16).unwrap();
            rest = &rest[line + 1..];
            if length == 0 {
                break;
            }
            body.extend_from_slice(&rest[..length]);
            rest = &rest[length + 2..];
        }
    } else {
        body = rest.to_vec();
    }
    Answer { status, head, body }
}
