use clap::Args;
use robot_env_build::PruneKept;
use robot_env_diag::{Error, Result};

use super::{network, prune};
use crate::app::App;
use crate::filter;
use crate::verb::{Exit, Verb};

/// Remove what nothing needs: stopped containers, unused networks and images, and with --volumes anonymous volumes
#[derive(Args)]
pub(crate) struct SystemPrune {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what matches: label, until
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes that no container has, too
    #[arg(long)]
    volumes: bool,
}

impl Verb for SystemPrune {
    const SPELLINGS: &'static [&'static str] = &["system prune"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, &["label", "label!", "until"])?;
        if self.volumes && filters.has("until") {
            return Err(Error::invalid("the \"until\" filter is not supported with \"--volumes\""));
        }
        filter::until(&filters, app.now())?;
        let engine = app.engine()?;
        if !self.force {
            let mut losses = prune::container_losses(app, &engine, &filters)?;
            if self.volumes {
                losses.push_str(&prune::volume_losses(&engine, false, &filters)?);
            }
            if !app.confirm(&self.question(&losses))? {
                return Ok(Exit::SUCCESS);
            }
        }
        let pruned = prune::containers(app, &engine, &filters)?;
        prune::tell(app, "Containers", &pruned.names)?;
        let mut bytes = pruned.bytes;
        prune::tell(app, "Networks", &network::pruned(app, &engine, &filters)?)?;
        if self.volumes {
            let pruned = prune::volumes(&engine, false, &filters)?;
            prune::tell(app, "Volumes", &pruned.names)?;
            bytes += pruned.bytes;
        }
        if !filters.has("label") && !filters.has("label!") && !filters.has("until") {
            // Steps whose files an image has, too: the image may go now.
            let options = PruneKept { all: true, keep: None, filter: &|_| true };
            let pruned = robot_env_build::prune(&engine, &options)?;
            prune::tell(app, "build cache objects", &pruned.ids())?;
            bytes += pruned.bytes;
        }
        let pruned = prune::images(app, &engine, self.all, &filters)?;
        prune::tell(app, "Images", &pruned.names)?;
        prune::finish(app, &engine, bytes + pruned.bytes)?;
        Ok(Exit::SUCCESS)
    }
}

impl SystemPrune {
    fn question(&self, losses: &str) -> String {
        let mut lines = vec![
            "WARNING! This will remove:",
            "  - all stopped containers",
            "  - all networks not used by at least one container",
            "  - what builds keep to be faster the next time",
        ];
        if self.volumes {
            lines.push("  - all anonymous volumes not used by at least one container");
        }
        lines.push(if self.all {
            "  - all images without at least one container associated to them"
        } else {
            "  - all dangling images"
        });
        let mut text = lines.join("\n");
        if !self.filter.is_empty() {
            text.push_str("\n\n  Items to be pruned will be filtered with:");
            for filter in &self.filter {
                text.push_str(&format!("\n  - {filter}"));
            }
        }
        if !losses.is_empty() {
            text.push_str(&format!("\n\n  What was written would go, too:\n{}", losses.trim_end()));
        }
        text.push_str("\n\nAre you sure you want to continue?");
        text
    }
}
