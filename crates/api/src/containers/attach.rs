//! `POST /containers/{id}/attach`: a client's connection becomes the container's streams.
//!
//! `docker run` attaches before it starts. Such a client waits for a seat: the start that this
//! server does brings it one without losing a byte; a start by somebody else is heard of as an event.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use robot_env_engine::attach::Attachment;
use robot_env_engine::record::{ContainerRecord, State};
use robot_env_engine::stream::Hello;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::failure::{Failure, Result};
use crate::http::{Input, Reply, Upgraded, websocket};
use crate::hub::Listener;
use crate::routes::Call;
use crate::server::Server;
use crate::stream::{self, End, Wire, Wiring};

/// How long a start by this server may take from its event to the seat.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Clients that wait for containers to start, by container.
#[derive(Default)]
pub(crate) struct Waiting {
    seats: Mutex<HashMap<String, Vec<Seat>>>,
    next: AtomicU64,
}

struct Seat {
    number: u64,
    hello: Hello,
    sender: oneshot::Sender<Attachment>,
}

/// Those who have waited for one container, first come first.
pub(crate) struct Seats(Vec<Seat>);

impl Waiting {
    fn wait(&self, id: &str, hello: Hello) -> (u64, oneshot::Receiver<Attachment>) {
        let (sender, receiver) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut seats) = self.seats.lock() {
            seats.entry(id.to_owned()).or_default().push(Seat { number, hello, sender });
        }
        (number, receiver)
    }

    fn leave(&self, id: &str, number: u64) {
        if let Ok(mut seats) = self.seats.lock()
            && let Some(own) = seats.get_mut(id)
        {
            own.retain(|seat| seat.number != number);
            if own.is_empty() {
                seats.remove(id);
            }
        }
    }

    /// Takes everybody who waits for a container that is started now.
    pub(crate) fn take(&self, id: &str) -> Seats {
        let mut seats = self.seats.lock().ok().and_then(|mut seats| seats.remove(id)).unwrap_or_default();
        seats.retain(|seat| !seat.sender.is_closed());
        Seats(seats)
    }
}

impl Seats {
    /// What the start is to attach: the first one's streams.
    pub(crate) fn hello(&self) -> Option<Hello> {
        self.0.first().map(|seat| seat.hello)
    }

    /// Gives everybody a connection: the first one that of the start, the others one of their own.
    pub(crate) async fn seat(self, server: &'static Server, id: &str, first: Option<Attachment>) {
        let mut first = first;
        for seat in self.0 {
            let attachment = match first.take() {
                Some(attachment) => Some(attachment),
                None => {
                    let (id, hello) = (id.to_owned(), seat.hello);
                    server.blocking(move |engine| engine.attach(&id, hello)).await.ok()
                }
            };
            // Whoever has gone meanwhile drops it.
            if let Some(attachment) = attachment {
                let _ = seat.sender.send(attachment);
            }
        }
    }
}

/// Where a client's streams come from.
enum Source {
    /// A container that runs.
    Running(Wire),
    /// One that is still to be started.
    Later { number: u64, receiver: oneshot::Receiver<Attachment>, events: Listener },
    /// None: only what was logged is wanted.
    Nothing,
}

/// A client's streams once they are connected.
struct Attached {
    id: String,
    record: ContainerRecord,
    /// What was logged before.
    logged: Vec<u8>,
    source: Source,
    wiring: Wiring,
}

/// `POST /containers/{id}/attach`
pub(crate) async fn answer(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let server = call.server;
    let attached = attach(call, name, false).await?;
    let protocol = call.head.upgrade();
    let kind = if protocol.is_some() { stream::kind(attached.wiring.tty, call.version) } else { stream::RAW };
    Ok(Reply::takeover(
        protocol,
        kind,
        Box::new(move |mut client| Box::pin(async move { attached.connect(server, &mut client).await })),
    ))
}

/// `GET /containers/{id}/attach/ws`: the same in the frames of a websocket, without Docker's own.
pub(crate) async fn websocket(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let server = call.server;
    let Some(accept) = websocket::accept(call.head) else {
        return Err(Failure::new(400, "cannot attach by a websocket: the request asks for none"));
    };
    let attached = attach(call, name, true).await?;
    let (near, far) = UnixStream::pair()?;
    let reply = Reply::takeover(
        Some("websocket"),
        stream::RAW,
        Box::new(move |mut client| {
            Box::pin(async move {
                let (half, mut output) = near.into_split();
                let plain = async move {
                    let mut input = Input::new(half);
                    attached.connect(server, &mut Upgraded { input: &mut input, output: &mut output }).await;
                };
                // The frames' side ends after the other has, and ends it when the client goes.
                tokio::join!(websocket::pump(&mut client, far), plain);
            })
        }),
    );
    Ok(reply.with("Sec-WebSocket-Accept", accept))
}

