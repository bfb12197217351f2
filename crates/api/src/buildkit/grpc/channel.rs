//! The side that asks.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderName, HeaderValue, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::message::{self, Messages};
use super::status::{Code, Status};
use super::{CONNECTION_WINDOW, FRAMES, STREAM_WINDOW};

/// A connection to somebody who answers calls.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<Bytes>);

/// The messages that go to the other side.
pub(crate) struct Sink(SendStream<Bytes>);

/// The messages that come back, and how the call ends.
pub(crate) struct Replies {
    response: Option<ResponseFuture>,
    messages: Option<Messages>,
}

impl Channel {
    /// Begins to speak HTTP/2 on a connection; the future has to be driven as long as it lives.
    pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
        stream: S,
    ) -> Result<(Channel, impl Future<Output = Result<(), h2::Error>>), Status> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(FRAMES)
            .enable_push(false);
        let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
        Ok((Channel(sender), connection))
    }

    /// Begins a call.
    pub(crate) async fn call(
        &self,
        path: &str,
        metadata: &[(&str, String)],
    ) -> Result<(Sink, Replies), Status> {
        let bad = |_| Status::new(Code::INTERNAL, format!("cannot call `{path}`"));
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .map_err(bad)?;
        for (name, value) in metadata {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Status::new(Code::INTERNAL, format!("`{name}` is no name of a header field")))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| Status::new(Code::INVALID_ARGUMENT, format!("`{name}` cannot be sent")))?;
            request.headers_mut().append(name, value);
        }
        let mut ready = self.0.clone().ready().await?;
        let (response, sink) = ready.send_request(request, false)?;
        Ok((Sink(sink), Replies { response: Some(response), messages: None }))
    }

    /// One question and its answer.
    pub(crate) async fn unary<A: Message + Default>(
        &self,
        path: &str,
        question: &impl Message,
    ) -> Result<A, Status> {
        let (mut sink, mut replies) = self.call(path, &[]).await?;
        // Whoever does not want the question has said why.
        let sent = async {
            sink.send(question).await?;
            sink.close()
        };
        let _ = sent.await;
        match replies.next().await? {
            Some(answer) => Ok(answer),
            None => Err(Status::new(Code::INTERNAL, "there was no answer")),
        }
    }
}

impl Sink {
    /// Sends a message; waits while the other side has no room for it.
    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        Ok(message::send(&mut self.0, message).await?)
    }

    /// That was the last message.
    pub(crate) fn close(&mut self) -> Result<(), Status> {
        Ok(self.0.send_data(Bytes::new(), true)?)
    }

    /// Gives the call up.
    pub(crate) fn cancel(&mut self) {
        self.0.send_reset(Reason::CANCEL);
    }
}

impl Replies {
    /// The next message; `None` when the call has ended well.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await?.into_parts();
            if let Some(status) = Status::of(&head.headers) {
                status?;
            }
            if head.status != http::StatusCode::OK {
                return Err(Status::new(
                    Code::UNKNOWN,
                    format!("the other side does not speak gRPC: HTTP status {}", head.status),
                ));
            }
            self.messages = Some(Messages::new(body));
        }
        let Some(messages) = &mut self.messages else { return Ok(None) };
        if let Some(message) = messages.next().await? {
            return Ok(Some(message));
        }
        let end = Status::of(&messages.trailers().await?);
        self.messages = None;
        end.unwrap_or_else(|| Err(Status::new(Code::UNKNOWN, "the call ended without a status")))?;
        Ok(None)
    }
}
