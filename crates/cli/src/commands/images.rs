use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_store::Store;

use crate::app::App;
use crate::filter;
use crate::format::{List, Style};
use crate::rows::image::{self, FilterFacts, Named, Options};
use crate::verb::{Exit, Verb};

/// List images
#[derive(Args)]
pub(crate) struct Images {
    /// Show all images (no intermediate ones are kept, so this changes nothing)
    #[arg(short, long, hide = true)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show only what matches: before, dangling, label, reference, since, until
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only this repository or name; patterns are allowed
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Verb for Images {
    const SPELLINGS: &'static [&'static str] = &["images", "image ls", "image list"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, image::FILTERS)?;
        filters.truth("dangling")?;
        let table = if self.digests { image::TABLE_WITH_DIGESTS } else { image::TABLE };
        let style = Style::parse(self.format.as_deref(), table)?;
        let mut images = Vec::new();
        if let Some(store) = app.existing_store()? {
            let created = |key: &str| -> Result<_> {
                let Some(text) = filters.values(key).last() else { return Ok(None) };
                let record = App::find_image(&store, text)?;
                Ok(Some(Named { record, names: Vec::new(), config: None }.created()))
            };
            let facts = FilterFacts {
                before: created("before")?,
                since: created("since")?,
                until: filter::until(&filters, app.now())?,
            };
            let labelled = filters.has("label") || filters.has("label!");
            images = named(&store, labelled)?
                .into_iter()
                .filter_map(|named| image::matching(named, &filters, &facts, self.name.as_deref()))
                .collect();
        }
        images.sort_by_key(|named| std::cmp::Reverse(named.created()));
        let options = Options { truncate: !self.no_trunc, digests: self.digests, now: app.now() };
        let rows = images.iter().flat_map(|named| image::rows(named, options)).collect();
        let list = List { columns: image::COLUMNS, rows };
        let ids_only = self.quiet && self.format.is_none();
        let style = if ids_only { Style::parse(Some("{{.ID}}"), table)? } else { style };
        app.print(&list.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}

/// All images with their names, and with their configs where `configs` says so.
fn named(store: &Store, configs: bool) -> Result<Vec<Named>> {
    let names = store.names()?;
    store
        .images()?
        .into_iter()
        .map(|record| {
            let own = names.iter().filter(|name| name.image == record.id);
            let config = if configs { Some(store.config(&record.id)?.into_value().config) } else { None };
            Ok::<_, Error>(Named { names: own.map(|name| name.reference.clone()).collect(), config, record })
        })
        .collect()
}