async fn attach(call: &Call<'_, '_>, name: &str, plain: bool) -> Result<Attached> {
    let (server, query) = (call.server, &call.query);
    let keys = stream::detach_keys(query.text("detachKeys"))?;
    // Before the look, so that a start after it is heard of.
    let events = server.hub.listen();
    let container = super::find(server, name).await?;
    match &container.state.state {
        State::Running { paused: true, .. } => {
            return Err(Failure::new(
                409,
                format!("container {name} is paused, unpause the container before attach"),
            ));
        }
        State::Restarting { .. } => {
            return Err(Failure::new(
                409,
                format!("container {name} is restarting, wait until the container is running"),
            ));
        }
        _ => {}
    }
    let spec = &container.record.spec;
    let (tty, id) = (spec.tty, container.record.id.to_string());
    let hello = Hello {
        stdin: query.truth("stdin") && spec.stdin_open,
        stdout: query.truth("stdout"),
        stderr: query.truth("stderr") && !tty,
    };
    let source = if !query.truth("stream") {
        Source::Nothing
    } else if container.state.state.is_running() {
        let text = id.clone();
        let attachment = server.blocking(move |engine| engine.attach(&text, hello)).await?;
        Source::Running(Wire::new(attachment)?)
    } else {
        let (number, receiver) = server.waiting.wait(&id, hello);
        Source::Later { number, receiver, events }
    };
    let logged = if query.truth("logs") {
        let options = robot_env_engine::LogOptions {
            stdout: hello.stdout,
            stderr: query.truth("stderr"),
            ..robot_env_engine::LogOptions::default()
        };
        let text = id.clone();
        server.blocking(move |engine| super::logs::all(engine, &text, options, tty || plain)).await?
    } else {
        Vec::new()
    };
    server.engine.tell(&container.record, "attach", &[]);
    let wiring = Wiring { tty, plain: tty || plain, stdin: hello.stdin, keys };
    Ok(Attached { id, record: container.record, logged, source, wiring })
}

impl Attached {
    async fn connect(self, server: &'static Server, client: &mut Upgraded<'_>) {
        if client.output.write_all(&self.logged).await.is_err() {
            return;
        }
        let Some(mut wire) = seated(server, &self.id, self.source, client).await else { return };
        // Sizes come by a request of their own.
        let (_sizes, mut sizes) = mpsc::channel(1);
        if wire.connect(client, &self.wiring, &mut sizes).await == End::Detached {
            server.engine.tell(&self.record, "detach", &[]);
        }
    }
}

/// Waits until the container has started; `None` when the client goes before, or the start fails.
async fn seated(
    server: &'static Server,
    id: &str,
    source: Source,
    client: &mut Upgraded<'_>,
) -> Option<Wire> {
    let (number, mut receiver, mut events) = match source {
        Source::Running(wire) => return Some(wire),
        Source::Nothing => return None,
        Source::Later { number, receiver, events } => (number, receiver, events),
    };
    let attachment = loop {
        tokio::select! {
            biased;
            seat = &mut receiver => break seat.ok(),
            event = events.of_container(id) => match event.as_ref().map(|event| event.action.as_str()) {
                Some("start") => {
                    // By this server, or by another process.
                    if let Ok(seat) = tokio::time::timeout(A_MOMENT, &mut receiver).await {
                        break seat.ok();
                    }
                    let text = id.to_owned();
                    let hello = server.waiting.hello(id, number).unwrap_or_default();
                    break server.blocking(move |engine| engine.attach(&text, hello)).await.ok();
                }
                Some("destroy") => break None,
                _ => {}
            },
            () = gone(client) => break None,
        }
    };
    server.waiting.leave(id, number);
    Wire::new(attachment?).ok()
}

/// Waits until a client has gone. What it types meanwhile stays where it is.
async fn gone(client: &mut Upgraded<'_>) {
    // A client that types much before the start is not read any further.
    while client.input.ready().len() < 64 * 1024 && client.input.fill().await.unwrap_or(false) {}
    while !client.input.hung_up() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Waiting {
    fn hello(&self, id: &str, number: u64) -> Option<Hello> {
        let seats = self.seats.lock().ok()?;
        seats.get(id)?.iter().find(|seat| seat.number == number).map(|seat| seat.hello)
    }
}
