//! Scopes of systemd, over D-Bus: a cgroup that the service manager makes and delegates.
//!
//! Needed where a process may not move itself: a login by ssh runs in `session-3.scope`, which belongs
//! to root, and nothing below `user@1000.service`, which belongs to the user, takes it in but by the
//! manager's hand. And asked for by callers of the OCI runtime (`--systemd-cgroup`).
//!
//! The manager listens at a socket of its own (`systemd/private`), without a bus between; where that
//! isn't there, the call goes over the bus. The protocol is the D-Bus specification's, of which this
//! speaks what the one call needs: <https://dbus.freedesktop.org/doc/dbus-specification.html>; the call
//! is `StartTransientUnit` of org.freedesktop.systemd1(5).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::{namespace, process};

/// How long the manager may take: it may be reading its units anew.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than any message of the manager's.
const LONGEST_MESSAGE: usize = 4 << 20;

const MANAGER: &str = "org.freedesktop.systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const PATH: &str = "/org/freedesktop/systemd1";

/// Whose service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// The machine's, for root.
    System,
    /// That of the user with this id outside of any user namespace.
    User(u32),
}

/// A scope to be made.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Its name, which ends in `.scope`.
    pub name: &'a str,
    /// The slice that it is in; the manager's default if `None`.
    pub slice: Option<&'a str>,
    /// What `systemctl status` says.
    pub description: &'a str,
    /// The process that it begins with, by its number in the first pid namespace.
    pub pid: u32,
}

/// A process that does nothing, for a scope to begin with: one without a process is none. Dropped, it
/// is killed and reaped.
pub struct Placeholder {
    pid: i32,
    pidfd: OwnedFd,
}

