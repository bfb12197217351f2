use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::ExecRequest;
use robot_env_engine::stream::Hello;

use super::front::{self, Front};
use crate::app::App;
use crate::command_line::Flags;
use crate::container_flags::environment;
use crate::failure::Class;
use crate::verb::{Exit, Verb};

/// Run a program in a running container
#[derive(Args)]
pub(crate) struct Exec {
    /// Leave it running in the background
    #[arg(short, long)]
    detach: bool,
    /// Key sequence that detaches from the program
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Set an environment variable; NAME alone takes the host's value
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Show its windows on your display, even where the container was started without --gui
    #[arg(long)]
    gui: bool,
    /// Pass standard input on to it
    #[arg(short, long)]
    interactive: bool,
    /// Give it every capability
    #[arg(long)]
    privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User: NAME|ID[:GROUP]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., allow_hyphen_values = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl Verb for Exec {
    const SPELLINGS: &'static [&'static str] = &["exec", "container exec"];
    const FLAGS: Flags = Flags::First;
    const CLASS: Class = Class::Attached;

    fn run(self, app: &App) -> Result<Exit> {
        front::detach_keys(self.detach_keys.as_deref())?;
        let hello =
            (!self.detach).then_some(Hello { stdin: self.interactive, stdout: true, stderr: !self.tty });
        if let Some(hello) = hello {
            front::check_terminal(app, self.tty, hello)?;
        }
        let engine = app.engine()?;
        let started = engine.exec(
            &self.container,
            ExecRequest {
                id: None,
                args: self.command,
                env: environment(&self.env_file, &self.env, app.ambient())?,
                working_dir: self.workdir,
                user: self.user,
                tty: self.tty,
                privileged: self.privileged,
                gui: self.gui,
                attach: hello,
            },
        )?;
        let Some(attachment) = started.attachment else { return Ok(Exit::SUCCESS) };
        let keys = self.detach_keys.as_deref();
        // Signals end the front alone, as Docker's does: the program goes on.
        front::stand(&engine, attachment, &Front { tty: self.tty, keys, proxy: false, id: &self.container })
    }
}
