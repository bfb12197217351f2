//! What may be wrong with a Dockerfile that can be built all the same: Docker's build checks.

mod rule;

use std::collections::BTreeSet;

use robot_env_oci::{Platform, Reference};

use crate::ignore::{Ignore, clean};
use crate::instruction::{Instruction, Placement, Port, Step};
use crate::lex::{Expanded, Lexer, Variables};
use crate::scope::{Globals, Parameters, Scope};
use crate::span::{Fault, Span, Word, nearest};
use crate::stage::{Dockerfile, Resolved, Source, Stage};

pub use rule::{Rule, Selection};

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What it says here, in BuildKit's words.
    pub message: String,
    /// The instruction.
    pub span: Span,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the file.
    pub warnings: Vec<Warning>,
    /// Why a build would fail; what stands behind it was not looked at.
    pub fault: Option<Fault>,
    /// `# check=error=true` makes warnings errors.
    pub warnings_are_errors: bool,
}

/// What is known of a base image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseImage {
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// Its config has a `SHELL`.
    pub has_shell: bool,
    /// What it is for.
    pub platform: Option<Platform>,
    /// Its `ONBUILD` triggers.
    pub on_build: Vec<String>,
}

/// What a check knows besides the file.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The build's.
    pub parameters: &'a Parameters,
    /// The context's.
    pub ignore: Option<&'a Ignore>,
    /// A base image by its name. Where it gives none, `UndefinedVar` says nothing of the stages that
    /// build on it.
    pub bases: &'a dyn Fn(&str) -> Option<BaseImage>,
    /// The stage that is built; `None` looks at all.
    pub target: Option<usize>,
}

/// What the checks of a stage hand on to stages that build on it.
#[derive(Clone, Default)]
struct State {
    scope: Scope,
    /// The environment of the base image is known.
    known: bool,
    has_shell: bool,
    workdir_set: bool,
    triggers: Vec<String>,
}

/// Where `CMD`, `ENTRYPOINT` and `HEALTHCHECK` of a stage stand.
#[derive(Default)]
struct Once([Option<Span>; 3]);

struct Check<'a> {
    file: &'a Dockerfile,
    facts: Facts<'a>,
    globals: Globals,
    selection: Selection,
    warnings: Vec<Warning>,
}

/// Words of names whose values are secrets.
const SECRETS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Words that say it is none.
const NO_SECRETS: [&str; 3] = ["public", "file", "version"];

/// Looks at a file as a build would, without building.
pub fn check(file: &Dockerfile, facts: Facts<'_>) -> Report {
    let mut check = Check {
        file,
        facts,
        globals: Globals::default(),
        selection: Selection::default(),
        warnings: Vec::new(),
    };
    let fault = check.run().err();
    let mut warnings = check.warnings;
    warnings.sort_by_key(|warning| (warning.span.start, warning.rule));
    Report { warnings, fault, warnings_are_errors: check.selection.error }
}

