//! A display for a further process in a container that was started without one (`exec --gui`): the
//! sockets' directory and that of the private files are mounted while the container runs.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use robot_env_device::{SpecEdits, inside};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::fs as sys_fs;
use robot_env_sys::mount::{self, Attributes, PropagationFlags};
use rustix::fs::{Mode, OFlags};

use super::live::in_mounts_of;

/// Mounts the directories of `edits` that the running container of process `pid` lacks. It gets no
/// device and no socket of Wayland or sound: those belong to a start.
pub(crate) fn mount_directories(pid: i32, edits: &SpecEdits) -> Result<()> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(&path, flags, Mode::empty()).io_context(|| format!("cannot open `{path}`"))?;
    for wanted in &edits.mounts {
        let source = Path::new(&wanted.source);
        let Ok(here) = fs::metadata(source) else { continue };
        if !here.is_dir() || wanted.target.starts_with("/usr/") {
            continue;
        }
        let place = inside::make_directory(root.as_fd(), &wanted.target, (0, 0))
            .within(|| format!("cannot make `{}` in the container", wanted.target))?;
        let there = rustix::fs::fstat(&place).io_context(|| format!("fstat({})", wanted.target))?;
        if (there.st_dev, there.st_ino) == (here.dev(), here.ino()) {
            continue;
        }
        let tree = mount::clone_path(&wanted.source, false)?;
        in_mounts_of(pid, || {
            let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .io_context(|| "cannot open the container's root".into())?;
            let target =
                sys_fs::open_in_root(root.as_fd(), &wanted.target, OFlags::PATH | OFlags::DIRECTORY)?;
            mount::attach(tree.as_fd(), target.as_fd())?;
            let set =
                Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV;
            let private = Some(PropagationFlags::PRIVATE);
            match mount::set_attributes(tree.as_fd(), set, Attributes::empty(), private, false) {
                Err(error) if error.errno() == rustix::io::Errno::NOSYS => {
                    Ok(mount::remount(tree.as_fd(), set, Attributes::empty(), false)?)
                }
                done => Ok(done?),
            }
        })
        .map_err(|error| {
            Error::new(Kind::Denied, format!("cannot mount `{}` in the running container", wanted.target))
                .because(error)
        })?;
    }
    Ok(())
}
