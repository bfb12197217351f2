//! What the commands that prune share.

use clap::Args;
use robot_env_diag::{Kind, Result};
use robot_env_engine::{Container, Engine, ImageRemoval, Pruned};
use robot_env_store::RemoveOptions;
use robot_env_wire::Filters;

use super::{rm, rmi};
use crate::app::App;
use crate::filter;
use crate::format::human;
use crate::rows::image::Named;
use crate::verb::{Exit, Verb};

/// Remove all containers that do not run
#[derive(Args)]
pub(crate) struct ContainerPrune {
    /// Only what matches: label, until
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Verb for ContainerPrune {
    const SPELLINGS: &'static [&'static str] = &["container prune"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, &["label", "label!", "until"])?;
        filter::until(&filters, app.now())?;
        let engine = app.engine()?;
        if !self.force {
            let losses = container_losses(app, &engine, &filters)?;
            let question = format!(
                "WARNING! This will remove all stopped containers.\n{losses}Are you sure you want to continue?"
            );
            if !app.confirm(&question)? {
                return Ok(Exit::SUCCESS);
            }
        }
        let pruned = containers(app, &engine, &filters)?;
        tell(app, "Containers", &pruned.names)?;
        finish(app, &engine, pruned.bytes)?;
        Ok(Exit::SUCCESS)
    }
}

/// Removes the containers that do not run and that the filters `label` and `until` let through.
pub(super) fn containers(app: &App, engine: &Engine, filters: &Filters) -> Result<Pruned> {
    engine.prune_containers(takes(app, filters)?)
}

/// Whether the filters `label` and `until` let a container through.
fn takes(app: &App, filters: &Filters) -> Result<impl Fn(&Container) -> bool> {
    let until = filter::until(filters, app.now())?;
    Ok(move |container: &Container| {
        let record = &container.record;
        filters.labels(&record.spec.labels) && until.is_none_or(|until| record.created <= until)
    })
}

/// What the containers that would be removed have written, a line each.
pub(super) fn container_losses(app: &App, engine: &Engine, filters: &Filters) -> Result<String> {
    let mut lines = String::new();
    for container in engine.prunable(takes(app, filters)?)? {
        if let Some(loss) = rm::loss(engine, container.record.id.as_str()) {
            lines.push_str(&format!("  {} has written {loss}\n", container.record.name));
        }
    }
    Ok(lines)
}

/// What is in the volumes that would be removed, a line each.
pub(super) fn volume_losses(engine: &Engine, all: bool, filters: &Filters) -> Result<String> {
    let mut lines = String::new();
    for usage in engine.volume_usage()? {
        let volume = &usage.volume;
        let goes = usage.containers == 0 && (all || volume.anonymous) && filters.labels(&volume.labels);
        if goes && usage.bytes > 0 {
            lines.push_str(&format!("  {} has {}\n", volume.name, human::decimal(usage.bytes)));
        }
    }
    Ok(lines)
}

/// Removes the volumes that no container has: the anonymous ones, or `all`.
pub(super) fn volumes(engine: &Engine, all: bool, filters: &Filters) -> Result<Pruned> {
    engine.prune_volumes(|volume| (all || volume.anonymous) && filters.labels(&volume.labels))
}

/// Removes the images that no container has, made from them or mounted: those without a tag, or
/// `all`. Gives the lines that say what went; layers that nothing needs go in any case.
pub(super) fn images(app: &App, engine: &Engine, all: bool, filters: &Filters) -> Result<Pruned> {
    let until = filter::until(filters, app.now())?;
    let store = engine.store();
    let names = store.names()?;
    let labelled = filters.has("label") || filters.has("label!");
    let mut removal = ImageRemoval::new(engine);
    for record in store.images()? {
        let own = names.iter().filter(|name| name.image == record.id);
        let own: Vec<_> = own.map(|name| name.reference.clone()).collect();
        if !all && own.iter().any(|name| name.tag().is_some()) {
            continue;
        }
        let config = if labelled { Some(store.config(&record.id)?.into_value().config) } else { None };
        let labels = config.as_ref().map(|config| config.labels.clone()).unwrap_or_default();
        let named = Named { record, names: own, config };
        if !filters.labels(&labels) || until.is_some_and(|until| named.created() > until) {
            continue;
        }
        // Asked for each anew: a container may have been made of it meanwhile, but not from now on.
        let held_off = engine.hold_off()?;
        if engine.images_in_use()?.contains_key(&named.record.id) {
            continue;
        }
        let options = RemoveOptions { names: !named.names.is_empty() };
        match removal.delete(&named.record, options, &held_off) {
            // Somebody else removed it, or named it.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => {}
            other => other?,
        }
    }
    let names = rmi::lines(&removal.finish()?, "untagged", "deleted");
    if names.is_empty() {
        removal.collect()?;
    }
    Ok(Pruned { names, bytes: removal.bytes })
}

/// Says what went.
pub(super) fn tell(app: &App, what: &str, names: &[String]) -> Result<()> {
    if names.is_empty() { Ok(()) } else { app.print(&format!("Deleted {what}:\n{}\n\n", names.join("\n"))) }
}

/// Says how much space comes back, and gives it back when the command has ended.
pub(super) fn finish(app: &App, engine: &Engine, bytes: u64) -> Result<()> {
    app.print_line(&format!("Total reclaimed space: {}", human::decimal(bytes)))?;
    say_kept(app, engine, " of it");
    engine.sweep()?;
    engine.empty_trash_later();
    Ok(())
}

/// Says how much of what this command has removed can come back.
pub(super) fn say_kept(app: &App, engine: &Engine, of_what: &str) {
    let all = engine.removed();
    let own = all.iter().filter(|removed| removed.batch == engine.batch());
    let kept: u64 = own.map(|removed| removed.bytes).sum();
    if kept > 0 {
        let (program, time) =
            (app.program(), robot_env_wire::human_duration(engine.undo_time().as_secs() as i64));
        let size = human::decimal(kept);
        app.say(&format!(
            "{size}{of_what} can come back for {time}: `{program} undo`; `{program} undo --discard` frees it now"
        ));
    }
}
