//! A container's file tree for those outside it, with everything that it mounts, and without
//! running anything of it.
//!
//! - **A running container** is seen by the root directory of its first process: volumes, tmpfs and
//!   what it has mounted itself are there as it sees them.
//! - **A stopped one** has no mounts. Its snapshot is mounted again as a detached overlay (without a
//!   writable layer where it is only read: such a mount writes nothing, and taking it away syncs
//!   nothing), and its volumes and binds on top, in a mount namespace that only this process knows
//!   of. The container's lock is held meanwhile: a second mount of the same snapshot would be
//!   undefined.
//!
//! Every path is resolved inside the root by the kernel, links too, and magic links never: a
//! container that changes its links at the same time leads nowhere else (CVE-2018-15664), and no
//! library or program of it is loaded (CVE-2019-14271).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_spec::MountSource;
use robot_env_store::OverlayXattr;
use robot_env_sys::mount::{self, Attributes, OverlayRequest, PropagationFlags};
use robot_env_sys::{fs as sys_fs, namespace, process};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::engine::Engine;
use crate::mounts::tree_below;
use crate::paths::make_directory;
use crate::record::{ContainerRecord, MountPoint, ProcessRecord, State};
use crate::records::{Container, ContainerLock};
use crate::rootfs::Rootfs;

/// What is done with a container's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They are looked at.
    Read,
    /// Some are made or replaced.
    Write,
}

/// A container's tree. What keeps it lives as long as this does; the order of the fields is that
/// in which it goes.
pub(crate) struct View {
    root: OwnedFd,
    namespace: Option<OwnedFd>,
    absent: Vec<Absent>,
    running: bool,
    _lock: Option<ContainerLock>,
}

/// A mount of a stopped container that cannot be shown: an empty directory stands for it.
struct Absent {
    id: u64,
    reason: String,
}

impl View {
    /// The tree's root, by O_PATH or as the descriptor of a mount.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether the container's processes see the same tree now.
    pub(crate) fn is_live(&self) -> bool {
        self.running
    }

    /// Why nothing can be copied from or to the directory `fd`, if that is so.
    pub(crate) fn obstacle(&self, fd: impl AsFd) -> Result<Option<String>> {
        if sys_fs::is_kernel_file_system(&fd)? {
            return Ok(Some("it is the kernel's, and no file of the container".into()));
        }
        let id = mount_id(&fd)?;
        Ok(self.absent.iter().find(|absent| absent.id == id).map(|absent| absent.reason.clone()))
    }

    /// Whether the directory is on a mount of its own: a volume or something alike.
    pub(crate) fn is_mounted(&self, fd: impl AsFd) -> Result<bool> {
        Ok(mount_id(fd)? != mount_id(&self.root)?)
    }
}

impl Engine {
    /// The container's tree.
    ///
    /// Errors: `Conflict` while it is being started again.
    pub(crate) fn view(&self, text: &str, access: Access) -> Result<(View, Container)> {
        let id = self.records.find(text)?;
        // It may start or end while it is looked at.
        for _ in 0..8 {
            let container = self.container_by_id(&id)?;
            match &container.state.state {
                State::Running { process, .. } => match root_of(process)? {
                    Some(root) => {
                        let view =
                            View { root, namespace: None, absent: Vec::new(), running: true, _lock: None };
                        return Ok((view, container));
                    }
                    // It has just ended; its monitor is about to write that down.
                    None => self.await_monitor(&id),
                },
                State::Restarting { .. } => break,
                _ => {
                    let (lock, container) = self.lock_stopped(&id)?;
                    if !container.state.state.is_active() {
                        let view = self.stopped_view(&container.record, access, lock).within(|| {
                            format!("cannot mount the files of container `{}`", container.record.name)
                        })?;
                        return Ok((view, container));
                    }
                }
            }
        }
        Err(Error::new(
            Kind::Conflict,
            format!("Container {id} is restarting, wait until the container is running"),
        ))
    }

