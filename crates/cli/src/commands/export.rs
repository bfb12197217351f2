use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use clap::Args;
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_transfer::WholeFile;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Write a container's file system as a tar, without its volumes
#[derive(Args)]
pub(crate) struct Export {
    /// Write to a file and not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for Export {
    const SPELLINGS: &'static [&'static str] = &["export", "container export"];

    fn run(self, app: &App) -> Result<Exit> {
        if self.output.is_none() && app.ambient().stdout_is_terminal {
            return Err(Error::invalid("cowardly refusing to save to a terminal")
                .with_hint("name a file with -o FILE, or redirect the output"));
        }
        let engine = app.engine()?;
        // Before a file is made for it.
        let container = engine.container(&self.container)?;
        let id = container.record.id.as_str();
        match &self.output {
            None => {
                let mut out = StandardOutput::new()?;
                let done = engine.export(id, &mut out);
                out.finish(done)?;
            }
            Some(path) => {
                let output = WholeFile::new(&app.ambient().directory.join(path))?;
                let mut file = output.file()?;
                engine.export(id, &mut file)?;
                output.finish(file)?;
            }
        }
        Ok(Exit::SUCCESS)
    }
}

/// Standard output for a tar, without the buffer that looks for lines.
pub(super) struct StandardOutput {
    file: File,
    gone: bool,
}

impl StandardOutput {
    pub(super) fn new() -> Result<Self> {
        let file = std::io::stdout().as_fd().try_clone_to_owned();
        let file = file.map(File::from).io_context(|| "cannot write to standard output".into())?;
        Ok(StandardOutput { file, gone: false })
    }

    /// What came of it; a reader that has gone is no mistake.
    pub(super) fn finish<T>(self, done: Result<T>) -> Result<T> {
        match done {
            Err(_) if self.gone => Err(Error::new(Kind::Interrupted, "the reader of the output is gone")),
            done => done,
        }
    }
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let done = self.file.write(bytes);
        self.gone |= done.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
        done
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
