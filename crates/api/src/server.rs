//! The server: what all requests share, and how each finds its way.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use robot_env_config::Configuration;
use robot_env_diag::Result as EngineResult;
use robot_env_engine::Engine;
use robot_env_registry::ClientOptions;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::ServeOptions;
use crate::build::AtWork;
use crate::buildkit::Builds;
use crate::containers::attach::Waiting;
use crate::exec::Execs;
use crate::failure::{Failure, Result};
use crate::http::{Body, Handler, Head, Reply, serve_connection};
use crate::hub::Hub;
use crate::routes;

/// How long a server that ends lets requests finish that have begun.
const PATIENCE: Duration = Duration::from_secs(3);

/// What all requests share.
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) hub: Hub,
    pub(crate) execs: Execs,
    pub(crate) at_work: AtWork,
    pub(crate) builds: Builds,
    /// Clients that have attached to containers which do not run yet.
    pub(crate) waiting: Waiting,
    pub(crate) registry: ClientOptions,
    pub(crate) configuration: Configuration,
    pub(crate) version: &'static str,
    pub(crate) path: String,
    fields: Vec<(&'static str, String)>,
    busy: AtomicUsize,
    /// When the last request ended.
    quiet: Mutex<Instant>,
    quieter: Notify,
}

impl Server {
    pub(crate) fn new(options: ServeOptions) -> EngineResult<Server> {
        let fields = vec![
            ("Api-Version", routes::NEWEST.to_string()),
            ("Docker-Experimental", "false".to_owned()),
            ("Ostype", "linux".to_owned()),
            ("Server", format!("robot-env/{} (linux)", options.version)),
        ];
        Ok(Server {
            hub: Hub::start(&options.engine)?,
            engine: options.engine,
            execs: Execs::default(),
            at_work: AtWork::default(),
            builds: Builds::default(),
            waiting: Waiting::default(),
            registry: options.registry,
            configuration: options.configuration,
            version: options.version,
            path: options.path,
            fields,
            busy: AtomicUsize::new(0),
            quiet: Mutex::new(Instant::now()),
            quieter: Notify::new(),
        })
    }

    /// Serves a connection.
    pub(crate) fn welcome(&'static self, stream: UnixStream) {
        tokio::spawn(async move {
            // A client that goes in the middle is no failure of ours.
            let _ = serve_connection(stream, &Door(self)).await;
        });
    }

    /// Waits until nobody has asked for anything for so long; for ever without a limit.
    pub(crate) async fn idle_for(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let since = self.quiet.lock().map_or_else(|poisoned| *poisoned.into_inner(), |since| *since);
            let left = limit.saturating_sub(since.elapsed());
            if self.busy.load(Ordering::Relaxed) > 0 {
                self.quieter.notified().await;
            } else if left.is_zero() {
                return;
            } else {
                tokio::time::sleep(left).await;
            }
        }
    }

    /// Lets requests that have begun come to their end, for a little while.
    pub(crate) async fn finish(&self) {
        let wait = async {
            while self.busy.load(Ordering::Relaxed) > 0 {
                self.quieter.notified().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }

    /// Does something that blocks, on a thread of its own.
    pub(crate) async fn blocking<T: Send + 'static>(
        &'static self,
        work: impl FnOnce(&'static Engine) -> EngineResult<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking_error(work).await.map_err(Failure::from)
    }

    /// The same for whoever has to tell the engine's errors apart.
    pub(crate) async fn blocking_error<T: Send + 'static>(
        &'static self,
        work: impl FnOnce(&'static Engine) -> EngineResult<T> + Send + 'static,
    ) -> EngineResult<T> {
        let done = tokio::task::spawn_blocking(move || work(&self.engine)).await;
        done.unwrap_or_else(|_| {
            Err(robot_env_diag::Error::new(
                robot_env_diag::Kind::Internal,
                "the engine has failed unexpectedly",
            ))
        })
    }

    /// Deletes what was removed, when nobody waits for it.
    pub(crate) fn empty_trash_later(&'static self) {
        drop(tokio::task::spawn_blocking(move || self.engine.store().empty_trash(None)));
    }
}

/// A request is being answered as long as this lives.
struct Busy(&'static Server);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Ok(mut quiet) = self.0.quiet.lock() {
            *quiet = Instant::now();
        }
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.quieter.notify_waiters();
    }
}

/// What connections see of the server.
struct Door(&'static Server);

impl Handler for Door {
    async fn answer(&self, head: &Head, body: &mut Body<'_>) -> Reply {
        match routes::answer(self.0, head, body).await {
            Ok(reply) => reply,
            Err(failure) => failure.reply(),
        }
    }

    fn fields(&self) -> &[(&'static str, String)] {
        &self.0.fields
    }

    fn begun(&self) -> impl Send {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.0)
    }
}
