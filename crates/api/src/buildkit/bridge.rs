//! `moby.buildkit.v1.frontend.LLBBridge`: how a client drives its build, and the build itself.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use robot_env_build::{BuildRequest, CacheSource, CacheTarget, ContextRoom};
use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_oci::{Digest, ImageId, Reference};
use tokio::runtime::Handle;

use super::contexts::Gatherer;
use super::export::Exports;
use super::frontend::Asked;
use super::grpc::{Code, Incoming, Status};
use super::job::{Job, Solved};
use super::messages::gateway::{
    Capability, InputsResponse, Outcome, PongResponse, Ref, References, ReturnRequest, SolveRequest,
    SolveResponse,
};
use super::messages::{Attributes, Definition, Empty, Operation, OperationInput, SourceOperation};
use super::progress::Steps;
use super::question;
use super::registry::Registries;
use super::session::Session;
use crate::server::Server;

/// What of the bridge is spoken (frontend/gateway/pb/caps.go).
const BRIDGE: [&str; 9] = [
    "solve.base",
    "return",
    "returnmap",
    "proto.refarray",
    "reference.output",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "frontend.inputs",
];
/// What of graphs is understood (solver/pb/caps.go): that a build may have several outputs, and the
/// operation that names a result.
const GRAPH: [&str; 4] = ["source.image", "constraints", "platform", "exporter.multiple"];

/// Answers a call of the bridge.
pub(super) async fn answer(server: &'static Server, method: &str, mut call: Incoming) {
    let name = call.metadata.get("buildkit-controlapi-buildid").and_then(|name| name.to_str().ok());
    let Some(name) = name.map(str::to_owned) else {
        let status = Status::new(Code::INVALID_ARGUMENT, "the call names no build");
        return call.answer.end(Err(status));
    };
    let job = match server.builds.jobs.find(&name).await {
        Ok(job) => job,
        Err(status) => return call.answer.end(Err(status)),
    };
    match method {
        "Ping" => call.answer.whole(Ok(pong(server))).await,
        "Solve" => {
            let solved = match call.question::<SolveRequest>().await {
                Ok(request) => tokio::select! {
                    solved = solve(server, &job, request) => solved,
                    () = call.answer.gone() => return job.cancel.cancel(),
                },
                Err(status) => Err(status),
            };
            call.answer.whole(solved).await;
        }
        "Return" => {
            let taken = call.question::<ReturnRequest>().await.map(|request| {
                job.return_with(returned(request));
                Empty {}
            });
            call.answer.whole(taken).await;
        }
        // What a result is made of is made when it is solved,
        // and a warning of the client's own part is its own to show.
        "Evaluate" | "Warn" => {
            let taken = call.question::<Empty>().await;
            call.answer.whole(taken).await;
        }
        "Inputs" => call.answer.whole(Ok(InputsResponse { definitions: job.request.inputs.clone() })).await,
        _ => call.answer.end(Err(Status::unimplemented(&format!("the bridge has no method {method}")))),
    }
}

fn pong(server: &Server) -> PongResponse {
    let capability = |id: &&str| Capability { id: (*id).to_owned(), enabled: true };
    PongResponse {
        frontend: BRIDGE.iter().map(capability).collect(),
        graph: GRAPH.iter().map(capability).collect(),
        workers: vec![super::control::worker(server)],
    }
}

/// Which result the client means.
fn returned(request: ReturnRequest) -> Result<String, Status> {
    if let Some(error) = request.error {
        return Err(Status { code: Code(error.code), message: error.message, details: error.details });
    }
    match request.result.and_then(|result| result.references) {
        None => Ok(String::new()),
        Some(References::Id(id)) => Ok(id),
        Some(References::One(one)) => Ok(one.id),
        Some(References::Many(many)) => {
            let mut all = many.refs.into_values();
            match (all.next(), all.next()) {
                (None, _) => Ok(String::new()),
                (Some(one), None) => Ok(one.id),
                _ => Err(Status::unimplemented("a result for several platforms is not supported")),
            }
        }
    }
}

async fn solve(
    server: &'static Server,
    job: &Arc<Job>,
    request: SolveRequest,
) -> Result<SolveResponse, Status> {
    if request.frontend.is_empty() {
        let image = request.definition.as_ref().and_then(image_of);
        let image = image.ok_or_else(|| {
            Status::unimplemented("graphs of operations (LLB) are not executed: only Dockerfiles are built")
        })?;
        let solved = Solved { image: Some(image), ..Solved::default() };
        return answered(server, job, solved).await;
    }
    let asked = Asking { frontend: request.frontend, attributes: request.attributes, inputs: request.inputs };
    let solved = build(server, job, asked).await?;
    answered(server, job, solved).await
}

