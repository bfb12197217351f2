use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_engine::{Engine, Removed, RemovedKind};
use robot_env_oci::Reference;

use super::rm::size_and_places;
use crate::app::App;
use crate::format::{Column, List, Style, Value, human};
use crate::verb::{Exit, Verb};

/// Bring back what was removed: containers with what they had written, volumes and images
///
/// Without names, all that the last command removed. What is removed is kept for `undo-time` of the
/// configuration (24h), or until the disk gets full; containers of `run --rm` and empty ones are not.
#[derive(Args)]
pub(crate) struct Undo {
    /// List what can come back
    #[arg(short, long, conflicts_with = "names")]
    list: bool,
    /// Let it go for good and free its space: all, or what is named
    #[arg(long, conflicts_with = "list")]
    discard: bool,
    /// How the list is printed: a Go template, json or table
    #[arg(long, value_name = "FORMAT", requires = "list")]
    format: Option<String>,
    /// Names or ids of containers, volumes and images that were removed
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Verb for Undo {
    const SPELLINGS: &'static [&'static str] = &["undo", "container undo", "image undo"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let all = engine.removed();
        if self.list {
            return list(app, &all, self.format.as_deref());
        }
        let chosen: Vec<Removed> = if !self.names.is_empty() {
            self.names.iter().map(|name| find(&all, name)).collect::<Result<_>>()?
        } else if self.discard {
            all
        } else {
            let count = last_together(&all);
            if count == 0 {
                return Err(Error::not_found("there is nothing to bring back"));
            }
            all[..count].to_vec()
        };
        if self.discard {
            return discard(app, &engine, &chosen);
        }
        let mut exit = Exit::SUCCESS;
        // Containers before volumes: theirs come with them.
        let (volumes, others): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|removed| removed.kind == RemovedKind::Volume);
        for removed in others.iter().chain(&volumes) {
            if removed.kind == RemovedKind::Volume && back_already(&engine, removed) {
                app.print_line(&removed.name)?;
                continue;
            }
            match engine.undo(removed) {
                Ok(name) => {
                    if name != removed.name {
                        app.say(&format!("{} is back as {name}: its name is taken", removed.name));
                    }
                    app.print_line(&name)?;
                }
                Err(error) => {
                    app.show(&error);
                    exit = Exit::FAILURE;
                }
            }
        }
        Ok(exit)
    }
}

/// A server is one process for days: what was removed longer before the next one was another request.
const PAUSE: i64 = 60;

/// How many of `all`, the last first, were removed by one command.
fn last_together(all: &[Removed]) -> usize {
    let together = |pair: &[Removed]| {
        pair[0].batch == pair[1].batch && pair[0].removed.as_second() - pair[1].removed.as_second() <= PAUSE
    };
    all.len().min(1) + all.windows(2).take_while(|pair| together(pair)).count()
}

/// Whether a volume came back with a container.
fn back_already(engine: &Engine, removed: &Removed) -> bool {
    engine.volume(&removed.id).is_ok() && !engine.removed().contains(removed)
}

/// What was removed last of what has this name, or an id that begins so.
fn find(all: &[Removed], text: &str) -> Result<Removed> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let image = text.parse::<Reference>().map(|name| name.or_latest().familiar()).unwrap_or_default();
    let by_name = all.iter().find(|removed| match removed.kind {
        RemovedKind::Image => removed.name == image || removed.also.contains(&image),
        RemovedKind::Container | RemovedKind::Volume => removed.name == name,
    });
    let id = text.strip_prefix("sha256:").unwrap_or(name);
    let mut by_id: Vec<&Removed> =
        all.iter().filter(|removed| !id.is_empty() && removed.id.starts_with(id)).collect();
    // An image that was removed, pulled and removed again is the same.
    by_id.dedup_by(|later, first| later.id == first.id);
    let mut by_id = by_id.into_iter();
    let found = match (by_name, by_id.next(), by_id.next()) {
        (Some(found), _, _) | (None, Some(found), None) => found,
        (None, Some(_), Some(_)) => {
            return Err(Error::invalid(format!("cannot bring `{text}` back: several ids begin so")));
        }
        (None, None, _) => {
            return Err(Error::not_found(format!(
                "cannot bring `{text}` back: nothing of that name is kept"
            ))
            .with_hint("`undo --list` lists what can come back"));
        }
    };
    Ok(found.clone())
}

fn discard(app: &App, engine: &Engine, chosen: &[Removed]) -> Result<Exit> {
    engine.let_go(chosen)?;
    for removed in chosen {
        app.print_line(&removed.name)?;
    }
    let bytes = chosen.iter().map(|removed| removed.bytes).sum();
    app.say(&format!("{} are free now", human::decimal(bytes)));
    engine.empty_trash_later();
    Ok(Exit::SUCCESS)
}

const TABLE: &str = "{{.Name}}\t{{.Kind}}\t{{.Removed}}\t{{.TimeLeft}}\t{{.Size}}";
const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("ID", "ID"),
    ("Kind", "KIND"),
    ("Removed", "REMOVED"),
    ("TimeLeft", "TIME LEFT"),
    ("Size", "SIZE"),
];

fn list(app: &App, all: &[Removed], format: Option<&str>) -> Result<Exit> {
    let style = Style::parse(format, TABLE)?;
    let rows = all.iter().map(|removed| {
        let kind = match removed.kind {
            RemovedKind::Container => "container",
            RemovedKind::Volume => "volume",
            RemovedKind::Image => "image",
        };
        let left = removed.until.as_second() - app.now().as_second();
        Value::row([
            ("Name", removed.name.clone().into()),
            ("ID", removed.id.clone().into()),
            ("Kind", kind.into()),
            ("Removed", human::ago(removed.removed, app.now()).into()),
            ("TimeLeft", robot_env_wire::human_duration(left).into()),
            ("Size", size_and_places(removed.bytes, &removed.places).into()),
        ])
    });
    app.print(&List { columns: COLUMNS, rows: rows.collect() }.print(&style)?)?;
    Ok(Exit::SUCCESS)
}
