//! The trash: removing is a rename; deleting comes later, by whoever has time.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Result, Within};
use robot_env_sys::fs::{self, Removal};
use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use crate::{Store, failpoint, random_name};

/// What [`Store::empty_trash`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Entries that are gone.
    pub removed: usize,
    /// Whether nothing is left, but what another process is deleting now.
    pub done: bool,
}

impl Store {
    /// Deletes what was removed, for at most `deadline` (`None`: all of it). Any number of
    /// processes may do so at once.
    pub fn empty_trash(&self, deadline: Option<Duration>) -> Result<Emptied> {
        let started = Instant::now();
        let mut go_on = || deadline.is_none_or(|deadline| started.elapsed() < deadline);
        let trash = self.dir("trash")?;
        let mut emptied = Emptied { removed: 0, done: true };
        for name in fs::names(&trash)? {
            // One deletes, the others take the next entry. `entry` holds the lock.
            let entry = fs::open_readable_dir_at(&trash, &name);
            if let Ok(entry) = &entry
                && rustix::fs::flock(entry, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN)
            {
                continue;
            }
            if matches!(rustix::fs::statat(&trash, &name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
                continue;
            }
            failpoint!("store.trash.entry");
            let removed = fs::remove_tree_at(&trash, &name, &mut go_on).map_err(Error::from);
            match removed.within(|| format!("cannot empty trash of store `{}`", self.path.display()))? {
                Removal::Done => emptied.removed += 1,
                Removal::Interrupted => {
                    emptied.done = false;
                    break;
                }
            }
        }
        Ok(emptied)
    }

    /// Whether nothing waits to be deleted.
    pub fn trash_is_empty(&self) -> Result<bool> {
        Ok(fs::names(self.dir("trash")?)?.is_empty())
    }

    /// Moves `name` of `dir` to the trash; `None` when there is no such thing. Gives its new name.
    pub(crate) fn trash(&self, dir: impl AsFd, name: &str) -> Result<Option<String>> {
        let trash = self.dir("trash")?;
        let new_name = random_name()?;
        match rustix::fs::renameat(&dir, name, &trash, &new_name) {
            Ok(()) => Ok(Some(new_name)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                let from = fs::location(&dir).join(name).display().to_string();
                Err(robot_env_sys::CallError::new(format!("rename({from} -> trash/{new_name})"), errno)
                    .into())
            }
        }
    }
}
