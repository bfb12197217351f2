use std::fs::File;
use std::os::fd::AsFd;

use clap::Args;
use robot_env_diag::{Error, IoContext, Result};
use robot_env_store::Store;
use robot_env_transfer::{SaveOptions, WholeFile};

use super::pull::platform;
use crate::app::App;
use crate::verb::{Exit, Verb};

/// Write images to an archive that load reads, and other tools
#[derive(Args)]
pub(crate) struct Save {
    /// Write to a file and not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// The platform that the images must have
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Verb for Save {
    const SPELLINGS: &'static [&'static str] = &["save", "image save"];

    fn run(self, app: &App) -> Result<Exit> {
        let options = SaveOptions { platform: platform(app, self.platform)?, ..SaveOptions::default() };
        if self.output.is_none() && app.ambient().stdout_is_terminal {
            return Err(Error::invalid("cowardly refusing to save to a terminal")
                .with_hint("name a file with -o FILE, or redirect the output"));
        }
        let store = app.store_with(&self.images[0])?;
        for text in &self.images {
            // A name without a tag stands for all tags: see `robot_env_transfer::save`.
            if let Err(error) = App::find_image(&store, text)
                && !names_a_repository(&store, text)?
            {
                return Err(error);
            }
        }
        match &self.output {
            None => {
                let out = std::io::stdout().as_fd().try_clone_to_owned();
                let out = out.map(File::from).io_context(|| "cannot write to standard output".into())?;
                robot_env_transfer::save(&store, &self.images, out, &options, &())?;
            }
            Some(path) => {
                let observer = app.observer(!app.ambient().stdout_is_terminal);
                let output = WholeFile::new(&app.ambient().directory.join(path))?;
                let file = robot_env_transfer::save(
                    &store,
                    &self.images,
                    output.file()?,
                    &options,
                    observer.as_ref(),
                )?;
                output.finish(file)?;
            }
        }
        Ok(Exit::SUCCESS)
    }
}

fn names_a_repository(store: &Store, text: &str) -> Result<bool> {
    let Ok(reference) = text.parse::<robot_env_oci::Reference>() else { return Ok(false) };
    if reference.tag().is_some() || reference.digest().is_some() {
        return Ok(false);
    }
    let same = |name: &robot_env_store::NameRecord| {
        name.reference.repository() == reference.repository() && name.reference.tag().is_some()
    };
    Ok(store.names()?.iter().any(same))
}
