use clap::Args;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::attach::hold_signals;
use robot_env_engine::stream::Hello;
use robot_env_engine::{CreateRequest, Created, Engine, apply_defaults};
use robot_env_oci::Reference;
use robot_env_spec::{AttachStreams, ContainerSpec};
use robot_env_transfer::{PullOptions, ownership};

use super::front::{self, Front};
use super::pull;
use crate::app::App;
use crate::command_line::Flags;
use crate::container_flags::{ContainerFlags, Wanted, complete};
use crate::failure::Class;
use crate::interrupt::interruptible;
use crate::verb::{Exit, Verb};

/// Create a container and run a program in it
#[derive(Args)]
pub(crate) struct Run {
    /// Leave it running in the background and print its id
    #[arg(short, long)]
    detach: bool,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    container: ContainerFlags,
}

impl Verb for Run {
    const SPELLINGS: &'static [&'static str] = &["run", "container run"];
    const FLAGS: Flags = Flags::First;
    const CLASS: Class = Class::Program;

    fn run(self, app: &App) -> Result<Exit> {
        let flags = &self.container;
        let mut wanted = flags.wanted(app.ambient())?;
        front::detach_keys(flags.detach_keys.as_deref())?;
        let hello = hello(&mut wanted.spec, flags, self.detach)?;
        if let Some(hello) = hello {
            front::check_terminal(app, wanted.spec.tty, hello)?;
        }
        let tty = wanted.spec.tty;
        let removes = wanted.spec.auto_remove;
        let engine = app.engine()?;
        let mut ahead = engine.start_ahead(hello)?;
        let created = create(app, &engine, flags, wanted, |request| engine.create_for(&mut ahead, request))?;
        let id = created.id.as_str();
        let _held = (hello.is_some() && self.sig_proxy && !tty).then(hold_signals).transpose()?;
        let started = match engine.start_with(id, hello, Some(ahead)) {
            Ok(started) => started,
            Err(error) => {
                if removes {
                    let options = robot_env_engine::RemoveContainerOptions { force: true, volumes: true };
                    let _ = engine.remove(id, options);
                    engine.empty_trash_later();
                }
                return Err(error);
            }
        };
        started.warnings.iter().for_each(|warning| app.warn(warning));
        let Some(attachment) = started.attachment else {
            app.print_line(id)?;
            return Ok(Exit::SUCCESS);
        };
        let keys = flags.detach_keys.as_deref();
        front::stand(&engine, attachment, &Front { tty, keys, proxy: self.sig_proxy, id })
    }
}

/// Create a container without starting it
#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    container: ContainerFlags,
}

impl Verb for Create {
    const SPELLINGS: &'static [&'static str] = &["create", "container create"];
    const FLAGS: Flags = Flags::First;
    const CLASS: Class = Class::Program;

    fn run(self, app: &App) -> Result<Exit> {
        let wanted = self.container.wanted(app.ambient())?;
        let engine = app.engine()?;
        let created = create(app, &engine, &self.container, wanted, |request| engine.create(request))?;
        app.print_line(created.id.as_str())?;
        Ok(Exit::SUCCESS)
    }
}

/// The streams to attach; `None` in the background.
fn hello(spec: &mut ContainerSpec, flags: &ContainerFlags, detach: bool) -> Result<Option<Hello>> {
    if detach {
        if flags.attaches() {
            return Err(Error::invalid("conflicting options: cannot attach and detach at once"));
        }
        spec.attach = AttachStreams::default();
        spec.stdin_once = false;
        return Ok(None);
    }
    let attach = spec.attach;
    Ok(Some(Hello {
        stdin: attach.stdin && spec.stdin_open,
        stdout: attach.stdout,
        stderr: attach.stderr && !spec.tty,
    }))
}

/// Makes the container, with its image pulled first where that is needed and wanted.
pub(super) fn create(
    app: &App,
    engine: &Engine,
    flags: &ContainerFlags,
    mut wanted: Wanted,
    mut make: impl FnMut(CreateRequest) -> Result<Created>,
) -> Result<Created> {
    complete(&mut wanted.spec, engine.session());
    let cidfile = flags.cidfile.as_deref().map(|path| Cidfile::claim(app, path)).transpose()?;
    wanted.warnings.iter().for_each(|warning| app.warn(warning));
    apply_defaults(&mut wanted.spec, app.configuration(), flags.given())?;
    if flags.pull == "always" {
        pull(app, engine, &wanted.spec, flags.quiet)?;
    }
    let request = CreateRequest {
        spec: wanted.spec,
        name: flags.name.as_deref().map(|name| name.strip_prefix('/').unwrap_or(name).to_owned()),
    };
    let created = match make(request.clone()) {
        Err(error) if error.kind() == Kind::NotFound && lacks_image(engine, &request.spec) => {
            if flags.pull == "never" {
                return Err(Error::not_found(format!("No such image: {}", request.spec.image)));
            }
            let name = request.spec.image.parse::<Reference>()?.or_latest().familiar();
            app.say(&format!("Unable to find image '{name}' locally"));
            pull(app, engine, &request.spec, flags.quiet)?;
            make(request)?
        }
        other => other?,
    };
    created.warnings.iter().for_each(|warning| app.warn(warning));
    if let Some(cidfile) = cidfile {
        cidfile.write(created.id.as_str())?;
    }
    Ok(created)
}

/// Downloads the image, with the progress on standard error.
fn pull(app: &App, engine: &Engine, spec: &ContainerSpec, quiet: bool) -> Result<()> {
    let reference = spec.image.parse::<Reference>()?.or_latest();
    let client = app.registry();
    let options = PullOptions { platform: spec.platform.clone(), ownership: ownership() };
    let observer = app.error_observer(quiet);
    let pulled = interruptible(&client, || {
        robot_env_transfer::pull(engine.store(), &client, &reference, &options, observer.as_ref())
    })?;
    if !quiet {
        pull::tell(observer.as_ref(), &pulled);
    }
    Ok(())
}

fn lacks_image(engine: &Engine, spec: &ContainerSpec) -> bool {
    engine.store().resolve(&spec.image).is_err_and(|error| error.kind() == Kind::NotFound)
}

/// The file that gets the container's id: it must not exist before, and goes again when no
/// container comes of it.
struct Cidfile {
    path: std::path::PathBuf,
    written: bool,
}

impl Cidfile {
    fn claim(app: &App, path: &str) -> Result<Cidfile> {
        let path = app.ambient().directory.join(path);
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => Ok(Cidfile { path, written: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::new(
                Kind::Conflict,
                format!(
                    "container ID file found, make sure the other container isn't running or delete {}",
                    path.display()
                ),
            )),
            Err(error) => Err(Error::new(
                Kind::of_io(&error),
                format!("cannot make the container ID file `{}`", path.display()),
            )
            .because(error)),
        }
    }

    fn write(mut self, id: &str) -> Result<()> {
        std::fs::write(&self.path, id).map_err(|error| {
            Error::new(Kind::of_io(&error), format!("cannot write `{}`", self.path.display())).because(error)
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for Cidfile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
