//! ssh agents of a client: sockets here, whose connections are calls on its session.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use robot_env_diag::{IoContext, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::grpc::{Code, Status};
use super::messages::Empty;
use super::messages::session::{AgentRequest, Bytes};
use super::session::Session;

const CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// The metadata that names an agent.
const ID: &str = "buildkit.ssh.id";

/// The socket of an agent, as long as this lives.
pub(super) struct Agent(JoinHandle<()>);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the client has an agent of this id.
pub(super) fn exists(handle: &Handle, session: &Session, id: &str) -> Result<bool> {
    if !session.answers(CHECK) {
        return Ok(false);
    }
    let question = AgentRequest { id: id.to_owned() };
    match handle.block_on(session.channel.unary::<Empty>(CHECK, &question)) {
        Ok(_) => Ok(true),
        // BuildKit's client says of an unknown id `unset ssh forward key`, without a code for it.
        Err(status) if matches!(status.code, Code::NOT_FOUND | Code::UNIMPLEMENTED | Code::UNKNOWN) => {
            Ok(false)
        }
        Err(status) => Err(status.error(format!("cannot ask the client for the ssh agent `{id}`"))),
    }
}

/// Makes a socket in `directory` that leads to the client's agent of this id.
pub(super) fn open(
    handle: &Handle,
    session: &Arc<Session>,
    id: &str,
    directory: &Path,
) -> Result<(PathBuf, Agent)> {
    let path = directory.join("agent");
    let within = || format!("cannot make the socket `{}`", path.display());
    let opened = robot_env_sys::fs::open_directory(directory)?;
    let _runtime = handle.enter();
    // A socket's path has room for 107 bytes.
    let short = format!("/proc/self/fd/{}/agent", opened.as_raw_fd());
    let listener = UnixListener::bind(short).io_context(within)?;
    let (session, id) = (session.clone(), id.to_owned());
    let task = handle.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (session, id) = (session.clone(), id.clone());
            tokio::spawn(async move {
                // A program that hears nothing says so itself.
                let _ = forward(&session, &id, stream).await;
            });
        }
    });
    Ok((path, Agent(task)))
}

async fn forward(session: &Session, id: &str, stream: UnixStream) -> Result<(), Status> {
    let (mut sink, mut replies) = session.channel.call(FORWARD, &[(ID, id.to_owned())]).await?;
    let (mut from, mut to) = stream.into_split();
    let outward = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return sink.close(),
                Ok(count) => sink.send(&Bytes { data: buffer[..count].to_vec() }).await?,
            }
        }
    };
    let inward = async {
        while let Some(piece) = replies.next::<Bytes>().await? {
            if to.write_all(&piece.data).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
        Ok::<(), Status>(())
    };
    // The agent's end is the connection's; the program's end lets the agent still answer.
    tokio::pin!(inward, outward);
    tokio::select! {
        done = &mut inward => done,
        done = &mut outward => {
            done?;
            inward.await
        }
    }
}
