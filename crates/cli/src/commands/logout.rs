use clap::Args;
use robot_env_diag::Result;

use super::login::DEFAULT_REGISTRY;
use crate::app::App;
use crate::verb::{Exit, Verb};

/// Log out from a registry
#[derive(Args)]
pub(crate) struct Logout {
    /// The registry; Docker Hub when left away
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl Verb for Logout {
    const SPELLINGS: &'static [&'static str] = &["logout"];

    fn run(self, app: &App) -> Result<Exit> {
        let server = self.server.as_deref().unwrap_or(DEFAULT_REGISTRY);
        if app.registry().logout(server)? {
            app.print_line(&format!("Removing login credentials for {server}"))?;
        } else {
            app.print_line(&format!("Not logged in to {server}"))?;
        }
        Ok(Exit::SUCCESS)
    }
}
