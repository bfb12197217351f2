use clap::Args;
use robot_env_diag::Result;

use super::prune;
use crate::app::App;
use crate::filter;
use crate::verb::{Exit, Verb};

/// Remove images that nothing needs
#[derive(Args)]
pub(crate) struct ImagePrune {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what matches: label, until
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

const FILTERS: &[&str] = &["dangling", "label", "label!", "until"];

impl Verb for ImagePrune {
    const SPELLINGS: &'static [&'static str] = &["image prune"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, FILTERS)?;
        filter::until(&filters, app.now())?;
        let all = self.all || filters.truth("dangling")? == Some(false);
        if !self.force {
            let what = if all {
                "all images without at least one container associated to them"
            } else {
                "all dangling images"
            };
            let question = format!("WARNING! This will remove {what}.\nAre you sure you want to continue?");
            if !app.confirm(&question)? {
                return Ok(Exit::SUCCESS);
            }
        }
        let engine = app.engine()?;
        let pruned = prune::images(app, &engine, all, &filters)?;
        prune::tell(app, "Images", &pruned.names)?;
        prune::finish(app, &engine, pruned.bytes)?;
        Ok(Exit::SUCCESS)
    }
}
