//! What every command can reach: the ambient facts, the global flags, the two outputs.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use robot_env_config::{Configuration, Severity, Sources};
use robot_env_device::HostRoot;
use robot_env_device::user::HostUser;
use robot_env_diag::{Error, Escaped, IoContext, Kind, Result};
use robot_env_engine::{Engine, EngineOptions, NetworkDefaults, Session, rootless};
use robot_env_oci::ImageText;
use robot_env_registry::{Client, ClientOptions};
use robot_env_store::{ImageRecord, OverlayXattr, Store, StoreOptions};
use robot_env_transfer::Observer;

use crate::ambient::Ambient;
use crate::progress::Progress;

/// How long what is removed can come back, where the configuration says nothing.
const UNDO_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How much is said beside a command's own output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loudness {
    /// Errors only.
    Error,
    /// Warnings too.
    #[default]
    Warn,
    /// The kind of each error too.
    Debug,
}

/// The flags that stand before the command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Globals {
    /// `--root`: where data is kept; absent: the default.
    pub root: Option<PathBuf>,
    /// `--run-root`: where run state is kept; absent: the default.
    pub run_root: Option<PathBuf>,
    /// `--config`: the directory of `config.json`.
    pub config: Option<PathBuf>,
    /// `--debug`, `--log-level`.
    pub loudness: Loudness,
}

/// A run of the program.
pub struct App {
    ambient: Ambient,
    globals: Globals,
    place: OnceCell<Place>,
    configuration: OnceCell<Configuration>,
    server: Option<Server>,
}

/// See [`App::error_observer`], for another thread.
pub(crate) fn error_observer(terminal: bool, quiet: bool) -> Box<dyn Observer> {
    if quiet {
        return Box::new(());
    }
    let out = std::io::stderr();
    let size = terminal.then(|| robot_env_sys::terminal::size(&out).unwrap_or((24, 80)));
    Box::new(Progress::new(out, size))
}

/// Who serves the API: a front end of its own, which the program brings along.
pub type Server = fn(ServeRequest) -> Result<()>;

/// What `serve` asks of it.
pub struct ServeRequest {
    /// The engine.
    pub engine: Engine,
    /// Where the socket is made, unless sockets were handed over.
    pub socket: PathBuf,
    /// A group whose users may connect, too.
    pub group: Option<String>,
    /// Where TCP is served, too.
    pub tls: Option<ServeTls>,
    /// Sockets that the program was started with.
    pub activated: Vec<OwnedFd>,
    /// End after so long without a request.
    pub idle: Option<Duration>,
    /// How registries are talked to, without credentials of this user.
    pub registry: ClientOptions,
    /// What it says of every container.
    pub configuration: Configuration,
    /// The directories of programs, like `PATH`.
    pub path: String,
    /// Called with the socket's path when it accepts requests.
    pub ready: fn(&Path),
}

/// TCP with certificates on both sides: the address, and files in PEM.
#[derive(Clone, Debug)]
pub struct ServeTls {
    /// The address and port.
    pub address: SocketAddr,
    /// The authorities of clients.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where the engine works, and as whom.
struct Place {
    roots: rootless::Roots,
    identity: rootless::Identity,
    /// The user's groups, which have no number in a user namespace.
    groups: Vec<u32>,
}

impl App {
    /// The app of one run.
    pub fn new(ambient: Ambient, globals: Globals) -> App {
        App { ambient, globals, place: OnceCell::new(), configuration: OnceCell::new(), server: None }
    }

    /// The app with somebody who serves the API.
    #[must_use]
    pub fn with_server(mut self, server: Server) -> App {
        self.server = Some(server);
        self
    }

    /// Serves the API until it is told to end.
    pub(crate) fn serve(
        &self,
        socket: Option<PathBuf>,
        group: Option<String>,
        idle: Option<Duration>,
        tls: Option<ServeTls>,
    ) -> Result<()> {
        let serve = self
            .server
            .ok_or_else(|| Error::new(Kind::Unsupported, "this program is built without the API server"))?;
        let activated = self.activated()?;
        let mut registry = self.registry().options().clone();
        registry.docker_config = None;
        let engine = self.engine()?;
        serve(ServeRequest {
            socket: socket.unwrap_or_else(|| engine.paths().run_root().join("docker.sock")),
            engine,
            group,
            tls,
            activated,
            idle,
            registry,
            configuration: self.configuration().clone(),
            path: self.ambient.variable("PATH").unwrap_or_default().to_owned(),
            ready: |path| {
                let address = Escaped(&path.to_string_lossy()).to_string();
                let _ = writeln!(std::io::stderr().lock(), "serving: DOCKER_HOST=unix://{address}");
            },
        })
    }

