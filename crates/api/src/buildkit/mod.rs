//! BuildKit's protocol for its own clients: `docker buildx build`, Compose, `docker build` of Docker 23
//! and later.
//!
//! `POST /grpc` makes the connection HTTP/2; on it this is the server of `moby.buildkit.v1.Control`
//! (see [`control`]) and of `moby.buildkit.v1.frontend.LLBBridge` ([`bridge`]), which a client drives
//! its build with. `POST /session` makes a connection HTTP/2 with the roles reversed: on it the client
//! answers what a build asks for ([`session`]): files, secrets, agents, credentials, and takes what the
//! build gives.
//!
//! The builder is ours (`robot-env-build`): a request for the Dockerfile frontend becomes a
//! [`robot_env_build::BuildRequest`] ([`frontend`]), the client's files become directories
//! ([`contexts`], [`files`], [`tree`]), and what the builder tells becomes steps ([`progress`]).
//! Graphs of operations (LLB) are not executed; a definition is understood only where it is one that
//! was made here: the name of a result.
//!
//! On disk, below the builder's own directory:
//! ```text
//! ROOT/build/clients/<digest>-<n>/tree   what a client sent of a directory; locked while it is used
//! ```
//! What is of one build only (its Dockerfile, sockets of agents) is in a
//! [`robot_env_build::ContextRoom`].

mod agents;
mod bridge;
pub(crate) mod classic;
mod contexts;
mod control;
mod export;
mod files;
mod frontend;
mod grpc;
mod job;
mod messages;
mod pipe;
mod place;
mod progress;
mod question;
mod registry;
mod selection;
pub(crate) mod session;
#[cfg(test)]
mod tests;
mod tree;
mod upload;
mod usage;
mod used;

pub(crate) use usage::Space;

use crate::failure::Result;
use crate::http::Reply;
use crate::routes::Call;

/// What the server knows of clients that build.
#[derive(Default)]
pub(crate) struct Builds {
    sessions: session::Sessions,
    jobs: job::Jobs,
}

impl Builds {
    /// Ends the build of that name, if it is at work.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(job) = self.jobs.known(id) {
            job.cancel.cancel();
        }
    }
}

/// `POST /grpc`: the connection becomes HTTP/2.
pub(crate) fn answer(call: &Call<'_, '_>) -> Result<Reply> {
    session::upgraded_to_h2c(call)?;
    let server = call.server;
    Ok(session::hijacked(move |upgraded| {
        Box::pin(async move {
            // A client that goes in the middle is no failure of ours.
            let _ = grpc::serve(pipe::Pipe(upgraded), |incoming| control::answer(server, incoming)).await;
        })
    }))
}
