use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::stream::Hello;

use super::front::{self, Front};
use crate::app::App;
use crate::failure::Class;
use crate::verb::{Exit, Verb};

/// Attach the terminal's streams to a running container
#[derive(Args)]
pub(crate) struct Attach {
    /// Key sequence that detaches from the container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for Attach {
    const SPELLINGS: &'static [&'static str] = &["attach", "container attach"];
    const CLASS: Class = Class::Attached;

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let container = engine.container(&self.container)?;
        let spec = &container.record.spec;
        let hello = Hello { stdin: !self.no_stdin && spec.stdin_open, stdout: true, stderr: !spec.tty };
        front::check_terminal(app, spec.tty, hello)?;
        let id = container.record.id.as_str();
        let attachment = engine.attach(id, hello)?;
        let front = Front { tty: spec.tty, keys: self.detach_keys.as_deref(), proxy: self.sig_proxy, id };
        front::stand(&engine, attachment, &front)
    }
}
