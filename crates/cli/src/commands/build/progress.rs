//! What a build shows while it works, on standard error: a live view on a terminal, lines otherwise
//! (`#3 [2/4] RUN make`, `#3 0.512 output`, `#3 DONE 1.2s`), objects of JSON, or nothing.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use robot_env_build::{Built, Failure, MadeLayer, Observer, Place};
use robot_env_diag::{Error, Escaped, Result};
use robot_env_engine::stream::Stream;
use robot_env_oci::Platform;
use robot_env_transfer::Amount;

use super::terminal::{Live, View};
use super::text::{Lines, clean};
use crate::app::{self, App};
use crate::format::human;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Line after line.
    Plain,
    /// A live view.
    Terminal,
    /// A JSON object a line.
    Json,
    /// Not at all.
    Quiet,
}

impl Style {
    /// By the word of `--progress`; without one by `BUILDKIT_PROGRESS`, as Docker's.
    pub(super) fn of(text: Option<&str>, app: &App) -> Result<Style> {
        let ambient = app.ambient();
        let given = text.or_else(|| ambient.variable("BUILDKIT_PROGRESS").filter(|text| !text.is_empty()));
        Ok(match given.unwrap_or("auto") {
            "auto" | "tty" if ambient.stderr_is_terminal => Style::Terminal,
            "auto" | "plain" => Style::Plain,
            "tty" => {
                return Err(Error::invalid("cannot show progress as `tty`: standard error is no terminal"));
            }
            "json" | "rawjson" => Style::Json,
            "quiet" | "none" => Style::Quiet,
            other => {
                return Err(Error::invalid(format!(
                    "invalid argument `{other}` for --progress: there are auto, plain, tty, json and quiet"
                )));
            }
        })
    }
}

/// Writes it.
pub(super) struct Progress {
    style: Style,
    colours: bool,
    begun: Instant,
    live: Option<Live>,
    steps: HashMap<usize, Shown>,
    /// The layers of what was built, for each platform.
    layers: Vec<(Platform, Vec<MadeLayer>)>,
    /// Whether a step did more than to look into the cache.
    worked: bool,
}

struct Shown {
    begun: Instant,
    lines: Lines,
}

/// How many lines of a failed step are shown again.
const LAST: usize = 20;

impl Progress {
    pub(super) fn new(style: Style, app: &App) -> Self {
        let ambient = app.ambient();
        let colours = ambient.stderr_is_terminal && ambient.variable("NO_COLOR").is_none_or(str::is_empty);
        let live = (style == Style::Terminal).then(|| {
            let size = || robot_env_sys::terminal::size(std::io::stderr()).unwrap_or((24, 80));
            Live::begin(View::new(Box::new(std::io::stderr()), Box::new(size), colours))
        });
        Progress {
            style,
            colours,
            begun: Instant::now(),
            live,
            steps: HashMap::new(),
            layers: Vec::new(),
            worked: false,
        }
    }

    /// Hears of the pulls of this build.
    pub(super) fn pulls(&self) -> Pulls {
        Pulls { style: self.style, live: self.live.as_ref().map(Live::shared) }
    }

    fn print(&self, number: usize, begun: Instant, bytes: &[u8]) {
        if self.style == Style::Plain {
            let seconds = begun.elapsed().as_secs_f64();
            line(format!("#{number} {seconds:.3} {}", clean(bytes, self.colours)).trim_end());
        }
    }

    /// Shows what was built; the view is gone then.
    pub(super) fn end(&mut self, built: Option<&Built>) {
        if let Some(mut live) = self.live.take() {
            live.end();
        }
        let Some(built) = built else { return };
        let time = self.begun.elapsed().as_secs_f64();
        match self.style {
            Style::Plain | Style::Terminal => {
                line(&format!("image {} in {time:.2} s", built.image));
                for name in &built.names {
                    line(&format!("named {}", name.familiar()));
                }
            }
            Style::Json => {
                let names: Vec<String> = built.names.iter().map(ToString::to_string).collect();
                json(
                    serde_json::json!({ "image": built.image.to_string(), "names": names, "seconds": time }),
                );
            }
            Style::Quiet => {}
        }
    }

