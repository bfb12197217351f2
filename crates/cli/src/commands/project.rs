//! `up`, `down`, `enter`, `status`, `init`, `code`: the container of a project.

mod commands;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches};
use robot_env_device::gpu;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::{Container, Engine, StopOptions};
use robot_env_robot::project::{self, Hook, Project, Surroundings};

use super::{gpu as gpus, run};
use crate::app::App;
use crate::command_line::{Flags, canonical};
use crate::container_flags::ContainerFlags;
use crate::verb::Exit;
use crate::{dispatch, failure};

pub(crate) use commands::{Code, Down, Enter, Init, Status, Up};

/// The label that says which project a container is of: its directory.
const PROJECT: &str = "robot-env.project";
/// The label with the fingerprint of the file that it was made by.
const FINGERPRINT: &str = "robot-env.project.fingerprint";

/// A project and its container, as far as there is one.
struct Place {
    project: Project,
    engine: Engine,
}

/// What is around a project.
fn surroundings(app: &App) -> Surroundings {
    let environment = app.ambient().environment.iter();
    Surroundings {
        environment: environment
            .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
            .collect::<BTreeMap<_, _>>(),
        user: app.host_user(),
        gpu: !gpu::list(&gpus::host_root(app)).0.is_empty(),
    }
}

/// The project's file: the named one, or that of the working directory or of one above it.
fn file(app: &App, named: Option<&str>) -> Result<PathBuf> {
    let directory = &app.ambient().directory;
    if let Some(named) = named {
        let path = directory.join(named);
        return Ok(if path.is_dir() {
            project::find(&path).unwrap_or_else(|| path.join(project::FILE))
        } else {
            path
        });
    }
    project::find(directory).ok_or_else(|| {
        Error::not_found(format!(
            "there is no {} and no .devcontainer/devcontainer.json in `{}` or above it",
            project::FILE,
            directory.display()
        ))
        .with_hint(format!("`{} init` writes one", app.program()))
    })
}

impl Place {
    fn open(app: &App, named: Option<&str>) -> Result<Place> {
        let project = project::load(&file(app, named)?, &surroundings(app))?;
        for note in &project.notes {
            app.say(&note.to_string());
        }
        Ok(Place { project, engine: app.engine()? })
    }

    /// The project's container.
    fn container(&self) -> Result<Option<Container>> {
        let directory = self.project.directory.to_string_lossy();
        let all = self.engine.containers()?;
        Ok(all.into_iter().find(|container| {
            let labels = &container.record.spec.labels;
            labels.get(PROJECT).is_some_and(|label| **label == *directory)
        }))
    }

    fn running(&self, app: &App) -> Result<Container> {
        let hint = format!("`{} up` makes and starts it", app.program());
        match self.container()? {
            Some(container) if container.state.state.is_active() => Ok(container),
            Some(container) => Err(Error::new(
                Kind::Conflict,
                format!("container `{}` of this project does not run", container.record.name),
            )
            .with_hint(hint)),
            None => Err(Error::not_found("this project has no container yet").with_hint(hint)),
        }
    }

    /// Whether the container was made by the file as it is now.
    fn is_current(&self, container: &Container) -> bool {
        container.record.spec.labels.get(FINGERPRINT) == Some(&self.project.fingerprint())
    }

    /// Makes the container: its image is built or pulled where that is needed.
    fn create(&self, app: &App, pull: &str) -> Result<()> {
        let project = &self.project;
        let image = match (&project.build, &project.image) {
            (Some(_), _) => self.build(app)?,
            (None, Some(image)) => image.clone(),
            (None, None) => return Err(Error::invalid("the project names no image")),
        };
        let mut words = vec!["--name".to_owned(), project.name.clone(), "--pull".into(), pull.into()];
        for (label, value) in [
            (PROJECT, project.directory.to_string_lossy().into_owned()),
            (FINGERPRINT, project.fingerprint()),
        ] {
            words.extend(["--label".to_owned(), format!("{label}={value}")]);
        }
        words.extend(project.flags.iter().flat_map(|flag| flag.words.clone()));
        words.push(image);
        words.extend(project.command.iter().cloned());
        let flags = flags(&words).map_err(|error| self.blame(error))?;
        // The project's directory is where it works, whoever calls from where.
        let ambient = crate::Ambient { directory: project.directory.clone(), ..app.ambient().clone() };
        let wanted = flags.wanted(&ambient).map_err(|error| self.blame(error))?;
        run::create(app, &self.engine, &flags, wanted, |request| self.engine.create(request)).map(drop)
    }

