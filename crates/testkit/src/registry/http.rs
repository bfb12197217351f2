//! HTTP/1.1, as much as a registry needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fault::Effect;
use super::{Content, Logged, State, routes};

const HEAD_LIMIT: u64 = 64 * 1024;

pub(super) trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: BTreeMap<String, String>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The decoded values of a key in a query or form.
pub(super) fn query(text: &str, key: &str) -> Vec<String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| decode(value))
        .collect()
}

fn decode(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(if bytes[at] == b'+' { b' ' } else { bytes[at] }));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    /// The part of the content that is sent.
    pub(super) range: Option<(u64, u64)>,
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        Response { status, headers: Vec::new(), content: Content::Bytes([].into()), range: None }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn body(mut self, bytes: Vec<u8>) -> Self {
        self.content = Content::Bytes(bytes.into());
        self
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
        Response::new(status).header("Content-Type", "application/json").body(body.into_bytes())
    }

    pub(super) fn unauthorized(challenge: &str) -> Self {
        Response::error(401, "UNAUTHORIZED", "authentication required").header("WWW-Authenticate", challenge)
    }
}

/// Serves one connection until it ends.
pub(super) fn serve(state: &State, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
    let connection: Box<dyn Connection> = match &state.options.tls {
        None => Box::new(stream),
        Some(authority) => match authority.accept(stream, state.options.client_certificate) {
            Some(connection) => Box::new(connection),
            None => return,
        },
    };
    let mut connection = BufReader::with_capacity(256 * 1024, connection);
    while !state.stopping.load(Ordering::SeqCst) {
        match exchange(state, &mut connection) {
            Some(true) => {}
            _ => return,
        }
    }
}

/// One request and its answer; whether the connection stays.
fn exchange(state: &State, connection: &mut BufReader<Box<dyn Connection>>) -> Option<bool> {
    let mut line = String::new();
    connection.by_ref().take(HEAD_LIMIT).read_line(&mut line).ok().filter(|n| *n > 0).or_else(|| {
        // What is no text is a greeting of TLS.
        let _ = connection.get_mut().write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        None
    })?;
    let mut words = line.trim_end().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        let _ = connection.get_mut().write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        return None;
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: BTreeMap::new(),
    };
    loop {
        let mut line = String::new();
        connection.by_ref().take(HEAD_LIMIT).read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        request.headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    let effects = {
        let mut stored = state.lock();
        stored.log.push(Logged {
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request.headers.clone(),
        });
        let mut met = Vec::new();
        for fault in &mut stored.faults {
            if fault.meets(&request.method, &request.path) {
                met.push(fault.effect.clone());
            }
        }
        met
    };
    let mut body = Vec::new();
    for effect in &effects {
        match effect {
            Effect::Hangup => return None,
            Effect::Stall(duration) => stall(state, *duration)?,
            Effect::CutAfter(limit) if request.method == "PATCH" || request.method == "PUT" => {
                // A cut in the other direction: so much is read, then the connection ends.
                let mut taken = Vec::new();
                let _ = connection.by_ref().take(*limit).read_to_end(&mut taken);
                return None;
            }
            _ => {}
        }
    }
    read_body(connection, &request, &mut body)?;
    let mut response = routes::answer(state, &request, body, &effects);
    for effect in &effects {
        match effect {
            Effect::Status(status, after) => {
                response = Response::error(*status, "TOOMANYREQUESTS", "come back later");
                if let Some(after) = after {
                    response = response.header("Retry-After", after);
                }
            }
            Effect::Redirect(target) => {
                let target =
                    if target.ends_with('/') { target.trim_end_matches('/') } else { target.as_str() };
                let whole = if target.matches('/').count() > 2 {
                    target.to_owned()
                } else {
                    format!("{target}{}", request.path)
                };
                response = Response::new(307).header("Location", &whole);
            }
            Effect::Answer(kind, bytes) => {
                response = Response::new(200).header("Content-Type", kind).body(bytes.clone());
            }
            Effect::Challenge(challenge) => response = Response::unauthorized(challenge),
            Effect::WrongDigest | Effect::NoDigest => {
                let wrong = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
                response.headers.retain(|(name, _)| name != "Docker-Content-Digest");
                if matches!(effect, Effect::WrongDigest) {
                    response = response.header("Docker-Content-Digest", wrong);
                }
            }
            Effect::LocationPrefix(prefix) => {
                for (name, value) in &mut response.headers {
                    if name == "Location" {
                        *value = format!("{prefix}{value}");
                    }
                }
            }
            _ => {}
        }
    }
    let keep = request.header("connection") != Some("close");
    write_response(state, connection.get_mut(), response, request.method == "HEAD", &effects)?;
    Some(keep)
}

