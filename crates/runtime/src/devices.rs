//! What is in the container's `/dev`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Spec};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::mount;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::mounts::{Root, split};

/// Device nodes of every container (runtime-spec, config-linux.md, "Default Devices"): path, major,
/// minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// A device node to make.
struct Node<'a> {
    path: &'a str,
    kind: FileType,
    number: u64,
    mode: u32,
    owner: (u32, u32),
}

/// Fills `/dev`, unless the whole of it is a bind of the host's.
pub(crate) fn populate_dev(root: &Root, spec: &Spec, linux: &Linux) -> Result<()> {
    let bound = spec.mounts().iter().flatten().any(|m| {
        let binds = |o: &String| o == "bind" || o == "rbind";
        m.destination().as_os_str() == "/dev"
            && (m.typ().as_deref() == Some("bind") || m.options().iter().flatten().any(binds))
    });
    if bound {
        return Ok(());
    }
    let dev = root.open_or_make("/dev", true, ResolveFlags::NO_SYMLINKS)?;
    // A mode that the node gets as it is made needs no second look at a name that somebody else, in
    // a shared volume, may have given to something else.
    let umask = rustix::process::umask(Mode::empty());
    for (path, major, minor) in DEVICES {
        let number = rustix::fs::makedev(major, minor);
        make(root, &Node { path, kind: FileType::CharacterDevice, number, mode: 0o666, owner: (0, 0) })?;
    }
    for device in linux.devices().iter().flatten() {
        add(root, device).within(|| format!("cannot make device `{}`", device.path().display()))?;
    }
    rustix::process::umask(umask);
    let ptmx = root.resolve("/dev/pts/ptmx", OFlags::PATH, ResolveFlags::empty()).is_ok();
    for (name, target) in LINKS.into_iter().chain(ptmx.then_some(("ptmx", "pts/ptmx"))) {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(errno) => return Err(errno).io_context(|| format!("cannot make `/dev/{name}`")),
        }
    }
    Ok(())
}

fn add(root: &Root, device: &LinuxDevice) -> Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    make(
        root,
        &Node {
            path: &device.path().to_string_lossy(),
            kind,
            number: rustix::fs::makedev(device.major() as u32, device.minor() as u32),
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        },
    )
}

fn make(root: &Root, node: &Node<'_>) -> Result<()> {
    let Node { path, kind, number, mode, owner } = *node;
    let (parent, name) = split(path);
    let parent = root.open_or_make(parent, true, ResolveFlags::empty())?;
    match rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(mode), number) {
        Ok(()) => {
            if owner != (0, 0) {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .io_context(|| format!("chown({path})"))?;
            }
            Ok(())
        }
        Err(Errno::EXIST) => match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == number => Ok(()),
            // A bind that the spec has put there, or what the image has if `/dev` is the image's:
            // never a link.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink => Ok(()),
            _ => Err(Error::new(Kind::Denied, format!("`{path}` in the image is a symbolic link"))),
        },
        // In a user namespace nodes cannot be made: the host's are bound.
        Err(Errno::PERM | Errno::ACCESS) => bind(root, node),
        Err(errno) => Err(errno).io_context(|| format!("mknod({path}, {kind:?}, {number:#x})")),
    }
}

fn bind(root: &Root, node: &Node<'_>) -> Result<()> {
    let tree = mount::clone_path(node.path, false)?;
    let stat = rustix::fs::fstat(&tree).io_context(|| format!("stat({})", node.path))?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind || stat.st_rdev != node.number {
        return Err(Error::new(Kind::Denied, format!("`{}` of the host is another device", node.path)));
    }
    let target = root.open_or_make(node.path, false, ResolveFlags::NO_SYMLINKS)?;
    Ok(mount::attach(tree.as_fd(), target.as_fd())?)
}

/// Binds a terminal's slave over `/dev/console`.
pub(crate) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    let target = root.open_or_make("/dev/console", false, ResolveFlags::NO_SYMLINKS)?;
    let tree = mount::clone_tree(slave, "", false)?;
    Ok(mount::attach(tree.as_fd(), target.as_fd())?)
}

/// The host's `/dev/null`, checked to be one, to mask files with (CVE-2025-31133).
pub(crate) fn host_null() -> Result<OwnedFd> {
    let fd = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .io_context(|| "cannot open `/dev/null`".into())?;
    let stat = rustix::fs::fstat(&fd).io_context(|| "cannot look at `/dev/null`".into())?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(fd)
    } else {
        Err(Error::new(Kind::Denied, "`/dev/null` of the host is not the null device"))
    }
}
