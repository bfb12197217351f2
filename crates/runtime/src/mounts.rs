//! Mounts inside the container, by descriptor: nothing here follows a path of the image outside
//! the root file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Mount, Spec};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies, Version};
use robot_env_sys::mount::{self, Attributes, PropagationFlags};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// The container's root file system, as a descriptor of the mount on its top.
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Root(fd)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens a path inside the root; links are resolved inside it too.
    pub(crate) fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        self.try_open(path, flags).io_context(|| format!("cannot open `{path}` in the container"))
    }

    fn try_open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        loop {
            match rustix::fs::openat2(
                &self.0,
                if path.is_empty() { "." } else { path },
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            ) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens a path by O_PATH; a missing one is made, the directories above it too, as a directory
    /// or as an empty file.
    pub(crate) fn open_or_make(&self, path: &str, directory: bool) -> Result<OwnedFd> {
        match self.try_open(path, OFlags::PATH) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).io_context(|| format!("cannot open `{path}` in the container")),
        }
        let (parent, name) = split(path);
        let parent_fd = if parent.is_empty() { self.open("/", OFlags::PATH)? } else { self.open_or_make(&parent, true)? };
        let make = || format!("cannot make `{path}` in the container");
        if directory {
            match rustix::fs::mkdirat(&parent_fd, name.as_str(), Mode::from(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).io_context(make),
            }
        } else {
            match rustix::fs::openat(
                &parent_fd,
                name.as_str(),
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from(0o644),
            ) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).io_context(make),
            }
        }
        self.open(path, OFlags::PATH)
    }
}

fn split(path: &str) -> (String, String) {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((parent, name)) => (parent.to_owned(), name.to_owned()),
        None => (String::new(), trimmed.to_owned()),
    }
}

/// What mounting needs to know.
pub(crate) struct Environment<'a> {
    pub(crate) root: &'a Root,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) hierarchies: Option<&'a Hierarchies>,
    /// Mounts that become read-only once their inside is complete (`/dev`, `/sys/fs/cgroup`).
    pub(crate) deferred: Vec<OwnedFd>,
}

/// Mount options in the forms that the calls want.
#[derive(Default)]
struct Options {
    set: u32,
    clear: u32,
    recursive_set: u32,
    bind: bool,
    recursive: bool,
    propagation: Option<PropagationFlags>,
    data: Vec<String>,
}

fn parse_options(mount: &Mount) -> Options {
    let mut out = Options::default();
    for option in mount.options().iter().flatten() {
        let attribute = |name: &str| {
            Some(match name {
                "ro" => Attributes::MOUNT_ATTR_RDONLY,
                "nosuid" => Attributes::MOUNT_ATTR_NOSUID,
                "nodev" => Attributes::MOUNT_ATTR_NODEV,
                "noexec" => Attributes::MOUNT_ATTR_NOEXEC,
                "noatime" => Attributes::MOUNT_ATTR_NOATIME,
                "nodiratime" => Attributes::MOUNT_ATTR_NODIRATIME,
                "nosymfollow" => Attributes::MOUNT_ATTR_NOSYMFOLLOW,
                _ => return None,
            })
        };
        let undo = |name: &str| {
            Some(match name {
                "rw" => Attributes::MOUNT_ATTR_RDONLY,
                "suid" => Attributes::MOUNT_ATTR_NOSUID,
                "dev" => Attributes::MOUNT_ATTR_NODEV,
                "exec" => Attributes::MOUNT_ATTR_NOEXEC,
                _ => return None,
            })
        };
        let propagation = |name: &str| {
            let (name, recursive) = name.strip_prefix('r').filter(|n| !n.is_empty()).map_or((name, false), |n| (n, true));
            let flags = match name {
                "private" => PropagationFlags::PRIVATE,
                "shared" => PropagationFlags::SHARED,
                "slave" => PropagationFlags::DOWNSTREAM,
                "unbindable" => PropagationFlags::UNBINDABLE,
                _ => return None,
            };
            Some(if recursive { flags | PropagationFlags::REC } else { flags })
        };
        match option.as_str() {
            "bind" => out.bind = true,
            "rbind" => {
                out.bind = true;
                out.recursive = true;
            }
            "relatime" | "strictatime" | "defaults" | "async" | "sync" | "nofail" | "tmpcopyup" => {}
            "rro" => {
                out.set |= Attributes::MOUNT_ATTR_RDONLY.bits();
                out.recursive_set |= Attributes::MOUNT_ATTR_RDONLY.bits();
            }
            name => {
                if let Some(flags) = propagation(name) {
                    out.propagation = Some(flags);
                } else if let Some(flag) = attribute(name) {
                    out.set |= flag.bits();
                } else if let Some(flag) = undo(name) {
                    out.clear |= flag.bits();
                } else {
                    out.data.push(name.to_owned());
                }
            }
        }
    }
    out
}

