use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use robot_env_build::{BuildRequest, Built, Cancel, Fetch, Files, Origin, Recipe, Secret, is_address};
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_engine::Engine;
use robot_env_oci::{Platform, Reference};
use robot_env_registry::Client;
use robot_env_spec::{ContainerSpec, NetworkMode};
use robot_env_transfer::{PullOptions, ownership};

use super::load::standard_input;
use crate::app::App;
use crate::container_flags::{self, LimitFlags, csv};
use crate::interrupt::{interruptible, interruptible_by};
use crate::verb::{Exit, Verb};

mod lint;
mod outputs;
mod progress;
mod space;
mod terminal;
mod text;

use outputs::OutputFlags;
use progress::{Progress, Pulls, Style};
use space::Space;

/// The largest Dockerfile that is read from standard input, in bytes.
const LIMIT: u64 = 16 << 20;
/// The largest secret, in bytes: Docker's limit.
const SECRET: u64 = 500 << 10;

/// Build an image from a Dockerfile
#[derive(Args)]
pub(crate) struct Build {
    /// A further name for a host: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Allow a right that a build does not have: security.insecure, network.host
    #[arg(long, value_name = "RIGHT")]
    allow: Vec<String>,
    /// The value of an ARG; without one, that of the variable of this name
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// A further tree for FROM and --from: NAME=DIRECTORY or NAME=docker-image://IMAGE
    #[arg(long, value_name = "NAME=SOURCE")]
    build_context: Vec<String>,
    /// What is done: build, or check, which is --check
    #[arg(long, value_name = "METHOD", value_parser = ["build", "check"])]
    call: Option<String>,
    /// Look at the Dockerfile without building it
    #[arg(long)]
    check: bool,
    /// Compress the context on its way: there is none
    #[arg(long)]
    compress: bool,
    /// The Dockerfile; `-` reads it from standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Write the image's id into a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// How RUN is kept apart; only `default` exists
    #[arg(long, value_name = "TECHNOLOGY")]
    isolation: Option<String>,
    /// A label for the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    #[command(flatten)]
    limits: LimitFlags,
    /// Write what was built into a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// The network of RUN: default, none, host or a network's name
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Take nothing from the cache
    #[arg(long)]
    no_cache: bool,
    /// Take nothing from the cache for these stages
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    #[command(flatten)]
    outputs: OutputFlags,
    /// What the image is for; several make an index
    #[arg(long, value_name = "OS/ARCH[/VARIANT],...")]
    platform: Vec<String>,
    /// How progress is shown: auto, plain, tty, json, quiet
    #[arg(long, value_name = "STYLE")]
    progress: Option<String>,
    /// Attestations of where the image comes from: none are made, so only `false` is taken
    #[arg(long, value_name = "false", value_parser = ["false"])]
    provenance: Option<String>,
    /// Look for newer base images in their registries
    #[arg(long)]
    pull: bool,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Remove intermediate containers: they always are
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    rm: bool,
    /// Remove intermediate containers of a failed build: they always are
    #[arg(long)]
    force_rm: bool,
    /// Attestations of what the image holds: none are made, so only `false` is taken
    #[arg(long, value_name = "false", value_parser = ["false"])]
    sbom: Option<String>,
    /// A secret for RUN: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "id=NAME[,src=FILE]")]
    secret: Vec<String>,
    /// Options of security for RUN, as `run` has them
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm for RUN
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// The ssh agent for RUN: default or NAME[=SOCKET]
    #[arg(long, value_name = "default|NAME[=SOCKET]")]
    ssh: Vec<String>,
    /// A name for the image; several are allowed
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// A limit of RUN's processes: NAME=SOFT[:HARD]
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// A directory, the address of a git repository or an archive, or `-` for standard input
    #[arg(value_name = "PATH|URL|-")]
    context: String,
}

