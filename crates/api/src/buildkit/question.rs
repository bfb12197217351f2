//! Questions about a Dockerfile that is not built: `--check`.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use robot_env_build::BuildRequest;
use robot_env_diag::{Error, Kind, Result};
use robot_env_dockerfile::Span;
use robot_env_engine::Engine;
use serde_json::{Value, json};

use super::grpc::Detail;

/// What is understood: the checks (frontend/subrequests/lint of BuildKit).
const LINT: &str = "frontend.lint";

/// Answers a question about the Dockerfile of a request.
pub(super) fn answer(
    engine: &Engine,
    question: &str,
    request: &BuildRequest,
) -> Result<HashMap<String, Vec<u8>>> {
    if question != LINT {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the question `{question}` is not supported: there is {LINT}"),
        ));
    }
    let text = &request.dockerfile;
    let report = robot_env_build::check(engine, request)?;
    let place = |span: &Span| {
        let (first, last) = span.lines(text);
        json!({ "ranges": [range(first, last)] })
    };
    let warnings: Vec<Value> = report
        .warnings
        .iter()
        .map(|warning| {
            json!({
                "ruleName": warning.rule.name(),
                "description": warning.rule.description(),
                "detail": warning.message,
                "location": place(&warning.span),
            })
        })
        .collect();
    let mut said = json!({ "warnings": warnings, "sources": [source(&request.file_name, text)] });
    let mut status = 0;
    if let Some(fault) = &report.fault {
        said["buildError"] = json!({ "message": fault.message, "location": place(&fault.span) });
        status = 1;
    } else if report.warnings_are_errors && !report.warnings.is_empty() {
        status = 1;
    }
    Ok(HashMap::from([
        ("result.json".to_owned(), said.to_string().into_bytes()),
        ("result.statuscode".to_owned(), status.to_string().into_bytes()),
        ("version".to_owned(), b"1.0.0".to_vec()),
    ]))
}

/// `pb.SourceInfo`
fn source(name: &str, text: &str) -> Value {
    json!({ "filename": name, "data": STANDARD.encode(text), "language": "Dockerfile" })
}

/// `pb.Range`
fn range(first: usize, last: usize) -> Value {
    json!({ "start": { "line": first }, "end": { "line": last } })
}

/// Where in its Dockerfile a build failed, as clients show it: `errdefs.Source`.
pub(super) fn place(name: &str, text: &str, line: usize) -> Detail {
    let value = json!({ "info": source(name, text), "ranges": [range(line, line)] });
    Detail {
        type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
        value: value.to_string().into_bytes(),
    }
}
