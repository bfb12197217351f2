//! Control groups, version 1 and 2: find, make, limit, enter, freeze, kill, count, remove.
//!
//! A cgroup is named by its path below the hierarchies' mount points (`/robot-env/<id>`). What is
//! written into which file is decided above; here are only the mechanics.
//!
//! Moving a process by `cgroup.procs` takes a lock that waits for an RCU grace period, 15 to 28 ms
//! on a quiet machine. A process that is born into its cgroup (clone3, version 2) or that moves its
//! own single thread (`0` into `tasks`, version 1; kernel/cgroup/cgroup.c,
//! `cgroup_procs_write_start`) does not take it.

mod devices;
mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use self::devices::DeviceRule;
pub use self::usage::Usage;
use crate::{CallError, CallResult, ErrnoContext};

/// Which control groups are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Controllers on separate hierarchies.
    V1,
    /// The unified hierarchy with controllers.
    V2,
    /// Nothing usable is mounted.
    None,
}

/// The hierarchies of this machine as this process sees them.
#[derive(Clone, Debug)]
pub struct Hierarchies {
    version: Version,
    /// Controller to the directory of the hierarchy's mount point (version 1), or `""` to the
    /// unified one.
    mounts: BTreeMap<String, PathBuf>,
    /// Below which cgroups are made: empty, or a delegated cgroup.
    base: String,
    writable: bool,
    /// Whether `base` is somebody else's to move this process into.
    outside: bool,
    /// Whether version 1 cgroups are made in every hierarchy.
    everywhere: bool,
}

/// Controllers of version 1 that every container is put into; others only when a limit needs them.
const ALWAYS: [&str; 5] = ["devices", "memory", "pids", "freezer", "cpuacct"];

/// Finds the hierarchies.
pub fn detect() -> Hierarchies {
    let mountinfo = crate::fs::kernel_text("/proc/self/mountinfo").unwrap_or_default();
    let own = crate::fs::kernel_text("/proc/self/cgroup").unwrap_or_default();
    let (version, mounts) = parse_mounts(&mountinfo, |unified| {
        fs::read_to_string(unified.join("cgroup.controllers"))
            .is_ok_and(|text| text.split_whitespace().any(|c| c == "pids" || c == "memory"))
    });
    let mut found = Hierarchies {
        version,
        mounts,
        base: String::new(),
        writable: false,
        outside: false,
        everywhere: false,
    };
    found.writable = match version {
        Version::None => false,
        Version::V1 => {
            ["pids", "devices"].iter().filter_map(|c| found.mounts.get(*c)).all(|dir| is_writable(dir))
        }
        Version::V2 => {
            let root = found.mounts[""].clone();
            if is_writable(&root) {
                true
            } else if let Some((base, inside)) = delegated(&own, &root) {
                found.base = base;
                found.outside = !inside;
                true
            } else {
                false
            }
        }
    };
    found
}

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The cgroup that systemd has delegated to the user's session manager, if it can be written, and
/// whether this process is in it.
fn delegated(own: &str, root: &Path) -> Option<(String, bool)> {
    let (base, inside) = session_manager(own)?;
    let directory = root.join(base.trim_start_matches('/'));
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).ok()?;
    (is_writable(&directory) && controllers.split_whitespace().any(|c| c == "pids")).then_some((base, inside))
}

/// The cgroup of the user's session manager by the text of `/proc/self/cgroup`, and whether this
/// process is in it. One outside of it (a login by ssh: `session-3.scope`) cannot be moved into it,
/// nor can its children, but by systemd.
fn session_manager(own: &str) -> Option<(String, bool)> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    if let Some(at) = path.find("/user@") {
        let end = path[at + 1..].find('/').map_or(path.len(), |end| at + 1 + end);
        return Some((path[..end].to_owned(), true));
    }
    let (above, below) = path.split_once("/user-")?;
    let user = &below[..below.find(".slice/")?];
    user.parse::<u32>().is_ok().then(|| (format!("{above}/user-{user}.slice/user@{user}.service"), false))
}

