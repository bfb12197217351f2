use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::{Volume, VolumeRequest};
use robot_env_wire as wire;

use super::{inspect, prune};
use crate::app::App;
use crate::container_flags;
use crate::filter;
use crate::format::{List, Style, Value};
use crate::rows::volume;
use crate::verb::{Exit, Verb};

/// Create a volume
#[derive(Args)]
pub(crate) struct VolumeCreate {
    /// Only `local`
    #[arg(short, long, value_name = "NAME", default_value = "local")]
    driver: String,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Set a driver option (`local` has none here)
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Its name
    #[arg(long = "name", value_name = "NAME", hide = true)]
    named: Option<String>,
    /// Its name; without one, one is made up
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

impl Verb for VolumeCreate {
    const SPELLINGS: &'static [&'static str] = &["volume create"];

    fn run(self, app: &App) -> Result<Exit> {
        let name = match (self.name, self.named) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
                ));
            }
            (name, named) => name.or(named).filter(|name| !name.is_empty()),
        };
        if self.driver != "local" {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot create volume: there is no volume driver `{}`", self.driver),
            )
            .with_hint("the only volume driver is `local`"));
        }
        let request = VolumeRequest {
            name,
            labels: container_flags::labels(&[], &self.label, app.ambient())?,
            options: container_flags::map(&self.opt, "driver option")?,
        };
        app.print_line(&app.engine()?.create_volume(request)?.name)?;
        Ok(Exit::SUCCESS)
    }
}

/// List volumes
#[derive(Args)]
pub(crate) struct VolumeLs {
    /// Show only what matches: dangling, driver, label, name
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for VolumeLs {
    const SPELLINGS: &'static [&'static str] = &["volume ls", "volume list"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, volume::FILTERS)?;
        let dangling = filters.truth("dangling")?;
        let names_only = self.quiet && self.format.is_none();
        let format = if names_only { Some("{{.Name}}") } else { self.format.as_deref() };
        let style = Style::parse(format, volume::TABLE)?;
        let engine = app.engine()?;
        let users = if dangling.is_some() { engine.volume_users()? } else { BTreeMap::new() };
        let (volumes, damage) = engine.volumes_and_damage()?;
        for error in &damage {
            app.show(error);
        }
        let rows = volumes
            .iter()
            .filter(|found| dangling.is_none_or(|dangling| users.contains_key(&found.name) != dangling))
            .filter(|found| filters.any_pattern("name", &[&found.name]))
            .filter(|_| filters.any("driver", |driver| driver == "local"))
            .filter(|found| filters.labels(&found.labels))
            .map(|found| volume::row(&shape(found)))
            .collect();
        app.print(&List { columns: volume::COLUMNS, rows }.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}

/// Show everything about volumes, as JSON
#[derive(Args)]
pub(crate) struct VolumeInspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The volumes
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
}

impl Verb for VolumeInspect {
    const SPELLINGS: &'static [&'static str] = &["volume inspect"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        inspect::print(app, self.format.as_deref(), &self.volumes, |name| {
            Ok(Value::of(&shape(&engine.volume(name)?)))
        })
    }
}

/// Remove volumes, with what is in them
#[derive(Args)]
pub(crate) struct VolumeRm {
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// The volumes
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
}

impl Verb for VolumeRm {
    const SPELLINGS: &'static [&'static str] = &["volume rm", "volume remove"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let exit = app.each(&self.volumes, |name| {
            match engine.remove_volume(name) {
                Err(error) if self.force && error.kind() == Kind::NotFound => {}
                removed => removed?,
            }
            app.print_line(name)
        });
        engine.empty_trash_later();
        exit
    }
}

/// Remove volumes that no container has
#[derive(Args)]
pub(crate) struct VolumePrune {
    /// Remove those with a name too, not only anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Only what matches: label
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Verb for VolumePrune {
    const SPELLINGS: &'static [&'static str] = &["volume prune"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, &["all", "label", "label!"])?;
        let all = self.all || filters.truth("all")?.unwrap_or(false);
        let engine = app.engine()?;
        if !self.force {
            let question = format!(
                "WARNING! This will remove {} not used by at least one container.\n{}Are you sure you want to continue?",
                if all { "all local volumes" } else { "anonymous local volumes" },
                prune::volume_losses(&engine, all, &filters)?
            );
            if !app.confirm(&question)? {
                return Ok(Exit::SUCCESS);
            }
        }
        let pruned = prune::volumes(&engine, all, &filters)?;
        prune::tell(app, "Volumes", &pruned.names)?;
        prune::finish(app, &engine, pruned.bytes)?;
        Ok(Exit::SUCCESS)
    }
}

/// A volume as Docker shows it.
pub(super) fn shape(volume: &Volume) -> wire::Volume {
    let mut labels = volume.labels.clone();
    if volume.anonymous {
        labels.insert("com.docker.volume.anonymous".into(), String::new());
    }
    let created = Timestamp::from_second(volume.created.as_second());
    wire::Volume {
        created_at: created.map_or_else(|_| wire::ZERO.to_owned(), wire::rfc3339),
        driver: "local".into(),
        labels: (!labels.is_empty()).then_some(labels),
        mountpoint: volume.path.to_string_lossy().into_owned(),
        name: volume.name.clone(),
        options: (!volume.options.is_empty()).then(|| volume.options.clone()),
        scope: "local".into(),
    }
}
