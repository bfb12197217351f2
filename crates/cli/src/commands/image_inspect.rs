use clap::Args;
use robot_env_diag::Result;
use robot_env_wire::{ImageFacts, ImageInspect as Shape};

use super::inspect;
use crate::app::App;
use crate::format::Value;
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
        inspect::print(app, self.format.as_deref(), &self.images, |text| Ok(Value::of(&shape(app, text)?)))
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
