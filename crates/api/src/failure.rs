//! From the engine's errors to statuses and texts that clients match on.

use std::io;

use robot_env_diag::{Error, Kind};

use crate::http::Reply;

/// What goes wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) message: String,
}

/// The result of a request.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    /// There is nothing at this path.
    pub(crate) fn no_page() -> Failure {
        Failure::new(404, "page not found")
    }

    /// The same failure with another status.
    pub(crate) fn with_status(mut self, status: u16) -> Failure {
        self.status = status;
        self
    }

    pub(crate) fn reply(&self) -> Reply {
        Reply::error(self.status, &self.message)
    }
}

/// An error and its causes on one line, as Docker chains them, and what may help.
pub(crate) fn text_of(error: &Error) -> String {
    let mut text = error.in_one_line();
    if let Some(hint) = error.hint().filter(|_| !matches!(error.kind(), Kind::NotFound | Kind::Conflict)) {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error.kind() {
            Kind::NotFound => 404,
            Kind::Conflict => 409,
            Kind::InvalidInput | Kind::CommandNotFound | Kind::CommandNotExecutable => 400,
            Kind::Unauthorized => 401,
            Kind::Denied => 403,
            Kind::Unsupported => 501,
            _ => 500,
        };
        Failure::new(status, text_of(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Failure::new(400, format!("cannot read the request's body: {error}"))
            }
            _ => Failure::new(500, error.to_string()),
        }
    }
}