    /// The container's lock, taken so that nothing is left of a container that does not run.
    pub(crate) fn lock_stopped(
        &self,
        id: &robot_env_spec::ContainerId,
    ) -> Result<(ContainerLock, Container)> {
        let lock = self.records.lock(id)?;
        let container = self.reconciled_under(self.records.load(id)?, &lock)?;
        if !container.state.state.is_active() {
            // The exit is written down before the mounts are gone.
            self.await_monitor(id);
        }
        Ok((lock, container))
    }

    fn stopped_view(&self, record: &ContainerRecord, access: Access, lock: ContainerLock) -> Result<View> {
        let mounts = in_order(&record.mounts);
        // One with ids of its own is shown by these all over: its volumes are, too.
        if access == Access::Read && !crate::userns::shifts(record) {
            let root = self.read_only_overlay(record)?;
            if mounts
                .iter()
                .all(|point| sys_fs::open_in_root(root.as_fd(), &point.target, OFlags::PATH).is_ok())
            {
                return self.furnish(root, &mounts, record, lock);
            }
            // A place to mount on is missing, and has to be made as a start would.
        }
        let rootfs = Rootfs::of(self, record)?;
        for point in &mounts {
            make_place(&rootfs, point)?;
        }
        self.furnish(rootfs.into_mount(), &mounts, record, lock)
    }

    /// The snapshot with its writable layer as one more lower one.
    pub(crate) fn read_only_overlay(&self, record: &ContainerRecord) -> Result<OwnedFd> {
        let snapshot = self.open_snapshot(record)?;
        let unshifted = self.unshifted_upper(record, &snapshot)?;
        let upper = unshifted.as_ref().map_or(&snapshot.upper, |shown| &shown.trees[0]);
        let mut lowers = vec![upper.as_fd()];
        lowers.extend(snapshot.lowers.iter().map(AsFd::as_fd));
        let empty;
        if lowers.len() == 1 {
            // A single one would not be an overlay, and show its whiteouts.
            empty = self.empty_directory()?;
            lowers.push(empty.as_fd());
        }
        let userxattr = self.store.overlay_xattr() == OverlayXattr::User;
        let request = OverlayRequest { lowers: &lowers, upper: None, volatile: false, userxattr };
        self.overlay_of(&request, unshifted.as_ref())
    }

    fn empty_directory(&self) -> Result<OwnedFd> {
        let path = self.paths.run_root().join("empty");
        make_directory(&path, 0o755)?;
        Ok(sys_fs::open_directory(&path)?)
    }

    /// Puts the container's mounts into the tree. A thread does it that has left this process's
    /// mount namespace, so that nobody else ever sees them; the namespace lives on by a descriptor.
    fn furnish(
        &self,
        root: OwnedFd,
        mounts: &[&MountPoint],
        record: &ContainerRecord,
        lock: ContainerLock,
    ) -> Result<View> {
        let mut view = View { root, namespace: None, absent: Vec::new(), running: false, _lock: Some(lock) };
        if !mounts.is_empty() {
            let root = view.root.as_fd();
            let (namespace, absent) = apart(libc::CLONE_FS | libc::CLONE_NEWNS, || {
                mount::set_propagation("/", PropagationFlags::PRIVATE | PropagationFlags::REC)?;
                mount::attach(root, self.empty_directory()?.as_fd())?;
                let mut absent = Vec::new();
                for point in mounts {
                    self.put(root, point, &mut absent)
                        .within(|| format!("cannot mount `{}`", point.target))?;
                }
                Ok((namespace::open("/proc/thread-self/ns/mnt")?, absent))
            })?;
            (view.namespace, view.absent) = (Some(namespace), absent);
        }
        if record.spec.read_only {
            set_read_only(view.root(), false)?;
        }
        Ok(view)
    }

