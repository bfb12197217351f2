//! A stage, from its base to its last instruction.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use robot_env_diag::{Error, Result};
use robot_env_dockerfile::{Instruction, Source, Span, Step, Word};
use robot_env_oci::Platform;

use crate::failure::{Failed, Trouble};
use crate::history::created_by;
use crate::request::Place;
use crate::solve::Build;
use crate::state::State;
use crate::step::Shown;

/// What `ONBUILD` may trigger in all.
const TRIGGERS: usize = 1000;

/// Names the steps of a stage in their order.
struct Labels {
    stage: String,
    number: usize,
    /// How the stage is shown; empty for the only one.
    name: String,
    cache: bool,
    at: usize,
    count: usize,
}

impl Labels {
    fn shown(&mut self, step: Option<&str>, line: usize) -> Shown {
        let mut label = String::new();
        if let Some(text) = step {
            self.at += 1;
            let stage = if self.name.is_empty() { String::new() } else { format!("{} ", self.name) };
            label = format!("[{stage}{}/{}] {text}", self.at, self.count);
        }
        Shown {
            label,
            cache: self.cache,
            stage: self.number,
            place: Place { stage: self.stage.clone(), number: self.at, count: self.count, line },
            step: Cell::new(None),
            tail: RefCell::default(),
        }
    }
}

impl Build<'_> {
    /// Builds a stage.
    pub(crate) fn stage(&self, number: usize) -> Result<State, Failed> {
        let stage = &self.file.stages[number];
        let name = self.file.label(number);
        let single = self.file.stages.len() == 1 && stage.name.is_none();
        let steps = stage.steps.iter().filter(|step| makes_layers(&step.instruction)).count();
        let mut labels = Labels {
            cache: !self.request.no_cache
                && !self.request.no_cache_filter.iter().any(|filter| filter.eq_ignore_ascii_case(&name)),
            name: if single { String::new() } else { name.clone() },
            stage: name,
            number,
            at: 0,
            count: steps + 1,
        };
        let label = Some(labels.name.clone()).filter(|name| !name.is_empty());
        let failed = |span, shown: Option<&Shown>, trouble| {
            Failed::of_step(self.request, label.as_deref(), span, shown, trouble)
        };
        let line = |span: Span| span.lines(&self.request.dockerfile).0;
        let mut state = {
            let source = &self.stages[number].base;
            let text = match source {
                Source::Image(name) => Some(format!("FROM {name}")),
                Source::Stage(_) | Source::Scratch => None,
            };
            let shown = labels.shown(text.as_deref(), line(stage.span));
            self.begin_stage(number, source, &shown)
                .map_err(|error| failed(stage.base.span, Some(&shown), error.into()))?
        };
        let triggers = std::mem::take(&mut state.config.on_build);
        if triggers.len() > TRIGGERS {
            let error = Error::invalid("the base image triggers too many instructions");
            return Err(failed(stage.span, None, error.into()));
        }
        let mut all = Vec::new();
        for expression in triggers {
            let step = Step::of_trigger(&expression, stage.span);
            all.push(step.map_err(|fault| failed(stage.span, None, fault.into()))?);
        }
        labels.count += all.iter().filter(|step| makes_layers(&step.instruction)).count();
        for step in all.iter().chain(&stage.steps) {
            let text = makes_layers(&step.instruction).then_some(step.source.as_str());
            let shown = labels.shown(text, line(step.span));
            self.step(&mut state, step, &shown)
                .map_err(|trouble| failed(step.span, Some(&shown), trouble))?;
        }
        Ok(state)
    }

    fn begin_stage(&self, number: usize, source: &Source, shown: &Shown) -> Result<State> {
        Ok(match source {
            Source::Scratch => State::scratch(self.platform.clone(), self.now()),
            Source::Stage(base) => self.schedule.stage(*base, number)?.begin(),
            Source::Image(name) => {
                let platform = match &self.stages[number].platform {
                    Some(text) => Some(text.parse::<Platform>()?),
                    None => self.request.platform.clone(),
                };
                let step = self.begin(shown);
                let begun = Instant::now();
                let base = self.base(name, platform.as_ref());
                let mut heard = self.heard();
                match &base {
                    Ok(_) => heard.observer.done(step, begun.elapsed()),
                    Err(_) => heard.observer.failed(step),
                }
                base?.begin()
            }
        })
    }

    fn step(&self, state: &mut State, step: &Step, shown: &Shown) -> Result<(), Trouble> {
        if let Instruction::Arg(arguments) = &step.instruction {
            let mut said = Vec::new();
            for argument in arguments {
                let (value, _) =
                    state.scope.declare(argument, self.globals, &self.request.arguments, self.file.escape)?;
                // The history tells of the default, and not of what was given in its place.
                let given = self.request.arguments.contains_key(&argument.name);
                said.push(match (&argument.default, value) {
                    (Some(_), Some(value)) if !given => format!("{}={value}", argument.name),
                    (Some(default), _) => format!("{}={default}", argument.name),
                    (None, _) => argument.name.clone(),
                });
            }
            state.note(format!("ARG {}", said.join(" ")), false);
            return Ok(());
        }
        let instruction = step.instruction.expand(self.file.escape, &state.scope)?.instruction;
        if state.apply(&instruction)? {
            return Ok(());
        }
        match &instruction {
            Instruction::Run(run) => self.run_step(state, run, shown),
            Instruction::Copy(copy) => self.copy_step(state, copy, shown),
            Instruction::Add(add) => Ok(self.add_step(state, add, shown)?),
            Instruction::Workdir(word) => Ok(self.workdir(state, word, shown)?),
            _ => Ok(()),
        }
    }

    fn workdir(&self, state: &mut State, word: &Word, shown: &Shown) -> Result<()> {
        let path = format!("/{}", crate::tree::clean(&state.absolute(&word.text)));
        state.config.working_dir.clone_from(&path);
        let user = state.config.user.clone();
        let history = created_by(&Instruction::Workdir(Word { text: path.clone(), span: word.span }), &[]);
        self.layer(state, shown, &("workdir", &path, &user), history, &mut |target| {
            if target.target.is_directory(&path) {
                return Ok(());
            }
            let owner = if user.is_empty() { None } else { Some(Self::user(target.root, &user, false)?) };
            target.target.make_directories(&path, owner).map(drop)
        })
    }
}

/// Whether an instruction is a step that is shown.
fn makes_layers(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}