impl Placeholder {
    /// Forks it off the calling process, which must have one thread.
    ///
    /// # Errors
    /// Where no process can be made.
    pub fn new() -> Result<Placeholder> {
        let parent = rustix::process::getpid();
        match process::clone(&process::CloneRequest::default())? {
            process::Cloned::Parent { pid, pidfd } => Ok(Placeholder { pid, pidfd }),
            process::Cloned::Child => {
                use rustix::process::{
                    Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
                };
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                if getppid() != Some(parent) {
                    let _ = kill_process(getpid(), Signal::KILL);
                }
                // Nothing but SIGKILL is to end it, and that does.
                loop {
                    std::thread::park();
                }
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let _ = process::signal(&self.pidfd, libc::SIGKILL);
        let _ = process::wait(&self.pidfd);
    }
}

impl Manager {
    /// The machine's, if there is one and the caller is root of the machine.
    pub fn of_machine() -> Option<Manager> {
        let root = rustix::process::geteuid().is_root() && !namespace::is_user_namespace();
        (root && Path::new("/run/systemd/system").is_dir()).then_some(Manager::System)
    }

    /// The caller's: the machine's for root of it, else the user's own; `None` where none listens.
    pub fn of_caller() -> Option<Manager> {
        let user = || {
            let manager = Manager::User(namespace::user_outside()?);
            manager.sockets().iter().any(|(path, _)| path.exists()).then_some(manager)
        };
        Manager::of_machine().or_else(user)
    }

    /// Its sockets: its own, and a bus that it is on.
    fn sockets(self) -> [(PathBuf, Route); 2] {
        match self {
            Manager::System => [
                ("/run/systemd/private".into(), Route::Direct),
                ("/run/dbus/system_bus_socket".into(), Route::Bus),
            ],
            Manager::User(uid) => [
                (format!("/run/user/{uid}/systemd/private").into(), Route::Direct),
                (format!("/run/user/{uid}/bus").into(), Route::Bus),
            ],
        }
    }

    fn user(self) -> u32 {
        match self {
            Manager::System => 0,
            Manager::User(uid) => uid,
        }
    }

    /// Makes the scope, with its cgroup delegated, and waits until the process is in it.
    ///
    /// # Errors
    /// Where no manager listens, or what it answers.
    pub fn start(self, scope: &Scope<'_>) -> Result<()> {
        self.start_at(&self.sockets(), scope).within(|| format!("cannot make scope `{}`", scope.name))
    }

    fn start_at(self, sockets: &[(PathBuf, Route)], scope: &Scope<'_>) -> Result<()> {
        let mut last = Error::new(Kind::Unsupported, "no service manager listens");
        for (path, route) in sockets {
            match Connection::open(path, self.user()) {
                Ok(mut connection) => {
                    if *route == Route::Bus {
                        connection.introduce()?;
                    }
                    return connection.start(scope, *route);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// The other end is the manager.
    Direct,
    /// The other end is a bus.
    Bus,
}

/// What is called.
struct Call<'a> {
    destination: Option<&'a str>,
    path: &'a str,
    interface: &'a str,
    member: &'a str,
    signature: &'a str,
    body: Vec<u8>,
}

impl<'a> Call<'a> {
    fn of_bus(member: &'a str) -> Self {
        Call {
            destination: Some("org.freedesktop.DBus"),
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            signature: "",
            body: Vec::new(),
        }
    }

    fn of_manager(member: &'a str, route: Route) -> Self {
        Call {
            destination: (route == Route::Bus).then_some(MANAGER),
            path: PATH,
            interface: INTERFACE,
            member,
            signature: "",
            body: Vec::new(),
        }
    }
}

struct Connection {
    stream: UnixStream,
    serial: u32,
    deadline: Instant,
    /// Jobs that have ended, and how.
    ended: Vec<(String, String)>,
}

impl Connection {
    fn open(path: &Path, user: u32) -> Result<Connection> {
        let stream =
            UnixStream::connect(path).io_context(|| format!("cannot connect to `{}`", path.display()))?;
        let mut connection =
            Connection { stream, serial: 0, deadline: Instant::now() + PATIENCE, ended: Vec::new() };
        // SASL EXTERNAL: who we are, the kernel says; the number, in hexadecimal of its digits, must agree.
        let name: String = user.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        connection.send(format!("\0AUTH EXTERNAL {name}\r\n").as_bytes())?;
        let answer = connection.line()?;
        if !answer.starts_with("OK ") {
            return Err(Error::new(Kind::Denied, format!("the service manager answers `{answer}`")));
        }
        connection.send(b"BEGIN\r\n")?;
        Ok(connection)
    }

    /// What a bus wants to hear first, and what it is to pass on.
    fn introduce(&mut self) -> Result<()> {
        self.call(&Call::of_bus("Hello"))?;
        let mut body = Writer::default();
        body.string(&format!("type='signal',interface='{INTERFACE}',member='JobRemoved'"));
        self.call(&Call { signature: "s", body: body.0, ..Call::of_bus("AddMatch") })?;
        self.call(&Call::of_manager("Subscribe", Route::Bus)).map(drop)
    }

    fn start(&mut self, scope: &Scope<'_>, route: Route) -> Result<()> {
        let call = Call {
            signature: "ssa(sv)a(sa(sv))",
            body: transient_unit(scope),
            ..Call::of_manager("StartTransientUnit", route)
        };
        let reply = self.call(&call)?;
        let job = Reader::new(&reply.body).string()?;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job) {
                return match result.as_str() {
                    "done" => Ok(()),
                    other => Err(Error::new(Kind::Internal, format!("the service manager's job: {other}"))),
                };
            }
            let message = self.receive()?;
            self.note(&message);
        }
    }

    /// Keeps what a signal says of a job.
    fn note(&mut self, message: &Message) {
        if message.member == "JobRemoved" {
            let mut body = Reader::new(&message.body);
            if let (Ok(_), Ok(job), Ok(_), Ok(result)) =
                (body.number(), body.string(), body.string(), body.string())
            {
                self.ended.push((job, result));
            }
        }
    }

    /// Sends a call and waits for its answer.
    fn call(&mut self, call: &Call<'_>) -> Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        let mut out = Writer::default();
        // Little endian, a method call, no flags, version 1.
        out.0.extend_from_slice(&[b'l', 1, 0, 1]);
        out.number(u32::try_from(call.body.len()).unwrap_or(u32::MAX));
        out.number(serial);
        let fields = [
            (1, "o", Some(call.path)),
            (2, "s", Some(call.interface)),
            (3, "s", Some(call.member)),
            (6, "s", call.destination),
            (8, "g", (!call.signature.is_empty()).then_some(call.signature)),
        ];
        out.array(8, |out| {
            for (code, signature, value) in fields {
                let Some(value) = value else { continue };
                out.align(8);
                out.0.push(code);
                out.signature(signature);
                if signature == "g" { out.signature(value) } else { out.string(value) }
            }
        });
        out.align(8);
        out.0.extend_from_slice(&call.body);
        self.send(&out.0)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                2 if message.reply_to == serial => return Ok(message),
                3 if message.reply_to == serial => {
                    let text = Reader::new(&message.body).string().unwrap_or_default();
                    let kind =
                        if message.error.ends_with("AccessDenied") { Kind::Denied } else { Kind::Internal };
                    return Err(Error::new(kind, format!("{}: {text}", message.error)));
                }
                _ => self.note(&message),
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut head = [0u8; 16];
        self.fill(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, fields) = (number(4) as usize, number(12) as usize);
        if head[0] != b'l' || body > LONGEST_MESSAGE || fields > LONGEST_MESSAGE {
            return Err(Error::new(Kind::Corrupt, "the service manager speaks no D-Bus"));
        }
        let mut rest = vec![0u8; fields.next_multiple_of(8) + body];
        self.fill(&mut rest)?;
        let body = rest.split_off(fields.next_multiple_of(8));
        rest.truncate(fields);
        let mut message = Message { kind: head[1], body, ..Message::default() };
        let mut reader = Reader::new(&rest);
        while !reader.is_at_end() {
            reader.align(8);
            let code = reader.byte()?;
            // Of the types of header fields the specification names these four alone.
            match (code, reader.signature()?.as_str()) {
                (3, "s") => message.member = reader.string()?,
                (4, "s") => message.error = reader.string()?,
                (5, "u") => message.reply_to = reader.number()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.number()?),
                (_, other) => {
                    return Err(Error::new(Kind::Corrupt, format!("a D-Bus header field of type `{other}`")));
                }
            }
        }
        Ok(message)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0u8];
            self.fill(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// What is left of the patience goes to the next system call.
    fn hurry(&self) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(Kind::Unavailable, "the service manager does not answer"));
        }
        let set = self.stream.set_read_timeout(Some(left));
        set.and_then(|()| self.stream.set_write_timeout(Some(left)))
            .io_context(|| "cannot talk to the service manager".into())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.hurry()?;
        self.stream.write_all(bytes).io_context(|| "cannot talk to the service manager".into())
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            self.hurry()?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(Error::new(Kind::Internal, "the service manager hangs up")),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => return Err(error).io_context(|| "cannot hear the service manager".into()),
            }
        }
        Ok(())
    }
}