async fn answered(server: &'static Server, job: &Job, solved: Solved) -> Result<SolveResponse, Status> {
    let mut outcome = Outcome::default();
    let image = solved.image.clone();
    outcome.metadata.clone_from(&solved.metadata);
    let mut one = Ref::default();
    if image.is_some() {
        one.id = job.keep(solved);
    }
    if let Some(image) = image {
        one.definition = Some(definition_of(&image));
        let config = server.blocking_error(move |engine| engine.store().config(&image)).await;
        if let Ok(config) = config {
            outcome.metadata.insert("containerimage.config".to_owned(), config.bytes().to_vec());
        }
    }
    outcome.references = Some(References::One(one));
    Ok(SolveResponse { result: Some(outcome) })
}

/// The scheme of the name of an image that was built here.
const RESULT: &str = "docker-image://robot-env.invalid/result@";

/// A graph that says no more than which image it is.
fn definition_of(image: &ImageId) -> Definition {
    let source = SourceOperation { identifier: format!("{RESULT}{}", image.0) };
    let first = Operation { inputs: Vec::new(), source: Some(source) }.encode_to_vec();
    let digest = Digest::of(&first).to_string();
    let last = Operation { inputs: vec![OperationInput { digest: digest.clone(), index: 0 }], source: None };
    let last = last.encode_to_vec();
    let metadata = [digest, Digest::of(&last).to_string()].map(|digest| (digest, Empty {})).into();
    Definition { operations: vec![first, last], metadata }
}

/// The image that a graph is, where it was made here.
pub(super) fn image_of(definition: &Definition) -> Option<ImageId> {
    let [first, _] = definition.operations.as_slice() else { return None };
    let source = Operation::decode(first.as_slice()).ok()?.source?;
    source.identifier.strip_prefix(RESULT)?.parse().ok().map(ImageId)
}

/// What is asked of a frontend.
pub(super) struct Asking {
    pub(super) frontend: String,
    pub(super) attributes: Attributes,
    pub(super) inputs: HashMap<String, Definition>,
}

impl Asking {
    /// Makes an image that reads Dockerfiles (`BUILDKIT_SYNTAX`) what is built in.
    fn built_in(&mut self) -> Result<(), Error> {
        let image = self.attributes.get("source").filter(|_| self.frontend == "gateway.v0").cloned();
        if image.as_deref().is_some_and(robot_env_build::reads_dockerfiles) {
            "dockerfile.v0".clone_into(&mut self.frontend);
            self.attributes.remove("source");
            // The image's name and what stands behind it.
            self.attributes.remove("cmdline");
        }
        if self.frontend == "dockerfile.v0" {
            return Ok(());
        }
        let name = image.unwrap_or_else(|| self.frontend.clone());
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "cannot build by frontend `{name}`: frontends in images are not run, only Dockerfiles are built"
            ),
        ))
    }
}

/// Builds, on a thread of its own.
pub(super) async fn build(server: &'static Server, job: &Arc<Job>, asking: Asking) -> Result<Solved, Status> {
    let session = server.builds.sessions.find(&job.request.session).await?;
    let (handle, worker, asked) = (Handle::current(), job.clone(), session.clone());
    let mut working = tokio::task::spawn_blocking(move || {
        let built = run(server, &handle, &worker, &asked, asking);
        server.engine.empty_trash_later();
        built
    });
    let done = tokio::select! {
        done = &mut working => done,
        () = session.ended() => {
            job.cancel.cancel();
            working.await
        }
    };
    match done {
        Ok(Ok(solved)) => Ok(solved),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::new(Code::INTERNAL, "the builder has failed unexpectedly")),
    }
}

