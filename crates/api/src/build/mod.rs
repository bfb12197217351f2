//! `/build`: images from Dockerfiles, in the words of Docker's classic builder; `/build/prune`.

mod classic;
mod request;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;

use jiff::Timestamp;
use robot_env_build::{Built, Cancel, Fetch, Files, Kept, Origin, PruneKept, Recipe};
use robot_env_diag::{Kind, Result as EngineResult};
use robot_env_dockerfile::{Dockerfile, Position};
use robot_env_engine::Engine;
use robot_env_oci::{Platform, Reference};
use robot_env_registry::Client;
use robot_env_transfer::{PullOptions, ownership};
use serde_json::json;

use self::classic::Classic;
use self::request::Parameters;
use crate::buildkit::Space;
use crate::credentials;
use crate::failure::{Failure, Result};
use crate::filters;
use crate::http::Reply;
use crate::images::transfer::told;
use crate::routes::Call;

/// AtWork at work that have a name, which `/build/cancel` ends.
#[derive(Default)]
pub(crate) struct AtWork(Mutex<BTreeMap<String, Cancel>>);

impl AtWork {
    fn begin(&self, id: &str, cancel: &Cancel) {
        if let Ok(mut builds) = self.0.lock() {
            builds.insert(id.to_owned(), cancel.clone());
        }
    }

    fn end(&self, id: &str) {
        if let Ok(mut builds) = self.0.lock() {
            builds.remove(id);
        }
    }
}

/// `POST /build/cancel`. Nobody knows whether the build has just ended: that there is none is no error.
pub(crate) fn cancel(call: &Call<'_, '_>) -> Result<Reply> {
    let Some(id) = call.query.text("id") else {
        return Err(Failure::new(400, "build ID not provided"));
    };
    if let Some(cancel) = call.server.at_work.0.lock().ok().and_then(|builds| builds.get(id).cloned()) {
        cancel.cancel();
    }
    // One of those that BuildKit's clients have begun. One that is over needs no end.
    call.server.builds.cancel(id);
    Ok(Reply::empty(204))
}

/// Brings base images and downloads, and tells of neither: in the classic stream a pull is part of
/// its `FROM`.
struct Registries {
    engine: &'static Engine,
    client: Client,
}

impl Fetch for Registries {
    fn fetch(
        &mut self,
        reference: &Reference,
        platform: Option<&Platform>,
        _always: bool,
    ) -> EngineResult<()> {
        let options = PullOptions { platform: platform.cloned(), ownership: ownership() };
        let pulled = robot_env_transfer::pull(self.engine.store(), &self.client, reference, &options, &())?;
        let name = pulled.reference.familiar();
        self.engine.tell_of("image", "pull", &name, [("name".to_owned(), name.clone())].into());
        Ok(())
    }

    fn download(&mut self, address: &str) -> EngineResult<Box<dyn Read>> {
        Ok(Box::new(self.client.download(address)?))
    }
}

/// Reads a query, for [`crate::read_request`].
pub(crate) fn check(query: &crate::query::Query) {
    let _ = Parameters::of(query);
}

