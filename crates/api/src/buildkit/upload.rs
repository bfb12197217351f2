//! What a client reads from its input and sends on its session: `moby.upload.v1.Upload/Pull`.

use std::io::{self, Read};

use robot_env_diag::Result;
use tokio::runtime::Handle;

use super::grpc::{Replies, Sink};
use super::messages::session::Bytes;
use super::session::Session;

const PULL: &str = "/moby.upload.v1.Upload/Pull";

/// What the address of something that a client sends begins with; its name follows.
pub(super) const UPLOAD: &str = "http://buildkit-session/";

/// The bytes, for code that blocks.
pub(super) struct Upload<'h> {
    handle: &'h Handle,
    replies: Replies,
    piece: Vec<u8>,
    at: usize,
    over: bool,
    /// The call lasts as long as this.
    _sink: Sink,
}

impl<'h> Upload<'h> {
    /// Begins to read what the client knows by this name.
    pub(super) fn begin(handle: &'h Handle, session: &Session, name: &str) -> Result<Upload<'h>> {
        let metadata = [("urlpath", format!("/{name}")), ("urlhost", "buildkit-session".to_owned())];
        let (sink, replies) = handle
            .block_on(session.channel.call(PULL, &metadata))
            .map_err(|status| status.error("cannot get the context from the client"))?;
        Ok(Upload { handle, replies, piece: Vec::new(), at: 0, over: false, _sink: sink })
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.over {
                return Ok(0);
            }
            match self.handle.block_on(self.replies.next::<Bytes>()) {
                Ok(Some(piece)) => (self.piece, self.at) = (piece.data, 0),
                Ok(None) => self.over = true,
                Err(status) => return Err(io::Error::other(status)),
            }
        }
        let count = into.len().min(self.piece.len() - self.at);
        into[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
