//! Which path is answered by what.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::failure::{Failure, Result};
use crate::http::{Body, Head, Method, Reply};
use crate::query::Query;
use crate::server::Server;
use crate::{build, buildkit, containers, exec, images, networks, swarm, system, volumes};

/// The most bytes of a JSON document.
const DOCUMENT: usize = 4 << 20;

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

/// The newest one that is spoken.
pub(crate) const NEWEST: Version = Version(1, 51);
/// The oldest one.
pub(crate) const OLDEST: Version = Version(1, 24);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A request on its way to whoever answers it.
pub(crate) struct Call<'r, 'c> {
    pub(crate) server: &'static Server,
    pub(crate) head: &'r Head,
    pub(crate) body: &'r mut Body<'c>,
    pub(crate) query: Query,
    /// The version that the client speaks.
    pub(crate) version: Version,
}

impl Call<'_, '_> {
    /// The body as a document.
    pub(crate) async fn document<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.optional_document().await? {
            Some(document) => Ok(document),
            None => Err(Failure::new(400, "invalid JSON: got EOF while reading request body")),
        }
    }

    /// The same, where there need not be one.
    pub(crate) async fn optional_document<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let Some(bytes) = self.body.whole(DOCUMENT).await? else {
            return Err(Failure::new(413, "the request's document is too large"));
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let kind = self.head.field("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Failure::new(
                400,
                format!("unsupported Content-Type header ({kind}): must be 'application/json'"),
            ));
        }
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(400, format!("invalid JSON: {error}")))?;
        if value.is_null() {
            return Ok(None);
        }
        serde_json::from_value(value)
            .map(Some)
            .map_err(|error| Failure::new(400, format!("invalid JSON: {error}")))
    }
}

/// Answers a request.
pub(crate) async fn answer(server: &'static Server, head: &Head, body: &mut Body<'_>) -> Result<Reply> {
    let (version, path) = match versioned(&head.path) {
        Some((version, path)) => {
            if version > NEWEST {
                return Err(Failure::new(
                    400,
                    format!("client version {version} is too new. Maximum supported API version is {NEWEST}"),
                ));
            }
            if version < OLDEST {
                return Ok(Reply::text(
                    400,
                    &format!(
                        "client version {version} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
                    ),
                ));
            }
            (version, path)
        }
        None => (NEWEST, head.path.as_str()),
    };
    let query = Query::parse(&head.query);
    let mut call = Call { server, head, body, query, version };
    route(&mut call, path).await
}

/// Takes `/v1.41` off a path.
fn versioned(path: &str) -> Option<(Version, &str)> {
    let rest = path.strip_prefix("/v")?;
    let (text, _) = rest.split_once('/')?;
    let (major, minor) = text.split_once('.')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some((Version(number(major)?, number(minor)?), &rest[text.len()..]))
}

