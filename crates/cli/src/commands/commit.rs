use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::CommitRequest;
use robot_env_oci::Reference;
use robot_env_transfer::Change;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Make an image of a container and what it has written
///
/// Volumes are no part of it. A running container is frozen meanwhile.
#[derive(Args)]
pub(crate) struct Commit {
    /// Who made it, e.g. `Ada <ada@example.org>`
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    author: String,
    /// A Dockerfile instruction that changes the image, e.g. `CMD ["bash"]`; several are allowed
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A comment for the image's history
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Freeze a running container meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set)]
    pause: bool,
    /// Let a running container go on meanwhile
    #[arg(long)]
    no_pause: bool,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Verb for Commit {
    const SPELLINGS: &'static [&'static str] = &["commit", "container commit"];

    fn run(self, app: &App) -> Result<Exit> {
        let reference = self.name.as_deref().filter(|name| !name.is_empty()).map(str::parse::<Reference>);
        let request = CommitRequest {
            reference: reference.transpose()?.map(Reference::or_latest),
            author: self.author,
            message: self.message,
            changes: Change::parse_all(self.change.iter().map(String::as_str))?,
            pause: self.pause && !self.no_pause,
        };
        let image = app.engine()?.commit(&self.container, &request)?;
        app.print_line(&image.id.to_string())?;
        Ok(Exit::SUCCESS)
    }
}
