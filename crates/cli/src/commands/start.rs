use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_engine::attach::hold_signals;
use robot_env_engine::stream::Hello;

use super::front::{self, Front};
use crate::app::App;
use crate::failure::Class;
use crate::verb::{Exit, Verb};

/// Start stopped containers
#[derive(Args)]
pub(crate) struct Start {
    /// Show the container's output and pass signals on to it
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input on to it
    #[arg(short, long)]
    interactive: bool,
    /// Key sequence that detaches from the container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Start {
    const SPELLINGS: &'static [&'static str] = &["start", "container start"];
    const CLASS: Class = Class::Attached;

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        if !self.attach && !self.interactive {
            return app.each(&self.containers, |text| {
                let started = engine.start(text, None)?;
                started.warnings.iter().for_each(|warning| app.warn(warning));
                app.print_line(text)
            });
        }
        let [text] = self.containers.as_slice() else {
            return Err(Error::invalid("you cannot start and attach multiple containers at once"));
        };
        let container = engine.container(text)?;
        let spec = &container.record.spec;
        let hello = Hello { stdin: self.interactive && spec.stdin_open, stdout: true, stderr: !spec.tty };
        front::check_terminal(app, spec.tty, hello)?;
        let id = container.record.id.as_str();
        let _held = (!spec.tty).then(hold_signals).transpose()?;
        let started = engine.start(id, Some(hello))?;
        started.warnings.iter().for_each(|warning| app.warn(warning));
        let Some(attachment) = started.attachment else { return Ok(Exit::SUCCESS) };
        let keys = self.detach_keys.as_deref();
        front::stand(&engine, attachment, &Front { tty: spec.tty, keys, proxy: true, id })
    }
}