async fn route(call: &mut Call<'_, '_>, path: &str) -> Result<Reply> {
    use Method::{Delete, Get, Head as Peek, Post, Put};
    let path = path.strip_prefix('/').unwrap_or(path);
    let words: Vec<&str> = path.split('/').collect();
    let (method, words) = (call.head.method, words.as_slice());
    // A name may have slashes: `/containers//web/json`, `/images/host:5000/a/b/json`.
    let name = |words: &[&str]| words.join("/");
    match (method, words) {
        (Get | Peek, ["_ping"]) => Ok(system::ping()),
        (Get, ["version"]) => Ok(system::version(call)),
        (Get, ["info"]) => system::info(call).await,
        (Get, ["events"]) => system::events(call).await,
        (Get, ["system", "df"]) => system::disk_usage(call).await,
        (Post, ["build"]) if call.query.text("version") == Some("2") => buildkit::classic::build(call),
        (Post, ["build"]) => build::build(call).await,
        (Post, ["build", "cancel"]) => build::cancel(call),
        (Post, ["build", "prune"]) => build::prune(call).await,
        (Post, ["auth"]) => images::login(call).await,

        (Post, ["session"]) => buildkit::session::answer(call),
        (Post, ["grpc"]) => buildkit::answer(call),

        (Get, ["containers", "json"]) => containers::list(call).await,
        (Post, ["containers", "create"]) => containers::create(call).await,
        (Post, ["containers", "prune"]) => containers::prune(call).await,
        (Get, ["containers", id @ .., "json"]) => containers::inspect(call, &name(id)).await,
        (Get, ["containers", id @ .., "top"]) => containers::top(call, &name(id)).await,
        (Get, ["containers", id @ .., "logs"]) => containers::logs::answer(call, &name(id)).await,
        (Get, ["containers", id @ .., "changes"]) => containers::changes(call, &name(id)).await,
        (Get, ["containers", id @ .., "stats"]) => containers::stats::answer(call, &name(id)).await,
        (Get, ["containers", id @ .., "export"]) => containers::files::export(call, &name(id)).await,
        (Peek, ["containers", id @ .., "archive"]) => containers::files::stat(call, &name(id)).await,
        (Get, ["containers", id @ .., "archive"]) => containers::files::get(call, &name(id)).await,
        (Put, ["containers", id @ .., "archive"]) => containers::files::put(call, &name(id)).await,
        (Post, ["containers", id @ .., "start"]) => containers::start(call, &name(id)).await,
        (Post, ["containers", id @ .., "stop"]) => containers::stop(call, &name(id)).await,
        (Post, ["containers", id @ .., "restart"]) => containers::restart(call, &name(id)).await,
        (Post, ["containers", id @ .., "kill"]) => containers::kill(call, &name(id)).await,
        (Post, ["containers", id @ .., "pause"]) => containers::pause(call, &name(id)).await,
        (Post, ["containers", id @ .., "unpause"]) => containers::unpause(call, &name(id)).await,
        (Post, ["containers", id @ .., "wait"]) => containers::wait::answer(call, &name(id)).await,
        (Post, ["containers", id @ .., "resize"]) => containers::resize(call, &name(id)).await,
        (Post, ["containers", id @ .., "rename"]) => containers::rename(call, &name(id)).await,
        (Post, ["containers", id @ .., "update"]) => containers::update(call, &name(id)).await,
        (Post, ["containers", id @ .., "attach"]) => containers::attach::answer(call, &name(id)).await,
        (Get, ["containers", id @ .., "attach", "ws"]) => {
            containers::attach::websocket(call, &name(id)).await
        }
        (Post, ["containers", id @ .., "exec"]) => exec::create(call, &name(id)).await,
        (Delete, ["containers", id @ ..]) if !id.is_empty() => containers::remove(call, &name(id)).await,
        (Post, ["commit"]) => images::commit(call).await,

        (Post, ["exec", id, "start"]) => exec::start(call, id).await,
        (Post, ["exec", id, "resize"]) => exec::resize(call, id),
        (Get, ["exec", id, "json"]) => exec::inspect(call, id),

        (Get, ["images", "json"]) => images::list(call).await,
        (Get, ["images", "search"]) => images::search(call).await,
        (Get, ["images", "get"]) => images::transfer::save(call, None).await,
        (Post, ["images", "create"]) => images::transfer::create(call).await,
        (Post, ["images", "load"]) => images::transfer::load(call).await,
        (Post, ["images", "prune"]) => images::prune(call).await,
        (Get, ["images", id @ .., "json"]) => images::inspect(call, &name(id)).await,
        (Get, ["images", id @ .., "history"]) => images::history(call, &name(id)).await,
        (Get, ["images", id @ .., "get"]) => images::transfer::save(call, Some(name(id))).await,
        (Post, ["images", id @ .., "push"]) => images::transfer::push(call, &name(id)).await,
        (Post, ["images", id @ .., "tag"]) => images::tag(call, &name(id)).await,
        (Delete, ["images", id @ ..]) if !id.is_empty() => images::remove(call, &name(id)).await,
        (Get, ["distribution", id @ .., "json"]) => images::transfer::distribution(call, &name(id)).await,

        (Get, ["volumes"]) => volumes::list(call).await,
        (Post, ["volumes", "create"]) => volumes::create(call).await,
        (Post, ["volumes", "prune"]) => volumes::prune(call).await,
        (Get, ["volumes", name]) => volumes::inspect(call, name).await,
        (Delete, ["volumes", name]) => volumes::remove(call, name).await,

        (Get, ["networks"]) => networks::list(call).await,
        (Post, ["networks", "create"]) => networks::create(call).await,
        (Post, ["networks", "prune"]) => networks::prune(call).await,
        (Get, ["networks", id]) => networks::inspect(call, id).await,
        (Delete, ["networks", id]) => networks::remove(call, id).await,
        (Post, ["networks", id, "connect"]) => networks::connect(call, id).await,
        (Post, ["networks", id, "disconnect"]) => networks::disconnect(call, id).await,

        (method, words) => swarm::answer(method, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off() {
        assert_eq!(versioned("/v1.41/a/b"), Some((Version(1, 41), "/a/b")));
        for path in ["/a", "/volumes", "/v1/a", "/v1.x/a", "/v1.41", "/v1.41a/b", "/version"] {
            assert_eq!(versioned(path), None, "{path}");
        }
        assert_eq!(NEWEST.to_string(), robot_env_wire::API_VERSION);
        assert_eq!(OLDEST.to_string(), robot_env_wire::MIN_API_VERSION);
        assert!(Version(1, 9) < OLDEST && Version(1, 51) == NEWEST && Version(2, 0) > NEWEST);
    }
}
