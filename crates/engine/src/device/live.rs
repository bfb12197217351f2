//! Devices of running containers: given and taken while they run, by command or as they are
//! plugged in and out.
//!
//! ```text
//! RUN/containers/<id>/devices.json   what has changed since the start; changed under the
//!                                    container's lock, gone with the run directory
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use robot_env_device::selector::{self, Selector};
use robot_env_device::{HostRoot, Session, inside, udev};
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_runtime::device_rules;
use robot_env_spec::{DeviceSelector, ResolvedDevice};
use robot_env_sys::cgroup::{self, Cgroup, DeviceRule};
use robot_env_sys::fs as sys_fs;
use robot_env_sys::uevent::{self, UeventSocket};
use robot_env_sys::{mount, namespace, process};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::host_root;
use crate::engine::Engine;
use crate::monitor::Aside;
use crate::record::ContainerRecord;
use crate::records::{Container, read_json};

/// When to look again after news: links of udev come later than the kernel's word.
const LOOKS: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// Subsystems whose news are no news of a node that somebody selects.
const UNRELATED: [&str; 8] = ["net", "queues", "module", "drivers", "cpu", "memory", "bdi", "workqueue"];

/// What has changed about a container's devices since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Devices {
    /// Nodes that are there by a selector or by command.
    nodes: Vec<Node>,
    /// Rules beside those of the plan, the latest last.
    rules: Vec<Rule>,
    /// Devices that somebody took away, until they are unplugged.
    held_off: Vec<(char, i64, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    path: String,
    kind: char,
    major: i64,
    minor: i64,
    /// Whether it was given by command: news of the kernel do not take it away.
    by_command: bool,
    /// What udev says of it; sysfs has nothing any more when it has gone.
    #[serde(default)]
    properties: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    allow: bool,
    kind: char,
    major: i64,
    minor: i64,
    permissions: String,
}

impl Rule {
    fn of(device: &ResolvedDevice, allow: bool) -> Rule {
        let permissions = if allow { device.permissions.clone() } else { "rwm".into() };
        Rule { allow, kind: device.kind, major: device.major, minor: device.minor, permissions }
    }

    fn device_rule(&self) -> DeviceRule {
        let has = |letter| self.permissions.contains(letter);
        DeviceRule {
            allow: self.allow,
            kind: Some(self.kind),
            major: u32::try_from(self.major).ok(),
            minor: u32::try_from(self.minor).ok(),
            read: has('r'),
            write: has('w'),
            make: has('m'),
        }
    }
}

fn number(device: &ResolvedDevice) -> (char, i64, i64) {
    (device.kind, device.major, device.minor)
}

fn file(engine: &Engine, record: &ContainerRecord) -> PathBuf {
    engine.paths.container_run(&record.id).join("devices.json")
}

/// What to do about a device that is closed to an ordinary user.
pub(super) const OPEN_IT: &str = "`robot-env doctor` says which group opens it";

/// A selector as its user wrote it.
pub(super) fn shown(what: &str) -> &str {
    what.strip_prefix("path:").unwrap_or(what)
}

/// Whether this user may neither read nor write a device of the host, so that the container cannot
/// either.
pub(super) fn is_closed(device: &ResolvedDevice) -> bool {
    use rustix::fs::{Access, access};
    let denied = |how: Access| access(&device.host_path, how) == Err(Errno::ACCESS);
    denied(Access::READ_OK) && denied(Access::WRITE_OK)
}

/// Says so.
pub(super) fn closed(path: &str) -> String {
    format!("this user may not open device `{path}`")
}

/// Notes what a start has given by selectors.
pub(crate) fn note(
    engine: &Engine,
    record: &ContainerRecord,
    root: &HostRoot,
    given: &[ResolvedDevice],
) -> Result<()> {
    let node = |device: &ResolvedDevice| Node {
        path: device.path.clone(),
        kind: device.kind,
        major: device.major,
        minor: device.minor,
        by_command: false,
        properties: udev::properties(root, device),
    };
    let devices = Devices { nodes: given.iter().map(node).collect(), ..Devices::default() };
    save(engine, record, &devices)
}

/// Forgets what an earlier life was given by command.
pub(crate) fn forget(engine: &Engine, record: &ContainerRecord) {
    let _ = std::fs::remove_file(file(engine, record));
}

fn save(engine: &Engine, record: &ContainerRecord, devices: &Devices) -> Result<()> {
    let path = file(engine, record);
    let bytes = serde_json::to_vec(devices).context(Kind::Internal, || "cannot write the devices".into())?;
    std::fs::write(&path, bytes).io_context(|| format!("cannot write `{}`", path.display()))
}

/// A running container whose devices change.
struct Live<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    pid: i32,
    cgroup: Option<Cgroup>,
    plan: Spec,
    devices: Devices,
}

