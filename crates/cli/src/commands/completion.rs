use clap::Args;
use clap_complete::Shell;
use robot_env_diag::Result;

use crate::app::App;
use crate::dispatch;
use crate::verb::{Exit, Verb};

/// Print a script that completes commands and flags in a shell
#[derive(Args)]
pub(crate) struct Completion {
    /// bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Verb for Completion {
    const SPELLINGS: &'static [&'static str] = &["completion"];

    fn run(self, app: &App) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut dispatch::tree(app.program()), app.program(), &mut script);
        app.write(&script)?;
        Ok(Exit::SUCCESS)
    }
}
