use clap::Args;
use robot_env_diag::{Kind, Result};
use robot_env_engine::{ImageGone, ImageRemoval};

use super::prune;
use crate::app::App;
use crate::verb::{Exit, Verb};

/// Remove images
///
/// `undo` brings them back for some time: `undo-time` of the configuration (24h), or until the disk gets full.
#[derive(Args)]
pub(crate) struct Rmi {
    /// Remove it although it has several names, or a stopped container uses it
    #[arg(short, long)]
    force: bool,
    /// Keep parents that have no name
    #[arg(long)]
    no_prune: bool,
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Verb for Rmi {
    const SPELLINGS: &'static [&'static str] = &["rmi", "image rm", "image remove"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let mut removal = ImageRemoval::new(&engine);
        let exit = app.each(&self.images, |text| {
            let removed = App::find_image(engine.store(), text)
                .and_then(|image| removal.remove(&image, text, self.force, !self.no_prune));
            for line in lines(&removal.finish()?, "Untagged", "Deleted") {
                app.print_line(&line)?;
            }
            match removed {
                // With --force, what is not there need not be removed.
                Err(error) if self.force && error.kind() == Kind::NotFound => {
                    app.show(&error);
                    Ok(())
                }
                removed => removed,
            }
        });
        prune::say_kept(app, &engine, "");
        // The command has said all that it has to say; the space comes back behind its back.
        engine.empty_trash_later();
        exit
    }
}

/// What went, a line each.
pub(super) fn lines(gone: &[ImageGone], untagged: &str, deleted: &str) -> Vec<String> {
    let line = |gone: &ImageGone| match gone {
        ImageGone::Untagged(name) => format!("{untagged}: {name}"),
        ImageGone::Deleted(id) => format!("{deleted}: {id}"),
    };
    gone.iter().map(line).collect()
}
