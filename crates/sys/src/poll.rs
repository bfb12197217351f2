//! Waiting: signals as a descriptor, and pipes.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::{CallError, CallResult, ErrnoContext};

/// Signals that arrive as readable events instead of interrupting.
pub struct SignalFd {
    fd: OwnedFd,
    previous: libc::sigset_t,
}

impl SignalFd {
    /// Blocks `signals` for the calling thread and delivers them here. Dropped, the mask is as it
    /// was before.
    pub fn new(signals: &[i32]) -> CallResult<Self> {
        // SAFETY: an all-zero sigset_t is a valid value that sigemptyset then initialises.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid, exclusively borrowed sigset_t.
        unsafe { libc::sigemptyset(&raw mut set) };
        for signal in signals {
            // SAFETY: `set` is a valid sigset_t; a bad signal number only makes the call fail.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        // SAFETY: as above.
        let mut previous: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are valid; the mask of the calling thread alone changes.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut previous) };
        if rc != 0 {
            return Err(CallError::new(
                "pthread_sigmask(SIG_BLOCK)",
                rustix::io::Errno::from_raw_os_error(rc),
            ));
        }
        // SAFETY: `set` is valid and -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(CallError::new("signalfd()", last_errno()));
        }
        // SAFETY: signalfd returned a new descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(SignalFd { fd, previous })
    }

    /// The next signal that has arrived; `None` when there is none.
    pub fn next(&self) -> Option<i32> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        let n = rustix::io::read(&self.fd, &mut buffer).ok()?;
        (n == buffer.len()).then(|| u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as i32)
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SignalFd {
    fn drop(&mut self) {
        // SAFETY: `previous` was filled by pthread_sigmask in `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.previous, std::ptr::null_mut()) };
    }
}

fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}

/// A pipe, close-on-exec: (read end, write end).
pub fn pipe() -> CallResult<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2(O_CLOEXEC)".into())
}

/// What a forked process is to the caller.
pub enum Fork {
    /// The caller is the parent; the child has this pid.
    Parent(i32),
    /// The caller is the child.
    Child,
}

/// Forks a single-threaded process.
///
/// # Errors
/// EBUSY when the process has more than one thread: the child could then hang on a lock that
/// another thread held.
pub fn fork() -> CallResult<Fork> {
    crate::process::single_threaded("fork()")?;
    // SAFETY: the process has one thread (checked above), so the child may use everything the
    // parent may.
    match unsafe { libc::fork() } {
        -1 => Err(CallError::new("fork()", last_errno())),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends the process at once: no destructor, no exit handler, no flush.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(code) }
}

/// Points `target` (0, 1 or 2) at what `source` is open on.
pub fn replace_stdio(target: i32, source: impl AsFd) -> CallResult<()> {
    // SAFETY: both are descriptors by number; dup2 replaces `target`, which only the standard
    // streams use.
    let rc = unsafe { libc::dup2(source.as_fd().as_raw_fd(), target) };
    if rc < 0 { Err(CallError::new(format!("dup2(fd, {target})"), last_errno())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_arrives_on_the_descriptor() {
        let signals = SignalFd::new(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next(), None);
        // SAFETY: raises a signal that is blocked in this thread.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(signals.next(), Some(libc::SIGUSR2));
    }
}
