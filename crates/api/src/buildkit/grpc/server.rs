//! The side that answers.

use std::future::Future;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::message::{self, Messages};
use super::status::{Code, Status};
use super::{CONNECTION_WINDOW, FRAMES, STREAM_WINDOW};

/// The most calls of a connection at once.
const CALLS: u32 = 256;
/// The most bytes of a call's header fields.
const FIELDS: u32 = 64 * 1024;

/// A call that has begun.
pub(crate) struct Incoming {
    /// `/package.Service/Method`
    pub(crate) path: String,
    /// Its header fields.
    pub(crate) metadata: HeaderMap,
    /// What the caller sends.
    pub(crate) messages: Messages,
    /// What it gets.
    pub(crate) answer: Answer,
}

/// What a caller gets: messages, then how the call ended. Dropped before its end, the call is given up.
pub(crate) struct Answer {
    response: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
}

/// Answers calls on a connection until it ends; each has a task of its own, which is dropped with it.
pub(crate) async fn serve<S, F>(stream: S, handler: impl Fn(Incoming) -> F) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(FRAMES)
        .max_concurrent_streams(CALLS)
        .max_header_list_size(FIELDS);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            request = connection.accept() => {
                let Some(request) = request else { return Ok(()) };
                let (request, response) = request?;
                let (head, body) = request.into_parts();
                calls.spawn(handler(Incoming {
                    path: head.uri.path().to_owned(),
                    metadata: head.headers,
                    messages: Messages::new(body),
                    answer: Answer { response, stream: None },
                }));
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

impl Incoming {
    /// The one message of a call that has one.
    pub(crate) async fn question<M: Message + Default>(&mut self) -> Result<M, Status> {
        let question = self.messages.next().await?;
        question.ok_or_else(|| Status::new(Code::INVALID_ARGUMENT, "the call has no message"))
    }
}

impl Answer {
    fn stream(&mut self) -> Result<&mut SendStream<Bytes>, h2::Error> {
        if self.stream.is_none() {
            let head = Response::builder().header("content-type", "application/grpc").body(());
            let head = head.map_err(|_| h2::Error::from(Reason::INTERNAL_ERROR))?;
            self.stream = Some(self.response.send_response(head, false)?);
        }
        self.stream.as_mut().ok_or_else(|| Reason::INTERNAL_ERROR.into())
    }

    /// Sends the header fields, so that the caller knows that it is heard.
    pub(crate) fn begin(&mut self) -> Result<(), Status> {
        self.stream()?;
        Ok(())
    }

    /// Sends a message; waits while the caller has no room for it.
    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        Ok(message::send(self.stream()?, message).await?)
    }

    /// Ends the call. A caller who has gone needs no end.
    pub(crate) fn end(mut self, result: Result<(), Status>) {
        let trailers = match result {
            Ok(()) => Status::new(Code::OK, "").trailers(),
            Err(status) => status.trailers(),
        };
        if let Ok(stream) = self.stream() {
            let _ = stream.send_trailers(trailers);
        }
    }

    /// The one message of a call that has one, and its end.
    pub(crate) async fn whole(mut self, result: Result<impl Message, Status>) {
        let sent = match result {
            Ok(message) => self.send(&message).await,
            Err(status) => Err(status),
        };
        self.end(sent);
    }

    /// Waits until the caller has given the call up.
    pub(crate) async fn gone(&mut self) {
        let _ = match &mut self.stream {
            Some(stream) => std::future::poll_fn(|context| stream.poll_reset(context)).await,
            None => std::future::poll_fn(|context| self.response.poll_reset(context)).await,
        };
    }
}
