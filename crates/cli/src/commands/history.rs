use clap::{ArgAction, Args};
use robot_env_diag::Result;

use crate::app::App;
use crate::format::{List, Style};
use crate::rows::image;
use crate::verb::{Exit, Verb};

/// Show the steps that made an image
#[derive(Args)]
pub(crate) struct History {
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print sizes and times for people to read
    #[arg(short = 'H', long, default_value_t = true, action = ArgAction::Set)]
    human: bool,
    /// Do not cut long texts
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
}

impl Verb for History {
    const SPELLINGS: &'static [&'static str] = &["history", "image history"];

    fn run(self, app: &App) -> Result<Exit> {
        let table = if self.human { image::HISTORY_TABLE } else { image::HISTORY_TABLE_EXACT };
        let ids_only = self.quiet && self.format.is_none();
        let style = Style::parse(if ids_only { Some("{{.ID}}") } else { self.format.as_deref() }, table)?;
        let store = app.store_with(&self.image)?;
        let record = App::find_image(&store, &self.image)?;
        let config = store.config(&record.id)?;
        let names: Vec<_> = store.names()?.into_iter().filter(|n| n.image == record.id).collect();
        let names: Vec<_> = names.into_iter().map(|name| name.reference).collect();
        let mut sizes = Vec::with_capacity(record.layers.len());
        for chain in &record.layers {
            sizes.push((chain.clone(), store.layer(chain)?.map_or(0, |layer| layer.content_size)));
        }
        let size = |chain: &_| sizes.iter().find(|(known, _)| known == chain).map_or(0, |(_, size)| *size);
        let items = robot_env_wire::history(&record, config.value(), &names, size);
        let now = app.now();
        let rows =
            items.iter().map(|item| image::history_row(item, !self.no_trunc, self.human, now)).collect();
        app.print(&List { columns: image::HISTORY_COLUMNS, rows }.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}