    /// The layers of what was built, for each platform, if any of them is new.
    pub(super) fn new_layers(&self) -> &[(Platform, Vec<MadeLayer>)] {
        if self.worked && self.style != Style::Quiet { &self.layers } else { &[] }
    }

    /// Whether warnings and reports reach anybody.
    pub(super) fn is_shown(&self) -> bool {
        self.style != Style::Quiet
    }

    /// Says something beside: a warning, the report of space.
    pub(super) fn say(&self, text: &str) {
        if matches!(self.style, Style::Plain | Style::Terminal) {
            text.lines().for_each(line);
        }
    }

    /// The same as an object.
    pub(super) fn say_json(&self, value: serde_json::Value) {
        if self.style == Style::Json {
            json(value);
        }
    }
}

fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn json(value: serde_json::Value) {
    line(&value.to_string());
}

impl Observer for Progress {
    fn begin(&mut self, step: usize, label: &str) {
        let first = label.lines().next().unwrap_or_default();
        let label = if label.lines().count() > 1 { format!("{first} ...") } else { first.to_owned() };
        let label = Escaped(&label).to_string();
        match (self.style, &self.live) {
            (Style::Plain, _) => line(&format!("#{step} {label}")),
            (Style::Json, _) => json(serde_json::json!({ "step": step, "begin": label })),
            (_, Some(live)) => live.view().begin(step, &label),
            _ => {}
        }
        self.steps.insert(step, Shown { begun: Instant::now(), lines: Lines::default() });
    }

    fn place(&mut self, step: usize, place: &Place) {
        if self.style == Style::Json {
            let (stage, number, count, line) = (&place.stage, place.number, place.count, place.line);
            json(serde_json::json!({
                "step": step, "stage": stage, "number": number, "count": count, "line": line,
            }));
        }
    }

    fn cached(&mut self, step: usize) {
        match (self.style, &self.live) {
            (Style::Plain, _) => line(&format!("#{step} CACHED\n")),
            (Style::Json, _) => json(serde_json::json!({ "step": step, "cached": true })),
            (_, Some(live)) => live.view().cached(step),
            _ => {}
        }
    }

    fn output(&mut self, step: usize, stream: Stream, bytes: &[u8]) {
        if self.style == Style::Json {
            let text = String::from_utf8_lossy(bytes);
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            json(serde_json::json!({ "step": step, "stream": stream, "output": text }));
        } else if let Some(live) = &self.live {
            live.view().output(step, bytes);
        } else if let Some(shown) = self.steps.get_mut(&step) {
            let (begun, lines) = (shown.begun, shown.lines.feed(bytes));
            for bytes in lines {
                self.print(step, begun, &bytes);
            }
        }
    }

    fn layers(&mut self, platform: &Platform, layers: &[MadeLayer]) {
        self.layers.push((platform.clone(), layers.to_vec()));
    }

    fn layer(&mut self, step: usize, size: u64) {
        self.worked = true;
        match (self.style, &self.live) {
            (Style::Json, _) => json(serde_json::json!({ "step": step, "layer": size })),
            (_, Some(live)) => live.view().layer(step, size),
            (Style::Plain, _) => {
                self.flush(step);
                line(&format!("#{step} layer of {}", human::short(size)));
            }
            _ => {}
        }
    }

    fn done(&mut self, step: usize, time: Duration) {
        self.flush(step);
        let seconds = time.as_secs_f64();
        match (self.style, &self.live) {
            (Style::Plain, _) => line(&format!("#{step} DONE {seconds:.1}s\n")),
            (Style::Json, _) => json(serde_json::json!({ "step": step, "done": seconds })),
            (_, Some(live)) => live.view().done(step, time),
            _ => {}
        }
    }