impl Verb for Build {
    const SPELLINGS: &'static [&'static str] = &["build", "image build", "buildx build", "builder build"];

    fn run(mut self, app: &App) -> Result<Exit> {
        self.refuse()?;
        let style = if self.quiet { Style::Quiet } else { Style::of(self.progress.as_deref(), app)? };
        self.quiet |= style == Style::Quiet;
        let names = self.tag.iter().map(|name| name.parse::<Reference>()).collect::<Result<Vec<_>>>()?;
        if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
            return Err(Error::invalid(format!(
                "cannot name an image `{}`: a digest is no name",
                name.familiar()
            )));
        }
        let names: Vec<Reference> = names.into_iter().map(Reference::or_latest).collect();
        let engine = app.engine()?;
        let client = app.registry();
        let files = {
            let mut fetch = Registries { engine: &engine, client: &client, pulls: Pulls::silent() };
            interruptible(&client, || self.files(app, &engine, &mut fetch))?
        };
        let mut request = self.request(app, &files, names)?;
        robot_env_build::frontend(&request.dockerfile, &request.arguments)?;
        if self.check || self.call.as_deref() == Some("check") {
            return lint::check(app, &engine, &request);
        }
        let cancel = Cancel::new()?;
        request.cancel = Some(cancel.clone());
        let mut progress = Progress::new(style, app);
        let built = interruptible_by(&client, &|| cancel.cancel(), || {
            let mut fetch = Registries { engine: &engine, client: &client, pulls: progress.pulls() };
            robot_env_build::build(&engine, &request, &mut fetch, &mut progress)
        });
        progress.end(built.as_ref().ok());
        drop(files);
        engine.empty_trash_later();
        let built = built?;
        report(&engine, &request, &progress, &built);
        self.tell(app, &engine, &request, &built)?;
        Ok(Exit::SUCCESS)
    }
}

impl Build {
    /// What can be told from the words alone.
    fn refuse(&self) -> Result<()> {
        if let Some(isolation) = self.isolation.as_deref().filter(|word| !matches!(*word, "" | "default")) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot isolate by `{isolation}`: containers of Linux have only `default`"),
            ));
        }
        if let Some(right) =
            self.allow.iter().find(|right| !matches!(right.as_str(), "security.insecure" | "network.host"))
        {
            return Err(Error::invalid(format!(
                "invalid argument `{right}` for --allow: there are security.insecure and network.host"
            )));
        }
        Ok(())
    }

    fn request(&self, app: &App, files: &Files, names: Vec<Reference>) -> Result<BuildRequest> {
        let ambient = app.ambient();
        let mut arguments = BTreeMap::new();
        for word in &self.build_arg {
            match word.split_once('=') {
                Some((name, value)) => drop(arguments.insert(name.to_owned(), value.to_owned())),
                None => {
                    if let Some(value) = ambient.variable(word) {
                        arguments.insert(word.clone(), value.to_owned());
                    }
                }
            }
        }
        let epoch = arguments
            .get("SOURCE_DATE_EPOCH")
            .map(String::as_str)
            .or_else(|| ambient.variable("SOURCE_DATE_EPOCH"))
            .filter(|text| !text.is_empty())
            .map(|text| {
                text.parse::<i64>().map_err(|_| {
                    Error::invalid(format!(
                        "invalid SOURCE_DATE_EPOCH `{text}`: it must be a number of seconds"
                    ))
                })
            })
            .transpose()?;
        let mut contexts = BTreeMap::new();
        for word in &self.build_context {
            let (name, source) = further_context(app, word)?;
            contexts.insert(name, source);
        }
        let (platform, platforms) = outputs::platforms(app, &self.platform)?;
        let network = match self.network.as_deref() {
            None | Some("" | "default" | "bridge") => NetworkMode::Default,
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            Some(name) => NetworkMode::Network(name.to_owned()),
        };
        let run = ContainerSpec {
            add_hosts: self
                .add_host
                .iter()
                .map(|text| container_flags::host_entry(text))
                .collect::<Result<_>>()?,
            ulimits: self.ulimit.iter().map(|text| container_flags::ulimit(text)).collect::<Result<_>>()?,
            shm_size: self.shm_size.as_deref().map(container_flags::shm_size).transpose()?,
            security: container_flags::security(&self.security_opt, &ambient.directory)?,
            resources: self.limits.resources()?,
            privileged: self.allow.iter().any(|right| right == "security.insecure"),
            ..ContainerSpec::default()
        };
        Ok(BuildRequest {
            dockerfile: files.dockerfile.clone(),
            file_name: files.file_name.clone(),
            context: files.context.clone(),
            ignore: files.ignore.clone(),
            ignore_name: files.ignore_name.clone(),
            contexts,
            target: self.target.clone().filter(|name| !name.is_empty()),
            arguments,
            labels: container_flags::labels(&[], &self.label, ambient)?,
            platform,
            platforms,
            outputs: self.outputs.outputs(app)?,
            squash: self.outputs.squash(),
            cache_from: self.outputs.cache_from(app)?,
            cache_to: self.outputs.cache_to(app)?,
            no_cache: self.no_cache,
            no_cache_filter: self.no_cache_filter.clone(),
            pull: self.pull,
            network,
            run,
            secrets: self.secret.iter().map(|text| secret(app, text)).collect::<Result<_>>()?,
            agents: self.ssh.iter().map(|text| agent(app, text)).collect::<Result<_>>()?,
            names,
            epoch,
            cancel: None,
        })
    }

    /// Where the files and the Dockerfile are.
    fn files(&self, app: &App, engine: &Engine, fetch: &mut dyn Fetch) -> Result<Files> {
        let (source, here) = (self.context.as_str(), &app.ambient().directory);
        let local = source != "-" && !is_address(source);
        let recipe = match self.file.as_deref() {
            None => Recipe::Default,
            Some("-") if source == "-" => {
                return Err(Error::invalid(
                    "invalid argument: can't use stdin for both build context and dockerfile",
                ));
            }
            Some("-") => {
                let mut text = String::new();
                standard_input()?
                    .take(LIMIT)
                    .read_to_string(&mut text)
                    .io_context(|| "cannot read the Dockerfile from standard input".into())?;
                Recipe::Text(text)
            }
            // Relative to where the user is for a local context, else inside it.
            Some(file) if local => Recipe::Path { path: here.join(file), shown: file.to_owned() },
            Some(file) => Recipe::Path { path: file.into(), shown: file.to_owned() },
        };
        if !local {
            let mut input;
            let origin = if source == "-" {
                input = standard_input()?;
                Origin::Stream(&mut input)
            } else {
                Origin::Address(source)
            };
            return Files::gather(engine, fetch, origin, recipe);
        }
        let directory = directory(here, source).map_err(|error| {
            if !here.join(source).is_file() {
                return error;
            }
            error.with_hint(format!("name the directory that holds it, and the Dockerfile by `-f {source}`"))
        })?;
        Files::gather(engine, fetch, Origin::Directory(directory), recipe)
    }

    fn tell(&self, app: &App, engine: &Engine, request: &BuildRequest, built: &Built) -> Result<()> {
        let id = built.image.to_string();
        let write = |path: &Path, text: &str| {
            let path = app.ambient().directory.join(path);
            fs::write(&path, text).io_context(|| format!("cannot write `{}`", path.display()))
        };
        if let Some(path) = &self.iidfile {
            write(path, &id)?;
        }
        if let Some(path) = &self.metadata_file {
            let mut names: Vec<String> = built.names.iter().map(ToString::to_string).collect();
            names.extend(built.pushed.iter().map(ToString::to_string));
            names.sort();
            names.dedup();
            let mut said = serde_json::json!({
                "containerimage.config.digest": id,
                "image.name": names.join(","),
            });
            if let Some(digest) = &built.digest {
                said["containerimage.digest"] = digest.to_string().into();
            }
            write(path, &format!("{said:#}\n"))?;
        }
        for name in &built.names {
            engine.tell_of("image", "tag", &id, [("name".to_owned(), name.familiar())].into());
        }
        // An archive that goes there is not to have a line behind it.
        if self.quiet && outputs::on_stdout(&request.outputs) == 0 {
            app.print_line(&id)?;
        }
        Ok(())
    }
}