    /// The sockets that systemd has opened for this process (sd_listen_fds(3)).
    fn activated(&self) -> Result<Vec<OwnedFd>> {
        let number = |name: &str| self.ambient.variable(name).and_then(|text| text.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(Vec::new());
        }
        let count = number("LISTEN_FDS").unwrap_or(0).min(16) as i32;
        (3..3 + count).map(|fd| Ok(robot_env_sys::process::take_descriptor(fd)?)).collect()
    }

    /// What is around the process.
    pub fn ambient(&self) -> &Ambient {
        &self.ambient
    }

    /// The global flags.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// The name under which the program was called.
    pub fn program(&self) -> &str {
        &self.ambient.program
    }

    /// The roots; nothing is made or entered, but for a user's run root below `/tmp`.
    pub(crate) fn roots(&self) -> Result<rootless::Roots> {
        let all = &self.ambient.environment;
        let variable = |name: &str| all.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let (data, run) = (self.globals.root.clone(), self.globals.run_root.as_deref());
        let data = data.map_or_else(|| self.data_root(), |data| Ok(Some(data)))?;
        rootless::roots(data.as_deref(), run, &self.ambient.directory, variable)
    }

    /// The roots, and who the engine is: an ordinary user's process enters a user namespace here,
    /// at the first command that touches either root, which must come before any thread.
    fn place(&self) -> Result<&Place> {
        if let Some(place) = self.place.get() {
            return Ok(place);
        }
        let roots = self.roots()?;
        let groups = rustix::process::getgroups().unwrap_or_default();
        let groups = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
        let identity = rootless::enter(&rootless::Enter {
            run: &roots.run,
            login: self.ambient.variable("USER"),
            path: self.ambient.variable("PATH").map(OsStr::new),
            even_root: false,
        })?;
        Ok(self.place.get_or_init(|| Place { roots, identity, groups }))
    }

    /// The files of the configuration.
    pub(crate) fn sources(&self) -> Sources {
        let all = &self.ambient.environment;
        let variable = |name: &str| all.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        // What root of a user namespace may not take from them, `data_root` knows.
        Sources::of(variable, !rustix::process::geteuid().is_root())
    }

    /// What the configuration says, read once; what is wrong in it is warned of.
    pub(crate) fn configuration(&self) -> &Configuration {
        self.configuration.get_or_init(|| {
            let configuration = Configuration::read(&self.sources());
            for finding in configuration.findings.iter().filter(|f| f.severity == Severity::Warning) {
                self.warn(&finding.to_string());
            }
            configuration
        })
    }

    /// The data root that the configuration names.
    pub(crate) fn data_root(&self) -> Result<Option<PathBuf>> {
        let configuration = self.configuration();
        if configuration.setting("data-root").is_none() {
            return Ok(None);
        }
        let rootless = !rustix::process::geteuid().is_root() || rootless::Identity::current()?.is_rootless();
        Ok(configuration.data_root(rootless))
    }

    /// The engine on both roots; they are made where they are missing.
    pub(crate) fn engine(&self) -> Result<Engine> {
        let Place { roots, identity, groups } = self.place()?;
        let engine = Engine::open(&EngineOptions {
            root: roots.data.clone(),
            run_root: roots.run.clone(),
            rootless: identity.is_rootless(),
            single_id: identity.single_id,
        })?;
        let undo = self.configuration().time("undo-time").unwrap_or(UNDO_TIME);
        let networks = NetworkDefaults::of(self.configuration());
        let follow = networks.speak_of_the_bridge();
        let engine = engine.with_session(self.session(identity, groups));
        let engine = engine.with_undo(undo).with_network_defaults(networks);
        if follow && let Some(said) = engine.follow_new_configuration()? {
            self.warn(&said);
        }
        // What is missing then is found missing by the command itself.
        if engine.expire_removed().is_ok_and(|count| count > 0) {
            engine.empty_trash_later();
        }
        Ok(engine)
    }

    /// What of the user's desktop and identity containers may get.
    fn session(&self, identity: &rootless::Identity, groups: &[u32]) -> Session {
        let environment = self.ambient.environment.iter();
        let texts = environment.filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        Session::of(texts, (identity.user, identity.group), groups.to_vec())
    }

    /// The user's id outside of every namespace of the engine's; below `sudo`, of who called it.
    pub(crate) fn host_user(&self) -> u32 {
        // Nothing is entered for it.
        let Ok(identity) = rootless::Identity::current() else { return 0 };
        HostUser::of(&HostRoot::system(), &self.session(&identity, &[])).uid
    }

    fn open_store(&self, create: bool) -> Result<Store> {
        let Place { roots, identity, .. } = self.place()?;
        let overlay_xattr = if identity.is_rootless() { OverlayXattr::User } else { OverlayXattr::Trusted };
        Store::open(&StoreOptions { root: roots.data.clone(), overlay_xattr, create })
    }

