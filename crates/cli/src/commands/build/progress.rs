//! What a build shows while it works: `#3 [2/4] RUN make`, `#3 0.512 output`, `#3 DONE 1.2s`.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use robot_env_build::{Built, Observer};
use robot_env_diag::{Error, Escaped, Result};
use robot_env_engine::stream::Stream;

use crate::app::App;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Line after line.
    Plain,
    /// The same, shorter, with colours.
    Terminal,
    /// A JSON object a line.
    Json,
    /// Not at all.
    Quiet,
}

impl Style {
    pub(super) fn of(text: &str, app: &App) -> Result<Style> {
        Ok(match text {
            "auto" if app.ambient().stderr_is_terminal => Style::Terminal,
            "auto" | "plain" => Style::Plain,
            "tty" => Style::Terminal,
            "json" | "rawjson" => Style::Json,
            "quiet" | "none" => Style::Quiet,
            _ => {
                return Err(Error::invalid(format!(
                    "invalid argument `{text}` for --progress: there are auto, plain, tty, json and quiet"
                )));
            }
        })
    }
}

/// Writes it to standard error.
pub(super) struct Progress {
    style: Style,
    begun: Instant,
    steps: HashMap<usize, Shown>,
}

struct Shown {
    label: String,
    begun: Instant,
    /// The last line, which has no end yet.
    partial: Vec<u8>,
    /// Lines of a step that is not shown while it works: they are shown when it fails.
    lines: Vec<String>,
}

/// How many lines of a failed step are shown again.
const LAST: usize = 20;

impl Progress {
    pub(super) fn new(style: Style) -> Self {
        Progress { style, begun: Instant::now(), steps: HashMap::new() }
    }

    fn print(&mut self, number: usize, bytes: &[u8]) {
        let Some(step) = self.steps.get_mut(&number) else { return };
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\r');
        let seconds = step.begun.elapsed().as_secs_f64();
        step.lines.push(text.to_owned());
        if step.lines.len() > LAST {
            step.lines.remove(0);
        }
        match self.style {
            Style::Plain => line(&format!("#{number} {seconds:.3} {text}")),
            Style::Terminal => line(&format!("\x1b[2m   {text}\x1b[0m")),
            Style::Json | Style::Quiet => {}
        }
    }

    /// Shows what was built.
    pub(super) fn end(&mut self, built: Option<&Built>) {
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
        match self.style {
            Style::Plain => line(&format!("#{step} {}", Escaped(&label))),
            Style::Terminal => line(&format!("\x1b[1m=> {}\x1b[0m", Escaped(&label))),
            Style::Json => json(serde_json::json!({ "step": step, "begin": label })),
            Style::Quiet => {}
        }
        self.steps
            .insert(step, Shown { label, begun: Instant::now(), partial: Vec::new(), lines: Vec::new() });
    }

    fn cached(&mut self, step: usize) {
        match self.style {
            Style::Plain => line(&format!("#{step} CACHED\n")),
            Style::Terminal => line("   cached"),
            Style::Json => json(serde_json::json!({ "step": step, "cached": true })),
            Style::Quiet => {}
        }
    }

    fn output(&mut self, step: usize, stream: Stream, bytes: &[u8]) {
        if self.style == Style::Json {
            let text = String::from_utf8_lossy(bytes);
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            json(serde_json::json!({ "step": step, "stream": stream, "output": text }));
        }
        let Some(shown) = self.steps.get_mut(&step) else { return };
        let mut all = std::mem::take(&mut shown.partial);
        all.extend_from_slice(bytes);
        let end = all.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        shown.partial = all.split_off(end);
        let lines: Vec<&[u8]> =
            all.strip_suffix(b"\n").map_or_else(Vec::new, |text| text.split(|b| *b == b'\n').collect());
        for line in lines {
            self.print(step, line);
        }
    }

    fn done(&mut self, step: usize, time: Duration) {
        self.flush(step);
        let seconds = time.as_secs_f64();
        match self.style {
            Style::Plain => line(&format!("#{step} DONE {seconds:.1}s\n")),
            Style::Terminal => line(&format!("   {seconds:.1} s")),
            Style::Json => json(serde_json::json!({ "step": step, "done": seconds })),
            Style::Quiet => {}
        }
    }

    fn failed(&mut self, step: usize) {
        self.flush(step);
        match self.style {
            Style::Plain | Style::Terminal => line(&format!("#{step} ERROR\n")),
            Style::Json => json(serde_json::json!({ "step": step, "failed": true })),
            Style::Quiet => {
                if let Some(shown) = self.steps.get(&step) {
                    line(&format!("{}:", Escaped(&shown.label)));
                    for text in &shown.lines {
                        line(&format!("  {text}"));
                    }
                }
            }
        }
    }
}

impl Progress {
    /// The last line may lack its end.
    fn flush(&mut self, step: usize) {
        let Some(shown) = self.steps.get_mut(&step) else { return };
        let partial = std::mem::take(&mut shown.partial);
        if !partial.is_empty() {
            self.print(step, &partial);
        }
    }
}
