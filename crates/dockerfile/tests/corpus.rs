//! The corpus: every Dockerfile of `corpus` reads as its `read.txt` says, is refused where Docker
//! refuses it for what the text says, and makes the config that Docker made of it.
//!
//! `UPDATE_GOLDEN=1` rewrites `read.txt`; `record-docker` rewrites `docker.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use robot_env_dockerfile::ignore::{Ignore, Matches};
use robot_env_dockerfile::{
    CommandLine, Dockerfile, Fault, Globals, Instruction, Parameters, Port, Position, Scope, Source, Step,
};
use serde_json::{Map, Value, json};

/// What the image `corpus/base` has; see `record-docker`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct Case {
    name: String,
    directory: PathBuf,
    text: String,
    docker: Value,
}

fn cases() -> Vec<Case> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let entries = std::fs::read_dir(corpus).expect("the corpus can be listed");
    let case = |directory: PathBuf| Case {
        name: directory.file_name().expect("a name").to_string_lossy().into_owned(),
        text: std::fs::read_to_string(directory.join("Dockerfile")).expect("a case has a Dockerfile"),
        docker: serde_json::from_slice(
            &std::fs::read(directory.join("docker.json")).expect("Docker built it"),
        )
        .expect("docker.json is JSON"),
        directory,
    };
    let mut cases: Vec<Case> = entries.map(|entry| case(entry.expect("and read").path())).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 120, "the corpus has {} cases", cases.len());
    cases
}

/// What became of a file.
struct Outcome {
    /// Instruction by instruction, and why it is refused.
    lines: String,
    refused: bool,
    config: Map<String, Value>,
}

/// A stage while its instructions are read.
#[derive(Clone, Default)]
struct State {
    scope: Scope,
    config: Map<String, Value>,
    own_cmd: bool,
}

struct Reader<'a> {
    parameters: &'a Parameters,
    globals: Globals,
    escape: char,
    out: &'a mut String,
}

fn read(case: &Case) -> Outcome {
    let arguments = std::fs::read_to_string(case.directory.join("arguments")).unwrap_or_default();
    let platform: robot_env_oci::Platform = "linux/amd64".parse().expect("a platform");
    let mut parameters = Parameters { target: platform.clone(), builder: platform, ..Parameters::default() };
    let mut target = None;
    for pair in arguments.lines().collect::<Vec<_>>().chunks(2) {
        match (pair[0], pair[1].split_once('=')) {
            ("--build-arg", Some((name, value))) => {
                parameters.build_args.insert(name.to_owned(), value.to_owned());
            }
            ("--target", _) => target = Some(pair[1]),
            other => panic!("arguments that no case has so far: {other:?}"),
        }
    }
    let mut lines = String::new();
    let config = read_text(&case.text, &parameters, target, &mut lines);
    let refused = config.is_err();
    if let Err(fault) = &config {
        let at = Position::at(&case.text, fault.span.start);
        writeln!(lines, "{}:{}: {}", at.line, at.column, fault.message).expect("a String takes all");
        if let Some(near) = &fault.suggestion {
            writeln!(lines, "did you mean {near}?").expect("a String takes all");
        }
    }
    Outcome { lines, refused, config: config.unwrap_or_default() }
}

fn read_text(
    text: &str,
    parameters: &Parameters,
    target: Option<&str>,
    out: &mut String,
) -> Result<Map<String, Value>, Fault> {
    let file = Dockerfile::parse(text)?;
    let globals = file.globals(parameters)?;
    let stages = file.resolve(&globals)?;
    let target = file.target(target)?;
    let mut states = vec![State::default(); stages.len()];
    let mut reader = Reader { parameters, globals, escape: file.escape, out };
    for number in file.needed(&stages, target)? {
        let resolved = &stages[number];
        let (base, platform, name) = (&resolved.base, &resolved.platform, file.label(number));
        writeln!(reader.out, "FROM {base:?} platform {platform:?} as {name}").expect("a String takes all");
        let mut state = match resolved.base {
            Source::Stage(base) => State { own_cmd: false, ..states[base].clone() },
            Source::Scratch => State::default(),
            Source::Image(_) => State {
                config: json!({ "Cmd": ["sh"] }).as_object().expect("an object").clone(),
                ..State::default()
            },
        };
        if state.config.get("Env").is_none() {
            state.scope = Scope::new([("PATH", PATH)]);
            state.config.insert("Env".into(), json!([format!("PATH={PATH}")]));
        }
        let triggers = state.config.remove("OnBuild");
        for trigger in triggers.iter().filter_map(Value::as_array).flatten() {
            let span = file.stages[number].span;
            reader.step(&Step::of_trigger(trigger.as_str().expect("a text"), span)?, &mut state)?;
        }
        for step in &file.stages[number].steps {
            reader.step(step, &mut state)?;
        }
        states[number] = state;
    }
    Ok(std::mem::take(&mut states[target].config))
}

