//! Trees shown with other owners.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_spec::UserMap;
use robot_env_sys::mount::{self, Attributes, OverlayRequest};
use robot_env_sys::namespace::IdRange;
use robot_env_sys::process::{self, CloneRequest, Cloned};
use robot_env_sys::{fs as sys_fs, namespace, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::server::Server;

const DEVICE: &str = "/dev/fuse";

/// Whether what is shown stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// It does: whatever was asked once is never asked again.
    Fixed,
    /// Somebody may be changing it.
    Changing,
}

/// Trees with other owners. They are there as long as these descriptors, or a mount of them.
pub(crate) struct Shown {
    /// In the order of the trees.
    pub(crate) trees: Vec<OwnedFd>,
    /// The detached mounts that they are on; each may be a tree itself.
    mounts: Vec<OwnedFd>,
}

impl Shown {
    /// Makes an overlay with these trees among its layers; `place` is a directory for directories.
    pub(crate) fn overlay(&self, request: &OverlayRequest<'_>, place: &Path) -> Result<OwnedFd> {
        match mount::overlay(request) {
            // From 5.14 to 6.14 a layer must be mounted in the caller's mount namespace.
            Err(error) if error.errno() == Errno::INVAL && !self.mounts.is_empty() => {
                self.attached(request, place)
            }
            made => Ok(made?),
        }
    }

    /// The same while the trees are mounted below `place`.
    fn attached(&self, request: &OverlayRequest<'_>, place: &Path) -> Result<OwnedFd> {
        let mut used = Vec::new();
        let overlay = (|| {
            for (number, mount) in self.mounts.iter().enumerate() {
                let directory = place.join(format!("{}-{number}", sys_fs::temporary_name()));
                crate::paths::make_directory(&directory, 0o700)?;
                used.push(directory.clone());
                mount::attach(mount.as_fd(), sys_fs::open_directory(&directory)?.as_fd())?;
            }
            Ok(mount::overlay(request)?)
        })();
        for directory in used {
            let _ = mount::detach(&directory.to_string_lossy());
            let _ = std::fs::remove_dir(directory);
        }
        overlay
    }
}

