//! Extended attributes by directory descriptor and name, through `/proc/self/fd`: the kernel's
//! calls by descriptor don't take `O_PATH` descriptors or symbolic links.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use robot_env_diag::Result;
use robot_env_sys::ErrnoContext;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::archive::{Shown, Xattr};

/// The most bytes of names, and of one value, that Linux allows.
const LIMIT: usize = 64 * 1024;

/// Whether a name belongs to the overlay file system: such an attribute never comes from an image
/// and never gets into one. The escaped forms (`trusted.overlay.overlay.*`) are among them.
pub(crate) fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Where an attribute stands.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// An open file or directory (not an `O_PATH` descriptor).
    Open(BorrowedFd<'a>),
    /// The directory of an `O_PATH` descriptor.
    Directory(BorrowedFd<'a>),
    /// An entry of a directory; a symbolic link itself and not its target.
    Entry(BorrowedFd<'a>, &'a [u8]),
}

impl Place<'_> {
    fn path(self) -> Vec<u8> {
        match self {
            Place::Open(fd) | Place::Directory(fd) => {
                format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
            }
            Place::Entry(fd, name) => {
                let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                path
            }
        }
    }
}

pub(crate) fn set(place: Place<'_>, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    match place {
        Place::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
        Place::Directory(_) => rustix::fs::setxattr(place.path(), name, value, XattrFlags::empty()),
        Place::Entry(..) => rustix::fs::lsetxattr(place.path(), name, value, XattrFlags::empty()),
    }
}

/// The value of one attribute; none if there is no such attribute.
pub(crate) fn get(place: Place<'_>, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        let got = match place {
            Place::Open(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
            Place::Directory(_) => rustix::fs::getxattr(place.path(), name, &mut value[..]),
            Place::Entry(..) => rustix::fs::lgetxattr(place.path(), name, &mut value[..]),
        };
        match got {
            Ok(n) => {
                value.truncate(n);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < LIMIT => value.resize(LIMIT, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// All attributes, sorted by name, without overlay's and without those that a tar cannot hold (a
/// `=` in the name).
pub(crate) fn all(place: Place<'_>) -> Result<Vec<Xattr>> {
    let mut small = [0; 1024];
    let list = |buffer: &mut [u8]| match place {
        Place::Open(fd) => rustix::fs::flistxattr(fd, buffer),
        Place::Directory(_) => rustix::fs::listxattr(place.path(), buffer),
        Place::Entry(..) => rustix::fs::llistxattr(place.path(), buffer),
    };
    let large;
    let names = match list(&mut small) {
        Ok(n) => &small[..n],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut buffer = vec![0; LIMIT];
            let n = list(&mut buffer).call(|| "listxattr".to_owned())?;
            buffer.truncate(n);
            large = buffer;
            &large
        }
        Err(errno) => return Err(errno).call(|| "listxattr".to_owned())?,
    };
    let mut out = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if is_overlays(name) || name == b"security.selinux" || name.contains(&b'=') {
            continue;
        }
        let value = get(place, name).call(|| format!("getxattr({})", Shown(name)))?;
        if let Some(value) = value {
            out.push(Xattr { name: name.to_vec(), value });
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Which attribute marks a directory as opaque.
pub(crate) fn is_opaque(place: Place<'_>, opaque: &[u8]) -> Result<bool> {
    let value = get(place, opaque).call(|| format!("getxattr({})", Shown(opaque)))?;
    Ok(value.as_deref() == Some(b"y"))
}

/// [`Place::Directory`] of something that owns a descriptor.
pub(crate) fn directory(fd: &impl AsFd) -> Place<'_> {
    Place::Directory(fd.as_fd())
}
