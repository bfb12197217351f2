use clap::Args;
use robot_env_diag::Result;
use robot_env_layer::ChangeKind;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Show which files of a container differ from its image's
///
/// A for a file that was added, C for one that was changed, D for one that was deleted.
#[derive(Args)]
pub(crate) struct Diff {
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for Diff {
    const SPELLINGS: &'static [&'static str] = &["diff", "container diff"];

    fn run(self, app: &App) -> Result<Exit> {
        let mut text = String::new();
        for change in app.engine()?.changes(&self.container)? {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            let path = String::from_utf8_lossy(&change.path);
            text.push_str(&format!("{letter} {}\n", robot_env_diag::Escaped(&path)));
        }
        app.print(&text)?;
        Ok(Exit::SUCCESS)
    }
}
