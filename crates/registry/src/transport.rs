//! One request and its answer: connections, time-outs, redirects. Knows nothing of registries.
//!
//! Locks: `agents` is held while an agent is looked up or made (files of `certs.d` are read), never
//! over the network.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use robot_env_diag::{Context as _, Error, Kind, Result};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use ureq::{Agent, Proxy, SendBody};

use crate::address::{Origin, Scheme, Url};
use crate::options::ClientOptions;
use crate::tls::Trust;

/// How many redirects are followed for one request.
const REDIRECT_LIMIT: u32 = 5;
/// How many agents (host and purpose) are kept; more means that somebody plays with redirects.
const AGENT_LIMIT: usize = 64;
/// The largest head of an answer, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

/// What is sent after the head.
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// With its length, or chunked.
    Stream(&'a mut dyn Read, Option<u64>),
}

/// A request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) payload: Payload<'a>,
    /// Whether the short time-outs of mirrors hold.
    pub(crate) hurried: bool,
}

impl Call<'_> {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Call { method, url, headers: Vec::new(), authorization: None, payload: Payload::None, hurried: false }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The answer to a request, with its body still to be read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ureq::Body,
    /// Where it came from, redirects followed.
    pub(crate) url: Url,
}

impl Answer {
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The body, at most `limit` bytes of it; more is an error.
    pub(crate) fn read_to(mut self, limit: u64) -> Result<Vec<u8>, Failure> {
        let host = self.url.origin.authority();
        let too_large = || {
            Failure::Refused(Error::new(
                Kind::Corrupt,
                format!("host `{host}` sends more than the {limit} bytes that are read"),
            ))
        };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut out = Vec::new();
        match self.body.as_reader().take(limit + 1).read_to_end(&mut out) {
            Ok(_) if out.len() as u64 > limit => Err(too_large()),
            Ok(_) => Ok(out),
            Err(e) => Err(Failure::of_io(&host, e)),
        }
    }
}

/// Why there is no (whole) answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody could be reached, or the connection broke: another try may help.
    Broken(Error),
    /// The connection was made and then nothing came in time.
    Stalled(Error),
    /// No TLS could be agreed on, or a certificate was not trusted.
    Untrusted(Error),
    /// Another try would do the same.
    Refused(Error),
}

impl Failure {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Failure::Broken(e) | Failure::Stalled(e) | Failure::Untrusted(e) | Failure::Refused(e) => e,
        }
    }

    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Failure::Broken(_) | Failure::Stalled(_))
    }

    /// The failure of a read of a body.
    pub(crate) fn of_io(host: &str, error: std::io::Error) -> Self {
        Failure::of(host, error.into())
    }

    fn of(host: &str, error: ureq::Error) -> Self {
        let lost = |why: &str| Error::new(Kind::Unavailable, format!("cannot reach host `{host}`: {why}"));
        match error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                Failure::Broken(lost("no connection in time"))
            }
            ureq::Error::Timeout(what) => {
                let error = Error::new(Kind::Unavailable, format!("host `{host}` does not answer in time"));
                Failure::Stalled(error.because(Error::new(Kind::Unavailable, format!("time-out: {what}"))))
            }
            ureq::Error::HostNotFound => Failure::Broken(lost("its name is not known")),
            ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => Failure::Untrusted(untrusted(host, tls)),
                None if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                    Failure::Broken(lost("the connection was refused").because(e))
                }
                None => Failure::Broken(lost("the connection broke").because(e)),
            },
            ureq::Error::Rustls(tls) => Failure::Untrusted(untrusted(host, &tls)),
            ureq::Error::Tls(why) => Failure::Untrusted(Error::new(
                Kind::Unavailable,
                format!("cannot trust host `{host}`: {why}"),
            )),
            ureq::Error::ConnectProxyFailed(why) => Failure::Broken(
                lost("the proxy refused").because(Error::new(Kind::Unavailable, excerpt(&why))),
            ),
            ureq::Error::InvalidProxyUrl => Failure::Refused(Error::invalid(format!(
                "cannot reach host `{host}`: the proxy's URL is malformed"
            ))),
            ureq::Error::Protocol(why) => Failure::Broken(
                lost("its answer is not HTTP")
                    .because(Error::new(Kind::Unavailable, excerpt(&why.to_string()))),
            ),
            other => Failure::Broken(
                lost("the exchange failed")
                    .because(Error::new(Kind::Unavailable, excerpt(&other.to_string()))),
            ),
        }
    }
}

fn untrusted(host: &str, tls: &rustls::Error) -> Error {
    let error = Error::new(Kind::Unavailable, format!("cannot trust host `{host}`"))
        .because(Error::new(Kind::Unavailable, tls.to_string()));
    match tls {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => error.with_hint(
            format!("put the authority's certificate into `/etc/robot-env/certs.d/{host}/ca.crt`"),
        ),
        _ => error,
    }
}

