//! What the instructions of a Dockerfile say.
//!
//! Texts in here are as they are written: [`Instruction::expand`] takes quotes away and puts
//! variables in where the instruction allows it.

mod expand;
mod flags;
mod mount;
mod parse;
mod port;

use robot_env_oci::Healthcheck;

use crate::span::{Span, Word};
use crate::syntax::{Heredoc, Pair};

pub use expand::Expansion;
pub use mount::{Device, Mount, MountKind, Sharing};
pub(crate) use parse::{description, from};
pub use port::Port;

/// An instruction with what is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// From its first to its last character, heredocs included.
    pub span: Span,
    /// Its name as it is written.
    pub name: Word,
    /// The whole of it, continued lines joined, without heredocs.
    pub source: String,
    /// The comments above it.
    pub comments: Vec<String>,
    /// What it says.
    pub instruction: Instruction,
}

/// What an instruction says. `FROM` opens a [`crate::Stage`] instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Vec<Argument>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<Pair>),
    /// `EXPOSE`; see [`Port::parse`].
    Expose(Vec<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<Pair>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`
    Onbuild(Trigger),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

/// A name that `ARG` declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The value that it has if no other is given.
    pub default: Option<String>,
    /// What a comment `# NAME text` above says of it.
    pub description: String,
    /// Where it stands.
    pub span: Span,
}

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A text for the shell (see `SHELL`).
    Shell(String),
    /// A program and its arguments: the JSON form.
    Exec(Vec<String>),
}

/// What `COPY` and `ADD` have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Paths, patterns or (of `ADD`) URLs, in their order.
    pub sources: Vec<Word>,
    /// Files whose content stands in the Dockerfile; they come after `sources`.
    pub documents: Vec<Document>,
    /// Where to; a slash at the end makes it a directory.
    pub destination: Word,
    /// `--chown=user[:group]`
    pub chown: Option<Word>,
    /// `--chmod=`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude=`, in their order; patterns like those of `.dockerignore`. No variables.
    pub excludes: Vec<Word>,
}

/// A file whose content stands in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name: the word that ends it.
    pub name: String,
    /// Its content, without leading tabs where `<<-` asks for that.
    pub content: String,
    /// Variables in it are expanded (done by [`Instruction::expand`]).
    pub expand: bool,
    /// Where its lines stand.
    pub span: Span,
}

/// `COPY`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// From where to where and how.
    pub placement: Placement,
    /// `--from=`: a stage, its number, a named context or an image. No variables.
    pub from: Option<Word>,
    /// `--parents`: directories of the sources are kept.
    pub parents: bool,
}

/// `ADD`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Add {
    /// From where to where and how.
    pub placement: Placement,
    /// `--checksum=sha256:…`, or a commit of a git source.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`; `None` if it is not written.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`; `None` if it is not written: local archives are unpacked then, downloads are not.
    pub unpack: Option<bool>,
}

/// `RUN`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What to execute; see [`Run::script`], which takes `heredocs` in.
    pub command: CommandLine,
    /// Those that stand behind it.
    pub heredocs: Vec<Heredoc>,
    /// `--mount=`, in their order, as they are written; see [`Run::mounts`].
    pub mount_flags: Vec<Word>,
    /// `--network=`
    pub network: RunNetwork,
    /// `--security=insecure`
    pub insecure: bool,
    /// `--device=`, in their order.
    pub devices: Vec<Device>,
}

/// `RUN --network=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunNetwork {
    /// What the build says.
    #[default]
    Default,
    /// Only a loopback interface.
    None,
    /// The host's.
    Host,
}

/// What `RUN` executes once heredocs are taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// A text for the shell (see `SHELL`).
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
    /// One heredoc that starts with `#!`: an executable file of this name and content, whose path
    /// is handed to the shell.
    File {
        /// The file's name.
        name: String,
        /// Its content.
        content: String,
    },
}

/// `ONBUILD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The instruction as an image's config keeps it; [`Step::of_trigger`] reads it again.
    pub expression: String,
    /// Where the expression stands.
    pub span: Span,
}

impl Run {
    /// What to execute, heredocs taken in.
    pub fn script(&self) -> Script {
        let text = match &self.command {
            CommandLine::Exec(words) => return Script::Exec(words.clone()),
            CommandLine::Shell(text) => text,
        };
        let Some(first) = self.heredocs.first() else { return Script::Shell(text.clone()) };
        if crate::syntax::heredoc(text).ok().flatten().is_some() {
            let content = first.text();
            return if content.starts_with("#!") {
                Script::File { name: first.name.clone(), content }
            } else {
                Script::Shell(content)
            };
        }
        // The shell reads heredocs itself, tabs and variables included.
        let mut whole = text.clone();
        for heredoc in &self.heredocs {
            whole.push('\n');
            whole.push_str(&heredoc.content);
            whole.push_str(&heredoc.name);
        }
        Script::Shell(whole)
    }
}

impl Instruction {
    /// Its name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Instruction::Add(_) => "ADD",
            Instruction::Arg(_) => "ARG",
            Instruction::Cmd(_) => "CMD",
            Instruction::Copy(_) => "COPY",
            Instruction::Entrypoint(_) => "ENTRYPOINT",
            Instruction::Env(_) => "ENV",
            Instruction::Expose(_) => "EXPOSE",
            Instruction::Healthcheck(_) => "HEALTHCHECK",
            Instruction::Label(_) => "LABEL",
            Instruction::Maintainer(_) => "MAINTAINER",
            Instruction::Onbuild(_) => "ONBUILD",
            Instruction::Run(_) => "RUN",
            Instruction::Shell(_) => "SHELL",
            Instruction::Stopsignal(_) => "STOPSIGNAL",
            Instruction::User(_) => "USER",
            Instruction::Volume(_) => "VOLUME",
            Instruction::Workdir(_) => "WORKDIR",
        }
    }
}

#[cfg(test)]
mod tests;
