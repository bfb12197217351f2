//! `create` and `run`.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies};
use robot_env_sys::{process, socket};

use super::arguments::{Arguments, Flag};
use super::records::{self, Directory, Record};
use super::{Global, control, foreground};
use crate::systemd::{Manager, Placeholder, Scope};
use crate::{Console, Create, Created, Rootfs, Stdio, create as make};

const FLAGS: &[Flag] = &[
    Flag::value("bundle").short('b'),
    Flag::value("console-socket"),
    Flag::value("pid-file"),
    Flag::value("preserve-fds"),
    Flag::switch("no-pivot"),
    Flag::switch("no-new-keyring"),
    Flag::switch("detach").short('d'),
    Flag::switch("keep"),
    Flag::switch("no-subreaper"),
    Flag::value("pidfd-socket"),
];

/// How a container is made.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// It waits for `start`.
    Create,
    /// It is started, and left.
    Detached,
    /// It is started, and attended.
    Attached,
}

/// A container that waits for its start, with its directory.
struct Made {
    directory: Directory,
    record: Record,
    created: Created,
    spec: Spec,
}

pub(super) fn create(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, FLAGS, false)?;
    let id = arguments.only_id()?.to_owned();
    prepare(global, &arguments, &id, Way::Create).within(|| format!("cannot create container `{id}`"))?;
    Ok(0)
}

pub(super) fn run(global: &Global, args: &[OsString]) -> Result<i32> {
    let arguments = Arguments::parse(args, FLAGS, false)?;
    let id = arguments.only_id()?.to_owned();
    let detach = arguments.has("detach");
    let way = if detach { Way::Detached } else { Way::Attached };
    if !detach && !arguments.has("no-subreaper") {
        process::become_subreaper()?;
    }
    let made = prepare(global, &arguments, &id, way).within(|| format!("cannot run container `{id}`"))?;
    let Made { directory, record, created, spec } = made;
    let running = match created.start() {
        Ok(running) => running,
        Err(error) => {
            control::clean_up(&directory, &record)?;
            return Err(error.within(format!("cannot run container `{id}`")));
        }
    };
    control::after_start(&directory, &record, &spec);
    if detach {
        return Ok(0);
    }
    let code = foreground::attend(&running.pidfd, running.master)?;
    if !arguments.has("keep") {
        control::clean_up(&directory, &record)?;
    }
    Ok(code)
}

