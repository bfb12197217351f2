//! Events, read once for everybody: one thread follows the engine's log of events, whichever process
//! writes them, and every stream, wait and attach of this server hears of them here.

use std::sync::Arc;
use std::time::Duration;

use robot_env_diag::Result;
use robot_env_engine::{Engine, Event};
use tokio::sync::broadcast;

/// Events that may wait for a slow reader; who is slower misses some, and is told.
const WAITING: usize = 4096;
/// How long the thread sleeps when nothing happens; only for machines without inotify it matters.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Where events come from.
pub(crate) struct Hub {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Hub {
    /// Begins to follow the events from now on.
    pub(crate) fn start(engine: &Engine) -> Result<Hub> {
        let mut reader = engine.events(true)?;
        let (sender, _) = broadcast::channel(WAITING);
        let out = sender.clone();
        let follow = move || {
            loop {
                match reader.next_event() {
                    // Nobody listening is no failure.
                    Ok(Some(event)) => drop(out.send(Arc::new(event))),
                    Ok(None) => reader.wait(None, PATIENCE),
                    Err(_) => std::thread::sleep(Duration::from_millis(200)),
                }
            }
        };
        let builder = std::thread::Builder::new().name("events".into()).stack_size(256 * 1024);
        builder.spawn(follow).map_err(|error| {
            robot_env_diag::Error::new(robot_env_diag::Kind::of_io(&error), "cannot start a thread")
                .because(error)
        })?;
        Ok(Hub { sender })
    }

    /// Whatever happens from now on.
    pub(crate) fn listen(&self) -> Listener {
        Listener(self.sender.subscribe())
    }
}

/// Hears of events.
pub(crate) struct Listener(broadcast::Receiver<Arc<Event>>);

impl Listener {
    /// The next event; `None` when some were missed because they came too fast.
    pub(crate) async fn next(&mut self) -> Option<Arc<Event>> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The sender lives as long as the server.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// The next event of a container; `None` as above.
    pub(crate) async fn of_container(&mut self, id: &str) -> Option<Arc<Event>> {
        loop {
            match self.next().await {
                Some(event) if event.kind == "container" && event.id == id => return Some(event),
                Some(_) => {}
                None => return None,
            }
        }
    }
}
