//! What the process finds around itself, read once at the start.

use std::ffi::OsString;
use std::path::PathBuf;

use robot_env_sys::terminal;

/// Environment, directories and terminals: everything that a command may depend on beside its
/// arguments. Tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Ambient {
    /// The name under which the program was called, without directories.
    pub program: String,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory.
    pub directory: PathBuf,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
}

impl Ambient {
    /// Reads them from the process.
    pub fn of_process(program: &str) -> Self {
        Ambient {
            program: program.rsplit('/').next().unwrap_or(program).to_owned(),
            environment: std::env::vars_os().collect(),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            stdin_is_terminal: terminal::is_terminal(std::io::stdin()),
            stdout_is_terminal: terminal::is_terminal(std::io::stdout()),
            stderr_is_terminal: terminal::is_terminal(std::io::stderr()),
        }
    }

    /// An environment variable, where it is set and valid UTF-8.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.to_str())
    }

    /// The user's home directory.
    pub fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
    }
}
