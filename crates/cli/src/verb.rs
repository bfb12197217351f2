//! What a command is.

use clap::{ArgMatches, Args, Command};
use robot_env_diag::Result;

use crate::app::App;
use crate::command_line::Flags;
use crate::failure::Class;

/// How a command ended, for the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// All went well.
    pub const SUCCESS: Exit = Exit(0);
    /// Something went wrong and was said.
    pub const FAILURE: Exit = Exit(1);
}

/// A command: its flags are the type's fields, its doc comment is its help.
pub(crate) trait Verb: Args {
    /// Its spellings, the plainest first: `ps`, `container ls`.
    const SPELLINGS: &'static [&'static str];
    /// Where its flags may stand.
    const FLAGS: Flags = Flags::Anywhere;
    /// What its exit codes mean.
    const CLASS: Class = Class::Ordinary;

    /// Does it.
    fn run(self, app: &App) -> Result<Exit>;
}

/// A command in the list of all commands.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// See [`Verb::SPELLINGS`].
    pub(crate) spellings: &'static [&'static str],
    /// See [`Verb::FLAGS`].
    pub(crate) flags: Flags,
    /// See [`Verb::CLASS`].
    pub(crate) class: Class,
    /// Its clap command, named by the last word of the spelling.
    pub(crate) command: fn(&'static str) -> Command,
    /// Does it.
    pub(crate) run: fn(&ArgMatches, &App) -> Result<Exit>,
}

/// The entry for a command.
pub(crate) const fn entry<V: Verb>() -> Entry {
    Entry { spellings: V::SPELLINGS, flags: V::FLAGS, class: V::CLASS, command: command::<V>, run: run::<V> }
}

fn command<V: Verb>(spelling: &'static str) -> Command {
    let name = spelling.rsplit(' ').next().unwrap_or(spelling);
    let command = V::augment_args(Command::new(name)).args_override_self(true).disable_version_flag(true);
    // `-h` is `--hostname` where there is one, and a short `--help` elsewhere.
    if command.get_arguments().any(|arg| arg.get_short() == Some('h')) {
        let help = clap::Arg::new("help").long("help").action(clap::ArgAction::Help).help("Show this help");
        return command.disable_help_flag(true).arg(help);
    }
    let help =
        clap::Arg::new("help").short('h').long("help").action(clap::ArgAction::Help).help("Show this help");
    command.disable_help_flag(true).arg(help)
}

fn run<V: Verb>(matches: &ArgMatches, app: &App) -> Result<Exit> {
    let verb =
        V::from_arg_matches(matches).map_err(|error| crate::failure::of_clap(&error, app.program()))?;
    verb.run(app)
}