impl Environment<'_> {
    /// Mounts one entry of the spec.
    pub(crate) fn mount(&mut self, entry: &Mount) -> Result<()> {
        let destination = entry.destination().to_string_lossy().into_owned();
        let options = parse_options(entry);
        let kind = entry.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
        if matches!(destination.as_str(), "/proc" | "/sys" | "/dev") {
            self.refuse_link(&destination)?;
        }
        if options.bind || kind == "bind" {
            return self.bind(entry, &destination, &options);
        }
        let attributes = Attributes::from_bits_retain(options.set);
        let target = self.root.open_or_make(&destination, true)?;
        let tree = match kind {
            "cgroup" | "cgroup2" => return self.mount_cgroups(&destination, &target, attributes),
            "sysfs" | "mqueue" | "proc" => match mount::filesystem(kind, kind, &options.data, attributes) {
                Ok(tree) => tree,
                // Inside a user namespace these belong to whoever made the namespace that they show.
                Err(error) if kind != "proc" && error.errno() == Errno::PERM => {
                    let path = if kind == "sysfs" { "/sys" } else { "/dev/mqueue" };
                    let tree = mount::clone_path(path, true)?;
                    mount::set_attributes(tree.as_fd(), attributes, Attributes::empty(), None, true)?;
                    tree
                }
                Err(error) => return Err(error.into()),
            },
            _ => {
                let source = entry.source().as_ref().map_or(kind.into(), |s| s.to_string_lossy().into_owned());
                let mut data = options.data.clone();
                if kind == "devpts" && data.iter().any(|o| o.starts_with("gid=")) {
                    match mount::filesystem(kind, &source, &data, attributes) {
                        Ok(tree) => {
                            mount::attach(tree.as_fd(), target.as_fd())?;
                            return Ok(());
                        }
                        // The group is not mapped: without it terminals belong to their user's.
                        Err(_) => data.retain(|o| !o.starts_with("gid=")),
                    }
                }
                let late = destination == "/dev" && attributes.contains(Attributes::MOUNT_ATTR_RDONLY);
                let now = if late { attributes - Attributes::MOUNT_ATTR_RDONLY } else { attributes };
                let tree = mount::filesystem(kind, &source, &data, now)?;
                if late {
                    self.deferred.push(tree.try_clone().io_context(|| "cannot copy a descriptor".into())?);
                }
                tree
            }
        };
        mount::attach(tree.as_fd(), target.as_fd())?;
        Ok(())
    }

    /// A symbolic link where the kernel's file systems belong would let an image choose what is
    /// masked (runc CVE-2019-19921).
    fn refuse_link(&self, path: &str) -> Result<()> {
        match rustix::fs::statat(self.root.fd(), path.trim_start_matches('/'), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                Err(Error::new(Kind::Denied, format!("`{path}` in the image is not a directory")))
            }
            _ => Ok(()),
        }
    }

    fn bind(&self, entry: &Mount, destination: &str, options: &Options) -> Result<()> {
        let source = entry.source().as_ref().ok_or_else(|| Error::invalid("a bind mount needs a source"))?;
        let source = source.to_string_lossy();
        let tree = mount::clone_path(&source, options.recursive)?;
        let stat = rustix::fs::fstat(&tree).io_context(|| format!("cannot look at `{source}`"))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let target = self.root.open_or_make(destination, is_directory)?;
        let target_stat = rustix::fs::fstat(&target).io_context(|| format!("cannot look at `{destination}`"))?;
        if (FileType::from_raw_mode(target_stat.st_mode) == FileType::Directory) != is_directory {
            return Err(Error::invalid(format!(
                "`{source}` is a {} and `{destination}` in the container is not",
                if is_directory { "directory" } else { "file" }
            )));
        }
        let set = Attributes::from_bits_retain(options.set);
        let clear = Attributes::from_bits_retain(options.clear);
        let mut by_remount = false;
        if options.set != 0 || options.clear != 0 {
            let own = Attributes::from_bits_retain(options.set & !options.recursive_set);
            let result = mount::set_attributes(tree.as_fd(), set, clear, None, false).and_then(|()| {
                if options.recursive_set == 0 {
                    return Ok(());
                }
                let _ = own;
                mount::set_attributes(tree.as_fd(), Attributes::from_bits_retain(options.recursive_set), Attributes::empty(), None, true)
            });
            match result {
                Ok(()) => {}
                Err(error) if error.errno() == Errno::NOSYS => by_remount = true,
                Err(error) => return Err(error.into()),
            }
        }
        let propagation = options.propagation.unwrap_or(PropagationFlags::PRIVATE | PropagationFlags::REC);
        let recursive = propagation.contains(PropagationFlags::REC);
        let kind = propagation - PropagationFlags::REC;
        mount::attach(tree.as_fd(), target.as_fd())?;
        // A shared mount that is to stay shared or become a slave is a peer of the host's already.
        match mount::set_attributes(tree.as_fd(), Attributes::empty(), Attributes::empty(), Some(kind), recursive) {
            Ok(()) => {}
            Err(error) if error.errno() == Errno::NOSYS => {}
            Err(error) => return Err(error.into()),
        }
        if by_remount {
            let attached = self.root.open(destination, OFlags::PATH)?;
            let mut flags = MountFlags::empty();
            for (attribute, flag) in [
                (Attributes::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
                (Attributes::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
                (Attributes::MOUNT_ATTR_NODEV, MountFlags::NODEV),
                (Attributes::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
            ] {
                if set.contains(attribute) {
                    flags |= flag;
                }
            }
            mount::remount_bind(attached.as_fd(), flags)?;
        }
        Ok(())
    }

    fn mount_cgroups(&mut self, destination: &str, target: &OwnedFd, attributes: Attributes) -> Result<()> {
        let (Some(hierarchies), Some(cgroup)) = (self.hierarchies, self.cgroup) else { return self.mount_host_cgroups(target, attributes) };
        match hierarchies.version() {
            Version::None => Ok(()),
            Version::V2 => {
                let tree = match mount::filesystem("cgroup2", "cgroup", &[], attributes) {
                    Ok(tree) => tree,
                    Err(error) if error.errno() == Errno::PERM => return self.mount_host_cgroups(target, attributes),
                    Err(error) => return Err(error.into()),
                };
                Ok(mount::attach(tree.as_fd(), target.as_fd())?)
            }
            Version::V1 => {
                let top = mount::filesystem("tmpfs", "cgroup", &["mode=755".into()], attributes - Attributes::MOUNT_ATTR_RDONLY)?;
                mount::attach(top.as_fd(), target.as_fd())?;
                for (controller, point) in hierarchies.mounts() {
                    let Some(directory) = cgroup.directory(controller) else { continue };
                    let name = point.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                    let inside = format!("{}/{name}", destination.trim_end_matches('/'));
                    if name != *controller && !controller.contains('=') {
                        // `cpu -> cpu,cpuacct`, as distributions have it.
                        let _ = rustix::fs::symlinkat(name.as_str(), &top, controller.as_str());
                    }
                    if rustix::fs::statat(&top, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                        continue;
                    }
                    let below = self.root.open_or_make(&inside, true)?;
                    let tree = mount::clone_path(&directory.to_string_lossy(), false)?;
                    mount::set_attributes(tree.as_fd(), attributes, Attributes::empty(), None, false)?;
                    mount::attach(tree.as_fd(), below.as_fd())?;
                }
                if attributes.contains(Attributes::MOUNT_ATTR_RDONLY) {
                    self.deferred.push(top);
                }
                Ok(())
            }
        }
    }

    /// Without a cgroup of its own a container sees the host's, read-only.
    fn mount_host_cgroups(&self, target: &OwnedFd, attributes: Attributes) -> Result<()> {
        let Ok(tree) = mount::clone_path("/sys/fs/cgroup", true) else { return Ok(()) };
        mount::set_attributes(tree.as_fd(), attributes | Attributes::MOUNT_ATTR_RDONLY, Attributes::empty(), None, true)?;
        Ok(mount::attach(tree.as_fd(), target.as_fd())?)
    }

    /// Makes read-only what had to be filled first.
    pub(crate) fn finish(self) -> Result<()> {
        for tree in self.deferred {
            mount::set_attributes(tree.as_fd(), Attributes::MOUNT_ATTR_RDONLY, Attributes::empty(), None, false)?;
        }
        Ok(())
    }
}

/// Device nodes of every container (runtime-spec, config-linux.md, "Default Devices"): path, minor,
/// major.
const DEVICES: [(&str, u32, u32); 6] =
    [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0)];

/// Fills `/dev`, unless the whole of it is a bind of the host's.
pub(crate) fn populate_dev(root: &Root, spec: &Spec, linux: &Linux) -> Result<()> {
    let bound = spec.mounts().iter().flatten().any(|m| {
        m.destination().as_os_str() == "/dev" && (m.typ().as_deref() == Some("bind") || m.options().iter().flatten().any(|o| o.ends_with("bind")))
    });
    if !bound {
        for (path, major, minor) in DEVICES {
            make_device(root, path, FileType::CharacterDevice, (major, minor), 0o666, (0, 0))?;
        }
        let dev = root.open_or_make("/dev", true)?;
        for (target, name) in [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("pts/ptmx", "ptmx"),
            ("/proc/kcore", "core"),
        ] {
            match rustix::fs::symlinkat(target, &dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).io_context(|| format!("cannot make `/dev/{name}`")),
            }
        }
    }
    for device in linux.devices().iter().flatten() {
        add_device(root, device).within(|| format!("cannot make device `{}`", device.path().display()))?;
    }
    Ok(())
}

