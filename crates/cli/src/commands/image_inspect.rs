use clap::Args;
use robot_env_diag::Result;
use robot_env_wire::{ImageFacts, ImageInspect as Shape};

use crate::app::App;
use crate::format::{Template, Value, indented};
use crate::verb::{Exit, Verb};

/// Show everything about images, as JSON
#[derive(Args)]
pub(crate) struct ImageInspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Verb for ImageInspect {
    const SPELLINGS: &'static [&'static str] = &["image inspect"];

    fn run(self, app: &App) -> Result<Exit> {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(text) => Some(Template::parse(text)?),
        };
        let mut found: Vec<Value> = Vec::new();
        let exit = app.each(&self.images, |text| {
            let value = Value::of(&shape(app, text)?);
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
            let json = self.format.as_deref() == Some("json");
            app.print_line(&if json { list.to_json() } else { indented(&list) })?;
        }
        Ok(exit)
    }
}

pub(super) fn shape(app: &App, text: &str) -> Result<Shape> {
    let store = app.store_with(text)?;
    let record = App::find_image(&store, text)?;
    let config = store.config(&record.id)?;
    let names: Vec<_> = store.names()?.into_iter().filter(|name| name.image == record.id).collect();
    let tagged = names.iter().map(|name| name.updated).max().unwrap_or(0);
    let facts = ImageFacts { names: names.into_iter().map(|name| name.reference).collect(), tagged };
    Ok(Shape::new(&record, config.value(), &facts))
}
