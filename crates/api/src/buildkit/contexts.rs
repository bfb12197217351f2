//! From a client's files to directories that the builder reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use robot_env_build::{ContextRoom, Fetch, Files, Origin, Recipe, Secret};
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_dockerfile::Dockerfile;
use robot_env_engine::Engine;
use robot_env_sys::fs::{open_directory, read_in_root};
use robot_env_transfer::Amount;
use tokio::runtime::Handle;

use super::agents::{self, Agent};
use super::files::{self, Wish};
use super::frontend::{Asked, ContextSource};
use super::grpc::Code;
use super::job::Cancel;
use super::messages::Definition;
use super::messages::session::{Bytes, SecretRequest};
use super::place::Place;
use super::progress::{Progress, Step};
use super::session::{Session, Sessions};
use super::upload::{UPLOAD, Upload};
use super::{bridge, used};

const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
/// The most bytes of a Dockerfile or a `.dockerignore`.
const TEXT: usize = 16 << 20;

/// Asks a client for what its build needs.
pub(super) struct Gatherer<'b> {
    pub(super) engine: &'b Engine,
    pub(super) handle: &'b Handle,
    pub(super) sessions: &'b Sessions,
    pub(super) session: &'b Arc<Session>,
    pub(super) progress: &'b Arc<Progress>,
    pub(super) cancel: &'b Cancel,
}

/// What has to stay as long as the build.
#[derive(Default)]
pub(super) struct Held {
    places: Vec<Place>,
    rooms: Vec<ContextRoom>,
    files: Vec<Files>,
    agents: Vec<Agent>,
}

struct Shown<'s> {
    step: &'s mut Step,
    name: String,
    bytes: u64,
}

impl files::Progress for Shown<'_> {
    fn transferred(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.step.part(&self.name, Amount { done: bytes, total: 0 }, false);
    }
}