fn prepare(global: &Global, arguments: &Arguments, id: &str, way: Way) -> Result<Made> {
    let socket = arguments.value("console-socket").map(Path::new);
    if arguments.has("no-pivot") {
        return Err(Error::new(Kind::Unsupported, "`--no-pivot` is not supported: it gives up isolation"));
    }
    let bundle = arguments.value("bundle").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let bundle =
        fs::canonicalize(&bundle).io_context(|| format!("cannot open bundle `{}`", bundle.display()))?;
    let spec = records::read_spec(&bundle.join("config.json"))?;
    if !spec.version().starts_with("1.") {
        return Err(Error::new(
            Kind::Unsupported,
            format!("unknown runtime spec version `{}`", spec.version()),
        ));
    }
    let terminal = spec.process().as_ref().is_some_and(|p| p.terminal().unwrap_or(false));
    match (terminal, socket) {
        (true, None) if way != Way::Attached => {
            return Err(Error::invalid("a terminal needs `--console-socket`"));
        }
        (false, Some(_)) => return Err(Error::invalid("`--console-socket` needs process.terminal")),
        _ => {}
    }
    let root = spec.root().as_ref().ok_or_else(|| Error::invalid("the runtime spec has no root"))?;
    let rootfs = bundle.join(root.path());
    let rootfs = fs::canonicalize(&rootfs).io_context(|| format!("cannot open `{}`", rootfs.display()))?;
    let mut hierarchies = records::hierarchies();
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let wanted = wanted.map(|path| path.to_string_lossy().into_owned()).filter(|path| !path.is_empty());
    let manager = if global.systemd { Manager::of_caller() } else { None };
    let slice = default_slice(manager);
    let unit = wanted.as_deref().filter(|_| manager.is_some()).and_then(|wanted| Unit::parse(wanted, slice));
    let unit = unit.filter(|unit| unit.name.ends_with(".scope"));
    let may = hierarchies.is_writable() && (unit.is_some() || !hierarchies.is_outside());
    let mut cgroup = may.then(|| cgroup_path(wanted.as_deref(), id, global.systemd, slice)).transpose()?;

    let directory = Directory::make(&global.root, id)?;
    let mut undo = Undo(Some(&directory));
    directory.write(
        "config.json",
        &fs::read(bundle.join("config.json")).io_context(|| "read(config.json)".into())?,
    )?;
    let gate = match way {
        Way::Create => Some(socket::listen_at(directory.open()?.as_fd(), "gate.sock")?),
        Way::Detached | Way::Attached => None,
    };
    // What the scope begins with stays until the container is in it.
    let _beginning = match (unit, manager, &mut cgroup) {
        (Some(unit), Some(manager), Some(path)) => {
            let beginning = unit.begin(manager, id, &hierarchies)?;
            if hierarchies.is_outside() {
                hierarchies = records::hierarchies();
            }
            path.push_str("/container");
            Some(beginning)
        }
        _ => None,
    };
    let created = make(Create {
        id,
        spec: &spec,
        bundle: &bundle,
        anchor: &rootfs,
        rootfs: Rootfs::Path(rootfs.clone()),
        console: console(spec.process().as_ref(), terminal)?,
        cgroup: cgroup.as_deref().map(|path| (&hierarchies, path)),
        seccomp_cache: Some(&global.root),
        preserve_fds: arguments.number("preserve-fds")?.unwrap_or(0),
        init: false,
        gate,
    })?;
    let record = Record {
        id: id.to_owned(),
        pid: created.pid,
        start_time: process::start_time(created.pid).unwrap_or(0),
        bundle: bundle.clone(),
        cgroup,
        created: jiff::Timestamp::now().to_string(),
        owner: rustix::process::getuid().as_raw(),
    };
    let mut finish = || -> Result<()> {
        directory.write("state.json", &serde_json::to_vec(&record).unwrap_or_default())?;
        if let (Some(path), Some(master)) = (socket, &created.master) {
            send_master(path, master)?;
        }
        if let Some(path) = arguments.value("pid-file") {
            write_pid(Path::new(path), created.pid)?;
        }
        undo.0 = None;
        Ok(())
    };
    let finished = finish();
    drop(undo);
    match finished {
        Ok(()) => Ok(Made { directory, record, created, spec }),
        Err(error) => {
            let _ = process::signal(&created.pidfd, libc::SIGKILL);
            let _ = process::wait(&created.pidfd);
            if let Some(cgroup) = &created.cgroup {
                cgroup.remove();
            }
            directory.remove()?;
            Err(error)
        }
    }
}

/// Removes the directory unless it is taken out.
struct Undo<'a>(Option<&'a Directory>);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(directory) = self.0 {
            let _ = directory.remove();
        }
    }
}

/// The streams of a new process: this one's own, or a terminal.
pub(super) fn console(process: Option<&oci_spec::runtime::Process>, terminal: bool) -> Result<Console> {
    if terminal {
        let size = process.and_then(oci_spec::runtime::Process::console_size);
        let size = size.map(|size| (size.height() as u16, size.width() as u16));
        return Ok(Console::Terminal { size: size.unwrap_or((0, 0)) });
    }
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).io_context(|| "cannot copy a standard stream".into())
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    Ok(Console::Pipes(Stdio {
        stdin: copy(stdin.as_fd())?,
        stdout: copy(stdout.as_fd())?,
        stderr: copy(stderr.as_fd())?,
    }))
}

/// Sends a terminal's master over the socket at `path` (runc's `docs/terminals.md`).
pub(super) fn send_master(path: &Path, master: &OwnedFd) -> Result<()> {
    let connect = || -> Result<OwnedFd> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| Error::invalid("it has no file name"))?;
        Ok(socket::connect_at(robot_env_sys::fs::open_directory(parent)?.as_fd(), name)?)
    };
    let socket = connect().within(|| format!("cannot reach console socket `{}`", path.display()))?;
    // Whoever gets it expects a descriptor like any other.
    rustix::io::ioctl_fionbio(master, false).io_context(|| "ioctl(FIONBIO)".into())?;
    Ok(socket::send_with_fd(&socket, b"/dev/ptmx", Some(master.as_fd()))?)
}

