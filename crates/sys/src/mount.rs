//! The new mount API: detached mounts that exist only as descriptors until they are moved into
//! place.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::{CallError, CallResult, ErrnoContext};

pub use rustix::mount::{MountAttrFlags as Attributes, MountPropagationFlags as PropagationFlags};

/// What an overlay is made of.
pub struct OverlayRequest<'a> {
    /// Read-only layers, topmost first; at least one.
    pub lowers: &'a [BorrowedFd<'a>],
    /// The writable layer and its work directory; `None` for a read-only mount.
    pub upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// Whether nothing is ever synced (see overlayfs.rst, "Volatile mount").
    pub volatile: bool,
    /// Whether overlay's own attributes are `user.overlay.*` (needed inside a user namespace).
    pub userxattr: bool,
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes a detached overlay mount. Kernels from 6.7 take one layer at a time; older ones one text
/// ([`overlay_by_text`]).
pub fn overlay(request: &OverlayRequest<'_>) -> CallResult<OwnedFd> {
    // A single lower layer without an upper one is no overlay: a read-only bind is the same.
    if request.upper.is_none() && request.lowers.len() == 1 {
        let tree = clone_tree(request.lowers[0], "", false)?;
        let read_only = set_attributes(
            tree.as_fd(),
            MountAttrFlags::MOUNT_ATTR_RDONLY,
            MountAttrFlags::empty(),
            None,
            false,
        );
        return match read_only {
            Ok(()) => Ok(tree),
            // Before 5.12 a detached mount stays as it is: an overlay with nothing below is read-only.
            Err(error) if error.errno() == Errno::NOSYS => {
                let nothing = filesystem("tmpfs", "nothing", &[], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
                overlay(&OverlayRequest { lowers: &[request.lowers[0], nothing.as_fd()], ..*request })
            }
            Err(error) => Err(error),
        };
    }
    let context = overlay_context()?;
    // Before 6.5 overlay collects whatever it is told and looks at it when the mount is made. A key
    // that no kernel knows tells such a kernel apart, without a line in its log.
    if fsconfig_set_flag(context.as_fd(), "no-such-option").is_ok() {
        return overlay_by_text(request);
    }
    for (index, lower) in request.lowers.iter().enumerate() {
        match fsconfig_set_string(context.as_fd(), "lowerdir+", proc_path(*lower).as_str()) {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => return overlay_by_text(request),
            Err(errno) => {
                return Err(CallError::new(
                    format!("fsconfig(overlay, lowerdir+={})", proc_path(*lower)),
                    errno,
                ));
            }
        }
    }
    overlay_finish(&context, request)
}

fn overlay_context() -> CallResult<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).call(|| "fsopen(overlay)".into())?;
    fsconfig_set_string(context.as_fd(), "source", "overlay")
        .call(|| "fsconfig(overlay, source=overlay)".into())?;
    Ok(context)
}

/// What comes after the lower layers.
fn overlay_finish(context: &OwnedFd, request: &OverlayRequest<'_>) -> CallResult<OwnedFd> {
    let set = |key: &str, value: &str| {
        fsconfig_set_string(context.as_fd(), key, value).call(|| format!("fsconfig(overlay, {key}={value})"))
    };
    if let Some((upper, work)) = request.upper {
        set("upperdir", &proc_path(upper))?;
        set("workdir", &proc_path(work))?;
    }
    for option in options(request) {
        match option.split_once('=') {
            Some((key, value)) => set(key, value)?,
            None => {
                fsconfig_set_flag(context.as_fd(), option).call(|| format!("fsconfig(overlay, {option})"))?
            }
        }
    }
    let name = || format!("overlay({} lowers, upper: {})", request.lowers.len(), request.upper.is_some());
    fsconfig_create(context.as_fd()).call(name)?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .call(|| "fsmount(overlay)".into())
}

