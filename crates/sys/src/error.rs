use std::fmt;

use rustix::io::Errno;

/// A failed system call with its arguments: `mount(overlay -> .../rootfs, RDONLY): EINVAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    call: String,
    errno: Errno,
}

/// The result of a system call.
pub type CallResult<T> = Result<T, CallError>;

impl CallError {
    /// `call` is the call as a reader of strace would write it, with the arguments that matter.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        CallError { call: call.into(), errno }
    }

    /// The call as `new` was given it.
    pub fn call(&self) -> &str {
        &self.call
    }

    /// What the kernel said.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, errno_name(self.errno))
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for std::io::Error {
    fn from(error: CallError) -> Self {
        error.errno.into()
    }
}

impl From<CallError> for robot_env_diag::Error {
    fn from(error: CallError) -> Self {
        let kind = robot_env_diag::Kind::of_errno(error.errno.raw_os_error());
        robot_env_diag::Error::new(kind, error.to_string())
    }
}

/// Adds a call's arguments to an errno.
pub trait ErrnoContext<T> {
    /// Names the call that failed.
    fn call(self, call: impl FnOnce() -> String) -> CallResult<T>;
}

impl<T> ErrnoContext<T> for rustix::io::Result<T> {
    fn call(self, call: impl FnOnce() -> String) -> CallResult<T> {
        self.map_err(|errno| CallError::new(call(), errno))
    }
}

/// The symbolic name of an errno, as in errno(3); `errno N` for one without a name here.
pub fn errno_name(errno: Errno) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::SRCH, "ESRCH"),
        (Errno::INTR, "EINTR"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (Errno::TOOBIG, "E2BIG"),
        (Errno::NOEXEC, "ENOEXEC"),
        (Errno::BADF, "EBADF"),
        (Errno::CHILD, "ECHILD"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::FAULT, "EFAULT"),
        (Errno::NOTBLK, "ENOTBLK"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::NFILE, "ENFILE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::FBIG, "EFBIG"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::SPIPE, "ESPIPE"),
        (Errno::ROFS, "EROFS"),
        (Errno::MLINK, "EMLINK"),
        (Errno::PIPE, "EPIPE"),
        (Errno::DOM, "EDOM"),
        (Errno::RANGE, "ERANGE"),
        (Errno::DEADLK, "EDEADLK"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NOLCK, "ENOLCK"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NODATA, "ENODATA"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::USERS, "EUSERS"),
        (Errno::NOTSOCK, "ENOTSOCK"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::ALREADY, "EALREADY"),
        (Errno::STALE, "ESTALE"),
        (Errno::DQUOT, "EDQUOT"),
    ];
    known
        .iter()
        .find(|(candidate, _)| *candidate == errno)
        .map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_called_and_what_came_back() {
        let error = CallError::new("mount(overlay -> /x, RDONLY)", Errno::INVAL);
        assert_eq!(error.to_string(), "mount(overlay -> /x, RDONLY): EINVAL");
    }
}
