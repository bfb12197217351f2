//! RFC 6455: a connection's bytes in frames, as browsers and some clients attach.

use std::io::{self, ErrorKind};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::head::Head;
use super::reply::Upgraded;

/// What the protocol puts behind a client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most bytes of a frame that a client may send.
const FRAME: u64 = 1 << 20;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client that asks for a websocket is to be told in `Sec-WebSocket-Accept`; `None` for one
/// that does not ask for it as it must.
pub(crate) fn accept(head: &Head) -> Option<String> {
    let asks = head.upgrade().is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
    let key = head
        .field("sec-websocket-key")
        .filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16))?;
    let modern = head.field("sec-websocket-version") == Some("13");
    (asks && modern).then(|| STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize()))
}

/// The frame's head, and the bytes of it.
fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | kind];
    match bytes.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
    out
}

/// A frame's head, as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incoming {
    kind: u8,
    /// Bytes of its head and of its content.
    head: usize,
    length: usize,
    mask: [u8; 4],
}

/// Reads a frame's head from the front of what has arrived; `None` when more has to come.
fn incoming(bytes: &[u8]) -> io::Result<Option<Incoming>> {
    let bad = |what: &'static str| io::Error::new(ErrorKind::InvalidData, what);
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(bad("a frame has an extension that was not agreed on"));
    }
    if second & 0x80 == 0 {
        return Err(bad("a client's frame is not masked"));
    }
    let (length, more) = match second & 0x7f {
        126 => {
            let Some(field) = rest.first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*field)), 2)
        }
        127 => {
            let Some(field) = rest.first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*field), 8)
        }
        length => (u64::from(length), 0),
    };
    let kind = first & 0x0f;
    if length > FRAME || kind >= CLOSE && (length > 125 || first & 0x80 == 0) {
        return Err(bad("a frame is too long"));
    }
    if !matches!(kind, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(bad("a frame is of no known kind"));
    }
    let Some(mask) = rest.get(more..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
    Ok(Some(Incoming { kind, head: 2 + more + 4, length: length as usize, mask: *mask }))
}

/// Moves bytes between a client's frames and `plain`, until either side ends. What the client says
/// in a frame that ends the connection ends `plain`'s input.
pub(crate) async fn pump(client: &mut Upgraded<'_>, plain: UnixStream) {
    let (mut from, mut to) = plain.into_split();
    let mut piece = vec![0u8; 16 * 1024];
    loop {
        tokio::select! {
            read = from.read(&mut piece) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    // 1000: all that there was has been said.
                    let _ = client.output.write_all(&frame(CLOSE, &1000u16.to_be_bytes())).await;
                    return;
                }
                if client.output.write_all(&frame(BINARY, &piece[..count])).await.is_err() {
                    return;
                }
            }
            next = next(client) => match next {
                Ok((TEXT | BINARY | CONTINUATION, bytes)) => {
                    // A process that has just ended cannot take this any more.
                    let _ = to.write_all(&bytes).await;
                }
                Ok((PING, bytes)) => {
                    if client.output.write_all(&frame(PONG, &bytes)).await.is_err() {
                        return;
                    }
                }
                Ok((CLOSE, bytes)) => {
                    let _ = client.output.write_all(&frame(CLOSE, &bytes)).await;
                    return;
                }
                Ok(_) => {}
                Err(_) => return,
            },
        }
    }
}

/// The next frame of a client. Nothing is lost when the wait is given up.
async fn next(client: &mut Upgraded<'_>) -> io::Result<(u8, Vec<u8>)> {
    loop {
        let ready = client.input.ready();
        if let Some(found) = incoming(ready)?
            && ready.len() >= found.head + found.length
        {
            let content = &ready[found.head..found.head + found.length];
            let bytes =
                content.iter().zip(found.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            client.input.consume(found.head + found.length);
            return Ok((found.kind, bytes));
        }
        if !client.input.fill().await? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::parse_head;
    use super::*;

    #[test]
    fn the_handshake_is_the_protocols() {
        let ask = |more: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{more}\r\n");
            accept(&parse_head(text.as_bytes()).unwrap().unwrap().0)
        };
        let good = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(ask(good).as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for (from, to) in [("13", "12"), ("websocket", "tcp"), ("Connection: Upgrade\r\n", ""), ("dGhl", "d")]
        {
            assert_eq!(ask(&good.replacen(from, to, 1)), None, "{from}");
        }
    }

    #[test]
    fn frames_are_read_and_refused() {
        let masked = [0x81, 0x85, 1, 2, 3, 4, b'h' ^ 1];
        let head = Incoming { kind: TEXT, head: 6, length: 5, mask: [1, 2, 3, 4] };
        assert_eq!(incoming(&masked).unwrap(), Some(head));
        for length in 0..6 {
            assert_eq!(incoming(&masked[..length]).unwrap(), None, "{length}");
        }
        let long = incoming(&[0x82, 0xfe, 1, 0, 0, 0, 0, 0]).unwrap().unwrap();
        assert_eq!((long.head, long.length), (8, 256));
        for bad in [
            &[0x81, 0x05][..],
            &[0xc1, 0x80],
            &[0x83, 0x80],
            &[0x89, 0xfe, 0, 126],
            &[0x09, 0x80],
            &[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(incoming(bad).is_err(), "{bad:x?}");
        }
        assert_eq!(frame(BINARY, b"hi"), [0x82, 2, b'h', b'i']);
        assert_eq!(frame(BINARY, &[0; 200])[..4], [0x82, 126, 0, 200]);
        assert_eq!(frame(BINARY, &[0; 70000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }
}