fn options(request: &OverlayRequest<'_>) -> Vec<&'static str> {
    let mut options = Vec::new();
    if request.upper.is_some() {
        options.push("index=off");
        if request.volatile {
            options.push("volatile");
        }
    }
    if request.userxattr {
        // Implies redirect_dir=nofollow and metacopy=off.
        options.push("userxattr");
    } else {
        options.extend(["redirect_dir=off", "metacopy=off"]);
    }
    options
}

/// The form for kernels before 6.7: all lower layers in one text.
fn overlay_by_text(request: &OverlayRequest<'_>) -> CallResult<OwnedFd> {
    // The longest value that fsconfig(2) takes.
    const LONGEST: usize = 255;
    let lowers: Vec<String> = request.lowers.iter().map(|fd| proc_path(*fd)).collect();
    let lowers = lowers.join(":");
    if lowers.len() <= LONGEST {
        let context = overlay_context()?;
        fsconfig_set_string(context.as_fd(), "lowerdir", lowers.as_str())
            .call(|| format!("fsconfig(overlay, lowerdir={lowers})"))?;
        return overlay_finish(&context, request);
    }
    // A working directory of its own for the short paths; the other threads keep theirs.
    let threads = crate::process::Threads::now();
    let made = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            crate::namespace::unshare(libc::CLONE_FS)?;
            overlay_by_mounting(request)
        });
        alone.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    // Whoever mounts a container's root clones its first process next.
    threads.await_return();
    made
}

/// The form for so many layers that fsconfig(2) doesn't take their names: mount(2) takes a page. The
/// mount is made on the work directory (on a layer, if there is none), cloned into a descriptor and
/// detached again. Changes the thread's working directory.
fn overlay_by_mounting(request: &OverlayRequest<'_>) -> CallResult<OwnedFd> {
    // "fd/12" instead of "/proc/self/fd/12": all of the text must fit into one page.
    rustix::process::chdir("/proc/self").call(|| "chdir(/proc/self)".into())?;
    let short = |fd: BorrowedFd<'_>| format!("fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = request.lowers.iter().map(|fd| short(*fd)).collect();
    let mut text = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = request.upper {
        text.push_str(&format!(",upperdir={},workdir={}", short(upper), short(work)));
    }
    for option in options(request) {
        text.push(',');
        text.push_str(option);
    }
    let data = CString::new(text.clone()).map_err(|_| CallError::new("mount(overlay)", Errno::INVAL))?;
    let target = request.upper.map_or_else(|| proc_path(request.lowers[0]), |(_, work)| proc_path(work));
    rustix::mount::mount("overlay", target.as_str(), "overlay", MountFlags::empty(), Some(data.as_c_str()))
        .call(|| format!("mount(overlay -> {target}, {text})"))?;
    // The descriptor of the directory is below the new mount; its path leads to the mount.
    let path = rustix::fs::readlink(target.as_str(), Vec::new()).call(|| format!("readlink({target})"))?;
    let tree =
        open_tree(CWD, path.as_c_str(), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .call(|| format!("open_tree({})", path.to_string_lossy()));
    let _ = rustix::mount::unmount(path.as_c_str(), UnmountFlags::DETACH);
    tree
}

/// Makes a detached mount of a file system that the kernel makes (`proc`, `tmpfs`, ...). `options`
/// are `key` or `key=value`.
pub fn filesystem(
    kind: &str,
    source: &str,
    options: &[String],
    attributes: MountAttrFlags,
) -> CallResult<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).call(|| format!("fsopen({kind})"))?;
    let _ = fsconfig_set_string(context.as_fd(), "source", source);
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value),
            None => fsconfig_set_flag(context.as_fd(), option.as_str()),
        }
        .call(|| format!("fsconfig({kind}, {option})"))?;
    }
    fsconfig_create(context.as_fd()).call(|| format!("fsconfig({kind}, create)"))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).call(|| format!("fsmount({kind})"))
}

/// A procfs of the calling process's pid namespace that nothing but the kernel has had a hand in:
/// a detached mount where the caller may make one, else a clone of the mount at `/proc`, whose file
/// system was checked.
pub fn procfs() -> CallResult<OwnedFd> {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    if let Ok(fd) = filesystem("proc", "proc", &[], MountAttrFlags::empty()) {
        return Ok(fd);
    }
    let fd = rustix::fs::open(
        "/proc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .call(|| "open(/proc)".into())?;
    let magic = rustix::fs::fstatfs(&fd).call(|| "fstatfs(/proc)".into())?.f_type as u64;
    if magic != PROC_SUPER_MAGIC {
        return Err(CallError::new("open(/proc): not a procfs", Errno::XDEV));
    }
    Ok(fd)
}

/// Clones the mount at `path` below `directory` (empty: the directory itself) into a descriptor,
/// with the mounts below it if `recursive`.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &str, recursive: bool) -> CallResult<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags).call(|| format!("open_tree({path:?}, recursive: {recursive})"))
}

