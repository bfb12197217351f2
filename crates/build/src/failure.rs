//! What goes wrong in a build, with its place in the Dockerfile.

use robot_env_diag::{Error, Kind};
use robot_env_dockerfile::{Fault, Position, Span};

use crate::request::{BuildRequest, Failure};
use crate::step::Shown;

/// What goes wrong in a step, which does not know where it stands.
pub(crate) enum Trouble {
    Error(Error),
    /// With a place of its own.
    Fault(Fault),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Error(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble::Fault(fault)
    }
}

/// An error of a build, and where it stands, if it stands anywhere.
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) failure: Option<Box<Failure>>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, failure: None }
    }
}

impl Failed {
    /// A fault of the file.
    pub(crate) fn of_fault(request: &BuildRequest, fault: &Fault) -> Failed {
        let error = fault.error(&request.file_name, &request.dockerfile);
        Failed { failure: Some(place(request, fault.span, None, None)), error }
    }

    /// What went wrong in a step; in the stage `label`, where the file has several.
    pub(crate) fn of_step(
        request: &BuildRequest,
        label: Option<&str>,
        span: Span,
        shown: Option<&Shown>,
        trouble: Trouble,
    ) -> Failed {
        let error = match trouble {
            // No fault of the file's: the stage was told to end.
            Trouble::Error(error) if error.kind() == Kind::Interrupted => return error.into(),
            Trouble::Error(error) => error,
            Trouble::Fault(fault) => {
                let error = fault.error(&request.file_name, &request.dockerfile);
                return Failed { failure: Some(place(request, fault.span, label, shown)), error };
            }
        };
        let failure = place(request, span, label, shown);
        let line = span.of(&request.dockerfile).lines().next().unwrap_or_default();
        let what = label.map_or_else(|| "from".to_owned(), |label| format!("stage `{label}` of"));
        let error = error.within(format!(
            "cannot build {what} `{}`: line {}, column {}: `{line}`",
            request.file_name, failure.line, failure.column
        ));
        Failed { error, failure: Some(failure) }
    }
}

fn place(request: &BuildRequest, span: Span, label: Option<&str>, shown: Option<&Shown>) -> Box<Failure> {
    let text = &request.dockerfile;
    let at = Position::at(text, span.start);
    let output = shown.map(|shown| shown.tail.take()).unwrap_or_default();
    Box::new(Failure {
        file: request.file_name.clone(),
        stage: label.map(str::to_owned),
        step: shown.and_then(|shown| shown.step.get()),
        label: shown.map(|shown| shown.label.clone()).unwrap_or_default(),
        line: at.line,
        column: at.column,
        excerpt: span.excerpt(text),
        output,
    })
}