fn stall(state: &State, duration: Duration) -> Option<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        if state.stopping.load(Ordering::SeqCst) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(())
}

fn read_body(
    connection: &mut BufReader<Box<dyn Connection>>,
    request: &Request,
    body: &mut Vec<u8>,
) -> Option<()> {
    if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            connection.by_ref().take(1024).read_line(&mut line).ok()?;
            let size = u64::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
            let got = connection.by_ref().take(size).read_to_end(body).ok()? as u64;
            let mut end = [0; 2];
            connection.read_exact(&mut end).ok()?;
            if got != size {
                return None;
            }
            if size == 0 {
                return Some(());
            }
        }
    }
    let length: u64 = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let got = connection.by_ref().take(length).read_to_end(body).ok()? as u64;
    (got == length).then_some(())
}

fn write_response(
    state: &State,
    connection: &mut Box<dyn Connection>,
    response: Response,
    head_only: bool,
    effects: &[Effect],
) -> Option<()> {
    let (from, to) = response.range.unwrap_or((0, response.content.len()));
    let endless = effects.iter().any(|e| matches!(e, Effect::Endless));
    let longer = effects
        .iter()
        .find_map(|e| if let Effect::Longer(n, announced) = e { Some((*n, *announced)) } else { None });
    let chunked = endless || matches!(longer, Some((_, false)));
    let mut head = format!(
        "HTTP/1.1 {} Test\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nDocker-Distribution-Api-Version: registry/2.0\r\n",
        response.status
    );
    for (name, value) in &response.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if chunked {
        head += "Transfer-Encoding: chunked\r\n\r\n";
    } else {
        let _ = write!(head, "Content-Length: {}\r\n\r\n", to - from + longer.map_or(0, |(n, _)| n));
    }
    connection.write_all(head.as_bytes()).ok()?;
    if head_only {
        return Some(());
    }
    let cut = effects.iter().find_map(|e| if let Effect::CutAfter(n) = e { Some(*n) } else { None });
    let stall_at =
        effects.iter().find_map(|e| if let Effect::StallAfter(n, d) = e { Some((*n, *d)) } else { None });
    let corrupt = effects.iter().find_map(|e| if let Effect::Corrupt(n) = e { Some(*n) } else { None });

    let mut source: Box<dyn Read> = match &response.content {
        Content::Bytes(bytes) => Box::new(std::io::Cursor::new(bytes[from as usize..to as usize].to_vec())),
        Content::File(path, _) => {
            let mut file = std::fs::File::open(path).ok()?;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from)).ok()?;
            Box::new(file.take(to - from))
        }
    };
    if let Some((extra, _)) = longer {
        source = Box::new(source.chain(std::io::repeat(b'x').take(extra)));
    }
    if endless {
        source = Box::new(source.chain(std::io::repeat(b'x')));
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut position = 0_u64;
    loop {
        let mut wanted = buffer.len() as u64;
        for stop in [cut, stall_at.map(|(n, _)| n)].into_iter().flatten() {
            if stop > position {
                wanted = wanted.min(stop - position);
            }
        }
        if cut.is_some_and(|cut| position >= cut) {
            return None;
        }
        if let Some((at, duration)) = stall_at
            && at == position
        {
            connection.flush().ok()?;
            stall(state, duration)?;
        }
        let n = source.read(&mut buffer[..wanted as usize]).ok()?;
        if let Some(at) = corrupt
            && (position..position + n as u64).contains(&at)
        {
            buffer[(at - position) as usize] ^= 1;
        }
        if chunked {
            connection.write_all(format!("{n:x}\r\n").as_bytes()).ok()?;
        }
        connection.write_all(&buffer[..n]).ok()?;
        if chunked {
            connection.write_all(b"\r\n").ok()?;
        }
        state.sent.fetch_add(n as u64, Ordering::Relaxed);
        if n == 0 {
            connection.flush().ok()?;
            return Some(());
        }
        position += n as u64;
    }
}
