//! gRPC over HTTP/2: messages in frames of a flag, a length and Protobuf, a status in the trailers.
//!
//! Source: "gRPC over HTTP2" of the gRPC project. Both sides are here, since on a session's
//! connection the server asks and the client answers. Compressed messages are refused: neither side
//! announces a compression.

mod channel;
mod message;
mod server;
mod status;

pub(crate) use channel::{Channel, Replies, Sink};
pub(crate) use server::{Incoming, serve};
pub(crate) use status::{Code, Detail, Status, StatusMessage};

/// The most bytes of one message.
const MESSAGE: usize = 16 << 20;
/// How many bytes the other side may send on one stream, and on all, before they are read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What frames may cost beside their bytes before they are read, as `h2` counts it: a client describes
/// its files in one small frame each, and more than fit into a window it cannot send.
const FRAMES: usize = 64 << 20;
