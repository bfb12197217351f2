use std::os::fd::OwnedFd;

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