fn run(
    server: &'static Server,
    handle: &Handle,
    job: &Arc<Job>,
    session: &Arc<Session>,
    asking: Asking,
) -> Result<Solved, Status> {
    let mut asking = asking;
    asking.built_in()?;
    let mut asked = Asked::read(&asking.attributes, &job.request.entitlements)?;
    let mut fetch = Registries {
        server,
        handle: handle.clone(),
        session: session.clone(),
        progress: job.progress.clone(),
        cancel: job.cancel.clone(),
        clients: HashMap::new(),
        pusher: None,
    };
    let gatherer = Gatherer {
        engine: &server.engine,
        handle,
        sessions: &server.builds.sessions,
        session,
        progress: &job.progress,
        cancel: &job.cancel,
    };
    if let Some(question) = asked.question.clone() {
        let _held = gatherer.look(&mut asked, &asking.inputs, &mut fetch)?;
        let metadata = question::answer(&server.engine, &question, &asked.request)?;
        return Ok(Solved { metadata, ..Solved::default() });
    }
    let held = gatherer.gather(&mut asked, &asking.inputs, &mut fetch)?;
    let room = ContextRoom::make(&server.engine)?;
    let (outputs, exports) = Exports::prepare(handle, session, &job.request.exporters, room.path())?;
    caches(job, &mut asked)?;
    let mut request: BuildRequest = asked.request;
    request.outputs = outputs;
    request.cancel = Some(job.cancel.builder());
    fetch.prepare(&request)?;
    let mut steps = Steps::new(job.progress.clone());
    let built = robot_env_build::build(&server.engine, &request, &mut fetch, &mut steps);
    let built = built.map_err(|error| shown(error, &request));
    let failure = steps.end(built.as_ref().err().map(|status| status.message.as_str()));
    let built = built.map_err(|mut status| {
        if let Some(failure) = failure {
            status.details.push(question::place(&failure.file, &request.dockerfile, failure.line));
        }
        status
    });
    // The outputs are closed with it.
    drop(request);
    let finished = exports.finish(built.is_ok());
    drop((held, room));
    let built = built?;
    finished?;
    let id = built.image.0.to_string();
    let mut attributes = Attributes::new();
    let digest = built.digest.as_ref().map_or_else(|| id.clone(), ToString::to_string);
    attributes.insert("containerimage.config.digest".to_owned(), id.clone());
    attributes.insert("containerimage.digest".to_owned(), digest);
    let names: BTreeSet<&Reference> = built.names.iter().chain(&built.pushed).collect();
    if !names.is_empty() {
        let names: Vec<String> = names.into_iter().map(ToString::to_string).collect();
        attributes.insert("image.name".to_owned(), names.join(","));
    }
    for name in &built.names {
        server.engine.tell_of("image", "tag", &id, [("name".to_owned(), name.familiar())].into());
    }
    Ok(Solved { attributes, image: Some(built.image), ..Solved::default() })
}

/// An error as the client sees it: our own directories mean nothing there.
fn shown(error: Error, request: &BuildRequest) -> Status {
    let mut status = Status::from(error);
    let own = request.context.display().to_string();
    for path in request.contexts.values().chain([&own]).filter(|path| path.starts_with('/')) {
        status.message = status.message.replace(&format!(" `{path}`"), "");
    }
    status
}

/// Caches that are read and written. A cache that cannot be read only costs time.
fn caches(job: &Job, asked: &mut Asked) -> EngineResult<()> {
    // No path of the client's means anything here.
    let nowhere = Path::new("/");
    for (kind, attributes) in &asked.caches {
        match kind.as_str() {
            "registry" => {
                asked.request.cache_from.push(CacheSource::read(kind, attributes, nowhere)?);
            }
            _ => job.progress.warn(&format!("a cache of the type `{kind}` is not read")),
        }
    }
    for entry in job.request.cache.iter().flat_map(|cache| &cache.exports) {
        if !matches!(entry.kind.as_str(), "registry" | "inline") {
            return Err(Error::new(
                Kind::Unsupported,
                format!("a cache of the type `{}` is not written: there are registry and inline", entry.kind),
            ));
        }
        let attributes = entry.attributes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        asked.request.cache_to.push(CacheTarget::read(&entry.kind, &attributes, nowhere)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_a_graph_and_back() {
        let image = ImageId(Digest::of(b"x"));
        assert_eq!(image_of(&definition_of(&image)), Some(image));
        let other = Operation {
            inputs: Vec::new(),
            source: Some(SourceOperation { identifier: "docker-image://alpine".into() }),
        };
        let operations = vec![other.encode_to_vec(), Vec::new()];
        let graph = Definition { operations, ..Definition::default() };
        assert_eq!(image_of(&graph), None);
        assert_eq!(image_of(&Definition::default()), None);
    }
}
