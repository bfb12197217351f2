use std::fs::File;
use std::os::fd::AsFd;

use clap::Args;
use robot_env_diag::{Error, IoContext, Result};
use robot_env_transfer::{ArchiveSource, LoadOptions, Unpacker, ownership};

use super::pull::platform;
use crate::app::App;
use crate::verb::{Exit, Verb};

/// Load images from an archive that save wrote, or another tool
#[derive(Args)]
pub(crate) struct Load {
    /// Read from a file and not from standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<String>,
    /// The platform, if the archive has images for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for Load {
    const SPELLINGS: &'static [&'static str] = &["load", "image load"];

    fn run(self, app: &App) -> Result<Exit> {
        let options = LoadOptions { platform: platform(app, self.platform)? };
        if self.input.is_none() && app.ambient().stdin_is_terminal {
            return Err(Error::invalid("requested load from stdin, but stdin is empty")
                .with_hint("name the archive with -i FILE"));
        }
        // Opened before an ordinary user becomes root of a namespace of its own.
        let file = match &self.input {
            Some(path) => File::open(app.ambient().directory.join(path))
                .io_context(|| format!("cannot open archive `{path}`"))?,
            None => standard_input()?,
        };
        let engine = app.engine()?;
        let store = engine.store();
        // Without a terminal only the outcome is told, as Docker does.
        let observer = app.observer(self.quiet || !app.ambient().stdout_is_terminal);
        let unpacker = Unpacker::new(store, ownership());
        let loaded =
            robot_env_transfer::load(&unpacker, ArchiveSource::File(&file), &options, observer.as_ref())?;
        drop(observer);
        for image in loaded {
            for (name, before) in &image.renamed {
                app.print_line(&format!(
                    "The image {} already exists, renaming the old one with ID {before} to empty string",
                    name.familiar()
                ))?;
            }
            for name in &image.references {
                app.print_line(&format!("Loaded image: {}", name.familiar()))?;
            }
            let id = image.image.id.to_string();
            if image.references.is_empty() {
                app.print_line(&format!("Loaded image ID: {id}"))?;
            }
            engine.tell_of("image", "load", &id, [("name".to_owned(), id.clone())].into());
        }
        Ok(Exit::SUCCESS)
    }
}

/// Standard input as a file: a regular one can then be read in any order.
pub(super) fn standard_input() -> Result<File> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned();
    fd.map(File::from).io_context(|| "cannot read standard input".into())
}
