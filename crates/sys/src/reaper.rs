//! Being pid 1 of a pid namespace for somebody else's program.

use crate::poll::exit_now;

/// Never returns: forwards every signal to `child`, reaps whoever becomes an orphan, and ends as
/// `child` does: with its exit code, or 128 + n for signal n. The kernel then ends the rest of the
/// namespace.
///
/// For a forked, single-threaded process that owns nothing any more and does not look at its
/// arguments again.
pub fn serve(child: i32) -> ! {
    hide_arguments();
    // SAFETY: an all-zero sigset_t is then initialised by sigfillset.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is valid.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: `all` is valid; the old mask is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
    loop {
        // SAFETY: `all` is valid; no details are wanted.
        let signal = unsafe { libc::sigwaitinfo(&raw const all, std::ptr::null_mut()) };
        match signal {
            libc::SIGCHLD => reap(child),
            // The terminal's job control is about the child's group, which is in front.
            libc::SIGTTIN | libc::SIGTTOU => {}
            n if n > 0 => {
                // SAFETY: plain numbers; `child` has not been reaped, so it is still that process.
                unsafe { libc::kill(child, n) };
            }
            _ => {}
        }
    }
}

/// What `/proc/1/cmdline` shows is the caller's own business, not the namespace's: it is blanked, but
/// for a name.
fn hide_arguments() {
    const NAME: &[u8] = b"init";
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // proc_pid_stat(5): fields 48 and 49, counted from behind the name, which is the second.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return };
    let mut fields = fields.split(' ').skip(45).map(str::parse::<usize>);
    let (Some(Ok(start)), Some(Ok(end))) = (fields.next(), fields.next()) else { return };
    if start == 0 || end < start + NAME.len() {
        return;
    }
    let area = start as *mut u8;
    // SAFETY: the kernel says that this process's arguments lie there; they are on its stack, which
    // is writable, and nothing here reads arguments any more (the caller's contract).
    unsafe {
        std::ptr::write_bytes(area, 0, end - start);
    }
    // SAFETY: as above; NAME fits.
    unsafe {
        std::ptr::copy_nonoverlapping(NAME.as_ptr(), area, NAME.len());
    }
}

fn reap(child: i32) {
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
        if pid <= 0 {
            return;
        }
        if pid == child {
            let code = if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
            exit_now(code);
        }
    }
}

/// Puts the calling process into a process group of its own, in front of its terminal if it has
/// one: keys that send signals then reach it once, not also through pid 1.
pub fn lead_terminal() {
    // SAFETY: plain numbers; 0 is the caller.
    if unsafe { libc::setpgid(0, 0) } != 0 {
        return;
    }
    // With SIGTTOU the kernel would stop a background process that takes its terminal.
    // SAFETY: SIG_IGN is always valid.
    let before = unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp());
    // SAFETY: `before` is what was set before.
    unsafe { libc::signal(libc::SIGTTOU, before) };
}
