//! Mounts inside the container, by descriptor: nothing here follows a path of the image outside
//! the root file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Linux, Mount};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::cgroup::{Cgroup, Hierarchies, Version};
use robot_env_sys::mount::{self, Attributes, PropagationFlags};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub(crate) use crate::devices::{bind_console, populate_dev};
use crate::init::READ_ONLY;
pub(crate) use crate::options::propagation;
use crate::options::{self, Options};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Files of procfs that something else may be mounted on (lxcfs and the like; NVIDIA's driver is told
/// there that it makes no device nodes).
const OPEN_IN_PROC: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/driver/nvidia/params",
];

/// The most links to nowhere that are followed on the way to one place to mount on.
const LINKS: u32 = 8;

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
        self.resolve(path, flags, ResolveFlags::empty())
            .io_context(|| format!("cannot open `{path}` in the container"))
    }

    pub(crate) fn resolve(
        &self,
        path: &str,
        flags: OFlags,
        how: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let how = how | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens a path by O_PATH; a missing one is made, the directories above it too, as a directory
    /// or as an empty file.
    pub(crate) fn open_or_make(&self, path: &str, directory: bool, how: ResolveFlags) -> Result<OwnedFd> {
        match self.resolve(path, OFlags::PATH, how) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP) if how.contains(ResolveFlags::NO_SYMLINKS) => {
                let message = format!("`{path}` in the image leads over a symbolic link");
                return Err(Error::new(Kind::Denied, message));
            }
            Err(errno) => return Err(errno).io_context(|| format!("cannot open `{path}` in the container")),
        }
        self.make(path, directory, how, 0)
    }

    /// Makes what is missing of `path`, `links` symbolic links after the path that was asked for.
    fn make(&self, path: &str, directory: bool, how: ResolveFlags, links: u32) -> Result<OwnedFd> {
        let (parent, name) = split(path);
        let parent_fd = match self.resolve(parent, OFlags::PATH, how) {
            Err(Errno::NOENT) => self.make(parent, true, how, links)?,
            _ => self.open_or_make(parent, true, how)?,
        };
        // A link that leads nowhere yet, as `/etc/resolv.conf` does in many images: what it leads to
        // is made, inside the root.
        if !how.contains(ResolveFlags::NO_SYMLINKS)
            && let Ok(target) = rustix::fs::readlinkat(&parent_fd, name, Vec::new())
        {
            let target = target.to_string_lossy();
            if links == LINKS {
                let message = format!("too many symbolic links at `{path}` in the container");
                return Err(Error::new(Kind::Denied, message));
            }
            let target =
                if target.starts_with('/') { target.into_owned() } else { format!("{parent}/{target}") };
            return match self.resolve(&target, OFlags::PATH, how) {
                Err(Errno::NOENT) => self.make(&target, directory, how, links + 1),
                other => other.io_context(|| format!("cannot open `{target}` in the container")),
            };
        }
        let made = if directory {
            rustix::fs::mkdirat(&parent_fd, name, Mode::from_raw_mode(0o755))
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent_fd, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).io_context(|| format!("cannot make `{path}` in the container")),
        }
        // In the directory that was just looked at, not by the whole path again.
        rustix::fs::openat2(
            &parent_fd,
            name,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .io_context(|| format!("cannot open `{path}` in the container"))
    }
}

/// Directory and name of a path; the directory of a bare name is "".
pub(crate) fn split(path: &str) -> (&str, &str) {
    let trimmed = path.trim_end_matches('/');
    trimmed.rsplit_once('/').unwrap_or(("", trimmed))
}

pub(crate) fn file_type(fd: impl AsFd) -> Result<FileType> {
    let stat = rustix::fs::fstat(fd).io_context(|| "fstat()".into())?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Changes how a mount propagates. Kernels before 5.12 can do that only by path.
pub(crate) fn set_propagation(tree: BorrowedFd<'_>, flags: PropagationFlags, recursive: bool) -> Result<()> {
    match mount::set_attributes(tree, Attributes::empty(), Attributes::empty(), Some(flags), recursive) {
        Err(error) if error.errno() == Errno::NOSYS => {
            let all = if recursive { flags | PropagationFlags::REC } else { flags };
            Ok(mount::set_propagation(&proc_path(tree), all)?)
        }
        other => Ok(other?),
    }
}

pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd))
}

