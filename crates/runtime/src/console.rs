use std::os::fd::OwnedFd;

use robot_env_sys::terminal::Size;

/// What a process's standard streams are.
#[derive(Debug)]
pub enum Console {
    /// Given descriptors.
    Streams {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A new terminal of the container's own devpts; its master comes back in
    /// [`crate::Created::master`].
    Terminal {
        /// Its first size.
        size: Option<Size>,
    },
}
