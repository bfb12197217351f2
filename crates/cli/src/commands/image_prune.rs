use clap::Args;
use robot_env_diag::Result;

use super::rmi::Removal;
use crate::app::App;
use crate::filter::Filters;
use crate::format::human;
use crate::rows::image::Named;
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
        let filters = Filters::parse(&self.filter, FILTERS)?;
        let until = filters.until(app.now())?;
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
        let store = engine.store();
        let used = engine.images_in_use()?;
        let names = store.names()?;
        let labelled = filters.has("label") || filters.has("label!");
        let mut removal = Removal::new(&engine);
        for record in store.images()? {
            let own: Vec<_> = names
                .iter()
                .filter(|name| name.image == record.id)
                .map(|name| name.reference.clone())
                .collect();
            let tagged = own.iter().any(|name| name.tag().is_some());
            if used.contains_key(&record.id) || (!all && tagged) {
                continue;
            }
            let config = if labelled { Some(store.config(&record.id)?.into_value().config) } else { None };
            let labels = config.as_ref().map(|config| config.labels.clone()).unwrap_or_default();
            let named = Named { record, names: own, config };
            if !filters.labels(&labels) || until.is_some_and(|until| named.created() > until) {
                continue;
            }
            match removal.delete(&named.record, false) {
                // Somebody else removed it.
                Err(error) if error.kind() == robot_env_diag::Kind::NotFound => {}
                other => other?,
            }
        }
        let lines = removal.lines("untagged", "deleted")?;
        if lines.is_empty() {
            // What removed containers and killed commands have left.
            removal.collect()?;
        }
        if !lines.is_empty() {
            app.print(&format!("Deleted Images:\n{}\n\n", lines.join("\n")))?;
        }
        app.print_line(&format!("Total reclaimed space: {}", human::decimal(removal.bytes)))?;
        engine.empty_trash_later();
        Ok(Exit::SUCCESS)
    }
}
