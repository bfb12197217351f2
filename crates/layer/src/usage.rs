use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use robot_env_diag::Result;

use crate::walk::walk;

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sum of the lengths of all files in bytes, holes included, hardlinks once: what Docker calls
    /// the size.
    pub bytes: u64,
    /// Bytes that the file system has allocated, directories included: what `du` counts.
    pub allocated: u64,
    /// Files, links and directories; hardlinks once.
    pub files: u64,
}

/// Adds up a tree; its root is not counted.
pub fn usage(tree: BorrowedFd<'_>) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    walk(tree, &mut |visit| {
        let stat = &visit.item.stat;
        let is_directory = visit.is_directory();
        if !is_directory && stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) {
            return Ok(false);
        }
        usage.files += 1;
        usage.allocated += stat.st_blocks.unsigned_abs().saturating_mul(512);
        if !is_directory {
            usage.bytes = usage.bytes.saturating_add(stat.st_size.unsigned_abs());
        }
        Ok(true)
    })?;
    Ok(usage)
}
