//! Making files, directories, links and device nodes from tar entries.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::CallError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno;

use crate::archive::{Entry, EntryKind, Reader, Shown, Tap, Time};
use crate::options::Skipped;
use crate::xattr::{self, Place};

/// Who owns what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// As the entry says.
    Entry,
    /// Whoever makes it: nothing is changed.
    Maker,
    /// These ids.
    Fixed(u32, u32),
}

/// Makes files as entries say, with no call that would change nothing.
pub(crate) struct Maker {
    owner: Owner,
    umask: u32,
    own_ids: (u32, u32),
    /// Whether a new file may get a group that is not ours (from a set-group-id directory).
    foreign_groups: bool,
    pub(crate) skipped: Skipped,
}

/// What [`Maker::create`] made.
pub(crate) enum Created {
    /// An empty file, open for writing.
    File(OwnedFd),
    /// Something without content.
    Node,
    /// Nothing: the kernel does not let us make such a node.
    Refused,
}

impl Maker {
    pub(crate) fn new(owner: Owner, foreign_groups: bool) -> Self {
        let own_ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Maker { owner, umask: current_umask(), own_ids, foreign_groups, skipped: Skipped::default() }
    }

    /// Makes what is not a directory or a hardlink, as `name` in `dir`, which must be free
    /// (`EEXIST` otherwise). Files are finished with [`Maker::finish_file`], the others with
    /// [`Maker::finish_node`].
    pub(crate) fn create(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Created, CallError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let kind = match entry.kind {
            EntryKind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return match rustix::fs::openat(dir, name, flags, mode) {
                    Ok(file) => Ok(Created::File(file)),
                    Err(errno) => {
                        Err(CallError::new(format!("openat({}, O_CREAT|O_EXCL)", Shown(name)), errno))
                    }
                };
            }
            EntryKind::Symlink => {
                return match rustix::fs::symlinkat(&entry.link[..], dir, name) {
                    Ok(()) => Ok(Created::Node),
                    Err(errno) => Err(CallError::new(
                        format!("symlinkat({}, {})", Shown(&entry.link), Shown(name)),
                        errno,
                    )),
                };
            }
            EntryKind::Char => FileType::CharacterDevice,
            EntryKind::Block => FileType::BlockDevice,
            EntryKind::Fifo => FileType::Fifo,
            EntryKind::Directory | EntryKind::Hardlink | EntryKind::Nothing => return Ok(Created::Refused),
        };
        let device = rustix::fs::makedev(entry.major, entry.minor);
        match rustix::fs::mknodat(dir, name, kind, mode, device) {
            Ok(()) => Ok(Created::Node),
            Err(Errno::PERM) if kind != FileType::Fifo => {
                self.skipped.devices += 1;
                Ok(Created::Refused)
            }
            Err(errno) => {
                let call = format!("mknodat({}, {}:{})", Shown(name), entry.major, entry.minor);
                Err(CallError::new(call, errno))
            }
        }
    }

    /// Owner, xattrs, mode and times of a file, after its content was written.
    pub(crate) fn finish_file(&mut self, file: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        if let Some((uid, gid)) = self.change_owner(entry.uid, entry.gid) {
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|errno| chown_failed(errno, uid, gid))?;
        }
        self.set_xattrs(Place::Open(file), entry)?;
        // A change of owner, or a write in a user namespace, drops the special bits.
        if self.needs_chmod(entry.mode) {
            rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
                .map_err(|errno| CallError::new(format!("fchmod({:o})", entry.mode), errno))?;
        }
        rustix::fs::futimens(file, &times(entry)).map_err(|errno| CallError::new("futimens", errno))?;
        Ok(())
    }

    /// The same for a symbolic link, device or fifo.
    pub(crate) fn finish_node(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
        self.own_entry(dir, name, entry.uid, entry.gid)?;
        self.set_xattrs(Place::Entry(dir, name), entry)?;
        if entry.kind != EntryKind::Symlink && self.needs_chmod(entry.mode) {
            chmod_entry(dir, name, entry.mode)?;
        }
        set_times(dir, name, &times(entry))
    }

    /// Changes the owner of an entry of `dir`, if that changes anything.
    pub(crate) fn own_entry(&self, dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<()> {
        if let Some((uid, gid)) = self.change_owner(uid, gid) {
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| chown_failed(errno, uid, gid))?;
        }
        Ok(())
    }

    /// The same, for what may have been owned by another before.
    pub(crate) fn own_again(&self, dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = match self.owner {
            Owner::Maker => return Ok(()),
            Owner::Entry => (uid, gid),
            Owner::Fixed(uid, gid) => (uid, gid),
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| chown_failed(errno, uid, gid))
    }

    pub(crate) fn set_xattrs(&mut self, place: Place<'_>, entry: &Entry) -> Result<()> {
        for attribute in &entry.xattrs {
            if xattr::is_overlays(&attribute.name) {
                continue;
            }
            match xattr::set(place, &attribute.name, &attribute.value) {
                Ok(()) => {}
                // The file system has no such attributes, or the user namespace may not set them.
                Err(Errno::PERM | Errno::OPNOTSUPP) => self.skipped.xattrs += 1,
                Err(errno) => {
                    let call =
                        format!("setxattr({}, {} bytes)", Shown(&attribute.name), attribute.value.len());
                    return Err(CallError::new(call, errno).into());
                }
            }
        }
        Ok(())
    }

    /// Whether a mode needs a call after the creation.
    pub(crate) fn needs_chmod(&self, mode: u32) -> bool {
        mode & (0o7000 | self.umask) != 0
    }

    fn change_owner(&self, uid: u32, gid: u32) -> Option<(Uid, Gid)> {
        let wanted = match self.owner {
            Owner::Maker => return None,
            Owner::Entry => (uid, gid),
            Owner::Fixed(uid, gid) => (uid, gid),
        };
        (wanted != self.own_ids || self.foreign_groups)
            .then(|| (Uid::from_raw(wanted.0), Gid::from_raw(wanted.1)))
    }
}

