//! A user's network namespace: where the bridges of an ordinary user's networks are, and what joins
//! them to the host's network.
//!
//! The kernel lets an ordinary user make links and rules only in a network namespace of the user's
//! own. All containers of a user share one, so that they reach each other; `pasta` or `slirp4netns`
//! leads out of it, once for all of them. Whoever changes a network enters it for that time, under
//! the lock of the networks, and everything else of an engine stays in the host's: ports are bound
//! there, names are asked for there.
//!
//! ```text
//! RUN/networks/namespace         which one it is (device and inode), who holds it, its way out
//! RUN/networks/namespace.mount   what the way out finds it by, in a mount namespace of its own
//! RUN/networks/helper.log        what that program says
//! ```
//!
//! Nobody lives in it and nothing in a file system leads to it: the monitors of the containers hold
//! it open, and others take it from them by `/proc/PID/fd/N`. With the last monitor it is gone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_network::link::Links;
use robot_env_network::subnet::Subnet;
use robot_env_sys::fs::{Durability, open_directory, read_bounded, write_atomic};
use robot_env_sys::netlink::RouteSocket;
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::{mount, namespace, poll, socket};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::helper::{self, INTERFACE, Program};

const NAME: &str = "namespace";
const MOUNT: &str = "namespace.mount";
const LOG: &str = "helper.log";
/// How long the way out may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of what the program says is shown.
const COMPLAINT: usize = 2048;
/// More holders than this are not recorded: one that lives is enough.
const HOLDERS: usize = 64;

/// A running `pasta` or `slirp4netns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WayOut {
    pid: i32,
    /// With the pid it names the process for good.
    start_time: u64,
}

impl WayOut {
    fn lives(&self) -> bool {
        process::start_time(self.pid) == Some(self.start_time) && !process::is_zombie(self.pid)
    }

