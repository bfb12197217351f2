use clap::Args;
use jiff::Timestamp;
use robot_env_build::Kept;
use robot_env_diag::{Error, Result};
use robot_env_engine::DiskUsage;

use crate::app::App;
use crate::format::{Column, List, Style, Template, Value, human};
use crate::rows::{self, container, image, volume};
use crate::verb::{Exit, Verb};

/// Show how much disk space is used
#[derive(Args)]
pub(crate) struct SystemDf {
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show each image, container and volume
    #[arg(short, long)]
    verbose: bool,
}

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const TABLE: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
const IMAGES: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINERS: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUMES: &str = "{{.Name}}\t{{.Links}}\t{{.Size}}";
const CACHE: &str = "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.LastUsedSince}}\t{{.Shared}}\t{{.Description}}";
const CACHE_COLUMNS: &[Column] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("LastUsedSince", "LAST USED"),
    ("Shared", "SHARED"),
    ("InUse", "IN USE"),
    ("Description", "DESCRIPTION"),
];

impl Verb for SystemDf {
    const SPELLINGS: &'static [&'static str] = &["system df"];

    fn run(self, app: &App) -> Result<Exit> {
        let style = Style::parse(self.format.as_deref(), TABLE)?;
        let verbose_template = match (&style, self.verbose) {
            (Style::Lines(_), true) => Some(Template::parse(self.format.as_deref().unwrap_or_default())?),
            (Style::Table(_), true) if self.format.as_deref().is_some_and(|format| format.len() > 5) => {
                return Err(Error::invalid("--verbose has tables of its own: leave out `table` in --format"));
            }
            _ => None,
        };
        let engine = app.engine()?;
        let usage = engine.disk_usage()?;
        let kept = robot_env_build::kept(&engine)?;
        if !self.verbose {
            app.print(&List { columns: COLUMNS, rows: summary(&usage, &kept) }.print(&style)?)?;
            return Ok(Exit::SUCCESS);
        }
        let parts = Parts::of(&usage, &kept, app);
        match (&style, verbose_template) {
            (_, Some(template)) => app.print_line(&template.print(&parts.value())?)?,
            (Style::Json, None) => app.print_line(&parts.value().to_json())?,
            _ => app.print(&parts.tables()?)?,
        }
        Ok(Exit::SUCCESS)
    }
}

/// A line for each kind of thing.
fn summary(usage: &DiskUsage, cached: &[Kept]) -> Vec<Value> {
    let active = |containers: usize| usize::from(containers > 0);
    let written: u64 = usage.containers.iter().map(|(_, bytes)| bytes).sum();
    let idle = usage.containers.iter().filter(|(container, _)| !container.state.state.is_active());
    let kept: u64 = usage.volumes.iter().map(|volume| volume.bytes).sum();
    let unused = usage.volumes.iter().filter(|volume| volume.containers == 0);
    let line = |kind: &str, total: usize, active: usize, size: u64, reclaimable: u64, percent: bool| {
        let mut text = human::short(reclaimable);
        if percent && size > 0 {
            text.push_str(&format!(" ({}%)", u128::from(reclaimable) * 100 / u128::from(size)));
        }
        Value::row([
            ("Type", kind.into()),
            ("TotalCount", total.to_string().into()),
            ("Active", active.to_string().into()),
            ("Size", human::short(size).into()),
            ("Reclaimable", text.into()),
        ])
    };
    vec![
        line(
            "Images",
            usage.images.len(),
            usage.images.iter().map(|image| active(image.containers)).sum(),
            usage.layers,
            usage.unused_layers,
            true,
        ),
        line(
            "Containers",
            usage.containers.len(),
            usage.containers.iter().filter(|(container, _)| container.state.state.is_active()).count(),
            written,
            idle.map(|(_, bytes)| bytes).sum(),
            true,
        ),
        line(
            "Local Volumes",
            usage.volumes.len(),
            usage.volumes.iter().map(|volume| active(volume.containers)).sum(),
            kept,
            unused.map(|volume| volume.bytes).sum(),
            true,
        ),
        line(
            "Build Cache",
            cached.len(),
            cached.iter().filter(|one| one.in_use).count(),
            cached.iter().map(|one| one.bytes).sum(),
            cached.iter().filter(|one| !one.in_use).map(|one| one.bytes).sum(),
            false,
        ),
    ]
}

/// Everything one by one.
struct Parts {
    images: Vec<Value>,
    containers: Vec<Value>,
    volumes: Vec<Value>,
    cached: Vec<Value>,
    cached_bytes: u64,
}

impl Parts {
    fn of(usage: &DiskUsage, cached: &[Kept], app: &App) -> Parts {
        let now = app.now();
        let images = usage.images.iter().flat_map(|found| {
            let named =
                image::Named { record: found.image.clone(), names: found.names.clone(), config: None };
            let options = image::Options { truncate: true, digests: false, now };
            let more = [
                ("SharedSize", human::short(found.shared)),
                ("UniqueSize", human::short(found.image.size.saturating_sub(found.shared))),
                ("Containers", found.containers.to_string()),
            ];
            let rows = image::rows(&named, options);
            rows.into_iter().map(move |row| rows::with(row, more.clone()))
        });
        let containers = usage.containers.iter().map(|(found, bytes)| {
            let row = container::row(found, None, &[], container::Options { truncate: true, now });
            rows::with(row, [("Size", human::short(*bytes))])
        });
        let volumes = usage.volumes.iter().map(|found| {
            let row = volume::row(&super::volume::shape(&found.volume));
            rows::with(row, [("Links", found.containers.to_string()), ("Size", human::short(found.bytes))])
        });
        let cached_bytes = cached.iter().map(|one| one.bytes).sum();
        let cached = cached.iter().map(|one| {
            let used = i64::try_from(one.used).ok().and_then(|used| Timestamp::from_second(used).ok());
            Value::row([
                ("ID", one.id.as_str().into()),
                ("CacheType", one.kind.into()),
                ("Size", human::short(one.bytes).into()),
                ("LastUsedSince", used.map_or_else(String::new, |used| human::ago(used, now)).into()),
                ("Shared", Value::Bool(one.shared)),
                ("InUse", Value::Bool(one.in_use)),
                ("Description", one.description.as_str().into()),
            ])
        });
        Parts {
            images: images.collect(),
            containers: containers.collect(),
            volumes: volumes.collect(),
            cached: cached.collect(),
            cached_bytes,
        }
    }

    fn value(&self) -> Value {
        Value::row([
            ("Images", Value::List(self.images.clone())),
            ("Containers", Value::List(self.containers.clone())),
            ("Volumes", Value::List(self.volumes.clone())),
            ("BuildCache", Value::List(self.cached.clone())),
        ])
    }

    fn tables(self) -> Result<String> {
        let table = |columns: &[Column], rows: Vec<Value>, template: &str| {
            List { columns, rows }.print(&Style::parse(None, template)?)
        };
        Ok(format!(
            "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
             Build cache usage: {}\n\n{}",
            table(image::COLUMNS, self.images, IMAGES)?,
            table(container::COLUMNS, self.containers, CONTAINERS)?,
            table(volume::COLUMNS, self.volumes, VOLUMES)?,
            human::short(self.cached_bytes),
            table(CACHE_COLUMNS, self.cached, CACHE)?,
        ))
    }
}