/// Makes an entry of `dir` have `mode`; it must not be a symbolic link.
pub(crate) fn chmod_entry(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(|errno| CallError::new(format!("fchmodat({}, {mode:o})", Shown(name)), errno).into())
}

pub(crate) fn set_times(dir: BorrowedFd<'_>, name: &[u8], times: &Timestamps) -> Result<()> {
    rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| CallError::new(format!("utimensat({})", Shown(name)), errno).into())
}

/// An entry's times; without one of its own, the access time is the modification time.
pub(crate) fn times(entry: &Entry) -> Timestamps {
    timestamps(entry.atime.unwrap_or(entry.mtime), entry.mtime)
}

pub(crate) fn timestamps(atime: Time, mtime: Time) -> Timestamps {
    Timestamps { last_access: atime.timespec(), last_modification: mtime.timespec() }
}

fn chown_failed(errno: Errno, uid: Uid, gid: Gid) -> Error {
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    let call = CallError::new(format!("fchownat({uid}, {gid})"), errno);
    match errno {
        Errno::INVAL => Error::new(
            Kind::Unsupported,
            format!("the ids {uid}:{gid} are not mapped in this user namespace"),
        )
        .because(call),
        _ => call.into(),
    }
}

/// Copies the payload of the current entry into an empty file; holes stay holes.
pub(crate) fn write_payload<R: Read, T: Tap>(
    reader: &mut Reader<R, T>,
    file: BorrowedFd<'_>,
    entry: &Entry,
) -> Result<()> {
    let Some(map) = &entry.sparse else {
        loop {
            let chunk = reader.chunk(u64::MAX)?;
            if chunk.is_empty() {
                return Ok(());
            }
            match rustix::io::write(file, chunk) {
                Ok(n) => reader.consume(n),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(write_failed(errno, entry)),
            }
        }
    };
    for segment in map {
        let mut done = 0;
        while done < segment.length {
            let chunk = reader.chunk(segment.length - done)?;
            match rustix::io::pwrite(file, chunk, segment.offset + done) {
                Ok(n) => {
                    done += n as u64;
                    reader.consume(n);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(write_failed(errno, entry)),
            }
        }
    }
    rustix::fs::ftruncate(file, entry.real_size).map_err(|errno| write_failed(errno, entry))
}

fn write_failed(errno: Errno, entry: &Entry) -> Error {
    let call = CallError::new(format!("write({} bytes in all)", entry.size), errno);
    out_of_space(&call).unwrap_or_else(|| call.into())
}

/// The error for a call that failed because disk space, inodes or a quota ran out.
pub(crate) fn out_of_space(call: &CallError) -> Option<Error> {
    let what = match call.errno() {
        Errno::NOSPC => "no space or no inodes left on the device",
        Errno::DQUOT => "the disk quota is used up",
        _ => return None,
    };
    Some(Error::new(Kind::NoSpace, what).because(call.clone()))
}

/// The process's umask, read without changing it. All bits if it cannot be read: then every mode
/// is set by a call of its own.
fn current_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o777)
}

/// Whether a device number and type are those of an overlay whiteout.
pub(crate) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The file type in a stat.
pub(crate) fn file_type(stat: &rustix::fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Attributes of an entry of `dir`, not following a symbolic link; none if it does not exist.
pub(crate) fn stat(dir: impl AsFd, name: &[u8]) -> Result<Option<rustix::fs::Stat>, CallError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(CallError::new(format!("fstatat({})", Shown(name)), errno)),
    }
}
