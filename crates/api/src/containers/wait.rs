//! `POST /containers/{id}/wait`: the answer's head goes at once, its document when the container ends.

use std::time::Duration;

use jiff::Timestamp;
use robot_env_engine::{Container, Event};

use crate::failure::{Failure, Result};
use crate::http::{Feed, Reply, channel};
use crate::hub::Listener;
use crate::routes::Call;
use crate::server::Server;

/// How often the container is looked at without an event: one may be lost on a full disk.
const LOOK: Duration = Duration::from_secs(3);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

/// `POST /containers/{id}/wait`
pub(crate) async fn answer(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let condition = match call.query.text("condition") {
        None | Some("not-running") => Condition::NotRunning,
        Some("next-exit") => Condition::NextExit,
        Some("removed") => Condition::Removed,
        Some(other) => return Err(Failure::new(400, format!("invalid condition: \"{other}\""))),
    };
    // Before the look, so that nothing falls between.
    let events = call.server.hub.listen();
    let container = super::find(call.server, name).await?;
    let (feed, stream) = channel();
    tokio::spawn(wait(call.server, container, condition, events, feed));
    Ok(Reply::stream("application/json", stream))
}

async fn wait(
    server: &'static Server,
    container: Container,
    condition: Condition,
    mut events: Listener,
    feed: Feed,
) {
    let id = container.record.id.to_string();
    let mut code = container.state.state.exit_code();
    let begun = Timestamp::now();
    let waits = condition != Condition::NotRunning || container.state.state.is_active();
    let mut look = waits.then_some(());
    while look.is_some() {
        let event = tokio::select! {
            event = events.of_container(&id) => event,
            () = tokio::time::sleep(LOOK) => None,
            () = feed.closed() => return,
        };
        if let Some(event) = &event {
            match event.action.as_str() {
                "die" => code = exit_code(event).unwrap_or(code),
                "destroy" => break,
                _ => continue,
            }
            // One that removes itself writes no last state.
            if condition != Condition::Removed && container.record.spec.auto_remove {
                break;
            }
        }
        if condition == Condition::Removed && event.is_some() {
            continue;
        }
        match super::find(server, &id).await {
            Ok(now) => {
                let state = &now.state.state;
                let ended = !state.is_active()
                    && (condition == Condition::NotRunning
                        || event.is_some()
                        || state.exit().is_some_and(|exit| exit.finished >= begun));
                if condition != Condition::Removed && ended {
                    code = state.exit_code();
                    look = None;
                }
            }
            Err(failure) if failure.status == 404 => look = None,
            Err(_) => {}
        }
    }
    let _ = feed.send(format!("{{\"StatusCode\":{code}}}\n").into_bytes()).await;
}

fn exit_code(event: &Event) -> Option<i32> {
    event.attributes.get("exitCode")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_in_the_event() {
        let mut event = Event::now("container", "die", "x", std::collections::BTreeMap::new());
        assert_eq!(exit_code(&event), None);
        event.attributes.insert("exitCode".into(), "137".into());
        assert_eq!(exit_code(&event), Some(137));
    }
}