impl Gatherer<'_> {
    /// Completes a request as far as it takes to look at the Dockerfile.
    pub(super) fn look(
        &self,
        asked: &mut Asked,
        inputs: &HashMap<String, Definition>,
        fetch: &mut dyn Fetch,
    ) -> Result<Held> {
        let ContextSource::Local(name) = asked.context.clone() else {
            return self.gather(asked, inputs, fetch);
        };
        let temporary = ContextRoom::make(self.engine)?;
        asked.request.ignore = match self.dockerfile(asked, &temporary)? {
            Some(text) => text,
            None => self.ignore(asked, &name, &temporary)?,
        };
        Ok(Held { rooms: vec![temporary], ..Held::default() })
    }

    /// Completes a request.
    pub(super) fn gather(
        &self,
        asked: &mut Asked,
        inputs: &HashMap<String, Definition>,
        fetch: &mut dyn Fetch,
    ) -> Result<Held> {
        let mut held = Held::default();
        let temporary = ContextRoom::make(self.engine)?;
        let own_ignore = self.dockerfile(asked, &temporary)?;
        let context = asked.context.clone();
        if let ContextSource::Address(address) = &context {
            let recipe = if asked.file_directory.is_some() {
                Recipe::Text(std::mem::take(&mut asked.request.dockerfile))
            } else if asked.file == "Dockerfile" {
                Recipe::Default
            } else {
                Recipe::Path { path: PathBuf::from(&asked.file), shown: asked.file.clone() }
            };
            let files = self.files(address, recipe, fetch)?;
            let request = &mut asked.request;
            request.dockerfile.clone_from(&files.dockerfile);
            request.context.clone_from(&files.context);
            if let Some(own) = &own_ignore {
                request.ignore.clone_from(own);
            } else {
                request.ignore.clone_from(&files.ignore);
                request.ignore_name.clone_from(&files.ignore_name);
            }
            held.files.push(files);
        }
        let file = robot_env_build::read(&asked.request)?;
        for (key, source) in asked.contexts.clone() {
            let value = self.further(asked, (&key, &source), inputs, fetch, &temporary, &mut held)?;
            asked.request.contexts.insert(key, value);
        }
        match context {
            ContextSource::Address(_) => {}
            ContextSource::Local(name) => {
                let paths = used::paths(&file, &asked.request, self.engine.store());
                asked.request.context = match paths {
                    // Nothing of it is used.
                    Some(paths) if paths.is_empty() => directory_in(&temporary, "empty")?,
                    // What is ignored does not come; the rest is all there is.
                    paths => {
                        let ignore = match own_ignore {
                            Some(text) => text,
                            None => self.ignore(asked, &name, &temporary)?,
                        };
                        let paths = paths.unwrap_or_default();
                        let wish = Wish { name, paths, excludes: used::patterns(&ignore) };
                        self.directory(asked, wish, "[internal] load build context", &mut held)?
                    }
                };
            }
            ContextSource::Image(name) | ContextSource::Input(name) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("`{name}` cannot be a build's context: it is an image"),
                ));
            }
        }
        self.secrets_and_agents(asked, &file, &temporary, &mut held)?;
        held.rooms.push(temporary);
        Ok(held)
    }

    /// A context from elsewhere.
    fn files(&self, address: &str, recipe: Recipe, fetch: &mut dyn Fetch) -> Result<Files> {
        self.cancel.check()?;
        let step = self.progress.begin("[internal] load remote build context");
        let gathered = if let Some(id) = address.strip_prefix(UPLOAD) {
            let mut upload = Upload::begin(self.handle, self.session, id)?;
            Files::gather(self.engine, fetch, Origin::Stream(&mut upload), recipe)
        } else if robot_env_build::is_address(address) {
            Files::gather(self.engine, fetch, Origin::Address(address), recipe)
        } else {
            Err(Error::invalid(format!("the context `{address}` is neither a directory nor an address")))
        };
        step.ended(gathered)
    }

    /// A further context, as the builder takes it.
    fn further(
        &self,
        asked: &Asked,
        (key, source): (&str, &ContextSource),
        inputs: &HashMap<String, Definition>,
        fetch: &mut dyn Fetch,
        temporary: &ContextRoom,
        held: &mut Held,
    ) -> Result<String> {
        Ok(match source {
            ContextSource::Local(name) => {
                let ignore = self.ignore(asked, name, temporary)?;
                let shown = format!("[context {key}] load from client");
                let wish = Wish { name: name.clone(), paths: Vec::new(), excludes: used::patterns(&ignore) };
                self.directory(asked, wish, &shown, held)?.to_string_lossy().into_owned()
            }
            ContextSource::Image(name) => format!("docker-image://{name}"),
            ContextSource::Input(name) => {
                let image = inputs.get(name).and_then(bridge::image_of);
                let image = image.ok_or_else(|| {
                    Error::new(
                        Kind::Unsupported,
                        format!("the context `{key}` is the result of a build that was not made here"),
                    )
                })?;
                format!("docker-image://{image}")
            }
            ContextSource::Address(address) => {
                let files = self.files(address, Recipe::Text(String::new()), fetch)?;
                let path = files.context.to_string_lossy().into_owned();
                held.files.push(files);
                path
            }
        })
    }

    /// The session that has the client's files of this name.
    fn session_of(&self, asked: &Asked, name: &str) -> Result<Arc<Session>> {
        match asked.sessions.get(name) {
            None => Ok(self.session.clone()),
            Some(id) => self
                .handle
                .block_on(self.sessions.find(id))
                .map_err(|status| status.error(format!("cannot get `{name}` from the client"))),
        }
    }

    fn receive(&self, asked: &Asked, wish: &Wish, into: &Path, shown: &str, what: &str) -> Result<()> {
        self.cancel.check()?;
        let session = self.session_of(asked, &wish.name)?;
        let mut step = self.progress.begin(shown);
        let name = format!("transferring {what}:");
        let mut heard = Shown { step: &mut step, name: name.clone(), bytes: 0 };
        let received = files::receive(self.handle, &session, wish, into, &mut heard, self.cancel);
        let done = heard.bytes;
        step.part(&name, Amount { done, total: 0 }, true);
        step.ended(received)
    }

    /// Reads the Dockerfile, and the `.dockerignore` that is beside it and its own.
    fn dockerfile(&self, asked: &mut Asked, temporary: &ContextRoom) -> Result<Option<String>> {
        let Some(name) = &asked.file_directory else { return Ok(None) };
        let directory = directory_in(temporary, "dockerfile")?;
        let file = asked.file.clone();
        let lower = (file == "Dockerfile").then(|| "dockerfile".to_owned());
        let own = format!("{file}.dockerignore");
        let paths: Vec<String> = [file.clone(), own.clone()].into_iter().chain(lower.clone()).collect();
        let wish = Wish { name: name.clone(), paths, excludes: Vec::new() };
        let shown = format!("[internal] load build definition from {file}");
        self.receive(asked, &wish, &directory, &shown, "dockerfile")?;
        let text = match read(&directory, &file)? {
            None => lower.map(|name| read(&directory, &name)).transpose()?.flatten(),
            text => text,
        };
        asked.request.dockerfile = text.ok_or_else(|| {
            Error::not_found(format!("failed to read dockerfile: open {file}: no such file or directory"))
        })?;
        read(&directory, &own)
    }

    /// Reads the `.dockerignore` in a directory of the client's.
    fn ignore(&self, asked: &Asked, name: &str, temporary: &ContextRoom) -> Result<String> {
        let directory = directory_in(temporary, "ignore")?;
        let wish =
            Wish { name: name.to_owned(), paths: vec![".dockerignore".to_owned()], excludes: Vec::new() };
        self.receive(asked, &wish, &directory, "[internal] load .dockerignore", "context")?;
        Ok(read(&directory, ".dockerignore")?.unwrap_or_default())
    }

    /// A directory of the client's.
    fn directory(&self, asked: &Asked, wish: Wish, shown: &str, held: &mut Held) -> Result<PathBuf> {
        let key = &self.session_of(asked, &wish.name)?.shared_key;
        let into;
        if key.is_empty() {
            let room = ContextRoom::make(self.engine)?;
            into = directory_in(&room, "tree")?;
            held.rooms.push(room);
        } else {
            let place = Place::kept(self.engine, &format!("{key}\0{}", wish.name))?;
            into = place.directory("tree")?;
            held.places.push(place);
        }
        self.receive(asked, &wish, &into, shown, "context")?;
        Ok(into)
    }

    fn secrets_and_agents(
        &self,
        asked: &mut Asked,
        file: &Dockerfile,
        temporary: &ContextRoom,
        held: &mut Held,
    ) -> Result<()> {
        let ids = used::ids(file);
        for id in ids.secrets.iter().filter(|_| self.session.answers(SECRET)) {
            let question = SecretRequest { id: id.clone() };
            match self.handle.block_on(self.session.channel.unary::<Bytes>(SECRET, &question)) {
                Ok(secret) => drop(asked.request.secrets.insert(id.clone(), Secret::Value(secret.data))),
                // Whether it had to be there is the builder's to say.
                Err(status) if matches!(status.code, Code::NOT_FOUND | Code::UNIMPLEMENTED) => {}
                Err(status) => {
                    return Err(status.error(format!("cannot get the secret `{id}` from the client")));
                }
            }
        }
        for (number, id) in ids.agents.iter().enumerate() {
            if agents::exists(self.handle, self.session, id)? {
                let directory = directory_in(temporary, &format!("agent-{number}"))?;
                let (path, agent) = agents::open(self.handle, self.session, id, &directory)?;
                held.agents.push(agent);
                asked.request.agents.insert(id.clone(), path);
            }
        }
        Ok(())
    }
}

fn directory_in(room: &ContextRoom, name: &str) -> Result<PathBuf> {
    let path = room.path().join(name);
    std::fs::create_dir_all(&path).io_context(|| format!("cannot make `{}`", path.display()))?;
    Ok(path)
}

fn read(directory: &Path, name: &str) -> Result<Option<String>> {
    let root = open_directory(directory)?;
    let Some(bytes) = read_in_root(std::os::fd::AsFd::as_fd(&root), name, TEXT)? else { return Ok(None) };
    if bytes.len() == TEXT {
        return Err(Error::invalid(format!("`{name}` has more than {TEXT} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::invalid(format!("`{name}` is no UTF-8")))
}
