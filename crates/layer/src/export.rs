//! A plain tar of any tree.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use robot_env_diag::{Error, Result, Within};
use robot_env_sys::ErrnoContext;
use robot_env_sys::fs::is_kernel_file_system;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::archive::Shown;
use crate::directories::open_directory;
use crate::make;
use crate::options::Skipped;
use crate::pack::Packer;
use crate::path;
use crate::walk::{Item, walk};

/// What of a tree goes into a tar, and under which name.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Only this entry of the directory, and what is below it; not followed if it is a symbolic
    /// link. None: all entries.
    pub entry: Option<Vec<u8>>,
    /// The name in the tar of that entry, or of the directory itself (which then has an entry).
    /// Empty: names are relative to the directory and it has no entry; an `entry` keeps its name.
    pub prefix: Vec<u8>,
}

/// A tar that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Length of the tar in bytes.
    pub tar_size: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// What was left out: sockets.
    pub skipped: Skipped,
}

/// Writes the directory `tree` as a tar: sorted, with hardlinks, xattrs, devices and sparse files,
/// no whiteouts. Symbolic links are stored and never followed.
///
/// What is mounted below comes along, but for the kernel's own file systems (`/proc`, `/sys`): their
/// directories are there, and empty.
///
/// Files that change meanwhile (a running container) are stored as they are found; one that gets
/// shorter while it is read ends in zeros.
pub fn export(tree: BorrowedFd<'_>, out: &mut dyn Write, options: &ExportOptions) -> Result<Exported> {
    export_as(tree, out, options, &|uid, gid| (uid, gid))
}

/// [`export`], with other owners in the tar: `owners` says which ids stand for a file's.
pub fn export_as(
    tree: BorrowedFd<'_>,
    out: &mut dyn Write,
    options: &ExportOptions,
    owners: &dyn Fn(u32, u32) -> (u32, u32),
) -> Result<Exported> {
    let mut exporter = Exporter { packer: Packer::new(out, false, None), time: None, owners };
    if let Some(name) = &options.entry {
        let shown = || format!("cannot export `{}`", Shown(name));
        let stat = make::stat(tree, name)?.ok_or_else(|| Error::not_found("no such file")).within(shown)?;
        let in_tar = if options.prefix.is_empty() { name } else { &options.prefix };
        let changed = exporter.changed(&stat);
        exporter.packer.add(tree, name, &changed, in_tar, name).within(shown)?;
        if make::file_type(&stat) == FileType::Directory {
            let top = open_directory(tree, name, OFlags::RDONLY)?;
            exporter.below(top.as_fd(), in_tar)?;
        }
    } else {
        exporter.tree(tree, &options.prefix)?;
    }
    exporter.finish()
}

/// A tree that goes into a tar with others.
#[derive(Clone, Debug)]
pub struct ExportTree<'a> {
    /// Its directory.
    pub tree: BorrowedFd<'a>,
    /// See [`ExportOptions::prefix`].
    pub prefix: Vec<u8>,
}

/// Writes several trees as one tar, as [`export`] does; `time` (in seconds since the Unix epoch)
/// stands for the times at which their files were modified.
pub fn export_trees(trees: &[ExportTree<'_>], out: &mut dyn Write, time: Option<i64>) -> Result<Exported> {
    let mut exporter =
        Exporter { packer: Packer::new(out, false, None), time, owners: &|uid, gid| (uid, gid) };
    for ExportTree { tree, prefix } in trees {
        exporter.tree(*tree, prefix)?;
    }
    exporter.finish()
}

struct Exporter<'a> {
    packer: Packer<'a>,
    time: Option<i64>,
    owners: &'a dyn Fn(u32, u32) -> (u32, u32),
}

impl Exporter<'_> {
    fn tree(&mut self, tree: BorrowedFd<'_>, prefix: &[u8]) -> Result<()> {
        if !prefix.is_empty()
            && let Some(stat) = make::stat(tree, b".")?
        {
            let stat = self.changed(&stat);
            self.packer.add(tree, b".", &stat, prefix, b"")?;
        }
        self.below(tree, prefix)
    }

    fn below(&mut self, top: BorrowedFd<'_>, prefix: &[u8]) -> Result<()> {
        walk(top, &mut |visit| {
            let in_tar = path::join(prefix, visit.path);
            let stat = self.changed(&visit.item.stat);
            match self.packer.add(visit.dir, &visit.item.name, &stat, &in_tar, visit.path) {
                Ok(()) => Ok(!(visit.is_directory() && leads_to_kernel(top, visit.dir, visit.item)?)),
                // It went away since its directory was listed.
                Err(error) if error.kind() == robot_env_diag::Kind::NotFound => Ok(false),
                Err(error) => Err(error.within(format!("cannot export `{}`", Shown(visit.path)))),
            }
        })
    }

    fn changed(&self, stat: &Stat) -> Stat {
        let mut stat = *stat;
        (stat.st_uid, stat.st_gid) = (self.owners)(stat.st_uid, stat.st_gid);
        if let Some(seconds) = self.time {
            (stat.st_mtime, stat.st_mtime_nsec) = (seconds, 0);
        }
        stat
    }

    fn finish(self) -> Result<Exported> {
        let packed = self.packer.finish()?;
        Ok(Exported { tar_size: packed.size, entries: packed.entries, skipped: packed.skipped })
    }
}

/// Whether a directory is where a file system of the kernel's begins.
fn leads_to_kernel(top: BorrowedFd<'_>, dir: BorrowedFd<'_>, item: &Item) -> Result<bool> {
    let here = rustix::fs::fstat(top).call(|| "fstat(top)".to_owned())?;
    if here.st_dev == item.stat.st_dev {
        return Ok(false);
    }
    match open_directory(dir, &item.name, OFlags::PATH) {
        Ok(fd) => Ok(is_kernel_file_system(fd)?),
        Err(call) if matches!(call.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(call) => Err(call.into()),
    }
}
