//! `--check`, and the warnings after a build.

use robot_env_build::BuildRequest;
use robot_env_diag::{Escaped, Result};
use robot_env_dockerfile::lint::{Report, Warning};
use robot_env_engine::Engine;

use crate::app::App;
use crate::verb::Exit;

/// Checks without building: exit code 1 when something is found, as Docker's.
pub(super) fn check(app: &App, engine: &Engine, request: &BuildRequest) -> Result<Exit> {
    let report = robot_env_build::check(engine, request)?;
    app.print(&page(&report, request))?;
    if let Some(fault) = &report.fault {
        return Err(fault.error(&request.file_name, &request.dockerfile));
    }
    Ok(if report.warnings.is_empty() { Exit::SUCCESS } else { Exit(1) })
}

/// Everything that was found, with its lines.
fn page(report: &Report, request: &BuildRequest) -> String {
    let rule = "-".repeat(20);
    let mut out = match report.warnings.len() {
        0 if report.fault.is_some() => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in &report.warnings {
        out.push_str(&format!(
            "\nWARNING: {} - {}\n{}\n{}:{}\n{rule}\n{}{rule}\n",
            warning.rule.name(),
            warning.rule.description(),
            Escaped(&warning.message),
            request.file_name,
            line_of(warning, request),
            warning.span.excerpt(&request.dockerfile),
        ));
    }
    if let Some(fault) = &report.fault {
        let line = fault.span.lines(&request.dockerfile).0;
        let excerpt = fault.span.excerpt(&request.dockerfile);
        out.push_str(&format!("\n{}:{line}\n{rule}\n{excerpt}{rule}\n", request.file_name));
    }
    out
}

fn line_of(warning: &Warning, request: &BuildRequest) -> usize {
    warning.span.lines(&request.dockerfile).0
}

/// A line for each warning, for the end of a build; empty when there is none.
pub(super) fn summary(report: &Report, request: &BuildRequest) -> String {
    let count = match report.warnings.len() {
        0 => return String::new(),
        1 => "1 warning found".to_owned(),
        count => format!("{count} warnings found"),
    };
    let mut out = format!("\n{count} (`build --check` shows the lines):\n");
    for warning in &report.warnings {
        let line = line_of(warning, request);
        out.push_str(&format!(" - {}: {} (line {line})\n", warning.rule.name(), Escaped(&warning.message)));
    }
    out
}

/// The same as objects.
pub(super) fn objects(report: &Report, request: &BuildRequest) -> Vec<serde_json::Value> {
    let object = |warning: &Warning| {
        serde_json::json!({ "warning": {
            "rule": warning.rule.name(), "message": warning.message, "line": line_of(warning, request),
        }})
    };
    report.warnings.iter().map(object).collect()
}
