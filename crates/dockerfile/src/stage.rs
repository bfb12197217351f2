//! Stages: what stands between one `FROM` and the next, and how they depend on each other.

use crate::instruction::{Instruction, Step, description, from};
use crate::lex::Lexer;
use crate::scope::{Globals, Parameters};
use crate::span::{Fault, Span, Word, nearest};
use crate::syntax::{Directive, Tree};

/// How many stages a file may have.
const STAGES: usize = 4096;

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// `# name=value` at its head.
    pub directives: Vec<Directive>,
    /// `\`, or what the `escape` directive says.
    pub escape: char,
    /// The `ARG` instructions above the first `FROM`.
    pub arguments: Vec<Step>,
    /// At least one.
    pub stages: Vec<Stage>,
    /// Instructions that are continued over an empty line.
    pub empty_continuations: Vec<Span>,
}

/// A `FROM` and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM`.
    pub span: Span,
    /// `FROM` as it is written.
    pub keyword: Word,
    /// All words of the `FROM` behind its flags, as they are written.
    pub words: Vec<Word>,
    /// The `FROM`, continued lines joined.
    pub source: String,
    /// The comments above it.
    pub comments: Vec<String>,
    /// What a comment `# name text` above says of it.
    pub description: String,
    /// What it builds on, as it is written: see [`Dockerfile::resolve`].
    pub base: Word,
    /// Its name, in lower case.
    pub name: Option<Word>,
    /// `--platform=`, as it is written.
    pub platform: Option<Word>,
    /// Its instructions.
    pub steps: Vec<Step>,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A stage of the file, by its number.
    Stage(usize),
    /// Nothing: `scratch`.
    Scratch,
    /// A named context or an image.
    Image(String),
}

