//! The Docker Engine API over a unix socket: a front end on the engine, like the command line.
//!
//! It knows HTTP, Docker's paths, parameters, statuses and texts. It deliberately knows no store
//! format and no kernel interface of containers: every request becomes calls of the engine, which
//! block, and run on threads of their own; streams (attach, exec, logs, events, waits) are sockets
//! and files that one thread waits for.
//!
//! The server keeps nothing that a container needs: it may end at any time, any number of servers
//! and command lines work on one store, and each sees the events of all. What it alone knows are the
//! processes that were made with `exec` through it: see [`exec`]. On disk is only its socket.

mod build;
mod buildkit;
mod containers;
mod credentials;
mod exec;
mod failure;
mod filters;
mod http;
mod hub;
mod images;
mod listen;
mod networks;
mod query;
mod routes;
mod server;
mod stream;
mod swarm;
mod system;
mod tls;
mod volumes;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use robot_env_config::Configuration;
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_engine::Engine;
use robot_env_registry::ClientOptions;
use tokio::signal::unix::{SignalKind, signal};

use crate::listen::Socket;
use crate::server::Server;
use crate::tls::Gate;
pub use crate::tls::TlsOptions;

/// Reads what a client may send, for tests with inputs that nobody vouches for: a request's head, and
/// what a container, a build and filters are made of. Whether `bytes` begin with a whole head.
#[doc(hidden)]
pub fn read_request(bytes: &[u8]) -> bool {
    if let Ok(wanted) = serde_json::from_slice(bytes) {
        let _ = containers::conversion::spec(wanted);
    }
    let Ok(Some((head, length))) = http::parse_head(bytes) else { return false };
    assert!(length <= bytes.len() && head.path.starts_with('/'));
    let query = query::Query::parse(&head.query);
    build::check(&query);
    let _ = filters::of(&query, &["label", "name", "until"]);
    let _ = http::websocket::accept(&head);
    true
}

/// What [`serve`] serves, and where.
pub struct ServeOptions {
    /// The engine.
    pub engine: Engine,
    /// Where the socket is made, unless sockets were handed over.
    pub socket: PathBuf,
    /// A group, by name or number, whose users may connect; absent: the user alone.
    pub group: Option<String>,
    /// Where TCP is served, too.
    pub tls: Option<TlsOptions>,
    /// Listening sockets that the program was started with (systemd's socket activation).
    pub activated: Vec<OwnedFd>,
    /// End when nobody has asked for anything so long.
    pub idle: Option<Duration>,
    /// How registries are talked to; the credentials are those that a request brings.
    pub registry: ClientOptions,
    /// What it says of every container.
    pub configuration: Configuration,
    /// The engine's version.
    pub version: &'static str,
    /// The directories of programs: where other OCI runtimes are looked for.
    pub path: String,
    /// Called once when the socket accepts requests, with its path.
    pub ready: fn(&std::path::Path),
}

/// Serves until it is told to end (SIGTERM, SIGINT), or nothing has happened for so long as the
/// options say. Containers are not touched. The process must have one thread.
///
/// # Errors
/// `Conflict` when somebody listens on the socket already.
pub fn serve(options: ServeOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(512)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(1 << 20)
        .build()
        .io_context(|| "cannot start the server".into())?;
    let done = runtime.block_on(run(options));
    // Whoever still works on a thread of his own is not waited for.
    runtime.shutdown_background();
    done
}

async fn run(options: ServeOptions) -> Result<()> {
    let sockets = sockets(&options)?;
    let gate = match &options.tls {
        Some(tls) => Some(Gate::open(tls).await?),
        None => None,
    };
    let idle = options.idle;
    let path = options.socket.clone();
    let ready = options.ready;
    let server: &'static Server = Box::leak(Box::new(Server::new(options)?));
    let signals = |kind| signal(kind).io_context(|| "cannot wait for signals".into());
    let (mut terminate, mut interrupt) =
        (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let mut children = signals(SignalKind::child())?;
    ready(&path);
    loop {
        let accepted = async {
            match &sockets[..] {
                [one] => one.listener.accept().await,
                [one, two, ..] => tokio::select! {
                    accepted = one.listener.accept() => accepted,
                    accepted = two.listener.accept() => accepted,
                },
                [] => std::future::pending().await,
            }
        };
        let proving = async {
            match &gate {
                Some(gate) => (gate, gate.accept().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (gate, client) = proving => match client {
                Ok(client) => gate.welcome(client, server),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            accepted = accepted => match accepted {
                Ok((stream, _)) => server.welcome(stream),
                // Out of descriptors: others have to go first.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = children.recv() => server.engine.reap_monitors(),
            () = server.idle_for(idle) => break,
        }
    }
    drop(sockets);
    server.finish().await;
    Ok(())
}

fn sockets(options: &ServeOptions) -> Result<Vec<Socket>> {
    if options.activated.is_empty() {
        return Ok(vec![listen::bind(&options.socket, options.group.as_deref())?]);
    }
    let handed: Result<Vec<_>> = options
        .activated
        .iter()
        .map(|fd| {
            let own = fd.try_clone().io_context(|| "cannot use a socket of systemd".into())?;
            listen::handed_over(own)
        })
        .collect();
    let handed = handed?;
    if handed.len() > 2 {
        return Err(Error::new(Kind::Unsupported, "cannot serve on more than two sockets of systemd"));
    }
    Ok(handed)
}
