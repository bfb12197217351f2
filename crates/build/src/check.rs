//! A Dockerfile looked at without building it.

use robot_env_diag::{Error, Result};
use robot_env_dockerfile::ignore::Ignore;
use robot_env_dockerfile::lint::{self, BaseImage, Facts, Report};
use robot_env_dockerfile::{Dockerfile, Parameters};
use robot_env_engine::Engine;
use robot_env_oci::Platform;

use crate::request::BuildRequest;

/// What the arguments and platforms of a request mean to its Dockerfile.
pub(crate) fn parameters(request: &BuildRequest) -> Parameters {
    Parameters {
        build_args: request.arguments.clone(),
        target: request.platform.clone().unwrap_or_else(Platform::host),
        builder: Platform::host(),
        stage: request.target.clone().unwrap_or_default(),
    }
}

/// Looks at the Dockerfile of a request as a build would. Base images that are not here yet are not
/// pulled: rules that need them say nothing.
///
/// # Errors
/// `InvalidInput` for a `.dockerignore` that is none, and for a target that does not exist. What makes
/// the Dockerfile none is in the report.
pub fn check(engine: &Engine, request: &BuildRequest) -> Result<Report> {
    let file = match Dockerfile::parse(&request.dockerfile) {
        Ok(file) => file,
        Err(fault) => return Ok(Report { fault: Some(fault), ..Report::default() }),
    };
    report(engine, request, &file)
}

pub(crate) fn report(engine: &Engine, request: &BuildRequest, file: &Dockerfile) -> Result<Report> {
    let place = |fault: robot_env_dockerfile::Fault| fault.error(&request.file_name, &request.dockerfile);
    let ignore = Ignore::parse(&request.ignore)?;
    let target = file.target(request.target.as_deref()).map_err(place)?;
    let bases = |name: &str| -> Option<BaseImage> {
        let name = match request.contexts.get(name) {
            Some(other) => other.strip_prefix("docker-image://")?,
            None => name,
        };
        let store = engine.store();
        let config = store.config(&store.resolve(name).ok()?.id).ok()?.into_value();
        let variable = |text: &String| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Some(BaseImage {
            environment: config.config.env.iter().filter_map(variable).collect(),
            has_shell: !config.config.shell.is_empty(),
            on_build: config.config.on_build,
            platform: Some(config.platform),
        })
    };
    let parameters = parameters(request);
    let facts = Facts { parameters: &parameters, ignore: Some(&ignore), bases: &bases, target: Some(target) };
    Ok(lint::check(file, facts))
}

/// # Errors
/// `InvalidInput` where the file has `# check=error=true` and a rule finds something.
pub(crate) fn refuse_warnings(engine: &Engine, request: &BuildRequest, file: &Dockerfile) -> Result<()> {
    if !file.directives.iter().any(|directive| directive.name == "check" && directive.value.contains("error"))
    {
        return Ok(());
    }
    let report = report(engine, request, file)?;
    if report.warnings_are_errors && !report.warnings.is_empty() {
        let mut rules: Vec<&str> = report.warnings.iter().map(|warning| warning.rule.name()).collect();
        rules.sort_unstable();
        rules.dedup();
        return Err(Error::invalid(format!("lint violation found for rules: {}", rules.join(", ")))
            .with_hint("`build --check` shows the lines"));
    }
    Ok(())
}
