//! Sessions: connections on which clients answer what a build asks for (files, secrets, agents,
//! credentials). A client says which calls it answers when it opens one.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::grpc::{Channel, Code, Incoming, Status};
use super::messages::Empty;
use super::messages::session::{Bytes, HealthResponse};
use super::pipe::Pipe;
use crate::failure::{Failure, Result};
use crate::http::{Reply, Upgraded};
use crate::routes::Call;
use crate::server::Server;

/// How long a build waits for the session that it names.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a client is asked whether it is there, how long it may take, and how often it may fail.
const HEALTH: Duration = Duration::from_secs(5);
const HEALTH_TIME: Duration = Duration::from_secs(20);
const HEALTH_FAILURES: usize = 2;
/// The most sessions at once, and the most calls that one may offer.
const SESSIONS: usize = 1024;
const METHODS: usize = 1024;

/// A client that answers calls.
pub(crate) struct Session {
    /// The client's connection.
    pub(crate) channel: Channel,
    /// What the client calls its context: the same for all builds from one directory.
    pub(crate) shared_key: String,
    methods: HashSet<String>,
    ended: watch::Receiver<bool>,
}

/// The sessions of this server.
#[derive(Default)]
pub(crate) struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    changed: Notify,
}

/// What a client says of its session.
pub(super) struct Offer {
    id: String,
    shared_key: String,
    methods: HashSet<String>,
}

impl Session {
    /// Whether the client answers this call.
    pub(crate) fn answers(&self, path: &str) -> bool {
        self.methods.contains(&path.to_ascii_lowercase())
    }

    /// Waits for the session's end.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // The other side is dropped at the end, too.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Sessions {
    /// The session with this id; one that comes soon is waited for.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                let known = self.all.lock().ok().and_then(|all| all.get(id).cloned());
                if let Some(session) = known {
                    return session;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, waiting)
            .await
            .map_err(|_| Status::new(Code::NOT_FOUND, format!("no active session for {id}")))
    }

    fn add(&self, id: &str, session: Arc<Session>) -> Result<(), Status> {
        let poisoned = |_| Status::new(Code::INTERNAL, "the list of sessions is damaged");
        let mut all = self.all.lock().map_err(poisoned)?;
        if all.len() >= SESSIONS {
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, "there are too many sessions"));
        }
        if all.contains_key(id) {
            return Err(Status::new(Code::ALREADY_EXISTS, format!("session {id} already exists")));
        }
        all.insert(id.to_owned(), session);
        self.changed.notify_waiters();
        Ok(())
    }

    fn remove(&self, id: &str) {
        if let Ok(mut all) = self.all.lock() {
            all.remove(id);
        }
    }
}

impl Offer {
    /// From header fields; `None` where they name no session.
    fn of<'f>(fields: impl Iterator<Item = (&'f str, &'f str)>) -> Option<Offer> {
        let mut offer = Offer { id: String::new(), shared_key: String::new(), methods: HashSet::new() };
        for (name, value) in fields {
            match name {
                "x-docker-expose-session-uuid" => value.clone_into(&mut offer.id),
                "x-docker-expose-session-sharedkey" => value.clone_into(&mut offer.shared_key),
                "x-docker-expose-session-grpc-method" if offer.methods.len() < METHODS => {
                    offer.methods.insert(value.to_ascii_lowercase());
                }
                _ => {}
            }
        }
        (!offer.id.is_empty()).then_some(offer)
    }

    fn of_metadata(fields: &HeaderMap) -> Option<Offer> {
        Offer::of(fields.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))))
    }

    /// Lets builds ask the client until it goes.
    async fn open<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        server: &'static Server,
        stream: S,
    ) -> Result<(), Status> {
        let (channel, connection) = Channel::open(stream).await?;
        let (end, ended) = watch::channel(false);
        let checked = channel.clone();
        let session =
            Arc::new(Session { channel, shared_key: self.shared_key, methods: self.methods, ended });
        let sessions = &server.builds.sessions;
        sessions.add(&self.id, session)?;
        let over = tokio::select! {
            over = connection => over.map_err(Status::from),
            () = unhealthy(&checked) => {
                Err(Status::new(Code::UNAVAILABLE, "the client does not answer any more"))
            }
        };
        sessions.remove(&self.id);
        let _ = end.send(true);
        over
    }
}

