//! What a project wants of its container: `robot-env.toml`, or an existing `devcontainer.json`.
//!
//! Both become one [`Project`]: words of `create`, each with the place that it comes from, and what is
//! done around them. The words are the command line's own, so a file can ask for nothing that `run`
//! cannot be asked for.

mod devcontainer;
mod init;
mod ours;
mod substitute;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use robot_env_config::{Finding, Format, Position, Value, read_text};
use robot_env_diag::{Error, Result};

pub use init::{Workspace, recognise};
pub use ours::KEYS;

/// A project's own file.
pub const FILE: &str = "robot-env.toml";

/// Words of `create` and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The place in the file.
    pub at: Position,
    /// `--gpus`, `all`.
    pub words: Vec<String>,
}

/// How the image is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// The place in the file.
    pub at: Position,
    /// The Dockerfile; absent: `Dockerfile` in the context.
    pub dockerfile: Option<PathBuf>,
    /// The context.
    pub context: PathBuf,
    /// The stage.
    pub target: Option<String>,
    /// `--build-arg`.
    pub arguments: Vec<(String, String)>,
    /// Further words of `build`.
    pub flags: Vec<String>,
}

/// A command of the project's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The key that says it.
    pub key: &'static str,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// Commands of a project's life, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// On the host, before anything.
    pub initialize: Vec<Hook>,
    /// In the container, once, after it was made.
    pub create: Vec<Hook>,
    /// In the container, after each start.
    pub start: Vec<Hook>,
    /// In the container, before each entering.
    pub attach: Vec<Hook>,
}

/// How one enters the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enter {
    /// `--user` of `exec`.
    pub user: Option<String>,
    /// Variables.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub workdir: Option<String>,
    /// The shell; absent: bash where there is one, else sh.
    pub shell: Option<String>,
    /// A file that the shell reads first, such as ROS's `setup.bash`.
    pub setup: Option<String>,
}

impl Enter {
    /// The variables, as a container with these has them.
    pub fn variables(&self, container: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let whole =
            |(name, text): &(String, String)| (name.clone(), substitute::of_container(text, container));
        self.env.iter().map(whole).collect()
    }
}

/// What a project wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Project {
    /// The file.
    pub file: PathBuf,
    /// The project's directory.
    pub directory: PathBuf,
    /// The container's name.
    pub name: String,
    /// The image; `None` where it is built.
    pub image: Option<String>,
    /// How it is built.
    pub build: Option<Build>,
    /// Flags of `create`.
    pub flags: Vec<Words>,
    /// The command behind the image; empty: the image's.
    pub command: Vec<String>,
    /// How one enters it.
    pub enter: Enter,
    /// Commands of its life.
    pub hooks: Hooks,
    /// What is right and has no effect, or is worth knowing.
    pub notes: Vec<Finding>,
}

/// What is around a project: ambient values, told.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Whether a GPU can be given to containers.
    pub gpu: bool,
    /// The user's id on the host; 0 is root.
    pub user: u32,
}

/// Keeps a container alive as long as nobody stops it.
pub(crate) const IDLE: [&str; 3] =
    ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"];

/// The project's file for a directory: the one in it or in one above it.
pub fn find(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().find_map(|above| {
        [FILE, ".devcontainer/devcontainer.json", ".devcontainer.json"]
            .iter()
            .map(|name| above.join(name))
            .find(|path| path.is_file())
    })
}

/// Reads a project's file.
///
/// # Errors
/// With file, line and column of everything that is wrong in it.
pub fn load(file: &Path, around: &Surroundings) -> Result<Project> {
    let text = read_text(file)?
        .ok_or_else(|| Error::not_found(format!("cannot read file `{}`: there is none", file.display())))?;
    parse(file, &text, around).map_err(|findings| wrong(file, &findings))
}

