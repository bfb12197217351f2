//! Ending a build from outside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::poll::pipe;

/// A handle by which one build is cancelled, from any thread. Its descriptor is readable from then on.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cancelled: AtomicBool,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Cancel {
    /// A handle for one build.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> Result<Cancel> {
        let (reader, writer) = pipe()?;
        Ok(Cancel(Arc::new(Inner { cancelled: AtomicBool::new(false), reader, writer })))
    }

    /// Ends the build: commands that run are killed, and it fails with `Interrupted`.
    pub fn cancel(&self) {
        if !self.0.cancelled.swap(true, Ordering::SeqCst) {
            // One byte always fits into an empty pipe.
            let _ = rustix::io::write(&self.0.writer, b"x");
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// # Errors
    /// `Interrupted` when it was cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.reader.as_fd()
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(Kind::Interrupted, "the build was cancelled")
}
