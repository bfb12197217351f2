//! `moby.buildkit.v1.Control`: builds as clients begin them, and what is told of them.

use robot_env_oci::Platform as OciPlatform;

use super::grpc::{Code, Incoming, Status};
use super::job::{CancelGuard, Job, Solved};
use super::messages::control::{
    InfoResponse, ListWorkersResponse, SolveRequest, SolveResponse, StatusRequest,
};
use super::messages::session::HealthResponse;
use super::messages::{Attributes, Empty, Platform, Version, Worker};
use super::{bridge, session, usage};
use crate::server::Server;

/// Answers a call.
pub(super) async fn answer(server: &'static Server, mut call: Incoming) {
    let path = call.path.clone();
    if let Some(method) = path.strip_prefix("/moby.buildkit.v1.frontend.LLBBridge/") {
        return bridge::answer(server, method, call).await;
    }
    match path.as_str() {
        "/moby.buildkit.v1.Control/Solve" => solve(server, call).await,
        "/moby.buildkit.v1.Control/Status" => status(server, call).await,
        "/moby.buildkit.v1.Control/Session" => drop(session::tunnel(server, call).await),
        "/moby.buildkit.v1.Control/ListWorkers" => {
            call.answer.whole(Ok(ListWorkersResponse { workers: vec![worker(server)] })).await;
        }
        "/moby.buildkit.v1.Control/Info" => {
            call.answer.whole(Ok(InfoResponse { version: Some(version(server)) })).await;
        }
        "/moby.buildkit.v1.Control/DiskUsage" => usage::disk_usage(server, call).await,
        "/moby.buildkit.v1.Control/Prune" => usage::prune(server, call).await,
        // No history is kept: it has no builds.
        "/moby.buildkit.v1.Control/ListenBuildHistory" => call.answer.end(Ok(())),
        "/moby.buildkit.v1.Control/UpdateBuildHistory" => {
            call.answer.end(Err(Status::new(Code::NOT_FOUND, "no history of builds is kept")));
        }
        "/grpc.health.v1.Health/Check" => {
            let question = call.question::<Empty>().await.map(|_| HealthResponse { status: 1 });
            call.answer.whole(question).await;
        }
        _ => call.answer.end(Err(Status::unimplemented(&format!("unknown method {path}")))),
    }
}

fn version(server: &Server) -> Version {
    Version { package: "robot-env".to_owned(), version: format!("v{}", server.version) }
}

/// The one worker: this engine.
pub(super) fn worker(server: &Server) -> Worker {
    let host = OciPlatform::host();
    let labels = [
        ("org.mobyproject.buildkit.worker.executor", "robot-env"),
        ("org.mobyproject.buildkit.worker.hostname", "robot-env"),
        ("org.mobyproject.buildkit.worker.network", "host"),
        // By this buildx tells whether archives, pushes and several platforms are to be had.
        ("org.mobyproject.buildkit.worker.snapshotter", "overlayfs"),
    ];
    let labels: Attributes =
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Worker {
        id: "robot-env".to_owned(),
        labels,
        platforms: vec![Platform {
            architecture: host.architecture.clone(),
            os: host.os.clone(),
            variant: host.variant.clone(),
        }],
        version: Some(version(server)),
    }
}

/// `Solve`: a build. With a frontend it is built at once; without one the client drives it by calls of
/// the bridge, and says at its end which result is meant.
async fn solve(server: &'static Server, mut call: Incoming) {
    let begun = match call.question::<SolveRequest>().await {
        Ok(request) => server.builds.jobs.begin(request),
        Err(status) => Err(status),
    };
    let job = match begun {
        Ok(job) => job,
        Err(status) => return call.answer.end(Err(status)),
    };
    let guard = CancelGuard(&job);
    let solved = tokio::select! {
        solved = outcome(server, &job) => solved,
        () = call.answer.gone() => return,
    };
    drop(guard);
    let response = solved.map(|solved| SolveResponse { exporter: solved.attributes });
    call.answer.whole(response).await;
}

async fn outcome(server: &'static Server, job: &std::sync::Arc<Job>) -> Result<Solved, Status> {
    let request = &job.request;
    if request.frontend.is_empty() {
        if request.definition.as_ref().is_some_and(|graph| !graph.operations.is_empty()) {
            return Err(Status::unimplemented(
                "graphs of operations (LLB) are not executed: only Dockerfiles are built",
            ));
        }
        return Ok(job.returned().await?.unwrap_or_default());
    }
    let asked = bridge::Asking {
        frontend: request.frontend.clone(),
        attributes: request.attributes.clone(),
        inputs: request.inputs.clone(),
    };
    bridge::build(server, job, asked).await
}

/// `Status`: what is told of a build, until it is over.
async fn status(server: &'static Server, mut call: Incoming) {
    let found = match call.question::<StatusRequest>().await {
        Ok(request) => server.builds.jobs.find(&request.reference).await,
        Err(status) => Err(status),
    };
    let job = match found {
        Ok(job) if job.progress.listen() => job,
        Ok(_) => {
            let status = Status::new(Code::ALREADY_EXISTS, "somebody hears of this build already");
            return call.answer.end(Err(status));
        }
        Err(status) => return call.answer.end(Err(status)),
    };
    if call.answer.begin().is_err() {
        return;
    }
    while let Some(message) = job.progress.next().await {
        if call.answer.send(&message).await.is_err() {
            return;
        }
    }
    call.answer.end(Ok(()));
}
