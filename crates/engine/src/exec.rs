//! Further processes in running containers.

use robot_env_diag::{Error, Kind, Report, Result};
use robot_env_sys::socket;

use crate::attach::Attachment;
use crate::create::random;
use crate::engine::Engine;
use crate::launch::{Launch, Role};
use crate::monitor::ExecOrder;
use crate::record::State;
use crate::records::Container;
use crate::stream::Hello;

/// What [`Engine::exec`] runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Its id, where whoever asks has made one and has told of its creation; absent: a new one.
    pub id: Option<String>,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, on top of the container's.
    pub env: Vec<String>,
    /// Absolute path; absent: the container's.
    pub working_dir: Option<String>,
    /// `user[:group]`; absent: the container's.
    pub user: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it gets every capability.
    pub privileged: bool,
    /// Whether it gets the session's display even where the container was started without one.
    pub gui: bool,
    /// The streams to attach; `None`: it is left to itself.
    pub attach: Option<Hello>,
}

/// A further process that runs now.
pub struct ExecStarted {
    /// Its pid as the engine sees it.
    pub pid: i32,
    /// Its streams, if they were asked for.
    pub attachment: Option<Attachment>,
}

impl Engine {
    /// An id for a further process.
    pub fn new_exec_id() -> Result<String> {
        Ok(random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether a running container's files know a user, as `user[:group]` names it.
    ///
    /// # Errors
    /// `InvalidInput` (`unable to find user x: no matching entries in passwd file`) when they do not;
    /// `Conflict` when the container does not run.
    pub fn check_user(&self, container: &Container, user: &str) -> Result<()> {
        crate::monitor::check_user(self, container, user)
    }

    /// Runs a further process in a container. Killing the caller leaves it running.
    ///
    /// # Errors
    /// `NotFound` and `Conflict` for a container that is not there, does not run or is frozen;
    /// `CommandNotFound` and, for whatever else keeps it from running, `CommandNotExecutable`.
    pub fn exec(&self, text: &str, request: ExecRequest) -> Result<ExecStarted> {
        let hello = request.attach;
        let (attachment, client) = match hello {
            Some(hello) => {
                let (near, far) = socket::pair()?;
                (Some(Attachment::new(near, hello)?), Some(far))
            }
            None => (None, None),
        };
        let launch = Launch::begin(self, Role::Exec, client)?;
        let container = self.container(text)?;
        let id = &container.record.id;
        match &container.state.state {
            State::Running { paused: true, .. } => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("Container {text} is paused, unpause the container before exec"),
                ));
            }
            State::Running { .. } => {}
            State::Restarting { .. } => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("Container {id} is restarting, wait until the container is running"),
                ));
            }
            _ => return Err(Error::new(Kind::Conflict, format!("container {id} is not running"))),
        }
        let announced = request.id.is_some();
        let exec = request.id.map_or_else(Engine::new_exec_id, Ok)?;
        let order = ExecOrder {
            id: exec.clone(),
            stdin: hello.is_some_and(|hello| hello.stdin),
            args: request.args,
            env: request.env,
            working_dir: request.working_dir,
            user: request.user,
            tty: request.tty,
            privileged: request.privileged,
            gui: request.gui,
            session: self.session.clone(),
        };
        let command = order.args.join(" ");
        if !announced {
            self.tell(&container.record, &format!("exec_create: {command}"), &[("execID", exec.clone())]);
        }
        let (pid, _) = launch.finish(id, &order, None).map_err(not_executable)?;
        self.tell(&container.record, &format!("exec_start: {command}"), &[("execID", exec)]);
        Ok(ExecStarted { pid, attachment })
    }
}

/// Why a program in a container that runs was not executed. As with Docker, a user or directory that is
/// not there is no other failure than a program that may not be executed.
fn not_executable(error: Error) -> Error {
    match error.kind() {
        Kind::CommandNotFound | Kind::CommandNotExecutable | Kind::Conflict | Kind::Interrupted => error,
        _ => Report { kind: Kind::CommandNotExecutable, ..error.to_report() }.into(),
    }
}
