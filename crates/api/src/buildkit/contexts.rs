//! From a client's files to directories that the builder reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use robot_env_build::Secret;
use robot_env_diag::{Error, Kind, Result};
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
    agents: Vec<Agent>,
}

struct Shown<'s> {
    step: &'s mut Step,
    name: String,
    cancel: &'s Cancel,
    bytes: u64,
}

impl files::Progress for Shown<'_> {
    fn transferred(&mut self, bytes: u64) -> bool {
        self.bytes = bytes;
        self.step.part(&self.name, Amount { done: bytes, total: 0 }, false);
        !self.cancel.is_cancelled()
    }
}

impl Gatherer<'_> {
    /// Completes a request.
    pub(super) fn gather(&self, asked: &mut Asked, inputs: &HashMap<String, Definition>) -> Result<Held> {
        let mut held = Held::default();
        let temporary = Place::temporary(self.engine)?;
        let own_ignore = self.dockerfile(asked, &temporary)?;
        let ContextSource::Local(name) = asked.context.clone() else {
            return Err(Error::new(Kind::Unsupported, "a context that is no directory is not supported yet"));
        };
        let ignore = match own_ignore {
            Some(text) => text,
            None => self.ignore(asked, &name, &temporary)?,
        };
        let file = robot_env_build::read(&asked.request)?;
        for (key, source) in &asked.contexts {
            let value = match source {
                ContextSource::Local(name) => {
                    let ignore = self.ignore(asked, name, &temporary)?;
                    let shown = format!("[context {key}] load from client");
                    let wish =
                        Wish { name: name.clone(), paths: Vec::new(), excludes: used::patterns(&ignore) };
                    self.directory(asked, wish, &shown, &mut held)?.to_string_lossy().into_owned()
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
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("`{address}` as a further context is not supported"),
                    ));
                }
            };
            asked.request.contexts.insert(key.clone(), value);
        }
        let paths = used::paths(&file, &asked.request, self.engine.store());
        asked.request.context = match paths {
            // Nothing of it is used.
            Some(paths) if paths.is_empty() => temporary.directory("empty")?,
            paths => {
                let wish = Wish { name, paths: paths.unwrap_or_default(), excludes: used::patterns(&ignore) };
                self.directory(asked, wish, "[internal] load build context", &mut held)?
            }
        };
        // What is ignored has not come; the rest is all there is.
        asked.request.ignore = String::new();
        self.secrets_and_agents(asked, &file, &temporary, &mut held)?;
        held.places.push(temporary);
        Ok(held)
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
        let mut heard = Shown { step: &mut step, name: name.clone(), cancel: self.cancel, bytes: 0 };
        let received = files::receive(self.handle, &session, wish, into, &mut heard);
        let done = heard.bytes;
        step.part(&name, Amount { done, total: 0 }, true);
        step.ended(received)
    }

    /// Reads the Dockerfile, and the `.dockerignore` that is beside it and its own.
    fn dockerfile(&self, asked: &mut Asked, temporary: &Place) -> Result<Option<String>> {
        let directory = temporary.directory("dockerfile")?;
        let file = asked.file.clone();
        let lower = (file == "Dockerfile").then(|| "dockerfile".to_owned());
        let own = format!("{file}.dockerignore");
        if let Some(name) = &asked.file_directory {
            let paths: Vec<String> = [file.clone(), own.clone()].into_iter().chain(lower.clone()).collect();
            let wish = Wish { name: name.clone(), paths, excludes: Vec::new() };
            let shown = format!("[internal] load build definition from {file}");
            self.receive(asked, &wish, &directory, &shown, "dockerfile")?;
        }
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
    fn ignore(&self, asked: &Asked, name: &str, temporary: &Place) -> Result<String> {
        let directory = temporary.directory("ignore")?;
        let wish =
            Wish { name: name.to_owned(), paths: vec![".dockerignore".to_owned()], excludes: Vec::new() };
        self.receive(asked, &wish, &directory, "[internal] load .dockerignore", "context")?;
        Ok(read(&directory, ".dockerignore")?.unwrap_or_default())
    }

    /// A directory of the client's.
    fn directory(&self, asked: &Asked, wish: Wish, shown: &str, held: &mut Held) -> Result<PathBuf> {
        let key = &self.session_of(asked, &wish.name)?.shared_key;
        let place = if key.is_empty() {
            Place::temporary(self.engine)?
        } else {
            Place::kept(self.engine, &format!("{key}\0{}", wish.name))?
        };
        let into = place.directory("tree")?;
        self.receive(asked, &wish, &into, shown, "context")?;
        held.places.push(place);
        Ok(into)
    }

    fn secrets_and_agents(
        &self,
        asked: &mut Asked,
        file: &Dockerfile,
        temporary: &Place,
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
                let directory = temporary.directory(&format!("agent-{number}"))?;
                let (path, agent) = agents::open(self.handle, self.session, id, &directory)?;
                held.agents.push(agent);
                asked.request.agents.insert(id.clone(), path);
            }
        }
        Ok(())
    }
}

fn read(directory: &Path, name: &str) -> Result<Option<String>> {
    let root = open_directory(directory)?;
    let Some(bytes) = read_in_root(std::os::fd::AsFd::as_fd(&root), name, TEXT)? else { return Ok(None) };
    if bytes.len() == TEXT {
        return Err(Error::invalid(format!("`{name}` has more than {TEXT} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::invalid(format!("`{name}` is no UTF-8")))
}
