use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::Container;
use robot_env_wire::{CONTAINER_FILTERS, ContainerFilter};

use crate::app::App;
use crate::filter;
use crate::format::{List, Style};
use crate::rows::container::{self, Options};
use crate::verb::{Exit, Verb};

/// List containers
#[derive(Args)]
pub(crate) struct Ps {
    /// Show those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Show only what matches, e.g. `status=exited`, `name=x`, `label=a=b`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the N containers created last; -1: all
    #[arg(short = 'n', long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    last: i64,
    /// Show the container created last
    #[arg(short, long)]
    latest: bool,
    /// Do not cut ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
}

impl Verb for Ps {
    const SPELLINGS: &'static [&'static str] = &["ps", "container ls", "container list", "container ps"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, CONTAINER_FILTERS)?;
        let table = format!("{}{}", container::TABLE, if self.size { "\t{{.Size}}" } else { "" });
        let ids_only = self.quiet && self.format.is_none();
        let style = Style::parse(if ids_only { Some("{{.ID}}") } else { self.format.as_deref() }, &table)?;
        let engine = app.engine()?;
        let filter = ContainerFilter::new(&engine, filters)?;
        let last = if self.latest { 1 } else { self.last };
        let all = self.all || last > 0 || filter.wants_all();
        let (mut found, damage): (Vec<Container>, _) = engine.containers_and_damage()?;
        for error in &damage {
            app.show(error);
        }
        let ports = engine.published_ports()?;
        found.retain(|c| {
            let ports = ports.get(c.record.id.as_str()).map_or(&[][..], Vec::as_slice);
            (all || c.state.state.is_active()) && filter.takes(c, ports)
        });
        if last > 0 {
            found.truncate(last as usize);
        }
        let options = Options { truncate: !self.no_trunc, now: app.now() };
        let sizes =
            self.size || (self.format.is_some() && style.mentions("Size") && !matches!(style, Style::Json));
        let rows = found
            .iter()
            .map(|c| {
                let size = if sizes { Some(engine.sizes(c)?) } else { None };
                let ports = ports.get(c.record.id.as_str()).map_or(&[][..], Vec::as_slice);
                Ok(container::row(c, size, ports, options))
            })
            .collect::<Result<_>>()?;
        app.print(&List { columns: container::COLUMNS, rows }.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}
