//! The loop that stands between one process and everybody who watches it.
//!
//! It moves output to the log and to attached clients, input from them to the process, and returns
//! when the process has ended and its output is drained. Buffers are bounded: a client that does
//! not read holds the process back (as a pipe would), a client that is gone does not.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use robot_env_diag::{Context, Kind, Result};
use robot_env_sys::{process, socket, terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::monitor::log::LogWriter;
use crate::stream::{Decoder, ExitNotice, FRAME_LIMIT, Frame, Hello, Stream};

/// Bytes that may wait for one client before output is held back.
const CLIENT_BUFFER: usize = 256 * 1024;
/// Bytes that may wait for the process's standard input before clients are held back.
const STDIN_BUFFER: usize = 128 * 1024;

/// The near ends of a process's streams.
pub(crate) struct ProcessIo {
    /// Where its standard input is written; `None` when it has none.
    pub(crate) stdin: Option<OwnedFd>,
    /// Where its output is read.
    pub(crate) outputs: Vec<(Stream, OwnedFd)>,
    /// The terminal's master, which is also input and output then.
    pub(crate) terminal: Option<OwnedFd>,
    /// Whether input ends for good with the first client that ends it or goes.
    pub(crate) stdin_once: bool,
}

/// Something else that the loop waits for: health checks, questions of names.
pub(crate) trait Aside {
    /// Descriptors to wait for.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    /// When to call `wake` at the latest.
    fn deadline(&self) -> Option<Instant>;
    /// Called when a descriptor is readable or the deadline has passed.
    fn wake(&mut self);
    /// Somebody has come to the monitor's socket, who may have changed something that this looks at.
    /// It is seen before whoever came is let go.
    fn knocked(&mut self) {
        self.wake();
    }
}

/// Two asides.
pub(crate) struct Both<'a>(pub(crate) &'a mut dyn Aside, pub(crate) &'a mut dyn Aside);

impl Aside for Both<'_> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = self.0.descriptors();
        all.extend(self.1.descriptors());
        all
    }

    fn deadline(&self) -> Option<Instant> {
        [self.0.deadline(), self.1.deadline()].into_iter().flatten().min()
    }

    fn wake(&mut self) {
        self.0.wake();
        self.1.wake();
    }

    fn knocked(&mut self) {
        self.0.knocked();
        self.1.knocked();
    }
}

/// No aside.
pub(crate) struct Nothing;

impl Aside for Nothing {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn wake(&mut self) {}
}

/// Who watches a process.
pub(crate) struct Audience {
    listener: Option<OwnedFd>,
    clients: Vec<Client>,
    /// Whether the process ends when the last client goes: a step of a build.
    vital: bool,
}

struct Client {
    socket: OwnedFd,
    decoder: Decoder,
    hello: Option<Hello>,
    out: Vec<u8>,
    sent: usize,
    /// The frames that must wait because standard input is full.
    held: VecDeque<Frame>,
    gone: bool,
}

impl Client {
    fn new(socket: OwnedFd) -> Self {
        Client {
            socket,
            decoder: Decoder::default(),
            hello: None,
            out: Vec::new(),
            sent: 0,
            held: VecDeque::new(),
            gone: false,
        }
    }

    fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    fn wants(&self, stream: Stream) -> bool {
        self.hello.is_some_and(|h| match stream {
            Stream::Stdout => h.stdout,
            Stream::Stderr => h.stderr,
        })
    }

