//! The client's side of a monitor's stream: a command in front of a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use robot_env_diag::{Context, Error, Kind, Result};
use robot_env_sys::poll::SignalFd;
use robot_env_sys::terminal::{self, RawMode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::stream::{Decoder, ExitNotice, Frame, Hello, Stream};

/// A connection to the monitor of a container or of an exec.
pub struct Attachment {
    socket: OwnedFd,
    decoder: Decoder,
    hello: Hello,
}

/// How a command in front of a container behaves.
pub struct FrontOptions<'a> {
    /// Whether the process has a terminal, so that ours must be raw.
    pub tty: bool,
    /// Bytes that end the attachment but not the process; empty: none do.
    pub detach_keys: Vec<u8>,
    /// Called with each signal that arrives, to pass it on; `None` leaves signals alone.
    pub on_signal: Option<&'a mut dyn FnMut(i32)>,
}

/// How an attachment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// The process ended.
    Exited(ExitNotice),
    /// The user typed the detach keys.
    Detached,
    /// The monitor is gone and could not say how the process ended.
    Lost,
}

/// What came of waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The process ended.
    Ended(ExitNotice),
    /// The monitor has closed without a word.
    Lost,
    /// It still runs.
    TimedOut,
}

impl Attachment {
    /// Says `hello` on a connected socket and waits until the monitor has heard it.
    pub fn new(socket: OwnedFd, hello: Hello) -> Result<Self> {
        let mut attachment = Attachment { socket, decoder: Decoder::default(), hello };
        attachment.send(&Frame::Hello(hello))?;
        Ok(attachment)
    }

    /// The connection itself, with what was read of it and not used, for whoever moves the frames of
    /// [`crate::stream`] himself.
    pub fn into_parts(self) -> (OwnedFd, Decoder) {
        (self.socket, self.decoder)
    }

    /// Sends one frame, waiting for room.
    pub fn send(&mut self, frame: &Frame) -> Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let mut sent = 0;
        while sent < bytes.len() {
            match rustix::net::send(&self.socket, &bytes[sent..], rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None);
                }
                Err(errno) => {
                    return Err(errno)
                        .context(Kind::Unavailable, || "cannot talk to the container's monitor".into());
                }
            }
        }
        Ok(())
    }

    /// The next frame; `None` when the monitor has closed.
    pub fn receive(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// [`Attachment::receive`], as long as `cancel` is not readable.
    ///
    /// # Errors
    /// `Interrupted` when it is.
    pub fn receive_unless(&mut self, cancel: BorrowedFd<'_>) -> Result<Option<Frame>> {
        loop {
            let mut fds =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(cancel, PollFlags::IN)];
            let known = self.decoder.next_frame()?;
            // Frames that are here already are not waited for.
            let patience = known.is_some().then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
            match poll(&mut fds, patience.as_ref()) {
                Ok(_) if !fds[1].revents().is_empty() => {
                    return Err(Error::new(Kind::Interrupted, "the command was cancelled"));
                }
                Ok(_) | Err(Errno::INTR) if known.is_some() => return Ok(known),
                Ok(_) => {
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(errno).context(Kind::Internal, || "cannot wait for the container".into());
                }
            }
        }
    }

    fn fill(&mut self) -> Result<bool> {
        let mut buffer = [0u8; 64 * 1024];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(false),
                Ok(n) => {
                    self.decoder.feed(&buffer[..n]);
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(errno)
                        .context(Kind::Internal, || "cannot read from the container's monitor".into());
                }
            }
        }
    }

    /// Waits until the process ends, without moving any stream. `None`: the monitor died.
    pub fn wait(mut self) -> Result<Option<ExitNotice>> {
        while let Some(frame) = self.receive()? {
            if let Frame::Exit(notice) = frame {
                return Ok(Some(notice));
            }
        }
        Ok(None)
    }

    /// Waits until the process ends, at most for `patience` (`None`: for ever), without moving any
    /// stream. May be called again after a time-out.
    pub fn wait_for(&mut self, patience: Option<Duration>) -> Result<Waited> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                if let Frame::Exit(notice) = frame {
                    return Ok(Waited::Ended(notice));
                }
            }
            let left = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
            });
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Ok(Waited::TimedOut),
                Ok(_) => {
                    if !self.fill()? {
                        return Ok(Waited::Lost);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(errno).context(Kind::Internal, || "cannot wait for the container".into());
                }
            }
        }
    }

    /// Moves the standard streams of this process to and from the container's until it ends or the
    /// user detaches.
    pub fn front(mut self, mut options: FrontOptions<'_>) -> Result<FrontEnd> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let terminal_out = terminal::is_terminal(&stdout);
        let mut raw = None;
        if options.tty && self.hello.stdin && terminal::is_terminal(&stdin) {
            raw = Some(RawMode::enter(&stdin)?);
        }
        let signals = SignalFd::new(&watched_signals(options.on_signal.is_some()))?;
        if options.tty
            && terminal_out
            && let Some(size) = terminal::size(&stdout)
        {
            self.send(&Frame::Resize(size.0, size.1))?;
        }
        let mut keys = DetachKeys::new(std::mem::take(&mut options.detach_keys));
        let mut reading = self.hello.stdin;
        loop {
            let mut fds =
                vec![PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
            if reading {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    return Err(errno).context(Kind::Internal, || "cannot wait for the container".into());
                }
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[1] {
                while let Some(signal) = signals.next() {
                    if signal == libc::SIGWINCH {
                        if options.tty
                            && let Some(size) = terminal::size(&stdout)
                        {
                            self.send(&Frame::Resize(size.0, size.1))?;
                        }
                    } else if let Some(pass_on) = options.on_signal.as_mut() {
                        pass_on(signal);
                    }
                }
            }
            if ready.get(2) == Some(&true) {
                let mut buffer = [0u8; 32 * 1024];
                match rustix::io::read(&stdin, &mut buffer) {
                    Ok(0) => {
                        reading = false;
                        // A monitor that has just ended cannot take this any more: no failure.
                        let _ = self.send(&Frame::StdinEnd);
                    }
                    Ok(n) => match keys.filter(&buffer[..n]) {
                        Typed::Bytes(bytes) if bytes.is_empty() => {}
                        Typed::Bytes(bytes) => {
                            if self.send(&Frame::Stdin(bytes)).is_err() {
                                reading = false;
                            }
                        }
                        Typed::Detach => {
                            drop(raw.take());
                            return Ok(FrontEnd::Detached);
                        }
                    },
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => reading = false,
                }
            }
            if ready[0] {
                let open = self.fill()?;
                while let Some(frame) = self.decoder.next_frame()? {
                    match frame {
                        Frame::Output(Stream::Stdout, bytes) => write_all(&stdout, &bytes)?,
                        Frame::Output(Stream::Stderr, bytes) => write_all(&stderr, &bytes)?,
                        Frame::Exit(notice) => return Ok(FrontEnd::Exited(notice)),
                        _ => {}
                    }
                }
                if !open {
                    return Ok(FrontEnd::Lost);
                }
            }
        }
    }
}