/// One error of everything that is wrong.
fn wrong(file: &Path, findings: &[Finding]) -> Error {
    let below = findings.iter().rev().fold(None::<Error>, |below, finding| {
        let error = finding.to_error();
        Some(match below {
            Some(below) => error.because(below),
            None => error,
        })
    });
    let error = Error::invalid(format!("cannot use project file `{}`", file.display()));
    let hint = findings.iter().find_map(|finding| finding.hint.clone());
    let error = match below {
        Some(below) => error.because(below),
        None => error,
    };
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Reads the text of a project's file.
///
/// # Errors
/// Everything that is wrong in it.
pub fn parse(file: &Path, text: &str, around: &Surroundings) -> Result<Project, Vec<Finding>> {
    let json = file.extension().is_some_and(|end| end == "json");
    let format = if json { Format::JsonWithComments } else { Format::Toml };
    let document = format.parse(file, text)?;
    let directory = directory_of(file);
    let mut reader = Reader { file, findings: Vec::new() };
    let project =
        Project { file: file.to_owned(), name: default_name(&directory), directory, ..Project::default() };
    let project = if json {
        devcontainer::read(&mut reader, &document, project, around)
    } else {
        ours::read(&mut reader, &document, project, around)
    };
    if reader.findings.is_empty() { Ok(project) } else { Err(reader.findings) }
}

/// The directory that a file stands for.
fn directory_of(file: &Path) -> PathBuf {
    let parent = file.parent().unwrap_or(Path::new("/"));
    if parent.file_name().is_some_and(|name| name == ".devcontainer") {
        return parent.parent().unwrap_or(parent).to_owned();
    }
    parent.to_owned()
}

/// A container's name for a directory: its own name and a number that tells it from another of the same.
fn default_name(directory: &Path) -> String {
    let base = directory.file_name().unwrap_or_default().to_string_lossy();
    let plain: String =
        base.chars().map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' }).collect();
    let plain = plain.trim_start_matches(['_', '.', '-']);
    let plain = if plain.is_empty() { "project" } else { plain };
    format!("{plain}-{:04x}", digest(directory.to_string_lossy().as_bytes()) & 0xffff)
}

/// FNV-1a: the same for the same text, always.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

impl Project {
    /// A text that changes with whatever a container is made of.
    pub fn fingerprint(&self) -> String {
        let mut text = format!(
            "{:?}{:?}{:?}",
            self.image,
            self.build.as_ref().map(|b| (&b.dockerfile, &b.target, &b.arguments, &b.flags)),
            self.command
        );
        for flag in &self.flags {
            text.push_str(&format!("{:?}", flag.words));
        }
        format!("{:016x}", digest(text.as_bytes()))
    }

    fn flag(&mut self, at: Position, words: impl IntoIterator<Item = impl Into<String>>) {
        self.flags.push(Words { at, words: words.into_iter().map(Into::into).collect() });
    }
}

/// Collects what is wrong while a document is read.
struct Reader<'a> {
    file: &'a Path,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn wrong(&mut self, at: Position, message: impl Into<String>) {
        self.findings.push(Finding::warning(self.file, at, message));
    }

    fn must_be(&mut self, key: &str, value: &Value, what: &str) {
        self.wrong(value.at, format!("`{key}` must be {what}, not {}", value.kind()));
    }

    fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        let text = value.text().map(str::to_owned);
        if text.is_none() {
            self.must_be(key, value, "a text");
        }
        text
    }

    fn truth(&mut self, key: &str, value: &Value) -> Option<bool> {
        let truth = value.truth();
        if truth.is_none() {
            self.must_be(key, value, "true or false");
        }
        truth
    }

    /// A list of texts with their places; a single text counts as a list of one.
    fn texts(&mut self, key: &str, value: &Value) -> Vec<(Position, String)> {
        if let Some(text) = value.text() {
            return vec![(value.at, text.to_owned())];
        }
        let Some(items) = value.items() else {
            self.must_be(key, value, "a list of texts");
            return Vec::new();
        };
        let mut out = Vec::new();
        for item in items {
            match item.text() {
                Some(text) => out.push((item.at, text.to_owned())),
                None => self.must_be(key, item, "a list of texts"),
            }
        }
        out
    }

    /// A section of texts; numbers and truth values count as texts.
    fn map(&mut self, key: &str, value: &Value) -> Vec<(Position, String, String)> {
        let Some(entries) = value.entries() else {
            self.must_be(key, value, "a section of texts");
            return Vec::new();
        };
        let mut out = Vec::new();
        for entry in entries {
            let text = match &entry.value.to_json() {
                serde_json::Value::String(text) => text.clone(),
                other @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => other.to_string(),
                _ => {
                    self.must_be(&format!("{key}.{}", entry.key), &entry.value, "a text");
                    continue;
                }
            };
            out.push((entry.at, entry.key.clone(), text));
        }
        out
    }

    /// A command: a text for a shell, or a list of words; in JSON also a section of such.
    fn hook(&mut self, key: &'static str, value: &Value) -> Vec<Hook> {
        if let Some(text) = value.text() {
            let words = ["/bin/sh", "-c", text].map(str::to_owned);
            return vec![Hook { key, command: words.into() }];
        }
        if value.items().is_some() {
            let command: Vec<String> = self.texts(key, value).into_iter().map(|(_, text)| text).collect();
            return if command.is_empty() { Vec::new() } else { vec![Hook { key, command }] };
        }
        if let Some(entries) = value.entries() {
            return entries.iter().flat_map(|entry| self.hook(key, &entry.value)).collect();
        }
        self.must_be(key, value, "a command");
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
