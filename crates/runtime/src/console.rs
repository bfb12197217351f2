use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use robot_env_sys::terminal::Size;

/// Three standard streams.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// What a process's standard streams are.
#[derive(Debug)]
pub enum Console {
    /// Given descriptors; they need not be pipes.
    Pipes(Stdio),
    /// A new terminal of the container's own devpts; its master comes back in
    /// [`crate::Created::master`].
    Terminal {
        /// Its first size in rows and columns; (0, 0): the kernel's.
        size: Size,
    },
}

impl Console {
    /// The descriptors that it holds.
    pub(crate) fn numbers(&self) -> Vec<RawFd> {
        match self {
            Console::Pipes(stdio) => {
                [&stdio.stdin, &stdio.stdout, &stdio.stderr].map(AsRawFd::as_raw_fd).to_vec()
            }
            Console::Terminal { .. } => Vec::new(),
        }
    }
}