/// Clones the mount at an absolute path of the caller's.
pub fn clone_path(path: &str, recursive: bool) -> CallResult<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).call(|| format!("open_tree({path}, recursive: {recursive})"))
}

/// Moves a detached mount onto the file or directory behind `target`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> CallResult<()> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .call(|| "move_mount()".into())
}

/// Moves a detached mount onto the entry `name` of a directory, whatever that is: a link is not
/// followed.
pub fn attach_at(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &str) -> CallResult<()> {
    move_mount(mount, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .call(|| format!("move_mount({name})"))
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes attributes of the mount behind `mount`, and of all below it if `recursive`
/// (mount_setattr, 5.12). On an older kernel the attributes of an *attached* mount alone can be
/// set; ENOSYS says so.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: Option<PropagationFlags>,
    recursive: bool,
) -> CallResult<()> {
    let attr = MountAttr {
        set: u64::from(set.bits()),
        clear: u64::from(clear.bits()),
        propagation: propagation.map_or(0, |p| u64::from(p.bits())),
        userns_fd: 0,
    };
    mount_setattr(mount, &attr, recursive)
}

/// Gives a detached mount the id map of a user namespace (5.12): what belongs to an id inside of it is
/// shown as the id outside.
///
/// # Errors
/// EPERM for whoever is not root where the file system was mounted; EINVAL where it cannot.
pub fn set_id_map(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> CallResult<()> {
    let attr = MountAttr {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits()),
        clear: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    mount_setattr(mount, &attr, false)
}

fn mount_setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> CallResult<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is a valid mount_attr of the given size.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if rc < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(CallError::new(
            format!("mount_setattr(set={:#x}, recursive: {recursive})", attr.set),
            errno,
        ));
    }
    Ok(())
}

/// The fall-back of [`set_attributes`] for an attached mount: bind remounts, of all mounts below it
/// too if `recursive`.
pub fn remount(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    recursive: bool,
) -> CallResult<()> {
    let path = rustix::fs::readlink(proc_path(mount), Vec::new()).call(|| "readlink(mount)".into())?;
    let top = path.to_string_lossy().into_owned();
    let mut targets = vec![proc_path(mount)];
    if recursive {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        targets.extend(mounts_below(&text, &top));
    }
    for target in targets {
        let now = rustix::fs::statvfs(target.as_str()).call(|| format!("statvfs({target})"))?.f_flag;
        let mut flags = MountFlags::BIND;
        for (attribute, flag, reported) in [
            (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY, StatVfsMountFlags::RDONLY),
            (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID, StatVfsMountFlags::NOSUID),
            (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV, StatVfsMountFlags::NODEV),
            (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC, StatVfsMountFlags::NOEXEC),
            (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME, StatVfsMountFlags::NOATIME),
            (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME, StatVfsMountFlags::NODIRATIME),
        ] {
            if set.contains(attribute) || (now.contains(reported) && !clear.contains(attribute)) {
                flags |= flag;
            }
        }
        rustix::mount::mount_remount(target.as_str(), flags, c"")
            .call(|| format!("mount({target}, REMOUNT, {flags:?})"))?;
    }
    Ok(())
}

/// The mount points of mountinfo below `top`, unescaped.
fn mounts_below(mountinfo: &str, top: &str) -> Vec<String> {
    let prefix = format!("{}/", top.trim_end_matches('/'));
    let unescape = |text: &str| {
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
    };
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(unescape).filter(|point| point.starts_with(&prefix)).collect()
}

/// Changes how mounts propagate at `path` and below.
pub fn set_propagation(path: &str, flags: PropagationFlags) -> CallResult<()> {
    rustix::mount::mount_change(path, flags).call(|| format!("mount({path}, {flags:?})"))
}

/// Unmounts `path` now from the tree, and for good when nobody uses it any more.
pub fn detach(path: &str) -> CallResult<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).call(|| format!("umount({path}, DETACH)"))
}