    /// The store; `None` where none was made so far. It is never made here.
    pub(crate) fn existing_store(&self) -> Result<Option<Store>> {
        match self.open_store(false) {
            Ok(store) => Ok(Some(store)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The store, made where there was none.
    pub(crate) fn store(&self) -> Result<Store> {
        self.open_store(true)
    }

    /// The store that must hold the image `text`.
    pub(crate) fn store_with(&self, text: &str) -> Result<Store> {
        let Some(store) = self.existing_store()? else { return Err(no_such_image(text)?) };
        Ok(store)
    }

    /// The image that `text` means. Where there is none the error has the words that Docker's
    /// clients look for.
    pub(crate) fn find_image(store: &Store, text: &str) -> Result<ImageRecord> {
        match store.resolve(text) {
            Err(error) if error.kind() == Kind::NotFound => Err(no_such_image(text)?),
            found => found,
        }
    }

    /// The client of registries, by the conventions of Docker; what could not be understood in
    /// its files is warned of.
    pub(crate) fn registry(&self) -> Client {
        let environment =
            self.ambient.environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let mut loaded = ClientOptions::from_environment(
            environment,
            self.ambient.home().as_deref(),
            self.configuration(),
        );
        for warning in &loaded.warnings {
            self.warn(warning.message());
        }
        if let Some(directory) = &self.globals.config {
            loaded.options.docker_config = Some(self.ambient.directory.join(directory).join("config.json"));
        }
        Client::new(loaded.options)
    }

    /// Who hears of progress: standard output, or with `quiet` nobody.
    pub(crate) fn observer(&self, quiet: bool) -> Box<dyn Observer> {
        if quiet {
            return Box::new(());
        }
        let out = std::io::stdout();
        let size = if self.ambient.stdout_is_terminal {
            Some(robot_env_sys::terminal::size(&out).unwrap_or((24, 80)))
        } else {
            None
        };
        Box::new(Progress::new(out, size))
    }

    /// The same on standard error, for commands whose output is the program's.
    pub(crate) fn error_observer(&self, quiet: bool) -> Box<dyn Observer> {
        error_observer(self.ambient.stderr_is_terminal, quiet)
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Prints to standard output. A reader that has gone is no error.
    pub fn print(&self, text: &str) -> Result<()> {
        self.write(text.as_bytes())
    }

    /// Prints a line to standard output.
    pub fn print_line(&self, text: &str) -> Result<()> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Writes bytes to standard output at once.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Error::new(Kind::Interrupted, "the reader of the output is gone"))
            }
            done => done.io_context(|| "cannot write to standard output".into()),
        }
    }

    /// Says a line on standard error. That it cannot be said is no failure of the command.
    pub fn say(&self, text: &str) {
        // One write: `Escaped` displays character by character, and standard error has no buffer.
        let line = format!("{}\n", Escaped(text));
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    /// Warns on standard error, as Docker does.
    pub fn warn(&self, text: &str) {
        if self.globals.loudness >= Loudness::Warn {
            self.say(&format!("WARNING: {text}"));
        }
    }

    /// Shows an error on standard error.
    pub fn show(&self, error: &Error) {
        let mut text = error.to_report().to_string();
        if self.globals.loudness >= Loudness::Debug {
            text.push_str(&format!("\nkind: {:?}", error.kind()));
        }
        text.push('\n');
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Does something for each of `names`; what fails is shown and does not stop the others.
    pub(crate) fn each(
        &self,
        names: &[String],
        mut act: impl FnMut(&str) -> Result<()>,
    ) -> Result<crate::verb::Exit> {
        let mut exit = crate::verb::Exit::SUCCESS;
        for name in names {
            match act(name) {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => {
                    self.show(&error);
                    exit = crate::verb::Exit::FAILURE;
                }
            }
        }
        Ok(exit)
    }

    /// Shows what failed of several, and does something for each that did not.
    pub(crate) fn each_outcome(
        &self,
        names: &[String],
        outcomes: Vec<Result<()>>,
        mut act: impl FnMut(&str) -> Result<()>,
    ) -> Result<crate::verb::Exit> {
        let mut outcomes = outcomes.into_iter();
        self.each(names, |name| {
            outcomes.next().unwrap_or(Ok(()))?;
            act(name)
        })
    }

    /// Asks a yes-or-no question on the terminal, as `prune` does.
    pub(crate) fn confirm(&self, question: &str) -> Result<bool> {
        self.print(&format!("{question} [y/N] "))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).io_context(|| "cannot read the answer".into())?;
        if !self.ambient.stdin_is_terminal {
            self.print("\n")?;
        }
        Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "YES"))
    }
}

/// `No such image: x:latest`; an error of its own for a text that can name no image.
fn no_such_image(text: &str) -> Result<Error> {
    let shown = match text.parse::<ImageText>()? {
        ImageText::Name(reference) => reference.familiar(),
        ImageText::IdPrefix { or_name: Some(reference), .. } => reference.familiar(),
        ImageText::IdPrefix { or_name: None, .. } => text.to_owned(),
    };
    Ok(Error::not_found(format!("No such image: {shown}")))
}
