//! Waiting for a file of a directory to change, without asking again and again.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// How long to wait between two looks where the kernel has no watch to give.
const BLIND: Duration = Duration::from_millis(100);

/// Hears of everything that is written, made, renamed or removed in a directory. Where the user's
/// inotify instances are used up, it only knows how to wait a little.
pub(crate) struct Watch(Option<OwnedFd>);

impl Watch {
    pub(crate) fn new(directory: &Path) -> Watch {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF;
        let watching = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .and_then(|fd| inotify::add_watch(&fd, directory, flags).map(|_| fd));
        Watch(watching.ok())
    }

    /// What can be read when something has happened; `None` where the kernel had no watch to give.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Waits until something has happened, `also` can be read, or `patience` is over. Something that
    /// happened since the last call counts.
    pub(crate) fn wait(&self, also: Option<BorrowedFd<'_>>, patience: Duration) {
        let patience = if self.0.is_some() { patience } else { patience.min(BLIND) };
        let time =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        let fds = self.0.iter().map(AsFd::as_fd).chain(also);
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // A signal that arrives ends the waiting too: the caller looks again.
        let _ = poll(&mut fds, Some(&time));
        if let Some(fd) = &self.0 {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            let mut events = Reader::new(fd, &mut buffer);
            while events.next().is_ok() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use robot_env_testkit::temporary::TemporaryDirectory;

    use super::*;

    #[test]
    fn a_write_wakes_and_silence_does_not() {
        let directory = TemporaryDirectory::new("watch");
        let watch = Watch::new(directory.path());
        std::fs::write(directory.join("a"), "x").unwrap();
        let started = Instant::now();
        watch.wait(None, Duration::from_secs(20));
        assert!(started.elapsed() < Duration::from_secs(10), "what happened before counts");
        watch.wait(None, Duration::from_millis(30));
        assert!(started.elapsed() >= Duration::from_millis(30), "nothing has happened since");
    }
}
