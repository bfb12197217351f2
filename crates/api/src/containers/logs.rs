//! `GET /containers/{id}/logs`.

use std::os::fd::AsFd;
use std::time::Duration;

use robot_env_diag::Result as EngineResult;
use robot_env_engine::{Engine, LogEntry, LogOptions, LogReader, LogStep};
use tokio::io::unix::AsyncFd;

use crate::failure::{Failure, Result};
use crate::http::{Feed, Reply, channel};
use crate::routes::{Call, Version};
use crate::server::Server;
use crate::stream::{self, piece};

/// Bytes that are read of a log at once.
const BATCH: usize = 128 * 1024;
/// When a log that is followed is looked at without a sign.
const LOOK: Duration = Duration::from_secs(1);
const BLIND: Duration = Duration::from_millis(200);

/// How entries are written.
#[derive(Clone, Copy, Debug)]
struct Style {
    tty: bool,
    timestamps: bool,
}

/// `GET /containers/{id}/logs`
pub(crate) async fn answer(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let query = &call.query;
    let tail = match query.text("tail") {
        None | Some("all") => None,
        // What is no number is all, as in Docker.
        Some(text) => text.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()),
    };
    let options = LogOptions {
        stdout: query.truth("stdout"),
        stderr: query.truth("stderr"),
        since: query.moment("since")?,
        until: query.moment("until")?,
        tail,
        follow: query.truth("follow"),
    };
    if !options.stdout && !options.stderr {
        return Err(Failure::new(400, "Bad parameters: you must choose at least one stream"));
    }
    let timestamps = query.truth("timestamps");
    let text = name.to_owned();
    let (tty, reader) = call
        .server
        .blocking(move |engine| {
            let container = engine.container(&text)?;
            Ok((container.record.spec.tty, engine.logs(container.record.id.as_str(), options)?))
        })
        .await?;
    let (feed, output) = channel();
    tokio::spawn(follow(call.server, reader, Style { tty, timestamps }, feed));
    let kind = if call.version < Version(1, 42) { stream::RAW } else { stream::kind(tty, call.version) };
    Ok(Reply::stream(kind, output))
}

fn encoded(entry: &LogEntry, style: Style) -> Vec<u8> {
    if style.timestamps {
        let line = format!("{} {}", entry.time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"), entry.text);
        return piece(entry.stream, line.as_bytes(), style.tty);
    }
    piece(entry.stream, entry.text.as_bytes(), style.tty)
}

/// What a look at a log has brought.
struct Look {
    reader: LogReader<'static>,
    bytes: Vec<u8>,
    ended: bool,
    pending: bool,
}

fn look(mut reader: LogReader<'static>, style: Style, drain: bool) -> EngineResult<Look> {
    if drain {
        // It was readable: this does not wait.
        reader.wait(None);
    }
    let mut bytes = Vec::new();
    while bytes.len() < BATCH {
        match reader.step()? {
            LogStep::Entry(entry) => bytes.extend(encoded(&entry, style)),
            LogStep::Pending => return Ok(Look { reader, bytes, ended: false, pending: true }),
            LogStep::Ended => return Ok(Look { reader, bytes, ended: true, pending: false }),
        }
    }
    Ok(Look { reader, bytes, ended: false, pending: false })
}

/// Sends a log; a thread is used only while there is something to read.
async fn follow(server: &'static Server, reader: LogReader<'static>, style: Style, feed: Feed) {
    let mut reader = reader;
    let mut drain = false;
    loop {
        let Ok(seen) = server.blocking(move |_| look(reader, style, drain)).await else { return };
        if !seen.bytes.is_empty() && feed.send(seen.bytes).await.is_err() || seen.ended {
            return;
        }
        reader = seen.reader;
        drain = false;
        if seen.pending {
            tokio::select! {
                readable = readable(&reader) => drain = readable,
                () = feed.closed() => return,
            }
        }
    }
}

/// Waits until a log may have grown; whether a sign said so.
#[expect(deprecated, reason = "its successor is unsafe; an owned descriptor stays what it is")]
async fn readable(reader: &LogReader<'static>) -> bool {
    let watched = reader.descriptor().and_then(|fd| fd.as_fd().try_clone_to_owned().ok());
    let Some(fd) = watched.and_then(|fd| AsyncFd::new(fd).ok()) else {
        tokio::time::sleep(BLIND).await;
        return false;
    };
    tokio::time::timeout(LOOK, fd.readable()).await.is_ok()
}

/// All that was logged so far, encoded for a stream.
pub(super) fn all(
    engine: &'static Engine,
    text: &str,
    options: LogOptions,
    tty: bool,
) -> EngineResult<Vec<u8>> {
    let mut reader = engine.logs(text, options)?;
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        out.extend(encoded(&entry, Style { tty, timestamps: false }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_nine_digits() {
        let entry = LogEntry {
            text: "a\n".into(),
            stream: robot_env_engine::stream::Stream::Stdout,
            time: jiff::Timestamp::from_second(1).unwrap(),
        };
        let got = encoded(&entry, Style { tty: true, timestamps: true });
        assert_eq!(got, b"1970-01-01T00:00:01.000000000Z a\n");
        assert_eq!(encoded(&entry, Style { tty: false, timestamps: false }), b"\x01\0\0\0\0\0\0\x02a\n");
    }
}
