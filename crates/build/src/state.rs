//! What a stage is so far, and the instructions that only change its config.

use robot_env_diag::{Error, Result};
use robot_env_dockerfile::{CommandLine, Instruction, Port, Scope};
use robot_env_oci::{ChainId, HistoryEntry, ImageConfig, Platform, RuntimeConfig};
use robot_env_spec::NetworkMode;
use serde_json::{Map, Value};

use crate::history::{created_by, with_shell};
use crate::request::MadeLayer;

/// The search path of an image that has none, as Docker sets it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage so far.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) chain: Option<ChainId>,
    pub(crate) platform: Platform,
    pub(crate) config: RuntimeConfig,
    pub(crate) author: String,
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) scope: Scope,
    /// When the last layer was made, RFC 3339.
    pub(crate) created: String,
    /// The layers of the image that the stage stands on, through other stages: what the build did
    /// not make.
    pub(crate) base: Option<ChainId>,
    /// The layers on top of those.
    pub(crate) made: Vec<MadeLayer>,
    /// Whether this stage said what the default command is.
    has_command: bool,
}

impl State {
    /// Nothing.
    pub(crate) fn scratch(platform: Platform, created: String) -> State {
        let config = RuntimeConfig {
            env: vec![format!("PATH={PATH}")],
            working_dir: "/".into(),
            ..RuntimeConfig::default()
        };
        State::new(None, platform, config, String::new(), Vec::new(), created)
    }

    /// An image.
    pub(crate) fn of_image(chain: Option<ChainId>, image: ImageConfig) -> State {
        let created = image.created.unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
        State::new(chain, image.platform, image.config, image.author, image.history, created)
    }

    fn new(
        chain: Option<ChainId>,
        platform: Platform,
        config: RuntimeConfig,
        author: String,
        history: Vec<HistoryEntry>,
        created: String,
    ) -> State {
        let environment = config.env.iter().filter_map(|variable| variable.split_once('='));
        let scope = Scope::new(environment);
        let base = chain.clone();
        State {
            chain,
            platform,
            scope,
            config,
            author,
            history,
            created,
            base,
            made: Vec::new(),
            has_command: false,
        }
    }

    /// Another stage begins with this one's result.
    pub(crate) fn begin(mut self) -> State {
        self.has_command = false;
        self
    }

    /// The working directory, absolute.
    pub(crate) fn directory(&self) -> &str {
        if self.config.working_dir.is_empty() { "/" } else { &self.config.working_dir }
    }

    /// A path of the image, relative ones below the working directory, as it is written otherwise.
    pub(crate) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        format!("{}/{path}", self.directory().trim_end_matches('/'))
    }

    pub(crate) fn note(&mut self, created_by: String, layer: bool) {
        self.history.push(HistoryEntry {
            created: Some(self.created.clone()),
            created_by,
            empty_layer: !layer,
            ..HistoryEntry::default()
        });
    }

    /// The stage has these layers from now on, the last one made by the instruction in `line` if it
    /// made one.
    pub(crate) fn stand_on(&mut self, chain: Option<ChainId>, line: usize) {
        if let Some(chain) = &chain
            && self.chain.as_ref() != Some(chain)
        {
            self.made.push(MadeLayer { chain: chain.clone(), line });
        }
        self.chain = chain;
    }

    /// Does what an instruction says, which makes no layer; variables are put in. False for one that
    /// makes layers.
    ///
    /// # Errors
    /// `InvalidInput` for a port or signal that is none.
    pub(crate) fn apply(&mut self, instruction: &Instruction) -> Result<bool> {
        let nothing = || Value::Object(Map::new());
        let shell = self.config.shell.clone();
        let line = |line: &CommandLine| match line {
            CommandLine::Exec(words) => words.clone(),
            CommandLine::Shell(text) => with_shell(&shell, text),
        };
        match instruction {
            Instruction::Env(pairs) => {
                for pair in pairs {
                    self.scope.set(&pair.key, &pair.value).map_err(Error::invalid)?;
                    let variable = format!("{}={}", pair.key, pair.value);
                    let same = |known: &&mut String| known.split('=').next() == Some(&pair.key);
                    match self.config.env.iter_mut().find(same) {
                        Some(known) => *known = variable,
                        None => self.config.env.push(variable),
                    }
                }
            }
            Instruction::Label(pairs) => {
                self.config.labels.extend(pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone())));
            }
            Instruction::Cmd(command) => {
                self.config.cmd = Some(line(command));
                self.has_command = true;
            }
            Instruction::Entrypoint(command) => {
                self.config.entrypoint = Some(line(command)).filter(|words| !words.is_empty());
                // A command of the base belonged to the base's entrypoint.
                if !self.has_command {
                    self.config.cmd = None;
                }
            }
            Instruction::Expose(words) => {
                for word in words {
                    let port = Port::parse(&word.text).map_err(Error::invalid)?;
                    self.config.exposed_ports.extend(port.names().map(|name| (name, nothing())));
                }
            }
            Instruction::Volume(paths) => {
                self.config.volumes.extend(paths.iter().map(|path| (path.text.clone(), nothing())));
            }
            Instruction::Healthcheck(check) => self.config.healthcheck = Some(check.clone()),
            Instruction::Maintainer(name) => self.author.clone_from(name),
            Instruction::Onbuild(trigger) => {
                self.config.on_build.push(trigger.expression.clone());
                // The history of Docker's images does not tell of it.
                return Ok(true);
            }
            Instruction::Shell(shell) => self.config.shell.clone_from(shell),
            Instruction::Stopsignal(word) => {
                if robot_env_sys::process::parse_signal(&word.text).is_none() {
                    return Err(Error::invalid(format!("`{}` is no signal", word.text)));
                }
                self.config.stop_signal.clone_from(&word.text);
            }
            Instruction::User(word) => self.config.user.clone_from(&word.text),
            Instruction::Add(_)
            | Instruction::Arg(_)
            | Instruction::Copy(_)
            | Instruction::Run(_)
            | Instruction::Workdir(_) => return Ok(false),
        }
        self.note(created_by(instruction, &shell), false);
        Ok(true)
    }
}

/// A network by the word of `--network`.
pub(crate) fn network_word(mode: &NetworkMode) -> String {
    serde_json::to_string(mode).unwrap_or_default()
}
