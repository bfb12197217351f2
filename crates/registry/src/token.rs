//! Tokens of a registry's token service, by the distribution project's token and OAuth2
//! specifications.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::Repository;
use serde::Deserialize;
use ureq::http::{HeaderValue, Method, header};

use crate::address::{Scheme, Url, percent_encode};
use crate::credentials::Credentials;
use crate::options::ClientOptions;
use crate::transport::{Call, Failure, Payload, Transport};

/// The largest answer of a token service that is read, in bytes.
const ANSWER_LIMIT: u64 = 1024 * 1024;
/// How long a token without `expires_in` is good for, by the specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in the last part of its life.
const MARGIN: Duration = Duration::from_secs(5);
/// How this program calls itself to a token service.
const CLIENT_ID: &str = "robot-env";

/// What a request wants to do: the repositories and the actions on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Scope(BTreeSet<String>);

impl Scope {
    /// Nothing but to be somebody.
    pub(crate) fn none() -> Self {
        Scope::default()
    }

    pub(crate) fn pull(repository: &Repository) -> Self {
        Scope(BTreeSet::from([format!("repository:{}:pull", repository.path())]))
    }

    pub(crate) fn push(repository: &Repository) -> Self {
        Scope(BTreeSet::from([format!("repository:{}:pull,push", repository.path())]))
    }

    /// With what the other scope wants too.
    pub(crate) fn and(mut self, other: Scope) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// What goes into the `Authorization` header, until when.
#[derive(Clone)]
pub(crate) struct Pass {
    header: HeaderValue,
    expires: Option<Instant>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pass(expires: {:?})", self.expires)
    }
}

impl Pass {
    pub(crate) fn new(text: &str, expires: Option<Instant>) -> Result<Self> {
        let mut header = HeaderValue::from_str(text).map_err(|_| {
            Error::new(Kind::Unauthorized, "the credentials hold characters that no header may hold")
        })?;
        header.set_sensitive(true);
        Ok(Pass { header, expires })
    }

    pub(crate) fn header(&self) -> Option<&HeaderValue> {
        self.expires.is_none_or(|at| Instant::now() < at).then_some(&self.header)
    }
}

/// A token service, as a challenge names it.
#[derive(Debug)]
pub(crate) struct Service<'a> {
    pub(crate) realm: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) scopes: &'a [String],
}

/// What a token service gave.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) pass: Pass,
    /// An identity token, where one was asked for and the service gives them.
    pub(crate) identity: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Asks the token service. `from` is the scheme by which the registry was asked: a service that is
/// not protected as well gets no credentials.
pub(crate) fn fetch(
    transport: &Transport,
    options: &ClientOptions,
    service: &Service<'_>,
    wanted: &Scope,
    credentials: Option<&Credentials>,
    from: Scheme,
    offline: bool,
) -> Result<Granted, Failure> {
    let refused = |why: String| {
        Failure::Refused(
            Error::new(Kind::Unauthorized, "cannot use the registry's token service")
                .because(Error::new(Kind::Denied, why)),
        )
    };
    let realm = Url::parse(service.realm).ok_or_else(|| {
        refused(format!(
            "its address `{}` is not an http or https URL",
            crate::transport::excerpt(service.realm)
        ))
    })?;
    if from == Scheme::Https
        && realm.origin.scheme == Scheme::Http
        && !options.is_insecure(&realm.origin.authority())
    {
        return Err(refused(format!(
            "the registry speaks https, and its address `{}` is plain http",
            realm.shown()
        )));
    }
    let mut scopes = wanted.0.clone();
    scopes.extend(service.scopes.iter().cloned());
    let host = realm.origin.authority();

    let answer = if let Some(Credentials::IdentityToken(token)) = credentials {
        let mut form =
            format!("grant_type=refresh_token&refresh_token={}&client_id={CLIENT_ID}", percent_encode(token));
        if let Some(service) = service.name {
            form.push_str("&service=");
            form.push_str(&percent_encode(service));
        }
        if !scopes.is_empty() {
            form.push_str("&scope=");
            form.push_str(&percent_encode(&scopes.into_iter().collect::<Vec<_>>().join(" ")));
        }
        let mut call =
            Call::new(Method::POST, realm).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        call.payload = Payload::Bytes(form.as_bytes());
        transport.send(options, call)?
    } else {
        let mut url = realm;
        if let Some(service) = service.name {
            url = url.with_query("service", service);
        }
        for scope in &scopes {
            url = url.with_query("scope", scope);
        }
        let mut call = Call::new(Method::GET, url);
        if let Some(Credentials::Password { username, password }) = credentials {
            call.url = call.url.with_query("account", username).with_query("client_id", CLIENT_ID);
            call.authorization = Some(
                Pass::new(&Credentials::basic(username, password), None).map_err(Failure::Refused)?.header,
            );
        }
        if offline {
            call.url = call.url.with_query("offline_token", "true");
        }
        transport.send(options, call)?
    };
    let status = answer.status;
    if !status.is_success() {
        let body = answer.read_to(ANSWER_LIMIT).unwrap_or_default();
        let kind = match status.as_u16() {
            400 | 401 => Kind::Unauthorized,
            403 => Kind::Denied,
            _ => Kind::Unavailable,
        };
        let error = Error::new(
            kind,
            format!("token service `{host}` answers {}", crate::status::Said::read(status, &body)),
        );
        return Err(if status.is_server_error() || status.as_u16() == 429 {
            Failure::Broken(error)
        } else {
            Failure::Refused(error)
        });
    }
    let body = answer.read_to(ANSWER_LIMIT)?;
    let malformed = |why: String| {
        Failure::Refused(
            Error::new(Kind::Corrupt, format!("token service `{host}` gives no token"))
                .because(Error::new(Kind::Corrupt, why)),
        )
    };
    // The error of the parser would quote the answer, and the answer holds a secret.
    let answer: Answer = serde_json::from_slice(&body).map_err(|e| {
        malformed(format!("its answer is malformed at line {} column {}", e.line(), e.column()))
    })?;
    let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = filled(answer.access_token)
        .or_else(|| filled(answer.token))
        .ok_or_else(|| malformed("its answer has neither `token` nor `access_token`".into()))?;
    let life = answer
        .expires_in
        .filter(|s| s.is_finite() && *s > 0.0)
        .map_or(DEFAULT_LIFE, |s| Duration::from_secs_f64(s.min(86_400.0)));
    let life = life.saturating_sub(MARGIN).max(life / 2);
    let pass =
        Pass::new(&format!("Bearer {token}"), Some(Instant::now() + life)).map_err(Failure::Refused)?;
    Ok(Granted { pass, identity: filled(answer.refresh_token) })
}