/// Waits until the client does not answer any more.
async fn unhealthy(channel: &Channel) {
    let mut failures = 0;
    while failures < HEALTH_FAILURES {
        tokio::time::sleep(HEALTH).await;
        let check = channel.unary::<HealthResponse>("/grpc.health.v1.Health/Check", &Empty {});
        match timeout(HEALTH_TIME, check).await {
            // Whoever does not know the question is there all the same.
            Ok(Ok(_)) => failures = 0,
            Ok(Err(status)) if status.code == Code::UNIMPLEMENTED => failures = 0,
            _ => failures += 1,
        }
    }
}

/// `POST /session`: the connection becomes HTTP/2, with the client as the side that answers.
pub(crate) fn answer(call: &Call<'_, '_>) -> Result<Reply> {
    upgraded_to_h2c(call)?;
    let fields = call.head.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let offer = Offer::of(fields)
        .ok_or_else(|| Failure::new(400, "the request has no X-Docker-Expose-Session-Uuid"))?;
    let server = call.server;
    Ok(hijacked(move |upgraded| {
        Box::pin(async move {
            // A client that goes in the middle is no failure of ours.
            let _ = offer.open(server, Pipe(upgraded)).await;
        })
    }))
}

/// An answer that makes the connection HTTP/2.
pub(super) fn hijacked(
    takeover: impl for<'c> FnOnce(Upgraded<'c>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'c>>
    + Send
    + 'static,
) -> Reply {
    Reply::takeover(Some("h2c"), "application/grpc", Box::new(takeover))
}

/// Whether the client asks for what `/session` and `/grpc` are.
pub(super) fn upgraded_to_h2c(call: &Call<'_, '_>) -> Result<()> {
    match call.head.upgrade() {
        Some("h2c") => Ok(()),
        Some(other) => Err(Failure::new(400, format!("protocol {other} not supported"))),
        None => Err(Failure::new(400, "no upgrade proto in request")),
    }
}

/// `Control.Session`: the same, through a call of a connection that is HTTP/2 already.
pub(super) async fn tunnel(server: &'static Server, call: Incoming) -> Result<(), Status> {
    let Incoming { metadata, mut messages, mut answer, .. } = call;
    let Some(offer) = Offer::of_metadata(&metadata) else {
        let status = Status::new(Code::INVALID_ARGUMENT, "the call names no session");
        answer.end(Err(status.clone()));
        return Err(status);
    };
    answer.begin()?;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut from, mut to) = tokio::io::split(far);
    let inward = async {
        while let Some(piece) = messages.next::<Bytes>().await? {
            if to.write_all(&piece.data).await.is_err() {
                break;
            }
        }
        Ok::<(), Status>(())
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok::<(), Status>(()),
                Ok(count) => answer.send(&Bytes { data: buffer[..count].to_vec() }).await?,
            }
        }
    };
    let over = tokio::select! {
        over = offer.open(server, near) => over,
        over = inward => over,
        over = outward => over,
    };
    answer.end(over.clone());
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers() {
        let fields = [
            ("x-docker-expose-session-uuid", "abc"),
            ("x-docker-expose-session-sharedkey", "dir:1"),
            ("x-docker-expose-session-grpc-method", "/moby.filesync.v1.FileSync/DiffCopy"),
            ("x-docker-expose-session-grpc-method", "/grpc.health.v1.Health/Check"),
            ("host", "x"),
        ];
        let offer = Offer::of(fields.into_iter()).unwrap();
        assert_eq!((offer.id.as_str(), offer.shared_key.as_str()), ("abc", "dir:1"));
        assert_eq!(offer.methods.len(), 2);
        assert!(offer.methods.contains("/moby.filesync.v1.filesync/diffcopy"));
        assert!(Offer::of([("host", "x")].into_iter()).is_none());
    }
}
