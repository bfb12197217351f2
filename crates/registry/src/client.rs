//! The client: which hosts serve a repository, who we are to them, and how often they are asked.
//!
//! Locks, each taken alone: `passes` (the map only, never over the network), one lock for each
//! pass (over the token service's answer, so that many threads ask for one token once), `schemes`
//! and the health of mirrors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result, Within as _};
use robot_env_oci::Repository;
use ureq::http::{HeaderValue, Method, StatusCode, header};

use crate::address::{Origin, Scheme, Url, split_port};
use crate::challenge::{self, Challenge};
use crate::credentials::{self, Credentials, is_docker_hub};
use crate::mirror::{Health, Mirror};
use crate::options::ClientOptions;
use crate::status::{ERROR_LIMIT, Said, retry_after};
use crate::token::{self, Pass, Scope, Service};
use crate::transport::{Answer, Call, Failure, Transport};

/// Where the API of `docker.io` stands.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// A client of registries: cheap to clone, to be shared by threads. One client keeps one pool of
/// connections, one set of tokens and one memory of which mirrors are dead.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    transport: Transport,
    passes: Mutex<HashMap<(Origin, Scope), PassSlot>>,
    schemes: Mutex<HashMap<String, Scheme>>,
    health: Health,
}

/// The pass for one host and scope; the lock is held while it is fetched.
type PassSlot = Arc<Mutex<Option<Pass>>>;

/// A host that serves a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    /// The path in front of `/v2/`.
    prefix: String,
    /// What credentials are looked up by.
    authority: String,
    pub(crate) mirror: bool,
}

impl Endpoint {
    /// The URL of `/v2/<rest>`.
    pub(crate) fn url(&self, rest: &str) -> Url {
        Url { origin: self.origin.clone(), path: format!("{}/v2/{rest}", self.prefix), query: None }
    }

    /// The name that messages show.
    pub(crate) fn host(&self) -> String {
        self.origin.authority()
    }
}

/// A host that was not yet asked.
#[derive(Clone, Debug)]
pub(crate) enum Candidate {
    Mirror(Mirror),
    Registry(String),
}

/// Whether a failed request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As [`Retry`](crate::Retry) says.
    Full,
    /// Only after a wait that the registry asks for: the caller counts failures itself.
    Waiting,
    /// Not at all: there is another host.
    None,
}

impl Client {
    /// A client with these options. Nothing is read or connected yet.
    pub fn new(options: ClientOptions) -> Self {
        Client(Arc::new(Shared {
            options,
            transport: Transport::new(),
            passes: Mutex::default(),
            schemes: Mutex::default(),
            health: Health::default(),
        }))
    }