impl Reader<'_> {
    fn say(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn step(&mut self, step: &Step, state: &mut State) -> Result<(), Fault> {
        let instruction = step.instruction.expand(self.escape, &state.scope)?.instruction;
        self.say(&format!("{instruction:?}"));
        let shell = match state.config.get("Shell").and_then(Value::as_array) {
            Some(shell) => shell.clone(),
            None => vec![json!("/bin/sh"), json!("-c")],
        };
        let line = |line: &CommandLine| match line {
            CommandLine::Exec(words) => json!(words),
            CommandLine::Shell(text) => Value::Array([shell.clone(), vec![json!(text)]].concat()),
        };
        let config = &mut state.config;
        let put = |config: &mut Map<String, Value>, key: &str, value: Value| {
            config.insert(key.to_owned(), value);
        };
        match &instruction {
            Instruction::Arg(all) => {
                for argument in all {
                    let build_args = &self.parameters.build_args;
                    let (value, _) = state.scope.declare(argument, &self.globals, build_args, self.escape)?;
                    self.say(&format!("  {} = {value:?}", argument.name));
                }
            }
            Instruction::Env(pairs) => {
                for pair in pairs {
                    state.scope.set(&pair.key, &pair.value).expect("a corpus without bombs");
                    let list = config.get_mut("Env").and_then(Value::as_array_mut).expect("Env");
                    let text = json!(format!("{}={}", pair.key, pair.value));
                    let start = format!("{}=", pair.key);
                    match list.iter_mut().find(|known| known.as_str().is_some_and(|k| k.starts_with(&start)))
                    {
                        Some(known) => *known = text,
                        None => list.push(text),
                    }
                }
            }
            Instruction::Run(run) => {
                let (mounts, _) = run.mounts(self.escape, &state.scope)?;
                self.say(&format!("  {:?}", run.script()));
                for mount in mounts {
                    self.say(&format!("  {mount:?}"));
                }
            }
            Instruction::Label(pairs) => {
                let labels = config.entry("Labels").or_insert_with(|| json!({}));
                for pair in pairs {
                    labels[&pair.key] = json!(pair.value);
                }
            }
            Instruction::Cmd(words) => {
                state.own_cmd = true;
                put(config, "Cmd", line(words));
            }
            Instruction::Entrypoint(words) => {
                if !state.own_cmd {
                    config.remove("Cmd");
                }
                put(config, "Entrypoint", line(words));
            }
            Instruction::Expose(words) => {
                let ports = config.entry("ExposedPorts").or_insert_with(|| json!({}));
                for word in words {
                    let port = Port::parse(&word.text).map_err(|why| Fault::new(why, word.span))?;
                    port.names().for_each(|name| ports[name] = json!({}));
                }
            }
            Instruction::Volume(words) => {
                let volumes = config.entry("Volumes").or_insert_with(|| json!({}));
                for word in words {
                    volumes[&word.text] = json!({});
                }
            }
            Instruction::User(word) => put(config, "User", json!(word.text)),
            Instruction::Stopsignal(word) => put(config, "StopSignal", json!(word.text)),
            Instruction::Shell(words) => put(config, "Shell", json!(words)),
            Instruction::Healthcheck(check) => {
                put(config, "Healthcheck", serde_json::to_value(check).expect("JSON"));
            }
            Instruction::Onbuild(trigger) => {
                let triggers = config.entry("OnBuild").or_insert_with(|| json!([]));
                triggers.as_array_mut().expect("a list").push(json!(trigger.expression));
            }
            // The working directory is made by the build.
            Instruction::Add(_)
            | Instruction::Copy(_)
            | Instruction::Maintainer(_)
            | Instruction::Workdir(_) => {}
        }
        Ok(())
    }
}

