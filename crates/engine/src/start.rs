//! Starting containers, and watching them.

use std::os::fd::AsFd;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::ContainerId;
use robot_env_sys::fs::{self as sys_fs, Durability};
use robot_env_sys::socket;

use crate::attach::Attachment;
use crate::engine::Engine;
use crate::launch::{Launch, Role};
use crate::record::State;
use crate::records::{Container, ContainerLock};
use crate::stream::Hello;

/// A container that runs now.
pub struct Started {
    /// Its streams, if they were asked for.
    pub attachment: Option<Attachment>,
    /// What the user should hear, one line each.
    pub warnings: Vec<String>,
}

/// A monitor that runs already while its container is still being made.
pub struct Ahead {
    launch: Launch,
    attachment: Option<Attachment>,
    /// Of the container that was made for it.
    lock: Option<ContainerLock>,
}

impl Ahead {
    pub(crate) fn hold(&mut self, lock: ContainerLock) {
        self.lock = Some(lock);
    }
}

impl Engine {
    /// Begins a start before the container is there: what takes longest needs no container. Given
    /// to [`Engine::start_with`], or dropped.
    pub fn start_ahead(&self, hello: Option<Hello>) -> Result<Ahead> {
        let (attachment, client) = match hello {
            Some(hello) => {
                let (near, far) = socket::pair()?;
                (Some(Attachment::new(near, hello)?), Some(far))
            }
            None => (None, None),
        };
        Ok(Ahead { launch: Launch::begin(self, Role::Container, client)?, attachment, lock: None })
    }

    /// Starts a container and, with `hello`, attaches to it before its program runs. One that runs
    /// already is attached to as it is.
    ///
    /// # Errors
    /// `CommandNotFound` and `CommandNotExecutable` for the program; the container's state then
    /// says so, too.
    pub fn start(&self, text: &str, hello: Option<Hello>) -> Result<Started> {
        self.start_with(text, hello, None)
    }

    /// [`Engine::start`] with what [`Engine::start_ahead`] began for the same `hello`, of the container
    /// that [`Engine::create_for`] made for it, if it made one.
    pub fn start_with(&self, text: &str, hello: Option<Hello>, mut ahead: Option<Ahead>) -> Result<Started> {
        let id = self.records.find(text)?;
        let (lock, container) = match ahead.as_mut().and_then(|ahead| ahead.lock.take()) {
            // Made a moment ago, and nobody else has had its lock.
            Some(lock) => (lock, self.records.load(&id)?),
            None => {
                let lock = self.records.lock(&id)?;
                let container = self.reconciled_under(self.records.load(&id)?, &lock)?;
                (lock, container)
            }
        };
        match &container.state.state {
            State::Running { paused: true, .. } => {
                return Err(Error::new(
                    Kind::Conflict,
                    "cannot start a paused container, try unpause instead",
                ));
            }
            State::Running { .. } | State::Restarting { .. } => {
                let attachment = hello.map(|hello| self.attach_to(&id, hello)).transpose()?;
                return Ok(Started { attachment, warnings: Vec::new() });
            }
            State::Created | State::Failed { .. } | State::Exited { .. } => {}
        }
        // A monitor of its last life may still have to clean up.
        self.await_monitor(&id);
        self.clean_after_kill(&id);
        let Ahead { launch, attachment, .. } = match ahead {
            Some(ahead) => ahead,
            None => self.start_ahead(hello)?,
        };
        let started = launch.finish(&id, &self.session, Some(&lock));
        match started {
            Ok((_, warnings)) => Ok(Started { attachment, warnings }),
            Err(error) => {
                self.await_monitor(&id);
                // A monitor that was killed has left a state that says "running", and maybe processes.
                let now = self.records.load(&id).and_then(|now| self.reconciled_under(now, &lock));
                self.clean_after_kill(&id);
                if now.is_ok_and(|now| now.state.state == container.state.state) {
                    self.note_failure(&container, &error);
                }
                Err(error)
            }
        }
    }

    fn note_failure(&self, container: &Container, error: &Error) {
        let code = match error.kind() {
            Kind::CommandNotFound => 127,
            Kind::CommandNotExecutable => 126,
            _ => 128,
        };
        let mut state = container.state.clone();
        state.state =
            State::Failed { code, error: error.to_report().to_string(), finished: Timestamp::now() };
        let _ = self.records.save_state(&container.record.id, &state, Durability::NoSync);
        let _ = std::fs::remove_dir_all(self.paths.container_run(&container.record.id));
    }

    /// Connects to the streams of a running container.
    ///
    /// # Errors
    /// `Conflict` when it does not run.
    pub fn attach(&self, text: &str, hello: Hello) -> Result<Attachment> {
        let container = self.container(text)?;
        match &container.state.state {
            State::Running { paused: true, .. } => {
                Err(Error::new(Kind::Conflict, "You cannot attach to a paused container, unpause it first"))
            }
            State::Running { .. } => self.attach_to(&container.record.id, hello),
            State::Restarting { .. } => Err(Error::new(
                Kind::Conflict,
                "You cannot attach to a restarting container, wait until it is running",
            )),
            _ => Err(Error::new(Kind::Conflict, "You cannot attach to a stopped container, start it first")),
        }
    }

    pub(crate) fn attach_to(&self, id: &ContainerId, hello: Hello) -> Result<Attachment> {
        let directory = sys_fs::open_directory(&self.paths.container_run(id))?;
        Attachment::new(socket::connect_at(directory.as_fd(), "attach.sock")?, hello)
    }
}