/// At most 300 characters of a foreign text.
pub(crate) fn excerpt(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Sends requests over pooled connections.
#[derive(Debug)]
pub(crate) struct Transport {
    agents: Mutex<HashMap<(Origin, bool), Agent>>,
    trust: Trust,
    cancelled: AtomicBool,
}

impl Transport {
    pub(crate) fn new() -> Self {
        Transport {
            agents: Mutex::new(HashMap::new()),
            trust: Trust::new(),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Breaks every connection and refuses new ones.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let agents = std::mem::take(&mut *self.agents.lock().unwrap_or_else(PoisonError::into_inner));
        agents.into_values().for_each(Agent::shutdown);
    }

    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.cancelled.load(Ordering::SeqCst) {
            Err(Error::new(Kind::Interrupted, "the transfer was cancelled"))
        } else {
            Ok(())
        }
    }

    /// Waits, unless cancelled meanwhile.
    pub(crate) fn pause(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check_cancelled()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn agent(&self, options: &ClientOptions, origin: &Origin, hurried: bool) -> Result<Agent> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_cancelled()?;
        let key = (origin.clone(), hurried);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let host = origin.authority();
        let proxy = options.proxies.proxy_for(origin).map(Proxy::new).transpose();
        let proxy = proxy.context(Kind::InvalidInput, || {
            format!("cannot reach host `{host}`: the proxy's URL is malformed")
        })?;
        let out = &options.time_outs;
        let idle = out.idle();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .user_agent(options.user_agent.as_str())
            .accept("")
            .accept_encoding("identity")
            .max_response_header_size(HEAD_LIMIT)
            .max_idle_connections(16)
            .max_idle_connections_per_host(8)
            .timeout_resolve(Some(if hurried { out.mirror_connect } else { out.connect }))
            .timeout_connect(Some(if hurried { out.mirror_connect } else { out.connect }))
            .timeout_recv_response(hurried.then_some(out.mirror_answer))
            .timeout_per_read(Some(idle))
            .timeout_per_write(Some(idle))
            .tls_config(self.trust.config(options, &host, origin.scheme == Scheme::Https)?)
            .build();
        if agents.len() >= AGENT_LIMIT {
            agents.clear();
        }
        let agent = config.new_agent();
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// Sends a request and gives the head of the answer. Redirects are followed for requests
    /// without a stream; credentials stay behind at any change of scheme, host or port.
    pub(crate) fn send(&self, options: &ClientOptions, mut call: Call<'_>) -> Result<Answer, Failure> {
        let mut redirects = 0;
        loop {
            let answer = self.send_once(options, &mut call)?;
            let again = match answer.status.as_u16() {
                301..=303 => matches!(call.method, Method::GET | Method::HEAD),
                307 | 308 => !matches!(call.payload, Payload::Stream(..)),
                _ => false,
            };
            let Some(location) = answer.headers.get(header::LOCATION).filter(|_| again) else {
                return Ok(answer);
            };
            let host = call.url.origin.authority();
            let refuse = |why: String| {
                Failure::Refused(Error::new(
                    Kind::Denied,
                    format!("cannot follow the redirect of host `{host}`: {why}"),
                ))
            };
            redirects += 1;
            if redirects > REDIRECT_LIMIT {
                return Err(refuse(format!("it was the {redirects}th in a row")));
            }
            let target = location.to_str().ok().and_then(|location| call.url.join(location));
            let target = target.ok_or_else(|| refuse("its target is not an http or https URL".into()))?;
            if call.url.origin.scheme == Scheme::Https
                && target.origin.scheme == Scheme::Http
                && !options.is_insecure(&target.origin.authority())
            {
                return Err(refuse(format!(
                    "it leads from https to plain http, to `{}`",
                    excerpt(&target.shown())
                )));
            }
            if target.origin != call.url.origin {
                call.authorization = None;
                if matches!(call.payload, Payload::Bytes(_)) {
                    return Err(refuse(format!(
                        "what was to be sent must not go to another host, `{}`",
                        excerpt(&target.origin.to_string())
                    )));
                }
            }
            call.url = target;
        }
    }

    fn send_once(&self, options: &ClientOptions, call: &mut Call<'_>) -> Result<Answer, Failure> {
        let origin = &call.url.origin;
        let host = origin.authority();
        let agent = self.agent(options, origin, call.hurried).map_err(Failure::Refused)?;
        let mut request = Request::builder().method(call.method.clone()).uri(call.url.to_string());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &call.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let malformed = |e: ureq::http::Error| {
            Failure::Refused(
                Error::new(Kind::Internal, format!("cannot make a request to host `{host}`")).because(e),
            )
        };
        let sent = match &mut call.payload {
            Payload::None if matches!(call.method, Method::POST | Method::PUT | Method::PATCH) => {
                agent.run(request.header(header::CONTENT_LENGTH, "0").body(&[][..]).map_err(malformed)?)
            }
            Payload::None => agent.run(request.body(()).map_err(malformed)?),
            Payload::Bytes(bytes) => agent.run(request.body(*bytes).map_err(malformed)?),
            Payload::Stream(reader, length) => {
                if let Some(length) = length {
                    request = request.header(header::CONTENT_LENGTH, length.to_string());
                }
                agent.run(request.body(SendBody::from_reader(*reader)).map_err(malformed)?)
            }
        };
        if let Err(error) = self.check_cancelled() {
            return Err(Failure::Refused(error));
        }
        let (head, body) = sent.map_err(|e| Failure::of(&host, e))?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, url: call.url.clone() })
    }
}
