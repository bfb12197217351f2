//! Open-file-description locks (`fcntl(2)`, F_OFD_SETLK): they belong to the open file, not to the
//! process, so closing another descriptor of the same file does not drop them.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::{CallError, CallResult};

fn lock(fd: impl AsFd, kind: libc::c_int, wait: bool) -> Result<(), Errno> {
    // SAFETY: an all-zero flock is a valid value: the whole file, from its start.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    loop {
        // SAFETY: the descriptor is open and `request` is a valid flock for the call's duration.
        let rc = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut request) };
        if rc == 0 {
            return Ok(());
        }
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        if errno != Errno::INTR {
            return Err(errno);
        }
    }
}

/// Waits for the exclusive lock. It lasts until every copy of the descriptor is closed. The file
/// must be open for writing.
pub fn lock_exclusive(fd: impl AsFd) -> CallResult<()> {
    lock(fd, libc::F_WRLCK, true).map_err(|errno| CallError::new("fcntl(F_OFD_SETLKW, F_WRLCK)", errno))
}

/// Waits for the shared lock. The file must be open for reading.
pub fn lock_shared(fd: impl AsFd) -> CallResult<()> {
    lock(fd, libc::F_RDLCK, true).map_err(|errno| CallError::new("fcntl(F_OFD_SETLKW, F_RDLCK)", errno))
}

/// Takes the exclusive lock if it is free; says whether it was.
pub fn try_lock_exclusive(fd: impl AsFd) -> CallResult<bool> {
    match lock(fd, libc::F_WRLCK, false) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(CallError::new("fcntl(F_OFD_SETLK, F_WRLCK)", errno)),
    }
}

/// Waits at most `patience` for the exclusive lock; says whether it was taken.
pub fn lock_exclusive_within(fd: impl AsFd, patience: Duration) -> CallResult<bool> {
    within(patience, || try_lock_exclusive(&fd))
}

/// Takes the shared lock if nobody holds the exclusive one; says whether it was taken.
pub fn try_lock_shared(fd: impl AsFd) -> CallResult<bool> {
    match lock(fd, libc::F_RDLCK, false) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(CallError::new("fcntl(F_OFD_SETLK, F_RDLCK)", errno)),
    }
}

/// Waits at most `patience` for the shared lock; says whether it was taken.
pub fn lock_shared_within(fd: impl AsFd, patience: Duration) -> CallResult<bool> {
    within(patience, || try_lock_shared(&fd))
}

/// Tries again and again, at first often: most locks are held for less than a millisecond.
fn within(patience: Duration, mut attempt: impl FnMut() -> CallResult<bool>) -> CallResult<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(100);
    loop {
        if attempt()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Drops the lock, for every copy of the descriptor, also those that a fork made.
pub fn unlock(fd: impl AsFd) -> CallResult<()> {
    lock(fd, libc::F_UNLCK, false).map_err(|errno| CallError::new("fcntl(F_OFD_SETLK, F_UNLCK)", errno))
}

/// A held lock on a file that the guard owns; it ends, for every copy of the descriptor, when the
/// guard is dropped.
#[derive(Debug)]
pub struct Held(std::os::fd::OwnedFd);

impl Held {
    /// Makes a guard of a descriptor whose lock was just taken.
    pub fn new(fd: std::os::fd::OwnedFd) -> Self {
        Held(fd)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = unlock(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_belong_to_the_open_file() {
        let path = std::env::temp_dir().join(format!("re-lock-{}", std::process::id()));
        let open = || {
            std::fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let (a, b) = (open(), open());
        lock_exclusive(&a).unwrap();
        assert!(!try_lock_exclusive(&b).unwrap());
        assert!(!lock_exclusive_within(&b, Duration::from_millis(10)).unwrap());
        drop(open());
        assert!(!try_lock_exclusive(&b).unwrap(), "closing another descriptor dropped the lock");
        drop(a);
        assert!(try_lock_exclusive(&b).unwrap());
        std::fs::remove_file(path).unwrap();
    }
}