    fn push(&mut self, frame: &Frame) {
        if self.gone {
            return;
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        frame.encode(&mut self.out);
        self.flush();
    }

    fn flush(&mut self) {
        while self.sent < self.out.len() {
            match rustix::net::send(&self.socket, &self.out[self.sent..], rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    /// Reads what has arrived.
    fn receive(&mut self) {
        let mut buffer = [0u8; 32 * 1024];
        match rustix::io::read(&self.socket, &mut buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => self.decoder.feed(&buffer[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.held.push_back(frame),
                Ok(None) => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
    }
}

impl Audience {
    /// An audience of whoever connects to `listener`, and of `first`, who is connected already.
    pub(crate) fn new(listener: Option<OwnedFd>, first: Option<OwnedFd>) -> Result<Self> {
        let mut clients = Vec::new();
        if let Some(socket) = first {
            socket::set_nonblocking(&socket)?;
            let mut client = Client::new(socket);
            // It has said hello before the process began, and is to miss nothing.
            client.receive();
            if let Some(Frame::Hello(hello)) = client.held.front() {
                client.hello = Some(*hello);
                client.held.pop_front();
                client.push(&Frame::Attached);
            }
            clients.push(client);
        }
        Ok(Audience { listener, clients, vital: false })
    }

    /// The process is to end when nobody watches it any more.
    pub(crate) fn make_vital(&mut self) {
        self.vital = true;
    }

    /// Tells everybody who is attached that the process has ended, and lets them go. Waits a little
    /// for readers that are slow.
    pub(crate) fn dismiss(&mut self, notice: &ExitNotice) {
        let frame = Frame::Exit(notice.clone());
        self.admit();
        for client in &mut self.clients {
            client.receive();
            client.push(&frame);
        }
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            self.clients.retain(|c| !c.gone && c.pending() > 0);
            if self.clients.is_empty() || Instant::now() > patience {
                break;
            }
            let mut fds: Vec<PollFd<'_>> =
                self.clients.iter().map(|c| PollFd::new(&c.socket, PollFlags::OUT)).collect();
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
            self.clients.iter_mut().for_each(Client::flush);
        }
        self.clients.clear();
    }

    fn admit(&mut self) {
        if let Some(listener) = &self.listener {
            while let Ok(Some(socket)) = socket::accept(listener) {
                self.clients.push(Client::new(socket));
            }
        }
    }

    fn is_full(&self, stream: Stream) -> bool {
        self.clients.iter().any(|c| !c.gone && c.wants(stream) && c.pending() > CLIENT_BUFFER)
    }

    fn broadcast(&mut self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.chunks(FRAME_LIMIT) {
            let mut frame = None;
            for client in self.clients.iter_mut().filter(|c| c.wants(stream)) {
                client.push(frame.get_or_insert_with(|| Frame::Output(stream, piece.to_vec())));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Slot {
    Process,
    Listener,
    Stdin,
    Output(usize),
    Client(usize),
    Aside,
}

/// Runs until the process behind `pidfd` has ended and its output is drained. Does not reap it.
pub(crate) fn supervise(
    pidfd: BorrowedFd<'_>,
    io: &mut ProcessIo,
    audience: &mut Audience,
    log: &mut Option<LogWriter>,
    aside: &mut dyn Aside,
) -> Result<()> {
    for (_, fd) in &io.outputs {
        socket::set_nonblocking(fd)?;
    }
    if let Some(fd) = &io.stdin {
        socket::set_nonblocking(fd)?;
    }
    let mut input = Input { pending: VecDeque::new(), ending: false };
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let ready = wait(pidfd, io, audience, &input, aside)?;
        let mut ended = false;
        for (slot, flags) in ready {
            match slot {
                Slot::Process => ended = true,
                Slot::Listener => {
                    audience.admit();
                    aside.knocked();
                }
                Slot::Stdin => input.drain(io, flags),
                Slot::Output(index) => {
                    read_output(io, index, audience, log, &mut buffer);
                }
                Slot::Client(index) => {
                    let client = &mut audience.clients[index];
                    if flags.contains(PollFlags::OUT) {
                        client.flush();
                    }
                    if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        client.receive();
                    }
                }
                Slot::Aside => aside.wake(),
            }
        }
        serve_clients(audience, io, &mut input);
        if audience.vital && audience.clients.is_empty() {
            let _ = process::signal(pidfd, libc::SIGKILL);
        }
        if ended {
            drain(io, audience, log, &mut buffer);
            return Ok(());
        }
    }
}

fn wait(
    pidfd: BorrowedFd<'_>,
    io: &ProcessIo,
    audience: &Audience,
    input: &Input,
    aside: &dyn Aside,
) -> Result<Vec<(Slot, PollFlags)>> {
    let mut slots = vec![Slot::Process];
    let mut fds = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    if let Some(listener) = &audience.listener {
        slots.push(Slot::Listener);
        fds.push(PollFd::new(listener, PollFlags::IN));
    }
    if !input.pending.is_empty()
        && let Some(stdin) = input_fd(io)
    {
        slots.push(Slot::Stdin);
        fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::OUT));
    }
    for (index, (stream, fd)) in io.outputs.iter().enumerate() {
        if !audience.is_full(*stream) {
            slots.push(Slot::Output(index));
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
    }
    for (index, client) in audience.clients.iter().enumerate().filter(|(_, client)| !client.gone) {
        let mut flags = PollFlags::empty();
        if client.held.is_empty() {
            flags |= PollFlags::IN;
        }
        if client.pending() > 0 {
            flags |= PollFlags::OUT;
        }
        slots.push(Slot::Client(index));
        fds.push(PollFd::new(&client.socket, flags));
    }
    let aside_fds = aside.descriptors();
    for fd in &aside_fds {
        slots.push(Slot::Aside);
        fds.push(PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    }
    let timeout = aside.deadline().map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
    });
    let result = poll(&mut fds, timeout.as_ref());
    let mut ready: Vec<(Slot, PollFlags)> = match result {
        Ok(_) => slots
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(slot, fd)| (*slot, fd.revents()))
            .collect(),
        Err(Errno::INTR) => Vec::new(),
        Err(errno) => return Err(errno).context(Kind::Internal, || "cannot wait for the container".into()),
    };
    if aside.deadline().is_some_and(|deadline| deadline <= Instant::now())
        && !ready.iter().any(|(s, _)| matches!(s, Slot::Aside))
    {
        ready.push((Slot::Aside, PollFlags::empty()));
    }
    Ok(ready)
}

fn input_fd(io: &ProcessIo) -> Option<BorrowedFd<'_>> {
    io.terminal.as_ref().or(io.stdin.as_ref()).map(AsFd::as_fd)
}

/// Bytes on their way to standard input.
struct Input {
    pending: VecDeque<u8>,
    ending: bool,
}

impl Input {
    fn drain(&mut self, io: &mut ProcessIo, flags: PollFlags) {
        while !self.pending.is_empty() {
            let Some(fd) = input_fd(io) else {
                self.pending.clear();
                break;
            };
            match rustix::io::write(fd, self.pending.as_slices().0) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::AGAIN) if !flags.intersects(PollFlags::ERR | PollFlags::HUP) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // The process closed it: what comes now goes nowhere.
                    self.pending.clear();
                    io.stdin = None;
                }
            }
        }
        if self.ending {
            io.stdin = None;
        }
    }

    fn end(&mut self, io: &mut ProcessIo) {
        self.ending = true;
        if self.pending.is_empty() {
            io.stdin = None;
        }
    }
}

fn serve_clients(audience: &mut Audience, io: &mut ProcessIo, input: &mut Input) {
    for client in &mut audience.clients {
        while input.pending.len() < STDIN_BUFFER
            && let Some(frame) = client.held.pop_front()
        {
            match frame {
                Frame::Hello(hello) => {
                    client.hello = Some(hello);
                    client.push(&Frame::Attached);
                }
                Frame::Stdin(bytes) if client.hello.is_some_and(|h| h.stdin) && input_fd(io).is_some() => {
                    input.pending.extend(bytes);
                    input.drain(io, PollFlags::empty());
                }
                Frame::StdinEnd if io.stdin_once && io.terminal.is_none() => input.end(io),
                Frame::Resize(rows, columns) => {
                    if let Some(master) = &io.terminal {
                        let _ = terminal::set_size(master, (rows, columns));
                    }
                }
                _ => {}
            }
        }
        if client.gone
            && client.held.is_empty()
            && io.stdin_once
            && io.terminal.is_none()
            && client.hello.is_some_and(|h| h.stdin)
        {
            input.end(io);
        }
    }
    audience.clients.retain(|c| !c.gone || !c.held.is_empty());
}

/// Reads once; at the end of a stream its descriptor is closed. Returns whether bytes came.
fn read_output(
    io: &mut ProcessIo,
    index: usize,
    audience: &mut Audience,
    log: &mut Option<LogWriter>,
    buffer: &mut [u8],
) -> bool {
    let Some((stream, fd)) = io.outputs.get(index) else { return false };
    let stream = *stream;
    match rustix::io::read(fd, &mut *buffer) {
        Ok(n) if n > 0 => {
            if let Some(log) = log {
                log.write(stream, &buffer[..n]);
            }
            audience.broadcast(stream, &buffer[..n]);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => false,
        Ok(_) | Err(_) => {
            // EIO is how a terminal's master says that nobody has the other side open. It may be
            // opened again, but a poll would not wait meanwhile.
            io.outputs.remove(index);
            false
        }
    }
}

/// Takes what the process wrote before it ended.
fn drain(io: &mut ProcessIo, audience: &mut Audience, log: &mut Option<LogWriter>, buffer: &mut [u8]) {
    let patience = Instant::now() + Duration::from_secs(60);
    let mut index = 0;
    while index < io.outputs.len() {
        let before = io.outputs.len();
        let stream = io.outputs[index].0;
        if audience.is_full(stream) && Instant::now() < patience {
            let mut fds: Vec<PollFd<'_>> = audience
                .clients
                .iter()
                .filter(|c| c.pending() > 0)
                .map(|c| PollFd::new(&c.socket, PollFlags::OUT))
                .collect();
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
            audience.clients.iter_mut().for_each(Client::flush);
            continue;
        }
        if !read_output(io, index, audience, log, buffer) && io.outputs.len() == before {
            index += 1;
        }
    }
    io.outputs.clear();
}
