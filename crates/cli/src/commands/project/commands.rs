use std::fs;
use std::io::Write as _;
use std::process::Command;

use clap::Args;
use robot_env_diag::{Error, Escaped, IoContext, Kind, Result};
use robot_env_engine::RemoveContainerOptions;
use robot_env_robot::project::{self, recognise};
use serde_json::json;

use super::{Place, surroundings};
use crate::app::App;
use crate::command_line::Flags;
use crate::commands::rm;
use crate::failure::Class;
use crate::format::human;
use crate::verb::{Exit, Verb};

/// Make, start and enter this project's container
///
/// The project is that of robot-env.toml or .devcontainer/devcontainer.json in this directory or in one
/// above it. The image is pulled or built where it is missing; a container that is there is used again.
#[derive(Args)]
pub(crate) struct Up {
    /// Do not enter it
    #[arg(short, long)]
    detach: bool,
    /// Remove the container that is there and make a new one
    #[arg(long)]
    recreate: bool,
    /// Pull the image first: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: String,
    /// The project's file
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// What to run instead of a shell
    #[arg(value_name = "COMMAND", num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl Verb for Up {
    const SPELLINGS: &'static [&'static str] = &["up"];
    const FLAGS: Flags = Flags::First;
    const CLASS: Class = Class::Attached;

    fn run(self, app: &App) -> Result<Exit> {
        if self.detach && !self.command.is_empty() {
            return Err(Error::invalid("--detach enters nothing, so it takes no command"));
        }
        let place = Place::open(app, self.file.as_deref())?;
        let mut found = place.container()?;
        if let Some(container) = found.take_if(|_| self.recreate) {
            if container.state.state.is_active() {
                place.stop(&container)?;
            }
            remove(app, &place, &container.record.name)?;
        }
        place.project.hooks.initialize.iter().try_for_each(|hook| on_host(app, &place, &hook.command))?;
        let is_new = found.is_none();
        let container = match found {
            Some(container) => {
                if !place.is_current(&container) {
                    app.warn(&format!(
                        "`{}` has changed since container `{}` was made; `{} up --recreate` makes it anew",
                        place.project.file.display(),
                        container.record.name,
                        app.program()
                    ));
                }
                container
            }
            None => {
                place.create(app, &self.pull)?;
                place.container()?.ok_or_else(|| Error::new(Kind::Internal, "the container is gone again"))?
            }
        };
        let was_running = container.state.state.is_active();
        let begun = place.start(app, &container).and_then(|()| {
            let hooks = &place.project.hooks;
            let create = hooks.create.iter().filter(|_| is_new);
            let start = hooks.start.iter().filter(|_| !was_running);
            create.chain(start).try_for_each(|hook| place.hook(app, &container, hook))
        });
        if let Err(error) = begun {
            // What was never whole is made anew the next time.
            if is_new {
                let options = RemoveContainerOptions { force: true, volumes: true };
                let _ = place.engine.remove(container.record.id.as_str(), options);
                place.engine.empty_trash_later();
            }
            return Err(error);
        }
        if self.detach {
            app.print_line(container.record.id.as_str())?;
            return Ok(Exit::SUCCESS);
        }
        let attach = &place.project.hooks.attach;
        attach.iter().try_for_each(|hook| place.hook(app, &container, hook))?;
        place.exec(app, &container, &place.entry(&self.command), true)
    }
}

/// A command on the host, in the project's directory.
fn on_host(app: &App, place: &Place, command: &[String]) -> Result<()> {
    app.say(&format!("initializeCommand: {}", command.join(" ")));
    let [program, arguments @ ..] = command else { return Ok(()) };
    let status = Command::new(program)
        .args(arguments)
        .current_dir(&place.project.directory)
        .status()
        .io_context(|| format!("cannot run `{program}` on the host"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Kind::Internal, format!("`initializeCommand` ended with {status}")))
}

fn remove(app: &App, place: &Place, name: &str) -> Result<()> {
    let loss = rm::loss(&place.engine, name);
    let id = place.engine.remove(name, RemoveContainerOptions { force: false, volumes: true })?;
    if let Some(loss) = loss {
        rm::say_loss(app, &place.engine, name, &loss, place.engine.is_kept(&id), "are gone with it");
    }
    place.engine.empty_trash_later();
    Ok(())
}

/// Stop this project's container
#[derive(Args)]
pub(crate) struct Down {
    /// Remove it too, with what was written in it
    #[arg(long)]
    rm: bool,
    /// The project's file
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
}

impl Verb for Down {
    const SPELLINGS: &'static [&'static str] = &["down"];

    fn run(self, app: &App) -> Result<Exit> {
        let place = Place::open(app, self.file.as_deref())?;
        let Some(container) = place.container()? else {
            app.say("this project has no container");
            return Ok(Exit::SUCCESS);
        };
        let name = &container.record.name;
        if container.state.state.is_active() {
            place.stop(&container)?;
            app.say(&format!("stopped {name}"));
        }
        if self.rm {
            remove(app, &place, name)?;
            app.say(&format!("removed {name}"));
        }
        Ok(Exit::SUCCESS)
    }
}

