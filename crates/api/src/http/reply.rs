//! What a request is answered with.

use std::future::Future;
use std::pin::Pin;

use serde::Serialize;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::body::Input;

/// Pieces of a stream that may wait for a slow client.
const PIECES: usize = 16;

/// A connection that is no longer HTTP: raw bytes in both directions.
pub(crate) struct Upgraded<'c> {
    /// What the client sends.
    pub(crate) input: &'c mut Input,
    /// What it gets.
    pub(crate) output: &'c mut OwnedWriteHalf,
}

/// Whoever a connection is given to.
pub(crate) type Takeover =
    Box<dyn for<'c> FnOnce(Upgraded<'c>) -> Pin<Box<dyn Future<Output = ()> + Send + 'c>> + Send>;

/// The end of a stream that is written: see [`channel`].
pub(crate) type Feed = mpsc::Sender<Vec<u8>>;
/// The end of a stream that goes to the client.
pub(crate) type Stream = mpsc::Receiver<Vec<u8>>;

/// A stream of bytes to a client, with room for a few pieces.
pub(crate) fn channel() -> (Feed, Stream) {
    mpsc::channel(PIECES)
}

/// What comes after an answer's head.
pub(crate) enum Content {
    /// Nothing.
    None,
    /// These bytes.
    Whole(Vec<u8>),
    /// What arrives, until the sender is dropped.
    Stream(Stream),
    /// The connection itself.
    Takeover(Takeover),
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) content: Content,
}

impl Reply {
    /// An answer without content: 204 No Content, 304 Not Modified, 200 OK.
    pub(crate) fn empty(status: u16) -> Reply {
        Reply { status, fields: Vec::new(), content: Content::None }
    }

    /// A document.
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Reply {
        let mut bytes = serde_json::to_vec(value).unwrap_or_default();
        bytes.push(b'\n');
        Reply { status, fields: Vec::new(), content: Content::Whole(bytes) }
            .with("Content-Type", "application/json")
    }

    /// A text.
    pub(crate) fn text(status: u16, text: &str) -> Reply {
        Reply { status, fields: Vec::new(), content: Content::Whole(text.as_bytes().to_vec()) }
            .with("Content-Type", "text/plain; charset=utf-8")
    }

    /// What Docker answers to a mistake.
    pub(crate) fn error(status: u16, message: &str) -> Reply {
        Reply::json(status, &serde_json::json!({ "message": message }))
    }

    /// A stream.
    pub(crate) fn stream(kind: &str, stream: Stream) -> Reply {
        Reply { status: 200, fields: Vec::new(), content: Content::Stream(stream) }.with("Content-Type", kind)
    }

    /// An answer after which the connection is `takeover`'s. With `protocol`, the client asked for
    /// an upgrade to it and is told that it has it.
    pub(crate) fn takeover(protocol: Option<&str>, kind: &str, takeover: Takeover) -> Reply {
        let reply = Reply {
            status: if protocol.is_some() { 101 } else { 200 },
            fields: Vec::new(),
            content: Content::Takeover(takeover),
        }
        .with("Content-Type", kind);
        match protocol {
            Some(protocol) => reply.with("Connection", "Upgrade").with("Upgrade", protocol),
            None => reply,
        }
    }

    /// The answer with one more header field.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        // Whatever a value is made of, it stays one line.
        let value: String = value.into();
        self.fields.push((name, value.replace(['\r', '\n', '\0'], " ")));
        self
    }
}

/// The words that go with a status.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "UPGRADED",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Request Entity Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}
