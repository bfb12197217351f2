//! What every command can reach: the ambient facts, the global flags, the two outputs.

use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;
use robot_env_diag::{Error, Escaped, IoContext, Kind, Result};

use crate::ambient::Ambient;

/// How much is said beside a command's own output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loudness {
    /// Errors only.
    Error,
    /// Warnings too.
    #[default]
    Warn,
    /// The kind of each error too.
    Debug,
}

/// The flags that stand before the command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Globals {
    /// `--root`: where data is kept; absent: the default.
    pub root: Option<PathBuf>,
    /// `--run-root`: where run state is kept; absent: the default.
    pub run_root: Option<PathBuf>,
    /// `--config`: the directory of `config.json`.
    pub config: Option<PathBuf>,
    /// `--debug`, `--log-level`.
    pub loudness: Loudness,
}

/// A run of the program.
pub struct App {
    ambient: Ambient,
    globals: Globals,
}

impl App {
    /// The app of one run.
    pub fn new(ambient: Ambient, globals: Globals) -> App {
        App { ambient, globals }
    }

    /// What is around the process.
    pub fn ambient(&self) -> &Ambient {
        &self.ambient
    }

    /// The global flags.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// The name under which the program was called.
    pub fn program(&self) -> &str {
        &self.ambient.program
    }

    /// The directory of Docker's `config.json`: `--config`, `DOCKER_CONFIG`, `~/.docker`.
    pub fn config_directory(&self) -> Option<PathBuf> {
        let variable =
            || self.ambient.variable("DOCKER_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from);
        self.globals.config.clone().or_else(variable).or_else(|| Some(self.ambient.home()?.join(".docker")))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Prints to standard output. A reader that has gone is no error.
    pub fn print(&self, text: &str) -> Result<()> {
        self.write(text.as_bytes())
    }

    /// Prints a line to standard output.
    pub fn print_line(&self, text: &str) -> Result<()> {
        self.write(format!("{text}\n").as_bytes())
    }

    /// Writes bytes to standard output at once.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Error::new(Kind::Interrupted, "the reader of the output is gone"))
            }
            done => done.io_context(|| "cannot write to standard output".into()),
        }
    }

    /// Says a line on standard error. That it cannot be said is no failure of the command.
    pub fn say(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{}", Escaped(text));
    }

    /// Warns on standard error, as Docker does.
    pub fn warn(&self, text: &str) {
        if self.globals.loudness >= Loudness::Warn {
            self.say(&format!("WARNING: {text}"));
        }
    }

    /// Shows an error on standard error.
    pub fn show(&self, error: &Error) {
        let mut text = error.to_report().to_string();
        if self.globals.loudness >= Loudness::Debug {
            text.push_str(&format!("\nkind: {:?}", error.kind()));
        }
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// Does something for each of `names`; what fails is shown and does not stop the others.
    pub(crate) fn each(
        &self,
        names: &[String],
        mut act: impl FnMut(&str) -> Result<()>,
    ) -> Result<crate::verb::Exit> {
        let mut exit = crate::verb::Exit::SUCCESS;
        for name in names {
            match act(name) {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => {
                    self.show(&error);
                    exit = crate::verb::Exit::FAILURE;
                }
            }
        }
        Ok(exit)
    }

    /// Asks a yes-or-no question on the terminal, as `prune` does.
    pub(crate) fn confirm(&self, question: &str) -> Result<bool> {
        self.print(&format!("{question} [y/N] "))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).io_context(|| "cannot read the answer".into())?;
        if !self.ambient.stdin_is_terminal {
            self.print("\n")?;
        }
        Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "YES"))
    }
}