/// Open a shell, or run a command, in this project's running container
#[derive(Args)]
pub(crate) struct Enter {
    /// The project's file
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// What to run instead of a shell
    #[arg(value_name = "COMMAND", num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl Verb for Enter {
    const SPELLINGS: &'static [&'static str] = &["enter"];
    const FLAGS: Flags = Flags::First;
    const CLASS: Class = Class::Attached;

    fn run(self, app: &App) -> Result<Exit> {
        let place = Place::open(app, self.file.as_deref())?;
        let container = place.running(app)?;
        let attach = &place.project.hooks.attach;
        attach.iter().try_for_each(|hook| place.hook(app, &container, hook))?;
        place.exec(app, &container, &place.entry(&self.command), true)
    }
}

/// Show this project's file and container
#[derive(Args)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The project's file
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
}

impl Verb for Status {
    const SPELLINGS: &'static [&'static str] = &["status"];

    fn run(self, app: &App) -> Result<Exit> {
        let place = Place::open(app, self.file.as_deref())?;
        let project = &place.project;
        let container = place.container()?;
        let state = container.as_ref().map_or("none", |container| container.state.state.word());
        let current = container.as_ref().map(|container| place.is_current(container));
        let written = container
            .as_ref()
            .and_then(|container| place.engine.written(container.record.id.as_str()).ok())
            .map(|usage| usage.length);
        if self.json {
            let whole = json!({
                "file": project.file, "name": project.name, "image": project.image, "state": state,
                "container": container.as_ref().map(|c| c.record.id.as_str()), "current": current, "written": written,
            });
            app.print_line(&whole.to_string())?;
            return Ok(Exit::SUCCESS);
        }
        let image = project.image.as_deref().unwrap_or("built");
        let mut text = format!("file       {}\nimage      {image}\n", project.file.display());
        match &container {
            None => text.push_str("container  none\n"),
            Some(container) => {
                text.push_str(&format!("container  {} ({state})\n", container.record.name));
                if current == Some(false) {
                    text.push_str("           the file has changed since it was made\n");
                }
                let size = human::decimal(written.unwrap_or(0));
                text.push_str(&format!("written    {size}\n"));
            }
        }
        for line in text.lines() {
            app.print_line(&Escaped(line).to_string())?;
        }
        Ok(Exit::SUCCESS)
    }
}

/// Write a robot-env.toml for this directory and this machine
///
/// A ROS workspace is recognised by its packages.
#[derive(Args)]
pub(crate) struct Init {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// The image; by default one that suits the directory
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

impl Verb for Init {
    const SPELLINGS: &'static [&'static str] = &["init"];

    fn run(self, app: &App) -> Result<Exit> {
        let directory = &app.ambient().directory;
        let around = surroundings(app);
        let workspace = recognise(directory, &around);
        let suits = self.image.clone().unwrap_or_else(|| workspace.image());
        let image = if self.yes || self.image.is_some() { suits } else { ask(app, &suits)? };
        image.parse::<robot_env_oci::Reference>()?;
        let path = directory.join(project::FILE);
        let text = workspace.to_toml(&image, &around);
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        match made.and_then(|mut file| file.write_all(text.as_bytes())) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::Conflict, format!("there is a `{}` already", path.display())))
            }
            Err(error) => Err(error).io_context(|| format!("cannot write `{}`", path.display())),
            Ok(()) => {
                app.print(&text)?;
                app.say(&format!(
                    "written to {}; `{} up` enters the container",
                    path.display(),
                    app.program()
                ));
                Ok(Exit::SUCCESS)
            }
        }
    }
}

fn ask(app: &App, suits: &str) -> Result<String> {
    app.print(&format!("Image [{suits}]: "))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).io_context(|| "cannot read the answer".into())?;
    let answer = answer.trim();
    Ok(if answer.is_empty() { suits.to_owned() } else { answer.to_owned() })
}

/// Open this project's running container in VS Code, or print the address that does
#[derive(Args)]
pub(crate) struct Code {
    /// Print the address only
    #[arg(long)]
    print: bool,
    /// The project's file
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
}

impl Verb for Code {
    const SPELLINGS: &'static [&'static str] = &["code"];

    fn run(self, app: &App) -> Result<Exit> {
        let place = Place::open(app, self.file.as_deref())?;
        let container = place.running(app)?;
        let folder = container.record.spec.working_dir.clone();
        let folder = place.project.enter.workdir.clone().or(folder).unwrap_or_else(|| "/".into());
        let uri = address(&container.record.name, &folder);
        let program = "code";
        let found = app.ambient().variable("PATH").unwrap_or_default().split(':').any(|directory| {
            directory.starts_with('/') && std::path::Path::new(directory).join(program).is_file()
        });
        if self.print || !found {
            app.print_line(&uri)?;
            return Ok(Exit::SUCCESS);
        }
        let status = Command::new(program)
            .args(["--folder-uri", &uri])
            .status()
            .io_context(|| "cannot run `code`".into())?;
        Ok(if status.success() { Exit::SUCCESS } else { Exit::FAILURE })
    }
}

/// The address of a folder in a running container, as VS Code's extension for containers writes it.
fn address(name: &str, folder: &str) -> String {
    let object = json!({ "containerName": format!("/{name}") }).to_string();
    let hex: String = object.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("vscode-remote://attached-container+{hex}{folder}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_vs_codes() {
        assert_eq!(
            address("nav", "/ws"),
            "vscode-remote://attached-container+7b22636f6e7461696e65724e616d65223a222f6e6176227d/ws"
        );
    }
}
