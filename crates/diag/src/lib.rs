//! What went wrong, in the form a user meets it.
//!
//! An [`Error`] has a [`Kind`] (what a caller may decide on), a message
//! (``cannot <verb> <noun> `<name>`: <reason>``, lower case, no full stop, one
//! fact a level), a chain of causes, and a hint that names a command or a file
//! and is given only where its precondition was checked.
//!
//! This crate deliberately knows no terminal, no exit code and no HTTP status:
//! the front ends map [`Kind`] to theirs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of an operation that can fail in a way a user should read.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// The named object does not exist.
    NotFound,
    /// The object exists already, or its state forbids the operation.
    Conflict,
    /// The request itself is wrong: a bad name, flag, reference or file.
    InvalidInput,
    /// The other side wants (other) credentials.
    Unauthorized,
    /// The operating system or a policy refuses.
    Denied,
    /// A service cannot be reached or does not answer in time.
    Unavailable,
    /// Disk space, inodes or a quota ran out.
    NoSpace,
    /// Stored or received content does not match its digest or format.
    Corrupt,
    /// This machine, kernel or build cannot do what was asked.
    Unsupported,
    /// A program inside a container could not be found (exit code 127).
    CommandNotFound,
    /// A program inside a container could not be executed (exit code 126).
    CommandNotExecutable,
    /// The user interrupted the operation.
    Interrupted,
    /// Anything else; a bug of ours or a state nobody foresaw.
    Internal,
}

impl Kind {
    /// The kind that an errno of a system call stands for, where one does.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            2 | 3 | 6 | 19 => Kind::NotFound,                 // ENOENT ESRCH ENXIO ENODEV
            1 | 13 | 30 => Kind::Denied,                      // EPERM EACCES EROFS
            17 | 16 | 39 => Kind::Conflict,                   // EEXIST EBUSY ENOTEMPTY
            28 | 122 => Kind::NoSpace,                        // ENOSPC EDQUOT
            22 | 20 | 21 | 36 => Kind::InvalidInput,          // EINVAL ENOTDIR EISDIR ENAMETOOLONG
            38 | 95 => Kind::Unsupported,                     // ENOSYS EOPNOTSUPP
            4 => Kind::Interrupted,                           // EINTR
            110 | 111 | 113 | 104 | 101 => Kind::Unavailable, // ETIMEDOUT ECONNREFUSED EHOSTUNREACH ...
            _ => Kind::Internal,
        }
    }

    /// The kind that an I/O error stands for.
    pub fn of_io(error: &std::io::Error) -> Self {
        error.raw_os_error().map_or(Kind::Internal, Kind::of_errno)
    }
}

/// An error as a user meets it. Cheap to move (one pointer).
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// An error with `message` as its topmost fact.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// Shorthand for [`Kind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Kind::InvalidInput, message)
    }

    /// Shorthand for [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(Kind::NotFound, message)
    }

    /// Adds the cause, one level down.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds a hint: one command or file that mends the cause. Give it only where its
    /// precondition was checked.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Wraps `self` as the cause of a new topmost fact and keeps its kind and hint.
    #[must_use]
    pub fn within(self, message: impl Into<String>) -> Self {
        let kind = self.kind();
        let hint = self.hint().map(str::to_owned);
        let mut outer = Error::new(kind, message).because(self);
        outer.0.hint = hint;
        outer
    }

    /// What a caller may decide on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The topmost fact, without its causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The causes' messages below the topmost one, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            out.push(error.to_string());
            next = error.source();
        }
        out
    }

    /// The message and its causes, with colons between; without the hint.
    pub fn in_one_line(&self) -> String {
        let mut line = self.message().to_owned();
        for cause in self.causes() {
            line.push_str(": ");
            line.push_str(&cause);
        }
        line
    }

    /// The error as plain data, to be sent to another process.
    pub fn to_report(&self) -> Report {
        Report {
            kind: self.kind(),
            message: self.message().to_owned(),
            causes: self.causes(),
            hint: self.hint().map(str::to_owned),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        for cause in self.causes() {
            write!(f, "; caused by: {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// An [`Error`] as plain data: how one process tells another what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// See [`Error::kind`].
    pub kind: Kind,
    /// See [`Error::message`].
    pub message: String,
    /// See [`Error::causes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// See [`Error::hint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<Report> for Error {
    fn from(report: Report) -> Self {
        let cause = report.causes.into_iter().rev().fold(None, |below: Option<Error>, message| {
            let error = Error::new(report.kind, message);
            Some(match below {
                Some(below) => error.because(below),
                None => error,
            })
        });
        let mut error = Error::new(report.kind, report.message);
        if let Some(cause) = cause {
            error = error.because(cause);
        }
        error.0.hint = report.hint;
        error
    }
}

impl fmt::Display for Report {
    /// The form a terminal shows, without a trailing newline:
    /// `error: ...`, then a line for each cause, then the hint. Control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", Escaped(&self.message))?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", Escaped(cause))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {}", Escaped(hint))?;
        }
        Ok(())
    }
}

/// Displays a text with its control characters escaped (`\n`, `\u{1b}`), so that nothing
/// from an image or a registry can drive the terminal.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// Turns a foreign error into an [`Error`] with the fact that the caller knows.
pub trait Context<T> {
    /// Wraps the failure under `message`, with `kind`.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync + 'static>>> Context<T>
    for std::result::Result<T, E>
{
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(kind, message()).because(source))
    }
}

/// Like [`Context`], for I/O errors: the kind follows from the errno.
pub trait IoContext<T> {
    /// Wraps the failure under `message`, with the kind of its errno.
    fn io_context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io_context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| {
            let source: std::io::Error = source.into();
            Error::new(Kind::of_io(&source), message()).because(source)
        })
    }
}

/// Adds a fact above an [`Error`] and keeps its kind and hint.
pub trait Within<T> {
    /// Wraps the failure as the cause of `message`.
    fn within(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Within<T> for Result<T> {
    fn within(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.within(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_round_trip_and_prints_as_documented() {
        let error =
            Error::new(Kind::Conflict, "cannot start container `web`: host port 8080/tcp is already in use")
                .because(Error::new(Kind::Conflict, "bind(0.0.0.0:8080): EADDRINUSE"))
                .with_hint("publish another port, e.g. `-p 8081:80`");
        let report = error.to_report();
        assert_eq!(
            error.in_one_line(),
            "cannot start container `web`: host port 8080/tcp is already in use: bind(0.0.0.0:8080): EADDRINUSE"
        );
        let again: Error = report.clone().into();
        assert_eq!(again.to_report(), report);
        assert_eq!(
            report.to_string(),
            "error: cannot start container `web`: host port 8080/tcp is already in use\n  \
             caused by: bind(0.0.0.0:8080): EADDRINUSE\nhint: publish another port, e.g. `-p 8081:80`"
        );
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(Escaped("a\u{1b}[2J\nb").to_string(), "a\\u{1b}[2J\\nb");
    }

    #[test]
    fn within_keeps_kind_and_hint() {
        let error = Error::not_found("no such file").with_hint("look again").within("cannot open `x`");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.hint(), Some("look again"));
        assert_eq!(error.causes(), ["no such file"]);
    }
}
