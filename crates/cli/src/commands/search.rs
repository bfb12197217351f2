use clap::Args;
use robot_env_diag::{Escaped, Result};
use robot_env_wire::{SEARCH_FILTERS, SearchFilter, SearchResult, search_limit};

use crate::app::App;
use crate::filter;
use crate::format::{Column, List, Style, Value};
use crate::interrupt::interruptible;
use crate::rows::ellipsis;
use crate::verb::{Exit, Verb};

/// Look for images on Docker Hub, or on a registry that offers it
///
/// A term like `registry.example.com:5000/ros` asks that registry, any other Docker Hub.
#[derive(Args)]
pub(crate) struct Search {
    /// Only what has it: stars=N, is-official=BOOL, is-automated=BOOL
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// At most so many, up to 100; 0: 25
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    limit: i64,
    /// Do not cut long texts
    #[arg(long)]
    no_trunc: bool,
    /// What to look for
    #[arg(value_name = "TERM")]
    term: String,
}

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
const TABLE: &str = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
/// How much of a description is shown.
const WIDTH: usize = 45;

impl Verb for Search {
    const SPELLINGS: &'static [&'static str] = &["search"];

    fn run(self, app: &App) -> Result<Exit> {
        let style = Style::parse(self.format.as_deref(), TABLE)?;
        let filter = SearchFilter::new(&filter::parse(&self.filter, SEARCH_FILTERS)?)?;
        let limit = search_limit(self.limit)?;
        let client = app.registry();
        let found = interruptible(&client, || client.search(&self.term, limit))?;
        let found = found.into_iter().map(SearchResult::from).filter(|image| filter.takes(image));
        let rows = found.map(|image| row(&image, !self.no_trunc)).collect();
        app.print(&List { columns: COLUMNS, rows }.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}

fn row(image: &SearchResult, truncate: bool) -> Value {
    let words: Vec<&str> = image.description.split_whitespace().collect();
    let description = Escaped(&words.join(" ")).to_string();
    let mark = |is: bool| Value::from(if is { "[OK]" } else { "" });
    Value::row([
        ("Name", Escaped(&image.name).to_string().into()),
        ("Description", if truncate { ellipsis(&description, WIDTH).into() } else { description.into() }),
        ("StarCount", image.star_count.to_string().into()),
        ("IsOfficial", mark(image.is_official)),
        ("IsAutomated", mark(image.is_automated)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_as_docker_prints_them() {
        let image = |name: &str, description: &str, official| SearchResult {
            name: name.into(),
            description: description.into(),
            star_count: 12,
            is_official: official,
            is_automated: false,
        };
        let long = "The Robot Operating System (ROS) is\nan open source\x1b project";
        let rows = vec![row(&image("ros", long, true), true), row(&image("lab/ros", "", false), true)];
        let text = List { columns: COLUMNS, rows }.print(&Style::parse(None, TABLE).unwrap()).unwrap();
        assert_eq!(
            text,
            "NAME      DESCRIPTION                                     STARS     OFFICIAL\n\
             ros       The Robot Operating System (ROS) is an open …   12        [OK]\n\
             lab/ros                                                   12        \n"
        );
        let rows = vec![row(&image("ros", long, true), false)];
        let style = Style::parse(Some("{{.Description}}"), TABLE).unwrap();
        let text = List { columns: COLUMNS, rows }.print(&style).unwrap();
        assert_eq!(text, "The Robot Operating System (ROS) is an open source\\u{1b} project\n");
    }
}
