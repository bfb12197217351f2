//! What `run`, `start`, `attach` and `exec` share: standing in front of a container.

use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::Engine;
use robot_env_engine::attach::{Attachment, DetachKeys, FrontEnd, FrontOptions};
use robot_env_engine::stream::Hello;

use crate::app::App;
use crate::verb::Exit;

/// The keys that detach when nobody says otherwise.
const KEYS: &str = "ctrl-p,ctrl-q";

/// How to stand in front of a process.
pub(super) struct Front<'a> {
    pub(super) tty: bool,
    /// `--detach-keys`.
    pub(super) keys: Option<&'a str>,
    /// Whether signals go to the container's process.
    pub(super) proxy: bool,
    /// The container's id, where signals are to be passed on.
    pub(super) id: &'a str,
}

/// The bytes of `--detach-keys`.
pub(super) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>> {
    match text {
        Some("") => Ok(Vec::new()),
        text => DetachKeys::parse(text.unwrap_or(KEYS)),
    }
}

/// Standard input must be a terminal for a process that gets one and is typed to.
pub(super) fn check_terminal(app: &App, tty: bool, hello: Hello) -> Result<()> {
    if tty && hello.stdin && !app.ambient().stdin_is_terminal {
        return Err(Error::invalid("the input device is not a TTY")
            .with_hint("leave out -t where the input is a pipe or a file"));
    }
    Ok(())
}

/// Moves the streams until the process ends or the user detaches.
pub(super) fn stand(engine: &Engine, attachment: Attachment, front: &Front<'_>) -> Result<Exit> {
    let mut pass_on = |signal: i32| {
        // A process that has just ended needs no signal.
        let _ = engine.kill(front.id, &signal.to_string());
    };
    // With a terminal the keys reach the process through it.
    let proxies = front.proxy && !front.tty;
    let options = FrontOptions {
        tty: front.tty,
        detach_keys: detach_keys(front.keys)?,
        on_signal: proxies.then_some(&mut pass_on as &mut dyn FnMut(i32)),
    };
    match attachment.front(options)? {
        FrontEnd::Exited(notice) => {
            if let Some(report) = notice.error {
                return Err(report.into());
            }
            Ok(Exit(notice.code as u8))
        }
        FrontEnd::Detached => Ok(Exit::SUCCESS),
        FrontEnd::Lost => match engine.container(front.id) {
            Ok(container) => Ok(Exit(container.state.state.exit_code() as u8)),
            Err(_) => Err(Error::new(Kind::Internal, "the container's monitor was killed")),
        },
    }
}