pub(super) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}"));
    fs::write(&temporary, pid.to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .io_context(|| format!("cannot write `{}`", path.display()))
}

/// systemd's form of `linux.cgroupsPath`: `slice:prefix:name`.
struct Unit {
    slice: String,
    /// `prefix-name.scope`, or a slice's name.
    name: String,
}

impl Unit {
    fn parse(wanted: &str, default_slice: &str) -> Option<Unit> {
        let [slice, prefix, name] = wanted.split(':').collect::<Vec<_>>()[..] else { return None };
        let slice = if slice.is_empty() { default_slice } else { slice };
        let unit = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
        let is_slice = unit.rsplit_once('.').is_some_and(|(_, kind)| kind == "slice");
        let name = if is_slice { unit } else { format!("{unit}.scope") };
        Some(Unit { slice: slice.to_owned(), name })
    }

    fn path(&self) -> String {
        format!("{}/{}", slice_path(&self.slice), self.name)
    }

    /// Has systemd make the scope. What is directly in it, its limits too, stays systemd's, which
    /// writes them anew whenever it reads its units; so the container gets a cgroup below.
    fn begin(&self, manager: Manager, id: &str, hierarchies: &Hierarchies) -> Result<Beginning> {
        // Who is outside can put no process into the scope, and so begins it: what it clones is in it.
        let placeholder = if hierarchies.is_outside() { None } else { Some(Placeholder::new()?) };
        let pid = placeholder.as_ref().map_or_else(std::process::id, Placeholder::pid);
        manager.start(&Scope {
            name: &self.name,
            slice: Some(&self.slice),
            description: &format!("robot-env: container {id}"),
            pid,
        })?;
        let cgroup = hierarchies.cgroup(&format!("{}/begin", self.path()), &[]);
        let beginning = Beginning { placeholder, cgroup };
        beginning.cgroup.shelter(pid.cast_signed())?;
        Ok(beginning)
    }
}

/// What keeps a scope until the container does. Dropped, it is gone, unless it is the caller itself.
struct Beginning {
    placeholder: Option<Placeholder>,
    cgroup: Cgroup,
}

impl Drop for Beginning {
    fn drop(&mut self) {
        drop(self.placeholder.take());
        self.cgroup.remove();
    }
}

/// Where a container's cgroup is: what the spec says, else its id. A [`Unit`] is where systemd makes
/// it.
fn cgroup_path(wanted: Option<&str>, id: &str, systemd: bool, slice: &str) -> Result<String> {
    let Some(wanted) = wanted else { return Ok(format!("/{id}")) };
    let path = match Unit::parse(wanted, slice) {
        Some(unit) if systemd || !wanted.starts_with('/') => unit.path(),
        _ if wanted.starts_with('/') => wanted.to_owned(),
        _ => format!("/{wanted}"),
    };
    if path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("invalid cgroup path `{wanted}`")));
    }
    Ok(path)
}

/// Where a unit is that names no slice (runc's `systemd.md`).
fn default_slice(manager: Option<Manager>) -> &'static str {
    match manager {
        Some(Manager::User(_)) => "user.slice",
        _ => "system.slice",
    }
}

/// `a-b.slice` is below `a.slice`; `-.slice` is the root.
fn slice_path(slice: &str) -> String {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = String::new();
    let mut so_far = String::new();
    for part in name.split('-').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push_str(&format!("/{so_far}.slice"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_where_the_spec_says() {
        for (wanted, systemd, want) in [
            (None, false, "/x"),
            (Some("/docker/x"), false, "/docker/x"),
            (Some("docker/x"), false, "/docker/x"),
            (Some("system.slice:docker:x"), true, "/system.slice/docker-x.scope"),
            (Some(":docker:x"), true, "/system.slice/docker-x.scope"),
            (Some("a-b.slice:cri:x"), true, "/a.slice/a-b.slice/cri-x.scope"),
            (Some("-.slice:p:x"), true, "/p-x.scope"),
        ] {
            assert_eq!(cgroup_path(wanted, "x", systemd, "system.slice").unwrap(), want);
        }
        assert!(cgroup_path(Some("/a/../b"), "x", false, "system.slice").is_err());
        let users = default_slice(Some(Manager::User(1000)));
        assert_eq!(cgroup_path(Some(":libpod:x"), "x", true, users).unwrap(), "/user.slice/libpod-x.scope");
    }
}