/// Makes private the mount that the directory is on.
pub(crate) fn make_private(directory: &OwnedFd) -> Result<()> {
    let path =
        rustix::fs::readlink(proc_path(directory.as_fd()), Vec::new()).io_context(|| "readlink()".into())?;
    let path = path.to_string_lossy().into_owned();
    let mut at = Some(Path::new(&path));
    while let Some(candidate) = at {
        match mount::set_propagation(&candidate.to_string_lossy(), PropagationFlags::PRIVATE) {
            Err(error) if error.errno() == Errno::INVAL => at = candidate.parent(),
            other => return Ok(other?),
        }
    }
    Ok(())
}

/// Sets attributes of an attached mount, on kernels before 5.12 too (there not recursively).
pub(crate) fn set_attributes(
    tree: BorrowedFd<'_>,
    set: Attributes,
    clear: Attributes,
    recursive: bool,
) -> Result<()> {
    if set.is_empty() && clear.is_empty() {
        return Ok(());
    }
    // Setting one of the three ways of noting access times means clearing the others.
    let times = Attributes::MOUNT_ATTR_NOATIME | Attributes::MOUNT_ATTR_STRICTATIME;
    let clear = if set.intersects(times) { clear | Attributes::MOUNT_ATTR__ATIME } else { clear };
    match mount::set_attributes(tree, set, clear, None, recursive) {
        Err(error) if error.errno() == Errno::NOSYS => Ok(mount::remount(tree, set, clear, recursive)?),
        other => Ok(other?),
    }
}

/// What mounting needs to know.
pub(crate) struct Environment<'a> {
    pub(crate) root: &'a Root,
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) hierarchies: Option<&'a Hierarchies>,
    /// Whether the container has a pid namespace of its own.
    pub(crate) own_pids: bool,
    /// The directory in which the last file was mounted on a place of its own, and its path; see
    /// [`Environment::mount_file`].
    pub(crate) place: Option<(String, OwnedFd)>,
    /// The file that such a mount covers: further ones cover the same file by other names.
    pub(crate) covered: Option<OwnedFd>,
    /// Sources of binds that are open already, by their place among the spec's mounts.
    pub(crate) sources: &'a [Option<OwnedFd>],
    /// Mounts that become read-only once their inside is complete (`/dev`, `/sys/fs/cgroup`).
    pub(crate) deferred: Vec<OwnedFd>,
}

/// The sources of a spec's binds, by their place among its mounts.
pub(crate) fn sources(spec: &oci_spec::runtime::Spec, bundle: &Path) -> Result<Vec<Option<OwnedFd>>> {
    let of = |entry: &Mount| -> Result<Option<OwnedFd>> {
        let options = options::parse(entry)?;
        let open = || bind_source(bundle, entry, options.recursive);
        (options.bind && !options.remount).then(open).transpose()
    };
    spec.mounts()
        .iter()
        .flatten()
        .map(|entry| of(entry).within(|| format!("cannot mount `{}`", entry.destination().display())))
        .collect()
}

/// The mount that a bind makes: a clone of the source's.
fn bind_source(bundle: &Path, entry: &Mount, recursive: bool) -> Result<OwnedFd> {
    let source = entry.source().as_ref().ok_or_else(|| Error::invalid("a bind mount needs a source"))?;
    let source = bundle.join(source);
    mount::clone_path(&source.to_string_lossy(), recursive)
        .map_err(Error::from)
        .within(|| format!("cannot use `{}`", source.display()))
}