/// The body of StartTransientUnit: name, mode, properties, further units.
fn transient_unit(scope: &Scope<'_>) -> Vec<u8> {
    let mut body = Writer::default();
    body.string(scope.name);
    body.string("fail");
    body.array(8, |out| {
        out.property("Description", "s", |out| out.string(scope.description));
        if let Some(slice) = scope.slice {
            out.property("Slice", "s", |out| out.string(slice));
        }
        out.property("Delegate", "b", |out| out.number(1));
        // A scope that was killed leaves nothing to be reset by hand.
        out.property("CollectMode", "s", |out| out.string("inactive-or-failed"));
        out.property("PIDs", "au", |out| out.array(4, |out| out.number(scope.pid)));
    });
    body.array(8, |_| {});
    body.0
}

#[derive(Debug, Default)]
struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

/// Marshalling: every value at a multiple of its alignment, counted from the message's begin (its body
/// begins at a multiple of 8).
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// An array of elements that are aligned to `alignment`; its length counts none of the padding
    /// before the first.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Writer)) {
        self.number(0);
        let at = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        elements(self);
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn property(&mut self, name: &str, signature: &str, value: impl FnOnce(&mut Writer)) {
        self.align(8);
        self.string(name);
        self.signature(signature);
        value(self);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| Error::new(Kind::Corrupt, "a D-Bus message ends too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Result<u32> {
        self.align(4);
        self.take(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn string(&mut self) -> Result<String> {
        let length = self.number()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.byte()? as usize;
        self.text(length)
    }
}

#[cfg(test)]
mod tests;
