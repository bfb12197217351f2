use clap::Args;
use jiff::Timestamp;
use robot_env_build::{Kept, PruneKept};
use robot_env_diag::{Error, Result, Within};

use super::prune;
use crate::app::App;
use crate::filter;
use crate::quantity;
use crate::verb::{Exit, Verb};

/// Remove what builds keep to be faster the next time: results of steps, caches of RUN --mount
#[derive(Args)]
pub(crate) struct BuilderPrune {
    /// Remove steps whose files an image has, too
    #[arg(short, long)]
    all: bool,
    /// Only what matches: until, unused-for, id, type, description, shared
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Keep so many bytes of what was used last
    #[arg(long, value_name = "BYTES", alias = "keep-storage", alias = "reserved-space")]
    max_used_space: Option<String>,
}

/// The keys of its filters.
const KEYS: &[&str] = &["until", "unused-for", "id", "type", "description", "shared"];

/// The moment so long ago.
fn unused_since(text: &str, app: &App) -> Result<Timestamp> {
    quantity::duration(text)
        .and_then(|_| quantity::moment(text, app.now()))
        .within(|| "invalid argument for the filter unused-for".into())
}

impl Verb for BuilderPrune {
    const SPELLINGS: &'static [&'static str] = &["builder prune", "buildx prune"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, KEYS)?;
        // An empty variable of a script must not remove everything.
        if let Some(key) =
            ["id", "type", "description"].iter().find(|key| filters.values(key).any(str::is_empty))
        {
            return Err(Error::invalid(format!("invalid filter '{key}=': it has no value")));
        }
        let unused = filters.values("unused-for").last();
        let until = match (filter::until(&filters, app.now())?, unused) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("the filters until and unused-for are the same: give one"));
            }
            (Some(until), None) => Some(until),
            (None, Some(text)) => Some(unused_since(text, app)?),
            (None, None) => None,
        };
        let shared = filters.truth("shared")?;
        let keep = self.max_used_space.as_deref().map(quantity::bytes).transpose()?;
        let keep = keep.map(i64::unsigned_abs);
        let question = if self.all {
            "WARNING! This will remove all build cache.\nAre you sure you want to continue?"
        } else {
            "WARNING! This will remove all dangling build cache.\nAre you sure you want to continue?"
        };
        if !self.force && !app.confirm(question)? {
            return Ok(Exit::SUCCESS);
        }
        let engine = app.engine()?;
        let filter = |kept: &Kept| {
            until.is_none_or(|until| i64::try_from(kept.used).is_ok_and(|used| used <= until.as_second()))
                && filters.any("id", |id| kept.id.starts_with(id))
                && filters.any("type", |kind| kept.kind == kind)
                && filters.any("description", |text| kept.description.contains(text))
                && shared.is_none_or(|shared| kept.shared == shared)
        };
        // Who asks for shared ones means them.
        let all = self.all || shared == Some(true);
        let pruned = robot_env_build::prune(&engine, &PruneKept { all, keep, filter: &filter })?;
        prune::tell(app, "build cache objects", &pruned.ids())?;
        prune::finish(app, &engine, pruned.bytes)?;
        Ok(Exit::SUCCESS)
    }
}