#[test]
fn files_read_as_recorded() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let now = read(&case).lines;
        let golden = case.directory.join("read.txt");
        if update {
            std::fs::write(&golden, &now).expect("read.txt can be written");
        }
        let recorded = std::fs::read_to_string(&golden).unwrap_or_default();
        if now != recorded {
            wrong.push(format!("{}:\n{recorded}but now\n{now}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Starts of Docker's reasons that show only when a build runs.
const LATER: [&str; 4] = [
    "executor failed running",
    "failed to compute cache key",
    "cannot copy to non-directory",
    "failed to solve with frontend dockerfile.v0: failed to create LLB definition: Invalid signal",
];

#[test]
fn docker_refuses_the_same() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.docker["rewritten"].is_null()) {
        let ours = read(case);
        match case.docker["error"].as_str() {
            Some(error) if !ours.refused && !LATER.iter().any(|later| error.starts_with(later)) => {
                wrong.push(format!("{}: Docker refuses it: {error}", case.name));
            }
            None if ours.refused => {
                wrong.push(format!("{}: Docker builds it, here:\n{}", case.name, ours.lines));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn configs_are_dockers() {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for case in cases() {
        let ours = read(&case);
        let Some(docker) = case.docker["config"].as_object().filter(|_| !ours.refused) else { continue };
        // Triggers of an image are in its config, which is not here.
        if case.text.contains("corpus/onbuild") {
            continue;
        }
        let mut docker = docker.clone();
        docker.remove("WorkingDir");
        let ours: Map<String, Value> = ours.config.into_iter().filter(|(_, value)| !empty(value)).collect();
        if ours != docker {
            wrong.push(format!("{}:\n{}\nbut Docker\n{}", case.name, json!(ours), json!(docker)));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 120, "{compared}");
}

fn empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Files of the context with `.dockerignore` applied on the way down, as a build walks it.
#[test]
fn what_is_ignored_is_dockers() {
    let context = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/context.tar");
    let mut context = tar::Archive::new(std::fs::File::open(context).expect("the context"));
    let entries: Vec<(String, bool)> = context
        .entries()
        .expect("a tar")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().trim_end_matches('/').to_owned();
            (path, entry.header().entry_type().is_dir())
        })
        .collect();
    let mut compared = 0;
    for case in cases().iter().filter(|case| case.text.contains("COPY . /all/")) {
        let text =
            std::fs::read_to_string(case.directory.join("Dockerfile.dockerignore")).unwrap_or_default();
        let ignore = Ignore::parse(&text).expect("patterns");
        let mut above: BTreeMap<String, Matches> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        for (path, directory) in &entries {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let matches = above.get(parent).cloned().unwrap_or_default();
            let (ignored, own) = ignore.ignores_entry(path, &matches);
            if *directory {
                above.insert(path.clone(), own);
                continue;
            }
            // Directories that may be skipped hold nothing that is kept.
            let skipped = path.match_indices('/').any(|(end, _)| {
                let directory = &path[..end];
                ignore.ignores(directory) && ignore.skips_directory(directory)
            });
            assert!(!skipped || ignored, "{}: {path}", case.name);
            if !ignored {
                kept.insert(format!("all/{path}"));
            }
        }
        let tree = case.docker["tree"].as_object().expect("it was built");
        let files = tree.iter().filter(|(_, entry)| entry["type"] != "directory");
        let docker: BTreeSet<String> = files.map(|(path, _)| path.clone()).collect();
        assert_eq!(kept, docker, "{}", case.name);
        compared += 1;
    }
    assert!(compared >= 9, "{compared}");
}
