//! Progress of pull, push and load: a line a layer that is drawn anew on a terminal, and a plain
//! line for each step otherwise.

use std::io::Write;
use std::time::{Duration, Instant};

use robot_env_diag::Escaped;

use crate::format::human;

/// The least time between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// How far a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 when unknown.
    pub total: u64,
}

/// Who hears of progress. Implementations never fail: progress is no reason to stop.
pub trait Observer {
    /// A line of its own (`Pulling from library/x`).
    fn message(&mut self, text: &str);
    /// `item` (a layer's short digest) is at `step`; `amount` while bytes move.
    fn step(&mut self, item: &str, step: &str, amount: Option<Amount>);
    /// Everything is done: what is pending is drawn.
    fn finish(&mut self);
}

struct Line {
    item: String,
    step: String,
    amount: Option<Amount>,
}

/// Draws progress.
pub struct Progress<W: Write> {
    out: W,
    /// Columns of the terminal; `None`: not a terminal.
    columns: Option<usize>,
    lines: Vec<Line>,
    drawn: usize,
    last: Option<Instant>,
}

impl<W: Write> Progress<W> {
    /// `columns` are those of the terminal behind `out`; `None` for plain lines.
    pub fn new(out: W, columns: Option<usize>) -> Self {
        Progress { out, columns, lines: Vec::new(), drawn: 0, last: None }
    }

    fn draw(&mut self) {
        let Some(columns) = self.columns else { return };
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &self.lines {
            text.push_str("\r\x1b[2K");
            text.extend(describe(line, columns).chars().take(columns.saturating_sub(1)));
            text.push('\n');
        }
        self.drawn = self.lines.len();
        self.last = Some(Instant::now());
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

/// `a1b2c3: Downloading [=====>      ]  12.3MB/45.6MB`
fn describe(line: &Line, columns: usize) -> String {
    let head = format!("{}: {}", Escaped(&line.item), Escaped(&line.step));
    let Some(amount) = line.amount else { return head };
    let done = human::decimal(amount.done);
    if amount.total == 0 {
        return format!("{head} {done:>8}");
    }
    let numbers = format!("{done:>8}/{}", human::decimal(amount.total));
    let room = columns.saturating_sub(head.chars().count() + numbers.chars().count() + 6).min(50);
    if room < 5 {
        return format!("{head} {numbers}");
    }
    let filled = (amount.done.min(amount.total) as u128 * room as u128 / amount.total as u128) as usize;
    let bar = if filled < room {
        format!("{}>{}", "=".repeat(filled), " ".repeat(room - filled - 1))
    } else {
        "=".repeat(room)
    };
    format!("{head} [{bar}] {numbers}")
}

impl<W: Write> Observer for Progress<W> {
    fn message(&mut self, text: &str) {
        // Lines that come later are drawn below it.
        if self.columns.is_some() && !self.lines.is_empty() {
            self.draw();
            self.lines.clear();
            self.drawn = 0;
        }
        let _ = writeln!(self.out, "{}", Escaped(text));
        let _ = self.out.flush();
    }

    fn step(&mut self, item: &str, step: &str, amount: Option<Amount>) {
        let changed = match self.lines.iter_mut().find(|line| line.item == item) {
            Some(line) => {
                let changed = line.step != step;
                if changed {
                    step.clone_into(&mut line.step);
                }
                line.amount = amount;
                changed
            }
            None => {
                self.lines.push(Line { item: item.to_owned(), step: step.to_owned(), amount });
                true
            }
        };
        if self.columns.is_none() {
            // What moves byte by byte says nothing in a log.
            if changed && amount.is_none() {
                let _ = writeln!(self.out, "{}: {}", Escaped(item), Escaped(step));
                let _ = self.out.flush();
            }
        } else if changed && amount.is_none() || self.last.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.draw();
        }
    }

    fn finish(&mut self) {
        if self.columns.is_some() && !self.lines.is_empty() {
            self.draw();
        }
        self.lines.clear();
        self.drawn = 0;
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(columns: Option<usize>) -> String {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, columns);
        progress.message("Pulling from library/a");
        progress.step("abc", "Pulling fs layer", None);
        progress.step("abc", "Downloading", Some(Amount { done: 500_000, total: 1_000_000 }));
        progress.step("abc", "Pull complete", None);
        progress.step("d\x1b", "Already exists", None);
        drop(progress);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_lines_without_a_terminal() {
        assert_eq!(
            script(None),
            "Pulling from library/a\nabc: Pulling fs layer\nabc: Pull complete\nd\\u{1b}: Already exists\n"
        );
    }

    #[test]
    fn a_terminal_is_drawn_anew() {
        let text = script(Some(80));
        assert!(text.contains("\x1b[1A") && text.contains("\x1b[2Kabc: Pull complete\n"), "{text:?}");
        assert!(text.ends_with("d\\u{1b}: Already exists\n"));
        let line = Line {
            item: "abc".into(),
            step: "Downloading".into(),
            amount: Some(Amount { done: 500_000, total: 1_000_000 }),
        };
        assert_eq!(describe(&line, 60), "abc: Downloading [=============>            ]    500kB/1MB");
        assert_eq!(describe(&line, 10), "abc: Downloading    500kB/1MB");
        let line = Line { amount: Some(Amount { done: 7, total: 0 }), ..line };
        assert_eq!(describe(&line, 60), "abc: Downloading       7B");
    }
}