    /// Builds the image; its name is the container's.
    fn build(&self, app: &App) -> Result<String> {
        let Some(build) = &self.project.build else { return Err(Error::invalid("nothing is to be built")) };
        let tag = format!("{}:latest", self.project.name.to_ascii_lowercase());
        let mut words = vec!["build".to_owned(), "--tag".into(), tag.clone()];
        if let Some(file) = &build.dockerfile {
            words.extend(["--file".into(), file.to_string_lossy().into_owned()]);
        }
        if let Some(target) = &build.target {
            words.extend(["--target".into(), target.clone()]);
        }
        for (name, value) in &build.arguments {
            words.extend(["--build-arg".into(), format!("{name}={value}")]);
        }
        words.extend(build.flags.iter().cloned());
        words.push(build.context.to_string_lossy().into_owned());
        match dispatch::call(app, &words) {
            Some(Exit::SUCCESS) => Ok(tag),
            Some(_) => Err(Error::new(Kind::Internal, "cannot build the project's image")),
            None => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{}:{}: cannot build: this version has no `build`",
                    self.project.file.display(),
                    build.at
                ),
            )
            .with_hint("name an image that is there with `image`")),
        }
    }

    /// The same error with the place of the words that it is about, where one of them alone gives it.
    fn blame(&self, error: Error) -> Error {
        let file = self.project.file.display();
        for flag in &self.project.flags {
            let mut words = flag.words.clone();
            words.push("image".into());
            let ambient = crate::Ambient { directory: self.project.directory.clone(), ..Default::default() };
            if let Err(alone) = self::flags(&words).and_then(|flags| flags.wanted(&ambient))
                && alone.message() == error.message()
            {
                return error.within(format!("{file}:{}: cannot use `{}`", flag.at, flag.words.join(" ")));
            }
        }
        error.within(format!("cannot use project file `{file}`"))
    }

    /// Runs a command of the project's life inside.
    fn hook(&self, app: &App, container: &Container, hook: &Hook) -> Result<()> {
        app.say(&format!("{}: {}", hook.key, hook.command.join(" ")));
        match self.exec(app, container, &hook.command, false)? {
            Exit::SUCCESS => Ok(()),
            Exit(code) => Err(Error::new(
                Kind::Internal,
                format!("`{}` of `{}` ended with code {code}", hook.key, self.project.file.display()),
            )),
        }
    }

    /// Runs a program inside as somebody who enters.
    fn exec(&self, app: &App, container: &Container, command: &[String], with_input: bool) -> Result<Exit> {
        let enter = &self.project.enter;
        let ambient = app.ambient();
        let mut words = vec!["exec".to_owned()];
        if with_input {
            words.push("--interactive".into());
            if ambient.stdin_is_terminal && ambient.stdout_is_terminal {
                words.push("--tty".into());
            }
        }
        // Who is mapped is the container's own user.
        if let Some(user) = enter.user.as_ref().filter(|_| !container.record.spec.robot.user_map_host) {
            words.extend(["--user".to_owned(), user.clone()]);
        }
        let record = &container.record;
        let own = record.image_config.env.iter().chain(&record.spec.env);
        let own = own.filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
        for (name, value) in enter.variables(&own.collect()) {
            words.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        if let Some(directory) = &enter.workdir {
            words.extend(["--workdir".to_owned(), directory.clone()]);
        }
        words.push(container.record.id.as_str().to_owned());
        words.extend(command.iter().cloned());
        dispatch::call(app, &words).ok_or_else(|| Error::new(Kind::Internal, "there is no `exec`"))
    }

    /// The program that stands for entering: a shell, or `command` run by it.
    fn entry(&self, command: &[String]) -> Vec<String> {
        let enter = &self.project.enter;
        let shell = enter.shell.as_deref();
        let script = |text: String| {
            let mut words = vec![shell.unwrap_or("/bin/sh").to_owned(), "-c".into(), text];
            if !command.is_empty() {
                words.push("enter".into());
                words.extend(command.iter().cloned());
            }
            words
        };
        let then = if command.is_empty() {
            format!("exec {}", shell.unwrap_or("/bin/sh"))
        } else {
            "exec \"$@\"".into()
        };
        match (&enter.setup, shell, command.is_empty()) {
            (Some(setup), ..) => script(format!(". '{}' && {then}", setup.replace('\'', "'\\''"))),
            (None, Some(shell), true) => vec![shell.to_owned()],
            (None, None, true) => {
                script("if command -v bash >/dev/null 2>&1; then exec bash; else exec /bin/sh; fi".into())
            }
            (None, _, false) => command.to_vec(),
        }
    }

    /// Starts the container if it does not run.
    fn start(&self, app: &App, container: &Container) -> Result<()> {
        if container.state.state.is_active() {
            return Ok(());
        }
        let started = self.engine.start(container.record.id.as_str(), None)?;
        started.warnings.iter().for_each(|warning| app.warn(warning));
        Ok(())
    }

    fn stop(&self, container: &Container) -> Result<()> {
        self.engine.stop(container.record.id.as_str(), &StopOptions::default())
    }
}

/// Flags of `create` from words, as the command line reads them.
fn flags(words: &[String]) -> Result<ContainerFlags> {
    let command = ContainerFlags::augment_args(clap::Command::new("up"))
        .no_binary_name(true)
        .args_override_self(true)
        .disable_version_flag(true)
        .disable_help_flag(true);
    let words = canonical(&command, Flags::First, words)?;
    let matches: ArgMatches =
        command.try_get_matches_from(words).map_err(|error| failure::of_clap(&error, "robot-env run"))?;
    ContainerFlags::from_arg_matches(&matches).map_err(|error| failure::of_clap(&error, "robot-env run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_the_command_line_reads_them() {
        let read = |line: &str| flags(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("--gui --env A=1 -v /a:/b image sh -c x").unwrap().image, "image");
        assert!(read("--nope image").unwrap_err().message().contains("unknown flag: --nope"));
    }
}