/// The trees, read-only, with each owner translated by `map` (from the trees' ids to what is shown).
///
/// # Errors
/// [`Kind::Unsupported`] or [`Kind::Denied`] with a hint where this machine has no FUSE.
pub(crate) fn show(
    trees: &[BorrowedFd<'_>],
    map: &UserMap,
    content: Content,
    rootless: bool,
) -> Result<Shown> {
    if trees.is_empty() {
        return Ok(Shown { trees: Vec::new(), mounts: Vec::new() });
    }
    if !rootless && let Ok(shown) = by_kernel(trees, map) {
        return Ok(shown);
    }
    by_server(trees, map, content).within(|| "cannot show the image's files with other owners".into())
}

/// Mounts with an id map: from Linux 5.12 on, for root, and where the file system can.
fn by_kernel(trees: &[BorrowedFd<'_>], map: &UserMap) -> Result<Shown> {
    let ranges = |list: &[robot_env_spec::IdMapping]| -> Vec<IdRange> {
        list.iter().map(|m| IdRange { inside: m.inside, outside: m.outside, count: m.count }).collect()
    };
    let users = namespace::with_maps(&ranges(&map.users), &ranges(&map.groups))?;
    let shown = trees
        .iter()
        .map(|tree| {
            let shown = mount::clone_tree(*tree, "", false)?;
            mount::set_id_map(shown.as_fd(), users.as_fd())?;
            mount::set_attributes(
                shown.as_fd(),
                Attributes::MOUNT_ATTR_RDONLY,
                Attributes::empty(),
                None,
                false,
            )?;
            Ok(shown)
        })
        .collect::<Result<Vec<_>>>()?;
    let copies = shown.iter().map(|fd| fd.try_clone().io_context(|| "cannot copy a descriptor".into()));
    Ok(Shown { mounts: copies.collect::<Result<_>>()?, trees: shown })
}

/// A process of ours answers for them, until the last mount of it is gone.
fn by_server(trees: &[BorrowedFd<'_>], map: &UserMap, content: Content) -> Result<Shown> {
    let device =
        rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(no_device)?;
    let options: Vec<String> = [
        &format!("fd={}", device.as_raw_fd()),
        "rootmode=40000",
        "user_id=0",
        "group_id=0",
        "allow_other",
        "default_permissions",
    ]
    .map(str::to_owned)
    .to_vec();
    let mount = mount::filesystem("fuse", "robot-env", &options, Attributes::MOUNT_ATTR_RDONLY)?;
    serve(&device, trees, map, content)?;
    drop(device);
    let open = |number: usize| Ok(sys_fs::open_dir_at(&mount, number.to_string())?);
    let trees = (0..trees.len()).map(open).collect::<Result<Vec<_>>>()?;
    Ok(Shown { trees, mounts: vec![mount] })
}

/// A process of its own; in a program with several threads, which cannot be cloned, one more thread.
fn serve(device: &OwnedFd, trees: &[BorrowedFd<'_>], map: &UserMap, content: Content) -> Result<()> {
    match process::clone(&CloneRequest::default()) {
        Ok(Cloned::Parent { .. }) => Ok(()),
        Ok(Cloned::Child) => {
            process::reset_signals();
            let mut keep = vec![device.as_raw_fd()];
            keep.extend(trees.iter().map(AsRawFd::as_raw_fd));
            let _ = rustix::thread::set_name(c"robot-env-view");
            let ready = process::new_session().is_ok()
                && std::fs::File::open("/dev/null").is_ok_and(|null| {
                    (0..3).all(|stream| poll::replace_stdio(stream, &null).is_ok())
                        && process::close_all_but(&keep).is_ok()
                        && {
                            std::mem::forget(null);
                            true
                        }
                });
            if ready {
                Server::new(trees, map, content).run(device.as_fd());
            }
            poll::exit_now(0)
        }
        Err(error) if error.errno() == Errno::BUSY => {
            let copy =
                |fd: BorrowedFd<'_>| fd.try_clone_to_owned().io_context(|| "cannot copy a descriptor".into());
            let device = copy(device.as_fd())?;
            let trees = trees.iter().map(|tree| copy(*tree)).collect::<Result<Vec<_>>>()?;
            let map = map.clone();
            let thread = std::thread::Builder::new().name("view".into());
            thread
                .spawn(move || {
                    let trees: Vec<_> = trees.iter().map(AsFd::as_fd).collect();
                    Server::new(&trees, &map, content).run(device.as_fd());
                })
                .map(drop)
                .io_context(|| "cannot start a thread".into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether an ordinary user's containers can have a user namespace of their own here.
///
/// # Errors
/// Why not, with the command that mends it as its hint.
pub fn check() -> Result<()> {
    use rustix::fs::{Access, access};
    access(DEVICE, Access::READ_OK | Access::WRITE_OK).map_err(no_device)
}

fn no_device(errno: Errno) -> Error {
    let (kind, reason, hint) = match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            (Kind::Unsupported, format!("there is no `{DEVICE}`"), "sudo modprobe fuse".to_owned())
        }
        _ => {
            (Kind::Denied, format!("`{DEVICE}` is closed to this user"), format!("sudo chmod 0666 {DEVICE}"))
        }
    };
    Error::new(kind, reason).with_hint(hint).because(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_spec::IdMapping;
    use robot_env_testkit::temporary::TemporaryDirectory;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    /// What kernels want that take no detached mount as a layer.
    #[test]
    #[allow(clippy::print_stdout)] // why it is skipped
    fn privileged_layers_are_mounted_for_a_moment() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        namespace::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
        let private = mount::PropagationFlags::PRIVATE | mount::PropagationFlags::REC;
        mount::set_propagation("/", private).unwrap();
        let place = TemporaryDirectory::new("view-attached");
        for name in ["lower", "upper", "work", "views"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        fs::write(place.join("lower/file"), "text").unwrap();
        let open = |name: &str| sys_fs::open_directory(&place.join(name)).unwrap();
        let (lower, upper, work) = (open("lower"), open("upper"), open("work"));
        let list = vec![IdMapping { inside: 0, outside: 7, count: 1 }];
        let map = UserMap { users: list.clone(), groups: list };
        let shown = match by_server(&[lower.as_fd()], &map, Content::Fixed) {
            Ok(shown) => shown,
            Err(error) => return println!("skipped: {error}"),
        };
        let request = OverlayRequest {
            lowers: &[shown.trees[0].as_fd()],
            upper: Some((upper.as_fd(), work.as_fd())),
            volatile: false,
            userxattr: false,
        };
        let overlay = shown.attached(&request, &place.join("views")).unwrap();
        drop(shown);
        let file = std::path::PathBuf::from(format!("/proc/self/fd/{}/file", overlay.as_raw_fd()));
        assert_eq!(fs::metadata(&file).unwrap().uid(), 7);
        fs::write(&file, "changed").unwrap();
        assert_eq!(fs::metadata(place.join("upper/file")).unwrap().uid(), 7);
        assert_eq!(fs::read_dir(place.join("views")).unwrap().count(), 0);
    }

    /// What the kernel and the server show of the same tree.
    #[test]
    #[allow(clippy::print_stdout)] // why it is skipped
    fn privileged_owners_are_translated_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let place = TemporaryDirectory::new("view");
        let tree = place.join("tree");
        fs::create_dir_all(tree.join("bin/deep")).unwrap();
        fs::write(tree.join("bin/file"), vec![7u8; 3_000_000]).unwrap();
        fs::hard_link(tree.join("bin/file"), tree.join("bin/other")).unwrap();
        symlink("../bin/file", tree.join("bin/link")).unwrap();
        chown(tree.join("bin/deep"), Some(1000), Some(7)).unwrap();
        chown(tree.join("bin/file"), Some(5), Some(5)).unwrap();
        fs::set_permissions(tree.join("bin/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        rustix::fs::setxattr(
            tree.join("bin/deep"),
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let whiteout = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("gone"), kind, Mode::empty(), whiteout).unwrap();
        let many = tree.join("many");
        fs::create_dir(&many).unwrap();
        for n in 0..3000 {
            fs::write(many.join(format!("a-rather-long-name-{n}")), "").unwrap();
        }
        let list = vec![
            IdMapping { inside: 0, outside: 100_000, count: 1000 },
            IdMapping { inside: 1000, outside: 0, count: 1 },
        ];
        let map = UserMap { users: list.clone(), groups: list };
        let opened = sys_fs::open_directory(&tree).unwrap();
        let trees = [opened.as_fd()];
        for (name, shown) in
            [("kernel", by_kernel(&trees, &map)), ("server", by_server(&trees, &map, Content::Fixed))]
        {
            let shown = match shown {
                Ok(mut shown) => shown.trees.pop().unwrap(),
                Err(error) => {
                    println!("skipped: {name}: {error}");
                    continue;
                }
            };
            let root = std::path::PathBuf::from(format!("/proc/self/fd/{}", shown.as_raw_fd()));
            let owner = |path: &str| {
                let stat = fs::symlink_metadata(root.join(path)).unwrap();
                (stat.uid(), stat.gid())
            };
            assert_eq!(owner("bin"), (100_000, 100_000), "{name}");
            assert_eq!(owner("bin/deep"), (0, 100_007), "{name}");
            assert_eq!(owner("bin/file"), (100_005, 100_005), "{name}");
            let (file, other) =
                (fs::metadata(root.join("bin/file")).unwrap(), fs::metadata(root.join("bin/other")).unwrap());
            assert_eq!((file.mode(), file.len(), file.nlink()), (0o104_750, 3_000_000, 2), "{name}");
            assert_eq!(file.ino(), other.ino(), "{name}");
            assert_eq!(fs::read(root.join("bin/link")).unwrap(), vec![7u8; 3_000_000], "{name}");
            let gone = fs::symlink_metadata(root.join("gone")).unwrap();
            assert_eq!((gone.mode() & 0o170_000, gone.rdev()), (0o020_000, 0), "{name}");
            let mut value = [0; 8];
            let length =
                rustix::fs::getxattr(root.join("bin/deep"), "trusted.overlay.opaque", &mut value).unwrap();
            assert_eq!(&value[..length], b"y", "{name}");
            assert_eq!(fs::read_dir(root.join("many")).unwrap().count(), 3000, "{name}");
            assert!(fs::metadata(root.join("nothing")).is_err(), "{name}");
            assert!(fs::write(root.join("bin/new"), "x").is_err(), "{name}: it is read-only");
        }
    }
}