/// Reads mountinfo (proc(5)). `has_controllers` says whether the unified hierarchy at a path has
/// any that matter: a mounted one without is not in use.
fn parse_mounts(
    mountinfo: &str,
    has_controllers: impl Fn(&Path) -> bool,
) -> (Version, BTreeMap<String, PathBuf>) {
    let (mut v1, mut unified) = (BTreeMap::new(), None);
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        match (right.next(), right.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                for option in options
                    .split(',')
                    .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix"))
                {
                    v1.entry(option.to_owned()).or_insert_with(|| PathBuf::from(point));
                }
            }
            (Some("cgroup2"), _) => unified = unified.or(Some(PathBuf::from(point))),
            _ => {}
        }
    }
    match unified {
        Some(point) if !v1.contains_key("pids") && !v1.contains_key("memory") && has_controllers(&point) => {
            (Version::V2, BTreeMap::from([(String::new(), point)]))
        }
        _ if v1.contains_key("devices") || v1.contains_key("pids") => (Version::V1, v1),
        _ => (Version::None, BTreeMap::new()),
    }
}

/// A value for a file of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `memory`, `pids`, ...
    pub controller: &'static str,
    /// The file's name.
    pub file: String,
    /// What is written.
    pub value: String,
    /// Whether a missing file or controller is no failure.
    pub optional: bool,
}

