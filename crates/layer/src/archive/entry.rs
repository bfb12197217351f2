use std::fmt;

use rustix::fs::Timespec;

/// What an entry makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EntryKind {
    #[default]
    File,
    Directory,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
    /// Something that makes nothing (a GNU volume label).
    Nothing,
}

/// A time with nanoseconds; seconds since 1970, may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl Time {
    pub(crate) fn timespec(self) -> Timespec {
        Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.into() }
    }
}

/// A stretch of data in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xattr {
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// One entry of a tar with everything that its extended headers say. The buffers are used again
/// for the next entry.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// The name as the archive has it: not normalised, not trusted.
    pub(crate) path: Vec<u8>,
    /// Target of a link, not trusted.
    pub(crate) link: Vec<u8>,
    /// Permission bits, 07777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) atime: Option<Time>,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) xattrs: Vec<Xattr>,
    /// Bytes of payload in the archive, behind a sparse map if there is one.
    pub(crate) size: u64,
    /// Length of the file that it makes.
    pub(crate) real_size: u64,
    /// Where the payload goes; sorted, not overlapping, inside `real_size`, `size` bytes in all.
    /// None: the file is not sparse.
    pub(crate) sparse: Option<Vec<Segment>>,
}

impl Entry {
    pub(crate) fn clear(&mut self) {
        self.path.clear();
        self.link.clear();
        self.xattrs.clear();
        self.atime = None;
        self.sparse = None;
        self.major = 0;
        self.minor = 0;
    }

    /// The name for a message.
    pub(crate) fn name(&self) -> Shown<'_> {
        Shown(&self.path)
    }
}

/// Shows the bytes of a file name in a message.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        if text.chars().count() > 512 {
            let start: String = text.chars().take(480).collect();
            return write!(f, "{start}...");
        }
        f.write_str(&text)
    }
}