/// Warnings, and what the layers take. That these cannot be had is no failure of a build.
fn report(engine: &Engine, request: &BuildRequest, progress: &Progress, built: &Built) {
    if progress.is_shown()
        && let Ok(found) = robot_env_build::check(engine, request)
    {
        progress.say(&lint::summary(&found, request));
        for object in lint::objects(&found, request) {
            progress.say_json(object);
        }
    }
    // Another command can show an image only if the store has it.
    let image = match built.names.first() {
        Some(name) => Some(name.familiar()),
        None => engine.store().resolve(&built.image.to_string()).ok().map(|_| built.image.short().to_owned()),
    };
    let all = progress.new_layers();
    for (platform, layers) in all {
        let Ok(space) = Space::measure(engine.store(), layers, &request.dockerfile) else { continue };
        let platform = (all.len() > 1).then_some(platform);
        progress.say(&space.text(image.as_deref(), platform));
        progress.say_json(space.object(platform));
    }
}

/// The directory with the files of a context.
fn directory(here: &Path, source: &str) -> Result<PathBuf> {
    let directory = here.join(source);
    let found = fs::metadata(&directory).io_context(|| format!("cannot use `{source}` as a context"))?;
    if found.is_dir() {
        return Ok(directory);
    }
    Err(Error::invalid(format!("cannot use `{source}` as a context: it is no directory")))
}

/// `NAME=SOURCE`
fn further_context(app: &App, text: &str) -> Result<(String, String)> {
    let parts = text.split_once('=').filter(|(name, source)| !name.is_empty() && !source.is_empty());
    let (name, source) = parts.ok_or_else(|| {
        Error::invalid(format!("invalid argument `{text}` for --build-context: it must be NAME=SOURCE"))
    })?;
    let source = if let Some(image) = source.strip_prefix("docker-image://") {
        image.parse::<Reference>()?;
        source.to_owned()
    } else if source.contains("://") {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot use `{source}` as a further context: only directories and docker-image:// are"),
        ));
    } else {
        directory(&app.ambient().directory, source)?.to_string_lossy().into_owned()
    };
    Ok((name.to_owned(), source))
}