impl Check<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let file = self.file;
        if let Some(directive) = file.directives.iter().find(|directive| directive.name == "check") {
            self.selection = Selection::parse(&directive.value)
                .map_err(|why| Fault::new(format!("failed to parse check options: {why}"), directive.span))?;
        }
        for span in &file.empty_continuations {
            self.warn(&[], Rule::NoEmptyContinuation, *span, "Empty continuation line".to_owned());
        }
        self.names();
        self.casing();
        self.defaults();
        self.globals = file.globals(self.facts.parameters)?;
        for stage in &file.stages {
            self.from(stage)?;
        }
        let resolved = file.resolve(&self.globals)?;
        let all: Vec<usize> = (0..file.stages.len()).collect();
        let looked_at = self.facts.target.map_or(Ok(all), |target| file.needed(&resolved, target))?;
        let mut states: Vec<State> = vec![State::default(); file.stages.len()];
        for number in looked_at {
            states[number] = self.stage(&file.stages[number], &resolved[number], &states)?;
        }
        Ok(())
    }

    fn warn(&mut self, comments: &[String], rule: Rule, span: Span, message: String) {
        if self.selection.with_comments(comments).takes(rule) {
            self.warnings.push(Warning { rule, message, span });
        }
    }

    /// Names of stages, descriptions, `MAINTAINER`.
    fn names(&mut self) {
        let mut seen = BTreeSet::new();
        for stage in &self.file.stages {
            let (comments, span) = (stage.comments.as_slice(), stage.span);
            if let [_, keyword, name] = stage.words.as_slice() {
                if name.text != name.text.to_lowercase() {
                    let why = format!("Stage name '{}' should be lowercase", name.text);
                    self.warn(comments, Rule::StageNameCasing, span, why);
                }
                let from = &stage.keyword.text;
                let matches = match casing(from) {
                    Some(Casing::Lower) => keyword.text == keyword.text.to_lowercase(),
                    Some(Casing::Upper) => keyword.text == keyword.text.to_uppercase(),
                    None => true,
                };
                if !matches {
                    let why = format!("'{}' and '{from}' keywords' casing do not match", keyword.text);
                    self.warn(comments, Rule::FromAsCasing, span, why);
                }
            }
            if let Some(Word { text: name, .. }) = &stage.name {
                if matches!(name.as_str(), "context" | "scratch") {
                    let why = format!("Stage name should not use the same name as reserved stage {name:?}");
                    self.warn(&[], Rule::ReservedStageName, span, why);
                }
                if !seen.insert(name) {
                    let why = format!("Duplicate stage name {name:?}, stage names should be unique");
                    self.warn(&[], Rule::DuplicateStageName, span, why);
                }
                self.described("FROM", &[name], comments, span);
            }
        }
        let steps = self.file.stages.iter().flat_map(|stage| &stage.steps);
        for step in self.file.arguments.iter().chain(steps) {
            match &step.instruction {
                Instruction::Maintainer(_) => {
                    let why = "Maintainer instruction is deprecated in favor of using label".to_owned();
                    self.warn(&step.comments, Rule::MaintainerDeprecated, step.span, why);
                }
                Instruction::Arg(arguments) => {
                    let names: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
                    self.described("ARG", &names, &step.comments, step.span);
                }
                _ => {}
            }
        }
    }

    /// The comment above starts with the name.
    fn described(&mut self, instruction: &str, names: &[&str], comments: &[String], span: Span) {
        let Some(last) = comments.last() else { return };
        let first = last.split(' ').next().unwrap_or_default();
        if names.is_empty() || names.contains(&first) {
            return;
        }
        let example = if names.len() > 1 { "<arg_key>" } else { names[0] };
        let why = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
        self.warn(comments, Rule::InvalidDefinitionDescription, span, why);
    }

    /// All names of instructions in small or in capital letters.
    fn casing(&mut self) {
        let names: Vec<(&Word, Span)> = self
            .file
            .stages
            .iter()
            .flat_map(|stage| {
                let steps = stage.steps.iter().map(|step| (&step.name, step.span));
                std::iter::once((&stage.keyword, stage.span)).chain(steps)
            })
            .collect();
        let count = |wanted| names.iter().filter(|(name, _)| casing(&name.text) == Some(wanted)).count();
        let (wanted, text) = if count(Casing::Lower) > count(Casing::Upper) {
            (Casing::Lower, "lowercase")
        } else {
            (Casing::Upper, "uppercase")
        };
        for (name, span) in names {
            if casing(&name.text) != Some(wanted) {
                let why =
                    format!("Command '{}' should match the case of the command majority ({text})", name.text);
                self.warn(&[], Rule::ConsistentInstructionCasing, span, why);
            }
        }
    }

    /// Bases are names of images when no `--build-arg` is given.
    fn defaults(&mut self) {
        let mut parameters = self.facts.parameters.clone();
        parameters.build_args.clear();
        // What is wrong with the arguments themselves is found again where it matters.
        let Ok(globals) = self.file.globals(&parameters) else { return };
        for stage in &self.file.stages {
            let Ok(base) = Lexer::new(self.file.escape).expand(&stage.base.text, &globals) else { return };
            if base.text.parse::<Reference>().is_err() {
                let why = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base.text
                );
                self.warn(&[], Rule::InvalidDefaultArgInFrom, stage.span, why);
            }
        }
    }

    fn from(&mut self, stage: &Stage) -> Result<(), Fault> {
        let base = self.of_from(stage, &stage.base)?;
        if base.text.is_empty() {
            // `Dockerfile::resolve` says so.
            return Ok(());
        }
        let Some(word) = &stage.platform else { return Ok(()) };
        let platform = self.of_from(stage, word)?;
        let (comments, span) = (&stage.comments, stage.span);
        let target = self.globals.get("TARGETPLATFORM").unwrap_or_default();
        let only_target = platform.matched.len() == 1
            && platform.matched.contains("TARGETPLATFORM")
            && platform.unmatched.is_empty();
        if only_target && platform.text == target {
            let why = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            self.warn(comments, Rule::RedundantTargetPlatform, span, why);
        }
        if platform.matched.is_empty()
            && platform.unmatched.is_empty()
            && let Ok(known) = platform.text.parse::<Platform>()
        {
            let name = stage.name.as_ref().map_or("", |name| name.text.as_str());
            if !name.contains(&known.os) && !name.contains(&known.architecture) {
                let why = format!("FROM --platform flag should not use constant value {:?}", platform.text);
                self.warn(comments, Rule::FromPlatformFlagConstDisallowed, span, why);
            }
        }
        Ok(())
    }

    fn of_from(&mut self, stage: &Stage, word: &Word) -> Result<Expanded, Fault> {
        let lexer = Lexer::new(self.file.escape);
        let all = lexer.expand(&word.text, &self.globals).map_err(|why| Fault::new(why, word.span))?;
        for name in &all.unmatched {
            if self.globals.names().any(|known| known == name) {
                continue;
            }
            let near = nearest(name, self.globals.names()).map(|near| format!(" (did you mean {near}?)"));
            let why = format!("FROM argument '{name}' is not declared{}", near.unwrap_or_default());
            self.warn(&stage.comments, Rule::UndefinedArgInFrom, stage.span, why);
        }
        Ok(all)
    }

    fn stage(&mut self, stage: &Stage, resolved: &Resolved, states: &[State]) -> Result<State, Fault> {
        let mut state = match &resolved.base {
            Source::Stage(base) => states[*base].clone(),
            Source::Scratch => State { known: true, ..State::default() },
            Source::Image(name) => match (self.facts.bases)(name) {
                None => State::default(),
                Some(image) => {
                    self.platform(stage, resolved, &image);
                    let environment = image.environment.iter();
                    State {
                        scope: Scope::new(environment.map(|(name, value)| (name.as_str(), value.as_str()))),
                        known: true,
                        has_shell: image.has_shell,
                        triggers: image.on_build,
                        ..State::default()
                    }
                }
            },
        };
        if state.scope.get("PATH").is_none() {
            let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
            state.scope.set("PATH", path).map_err(|why| Fault::new(why, stage.span))?;
        }
        let mut once = Once::default();
        for trigger in std::mem::take(&mut state.triggers) {
            let step = Step::of_trigger(&trigger, stage.span)?;
            self.step(&step, &mut state, &mut once)?;
        }
        for step in &stage.steps {
            self.step(step, &mut state, &mut once)?;
        }
        Ok(state)
    }

    fn platform(&mut self, stage: &Stage, resolved: &Resolved, image: &BaseImage) {
        let wanted = match &resolved.platform {
            Some(text) => text.parse().ok(),
            None => Some(self.facts.parameters.target.clone()),
        };
        let (Some(wanted), Some(actual)) = (wanted, &image.platform) else { return };
        if wanted.os != actual.os || wanted.architecture != actual.architecture {
            let why = format!(
                "Base image {} was pulled with platform \"{actual}\", expected \"{wanted}\" for current build",
                resolved.base_text
            );
            self.warn(&stage.comments, Rule::InvalidBaseImagePlatform, stage.span, why);
        }
    }

    fn step(&mut self, step: &Step, state: &mut State, once: &mut Once) -> Result<(), Fault> {
        let expansion = step.instruction.expand(self.file.escape, &state.scope)?;
        self.undefined(step, state, &expansion.unset);
        match &expansion.instruction {
            Instruction::Arg(arguments) => {
                for argument in arguments {
                    self.secret(step, "ARG", &argument.name);
                    let build_args = &self.facts.parameters.build_args;
                    let (_, unset) =
                        state.scope.declare(argument, &self.globals, build_args, self.file.escape)?;
                    self.undefined(step, state, &unset.into_iter().collect());
                }
            }
            Instruction::Env(pairs) => {
                for pair in pairs {
                    self.legacy(step, pair.legacy);
                    self.secret(step, "ENV", &pair.key);
                    state.scope.set(&pair.key, &pair.value).map_err(|why| Fault::new(why, pair.span))?;
                }
            }
            Instruction::Label(pairs) => pairs.iter().for_each(|pair| self.legacy(step, pair.legacy)),
            Instruction::Workdir(path) => self.workdir(step, state, &path.text),
            Instruction::Cmd(line) | Instruction::Entrypoint(line) => {
                let place = usize::from(matches!(expansion.instruction, Instruction::Entrypoint(_)));
                self.once(step, &mut once.0[place]);
                if matches!(line, crate::CommandLine::Shell(_)) && !state.has_shell {
                    let why = format!(
                        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                        step.name.text
                    );
                    self.warn(&step.comments, Rule::JsonArgsRecommended, step.span, why);
                }
            }
            Instruction::Healthcheck(_) => self.once(step, &mut once.0[2]),
            Instruction::Shell(_) => state.has_shell = true,
            Instruction::Expose(words) => {
                for word in words {
                    self.port(step, word)?;
                }
            }
            Instruction::Copy(copy) if copy.from.is_none() => self.ignored(step, &copy.placement),
            Instruction::Add(add) => self.ignored(step, &add.placement),
            Instruction::Onbuild(trigger) => state.triggers.push(trigger.expression.clone()),
            _ => {}
        }
        Ok(())
    }

    fn undefined(&mut self, step: &Step, state: &State, unset: &BTreeSet<String>) {
        if !state.known {
            return;
        }
        for name in unset.iter().filter(|name| !state.scope.declares(name)) {
            let near = nearest(name, state.scope.variables().map(|(known, _)| known));
            let near = near.map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
            let why = format!("Usage of undefined variable '${name}'{near}");
            self.warn(&step.comments, Rule::UndefinedVar, step.span, why);
        }
    }

    fn secret(&mut self, step: &Step, instruction: &str, name: &str) {
        let lower = name.to_ascii_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
        if has(&SECRETS) && !has(&NO_SECRETS) {
            let why =
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
            self.warn(&step.comments, Rule::SecretsUsedInArgOrEnv, step.span, why);
        }
    }

    fn legacy(&mut self, step: &Step, legacy: bool) {
        if legacy {
            let name = &step.name.text;
            let why =
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            self.warn(&step.comments, Rule::LegacyKeyValueFormat, step.span, why);
        }
    }

    fn workdir(&mut self, step: &Step, state: &mut State, path: &str) {
        if !std::mem::replace(&mut state.workdir_set, true) && !path.starts_with('/') {
            let why =
                format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            self.warn(&step.comments, Rule::WorkdirRelativePath, step.span, why);
        }
    }

    /// The one before is the one that has no effect.
    fn once(&mut self, step: &Step, before: &mut Option<Span>) {
        if let Some(span) = before.replace(step.span) {
            let why = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will \
                 be used",
                step.name.text
            );
            self.warn(&step.comments, Rule::MultipleInstructionsDisallowed, span, why);
        }
    }

    fn port(&mut self, step: &Step, word: &Word) -> Result<(), Fault> {
        let port = Port::parse(&word.text).map_err(|why| Fault::new(why, word.span))?;
        if port.capitals {
            let why = format!("Defined protocol '{}' in EXPOSE instruction should be lowercase", word.text);
            self.warn(&step.comments, Rule::ExposeProtoCasing, step.span, why);
        }
        if port.mapped {
            let why = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{}'",
                word.text
            );
            self.warn(&step.comments, Rule::ExposeInvalidFormat, step.span, why);
        }
        Ok(())
    }

    /// Sources that the context leaves out. With exceptions nothing is certain without the files.
    fn ignored(&mut self, step: &Step, placement: &Placement) {
        let Some(ignore) = self.facts.ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
        let verb = if matches!(step.instruction, Instruction::Add(_)) { "Add" } else { "Copy" };
        for source in &placement.sources {
            let remote = ["http://", "https://", "git://", "git@", "ssh://"];
            if verb == "Add" && remote.iter().any(|scheme| source.text.starts_with(scheme)) {
                continue;
            }
            let path = clean(&source.text);
            if matches!(path.as_str(), "." | "/") && !ignore.ignores_root() {
                continue;
            }
            if ignore.ignores(&path) {
                let why = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.warn(&step.comments, Rule::CopyIgnoredFile, step.span, why);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

/// How a word of letters is written, if one way.
fn casing(word: &str) -> Option<Casing> {
    if word == word.to_lowercase() {
        Some(Casing::Lower)
    } else if word == word.to_uppercase() {
        Some(Casing::Upper)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