/// Signals that wait until [`Attachment::front`] looks at them.
pub struct HeldSignals(#[expect(dead_code, reason = "held for what its end does")] SignalFd);

/// Holds back, until the result is dropped, the signals that a front passes on: one that comes
/// between a container's start and the front would end the command and not reach the program.
pub fn hold_signals() -> Result<HeldSignals> {
    Ok(HeldSignals(SignalFd::new(&watched_signals(true))?))
}

fn watched_signals(all: bool) -> Vec<i32> {
    if !all {
        return vec![libc::SIGWINCH];
    }
    // What Docker passes on: everything but what the shell needs (SIGCHLD, SIGURG, job control by
    // SIGSTOP) and what means a bug of ours.
    vec![
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGCONT,
        libc::SIGWINCH,
    ]
}

/// Writes everything; waits where the other side is a non-blocking pipe. A reader that is gone ends
/// nothing: the process in the container goes on.
fn write_all(to: impl AsFd, mut bytes: &[u8]) -> Result<()> {
    let started = Instant::now();
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&to, PollFlags::OUT)];
                let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
                if started.elapsed() > Duration::from_secs(24 * 3600) {
                    break;
                }
            }
            Err(Errno::PIPE) => {
                return Err(Error::new(Kind::Interrupted, "the reader of the output is gone"));
            }
            Err(errno) => {
                return Err(errno).context(Kind::Internal, || "cannot write the container's output".into());
            }
        }
    }
    Ok(())
}

/// What the user typed, with the detach keys taken out.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// These bytes go to the container.
    Bytes(Vec<u8>),
    /// The keys are complete.
    Detach,
}

/// Finds the detach keys in what is typed. A part of them is held back and replayed when the next
/// key does not go on with them.
#[derive(Debug, Default)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Looks for `keys`; none if it is empty.
    pub fn new(keys: Vec<u8>) -> Self {
        DetachKeys { keys, matched: 0 }
    }

    /// Reads Docker's notation: a list of single characters or `ctrl-X`, X a letter or one of
    /// `@[\]^_`.
    pub fn parse(text: &str) -> Result<Vec<u8>> {
        text.split(',')
            .map(|key| {
                let control = key.strip_prefix("ctrl-").map(str::as_bytes);
                match (control, key.as_bytes()) {
                    (Some([letter @ (b'a'..=b'z')]), _) => Ok(letter - b'a' + 1),
                    (Some([sign @ (b'@' | b'['..=b'_')]), _) => Ok(sign - b'@'),
                    (None, [byte]) => Ok(*byte),
                    _ => Err(Error::invalid(format!("invalid detach keys `{text}`: unknown key `{key}`"))
                        .with_hint("write them like `ctrl-p,ctrl-q`")),
                }
            })
            .collect()
    }

    /// Takes what was typed.
    pub fn filter(&mut self, typed: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed::Bytes(typed.to_vec());
        }
        let mut out = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Typed::Detach;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if *byte == self.keys[0] && self.keys.len() > 1 {
                self.matched = 1;
            } else {
                out.push(*byte);
            }
        }
        Typed::Bytes(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_held_back_and_replayed() {
        let mut keys = DetachKeys::new(DetachKeys::parse("ctrl-p,ctrl-q").unwrap());
        assert_eq!(keys.filter(b"a\x10"), Typed::Bytes(b"a".to_vec()));
        assert_eq!(keys.filter(b"b"), Typed::Bytes(b"\x10b".to_vec()));
        assert_eq!(keys.filter(b"\x10\x10"), Typed::Bytes(b"\x10".to_vec()));
        assert_eq!(keys.filter(b"\x11"), Typed::Detach);
        assert_eq!(DetachKeys::new(Vec::new()).filter(b"\x10\x11"), Typed::Bytes(b"\x10\x11".to_vec()));
    }

    #[test]
    fn detach_key_notation() {
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(DetachKeys::parse("a,ctrl-@,ctrl-[").unwrap(), [b'a', 0, 27]);
        for bad in ["", "ctrl-", "ctrl-1", "ab", "ctrl-pp", "a,"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
