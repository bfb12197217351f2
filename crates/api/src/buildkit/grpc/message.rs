//! Messages on a stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use prost::Message;

use super::MESSAGE;
use super::status::{Code, Status};

/// The messages that arrive on a stream.
pub(crate) struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    pub(super) fn new(body: RecvStream) -> Messages {
        Messages { body, buffer: BytesMut::new() }
    }

    /// The next message; `None` when the other side has sent its last.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.next_frame().await? else { return Ok(None) };
        M::decode(bytes).map(Some).map_err(|error| {
            Status::new(Code::INVALID_ARGUMENT, format!("a message cannot be understood: {error}"))
        })
    }

    async fn next_frame(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            match self.body.data().await {
                Some(piece) => {
                    let piece = piece?;
                    self.body.flow_control().release_capacity(piece.len())?;
                    self.buffer.extend_from_slice(&piece);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::DATA_LOSS, "a message was cut off")),
            }
        }
    }

    /// What comes after the last message.
    pub(super) async fn trailers(&mut self) -> Result<HeaderMap, Status> {
        Ok(self.body.trailers().await?.unwrap_or_default())
    }
}

/// Takes a whole message from the front of what has arrived.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(head) = buffer.get(..5) else { return Ok(None) };
    if head[0] != 0 {
        return Err(Status::unimplemented("compressed messages are not supported"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MESSAGE {
        return Err(Status::new(
            Code::RESOURCE_EXHAUSTED,
            format!("a message of {length} bytes is too long"),
        ));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Sends a message; waits while the other side has no room for it.
pub(super) async fn send(stream: &mut SendStream<Bytes>, message: &impl Message) -> Result<(), h2::Error> {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    // There is room for all of it.
    let _ = message.encode(&mut frame);
    let mut rest = frame.freeze();
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.ok_or(h2::Error::from(h2::Reason::CANCEL))??;
        stream.send_data(rest.split_to(room.min(rest.len())), false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_and_bounded() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\x03abc\0\0\0\0\0\0\0"[..]);
        assert_eq!(take_frame(&mut buffer).unwrap().unwrap(), "abc");
        assert_eq!(take_frame(&mut buffer).unwrap().unwrap(), "");
        assert_eq!((take_frame(&mut buffer).unwrap(), buffer.len()), (None, 2));
        assert!(take_frame(&mut BytesMut::from(&b"\x01\0\0\0\0"[..])).is_err());
        assert!(take_frame(&mut BytesMut::from(&b"\0\xff\xff\xff\xff"[..])).is_err());
    }
}
