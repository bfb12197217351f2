//! What a build does, in the words of Docker's classic builder, which clients look for.
//!
//! The classic builder counts all instructions, and makes an image of each. Here instructions that
//! only change the config are no steps and have no image: they are told of with the step behind them,
//! and ids are told where there are some (the base's and the result's).

use std::collections::BTreeMap;
use std::time::Duration;

use robot_env_build::{Built, Observer};
use robot_env_diag::Error;
use robot_env_dockerfile::Dockerfile;
use robot_env_engine::Engine;
use robot_env_engine::stream::Stream;
use serde_json::json;

use crate::failure::text_of;
use crate::images::transfer::Teller;

/// How much of a quiet build's output is kept for its failure.
const KEPT: usize = 64 * 1024;

/// An instruction of a stage that is built.
struct Line {
    /// What the progress calls its stage; `None` where there is only one.
    stage: Option<String>,
    text: String,
    told: bool,
}

/// A step at work.
#[derive(Default)]
struct Step {
    /// The base image of a `FROM`.
    base: Option<String>,
    /// Bytes of a character that has not arrived as a whole, of both streams.
    partial: [Vec<u8>; 2],
}

/// Tells a client of a build.
pub(super) struct Classic<'t> {
    teller: &'t Teller,
    engine: &'t Engine,
    lines: Vec<Line>,
    steps: BTreeMap<usize, Step>,
    quiet: bool,
    /// What a quiet build has not told.
    kept: String,
}

impl<'t> Classic<'t> {
    pub(super) fn new(
        teller: &'t Teller,
        engine: &'t Engine,
        file: &Dockerfile,
        target: Option<&str>,
        quiet: bool,
    ) -> Classic<'t> {
        Classic {
            teller,
            engine,
            lines: lines(file, target),
            steps: BTreeMap::new(),
            quiet,
            kept: String::new(),
        }
    }

    fn say(&mut self, text: &str) {
        if !self.quiet {
            self.teller.line(&json!({ "stream": text }));
            return;
        }
        self.kept.push_str(text);
        if self.kept.len() > 2 * KEPT {
            let mut from = self.kept.len() - KEPT;
            while !self.kept.is_char_boundary(from) {
                from += 1;
            }
            self.kept.drain(..from);
        }
    }

    /// Tells of the lines up to the one with this number.
    fn tell(&mut self, last: usize) {
        let stage = self.lines[last].stage.clone();
        for at in 0..=last {
            if self.lines[at].told || at != last && self.lines[at].stage != stage {
                continue;
            }
            self.lines[at].told = true;
            let text = format!("Step {}/{} : {}", at + 1, self.lines.len(), self.lines[at].text);
            self.say(&text);
            self.say("\n");
        }
    }

    /// Tells of what came out.
    pub(super) fn end(&mut self, built: &Built) {
        if let Some(last) = self.lines.len().checked_sub(1) {
            for at in 0..=last {
                if !self.lines[at].told {
                    self.tell(at);
                }
            }
        }
        let short = built.image.short();
        if self.quiet {
            self.teller.line(&json!({ "stream": format!("{}\n", built.image) }));
            return;
        }
        self.say(&format!(" ---> {short}\n"));
        self.teller.line(&json!({ "aux": { "ID": built.image.to_string() } }));
        self.say(&format!("Successfully built {short}\n"));
        for name in &built.names {
            self.say(&format!("Successfully tagged {}\n", name.familiar()));
        }
    }

    /// Tells why nothing came out.
    pub(super) fn failed_build(&mut self, error: &Error) {
        if self.quiet && !self.kept.is_empty() {
            self.teller.line(&json!({ "stream": std::mem::take(&mut self.kept) }));
        }
        let line = match exit_of(error) {
            Some((code, message)) => {
                json!({ "errorDetail": { "code": code, "message": message }, "error": message })
            }
            None => {
                let text = text_of(error);
                json!({ "errorDetail": { "message": text }, "error": text })
            }
        };
        self.teller.line(&line);
    }
}

/// The instructions that are executed, as the classic builder counts them.
fn lines(file: &Dockerfile, target: Option<&str>) -> Vec<Line> {
    let globals = file.globals(&robot_env_dockerfile::Parameters::default());
    let needed = globals
        .and_then(|globals| file.resolve(&globals))
        .and_then(|all| file.needed(&all, file.target(target)?))
        // A mistake is the build's to tell.
        .unwrap_or_else(|_| (0..file.stages.len()).collect());
    let single = file.stages.len() == 1 && file.stages[0].name.is_none();
    let mut lines = Vec::new();
    for number in needed {
        let stage = &file.stages[number];
        let label = Some(file.label(number)).filter(|_| !single);
        let texts = std::iter::once(&stage.source).chain(stage.steps.iter().map(|step| &step.source));
        lines.extend(texts.map(|text| Line { stage: label.clone(), text: text.clone(), told: false }));
    }
    lines
}

