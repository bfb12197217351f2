//! Registries, with the credentials that the client of a build has.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::sync::{Arc, Mutex};

use robot_env_build::{BuildRequest, CachePlace, CacheSource, Fetch, Output};
use robot_env_diag::Result;
use robot_env_oci::{Platform, Reference};
use robot_env_registry::{Client, Credentials};
use robot_env_transfer::{Amount, Observer, PullOptions, ownership};
use tokio::runtime::Handle;

use super::grpc::Code;
use super::job::Cancel;
use super::messages::session::{CredentialsRequest, CredentialsResponse};
use super::progress::{Progress, Step};
use super::session::Session;
use crate::server::Server;

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";

/// Brings images for one build.
pub(super) struct Registries {
    pub(super) server: &'static Server,
    pub(super) handle: Handle,
    pub(super) session: Arc<Session>,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: Cancel,
    /// By registry.
    pub(super) clients: HashMap<String, Client>,
    /// For what is pushed, and for caches.
    pub(super) pusher: Option<Client>,
}

impl Registries {
    /// Gets the credentials for what a build pushes, and for caches.
    pub(super) fn prepare(&mut self, request: &BuildRequest) -> Result<()> {
        let mut names: Vec<&Reference> = Vec::new();
        for output in &request.outputs {
            if let Output::Image { names: own, push: true, .. } = output {
                names.extend(own);
            }
        }
        names.extend(request.cache_from.iter().filter_map(|cache| match cache {
            CacheSource::Registry(name) => Some(name),
            CacheSource::Local { .. } => None,
        }));
        names.extend(request.cache_to.iter().filter_map(|cache| match &cache.place {
            CachePlace::Registry(name) => Some(name),
            _ => None,
        }));
        if names.is_empty() {
            return Ok(());
        }
        let mut options = self.server.registry.clone();
        for domain in names.iter().map(|name| name.repository().domain()).collect::<BTreeSet<_>>() {
            if let Some(credentials) = credentials(&self.handle, &self.session, domain)? {
                options.given.insert(domain.to_owned(), credentials);
            }
        }
        let client = Client::new(options);
        self.cancel.watch(&client);
        self.pusher = Some(client);
        Ok(())
    }

    fn client_of(&mut self, domain: &str) -> Result<Client> {
        if let Some(client) = self.clients.get(domain) {
            return Ok(client.clone());
        }
        let mut options = self.server.registry.clone();
        if !domain.is_empty()
            && let Some(credentials) = credentials(&self.handle, &self.session, domain)?
        {
            options.given.insert(domain.to_owned(), credentials);
        }
        let client = Client::new(options);
        self.cancel.watch(&client);
        self.clients.insert(domain.to_owned(), client.clone());
        Ok(client)
    }
}

/// What the client has for a registry.
fn credentials(handle: &Handle, session: &Session, domain: &str) -> Result<Option<Credentials>> {
    if !session.answers(CREDENTIALS) {
        return Ok(None);
    }
    let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    let question = CredentialsRequest { host: host.to_owned() };
    let answer = handle.block_on(session.channel.unary::<CredentialsResponse>(CREDENTIALS, &question));
    match answer {
        Ok(answer) if answer.secret.is_empty() => Ok(None),
        Ok(answer) if answer.username.is_empty() => Ok(Some(Credentials::IdentityToken(answer.secret))),
        Ok(answer) => Ok(Some(Credentials::Password { username: answer.username, password: answer.secret })),
        Err(status) if matches!(status.code, Code::UNIMPLEMENTED | Code::NOT_FOUND) => Ok(None),
        Err(status) => Err(status.error(format!("cannot get the client's credentials for `{domain}`"))),
    }
}

impl Fetch for Registries {
    fn fetch(&mut self, reference: &Reference, platform: Option<&Platform>, _always: bool) -> Result<()> {
        self.cancel.check()?;
        let client = self.client_of(reference.repository().domain())?;
        let step = self.progress.begin(&format!("[internal] pull {reference}"));
        let options = PullOptions { platform: platform.cloned(), ownership: ownership() };
        let shown = Shown(Mutex::new(step));
        let engine = &self.server.engine;
        let pulled = robot_env_transfer::pull(engine.store(), &client, reference, &options, &shown);
        let Ok(step) = shown.0.into_inner() else { return pulled.map(drop) };
        let pulled = step.ended(pulled)?;
        let name = pulled.reference.familiar();
        engine.tell_of("image", "pull", &name, [("name".to_owned(), name.clone())].into());
        Ok(())
    }

    fn download(&mut self, address: &str) -> Result<Box<dyn Read>> {
        self.cancel.check()?;
        Ok(Box::new(self.client_of("")?.download(address)?))
    }

    fn client(&self) -> Option<Client> {
        self.pusher.clone()
    }
}

/// Tells of a pull as a step.
struct Shown(Mutex<Step>);

impl Observer for Shown {
    fn message(&self, _text: &str) {}

    fn step(&self, item: &str, step: &str, amount: Option<Amount>) {
        let Ok(mut shown) = self.0.lock() else { return };
        let over = matches!(step, "Pull complete" | "Already exists" | "Download complete");
        shown.part(item, amount.unwrap_or_default(), over);
    }
}
