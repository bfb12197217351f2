use clap::Args;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::Engine;
use robot_env_wire::{ContainerFacts, ContainerInspect as Shape};

use super::{image_inspect, network};
use crate::app::App;
use crate::format::{Template, Value, indented};
use crate::verb::{Exit, Verb};

/// Show everything about containers, images, volumes and networks, as JSON
#[derive(Args)]
pub(crate) struct Inspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show sizes of containers
    #[arg(short, long)]
    size: bool,
    /// Look only among these: container, image, volume or network
    #[arg(long, value_name = "TYPE")]
    r#type: Option<String>,
    /// Their names or ids
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Show everything about containers, as JSON
#[derive(Args)]
pub(crate) struct ContainerInspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
}

impl Verb for Inspect {
    const SPELLINGS: &'static [&'static str] = &["inspect"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let kind = self.r#type.as_deref().filter(|kind| !kind.is_empty());
        if let Some(other) =
            kind.filter(|kind| !matches!(*kind, "container" | "image" | "volume" | "network"))
        {
            return Err(Error::invalid(format!(
                "unknown type: \"{other}\": must be container, image, volume or network"
            )));
        }
        let wants = |this: &str| kind.is_none_or(|kind| kind == this);
        print(app, self.format.as_deref(), &self.names, |text| {
            let mut missing = None;
            let attempts: [(&str, &dyn Fn() -> Result<Value>); 4] = [
                ("container", &|| container(&engine, text, self.size)),
                ("image", &|| image_inspect::shape(app, text).map(|shape| Value::of(&shape))),
                ("network", &|| network::shape(&engine, text)),
                ("volume", &|| volume(&engine, text)),
            ];
            for (this, find) in attempts.into_iter().filter(|(this, _)| wants(this)) {
                match find() {
                    Err(error)
                        if matches!(error.kind(), Kind::NotFound | Kind::InvalidInput) && kind.is_none() =>
                    {
                        if error.kind() == Kind::InvalidInput && this == "container" {
                            return Err(error);
                        }
                        missing = Some(Error::not_found(format!("No such object: {text}")));
                    }
                    found => return found,
                }
            }
            Err(missing.unwrap_or_else(|| Error::not_found(format!("No such object: {text}"))))
        })
    }
}

impl Verb for ContainerInspect {
    const SPELLINGS: &'static [&'static str] = &["container inspect"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        print(app, self.format.as_deref(), &self.names, |text| container(&engine, text, self.size))
    }
}

fn container(engine: &Engine, text: &str, size: bool) -> Result<Value> {
    let container = engine.container(text)?;
    let host = engine.host_facts();
    let sizes = if size { Some(engine.sizes(&container)?) } else { None };
    let places = engine.places(&container)?;
    let apparmor = engine.apparmor_profile(&container.record.spec);
    let facts =
        ContainerFacts { paths: engine.paths(), host_name: &host.hostname, sizes, places: &places, apparmor };
    Ok(Value::of(&Shape::new(&container, facts)))
}

fn volume(engine: &Engine, text: &str) -> Result<Value> {
    Ok(Value::of(&robot_env_wire::Volume::new(&engine.volume(text)?)))
}

/// Prints one JSON list, or a line a name.
pub(super) fn print(
    app: &App,
    format: Option<&str>,
    names: &[String],
    find: impl Fn(&str) -> Result<Value>,
) -> Result<Exit> {
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let mut found: Vec<Value> = Vec::new();
    let exit = app.each(names, |text| {
        let value = find(text)?;
        match &template {
            Some(template) => app.print_line(&template.print(&value)?),
            None => {
                found.push(value);
                Ok(())
            }
        }
    })?;
    if template.is_none() {
        let list = Value::List(found);
        app.print_line(&if format == Some("json") { list.to_json() } else { indented(&list) })?;
    }
    Ok(exit)
}
