//! `create` and `run`.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::{process, socket};

use super::arguments::{Arguments, Flag};
use super::records::{self, Directory, Record};
use super::{Global, control, foreground};
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
    let hierarchies = records::hierarchies();
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let cgroup = hierarchies.is_writable().then(|| cgroup_path(wanted, id, global.systemd)).transpose()?;

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

/// Where a container's cgroup is: what the spec says, else its id. systemd's form
/// `slice:prefix:name` becomes the path that systemd would have made.
fn cgroup_path(wanted: Option<&PathBuf>, id: &str, systemd: bool) -> Result<String> {
    let Some(wanted) = wanted.map(|p| p.to_string_lossy().into_owned()).filter(|p| !p.is_empty()) else {
        return Ok(format!("/{id}"));
    };
    let path = match wanted.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if systemd || !wanted.starts_with('/') => {
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            let unit = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
            let unit = if unit.rsplit_once('.').is_some_and(|(_, kind)| kind == "slice") {
                unit
            } else {
                format!("{unit}.scope")
            };
            format!("{}/{unit}", slice_path(slice))
        }
        _ if wanted.starts_with('/') => wanted.clone(),
        _ => format!("/{wanted}"),
    };
    if path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("invalid cgroup path `{wanted}`")));
    }
    Ok(path)
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
            assert_eq!(cgroup_path(wanted.map(PathBuf::from).as_ref(), "x", systemd).unwrap(), want);
        }
        assert!(cgroup_path(Some(&PathBuf::from("/a/../b")), "x", false).is_err());
    }
}
