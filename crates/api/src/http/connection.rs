//! One connection: requests in, answers out, one after the other.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::timeout;

use super::body::{Body, Input};
use super::head::{Head, Method, parse_head};
use super::reply::{Content, Reply, Stream, Upgraded, reason};

/// How long a client may take for a request's head once it has begun it.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// How long, and how many bytes, of a body that nobody wants are read, so that a client which is
/// still sending can read the answer.
const DRAIN_TIME: Duration = Duration::from_secs(30);
const DRAIN: u64 = 8 << 30;
/// How long a client may take for each piece of an answer.
const WRITE_TIME: Duration = Duration::from_secs(300);

/// Who answers.
pub(crate) trait Handler {
    /// Answers a request. What is left of the body is drained afterwards.
    fn answer(&self, head: &Head, body: &mut Body<'_>) -> impl Future<Output = Reply> + Send;

    /// The header fields of every answer.
    fn fields(&self) -> &[(&'static str, String)];

    /// Called when a request has arrived; what is returned is dropped when it is done with.
    fn begun(&self) -> impl Send;
}

/// Answers requests until the client goes or something is wrong with the connection.
pub(crate) async fn serve_connection(stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let (half, mut output) = stream.into_split();
    let mut input = Input::new(half);
    while let Some(head) = next_head(&mut input, &mut output, handler).await? {
        let _busy = handler.begun();
        if !exchange(&head, &mut input, &mut output, handler).await? {
            break;
        }
    }
    Ok(())
}

/// The next request's head; `None` when there is none. A malformed one is answered here.
async fn next_head(
    input: &mut Input,
    output: &mut OwnedWriteHalf,
    handler: &impl Handler,
) -> io::Result<Option<Head>> {
    let wait = async {
        loop {
            match parse_head(input.ready()) {
                Ok(Some((head, length))) => {
                    input.consume(length);
                    return Ok(Ok(Some(head)));
                }
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            // Between requests a client may take its time.
            let more = if input.ready().is_empty() {
                input.fill().await?
            } else {
                timeout(HEAD_TIME, input.fill()).await.map_err(|_| ErrorKind::TimedOut)??
            };
            if !more {
                return Ok(Ok(None));
            }
        }
    };
    let found: io::Result<_> = wait.await;
    match found {
        Ok(Ok(head)) => Ok(head),
        Ok(Err(error)) => {
            let reply = Reply::error(error.0, error.1);
            write_reply(reply, &Framed { keep_alive: false, ..Framed::default() }, output, input, handler)
                .await?;
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            let reply = Reply::error(408, "the request did not arrive in time");
            write_reply(reply, &Framed { keep_alive: false, ..Framed::default() }, output, input, handler)
                .await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// One request and its answer; whether another one may follow.
async fn exchange(
    head: &Head,
    input: &mut Input,
    output: &mut OwnedWriteHalf,
    handler: &impl Handler,
) -> io::Result<bool> {
    let mut body = Body::new(input, head.framing);
    if head.lists("expect", "100-continue") && !body.is_empty() {
        output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let reply = handler.answer(head, &mut body).await;
    let takes_over = matches!(reply.content, Content::Takeover(_));
    // After a takeover the client's bytes are the other side's; before, they are the body's.
    let whole = if takes_over && body.is_empty() { true } else { drain(&mut body).await };
    let framed = Framed {
        keep_alive: head.keep_alive && whole && !takes_over,
        chunks: head.knows_chunks,
        bare: head.method == Method::Head,
    };
    write_reply(reply, &framed, output, input, handler).await
}

/// Reads what is left of a body; whether it has come to its end.
async fn drain(body: &mut Body<'_>) -> bool {
    if body.is_over() {
        return true;
    }
    let mut count = 0u64;
    let reading = async {
        while let Ok(Some(piece)) = body.next().await {
            count += piece.len() as u64;
            if count > DRAIN {
                break;
            }
        }
    };
    let _ = timeout(DRAIN_TIME, reading).await;
    body.is_over()
}

/// How an answer is written.
#[derive(Clone, Copy, Default)]
struct Framed {
    keep_alive: bool,
    chunks: bool,
    /// Whether the client wants the head alone.
    bare: bool,
}

/// Writes an answer; whether the connection can be used again.
async fn write_reply(
    reply: Reply,
    framed: &Framed,
    output: &mut OwnedWriteHalf,
    input: &mut Input,
    handler: &impl Handler,
) -> io::Result<bool> {
    let Reply { status, fields, content } = reply;
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    let takes_over = matches!(content, Content::Takeover(_));
    if !takes_over {
        for (name, value) in handler.fields() {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Date: {}\r\n", Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT")));
    }
    for (name, value) in &fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let bodiless = status == 204 || status == 304;
    let mut keep = framed.keep_alive;
    match &content {
        Content::None if !bodiless => text.push_str("Content-Length: 0\r\n"),
        Content::Whole(bytes) if !bodiless => text.push_str(&format!("Content-Length: {}\r\n", bytes.len())),
        Content::Stream(_) if framed.chunks => text.push_str("Transfer-Encoding: chunked\r\n"),
        Content::Stream(_) => keep = false,
        _ => {}
    }
    if !takes_over && !keep {
        text.push_str("Connection: close\r\n");
    } else if keep && !framed.chunks {
        text.push_str("Connection: keep-alive\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    match content {
        Content::Whole(mut content) if !framed.bare && !bodiless => {
            bytes.append(&mut content);
            write(output, &bytes).await?;
        }
        Content::None | Content::Whole(_) => write(output, &bytes).await?,
        Content::Stream(stream) if framed.bare => {
            drop(stream);
            write(output, &bytes).await?;
        }
        Content::Stream(stream) => {
            write(output, &bytes).await?;
            keep &= write_stream(stream, framed.chunks, output, input).await?;
        }
        Content::Takeover(takeover) => {
            write(output, &bytes).await?;
            taken(output).await;
            takeover(Upgraded { input, output }).await;
        }
    }
    Ok(keep)
}

async fn write(output: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    timeout(WRITE_TIME, output.write_all(bytes)).await.map_err(|_| ErrorKind::TimedOut)?
}

/// How long a client may take to read the head before its stream begins.
const TAKE_TIME: Duration = Duration::from_millis(100);

/// Waits until the client has read all that was written. The Docker SDK for Python reads a head and
/// whatever came with it into a buffer, and the stream from the socket below that: what arrives
/// together with the head is lost to it.
async fn taken(output: &OwnedWriteHalf) {
    let stream: &UnixStream = output.as_ref();
    let reading = async {
        // A client that is as quick as it can be needs some microseconds.
        for _ in 0..16 {
            if !matches!(robot_env_sys::socket::unread(stream.as_fd()), Ok(1..)) {
                return;
            }
            tokio::task::yield_now().await;
        }
        while matches!(robot_env_sys::socket::unread(stream.as_fd()), Ok(1..)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = timeout(TAKE_TIME, reading).await;
}

/// Passes a stream on until it ends or the client goes; whether the client is still there.
async fn write_stream(
    mut stream: Stream,
    chunks: bool,
    output: &mut OwnedWriteHalf,
    input: &mut Input,
) -> io::Result<bool> {
    // A request that comes too early waits; then nobody listens for the client's end.
    let mut listening = input.ready().is_empty();
    loop {
        let piece = tokio::select! {
            piece = stream.recv() => piece,
            more = input.fill(), if listening => {
                if !more? {
                    return Ok(false);
                }
                listening = input.ready().is_empty();
                continue;
            }
        };
        let Some(piece) = piece else { break };
        if piece.is_empty() {
            continue;
        }
        // A client that reads slowly holds back this stream and nothing else.
        if chunks {
            let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
            framed.extend_from_slice(&piece);
            framed.extend_from_slice(b"\r\n");
            output.write_all(&framed).await?;
        } else {
            output.write_all(&piece).await?;
        }
    }
    if chunks {
        output.write_all(b"0\r\n\r\n").await?;
    }
    Ok(true)
}