impl<'a> Live<'a> {
    /// For somebody who holds the container's lock.
    fn open(engine: &'a Engine, container: &'a Container) -> Result<Live<'a>> {
        let record = &container.record;
        let not_running = || Error::new(Kind::Conflict, format!("container {} is not running", record.id));
        let process = container.state.state.process().ok_or_else(not_running)?;
        if process::start_time(process.pid) != Some(process.start_time) {
            return Err(not_running());
        }
        let run = engine.paths.container_run(&record.id);
        let plan: Spec = read_json(&run.join("config.json"))?.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("the run state of container `{}` is gone", record.name))
        })?;
        Ok(Live {
            engine,
            record,
            pid: process.pid,
            cgroup: process.cgroup.as_ref().map(|path| cgroup::detect().cgroup(path, &[])),
            plan,
            devices: read_json(&file(engine, record))?.unwrap_or_default(),
        })
    }

    fn root(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/root", self.pid);
        rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(|| format!("cannot open `{path}`"))
    }

    /// Whether the container's `/dev` is the host's own: nodes are there already then.
    fn shares_dev(&self) -> bool {
        let device = |path: &str| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
        let theirs = device(&format!("/proc/{}/root/dev", self.pid));
        theirs.is_some() && theirs == device("/dev")
    }

    fn set_rule(&mut self, device: &ResolvedDevice, allow: bool) -> Result<()> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        if self.record.spec.privileged {
            return Ok(());
        }
        let rule = Rule::of(device, allow);
        self.devices.rules.retain(|had| (had.kind, had.major, had.minor) != number(device));
        self.devices.rules.push(rule.clone());
        let resources = self.plan.linux().as_ref().and_then(|linux| linux.resources().clone());
        let mut all = resources.as_ref().map(device_rules).unwrap_or_default();
        if all.is_empty() {
            return Ok(()); // nothing is denied
        }
        all.extend(self.devices.rules.iter().map(Rule::device_rule));
        Ok(cgroup.change_devices(&rule.device_rule(), &all)?)
    }

    /// Gives a device: it may be used, and its node is there.
    fn attach(&mut self, root: &HostRoot, device: &ResolvedDevice, by_command: bool) -> Result<()> {
        self.set_rule(device, true)?;
        if !self.shares_dev() {
            self.make_node(device).within(|| format!("cannot make `{}` in the container", device.path))?;
        }
        self.devices.nodes.retain(|had| had.path != device.path);
        self.devices.nodes.push(Node {
            path: device.path.clone(),
            kind: device.kind,
            major: device.major,
            minor: device.minor,
            by_command,
            properties: udev::properties(root, device),
        });
        self.tell("add", self.devices.nodes.len() - 1);
        Ok(())
    }

    /// Tells programs inside that listen to udev. With the host's network they hear udev itself.
    fn tell(&self, action: &str, at: usize) {
        let Some(node) = self.devices.nodes.get(at).filter(|node| !node.properties.is_empty()) else {
            return;
        };
        let path = format!("/proc/{}/ns/net", self.pid);
        let link = |path: &str| std::fs::read_link(path).ok();
        if link(&path) == link("/proc/self/ns/net") {
            return;
        }
        // A program that misses the news still finds the node.
        let _ = namespace::open(&path)
            .and_then(|namespace| uevent::tell(namespace.as_fd(), &udev::message(action, &node.properties)));
    }

    fn make_node(&self, device: &ResolvedDevice) -> Result<()> {
        let root = self.root()?;
        let (parent, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
        let directory =
            inside::make_directory(root.as_fd(), if parent.is_empty() { "/" } else { parent }, (0, 0))?;
        if self.engine.rootless {
            return self.bind_node(device, directory.as_fd(), name);
        }
        let kind = if device.kind == 'b' { FileType::BlockDevice } else { FileType::CharacterDevice };
        let number = rustix::fs::makedev(device.major as u32, device.minor as u32);
        let umask = rustix::process::umask(Mode::empty());
        let mode = Mode::from_raw_mode(device.mode & 0o7777);
        let mut made = rustix::fs::mknodat(&directory, name, kind, mode, number);
        if made == Err(Errno::EXIST) {
            let had = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let is_node = |stat: &rustix::fs::Stat| {
                matches!(
                    FileType::from_raw_mode(stat.st_mode),
                    FileType::BlockDevice | FileType::CharacterDevice
                )
            };
            made = match had {
                Ok(stat) if is_node(&stat) && stat.st_rdev == number => Ok(()),
                // What was there before it was plugged in again.
                Ok(stat) if is_node(&stat) => rustix::fs::unlinkat(&directory, name, AtFlags::empty())
                    .and_then(|()| rustix::fs::mknodat(&directory, name, kind, mode, number)),
                _ => Err(Errno::EXIST),
            };
        }
        rustix::process::umask(umask);
        made.io_context(|| format!("mknod({})", device.path))?;
        // The process has no group of a device that came later: the node is its own.
        let owner = self.plan.process().as_ref().map_or(device.uid, |process| process.user().uid());
        rustix::fs::chownat(
            &directory,
            name,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(device.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .io_context(|| format!("chown({})", device.path))
    }

    /// In a user namespace no node can be made: the host's is mounted into the running container.
    fn bind_node(&self, device: &ResolvedDevice, directory: BorrowedFd<'_>, name: &str) -> Result<()> {
        let tree = mount::clone_path(&device.host_path, false)?;
        match rustix::fs::openat(
            directory,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        ) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).io_context(|| format!("open({})", device.path)),
        }
        in_mounts_of(self.pid, || {
            let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .io_context(|| "cannot open the container's root".into())?;
            let target = sys_fs::open_in_root(root.as_fd(), &device.path, OFlags::PATH | OFlags::NOFOLLOW)?;
            Ok(mount::attach(tree.as_fd(), target.as_fd())?)
        })
    }

    /// Takes a node away, and the right to use its device where no other node of it is left.
    fn detach(&mut self, path: &str) -> Result<()> {
        let Some(at) = self.devices.nodes.iter().position(|node| node.path == path) else { return Ok(()) };
        self.tell("remove", at);
        let node = self.devices.nodes.remove(at);
        let device = ResolvedDevice {
            path: node.path.clone(),
            host_path: String::new(),
            kind: node.kind,
            major: node.major,
            minor: node.minor,
            mode: 0,
            uid: 0,
            gid: 0,
            permissions: "rwm".into(),
        };
        let is_same = |other: &Node| (other.kind, other.major, other.minor) == number(&device);
        if !self.devices.nodes.iter().any(is_same) {
            self.set_rule(&device, false)?;
        }
        if self.shares_dev() {
            return Ok(());
        }
        if self.engine.rootless {
            let _ = in_mounts_of(self.pid, || Ok(mount::detach(path)?));
        }
        let root = self.root()?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Ok(directory) = sys_fs::open_in_root(root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)
        else {
            return Ok(());
        };
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).io_context(|| format!("unlink({path})")),
        }
    }

    fn save(&self) -> Result<()> {
        save(self.engine, self.record, &self.devices)
    }

    /// Makes the nodes those that the container's selectors mean now.
    fn reconcile(&mut self, root: &HostRoot) -> Result<()> {
        let wanted = selector::select(root, &self.record.spec.robot.selectors)?;
        let before = serde_json::to_string(&self.devices).unwrap_or_default();
        self.devices.held_off.retain(|held| wanted.iter().any(|device| number(device) == *held));
        let is_wanted = |node: &Node| {
            wanted.iter().any(|d| d.path == node.path && number(d) == (node.kind, node.major, node.minor))
        };
        let gone = self.devices.nodes.iter().filter(|node| !node.by_command && !is_wanted(node));
        let gone: Vec<String> = gone.map(|node| node.path.clone()).collect();
        let mut failure = None;
        for path in gone {
            failure = self.detach(&path).err().or(failure);
        }
        for device in &wanted {
            let there = self.devices.nodes.iter().any(|node| node.path == device.path);
            if !there && !self.devices.held_off.contains(&number(device)) {
                failure = self.attach(root, device, false).err().or(failure);
            }
        }
        if serde_json::to_string(&self.devices).unwrap_or_default() != before {
            self.save()?;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Does something in the mount namespace of a container's process, where a mount can only be changed. This
/// process has one thread.
pub(super) fn in_mounts_of<T>(pid: i32, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = namespace::open("/proc/self/ns/mnt")?;
    let here = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .io_context(|| "cannot open the working directory".into())?;
    let theirs = namespace::open(&format!("/proc/{pid}/ns/mnt"))?;
    namespace::join(theirs.as_fd(), libc::CLONE_NEWNS)?;
    let done = act();
    namespace::join(own.as_fd(), libc::CLONE_NEWNS)?;
    let _ = rustix::process::fchdir(&here);
    done
}

impl Engine {
    /// Gives a running container the devices that `wanted` means now: the paths of the nodes.
    ///
    /// # Errors
    /// `NotFound` where there is no such device, `Conflict` where the container does not run.
    pub fn attach_device(&self, text: &str, wanted: &DeviceSelector) -> Result<Vec<String>> {
        let root = host_root(&self.session);
        let found = selector::select(&root, std::slice::from_ref(wanted))?;
        if found.is_empty() {
            return Err(Error::not_found(format!(
                "cannot attach device `{}`: there is none now",
                shown(&wanted.what)
            ))
            .with_hint("`device ls` shows this host's devices"));
        }
        if let Some(device) = found.iter().find(|device| self.rootless && is_closed(device)) {
            return Err(Error::new(Kind::Denied, closed(&device.host_path)).with_hint(OPEN_IT))
                .within(|| format!("cannot attach device `{}` to container `{text}`", shown(&wanted.what)));
        }
        self.change_devices(text, |live| {
            for device in &found {
                live.devices.held_off.retain(|held| *held != number(device));
                live.attach(&root, device, true)?;
            }
            Ok(found.iter().map(|device| device.path.clone()).collect())
        })
        .within(|| format!("cannot attach device `{}` to container `{text}`", shown(&wanted.what)))
    }

    /// Takes devices from a running container: by a node's path, or by what they are. Those of its
    /// selectors stay away until they are plugged in again.
    ///
    /// # Errors
    /// `NotFound` where the container has no such device from a selector or a command.
    pub fn detach_device(&self, text: &str, what: &str) -> Result<Vec<String>> {
        let root = host_root(&self.session);
        let parsed = Selector::parse(what);
        let found: Vec<(char, i64, i64)> = match &parsed {
            Ok(Some(selector)) => {
                selector::find(&root, selector).iter().map(|found| number(&found.node)).collect()
            }
            Ok(None) | Err(_) => Vec::new(),
        };
        // A name that was given with `name=`.
        let alias = format!("/dev/{what}");
        self.change_devices(text, |live| {
            let nodes = live.devices.nodes.iter();
            let by_path = nodes.filter(|node| node.path == what || (parsed.is_err() && node.path == alias));
            let mut numbers: Vec<_> = by_path.map(|node| (node.kind, node.major, node.minor)).collect();
            numbers.extend(&found);
            let nodes = live.devices.nodes.iter().filter(|n| numbers.contains(&(n.kind, n.major, n.minor)));
            let paths: Vec<String> = nodes.map(|node| node.path.clone()).collect();
            if let (true, Err(error)) = (paths.is_empty(), parsed) {
                return Err(error);
            }
            if paths.is_empty() {
                return Err(Error::not_found(
                    "the container has no such device from a selector or a command",
                ));
            }
            live.devices.held_off.extend(numbers);
            paths.iter().try_for_each(|path| live.detach(path))?;
            Ok(paths)
        })
        .within(|| format!("cannot detach device `{what}` from container `{text}`"))
    }

    fn change_devices(
        &self,
        text: &str,
        act: impl FnOnce(&mut Live<'_>) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        let id = self.records.find(text)?;
        let _lock = self.records.lock(&id)?;
        let container = self.container_by_id(&id)?;
        let mut live = Live::open(self, &container)?;
        let done = act(&mut live);
        // What was done is written down, whatever came after it.
        live.save()?;
        done
    }
}

/// Watches devices come and go for a container with selectors.
pub(crate) struct Hotplug<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    session: &'a Session,
    socket: UeventSocket,
    /// When to look, the next one last.
    looks: Vec<Instant>,
}

impl<'a> Hotplug<'a> {
    /// `None` for a container without selectors, or where the kernel tells nothing.
    pub(crate) fn of(
        engine: &'a Engine,
        record: &'a ContainerRecord,
        session: &'a Session,
    ) -> Option<Hotplug<'a>> {
        if record.spec.robot.selectors.is_empty() {
            return None;
        }
        let socket = UeventSocket::open().ok()?;
        let mut hotplug = Hotplug { engine, record, session, socket, looks: Vec::new() };
        // What came between the start's look and this socket.
        hotplug.schedule();
        Some(hotplug)
    }

    fn schedule(&mut self) {
        let now = Instant::now();
        self.looks = LOOKS.iter().rev().map(|pause| now + *pause).collect();
    }

    fn look(&self) -> Result<()> {
        let _lock = self.engine.records.lock(&self.record.id)?;
        let container = self.engine.records.load(&self.record.id)?;
        Live::open(self.engine, &container)?.reconcile(&host_root(self.session))
    }
}

impl Aside for Hotplug<'_> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn deadline(&self) -> Option<Instant> {
        self.looks.last().copied()
    }

    fn wake(&mut self) {
        let mut news = false;
        loop {
            match self.socket.receive() {
                Ok(Some(event)) => news |= !UNRELATED.contains(&event.subsystem.as_str()),
                Ok(None) => break,
                // Some were lost.
                Err(error) if error.errno() == Errno::NOBUFS => news = true,
                Err(_) => break,
            }
        }
        if news {
            self.schedule();
        }
        let now = Instant::now();
        let before = self.looks.len();
        while self.looks.last().is_some_and(|look| *look <= now) {
            self.looks.pop();
        }
        if self.looks.len() < before {
            // A device that cannot be given now is tried again at the next look or news.
            let _ = self.look();
        }
    }
}
