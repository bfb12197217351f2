//! The commands that act on running containers and print their names.

use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_engine::{StopOptions, UpdateRequest};

use crate::app::App;
use crate::container_flags::{LimitFlags, restart_policy};
use crate::verb::{Exit, Verb};

/// Stop running containers
#[derive(Args)]
pub(crate) struct Stop {
    /// Signal to send first
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds until a container is killed; -1 waits for ever
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Stop {
    const SPELLINGS: &'static [&'static str] = &["stop", "container stop"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let options = StopOptions { signal: self.signal, timeout: self.timeout };
        // All are asked before any is waited for.
        let outcomes = engine.stop_all(&self.containers, &options);
        app.each_outcome(&self.containers, outcomes, |text| app.print_line(text))
    }
}

/// Restart containers
#[derive(Args)]
pub(crate) struct Restart {
    /// Signal to send first
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds until a container is killed; -1 waits for ever
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Restart {
    const SPELLINGS: &'static [&'static str] = &["restart", "container restart"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let options = StopOptions { signal: self.signal, timeout: self.timeout };
        app.each(&self.containers, |text| {
            engine.restart(text, &options)?;
            app.print_line(text)
        })
    }
}

/// Send a signal to running containers
#[derive(Args)]
pub(crate) struct Kill {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Kill {
    const SPELLINGS: &'static [&'static str] = &["kill", "container kill"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        app.each(&self.containers, |text| {
            engine.kill(text, &self.signal)?;
            app.print_line(text)
        })
    }
}

/// Freeze all processes of containers
#[derive(Args)]
pub(crate) struct Pause {
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Pause {
    const SPELLINGS: &'static [&'static str] = &["pause", "container pause"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        app.each(&self.containers, |text| {
            engine.pause(text)?;
            app.print_line(text)
        })
    }
}

/// Let the processes of frozen containers go on
#[derive(Args)]
pub(crate) struct Unpause {
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Unpause {
    const SPELLINGS: &'static [&'static str] = &["unpause", "container unpause"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        app.each(&self.containers, |text| {
            engine.unpause(text)?;
            app.print_line(text)
        })
    }
}

/// Wait until containers stop, and print their exit codes
#[derive(Args)]
pub(crate) struct Wait {
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Wait {
    const SPELLINGS: &'static [&'static str] = &["wait", "container wait"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        app.each(&self.containers, |text| app.print_line(&engine.wait(text)?.to_string()))
    }
}

/// Give a container another name
#[derive(Args)]
pub(crate) struct Rename {
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME", required = true)]
    name: String,
}

impl Verb for Rename {
    const SPELLINGS: &'static [&'static str] = &["rename", "container rename"];

    fn run(self, app: &App) -> Result<Exit> {
        app.engine()?.rename(&self.container, &self.name)?;
        Ok(Exit::SUCCESS)
    }
}

/// Change limits and restart policies of containers
#[derive(Args)]
pub(crate) struct Update {
    #[command(flatten)]
    limits: LimitFlags,
    /// Restart when the container exits: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Update {
    const SPELLINGS: &'static [&'static str] = &["update", "container update"];

    fn run(self, app: &App) -> Result<Exit> {
        let request = UpdateRequest {
            resources: self.limits.resources()?,
            restart: self.restart.as_deref().map(restart_policy).transpose()?,
        };
        if request == UpdateRequest::default() {
            return Err(Error::invalid("you must provide one or more flags when using this command"));
        }
        let engine = app.engine()?;
        app.each(&self.containers, |text| {
            for warning in engine.update(text, request.clone())? {
                app.warn(&warning);
            }
            app.print_line(text)
        })
    }
}