/// The stage and the text of what a build calls a step: `[stage 1/2] RUN make` or `[1/2] RUN make`.
fn parts(label: &str) -> (Option<&str>, &str) {
    let Some((place, text)) = label.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return (None, label);
    };
    (place.rsplit_once(' ').map(|(stage, _)| stage), text)
}

/// What a command's failure is in Docker's words, and its exit code.
fn exit_of(error: &Error) -> Option<(i32, String)> {
    let mut texts = std::iter::once(error.message().to_owned()).chain(error.causes());
    texts.find_map(|text| {
        let rest = text.strip_prefix("the command `")?;
        let (command, code) = rest.rsplit_once("` ended with exit code ")?;
        let code = code.trim().parse().ok()?;
        Some((code, format!("The command '{command}' returned a non-zero code: {code}")))
    })
}

/// The part of some bytes that is whole characters, as text; the rest of a last one stays.
fn characters(bytes: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    };
    let rest = bytes.split_off(whole);
    String::from_utf8_lossy(&std::mem::replace(bytes, rest)).into_owned()
}

impl Observer for Classic<'_> {
    fn begin(&mut self, step: usize, label: &str) {
        let (stage, text) = parts(label);
        let base = text.strip_prefix("FROM ").map(str::to_owned);
        let is_own = |line: &Line| {
            !line.told
                && line.stage.as_deref() == stage
                && (line.text == text
                    || base.is_some() && line.text.get(..5).is_some_and(|w| w.eq_ignore_ascii_case("from ")))
        };
        match self.lines.iter().position(is_own) {
            Some(line) => self.tell(line),
            None => self.say(&format!("# Executing build trigger: {text}\n")),
        }
        self.steps.insert(step, Step { base, ..Step::default() });
    }

    fn cached(&mut self, _step: usize) {
        self.say(" ---> Using cache\n");
    }

    fn output(&mut self, step: usize, stream: Stream, bytes: &[u8]) {
        let Some(own) = self.steps.get_mut(&step) else { return };
        let partial = &mut own.partial[usize::from(stream == Stream::Stderr)];
        partial.extend_from_slice(bytes);
        let text = characters(partial);
        if text.is_empty() {
            return;
        }
        // Docker's client shows errors of the classic builder in red.
        let text = if stream == Stream::Stderr { format!("\x1b[91m{text}\x1b[0m") } else { text };
        self.say(&text);
    }

    fn done(&mut self, step: usize, _time: Duration) {
        let Some(own) = self.steps.remove(&step) else { return };
        if let Some(image) = own.base.and_then(|name| self.engine.store().resolve(&name).ok()) {
            self.say(&format!(" ---> {}\n", image.id.short()));
        }
    }

    fn failed(&mut self, step: usize) {
        self.steps.remove(&step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted() {
        let text = "ARG V=1\nFROM a:$V AS one\nRUN x\nFROM b AS two\nENV a=b\nRUN y\\\n z\nFROM one\nCOPY --from=one /a /b\n";
        let file = Dockerfile::parse(text).unwrap();
        let told: Vec<(Option<String>, String)> =
            lines(&file, None).into_iter().map(|line| (line.stage, line.text)).collect();
        let texts: Vec<&str> = told.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["FROM a:$V AS one", "RUN x", "FROM one", "COPY --from=one /a /b"]);
        assert_eq!(told[0].0.as_deref(), Some("one"));
        assert_eq!(lines(&file, Some("two")).len(), 3);
    }

    #[test]
    fn labels_are_taken_apart() {
        assert_eq!(parts("[one 1/2] RUN a] b"), (Some("one"), "RUN a] b"));
        assert_eq!(parts("[1/2] FROM a"), (None, "FROM a"));
        assert_eq!(parts("other"), (None, "other"));
    }

    #[test]
    fn failures_are_dockers() {
        let error =
            Error::invalid("the command `/bin/sh -c exit 3` ended with exit code 3").within("cannot build");
        let (code, text) = exit_of(&error).unwrap();
        assert_eq!((code, text.as_str()), (3, "The command '/bin/sh -c exit 3' returned a non-zero code: 3"));
        assert_eq!(exit_of(&Error::invalid("no")), None);
    }

    #[test]
    fn characters_stay_whole() {
        let mut bytes = "aé".as_bytes()[..2].to_vec();
        assert_eq!(characters(&mut bytes), "a");
        bytes.push("é".as_bytes()[1]);
        assert_eq!(characters(&mut bytes), "é");
        let mut bytes = b"a\xff".to_vec();
        assert_eq!(characters(&mut bytes), "a\u{fffd}");
    }
}
