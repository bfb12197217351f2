//! Waiting for a process in front: signals go through, a terminal is pumped.

use std::os::fd::{AsFd, OwnedFd};

use robot_env_diag::{IoContext, Result};
use robot_env_sys::poll::SignalFd;
use robot_env_sys::process;
use robot_env_sys::terminal::{self, RawMode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Waits until the process ends; its exit code, or 128 + n for signal n.
pub(super) fn attend(pidfd: &OwnedFd, master: Option<OwnedFd>) -> Result<i32> {
    let forwarded = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGCONT,
        libc::SIGWINCH,
    ];
    let signals = SignalFd::new(&forwarded)?;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let raw = match &master {
        Some(master) if terminal::is_terminal(&stdin) => {
            if let Some(size) = terminal::size(&stdin) {
                let _ = terminal::set_size(master, size);
            }
            Some(RawMode::enter(&stdin)?)
        }
        _ => None,
    };
    let mut reads_input = master.is_some();
    let mut reads_output = master.is_some();
    loop {
        let mut fds = vec![
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        if let Some(master) = &master {
            if reads_output {
                fds.push(PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN));
            }
            if reads_input {
                fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).io_context(|| "poll()".into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let ended = ready[0];
        while let Some(signal) = signals.next() {
            match &master {
                Some(master) if signal == libc::SIGWINCH => {
                    if let Some(size) = terminal::size(&stdin) {
                        let _ = terminal::set_size(master, size);
                    }
                }
                _ => drop(process::signal(pidfd, signal)),
            }
        }
        if let Some(master) = &master {
            let output_ready = reads_output && (ready.get(2) == Some(&true) || ended);
            if output_ready {
                reads_output = pass_output(master, &stdout, ended);
            }
            let input_at = if ready.len() == 4 { 3 } else { 2 };
            if reads_input
                && !ended
                && ready.get(input_at) == Some(&true)
                && (ready.len() == 4 || !output_ready)
            {
                reads_input = pass(&stdin, master);
            }
        }
        if ended {
            drop(raw);
            return Ok(process::wait(pidfd)?);
        }
    }
}

/// Copies what is there; to the end if `all`. Whether there may be more.
fn pass_output(from: &OwnedFd, to: &impl AsFd, all: bool) -> bool {
    loop {
        let mut buffer = [0u8; 4096];
        match rustix::io::read(from, &mut buffer) {
            Ok(0) | Err(Errno::IO) => return false,
            Ok(n) => drop(write_all(to, &buffer[..n])),
            Err(Errno::AGAIN) => return !all,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
        if !all {
            return true;
        }
    }
}

fn pass(from: &impl AsFd, to: &OwnedFd) -> bool {
    let mut buffer = [0u8; 4096];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) => false,
        Ok(n) => write_all(to, &buffer[..n]).is_ok(),
        Err(errno) => matches!(errno, Errno::INTR | Errno::AGAIN),
    }
}

fn write_all(to: &impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)];
                let _ = poll(&mut fds, None);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