impl Environment<'_> {
    /// Mounts one entry of the spec, the `index`th.
    pub(crate) fn mount(&mut self, index: usize, entry: &Mount) -> Result<()> {
        let destination = entry.destination().to_string_lossy().into_owned();
        let options = options::parse(entry)?;
        if options.remount {
            let target = self.root.open(&destination, OFlags::PATH)?;
            return set_attributes(target.as_fd(), options.set, options.clear, false);
        }
        if options.bind && self.mount_file(entry, &destination, &options) {
            return Ok(());
        }
        // What is mounted now may cover it.
        self.place = None;
        let kind = match entry.typ().as_deref() {
            _ if options.bind => "bind",
            Some(kind) if !kind.is_empty() && kind != "none" => kind,
            _ => return Err(Error::invalid("the mount has no type")),
        };
        // A link where the kernel's file systems belong would let an image choose what is masked
        // and where they are seen (CVE-2019-19921).
        let kernels = matches!(kind, "proc" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2")
            || matches!(destination.trim_end_matches('/'), "/proc" | "/sys" | "/dev");
        let how = if kernels { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
        let (tree, directory) = match kind {
            "bind" => {
                let tree = match self.sources.get(index) {
                    Some(Some(tree)) => tree.try_clone().io_context(|| "cannot copy a descriptor".into())?,
                    _ => bind_source(self.bundle, entry, options.recursive)?,
                };
                let directory = file_type(&tree)? == FileType::Directory;
                (Some(tree), directory)
            }
            _ => (None, true),
        };
        let existed = self.root.resolve(&destination, OFlags::PATH, how).ok();
        let target = match &existed {
            Some(fd) => fd.try_clone().io_context(|| "cannot copy a descriptor".into())?,
            None => self.root.open_or_make(&destination, directory, how)?,
        };
        Self::guard_proc(&destination, kind, target.as_fd(), tree.as_ref().map(AsFd::as_fd))?;
        if (file_type(&target)? == FileType::Directory) != directory {
            let (is, is_not) =
                if directory { ("a directory", "is none") } else { ("a file", "is a directory") };
            let message = format!("what is mounted is {is} and `{destination}` in the container {is_not}");
            return Err(Error::invalid(message));
        }
        let tree = match (kind, tree) {
            (_, Some(tree)) => tree,
            ("cgroup" | "cgroup2", None) => return self.mount_cgroups(&destination, &target, &options),
            (kind, None) => self.kernel_tree(entry, kind, &options, existed.as_ref())?,
        };
        if options.copy_up
            && kind == "tmpfs"
            && let Some(below) = &existed
        {
            robot_env_sys::fs::copy_tree(below, &tree)
                .map_err(Error::from)
                .within(|| "cannot copy the image's files into the tmpfs".into())?;
        }
        self.attach(&destination, tree, &target, kind, &options)
    }

    /// Mounts a file where the container has nothing yet, by few calls: a GPU's driver brings dozens.
    /// False where it is for the long way; then nothing has changed but that the file may be there.
    fn mount_file(&mut self, entry: &Mount, destination: &str, options: &Options) -> bool {
        let clear = options.clear | options.recursive_clear;
        let set = options.set | options.recursive_set;
        let times = Attributes::MOUNT_ATTR_NOATIME | Attributes::MOUNT_ATTR_STRICTATIME;
        let (parent, name) = split(destination);
        if !self.sources.is_empty()
            || !clear.is_empty()
            || set.intersects(times)
            || matches!(name, "" | "." | "..")
        {
            return false;
        }
        let Some(source) = entry.source() else { return false };
        let is_file = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !rustix::fs::stat(self.bundle.join(source)).is_ok_and(is_file) {
            return false;
        }
        if self.place.as_ref().is_none_or(|(path, _)| path != parent) {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let Ok(fd) = self.root.resolve(parent, flags, ResolveFlags::empty()) else { return false };
            // What may be on procfs is a question of its own.
            if !rustix::fs::fstatfs(&fd).is_ok_and(|found| found.f_type as u64 != PROC_SUPER_MAGIC) {
                return false;
            }
            self.place = Some((parent.to_owned(), fd));
        }
        let Some((_, place)) = &self.place else { return false };
        // A file system takes its time for a new file, and none for another name of one that nobody
        // can reach: it is covered.
        let linked = self
            .covered
            .as_ref()
            .is_some_and(|file| rustix::fs::linkat(file, "", place, name, AtFlags::EMPTY_PATH).is_ok());
        if !linked {
            let made = rustix::fs::mknodat(place, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0);
            if made.is_err() {
                return false;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            self.covered = rustix::fs::openat(place, name, flags, Mode::empty()).ok();
        }
        let attached = bind_source(self.bundle, entry, false).and_then(|tree| {
            let propagation =
                options.propagation.unwrap_or(PropagationFlags::PRIVATE) - PropagationFlags::REC;
            mount::set_attributes(tree.as_fd(), set, Attributes::empty(), Some(propagation), false)?;
            Ok(mount::attach_at(tree.as_fd(), place.as_fd(), name)?)
        });
        // The long way says what is wrong, or knows an older kernel's calls.
        attached.is_ok()
    }

    /// Nothing may be mounted on procfs but procfs itself at `/proc` and harmless files: whoever
    /// writes to `/proc/self/attr/exec` later must hit the kernel (CVE-2019-16884).
    fn guard_proc(
        destination: &str,
        kind: &str,
        target: BorrowedFd<'_>,
        tree: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let on_proc =
            |fd: BorrowedFd<'_>| rustix::fs::fstatfs(fd).is_ok_and(|s| s.f_type as u64 == PROC_SUPER_MAGIC);
        let destination = destination.trim_end_matches('/');
        if destination == "/proc" {
            if kind == "proc" || tree.is_some_and(on_proc) {
                return Ok(());
            }
            return Err(Error::new(Kind::Denied, "only a procfs may be mounted on `/proc`"));
        }
        if on_proc(target) && !OPEN_IN_PROC.contains(&destination) && !tree.is_some_and(on_proc) {
            return Err(Error::new(Kind::Denied, format!("`{destination}` is inside a procfs")));
        }
        Ok(())
    }

    /// A new mount of a file system that the kernel makes.
    fn kernel_tree(
        &self,
        entry: &Mount,
        kind: &str,
        options: &Options,
        existed: Option<&OwnedFd>,
    ) -> Result<OwnedFd> {
        let source = entry.source().as_ref().map_or(kind.into(), |s| s.to_string_lossy().into_owned());
        let mut data = options.data.clone();
        if kind == "tmpfs" && !data.iter().any(|o| o.starts_with("mode=")) {
            // It looks like the directory that it covers.
            let stat = existed.and_then(|fd| rustix::fs::fstat(fd).ok());
            if let Some(stat) = stat {
                data.push(format!("mode={:o}", stat.st_mode & 0o7777));
            }
        }
        // A tmpfs that has to be filled first becomes read-only later.
        let attributes = options.set - READ_ONLY;
        let error = match mount::filesystem(kind, &source, &data, attributes) {
            Ok(tree) => return Ok(tree),
            Err(error) => error,
        };
        let denied = matches!(error.errno(), Errno::PERM | Errno::ACCESS | Errno::BUSY);
        let instead = match kind {
            // A group that is not mapped: terminals then belong to their user's.
            "devpts" if error.errno() == Errno::INVAL && data.iter().any(|o| o.starts_with("gid=")) => {
                data.retain(|o| !o.starts_with("gid="));
                return Ok(mount::filesystem(kind, &source, &data, attributes)?);
            }
            // Inside a user namespace these belong to whoever made the namespace that they show.
            "sysfs" if denied => "/sys",
            "mqueue" if denied => "/dev/mqueue",
            "proc" if denied && !self.own_pids => "/proc",
            _ => return Err(error.into()),
        };
        let tree = mount::clone_path(instead, true).map_err(|_| error)?;
        Ok(tree)
    }

    fn attach(
        &mut self,
        destination: &str,
        tree: OwnedFd,
        target: &OwnedFd,
        kind: &str,
        options: &Options,
    ) -> Result<()> {
        mount::attach(tree.as_fd(), target.as_fd())?;
        let late = destination.trim_end_matches('/') == "/dev" && options.set.contains(READ_ONLY);
        let set = if late { options.set - READ_ONLY } else { options.set };
        // Attributes that are locked in a user namespace cannot be cleared, and need not be.
        let clear = if kind == "bind" { options.clear } else { Attributes::empty() };
        match set_attributes(tree.as_fd(), set, clear, false) {
            Err(error) if error.kind() == Kind::Denied && !clear.is_empty() => {
                set_attributes(tree.as_fd(), set, Attributes::empty(), false)?;
            }
            other => other?,
        }
        set_attributes(tree.as_fd(), options.recursive_set, options.recursive_clear, true)?;
        let propagation = match options.propagation {
            Some(propagation) => propagation,
            None if kind == "bind" => PropagationFlags::PRIVATE | PropagationFlags::REC,
            None => PropagationFlags::empty(),
        };
        let recursive = propagation.contains(PropagationFlags::REC);
        let flags = propagation - PropagationFlags::REC;
        if !flags.is_empty() {
            set_propagation(tree.as_fd(), flags, recursive)?;
        }
        if late {
            self.deferred.push(tree);
        }
        Ok(())
    }

    fn mount_cgroups(&mut self, destination: &str, target: &OwnedFd, options: &Options) -> Result<()> {
        let (Some(hierarchies), Some(cgroup)) = (self.hierarchies, self.cgroup) else {
            return Self::mount_host_cgroups(target, options.set);
        };
        match hierarchies.version() {
            Version::None => Ok(()),
            Version::V2 => {
                let tree = match mount::filesystem("cgroup2", "cgroup", &[], options.set) {
                    Ok(tree) => tree,
                    Err(error) if matches!(error.errno(), Errno::PERM | Errno::BUSY) => {
                        return Self::mount_host_cgroups(target, options.set);
                    }
                    Err(error) => return Err(error.into()),
                };
                Ok(mount::attach(tree.as_fd(), target.as_fd())?)
            }
            Version::V1 => {
                let top =
                    mount::filesystem("tmpfs", "cgroup", &["mode=755".into()], options.set - READ_ONLY)?;
                mount::attach(top.as_fd(), target.as_fd())?;
                for (name, point) in hierarchies.mounts() {
                    let Some(directory) = cgroup.directory(name) else { continue };
                    let hierarchy =
                        point.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into());
                    let inside = format!("{}/{hierarchy}", destination.trim_end_matches('/'));
                    if hierarchy != *name {
                        // `cpu` beside `cpu,cpuacct`.
                        let _ = rustix::fs::symlinkat(hierarchy.as_str(), &top, name.as_str());
                    }
                    if self.root.resolve(&inside, OFlags::PATH, ResolveFlags::empty()).is_ok() {
                        continue;
                    }
                    let below = self.root.open_or_make(&inside, true, ResolveFlags::NO_SYMLINKS)?;
                    let tree = mount::clone_path(&directory.to_string_lossy(), false)?;
                    mount::attach(tree.as_fd(), below.as_fd())?;
                    set_attributes(tree.as_fd(), options.set, Attributes::empty(), false)?;
                }
                if options.set.contains(READ_ONLY) {
                    self.deferred.push(top);
                }
                Ok(())
            }
        }
    }

    /// Without a cgroup of its own a container sees the host's, read-only.
    fn mount_host_cgroups(target: &OwnedFd, attributes: Attributes) -> Result<()> {
        let Ok(tree) = mount::clone_path("/sys/fs/cgroup", true) else { return Ok(()) };
        mount::attach(tree.as_fd(), target.as_fd())?;
        set_attributes(tree.as_fd(), attributes | READ_ONLY, Attributes::empty(), true)
    }

    /// Makes read-only what had to be filled first.
    pub(crate) fn finish(self) -> Result<()> {
        self.deferred
            .iter()
            .try_for_each(|tree| set_attributes(tree.as_fd(), READ_ONLY, Attributes::empty(), false))
    }
}

/// Hides and protects the paths that the spec names, before the pivot: `/dev/null` is the host's
/// still.
pub(crate) fn mask(root: &Root, linux: &Linux) -> Result<()> {
    for path in linux.readonly_paths().iter().flatten() {
        let protect = || -> Result<()> {
            let Some(fd) = existing(root, path)? else { return Ok(()) };
            let tree = mount::clone_tree(fd.as_fd(), "", true)?;
            mount::attach(tree.as_fd(), fd.as_fd())?;
            set_attributes(tree.as_fd(), READ_ONLY, Attributes::empty(), true)
        };
        protect().within(|| format!("cannot protect `{path}`"))?;
    }
    let masked = linux.masked_paths().as_deref().unwrap_or_default();
    if masked.is_empty() {
        return Ok(());
    }
    let null = crate::devices::host_null()?;
    for path in masked {
        let hide = || -> Result<()> {
            let Some(fd) = existing(root, path)? else { return Ok(()) };
            let cover = if file_type(&fd)? == FileType::Directory {
                let limits = ["size=0".to_owned(), "nr_inodes=1".to_owned(), "mode=555".to_owned()];
                mount::filesystem("tmpfs", "tmpfs", &limits, READ_ONLY)?
            } else {
                mount::clone_tree(null.as_fd(), "", false)?
            };
            Ok(mount::attach(cover.as_fd(), fd.as_fd())?)
        };
        hide().within(|| format!("cannot mask `{path}`"))?;
    }
    Ok(())
}

/// A path to cover; one that is not there, or that root itself cannot reach, needs no cover.
fn existing(root: &Root, path: &str) -> Result<Option<OwnedFd>> {
    match root.resolve(path, OFlags::PATH, ResolveFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno).io_context(|| format!("open({path})")),
    }
}

/// Makes the root file system itself read-only; mounts inside stay as they are.
pub(crate) fn make_read_only(root: BorrowedFd<'_>) -> Result<()> {
    set_attributes(root, READ_ONLY, Attributes::empty(), false)
}