fn add_device(root: &Root, device: &LinuxDevice) -> Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    let number = (device.major() as u32, device.minor() as u32);
    make_device(root, &device.path().to_string_lossy(), kind, number, device.file_mode().unwrap_or(0o666) & 0o7777, owner)
}

fn make_device(root: &Root, path: &str, kind: FileType, (major, minor): (u32, u32), mode: u32, (uid, gid): (u32, u32)) -> Result<()> {
    let (parent, name) = split(path);
    let parent = root.open_or_make(if parent.is_empty() { "/" } else { &parent }, true)?;
    let number = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(&parent, name.as_str(), kind, Mode::from(mode), number) {
        Ok(()) => {
            rustix::fs::chmodat(&parent, name.as_str(), Mode::from(mode), AtFlags::empty()).io_context(|| format!("chmod({path}, {mode:o})"))?;
            if (uid, gid) != (0, 0) {
                let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
                rustix::fs::chownat(&parent, name.as_str(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .io_context(|| format!("chown({path})"))?;
            }
            Ok(())
        }
        Err(Errno::EXIST) => Ok(()),
        // In a user namespace nodes cannot be made: the host's are bound.
        Err(Errno::PERM | Errno::ACCESS) => {
            let tree = mount::clone_path(path, false)?;
            let stat = rustix::fs::fstat(&tree).io_context(|| format!("stat({path})"))?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
                return Err(Error::new(Kind::Denied, format!("`{path}` of the host is not device {major}:{minor}")));
            }
            let target = root.open_or_make(path, false)?;
            Ok(mount::attach(tree.as_fd(), target.as_fd())?)
        }
        Err(errno) => Err(errno).io_context(|| format!("mknod({path}, {major}:{minor})")),
    }
}

/// Binds a terminal's slave over `/dev/console`.
pub(crate) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    let target = root.open_or_make("/dev/console", false)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&slave));
    // The slave is on the container's own devpts, which is not the procfs path's mount.
    let tree = mount::clone_tree(slave, "", false).or_else(|_| mount::clone_path(&path, false))?;
    Ok(mount::attach(tree.as_fd(), target.as_fd())?)
}

