//! Something that only another process can do, without a copy of this one's memory (as vfork(2)).

use std::ffi::c_void;

use rustix::io::Errno;

use crate::process::single_threaded;
use crate::{CallError, CallResult};

/// Room for what the child calls, and for what a child of it goes on with; only what is used costs memory.
const STACK: usize = 1 << 20;
const GUARD: usize = 64 << 10;

fn last_error(call: &str) -> CallError {
    CallError::new(call, Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Memory for a stack above a part that nobody may touch.
struct Stack(*mut c_void);

impl Stack {
    fn new() -> CallResult<Stack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), GUARD + STACK, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(last_error("mmap(stack)"));
        }
        let stack = Stack(start);
        // SAFETY: lies in the mapping made above.
        let usable = unsafe { start.byte_add(GUARD) };
        // SAFETY: the same; nothing is there yet.
        if unsafe { libc::mprotect(usable, STACK, libc::PROT_READ | libc::PROT_WRITE) } < 0 {
            return Err(last_error("mprotect(stack)"));
        }
        Ok(stack)
    }

    /// Where it begins, as it grows downwards.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.0.byte_add(GUARD + STACK) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, on which nobody runs any more.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}

extern "C" fn begin(errand: *mut c_void) -> libc::c_int {
    // SAFETY: `run` passes a pointer to this type, and its frame outlives the child.
    let errand = unsafe { &mut *errand.cast::<&mut dyn FnMut()>() };
    errand();
    0
}

/// Runs `errand` in a child process and waits until that has ended. What it writes to memory is written to
/// the caller's, which stands still meanwhile; descriptors, signal handlers, namespaces, cgroups and
/// credentials are the child's own. A process that it clones has its own copy of the memory and must never
/// come back from `errand`.
///
/// It must not drop what the caller owns, and nothing but memory is shared when it panics: the child is
/// aborted. Whether others may look into the caller ([`crate::process::set_undumpable`]) is as before.
///
/// # Errors
/// EBUSY when the process has more than one thread: another one could hold a lock that `errand` needs.
pub fn run(errand: &mut dyn FnMut()) -> CallResult<()> {
    single_threaded("clone(CLONE_VM)")?;
    let stack = Stack::new()?;
    let mut errand = errand;
    // SAFETY: an all-zero sigset_t is valid and then filled.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above; it takes the old mask.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is valid.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets are valid. A handler that ran in the child would run on the caller's memory.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    // SAFETY: plain numbers.
    let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone. The caller has one thread (checked above), which the kernel
    // stops until the child has ended (CLONE_VFORK), so nothing that the child touches changes under it
    // and this frame stays.
    let pid = unsafe { libc::clone(begin, stack.top(), flags, (&raw mut errand).cast()) };
    let error = (pid < 0).then(|| last_error("clone(CLONE_VM|CLONE_VFORK)"));
    if error.is_none() {
        // SAFETY: no status is asked for; the child is this process's.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
        {}
        if dumpable == 1 {
            // SAFETY: plain numbers.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
        }
    }
    // SAFETY: `before` was filled above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll;
    use crate::process::{self, CloneRequest, Cloned};

    /// Tests have threads: what is tried is tried in a child, which has one.
    fn alone(test: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the C library's own locks are free in the child, and it takes no other.
        match unsafe { libc::fork() } {
            0 => poll::exit_now(test()),
            child => process::wait(process::pidfd_open(child).unwrap()).unwrap(),
        }
    }

    #[test]
    fn an_errand_writes_to_memory_and_changes_nothing_else() {
        let code = alone(|| {
            let (mut text, mut pid, own) = (String::new(), 0, rustix::process::getpid());
            let ran = run(&mut || {
                text.push_str(&"far".repeat(10_000));
                pid = rustix::process::getpid().as_raw_nonzero().get();
                rustix::process::chdir("/proc").unwrap();
                process::set_undumpable().unwrap();
                let _ = process::close_all_but(&[]);
            });
            let here = std::env::current_dir().unwrap();
            // SAFETY: plain numbers.
            let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
            let good = ran.is_ok()
                && text.len() == 30_000
                && pid != own.as_raw_nonzero().get()
                && here != std::path::Path::new("/proc")
                && dumpable == 1
                // Reaped.
                && rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG).is_err();
            i32::from(!good)
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_process_that_it_clones_is_the_callers_and_has_its_own_memory() {
        let code = alone(|| {
            let (mut pid, mut value) = (0, 1);
            let ran =
                run(&mut || match process::clone(&CloneRequest { sibling: true, ..CloneRequest::default() })
                    .unwrap()
                {
                    Cloned::Child => {
                        value += 41;
                        poll::exit_now(value)
                    }
                    Cloned::Parent { pid: made, .. } => pid = made,
                });
            let Ok(pidfd) = process::pidfd_open(pid) else { return 1 };
            i32::from(!(ran.is_ok() && process::wait(&pidfd) == Ok(42) && value == 1))
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn several_threads_are_refused() {
        let (end, line) = poll::pipe().unwrap();
        let other = std::thread::spawn(move || rustix::io::read(&end, &mut [0u8; 1]));
        let mut ran = false;
        let refused = run(&mut || ran = true);
        drop(line);
        let _ = other.join();
        assert_eq!(refused.unwrap_err().errno(), Errno::BUSY);
        assert!(!ran);
    }
}
