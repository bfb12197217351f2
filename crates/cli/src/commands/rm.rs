use clap::Args;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::RemoveContainerOptions;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Remove containers
#[derive(Args)]
pub(crate) struct Rm {
    /// Kill a running container first
    #[arg(short, long)]
    force: bool,
    /// Remove a link (there are none)
    #[arg(short, long, hide = true)]
    link: bool,
    /// Remove anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Rm {
    const SPELLINGS: &'static [&'static str] = &["rm", "container rm", "container remove"];

    fn run(self, app: &App) -> Result<Exit> {
        if self.link {
            return Err(Error::new(Kind::Unsupported, "--link is not supported: there are no links"));
        }
        let engine = app.engine()?;
        let options = RemoveContainerOptions { force: self.force, volumes: self.volumes };
        let exit = app.each(&self.containers, |text| match engine.remove(text, options) {
            // With --force, what is not there need not be removed.
            Err(error) if self.force && error.kind() == Kind::NotFound => {
                app.show(&error);
                Ok(())
            }
            removed => {
                removed?;
                app.print_line(text)
            }
        });
        engine.empty_trash_later();
        exit
    }
}