    fn put(&self, root: BorrowedFd<'_>, point: &MountPoint, absent: &mut Vec<Absent>) -> Result<()> {
        let target = match sys_fs::open_in_root(root, &point.target, OFlags::PATH) {
            Ok(target) => target,
            Err(error) if error.errno() == Errno::NOENT => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match self.tree_of(point)? {
            Ok(tree) => {
                if kind_of(&tree)? == kind_of(&target)? {
                    mount::attach(tree.as_fd(), target.as_fd())?;
                    if point.read_only {
                        set_read_only(tree.as_fd(), true)?;
                    }
                }
            }
            Err(reason) if kind_of(&target)? == FileType::Directory => {
                let tree = mount::filesystem("tmpfs", "absent", &[], Attributes::MOUNT_ATTR_RDONLY)?;
                mount::attach(tree.as_fd(), target.as_fd())?;
                absent.push(Absent { id: mount_id(&tree)?, reason });
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// What is mounted there, as a mount of its own; or why it cannot be seen now.
    fn tree_of(&self, point: &MountPoint) -> Result<Result<OwnedFd, String>> {
        let subpath = match point.spec.as_ref().map(|spec| &spec.source) {
            Some(MountSource::Volume { subpath, .. } | MountSource::Image { subpath, .. }) => {
                subpath.as_deref()
            }
            _ => None,
        };
        if point.kind == "tmpfs" {
            let text = format!("`{}` is a tmpfs, which is there only while the container runs", point.target);
            return Ok(Err(text));
        }
        if point.kind == "image" {
            let tree = self.image_tree(&point.source)?;
            let Some(subpath) = subpath else { return Ok(Ok(tree)) };
            let directory = sys_fs::open_in_root(tree.as_fd(), subpath, OFlags::PATH)?;
            // Before Linux 6.15 a clone can be made of an attached mount alone.
            let place = self.paths.run_root().join("image");
            make_directory(&place, 0o700)?;
            mount::attach(tree.as_fd(), sys_fs::open_directory(&place)?.as_fd())?;
            return Ok(Ok(mount::clone_tree(directory.as_fd(), "", false)?));
        }
        let source = &point.source;
        if fs::metadata(source).is_err() {
            let missing = match &point.volume {
                Some(name) => format!("the volume `{name}` is missing"),
                None => format!("`{source}`, which is mounted there, does not exist on the host"),
            };
            return Ok(Err(missing));
        }
        Ok(Ok(match subpath {
            Some(subpath) => tree_below(source, subpath)?,
            None => mount::clone_path(source, true)?,
        }))
    }

    /// An image's layers, read-only.
    fn image_tree(&self, id: &str) -> Result<OwnedFd> {
        let image = self.store.resolve(id)?;
        let lowers: Vec<OwnedFd> =
            image.layers.iter().rev().map(|chain| self.store.layer_dir(chain)).collect::<Result<_>>()?;
        let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
        let userxattr = self.store.overlay_xattr() == OverlayXattr::User;
        Ok(mount::overlay(&OverlayRequest { lowers: &lowers, upper: None, volatile: false, userxattr })?)
    }

    /// The container's own file system without anything that is mounted in it: the overlay alone.
    /// Of a running container its mount is cloned inside its namespace, so that the overlay is not
    /// mounted a second time.
    pub(crate) fn own_tree(&self, text: &str) -> Result<(OwnTree, Container)> {
        let id = self.records.find(text)?;
        for _ in 0..8 {
            let container = self.container_by_id(&id)?;
            match &container.state.state {
                State::Running { process, .. } => match namespace_of(process)? {
                    Some(namespace) => {
                        let root = apart(libc::CLONE_FS, || {
                            namespace::join(namespace.as_fd(), libc::CLONE_NEWNS)?;
                            Ok(mount::clone_path("/", false)?)
                        })
                        .within(|| {
                            format!("cannot see the file system of container `{}`", container.record.name)
                        })?;
                        return Ok((OwnTree { root, live: true, _lock: None }, container));
                    }
                    None => self.await_monitor(&id),
                },
                State::Restarting { .. } => std::thread::sleep(std::time::Duration::from_millis(50)),
                _ => {
                    let (lock, container) = self.lock_stopped(&id)?;
                    if !container.state.state.is_active() {
                        let root = self.read_only_overlay(&container.record)?;
                        return Ok((OwnTree { root, live: false, _lock: Some(lock) }, container));
                    }
                }
            }
        }
        Err(Error::new(
            Kind::Conflict,
            format!("Container {id} is restarting, wait until the container is running"),
        ))
    }
}

/// A container's own file system: see [`Engine::own_tree`].
pub(crate) struct OwnTree {
    pub(crate) root: OwnedFd,
    /// Whether it is what the container's processes see.
    pub(crate) live: bool,
    _lock: Option<ContainerLock>,
}

/// Does something in a thread that shares less with this process.
fn apart<T: Send>(own: namespace::Flags, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let work = || {
        namespace::unshare(own)?;
        act()
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread that mounts has panicked")))
}

/// Opens something of a process below `/proc`; `None` if the process has ended.
fn of_process(
    process: &ProcessRecord,
    open: impl FnOnce(&str) -> rustix::io::Result<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let Ok(pidfd) = process::pidfd_open(process.pid) else { return Ok(None) };
    if process::start_time(process.pid) != Some(process.start_time) {
        return Ok(None);
    }
    let path = format!("/proc/{}", process.pid);
    let opened = open(&path);
    // Still there: so it was this process's all the time.
    match (opened, process::signal(&pidfd, 0)) {
        (Ok(fd), Ok(())) if !process::is_zombie(process.pid) => Ok(Some(fd)),
        (Err(errno @ (Errno::ACCESS | Errno::PERM)), Ok(())) => {
            Err(errno).io_context(|| format!("open({path})"))
        }
        _ => Ok(None),
    }
}

fn root_of(process: &ProcessRecord) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    of_process(process, |path| rustix::fs::open(format!("{path}/root"), flags, Mode::empty()))
}

fn namespace_of(process: &ProcessRecord) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    of_process(process, |path| rustix::fs::open(format!("{path}/ns/mnt"), flags, Mode::empty()))
}

/// Mounts in the order in which they are made: those above first.
fn in_order(mounts: &[MountPoint]) -> Vec<&MountPoint> {
    let depth = |point: &&MountPoint| {
        let names = point.target.split('/').filter(|name| !matches!(*name, "" | "."));
        names.count()
    };
    let mut sorted: Vec<&MountPoint> = mounts.iter().collect();
    sorted.sort_by_key(depth);
    sorted
}

/// Makes what a mount needs to be mounted on.
fn make_place(rootfs: &Rootfs, point: &MountPoint) -> Result<()> {
    if sys_fs::open_in_root(rootfs.mount(), &point.target, OFlags::PATH).is_ok() {
        return Ok(());
    }
    let file = point.kind == "bind" && fs::metadata(&point.source).is_ok_and(|metadata| !metadata.is_dir());
    if !file {
        return rootfs.make_directory(&point.target, (0, 0));
    }
    let path = Path::new(&point.target);
    let (Some(parent), Some(name)) = (path.parent().and_then(Path::to_str), path.file_name()) else {
        return Ok(());
    };
    rootfs.make_directory(parent, (0, 0))?;
    let parent = sys_fs::open_in_root(rootfs.mount(), parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).io_context(|| format!("create({})", point.target)),
    }
}

fn set_read_only(tree: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    let (set, clear) = (Attributes::MOUNT_ATTR_RDONLY, Attributes::empty());
    match mount::set_attributes(tree, set, clear, None, recursive) {
        Err(error) if error.errno() == Errno::NOSYS => Ok(mount::remount(tree, set, clear, recursive)?),
        done => Ok(done?),
    }
}

fn mount_id(fd: impl AsFd) -> Result<u64> {
    if let Ok(found) = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        && found.stx_mask & StatxFlags::MNT_ID.bits() != 0
    {
        return Ok(found.stx_mnt_id);
    }
    // Before 5.8.
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).io_context(|| format!("read({path})"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| Error::new(Kind::Internal, format!("`{path}` names no mount")))
}

fn kind_of(fd: impl AsFd) -> Result<FileType> {
    let stat = rustix::fs::fstat(&fd).io_context(|| "fstat()".into())?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // A bind of anything but a directory goes on anything but a directory.
    Ok(if kind == FileType::Directory { kind } else { FileType::RegularFile })
}