    fn failed(&mut self, step: usize) {
        self.flush(step);
        match (self.style, &self.live) {
            (Style::Plain, _) => line(&format!("#{step} ERROR\n")),
            (Style::Json, _) => json(serde_json::json!({ "step": step, "failed": true })),
            (_, Some(live)) => live.view().failed(step),
            _ => {}
        }
    }

    fn failure(&mut self, failure: &Failure) {
        if let Some(mut live) = self.live.take() {
            live.end();
        }
        if self.style == Style::Json {
            json(serde_json::json!({ "failure": {
                "file": failure.file, "stage": failure.stage, "step": failure.step, "line": failure.line,
                "column": failure.column, "excerpt": failure.excerpt,
                "output": String::from_utf8_lossy(&failure.output),
            }}));
            return;
        }
        line(excerpt(failure, self.colours).trim_end());
    }
}

impl Progress {
    /// The last line may lack its end.
    fn flush(&mut self, step: usize) {
        let Some(shown) = self.steps.get_mut(&step) else { return };
        if let (begun, Some(bytes)) = (shown.begun, shown.lines.end()) {
            self.print(step, begun, &bytes);
        }
    }
}

/// The last output of what failed, and its lines of the Dockerfile.
fn excerpt(failure: &Failure, colours: bool) -> String {
    let mut out = String::new();
    if !failure.output.is_empty() {
        let mut lines = Lines::default();
        let mut all = lines.feed(&failure.output);
        all.extend(lines.end());
        let label = failure.label.lines().next().unwrap_or_default();
        out.push_str(&format!("------\n > {}:\n", Escaped(label)));
        for text in all.iter().skip(all.len().saturating_sub(LAST)) {
            out.push_str(clean(text, colours).trim_end());
            out.push('\n');
        }
        out.push_str("------\n");
    }
    if !failure.excerpt.is_empty() {
        let rule = "-".repeat(20);
        out.push_str(&format!("{}:{}\n{rule}\n{}{rule}\n", failure.file, failure.line, failure.excerpt));
    }
    out
}

/// Hears of pulls, from whichever thread.
pub(super) struct Pulls {
    style: Style,
    live: Option<Arc<Mutex<View>>>,
}

impl Pulls {
    /// Nobody hears.
    pub(super) fn silent() -> Pulls {
        Pulls { style: Style::Quiet, live: None }
    }

    /// Who hears of one of them.
    pub(super) fn observer(&self) -> Box<dyn robot_env_transfer::Observer> {
        match (self.style, &self.live) {
            (_, Some(view)) => Box::new(Pull(view.clone())),
            (Style::Plain, None) => app::error_observer(false, false),
            _ => Box::new(()),
        }
    }
}

/// A pull in the live view.
struct Pull(Arc<Mutex<View>>);

impl robot_env_transfer::Observer for Pull {
    /// What it says is not worth a line: the step tells its image.
    fn message(&self, _text: &str) {}

    fn step(&self, item: &str, step: &str, amount: Option<Amount>) {
        let mut view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, all) = amount.map_or((0, 0), |amount| (amount.done, amount.total));
        view.pull(item, step, done, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_last_output_and_the_lines() {
        let failure = Failure {
            file: "Dockerfile".into(),
            stage: None,
            step: Some(2),
            label: "[2/2] RUN make\\\n  all".into(),
            line: 2,
            column: 1,
            excerpt: " 1 |     FROM a\n 2 | >>> RUN make\n".into(),
            output: b"\x1b[31mno rule\x1b[0m\nhalf".to_vec(),
        };
        assert_eq!(
            excerpt(&failure, false),
            "------\n > [2/2] RUN make\\:\nno rule\nhalf\n------\nDockerfile:2\n--------------------\n \
             1 |     FROM a\n 2 | >>> RUN make\n--------------------\n"
        );
        let many: Vec<u8> = (0..50).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let text = excerpt(&Failure { output: many, excerpt: String::new(), ..failure }, false);
        assert_eq!(text.lines().filter(|line| line.starts_with("line ")).count(), LAST);
        assert!(text.ends_with("line 49\n------\n"), "{text}");
    }
}