/// `id=NAME[,src=FILE|,env=VARIABLE]`
fn secret(app: &App, text: &str) -> Result<(String, Secret)> {
    let bad = |why: &str| Error::invalid(format!("invalid argument `{text}` for --secret: {why}"));
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for field in csv(text).ok_or_else(|| bad("it must be like id=NAME,src=FILE"))? {
        let (place, value) = match field.split_once('=').filter(|(_, value)| !value.is_empty()) {
            Some(("id", value)) => (&mut id, value),
            Some(("source" | "src", value)) => (&mut source, value),
            Some(("env", value)) => (&mut variable, value),
            Some(("type", value @ ("file" | "env"))) => (&mut kind, value),
            _ => return Err(bad(&format!("`{field}` is not understood"))),
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(bad(&format!("with `{field}` it has two of a kind")));
        }
    }
    let id = id.ok_or_else(|| bad("it has no id"))?;
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = source.take();
    }
    if variable.is_some() && (source.is_some() || kind.as_deref() == Some("file")) {
        return Err(bad("it is either a file or a variable"));
    }
    let of_variable = |name: &str| {
        let value = app.ambient().variable(name);
        value.map(|value| Secret::Value(value.as_bytes().to_vec()))
    };
    let found = match (source, variable) {
        (Some(path), _) => Secret::File(app.ambient().directory.join(path)),
        (None, Some(name)) => {
            of_variable(&name).ok_or_else(|| bad(&format!("the variable `{name}` is not set")))?
        }
        // A variable of that name, else a file, as Docker looks for it.
        (None, None) => match of_variable(&id) {
            Some(secret) if kind.as_deref() != Some("file") => secret,
            _ => Secret::File(app.ambient().directory.join(&id)),
        },
    };
    let Secret::File(path) = &found else { return Ok((id, found)) };
    let within = || format!("cannot read secret `{id}` from `{}`", path.display());
    let there = fs::metadata(path).io_context(within)?;
    if there.is_dir() {
        return Err(Error::invalid(format!("{}: it is a directory", within())));
    }
    if there.len() > SECRET {
        return Err(Error::invalid(format!("{}: it has more than {SECRET} bytes", within())));
    }
    if there.is_file() {
        return Ok((id, found));
    }
    // A pipe, of a shell's `<(COMMAND)` for one, can be read once: that is now.
    let mut content = Vec::new();
    let file = fs::File::open(path).io_context(within)?;
    file.take(SECRET + 1).read_to_end(&mut content).io_context(within)?;
    if content.len() as u64 > SECRET {
        return Err(Error::invalid(format!("{}: it has more than {SECRET} bytes", within())));
    }
    Ok((id, Secret::Value(content)))
}

/// `default` or `NAME[=SOCKET]`
fn agent(app: &App, text: &str) -> Result<(String, PathBuf)> {
    let (name, socket) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::invalid(format!("invalid argument `{text}` for --ssh: it has no name")));
    }
    let path = if socket.is_empty() {
        app.ambient()
            .variable("SSH_AUTH_SOCK")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .ok_or_else(|| {
                Error::not_found(format!("cannot hand on the ssh agent `{name}`: SSH_AUTH_SOCK is not set"))
            })?
    } else {
        app.ambient().directory.join(socket)
    };
    let is_socket =
        fs::metadata(&path).is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()));
    if !is_socket {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot hand on the ssh agent `{name}`: `{}` is no socket", path.display()),
        )
        .with_hint("start an agent (`eval $(ssh-agent)`, `ssh-add KEY`)"));
    }
    Ok((name.to_owned(), path))
}

/// Brings base images and downloads.
struct Registries<'a> {
    engine: &'a Engine,
    client: &'a Client,
    pulls: Pulls,
}

impl Fetch for Registries<'_> {
    fn fetch(&mut self, reference: &Reference, platform: Option<&Platform>, _always: bool) -> Result<()> {
        let options = PullOptions { platform: platform.cloned(), ownership: ownership() };
        let observer = self.pulls.observer();
        robot_env_transfer::pull(self.engine.store(), self.client, reference, &options, observer.as_ref())
            .map(drop)
    }

    fn download(&mut self, address: &str) -> Result<Box<dyn Read>> {
        Ok(Box::new(self.client.download(address)?))
    }

    fn download_with_time(&mut self, address: &str) -> Result<(Box<dyn Read>, Option<i64>)> {
        let download = self.client.download(address)?;
        let modified = download.modified();
        Ok((Box::new(download), modified))
    }

    fn client(&self) -> Option<Client> {
        Some(self.client.clone())
    }
}