/// `POST /build`
pub(crate) async fn build(call: &mut Call<'_, '_>) -> Result<Reply> {
    let parameters = Parameters::of(&call.query)?;
    let server = call.server;
    let mut options = server.registry.clone();
    options.given.extend(credentials::of_build(call.head.field("x-registry-config"))?);
    let client = Client::new(options);
    let mut fetch = Registries { engine: &server.engine, client: client.clone() };
    let recipe = match &parameters.dockerfile {
        None => Recipe::Default,
        Some(name) => Recipe::Path { path: name.into(), shown: name.clone() },
    };
    let named = parameters.dockerfile.clone().unwrap_or_else(|| "Dockerfile".to_owned());
    let files = match parameters.remote.clone() {
        Some(address) => {
            if !robot_env_build::is_address(&address) {
                return Err(Failure::new(
                    400,
                    format!("remote URL \"{address}\" is no http, https or git address"),
                ));
            }
            server
                .blocking_error(move |engine| {
                    Files::gather(engine, &mut fetch, Origin::Address(&address), recipe)
                })
                .await
        }
        None => {
            let work = move |mut body: crate::http::BlockingBody| {
                Files::gather(&server.engine, &mut fetch, Origin::Stream(&mut body), recipe)
            };
            call.body.feed(work).await
        }
    };
    let files = files.map_err(|error| match error.kind() {
        Kind::NotFound => Failure::new(500, format!("Cannot locate specified Dockerfile: {named}")),
        _ => error.into(),
    })?;
    let file = parse(&files, &named)?;
    let quiet = parameters.quiet;
    let (cancel, id) = (Cancel::new()?, parameters.id.clone());
    let request = parameters.request(&files, cancel.clone());
    if let Some(id) = &id {
        server.at_work.begin(id, &cancel);
    }
    let downloads = client.clone();
    let end = move || {
        cancel.cancel();
        downloads.cancel();
    };
    let reply = told(String::new(), end, move |teller| {
        let mut fetch = Registries { engine: &server.engine, client };
        let mut classic = Classic::new(teller, &server.engine, &file, request.target.as_deref(), quiet);
        let built = robot_env_build::build(&server.engine, &request, &mut fetch, &mut classic);
        if let Some(id) = &id {
            server.at_work.end(id);
        }
        match built {
            Ok(built) => {
                classic.end(&built);
                tell_of(&server.engine, &built);
            }
            Err(error) => classic.failed_build(&error),
        }
        drop(files);
        server.engine.empty_trash_later();
        Ok(())
    });
    reply.await
}

/// Reads the Dockerfile, so that a mistake in it has a status of its own.
fn parse(files: &Files, named: &str) -> Result<Dockerfile> {
    if files.dockerfile.trim().is_empty() {
        return Err(Failure::new(400, format!("the Dockerfile ({named}) cannot be empty")));
    }
    Dockerfile::parse(&files.dockerfile).map_err(|fault| {
        let line = Position::at(&files.dockerfile, fault.span.start).line;
        Failure::new(400, format!("dockerfile parse error line {line}: {}", fault.message))
    })
}

fn tell_of(engine: &Engine, built: &Built) {
    let id = built.image.to_string();
    for name in &built.names {
        engine.tell_of("image", "tag", &id, [("name".to_owned(), name.familiar())].into());
    }
}

/// The keys of the filters of what builds keep.
const KEYS: &[&str] =
    &["description", "id", "inuse", "parent", "private", "shared", "type", "unused-for", "until"];

/// `POST /build/prune`
pub(crate) async fn prune(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, KEYS)?;
    let truth = |key: &str| filters.truth(key).map_err(Failure::from);
    let (in_use, shared, private) = (truth("inuse")?, truth("shared")?, truth("private")?);
    let number = |key: &str| Ok::<_, Failure>(call.query.number(key)?.map_or(0, |n| n.max(0) as u64));
    let space = Space {
        reserved: number("reserved-space")?.max(number("keep-storage")?),
        most: number("max-used-space")?,
        free: number("min-free-space")?,
    };
    let all = call.query.truth("all");
    let now = Timestamp::now();
    let before = match filters::until(&filters, now)? {
        Some(until) => Some(until),
        None => filters::moment_of(&filters, "unused-for", now)?,
    };
    let done = call.server.blocking(move |engine| {
        let filter = |kept: &Kept| {
            before.is_none_or(|before| kept.used as i64 <= before.as_second())
                && filters.any("id", |id| kept.id == id)
                && filters.any("description", |text| kept.description.contains(text))
                && filters.any("type", |kind| kept.kind == kind)
                && in_use.is_none_or(|in_use| kept.in_use == in_use)
                && shared.is_none_or(|shared| kept.shared == shared)
                && private.is_none_or(|private| kept.shared != private)
                // Steps are found by their content: none has a parent.
                && !filters.has("parent")
        };
        robot_env_build::prune(engine, &PruneKept { all, keep: space.keep(engine)?, filter: &filter })
    });
    let pruned = done.await?;
    call.server.empty_trash_later();
    let gone = Some(pruned.ids()).filter(|ids| !ids.is_empty());
    Ok(Reply::json(200, &json!({ "CachesDeleted": gone, "SpaceReclaimed": pruned.bytes })))
}