    /// The options that it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.0.options
    }

    /// Breaks every transfer of this client and refuses new ones, with [`Kind::Interrupted`]: for
    /// another thread that waits for Ctrl-C.
    pub fn cancel(&self) {
        self.0.transport.cancel();
    }

    /// Leaves a mirror alone for a while because it served content with a wrong digest, so that the
    /// next try goes elsewhere. `host` is what a reader's `served_by` says; the registry itself is
    /// never left alone.
    pub fn distrust(&self, repository: &Repository, host: &str) {
        for candidate in self.candidates(repository) {
            if let Ok(endpoint) = self.endpoint(&candidate)
                && endpoint.host() == host
            {
                self.leave_alone(&candidate);
            }
        }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// The hosts that a pull from `repository` tries, in order: its mirrors that are up, then the
    /// registry.
    pub(crate) fn candidates(&self, repository: &Repository) -> Vec<Candidate> {
        let settings = self.options().registries.get(repository.domain());
        let mirrors = settings.map(|settings| settings.mirrors.as_slice()).unwrap_or_default();
        let mut out: Vec<_> = mirrors
            .iter()
            .filter_map(|text| Mirror::parse(text))
            .filter(|mirror| self.0.health.is_up(&mirror.origin))
            .map(Candidate::Mirror)
            .collect();
        out.push(Candidate::Registry(repository.domain().to_owned()));
        out
    }

    pub(crate) fn registry(&self, domain: &str) -> Result<Endpoint> {
        self.endpoint(&Candidate::Registry(domain.to_owned()))
    }

    /// Finds out how the candidate is to be spoken to.
    pub(crate) fn endpoint(&self, candidate: &Candidate) -> Result<Endpoint> {
        match candidate {
            Candidate::Mirror(mirror) => {
                let origin = if mirror.explicit {
                    mirror.origin.clone()
                } else {
                    self.find_scheme(&mirror.authority, &mirror.authority, true)?
                };
                if origin.scheme == Scheme::Http
                    && !self.options().is_insecure(&mirror.authority)
                    && !mirror.explicit
                {
                    return Err(Error::invalid(format!("mirror `{}` speaks plain http", mirror.authority)));
                }
                Ok(Endpoint {
                    origin,
                    prefix: mirror.prefix.clone(),
                    authority: mirror.authority.clone(),
                    mirror: true,
                })
            }
            Candidate::Registry(domain) => {
                let api = if is_docker_hub(domain) { DOCKER_HUB_API } else { domain };
                let origin = self.find_scheme(domain, api, false)?;
                Ok(Endpoint { origin, prefix: String::new(), authority: domain.clone(), mirror: false })
            }
        }
    }

    /// The origin of `api`: https, except that plain http is spoken to an insecure registry whose
    /// https fails. Found out once for a client.
    fn find_scheme(&self, authority: &str, api: &str, hurried: bool) -> Result<Origin> {
        let origin = |scheme| {
            Origin::new(scheme, api).ok_or_else(|| Error::invalid(format!("malformed host `{api}`")))
        };
        if !self.options().is_insecure(authority) {
            return origin(Scheme::Https);
        }
        let known = self.0.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(api).copied();
        if let Some(scheme) = known {
            return origin(scheme);
        }
        let ask = |scheme| {
            let mut call = Call::new(
                Method::GET,
                Endpoint {
                    origin: origin(scheme).map_err(Failure::Refused)?,
                    prefix: String::new(),
                    authority: String::new(),
                    mirror: false,
                }
                .url(""),
            );
            call.hurried = hurried;
            // A server of plain http may answer a TLS greeting with silence.
            call.hurried |= scheme == Scheme::Https && split_port(api).1.is_some();
            self.0.transport.send(self.options(), call)
        };
        let scheme = match ask(Scheme::Https) {
            Ok(_) => Scheme::Https,
            // A malformed file of `certs.d`, say: plain http is no way round it.
            Err(Failure::Refused(error)) => return Err(error),
            Err(https) => match (ask(Scheme::Http), https) {
                // Servers of https say 400 to plain http, or nothing that could be read.
                (Ok(answer), https @ Failure::Untrusted(_)) if answer.status == StatusCode::BAD_REQUEST => {
                    return Err(https.into_error());
                }
                (Ok(_), _) => Scheme::Http,
                (Err(_), https @ Failure::Untrusted(_)) => return Err(https.into_error()),
                (Err(http), _) => return Err(http.into_error()),
            },
        };
        self.0.schemes.lock().unwrap_or_else(PoisonError::into_inner).insert(api.to_owned(), scheme);
        origin(scheme)
    }

    /// Leaves a mirror alone for a while; a registry itself never is.
    pub(crate) fn leave_alone(&self, candidate: &Candidate) {
        if let Candidate::Mirror(mirror) = candidate {
            self.0.health.mark_down(&mirror.origin, self.options().time_outs.mirror_rest);
        }
    }

    /// Asks the hosts of `repository` in order until one gives what `ask` wants. A mirror that
    /// cannot be reached is left alone from then on; its failures never end the search.
    pub(crate) fn try_each<T>(
        &self,
        repository: &Repository,
        mut ask: impl FnMut(&Endpoint) -> Result<T>,
    ) -> Result<T> {
        let mut passed = Vec::new();
        for candidate in self.candidates(repository) {
            let error = match self.endpoint(&candidate).and_then(|endpoint| ask(&endpoint)) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            match &candidate {
                Candidate::Mirror(mirror) if error.kind() != Kind::Interrupted => {
                    if error.kind() == Kind::Unavailable {
                        self.leave_alone(&candidate);
                    }
                    passed.push(format!("mirror `{}`: {error}", mirror.authority));
                }
                _ if passed.is_empty() => return Err(error),
                _ => {
                    // The mirrors' failures stay readable below the registry's own.
                    let message = error.message().to_owned();
                    return Err(
                        error.within(format!("{message}, and no mirror could help ({})", passed.join("; ")))
                    );
                }
            }
        }
        Err(Error::new(Kind::Internal, format!("no host serves `{repository}`")))
    }

    /// Sends a request with the pass that `scope` needs, asking for one when the registry wants it,
    /// waiting where it says so and trying again where that may help. Any status is an answer but
    /// 401 (after a new pass), 429 and those of a server that is down.
    pub(crate) fn call<'a>(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        patience: Patience,
        make: &mut dyn FnMut() -> Result<Call<'a>>,
    ) -> Result<Answer> {
        let retry = self.options().retry;
        let attempts = if patience == Patience::Full { retry.attempts.max(1) } else { 1 };
        let (mut failures, mut waited, mut challenged) = (0, Duration::ZERO, false);
        let began = Instant::now();
        loop {
            let mut call = make()?;
            call.hurried = endpoint.mirror;
            if call.url.origin == endpoint.origin {
                call.authorization = self.pass(endpoint, scope);
            }
            let had_pass = call.authorization.clone();
            let same_origin = call.url.origin == endpoint.origin;
            let (pause, error) = match self.0.transport.send(self.options(), call) {
                Err(failure) if failure.may_pass() => (None, failure.into_error()),
                Err(failure) => return Err(failure.into_error()),
                Ok(answer) => match answer.status.as_u16() {
                    401 if same_origin && answer.url.origin == endpoint.origin => {
                        if challenged {
                            return Err(self.rejected(endpoint, answer));
                        }
                        challenged = true;
                        match self.renew(endpoint, scope, had_pass.as_ref(), &answer) {
                            Ok(true) => continue,
                            Ok(false) => return Err(self.rejected(endpoint, answer)),
                            Err(failure) if failure.may_pass() => {
                                challenged = false;
                                (None, failure.into_error())
                            }
                            Err(failure) => return Err(failure.into_error()),
                        }
                    }
                    429 | 500 | 502 | 503 | 504 => {
                        let wait = retry_after(&answer.headers)
                            .filter(|_| matches!(answer.status.as_u16(), 429 | 503));
                        let host = answer.url.origin.authority();
                        let status = answer.status;
                        let body = answer.read_to(ERROR_LIMIT).unwrap_or_default();
                        let mut error = Said::read(status, &body).error(&host);
                        if let Some(wait) = wait {
                            if patience != Patience::None && waited + wait > retry.longest_wait {
                                let (asked, limit) = (wait.as_secs(), retry.longest_wait.as_secs());
                                return Err(error.within(format!("registry `{host}` asks to wait {asked} s, and {limit} s in all are waited at most")));
                            }
                            error = error.within(format!("registry `{host}` asks to come back later"));
                        }
                        (wait, error)
                    }
                    _ => return Ok(answer),
                },
            };
            failures += 1;
            match pause {
                // A wait that the registry asks for is not a failure, but there is an end to it.
                Some(wait) if patience != Patience::None && failures < 100 => {
                    let wait = wait.max(retry.first_pause);
                    waited += wait;
                    self.0.transport.pause(wait)?;
                }
                _ if failures >= attempts
                    || began.elapsed().saturating_sub(waited) >= self.options().time_outs.patience() =>
                {
                    return Err(error);
                }
                _ => self.0.transport.pause(retry.pause(failures))?,
            }
        }
    }

    /// Sends a request once, with the pass that is at hand; any status is an answer.
    pub(crate) fn call_once(&self, endpoint: &Endpoint, scope: &Scope, mut call: Call<'_>) -> Result<Answer> {
        if call.url.origin == endpoint.origin {
            call.authorization = self.pass(endpoint, scope);
        }
        self.0.transport.send(self.options(), call).map_err(Failure::into_error)
    }

    fn rejected(&self, endpoint: &Endpoint, answer: Answer) -> Error {
        let error = unexpected(answer);
        match credentials::find(self.options(), &endpoint.authority) {
            Ok(None) => error.with_hint(format!("log in with `robot-env login {}`", endpoint.authority)),
            _ => error,
        }
    }

    fn slot(&self, endpoint: &Endpoint, scope: &Scope) -> PassSlot {
        let mut passes = self.0.passes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(passes.entry((endpoint.origin.clone(), scope.clone())).or_default())
    }

    fn pass(&self, endpoint: &Endpoint, scope: &Scope) -> Option<HeaderValue> {
        let slot = self.slot(endpoint, scope);
        let pass = slot.lock().unwrap_or_else(PoisonError::into_inner);
        pass.as_ref().and_then(|pass| pass.header().cloned())
    }

    /// Gets a new pass after a 401; `rejected` is the one that was sent. False: there is no way in.
    fn renew(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        rejected: Option<&HeaderValue>,
        answer: &Answer,
    ) -> Result<bool, Failure> {
        let slot = self.slot(endpoint, scope);
        let mut pass = slot.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have got one meanwhile.
        if let Some(current) = pass.as_ref().and_then(Pass::header)
            && Some(current) != rejected
        {
            return Ok(true);
        }
        *pass = None;
        let credentials = credentials::find(self.options(), &endpoint.authority)
            .within(|| format!("cannot read the credentials for registry `{}`", endpoint.authority))
            .map_err(Failure::Refused)?;
        let granted = self.grant(endpoint, scope, credentials.as_ref(), answer, false)?;
        *pass = granted.map(|granted| granted.pass);
        Ok(pass.is_some())
    }

    /// What the challenges of a 401 come to with these credentials.
    pub(crate) fn grant(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        credentials: Option<&Credentials>,
        answer: &Answer,
        offline: bool,
    ) -> Result<Option<token::Granted>, Failure> {
        let headers =
            answer.headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = headers.flat_map(challenge::parse).collect();
        for challenge in &challenges {
            if let Challenge::Bearer { realm, service, scopes } = challenge {
                let service = Service { realm, name: service.as_deref(), scopes };
                return token::fetch(
                    &self.0.transport,
                    self.options(),
                    &service,
                    scope,
                    credentials,
                    endpoint.origin.scheme,
                    offline,
                )
                .map(Some);
            }
        }
        match credentials {
            Some(Credentials::Password { username, password }) if challenges.contains(&Challenge::Basic) => {
                let pass =
                    Pass::new(&Credentials::basic(username, password), None).map_err(Failure::Refused)?;
                Ok(Some(token::Granted { pass, identity: None }))
            }
            _ => Ok(None),
        }
    }
}

/// The error of an answer that is not what was wanted.
pub(crate) fn unexpected(answer: Answer) -> Error {
    let (status, host) = (answer.status, answer.url.origin.authority());
    let body = answer.read_to(ERROR_LIMIT).unwrap_or_default();
    Said::read(status, &body).error(&host)
}
