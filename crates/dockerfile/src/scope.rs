//! Which variables an instruction sees: build arguments and environment.

use std::collections::{BTreeMap, HashMap};

use robot_env_oci::Platform;

use crate::instruction::Argument;
use crate::lex::{Lexer, Variables};
use crate::span::Fault;

/// Bytes that all variables of a stage may come to; the kernel takes no more for a process.
const LIMIT: usize = 4 << 20;

/// What a build knows besides the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `--build-arg`, by name.
    pub build_args: BTreeMap<String, String>,
    /// What the image is for.
    pub target: Platform,
    /// What builds.
    pub builder: Platform,
    /// The name of the stage to build; empty stands for `default`.
    pub stage: String,
}

/// The arguments above the first `FROM`, and those that every build has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    values: BTreeMap<String, String>,
    /// Bytes of all values.
    size: usize,
    /// Declared above the first `FROM`, with a value or not.
    declared: Vec<String>,
}

/// The variables of a stage at some instruction. A stage that builds on another one of the file
/// starts with a clone of the other's, as the other leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// In the order of their first appearance.
    variables: Vec<(String, String)>,
    /// Where in `variables` a name is.
    places: HashMap<String, usize>,
    /// Bytes of all names and values.
    size: usize,
    arguments: Vec<(String, Option<String>)>,
}

impl Globals {
    /// What `BUILDPLATFORM`, `TARGETARCH` and their kin are.
    pub fn of(parameters: &Parameters) -> Self {
        let (builder, target) = (&parameters.builder, &parameters.target);
        let stage = if parameters.stage.is_empty() { "default" } else { &parameters.stage };
        let known = [
            ("BUILDPLATFORM", builder.to_string()),
            ("BUILDOS", builder.os.clone()),
            ("BUILDOSVERSION", builder.os_version.clone()),
            ("BUILDARCH", builder.architecture.clone()),
            ("BUILDVARIANT", builder.variant.clone()),
            ("TARGETPLATFORM", target.to_string()),
            ("TARGETOS", target.os.clone()),
            ("TARGETOSVERSION", target.os_version.clone()),
            ("TARGETARCH", target.architecture.clone()),
            ("TARGETVARIANT", target.variant.clone()),
            ("TARGETSTAGE", stage.to_owned()),
        ];
        let value = |(name, value): (&str, String)| {
            (name.to_owned(), parameters.build_args.get(name).cloned().unwrap_or(value))
        };
        let values: BTreeMap<String, String> = known.into_iter().map(value).collect();
        Globals { size: values.values().map(String::len).sum(), values, declared: Vec::new() }
    }

    /// Declares an argument above the first `FROM`.
    pub(crate) fn declare(
        &mut self,
        argument: &Argument,
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Result<(), Fault> {
        let value = match (build_args.get(&argument.name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, None) => None,
            (None, Some(text)) => {
                let all = Lexer::new(escape).expand(text, self);
                Some(all.map_err(|why| Fault::new(why, argument.span))?.text)
            }
        };
        self.declared.push(argument.name.clone());
        if let Some(value) = value {
            self.size += value.len();
            let before = self.values.insert(argument.name.clone(), value);
            self.size -= before.map_or(0, |before| before.len());
            if self.size > LIMIT {
                return Err(Fault::new(too_much(), argument.span));
            }
        }
        Ok(())
    }

    /// All names that may stand in a `FROM`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(&self.declared).map(String::as_str)
    }
}

impl Variables for Globals {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

impl Scope {
    /// With the environment of a base image.
    pub fn new<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut scope = Scope::default();
        environment.into_iter().for_each(|(name, value)| scope.put(name, value));
        scope
    }

    /// Sets a variable, as `ENV` does.
    ///
    /// Errors: the reason, if all variables come to more than a process may get.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        self.put(name, value);
        if self.size > LIMIT { Err(too_much()) } else { Ok(()) }
    }

    /// Declares an argument, as `ARG` does, and gives its value: that of `--build-arg`, its default,
    /// or that of the argument of this name above the first `FROM`. Gives also the names of
    /// variables in its default that are not set.
    ///
    /// A value hides that of `ENV` from here on, as in BuildKit.
    ///
    /// Errors: a default that cannot be expanded (a default that is not used does not matter).
    pub fn declare(
        &mut self,
        argument: &Argument,
        globals: &Globals,
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Result<(Option<String>, Vec<String>), Fault> {
        let mut unset = Vec::new();
        let value = match (build_args.get(&argument.name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(text)) => {
                let all = Lexer::new(escape).expand(text, self);
                let all = all.map_err(|why| Fault::new(why, argument.span))?;
                unset.extend(all.unmatched);
                Some(all.text)
            }
            (None, None) => globals.get(&argument.name).map(str::to_owned),
        };
        if let Some(value) = &value {
            self.set(&argument.name, value).map_err(|why| Fault::new(why, argument.span))?;
        }
        self.arguments.push((argument.name.clone(), value.clone()));
        Ok((value, unset))
    }

    /// All variables, in the order of their first appearance.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The arguments that were declared, each once, with what they are now, as the history of a `RUN`
    /// shows them.
    pub fn arguments(&self) -> Vec<(&str, &str)> {
        let mut out: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &self.arguments {
            let now = self.get(name).or(value.as_deref()).unwrap_or_default();
            match out.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = now,
                None => out.push((name, now)),
            }
        }
        out
    }

    /// Whether `ARG` declared this name, with a value or not.
    pub fn declares(&self, name: &str) -> bool {
        self.arguments.iter().any(|(known, _)| known == name)
    }

    fn put(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(place) => {
                let known = &mut self.variables[*place].1;
                self.size -= known.len();
                value.clone_into(known);
            }
            None => {
                self.size += name.len();
                self.places.insert(name.to_owned(), self.variables.len());
                self.variables.push((name.to_owned(), value.to_owned()));
            }
        }
        self.size += value.len();
    }
}

impl Variables for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.variables[*place].1.as_str())
    }
}

fn too_much() -> String {
    format!("all variables come to more than {LIMIT} bytes")
}