/// A stage with the variables of its `FROM` put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What it builds on.
    pub base: Source,
    /// The base's text, variables put in.
    pub base_text: String,
    /// `--platform=`, variables put in; `None` stands for the target's.
    pub platform: Option<String>,
    /// Other stages that it needs files of, in the order of the instructions, each with the span
    /// of the instruction. Triggers of base images are not in here.
    pub needs: Vec<(usize, Span)>,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// Errors: what [`Tree::parse`] says, an unknown instruction, bad flags or arguments, no `FROM`.
    pub fn parse(text: &str) -> Result<Dockerfile, Fault> {
        let tree = Tree::parse(text)?;
        let mut file = Dockerfile {
            directives: tree.directives,
            escape: tree.escape,
            arguments: Vec::new(),
            stages: Vec::new(),
            empty_continuations: tree.empty_continuations,
        };
        for node in tree.nodes {
            if node.is("from") {
                let read = from(&node)?;
                if file.stages.len() == STAGES {
                    let why = format!("a Dockerfile has at most {STAGES} stages");
                    return Err(Fault::new(why, node.span));
                }
                let name = read.name.as_ref().map_or("", |name| name.text.as_str());
                file.stages.push(Stage {
                    span: node.span,
                    keyword: node.name.clone(),
                    description: if name.is_empty() {
                        String::new()
                    } else {
                        description(&node.comments, name)
                    },
                    words: node.arguments,
                    source: node.source,
                    comments: node.comments,
                    base: read.base,
                    name: read.name,
                    platform: read.platform,
                    steps: Vec::new(),
                });
                continue;
            }
            let step = Step::of_node(&node)?;
            match (file.stages.last_mut(), &step.instruction) {
                (Some(stage), _) => stage.steps.push(step),
                (None, Instruction::Arg(_)) => file.arguments.push(step),
                (None, _) => {
                    let why =
                        format!("no build stage in current context: {} stands before the first FROM", {
                            step.instruction.name()
                        });
                    return Err(Fault::new(why, step.name.span));
                }
            }
        }
        if file.stages.is_empty() {
            return Err(Fault::new("dockerfile contains no stages to build", Span::default()));
        }
        Ok(file)
    }

    /// The arguments that may stand in a `FROM`.
    ///
    /// Errors: a default that cannot be expanded.
    pub fn globals(&self, parameters: &Parameters) -> Result<Globals, Fault> {
        let mut globals = Globals::of(parameters);
        for step in &self.arguments {
            let Instruction::Arg(arguments) = &step.instruction else { continue };
            for argument in arguments {
                globals.declare(argument, &parameters.build_args, self.escape)?;
            }
        }
        Ok(globals)
    }

    /// The number of the stage that `--target` names (its name or number); without one, the last.
    ///
    /// Errors: no such stage.
    pub fn target(&self, name: Option<&str>) -> Result<usize, Fault> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(self.stages.len() - 1) };
        if let Some(number) = self.by_name(name) {
            return Ok(number);
        }
        // The classic builder takes numbers, BuildKit does not; names cannot start with a digit.
        if let Some(number) = name.parse().ok().filter(|number| *number < self.stages.len()) {
            return Ok(number);
        }
        let names = self.stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.text.as_str());
        let fault = Fault::new(format!("target stage {name:?} could not be found"), Span::default());
        Err(fault.suggest(&name.to_lowercase(), names))
    }

    /// The stage of this name, whatever its case; the last one where there are several.
    pub fn by_name(&self, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        self.stages.iter().rposition(|stage| stage.name.as_ref().is_some_and(|name| name.text == lower))
    }

    /// What `COPY --from=name` means: a stage's name or number, else a named context or an image.
    ///
    /// Errors: the number of no stage.
    pub fn copy_source(&self, from: &Word) -> Result<Source, Fault> {
        if let Ok(number) = from.text.parse::<i64>() {
            let stage = usize::try_from(number).ok().filter(|number| *number < self.stages.len());
            let stage =
                stage.ok_or_else(|| Fault::new(format!("invalid stage index {number}"), from.span))?;
            return Ok(Source::Stage(stage));
        }
        Ok(self.mount_source(from))
    }

    /// What `RUN --mount=from=name` means: a stage's name, else a named context or an image.
    pub fn mount_source(&self, from: &Word) -> Source {
        match self.by_name(&from.text) {
            Some(number) => Source::Stage(number),
            None if from.text == "scratch" => Source::Scratch,
            None => Source::Image(from.text.clone()),
        }
    }

    /// Stages that a step takes files from.
    ///
    /// Errors: the number of no stage.
    pub fn step_needs(&self, step: &Step) -> Result<Vec<usize>, Fault> {
        let sources = match &step.instruction {
            Instruction::Copy(copy) => {
                copy.from.iter().map(|from| self.copy_source(from)).collect::<Result<Vec<_>, _>>()?
            }
            Instruction::Run(run) => run.sources()?.iter().map(|from| self.mount_source(from)).collect(),
            _ => Vec::new(),
        };
        let number = |source| match source {
            Source::Stage(number) => Some(number),
            _ => None,
        };
        Ok(sources.into_iter().filter_map(number).collect())
    }

    /// All stages with the variables of their `FROM` put in, and what they need.
    ///
    /// A base is a stage above it if it is that one's name, in lower case (BuildKit's rule).
    ///
    /// Errors: a base or platform that comes out empty, the number of no stage, stages that need each
    /// other.
    pub fn resolve(&self, globals: &Globals) -> Result<Vec<Resolved>, Fault> {
        let lexer = Lexer::new(self.escape);
        let mut all = Vec::new();
        for (number, stage) in self.stages.iter().enumerate() {
            let expand =
                |word: &Word| lexer.expand(&word.text, globals).map_err(|why| Fault::new(why, word.span));
            let base = expand(&stage.base)?;
            if base.text.is_empty() {
                let why = format!("base name ({}) should not be blank", stage.base.text);
                return Err(near(Fault::new(why, stage.base.span), &base.unmatched, globals));
            }
            let mut platform = None;
            if let Some(word) = &stage.platform {
                let expanded = expand(word)?;
                if expanded.text.is_empty() {
                    let why = format!("empty platform value from expression {}", word.text);
                    return Err(near(Fault::new(why, word.span), &expanded.unmatched, globals));
                }
                platform = Some(expanded.text);
            }
            let above = &self.stages[..number];
            let named = |stage: &Stage| stage.name.as_ref().is_some_and(|name| name.text == base.text);
            let source = match above.iter().rposition(named) {
                Some(number) => Source::Stage(number),
                None if base.text == "scratch" => Source::Scratch,
                None => Source::Image(base.text.clone()),
            };
            let mut needs = Vec::new();
            for step in &stage.steps {
                needs.extend(self.step_needs(step)?.into_iter().map(|number| (number, step.span)));
            }
            all.push(Resolved { base: source, base_text: base.text, platform, needs });
        }
        self.check_cycles(&all)?;
        Ok(all)
    }

    /// The stages that `target` needs, itself included, in an order in which they can be built: that
    /// of the file.
    ///
    /// Errors: a stage that takes files from one that stands below it.
    pub fn needed(&self, all: &[Resolved], target: usize) -> Result<Vec<usize>, Fault> {
        let mut needed = vec![false; all.len()];
        let mut open = vec![target];
        while let Some(number) = open.pop() {
            if std::mem::replace(&mut needed[number], true) {
                continue;
            }
            if let Source::Stage(base) = all[number].base {
                open.push(base);
            }
            for (need, span) in &all[number].needs {
                if *need >= number {
                    let why = format!(
                        "cannot copy from stage {:?}, it needs to be defined before current stage {:?}",
                        self.label(*need),
                        self.label(number)
                    );
                    return Err(Fault::new(why, *span));
                }
                open.push(*need);
            }
        }
        Ok((0..all.len()).filter(|number| needed[*number]).collect())
    }

    /// The name of a stage, or `stage-N`.
    pub fn label(&self, number: usize) -> String {
        let name = self.stages.get(number).and_then(|stage| stage.name.as_ref());
        name.map_or_else(|| format!("stage-{number}"), |name| name.text.clone())
    }

    fn check_cycles(&self, all: &[Resolved]) -> Result<(), Fault> {
        // 0: not seen, 1: on the way, 2: done. No recursion: a file may have very many stages.
        let mut state = vec![0u8; all.len()];
        for first in 0..all.len() {
            let mut way = vec![(first, 0)];
            while let Some((number, next)) = way.last_mut() {
                let (number, at) = (*number, *next);
                *next += 1;
                if at == 0 {
                    if state[number] == 2 {
                        way.pop();
                        continue;
                    }
                    state[number] = 1;
                }
                // Bases stand above; only needs can close a circle, but the way may lead over bases.
                let edges = &all[number].needs;
                let (need, span) = match (&all[number].base, at) {
                    (Source::Stage(base), 0) => (*base, self.stages[number].span),
                    (_, 0) => continue,
                    _ => match edges.get(at - 1) {
                        Some(edge) => *edge,
                        None => {
                            state[number] = 2;
                            way.pop();
                            continue;
                        }
                    },
                };
                match state[need] {
                    0 => way.push((need, 0)),
                    1 => {
                        let why = format!("circular dependency detected on stage: {}", self.label(need));
                        return Err(Fault::new(why, span));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Suggests a known argument for one that is not set.
fn near(mut fault: Fault, unset: &std::collections::BTreeSet<String>, globals: &Globals) -> Fault {
    fault.suggestion = unset.iter().find_map(|name| nearest(name, globals.names())).map(str::to_owned);
    fault
}

#[cfg(test)]
mod tests;