/// The host's `/dev/null`, checked to be one, to mask files with.
pub(crate) fn open_null() -> Result<OwnedFd> {
    let fd = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).io_context(|| "cannot open `/dev/null`".into())?;
    let stat = rustix::fs::fstat(&fd).io_context(|| "cannot look at `/dev/null`".into())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(Error::new(Kind::Denied, "`/dev/null` of the host is not the null device"));
    }
    Ok(mount::clone_tree(fd.as_fd(), "", false)?)
}

/// Hides and protects the paths that the spec names. Called after the pivot.
pub(crate) fn mask(root: &Root, linux: &Linux, null: BorrowedFd<'_>) -> Result<()> {
    for path in linux.readonly_paths().iter().flatten() {
        let Ok(fd) = root.try_open(path, OFlags::PATH) else { continue };
        let tree = mount::clone_tree(fd.as_fd(), "", true).map_err(Error::from).within(|| format!("cannot protect `{path}`"))?;
        mount::set_attributes(tree.as_fd(), Attributes::MOUNT_ATTR_RDONLY, Attributes::empty(), None, true)
            .map_err(Error::from)
            .within(|| format!("cannot protect `{path}`"))?;
        mount::attach(tree.as_fd(), fd.as_fd()).map_err(Error::from).within(|| format!("cannot protect `{path}`"))?;
    }
    for path in linux.masked_paths().iter().flatten() {
        let Ok(fd) = root.try_open(path, OFlags::PATH) else { continue };
        let stat = rustix::fs::fstat(&fd).io_context(|| format!("cannot look at `{path}`"))?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let limits = ["size=0".to_owned(), "nr_inodes=1".to_owned()];
            mount::filesystem("tmpfs", "tmpfs", &limits, Attributes::MOUNT_ATTR_RDONLY)
        } else {
            mount::clone_tree(null, "", false).or_else(|_| mount::clone_path("/dev/null", false))
        };
        cover
            .and_then(|cover| mount::attach(cover.as_fd(), fd.as_fd()))
            .map_err(Error::from)
            .within(|| format!("cannot mask `{path}`"))?;
    }
    Ok(())
}

/// Makes the root file system itself read-only; mounts inside stay as they are.
pub(crate) fn make_read_only(root: BorrowedFd<'_>) -> Result<()> {
    match mount::set_attributes(root, Attributes::MOUNT_ATTR_RDONLY, Attributes::empty(), None, false) {
        Err(error) if error.errno() == Errno::NOSYS => Ok(mount::remount_bind(root, MountFlags::RDONLY)?),
        other => Ok(other?),
    }
}