/// One cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    version: Version,
    path: String,
    /// Controller to directory; the same directory may stand for several.
    directories: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    /// Which are in use.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The controllers that cgroups made here can have (version 2).
    pub fn controllers(&self) -> Option<Vec<String>> {
        let root = self.mounts.get("").filter(|_| self.version == Version::V2)?;
        let path = root.join(self.base.trim_start_matches('/')).join("cgroup.controllers");
        Some(fs::read_to_string(path).ok()?.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether cgroups can be made here.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether this process must be moved by systemd before it can put others into them.
    pub fn is_outside(&self) -> bool {
        self.outside
    }

    /// The same hierarchies for one who makes no cgroup.
    #[must_use]
    pub fn untouched(mut self) -> Self {
        self.writable = false;
        self
    }

    /// The same hierarchies, but version 1 cgroups are made in all of them, not only in those that
    /// are needed: for callers that look for a process's numbers below each.
    #[must_use]
    pub fn with_every_controller(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// Controllers and where their hierarchies are mounted (version 1).
    pub fn mounts(&self) -> &BTreeMap<String, PathBuf> {
        &self.mounts
    }

    /// The cgroup at `path` with the controllers that every container has and those of `extra`;
    /// nothing is made or checked.
    pub fn cgroup(&self, path: &str, extra: &[&str]) -> Cgroup {
        let below = format!("{}/{}", self.base, path.trim_start_matches('/'));
        let below = below.trim_start_matches('/');
        let directories = match self.version {
            Version::None => BTreeMap::new(),
            Version::V2 => BTreeMap::from([(String::new(), self.mounts[""].join(below))]),
            Version::V1 => self
                .mounts
                .iter()
                .filter(|(controller, _)| {
                    let name = controller.as_str();
                    self.everywhere || ALWAYS.contains(&name) || extra.contains(&name)
                })
                .map(|(controller, point)| (controller.clone(), point.join(below)))
                .collect(),
        };
        Cgroup { version: self.version, path: path.to_owned(), directories }
    }

    /// Makes the cgroup at `path` and writes `settings`, in order.
    pub fn create(&self, path: &str, settings: &[Setting]) -> CallResult<Cgroup> {
        let extra: Vec<&str> = settings.iter().map(|s| s.controller).collect();
        let cgroup = self.cgroup(path, &extra);
        let result = self.fill(&cgroup, settings);
        if result.is_err() {
            cgroup.remove();
        }
        result.map(|()| cgroup)
    }

    fn fill(&self, cgroup: &Cgroup, settings: &[Setting]) -> CallResult<()> {
        let mut made: Vec<&PathBuf> = Vec::new();
        for directory in cgroup.directories.values() {
            if !made.contains(&directory) {
                self.make(directory)?;
                made.push(directory);
            }
        }
        if self.version == Version::V1
            && let Some(directory) = cgroup.directories.get("cpuset")
        {
            fill_cpuset(&self.mounts["cpuset"], directory)?;
        }
        settings.iter().try_for_each(|setting| cgroup.set(setting))
    }

    fn make(&self, directory: &Path) -> CallResult<()> {
        match fs::create_dir(directory) {
            Ok(()) => {
                // One above may have been made by somebody else, or systemd has taken back what it
                // passed on.
                if self.version == Version::V2
                    && let Some(parent) = directory.parent()
                    && !fs::read_to_string(directory.join("cgroup.controllers"))
                        .is_ok_and(|text| text.split_whitespace().any(|c| c == "pids"))
                {
                    self.pass_controllers_down(parent);
                }
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(format!("mkdir({})", directory.display()), &error)),
        }
        if let Some(parent) = directory.parent() {
            self.make(parent)?;
            if self.version == Version::V2 {
                self.pass_controllers_down(parent);
            }
        }
        match fs::create_dir(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(io_error(format!("mkdir({})", directory.display()), &error))
            }
            _ => Ok(()),
        }
    }

    /// Version 2: children have a controller only if every parent passes it on.
    fn pass_controllers_down(&self, parent: &Path) {
        let root = &self.mounts[""];
        let mut chain: Vec<&Path> = parent.ancestors().take_while(|p| p.starts_with(root)).collect();
        chain.reverse();
        for directory in chain {
            let have = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
            let passed = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
            for controller in have.split_whitespace().filter(|c| !passed.split_whitespace().any(|p| p == *c))
            {
                // One by one: a controller that cannot be passed on must not keep the others back.
                let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
}

/// Version 1: a cpuset without CPUs and memory nodes takes no process.
fn fill_cpuset(mount: &Path, directory: &Path) -> CallResult<()> {
    let mut chain: Vec<&Path> =
        directory.ancestors().take_while(|p| p.starts_with(mount) && *p != mount).collect();
    chain.reverse();
    for directory in chain {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = directory.join(file);
            let empty = fs::read_to_string(&path).is_ok_and(|text| text.trim().is_empty());
            if empty
                && let Some(Ok(value)) =
                    directory.parent().map(|parent| fs::read_to_string(parent.join(file)))
            {
                write(&path, value.trim())?;
            }
        }
    }
    Ok(())
}

fn io_error(call: String, error: &std::io::Error) -> CallError {
    CallError::new(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

fn write(path: &Path, value: &str) -> CallResult<()> {
    fs::write(path, value).map_err(|error| io_error(format!("write({}, {value:?})", path.display()), &error))
}

impl Cgroup {
    /// Its path below the mount points.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether there is anything behind it.
    pub fn is_usable(&self) -> bool {
        !self.directories.is_empty()
    }

    /// The directory that has a controller's files.
    pub fn directory(&self, controller: &str) -> Option<&Path> {
        let key = if self.version == Version::V2 { "" } else { controller };
        self.directories.get(key).map(PathBuf::as_path)
    }

    /// Writes one setting.
    pub fn set(&self, setting: &Setting) -> CallResult<()> {
        let Some(directory) = self.directory(setting.controller) else {
            if setting.optional {
                return Ok(());
            }
            return Err(CallError::new(format!("write({}: no such controller)", setting.file), Errno::NOENT));
        };
        match write(&directory.join(&setting.file), &setting.value) {
            Err(error)
                if setting.optional
                    && matches!(error.errno(), Errno::NOENT | Errno::ACCESS | Errno::PERM) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Writes settings into an existing cgroup. One that the kernel refuses while another has its
    /// old value (a memory limit above the swap limit) is tried again behind it.
    pub fn update(&self, settings: &[Setting]) -> CallResult<()> {
        let mut again = Vec::new();
        for setting in settings {
            match self.set(setting) {
                Err(error) if matches!(error.errno(), Errno::INVAL | Errno::BUSY) => again.push(setting),
                other => other?,
            }
        }
        again.into_iter().try_for_each(|setting| self.set(setting))
    }

    /// Whether all of its processes are frozen, by [`Cgroup::freeze`] or whoever else.
    pub fn is_frozen(&self) -> bool {
        match self.version {
            Version::V2 => self.number("", "cgroup.freeze") == Some(1),
            _ => self.read("freezer", "freezer.state").is_some_and(|text| text.trim() != "THAWED"),
        }
    }

    /// A descriptor that becomes readable when the kernel may have killed a process for memory, and
    /// (version 1) when the cgroup is removed; [`Cgroup::oom_kills`] says what happened.
    pub fn oom_events(&self) -> CallResult<OwnedFd> {
        let (controller, file) = if self.version == Version::V2 {
            ("", "memory.events")
        } else {
            ("memory", "memory.oom_control")
        };
        let directory = self
            .directory(controller)
            .ok_or_else(|| CallError::new("oom_events(): no memory controller", Errno::NOENT))?;
        let path = directory.join(file);
        if self.version == Version::V2 {
            use rustix::fs::inotify;
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
                .call(|| "inotify_init1()".into())?;
            inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)
                .call(|| format!("inotify_add_watch({})", path.display()))?;
            return Ok(fd);
        }
        use rustix::event::{EventfdFlags, eventfd};
        let event =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call(|| "eventfd2()".into())?;
        let control = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({})", path.display()))?;
        let number = std::os::fd::AsRawFd::as_raw_fd;
        write(&directory.join("cgroup.event_control"), &format!("{} {}", number(&event), number(&control)))?;
        Ok(event)
    }

    /// Reads a controller's file; `None` when it is not there.
    pub fn read(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(controller)?.join(file)).ok()
    }

    /// Reads a number from a controller's file.
    pub fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.read(controller, file)?.trim().parse().ok()
    }

    /// Version 2: the directory, for a process that is to be born into it.
    pub fn birthplace(&self) -> CallResult<Option<OwnedFd>> {
        if self.version != Version::V2 {
            return Ok(None);
        }
        let Some(directory) = self.directories.get("") else { return Ok(None) };
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({})", directory.display()))
            .map(Some)
    }

    /// Moves the calling, single-threaded process in (version 1).
    pub fn enter(&self) -> CallResult<()> {
        if self.version == Version::V2 {
            return Ok(());
        }
        let mut done: Vec<&PathBuf> = Vec::new();
        for directory in self.directories.values() {
            if !done.contains(&directory) {
                write(&directory.join("tasks"), "0")?;
                done.push(directory);
            }
        }
        Ok(())
    }

    /// Makes it without any controller and moves another process in. So that one above, which must
    /// have no process to pass controllers on (version 2), gets rid of its own.
    pub fn shelter(&self, pid: i32) -> CallResult<()> {
        for directory in self.directories.values() {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(io_error(format!("mkdir({})", directory.display()), &error));
                }
                _ => {}
            }
        }
        self.add(pid)
    }

    /// Moves another process in.
    pub fn add(&self, pid: i32) -> CallResult<()> {
        for directory in self.directories.values() {
            write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Freezes or thaws all processes, and waits until they are.
    pub fn freeze(&self, frozen: bool) -> CallResult<()> {
        let (controller, file, value) = match (self.version, frozen) {
            (Version::V2, true) => ("", "cgroup.freeze", "1"),
            (Version::V2, false) => ("", "cgroup.freeze", "0"),
            (_, true) => ("freezer", "freezer.state", "FROZEN"),
            (_, false) => ("freezer", "freezer.state", "THAWED"),
        };
        let Some(directory) = self.directory(controller) else {
            return Err(CallError::new("freeze(): no cgroup", Errno::NOENT));
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            write(&directory.join(file), value)?;
            let done = match self.version {
                Version::V2 => self
                    .read("", "cgroup.events")
                    .is_some_and(|text| text.lines().any(|l| l == format!("frozen {value}"))),
                _ => self.read("freezer", file).is_some_and(|text| text.trim() == value),
            };
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CallError::new(format!("write({file}, {value})"), Errno::TIMEDOUT));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Pids of all processes in it and below it.
    pub fn processes(&self) -> Vec<i32> {
        let controller = if self.version == Version::V2 { "" } else { "pids" };
        let mut pids = Vec::new();
        let Some(directory) = self.directory(controller) else { return pids };
        let mut queue = vec![directory.to_owned()];
        while let Some(directory) = queue.pop() {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            queue.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        pids
    }

    /// Kills every process in it and below it.
    pub fn kill(&self) {
        if self.version == Version::V2
            && let Some(directory) = self.directories.get("")
            && fs::write(directory.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for _ in 0..20 {
            let pids = self.processes();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                if let Ok(pidfd) = crate::process::pidfd_open(pid) {
                    let _ = crate::process::signal(&pidfd, libc::SIGKILL);
                }
            }
            let _ = self.freeze(false);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How many processes the kernel has killed for memory.
    pub fn oom_kills(&self) -> u64 {
        let (controller, file) = if self.version == Version::V2 {
            ("", "memory.events")
        } else {
            ("memory", "memory.oom_control")
        };
        self.read(controller, file)
            .and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            })
            .unwrap_or(0)
    }

    /// Removes it and what is below it. Processes that are just ending are waited for a little.
    pub fn remove(&self) {
        let mut directories: Vec<&PathBuf> = self.directories.values().collect();
        directories.dedup();
        for directory in directories {
            remove_tree(directory);
        }
    }
}

fn remove_tree(directory: &Path) {
    for attempt in 0..50u64 {
        match fs::remove_dir(directory) {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(_) => {
                for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|t| t.is_dir()) {
                        remove_tree(&entry.path());
                    }
                }
                if fs::remove_dir(directory).is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1 + attempt / 5));
            }
        }
    }
}

#[cfg(test)]
mod tests;
