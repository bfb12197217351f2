//! Builds that clients have asked for, by the names that the clients gave them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_registry::Client;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::grpc::{Code, Status};
use super::messages::Attributes;
use super::messages::control::SolveRequest;
use super::progress::Progress;

/// How long a call waits for the build that it names.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that is over is remembered: whoever wants to hear of it may come late.
const REMEMBERED: Duration = Duration::from_secs(30);
/// The most builds at once.
const JOBS: usize = 256;

/// A build.
pub(crate) struct Job {
    /// What the client asked for.
    pub(crate) request: SolveRequest,
    /// What is told of it.
    pub(crate) progress: Arc<Progress>,
    /// Ends it.
    pub(crate) cancel: Cancel,
    inner: Mutex<Inner>,
    returned: Notify,
}

#[derive(Default)]
struct Inner {
    /// What the client's own part of the build said at its end: which result is the build's.
    returned: Option<Result<String, Status>>,
    results: HashMap<String, Solved>,
    over: Option<Instant>,
}

/// What a frontend made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Solved {
    /// What is said of it.
    pub(crate) attributes: Attributes,
    /// What the answer to a question about it is.
    pub(crate) metadata: HashMap<String, Vec<u8>>,
    /// The image.
    pub(crate) image: Option<robot_env_oci::ImageId>,
}

impl Job {
    /// The client's own part of the build is over.
    pub(crate) fn return_with(&self, result: Result<String, Status>) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.returned.get_or_insert(result);
        }
        self.returned.notify_waiters();
    }

    /// Waits for that; the result that it named, if any.
    pub(crate) async fn returned(&self) -> Result<Option<Solved>, Status> {
        loop {
            let returned = self.returned.notified();
            if let Ok(inner) = self.inner.lock()
                && let Some(result) = &inner.returned
            {
                let id = result.clone()?;
                if id.is_empty() {
                    return Ok(None);
                }
                let unknown = || Status::new(Code::NOT_FOUND, format!("there is no result {id}"));
                return inner.results.get(&id).cloned().map(Some).ok_or_else(unknown);
            }
            returned.await;
        }
    }

    /// Keeps a result under a new id.
    pub(crate) fn keep(&self, solved: Solved) -> String {
        let Ok(mut inner) = self.inner.lock() else { return String::new() };
        let id = format!("{}-{}", self.request.reference, inner.results.len() + 1);
        inner.results.insert(id.clone(), solved);
        id
    }

    /// It is over.
    pub(crate) fn end(&self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.over = Some(Instant::now());
        }
        self.progress.end();
        self.return_with(Err(cancelled_status()));
    }
}

/// The builds of this server.
#[derive(Default)]
pub(crate) struct Jobs {
    all: Mutex<HashMap<String, Arc<Job>>>,
    changed: Notify,
}

impl Jobs {
    /// Begins one.
    pub(crate) fn begin(&self, request: SolveRequest) -> Result<Arc<Job>, Status> {
        let name = request.reference.clone();
        if name.is_empty() || name.len() > 256 {
            return Err(Status::new(Code::INVALID_ARGUMENT, "the build has no name"));
        }
        let poisoned = |_| Status::new(Code::INTERNAL, "the list of builds is damaged");
        let mut all = self.all.lock().map_err(poisoned)?;
        all.retain(|_, job| {
            let over = job.inner.lock().ok().and_then(|inner| inner.over);
            over.is_none_or(|over| over.elapsed() < REMEMBERED)
        });
        if all.len() >= JOBS {
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, "there are too many builds"));
        }
        if all.contains_key(&name) {
            return Err(Status::new(Code::ALREADY_EXISTS, format!("build {name} exists already")));
        }
        let job = Arc::new(Job {
            progress: Arc::new(Progress::new(&name)),
            request,
            cancel: Cancel::new()?,
            inner: Mutex::default(),
            returned: Notify::new(),
        });
        all.insert(name, job.clone());
        self.changed.notify_waiters();
        Ok(job)
    }

    /// The build of this name, where there is one.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<Job>> {
        self.all.lock().ok()?.get(name).cloned()
    }

    /// The build of this name; one that begins soon is waited for.
    pub(crate) async fn find(&self, name: &str) -> Result<Arc<Job>, Status> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                let known = self.all.lock().ok().and_then(|all| all.get(name).cloned());
                if let Some(job) = known {
                    return job;
                }
                changed.await;
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        found.map_err(|_| Status::new(Code::NOT_FOUND, format!("no such build {name}")))
    }
}

/// Ends a build from outside.
#[derive(Clone)]
pub(crate) struct Cancel(Arc<Inside>);

struct Inside {
    builder: robot_env_build::Cancel,
    now: Notify,
    /// Those that talk to registries for the build.
    clients: Mutex<Vec<Client>>,
}

impl Cancel {
    fn new() -> EngineResult<Cancel> {
        let builder = robot_env_build::Cancel::new()?;
        Ok(Cancel(Arc::new(Inside { builder, now: Notify::new(), clients: Mutex::default() })))
    }

    /// What the builder takes.
    pub(crate) fn builder(&self) -> robot_env_build::Cancel {
        self.0.builder.clone()
    }

    /// Ends the build.
    pub(crate) fn cancel(&self) {
        self.0.builder.cancel();
        self.0.now.notify_waiters();
        if let Ok(clients) = self.0.clients.lock() {
            clients.iter().for_each(Client::cancel);
        }
    }

    /// Whether it was ended.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.builder.is_cancelled()
    }

    /// Lets it end what this client does.
    pub(crate) fn watch(&self, client: &Client) {
        if let Ok(mut clients) = self.0.clients.lock() {
            clients.push(client.clone());
        }
        if self.is_cancelled() {
            client.cancel();
        }
    }

    /// Does something that is given up when the build is ended.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = EngineResult<T>>) -> EngineResult<T> {
        let now = self.0.now.notified();
        tokio::pin!(now);
        now.as_mut().enable();
        self.check()?;
        tokio::select! {
            done = work => done,
            () = now => Err(cancelled()),
        }
    }

    /// # Errors
    /// `Interrupted` when it was ended.
    pub(crate) fn check(&self) -> EngineResult<()> {
        if self.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

/// Ends a build when it is dropped, unless it was over before.
pub(crate) struct CancelGuard<'j>(pub(crate) &'j Job);

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        self.0.cancel.cancel();
        self.0.end();
    }
}

/// What a build that was ended from outside says.
pub(crate) fn cancelled() -> Error {
    Error::new(Kind::Interrupted, "the build was cancelled")
}

pub(crate) fn cancelled_status() -> Status {
    Status::new(Code::CANCELLED, "the build was cancelled")
}