    fn end(&self) {
        if let Ok(pidfd) = process::pidfd_open(self.pid)
            && process::start_time(self.pid) == Some(self.start_time)
        {
            let _ = process::signal(&pidfd, libc::SIGKILL);
            // Only its parent can; for others there is nothing to wait for.
            let _ = process::wait(&pidfd);
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    device: u64,
    inode: u64,
    /// Process and descriptor, the latest last.
    holders: Vec<(u32, i32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    way_out: Option<WayOut>,
}

impl Record {
    fn load(directory: &Path) -> Option<Record> {
        let bytes = read_bounded(open_directory(directory).ok()?, NAME, 64 * 1024).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn save(&self, directory: &Path) -> Result<()> {
        let directory = open_directory(directory)?;
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Ok(write_atomic(&directory, &directory, NAME, &bytes, 0o600, Durability::NoSync)?)
    }

    fn path_of(holder: (u32, i32)) -> String {
        format!("/proc/{}/fd/{}", holder.0, holder.1)
    }

    /// Whether a holder has it. Looked at before it is opened: a number that was used again may be
    /// anything's.
    fn is_held(&self, holder: (u32, i32)) -> bool {
        std::fs::metadata(Record::path_of(holder))
            .is_ok_and(|stat| stat.dev() == self.device && stat.ino() == self.inode)
    }

    fn open(&self) -> Option<OwnedFd> {
        let holder = self.holders.iter().rev().find(|holder| self.is_held(**holder))?;
        let fd = namespace::open(&Record::path_of(*holder)).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        (stat.st_dev == self.device && stat.st_ino == self.inode).then_some(fd)
    }

    fn add(&mut self, holder: (u32, i32)) {
        self.holders.retain(|other| *other != holder);
        if self.holders.len() >= HOLDERS {
            let record = self.clone();
            self.holders.retain(|other| record.is_held(*other));
            let surplus = (self.holders.len() + 1).saturating_sub(HOLDERS);
            self.holders.drain(..surplus);
        }
        self.holders.push(holder);
    }
}

/// The network namespace that the calling process is in.
pub(crate) fn current() -> Result<OwnedFd> {
    Ok(namespace::open("/proc/thread-self/ns/net")?)
}

/// The user's network namespace, if anybody holds it; `directory` is `RUN/networks`, whose lock the
/// caller has.
pub(crate) fn find(directory: &Path) -> Option<OwnedFd> {
    Record::load(directory)?.open()
}

/// The user's network namespace, made where there is none. The caller holds it under this
/// descriptor for as long as its container runs.
pub(crate) fn find_or_make(directory: &Path) -> Result<OwnedFd> {
    let within = || "cannot make the user's network namespace".to_owned();
    let mut record = Record::load(directory).unwrap_or_default();
    let namespace = match record.open() {
        Some(found) => found,
        None => {
            if let Some(way_out) = &record.way_out {
                way_out.end();
            }
            let made = make().within(within)?;
            let stat = rustix::fs::fstat(&made).io_context(|| "fstat(namespace)".into())?;
            record = Record { device: stat.st_dev, inode: stat.st_ino, ..Record::default() };
            made
        }
    };
    record.add((std::process::id(), namespace.as_raw_fd()));
    record.save(directory).within(within)?;
    Ok(namespace)
}

/// A new one, in which nobody is: a process is born into it, and its descriptor taken from there.
fn make() -> Result<OwnedFd> {
    let (near, far) = socket::pair()?;
    let clone = CloneRequest { namespaces: libc::CLONE_NEWNET, ..CloneRequest::default() };
    match process::clone(&clone)? {
        Cloned::Parent { pidfd, .. } => {
            drop(far);
            let received = socket::receive_with_fd(&near, &mut [0u8; 1]);
            let _ = process::wait(&pidfd);
            let (_, namespace) = received?;
            namespace.ok_or_else(|| Error::new(Kind::Internal, "no network namespace was made"))
        }
        Cloned::Child => {
            let up = RouteSocket::open().and_then(|mut socket| socket.loopback_up());
            if let (Ok(()), Ok(own)) = (up, current()) {
                let _ = socket::send_with_fd(&far, b"n", Some(own.as_fd()));
            }
            poll::exit_now(0)
        }
    }
}

/// Makes sure that something leads out of the namespace, by a range that none of `occupied` overlaps.
/// The caller is in the host's.
///
/// # Errors
/// Why nothing does, with a hint; containers reach each other all the same, and published ports work.
pub(crate) fn lead_out(directory: &Path, namespace: BorrowedFd<'_>, occupied: &[Subnet]) -> Result<()> {
    let Some(mut record) = Record::load(directory) else { return Ok(()) };
    if record.way_out.as_ref().is_some_and(WayOut::lives) {
        return Ok(());
    }
    let program = helper::choose()?;
    let range = helper::free_range(occupied).ok_or_else(|| {
        Error::new(Kind::Conflict, "the host has routes of every range that could lead out")
    })?;
    let (pid, pidfd) = start(directory, &program, namespace, range)?;
    let way_out = WayOut { pid, start_time: process::start_time(pid).unwrap_or(0) };
    record.way_out = Some(way_out.clone());
    record.save(directory)?;
    let deadline = Instant::now() + PATIENCE;
    let name = program.helper.name();
    let mut inside = Links::open_in(namespace)?;
    loop {
        if inside.has_default_route(INTERFACE)? {
            return Ok(());
        }
        if process::is_zombie(pid) {
            let _ = process::wait(&pidfd);
            return Err(Error::new(Kind::Unavailable, format!("`{name}` failed: {}", complaint(directory))));
        }
        if Instant::now() > deadline {
            way_out.end();
            return Err(Error::new(
                Kind::Unavailable,
                format!("`{name}` was not ready within {} s: {}", PATIENCE.as_secs(), complaint(directory)),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn complaint(directory: &Path) -> String {
    let text = std::fs::read(directory.join(LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(COMPLAINT)]).into_owned();
    // pasta's remarks on a machine without a log daemon.
    let lines = text.lines().filter(|line| !line.starts_with("Failed to send "));
    let said = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    if said.is_empty() { "it said nothing".into() } else { said }
}

/// Starts the program, in a mount namespace in which the network namespace has a path.
fn start(
    directory: &Path,
    program: &Program,
    namespace: BorrowedFd<'_>,
    range: Subnet,
) -> Result<(i32, OwnedFd)> {
    let place: PathBuf = directory.join(MOUNT);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &Path, flags: OFlags| {
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
            .io_context(|| format!("cannot open `{}`", path.display()))
    };
    drop(open(&place, flags)?);
    let log = open(&directory.join(LOG), flags | OFlags::TRUNC)?;
    let null = open(Path::new("/dev/null"), OFlags::RDWR | OFlags::CLOEXEC)?;
    let arguments = program.helper.arguments(&place, range);
    let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(program.path.as_os_str()))
        .unwrap_or_default();
    let clone = CloneRequest { namespaces: libc::CLONE_NEWNS, ..CloneRequest::default() };
    match process::clone(&clone)? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => {
            process::reset_signals();
            let ready = (|| -> Result<()> {
                process::new_session()?;
                let private = mount::PropagationFlags::PRIVATE | mount::PropagationFlags::REC;
                mount::set_propagation("/", private)?;
                let tree = mount::clone_path(&format!("/proc/self/fd/{}", namespace.as_raw_fd()), false)?;
                let target = open(&place, OFlags::PATH | OFlags::CLOEXEC)?;
                mount::attach(tree.as_fd(), target.as_fd())?;
                // All descriptors are closed below.
                std::mem::forget((tree, target));
                poll::replace_stdio(0, &null)?;
                poll::replace_stdio(1, &log)?;
                poll::replace_stdio(2, &log)?;
                Ok(process::close_all_but(&[])?)
            })();
            let said = match ready {
                Ok(()) => process::execute(&path, &arguments, &[c"LC_ALL=C".into()]).to_string(),
                Err(error) => error.to_report().to_string(),
            };
            // Not by `log`, which may be closed by now.
            if let Ok(log) = open(&directory.join(LOG), OFlags::WRONLY | OFlags::CLOEXEC) {
                let _ = rustix::io::write(&log, said.as_bytes());
                std::mem::forget(log);
            }
            poll::exit_now(127)
        }
    }
}

/// Ends what leads out: nobody is in a network any more, or the namespace is gone.
pub(crate) fn abandon(directory: &Path) {
    if let Some(record) = Record::load(directory) {
        if let Some(way_out) = &record.way_out {
            way_out.end();
        }
        for name in [NAME, MOUNT, LOG] {
            let _ = std::fs::remove_file(directory.join(name));
        }
    }
}

/// [`abandon`] for somebody whose `directory` may be gone by then.
#[derive(Debug)]
pub(crate) struct Abandonment(Option<WayOut>);

impl Abandonment {
    pub(crate) fn of(directory: &Path) -> Abandonment {
        Abandonment(Record::load(directory).and_then(|record| record.way_out))
    }

    pub(crate) fn run(&self) {
        if let Some(way_out) = &self.0 {
            way_out.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_whoever_holds_it() {
        let place = robot_env_testkit::temporary::TemporaryDirectory::new("user-network");
        assert!(find(place.path()).is_none());
        let own = current().unwrap();
        let stat = rustix::fs::fstat(&own).unwrap();
        let holder = (std::process::id(), own.as_raw_fd());
        let null = std::fs::File::open("/dev/null").unwrap();
        let record = Record {
            device: stat.st_dev,
            inode: stat.st_ino,
            holders: vec![holder, (std::process::id(), null.as_raw_fd()), (u32::MAX, 3)],
            way_out: None,
        };
        record.save(place.path()).unwrap();
        let found = rustix::fs::fstat(find(place.path()).unwrap()).unwrap();
        assert_eq!((found.st_dev, found.st_ino), (stat.st_dev, stat.st_ino));
        Record { inode: stat.st_ino + 1, ..record.clone() }.save(place.path()).unwrap();
        assert!(find(place.path()).is_none(), "another one");
        let mut many = record;
        for fd in 0..200 {
            many.add((u32::MAX, fd));
        }
        assert!(many.holders.len() <= HOLDERS);
        std::fs::write(place.join(NAME), "rubbish").unwrap();
        assert!(find(place.path()).is_none());
        abandon(place.path());
    }
}
