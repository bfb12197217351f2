//! `/containers/{id}/archive` and `/export`: files in and out, as tars.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use robot_env_engine::{Access, PathStat};
use robot_env_layer::{Decoder, ExtractOptions, ExtractOwner, Ownership};
use robot_env_wire::rfc3339;
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::http::{Feed, Reply, channel};
use crate::routes::Call;

/// The header field that says what there is at a path.
const STAT: &str = "X-Docker-Container-Path-Stat";
/// Bytes that are collected before they are sent.
const PIECE: usize = 64 * 1024;

/// Writes into a stream, from a thread that may block.
pub(crate) struct FeedWriter {
    feed: Feed,
    buffer: Vec<u8>,
}

impl FeedWriter {
    pub(crate) fn new(feed: Feed) -> FeedWriter {
        FeedWriter { feed, buffer: Vec::with_capacity(PIECE) }
    }
}

impl Write for FeedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.feed.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The bits of Go's `os.FileMode` for those of `st_mode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => (1 << 26) | (1 << 21),
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 23), (0o2000, 22), (0o1000, 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, at)| all | 1 << at);
    kind | special | (mode & 0o777)
}

fn stat_field(stat: &PathStat) -> String {
    let value = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": rfc3339(stat.mtime),
        "linkTarget": stat.link_target,
    });
    BASE64.encode(value.to_string())
}

fn path_of(call: &Call<'_, '_>) -> Result<String> {
    let path = call.query.text("path").map(str::to_owned);
    path.ok_or_else(|| Failure::new(400, "bad parameter: path cannot be empty"))
}

/// `HEAD /containers/{id}/archive`
pub(crate) async fn stat(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, path) = (name.to_owned(), path_of(call)?);
    let stat = call.server.blocking(move |engine| engine.files(&text, Access::Read)?.stat(&path)).await?;
    Ok(Reply::empty(200).with(STAT, stat_field(&stat)))
}

/// `GET /containers/{id}/archive`
pub(crate) async fn get(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, path) = (name.to_owned(), path_of(call)?);
    let server = call.server;
    let (asked, looked) = (text.clone(), path.clone());
    let stat = server.blocking(move |engine| engine.files(&asked, Access::Read)?.stat(&looked)).await?;
    let (feed, stream) = channel();
    tokio::task::spawn_blocking(move || {
        let mut out = FeedWriter::new(feed);
        let done =
            server.engine.files(&text, Access::Read).and_then(|files| files.write_tar(&path, None, &mut out));
        // A tar without its end tells the client of a failure.
        if done.is_ok() {
            let _ = out.flush();
        }
    });
    Ok(Reply::stream("application/x-tar", stream).with(STAT, stat_field(&stat)))
}

/// `PUT /containers/{id}/archive`
pub(crate) async fn put(call: &mut Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, path) = (name.to_owned(), path_of(call)?);
    let options = ExtractOptions {
        overwrite_dir_non_dir: !call.query.truth("noOverwriteDirNonDir"),
        owner: if robot_env_transfer::ownership() == Ownership::SingleId {
            ExtractOwner::Caller
        } else {
            ExtractOwner::Keep
        },
        ..ExtractOptions::default()
    };
    let server = call.server;
    let done = call.body.feed(move |body| {
        let tar = Decoder::new(body)?;
        server.engine.files(&text, Access::Write)?.extract_tar(&path, tar, &options)
    });
    done.await?;
    Ok(Reply::empty(200))
}

/// `GET /containers/{id}/export`
pub(crate) async fn export(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let server = call.server;
    let container = super::find(server, name).await?;
    let (feed, stream) = channel();
    tokio::task::spawn_blocking(move || {
        let mut out = FeedWriter::new(feed);
        if server.engine.export(container.record.id.as_str(), &mut out).is_ok() {
            let _ = out.flush();
        }
    });
    Ok(Reply::stream("application/octet-stream", stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (mode, want) in [
            (0o100_644, 0o644),
            (0o040_755, (1 << 31) | 0o755),
            (0o120_777, (1 << 27) | 0o777),
            (0o041_777, (1 << 31) | (1 << 20) | 0o777),
            (0o104_755, (1 << 23) | 0o755),
            (0o020_666, (1 << 26) | (1 << 21) | 0o666),
        ] {
            assert_eq!(go_mode(mode), want, "{mode:o}");
        }
    }
}