/// Makes the directory of the mount behind `root` the root of this mount namespace; the old root is
/// gone afterwards and the working directory is `/`.
pub fn pivot_root(root: BorrowedFd<'_>) -> CallResult<()> {
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(|| "open(/)".into())?;
    rustix::process::fchdir(root).call(|| "fchdir(rootfs)".into())?;
    // Both names are ".": the old root ends up below the new one, in the same place.
    rustix::process::pivot_root(".", ".").call(|| "pivot_root(., .)".into())?;
    rustix::process::fchdir(&old).call(|| "fchdir(old root)".into())?;
    set_propagation(".", PropagationFlags::DOWNSTREAM | PropagationFlags::REC)?;
    detach(".")?;
    rustix::process::chdir("/").call(|| "chdir(/)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_point_are_found_unescaped() {
        let text = "1 0 8:0 / / rw - ext4 x rw\n2 1 0:1 / /a\\040b rw - tmpfs t rw\n3 2 0:2 / /a\\040b/c rw - tmpfs t rw\n\
            4 1 0:3 / /a\\040bc rw - tmpfs t rw\n";
        assert_eq!(mounts_below(text, "/a b"), ["/a b/c"]);
        assert_eq!(mounts_below(text, "/").len(), 4);
    }

    /// Runs `test` in a thread with a mount namespace of its own, if that may be.
    fn alone(test: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // A mount namespace needs a working directory of the thread's own.
                crate::namespace::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
                set_propagation("/", PropagationFlags::PRIVATE | PropagationFlags::REC).unwrap();
                test();
            });
            thread.join().expect("the test passes");
        });
    }

    fn layers(directory: &std::path::Path, count: usize) -> Vec<OwnedFd> {
        (0..count)
            .map(|n| {
                let path = directory.join(format!("layer-{n}"));
                std::fs::create_dir_all(&path).unwrap();
                std::fs::write(path.join("same"), n.to_string()).unwrap();
                std::fs::write(path.join(format!("own-{n}")), "").unwrap();
                rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .unwrap()
            })
            .collect()
    }

    fn names(tree: &OwnedFd) -> Vec<String> {
        let directory =
            rustix::fs::openat(tree, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let entries = rustix::fs::Dir::read_from(&directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = entries.filter(|n| !n.starts_with('.')).collect();
        names.sort();
        names
    }

    fn read(tree: &OwnedFd, name: &str) -> String {
        let file = rustix::fs::openat(tree, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        std::io::read_to_string(std::fs::File::from(file)).unwrap()
    }

    #[test]
    fn privileged_overlays_are_made_in_every_way() {
        alone(|| {
            let directory = std::env::temp_dir().join(format!("re-overlay-{}", std::process::id()));
            for (round, count) in [(0, 1), (1, 2), (2, 60)] {
                let place = directory.join(round.to_string());
                let fds = layers(&place, count);
                let lowers: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                for (upper, make) in
                    [("a", overlay as fn(&OverlayRequest<'_>) -> CallResult<OwnedFd>), ("b", overlay_by_text)]
                {
                    let open = |name: &str| {
                        let path = place.join(format!("{upper}-{name}"));
                        std::fs::create_dir_all(&path).unwrap();
                        rustix::fs::open(
                            &path,
                            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                            Mode::empty(),
                        )
                        .unwrap()
                    };
                    let (up, work) = (open("upper"), open("work"));
                    let request = OverlayRequest {
                        lowers: &lowers,
                        upper: Some((up.as_fd(), work.as_fd())),
                        volatile: true,
                        userxattr: false,
                    };
                    let tree = make(&request).unwrap();
                    assert_eq!(names(&tree).len(), count + 1, "{upper} {count}");
                    assert_eq!(read(&tree, "same"), "0", "the first layer is the topmost");
                    rustix::fs::mkdirat(&tree, "new", Mode::from_raw_mode(0o755)).unwrap();
                    assert_eq!(names(&up), ["new"]);
                    drop(tree);
                    if count > 1 || upper == "a" {
                        let tree = make(&OverlayRequest { upper: None, ..request }).unwrap();
                        let made = rustix::fs::mkdirat(&tree, "no", Mode::from_raw_mode(0o755));
                        assert_eq!(made, Err(Errno::ROFS));
                        assert_eq!(names(&tree).len(), count + 1);
                    }
                }
            }
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!mounts.contains("re-overlay-"), "nothing stays mounted");
            std::fs::remove_dir_all(&directory).unwrap();
        });
    }
}
