//! Between a client's connection and a monitor's.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::Duration;

use robot_env_engine::attach::{Attachment, DetachKeys, Typed};
use robot_env_engine::stream::{Decoder, ExitNotice, FRAME_LIMIT, Frame, Stream};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::failure::{Failure, Result};
use crate::http::Upgraded;
use crate::routes::Version;

/// The type of a stream without frames.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";
/// The type of a stream with frames.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// How often a client that writes no more is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Sizes of a terminal, rows and columns, on their way to it.
pub(crate) type Sizes = mpsc::Receiver<(u16, u16)>;

/// What a stream is called.
pub(crate) fn kind(tty: bool, version: Version) -> &'static str {
    if tty || version < Version(1, 42) { RAW } else { MULTIPLEXED }
}

/// One piece of output as clients read it: with a terminal as it is, else behind eight bytes that
/// say which stream and how long.
pub(crate) fn piece(stream: Stream, bytes: &[u8], tty: bool) -> Vec<u8> {
    if tty {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(8 + bytes.len());
    out.extend_from_slice(&[if stream == Stream::Stdout { 1 } else { 2 }, 0, 0, 0]);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// The keys that detach; none or an empty text stands for Docker's.
pub(crate) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("ctrl-p,ctrl-q");
    DetachKeys::parse(text).map_err(Failure::from)
}

/// How a client is connected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiring {
    /// Whether the process has a terminal.
    pub(crate) tty: bool,
    /// Whether output goes out as it is: with a terminal, or to a client that knows no frames.
    pub(crate) plain: bool,
    /// Whether the client's bytes are its input.
    pub(crate) stdin: bool,
    /// The keys that detach; with a terminal and input only.
    pub(crate) keys: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended, and all of its output was passed on.
    Exited(ExitNotice),
    /// The user typed the detach keys.
    Detached,
    /// The client has gone.
    Gone,
    /// The monitor has gone without a word.
    Lost,
}

/// A monitor's connection.
pub(crate) struct Wire {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    decoder: Decoder,
}

impl Wire {
    pub(crate) fn new(attachment: Attachment) -> io::Result<Wire> {
        let (socket, decoder): (OwnedFd, Decoder) = attachment.into_parts();
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(socket)?.into_split();
        Ok(Wire { from, to, decoder })
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        send(&mut self.to, frame).await
    }

    /// Waits for the process's end; output that nobody reads is thrown away.
    pub(crate) async fn ended(&mut self) -> Option<ExitNotice> {
        loop {
            match receive(&mut self.from, &mut self.decoder).await {
                Ok(Some(Frame::Exit(notice))) => return Some(notice),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Moves bytes both ways until the process or the client ends. Either side's slowness holds
    /// back the other and nobody else.
    pub(crate) async fn connect(
        &mut self,
        client: &mut Upgraded<'_>,
        wiring: &Wiring,
        sizes: &mut Sizes,
    ) -> End {
        let Wire { from, to, decoder } = self;
        let Upgraded { input, output } = client;
        let down = async {
            loop {
                match receive(from, decoder).await {
                    Ok(Some(Frame::Output(stream, bytes))) => {
                        if output.write_all(&piece(stream, &bytes, wiring.plain)).await.is_err() {
                            return End::Gone;
                        }
                    }
                    Ok(Some(Frame::Exit(notice))) => return End::Exited(notice),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return End::Lost,
                }
            }
        };
        let up = async {
            let mut keys =
                DetachKeys::new(if wiring.tty && wiring.stdin { wiring.keys.clone() } else { Vec::new() });
            let mut open = true;
            loop {
                tokio::select! {
                    size = sizes.recv() => match size {
                        Some((rows, columns)) => drop(send(to, &Frame::Resize(rows, columns)).await),
                        None => std::future::pending().await,
                    },
                    more = input.more(), if open => match more {
                        Ok(false) => {
                            open = false;
                            if wiring.stdin {
                                // A process that has just ended cannot take this any more.
                                drop(send(to, &Frame::StdinEnd).await);
                            }
                        }
                        Ok(true) => {
                            let typed = input.ready().to_vec();
                            input.consume(typed.len());
                            if !wiring.stdin {
                                continue;
                            }
                            let Typed::Bytes(bytes) = keys.filter(&typed) else { return End::Detached };
                            for part in bytes.chunks(FRAME_LIMIT) {
                                if send(to, &Frame::Stdin(part.to_vec())).await.is_err() {
                                    break;
                                }
                            }
                        }
                        Err(_) => return End::Gone,
                    },
                    () = tokio::time::sleep(LOOK), if !open => {
                        if input.hung_up() {
                            return End::Gone;
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            end = down => end,
            end = up => end,
        }
    }
}

async fn send(to: &mut OwnedWriteHalf, frame: &Frame) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    to.write_all(&bytes).await
}

async fn receive(from: &mut OwnedReadHalf, decoder: &mut Decoder) -> io::Result<Option<Frame>> {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => return Ok(Some(frame)),
            Ok(None) => {}
            Err(_) => return Err(ErrorKind::InvalidData.into()),
        }
        // Between the frames of an idle stream nothing is kept.
        from.readable().await?;
        match feed(from, decoder) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Reads what has arrived; the buffer is no part of a stream that waits.
fn feed(from: &OwnedReadHalf, decoder: &mut Decoder) -> io::Result<usize> {
    let mut buffer = [0u8; 16 * 1024];
    let count = from.try_read(&mut buffer)?;
    decoder.feed(&buffer[..count]);
    Ok(count)
}

/// Writes a text into a stream, as the process's standard error.
pub(crate) async fn complain(client: &mut Upgraded<'_>, tty: bool, text: &str) {
    let _ = client.output.write_all(&piece(Stream::Stderr, text.as_bytes(), tty)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_dockers() {
        assert_eq!(piece(Stream::Stdout, b"hi", false), b"\x01\0\0\0\0\0\0\x02hi");
        assert_eq!(piece(Stream::Stderr, b"x", false), b"\x02\0\0\0\0\0\0\x01x");
        assert_eq!(piece(Stream::Stdout, b"hi", true), b"hi");
        assert_eq!((kind(true, Version(1, 51)), kind(false, Version(1, 41))), (RAW, RAW));
        assert_eq!(kind(false, Version(1, 42)), MULTIPLEXED);
    }
}
