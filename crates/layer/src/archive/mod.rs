//! The tar format: a strict, total and bounded streaming reader, and a canonical writer.
//!
//! Read: v7, ustar, star, GNU (long names, old sparse files, base-256 numbers) and PAX (POSIX.1-2001
//! with xattrs as SCHILY and LIBARCHIVE write them, sparse formats 0.0, 0.1 and 1.0). Written:
//! ustar, with a PAX header only where ustar cannot say it.

mod entry;
mod header;
mod members;
mod pax;
mod reader;
mod source;
mod sparse;
mod writer;

use std::io;

use robot_env_diag::{Error, Kind};

pub(crate) use entry::{Entry, EntryKind, Segment, Shown, Time, Xattr};
pub use members::{Member, MemberKind, Members, MembersWriter};
pub(crate) use reader::{NoTap, Reader, Tap};
pub(crate) use source::SourceOptions;
pub(crate) use writer::{EntryWriter, Meta};

/// Length of a tar block in bytes.
pub(crate) const BLOCK: usize = 512;

/// The largest extended header (PAX record block, GNU long name) that is read, in bytes.
pub(crate) const EXTENSION_LIMIT: u64 = 1024 * 1024;

/// A failed read or write as an error of ours. An [`Error`] that travelled inside comes out as
/// the cause with its own kind.
pub(crate) fn io_error(error: io::Error, message: impl Into<String>) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(inner) => return inner.within(message),
        Err(error) => error,
    };
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            if error.raw_os_error().is_none() =>
        {
            Kind::Corrupt
        }
        io::ErrorKind::StorageFull => Kind::NoSpace,
        _ => match Kind::of_io(&error) {
            // Decoders report a broken stream as an error of no particular kind.
            Kind::Internal if error.raw_os_error().is_none() => Kind::Corrupt,
            kind => kind,
        },
    };
    Error::new(kind, message).because(error)
}

/// The number of padding bytes behind `size` bytes of payload.
pub(crate) fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
