use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use robot_env_diag::{Error, IoContext, Result};
use robot_env_store::Store;
use robot_env_transfer::SaveOptions;

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
                let output = Output::new(&app.ambient().directory.join(path))?;
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

/// A file that appears when it is whole. What is there and is no regular file (a FIFO, a device) is
/// written into as it is.
pub(super) struct Output {
    path: PathBuf,
    /// What is written and then renamed; `None`: the path itself.
    temporary: Option<PathBuf>,
    opened: File,
}

impl Output {
    pub(super) fn new(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write to `{}`", path.display());
        let found = fs::metadata(path);
        if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err(Error::invalid(failed()).because("it is a directory"));
        }
        if found.is_ok_and(|found| !found.is_file()) {
            let opened = OpenOptions::new().write(true).open(path).io_context(failed)?;
            return Ok(Output { path: path.to_owned(), temporary: None, opened });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let opened = options.open(&temporary).io_context(failed)?;
        Ok(Output { path: path.to_owned(), temporary: Some(temporary), opened })
    }

    pub(super) fn file(&self) -> Result<File> {
        self.opened.try_clone().io_context(|| format!("cannot write to `{}`", self.path.display()))
    }

    /// Puts it in its place.
    pub(super) fn finish(mut self, mut file: File) -> Result<()> {
        let failed = || format!("cannot write to `{}`", self.path.display());
        file.flush().io_context(failed)?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path).io_context(failed)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let directory = std::env::temp_dir().join(format!("re-save-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("out.tar");
        let output = Output::new(&path).unwrap();
        output.file().unwrap().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        let output = Output::new(&path).unwrap();
        let mut file = output.file().unwrap();
        file.write_all(b"whole").unwrap();
        assert!(!path.exists());
        output.finish(file).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(Output::new(&directory).is_err() && Output::new(&directory.join("no/such")).is_err());
        let null = Output::new(Path::new("/dev/null")).unwrap();
        let file = null.file().unwrap();
        null.finish(file).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
