//! Namespaces and id maps.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{CallError, CallResult, ErrnoContext};

/// `CLONE_NEW*` bits.
pub type Flags = libc::c_int;

/// The bit of a namespace by the name that `/proc/PID/ns` uses.
pub fn flag(name: &str) -> Option<Flags> {
    Some(match name {
        "mnt" => libc::CLONE_NEWNS,
        "pid" => libc::CLONE_NEWPID,
        "net" => libc::CLONE_NEWNET,
        "ipc" => libc::CLONE_NEWIPC,
        "uts" => libc::CLONE_NEWUTS,
        "user" => libc::CLONE_NEWUSER,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "time" => 0x80, // CLONE_NEWTIME
        _ => return None,
    })
}

/// Whether this is not the first user namespace, which maps every id to itself.
pub fn is_user_namespace() -> bool {
    let map = crate::fs::kernel_text("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// The caller's effective user id outside of any user namespace that it is in; `None` where its map does
/// not say.
pub fn user_outside() -> Option<u32> {
    let map = crate::fs::kernel_text("/proc/self/uid_map").ok()?;
    outside(&map, rustix::process::geteuid().as_raw())
}

/// What `id` is by the lines `inside outside count` of a map (user_namespaces(7)).
fn outside(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|text| text.parse::<u32>().ok());
        let mut next = || numbers.next()?;
        let (inside, outside, count) = (next()?, next()?, next()?);
        id.checked_sub(inside).filter(|offset| *offset < count)?.checked_add(outside)
    })
}

/// Opens a namespace by its path.
pub fn open(path: &str) -> CallResult<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open({path})"))
}

/// Moves the calling thread into the namespace behind `fd` (or, for a pidfd, into all namespaces
/// of the process that `flags` names).
pub fn join(fd: BorrowedFd<'_>, flags: Flags) -> CallResult<()> {
    // SAFETY: setns takes two numbers; the descriptor is open.
    let rc = unsafe { libc::setns(fd.as_raw_fd(), flags) };
    if rc < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(CallError::new(format!("setns({flags:#x})"), errno));
    }
    Ok(())
}

/// Gives the calling thread new namespaces.
pub fn unshare(flags: Flags) -> CallResult<()> {
    // SAFETY: none of the namespace flags changes what memory or descriptors this thread shares.
    let rc = unsafe { libc::unshare(flags) };
    if rc < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(CallError::new(format!("unshare({flags:#x})"), errno));
    }
    Ok(())
}

/// Does something in another network namespace; the calling thread is where it was afterwards.
///
/// Whoever is root of a user namespace only may not go back to the host's network. Then a thread
/// goes there and does it; when this returns it is gone.
pub fn visit_network<T: Send>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> T + Send) -> CallResult<T> {
    let home = open("/proc/thread-self/ns/net")?;
    match join(home.as_fd(), libc::CLONE_NEWNET) {
        Ok(()) => {
            join(namespace, libc::CLONE_NEWNET)?;
            let done = act();
            join(home.as_fd(), libc::CLONE_NEWNET)?;
            Ok(done)
        }
        Err(error) if error.errno() == Errno::PERM => {
            let threads = crate::process::Threads::now();
            let done = std::thread::scope(|scope| {
                let visitor = scope.spawn(|| join(namespace, libc::CLONE_NEWNET).map(|()| act()));
                visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            threads.await_return();
            done
        }
        Err(error) => Err(error),
    }
}

/// A range of ids: `inside` in the namespace is `outside` in its parent, for `count` ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// A user namespace in which nobody is, with these maps.
pub fn with_maps(users: &[IdRange], groups: &[IdRange]) -> CallResult<OwnedFd> {
    use crate::process::{CloneRequest, Cloned};
    let (end, line) = crate::poll::pipe()?;
    let request = CloneRequest { namespaces: libc::CLONE_NEWUSER, ..CloneRequest::default() };
    match crate::process::clone(&request)? {
        Cloned::Child => {
            let _ = crate::process::close_all_but(&[end.as_raw_fd()]);
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&end, &mut [0u8; 1]));
            crate::poll::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let made =
                write_id_maps(pid, users, groups, false).and_then(|()| open(&format!("/proc/{pid}/ns/user")));
            drop(line);
            let _ = crate::process::wait(&pidfd);
            made
        }
    }
}

/// Writes the id maps of a process directly: only what the kernel lets the caller map (everything
/// for root, one's own id otherwise).
pub fn write_id_maps(
    pid: i32,
    users: &[IdRange],
    groups: &[IdRange],
    deny_setgroups: bool,
) -> CallResult<()> {
    let text = |ranges: &[IdRange]| {
        ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect::<String>()
    };
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        let fd = rustix::fs::open(path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({path})"))?;
        rustix::io::write(fd.as_fd(), text.as_bytes()).map(drop).call(|| format!("write({path}, {text:?})"))
    };
    if deny_setgroups {
        write("setgroups", "deny")?;
    }
    write("uid_map", &text(users))?;
    write("gid_map", &text(groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_somebody_is_outside() {
        let podman = "         0       1000          1\n         1     100000      65536\n";
        for (map, id, want) in [
            ("0 0 4294967295\n", 7, Some(7)),
            (podman, 0, Some(1000)),
            (podman, 1, Some(100_000)),
            (podman, 65_536, Some(165_535)),
            (podman, 65_537, None),
            ("", 0, None),
            ("0 x 1\n", 0, None),
        ] {
            assert_eq!(outside(map, id), want, "{map} {id}");
        }
    }
}
