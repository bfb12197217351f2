//! Progress of pull, push and load: a line a layer that is drawn anew on a terminal, and a plain
//! line for each step otherwise.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use robot_env_diag::Escaped;
use robot_env_sys::terminal::Size;
use robot_env_transfer::{Amount, Observer};

use crate::format::human;

/// The least time between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

struct Line {
    item: String,
    step: String,
    amount: Option<Amount>,
}

/// Draws progress. Many threads may tell it.
pub struct Progress<W: Write>(Mutex<Drawing<W>>);

struct Drawing<W: Write> {
    out: W,
    /// The terminal's size; `None`: not a terminal.
    terminal: Option<(usize, usize)>,
    lines: Vec<Line>,
    drawn: usize,
    last: Option<Instant>,
}

impl<W: Write> Progress<W> {
    /// `terminal` is the size of the terminal behind `out`; `None` for plain lines.
    pub fn new(out: W, terminal: Option<Size>) -> Self {
        let terminal = terminal.map(|(rows, columns)| (rows as usize, columns as usize));
        Progress(Mutex::new(Drawing { out, terminal, lines: Vec::new(), drawn: 0, last: None }))
    }

    fn with(&self, act: impl FnOnce(&mut Drawing<W>)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<W: Write> Drawing<W> {
    /// Draws the lines anew; those that do not fit on the terminal only at the `end`, as what has
    /// left it at the top cannot be changed any more.
    fn draw(&mut self, end: bool) {
        let Some((rows, columns)) = self.terminal else { return };
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let room = rows.saturating_sub(1).max(2);
        let mut shown: Vec<String> = Vec::new();
        if end || self.lines.len() <= room {
            shown.extend(self.lines.iter().map(|line| describe(line, columns)));
        } else {
            // Those where something moves; the others are counted.
            let moving = self.lines.iter().filter(|line| line.amount.is_some());
            shown.extend(moving.take(room - 1).map(|line| describe(line, columns)));
            shown.push(format!("and {} more", self.lines.len() - shown.len()));
        }
        for line in &shown {
            text.push_str("\r\x1b[2K");
            text.extend(line.chars().take(columns.saturating_sub(1)));
            text.push('\n');
        }
        let left_over = self.drawn.saturating_sub(shown.len());
        if left_over > 0 {
            text.push_str("\x1b[J");
        }
        self.drawn = shown.len();
        self.last = Some(Instant::now());
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    fn end(&mut self) {
        if self.terminal.is_some() && !self.lines.is_empty() {
            self.draw(true);
        }
        self.lines.clear();
        self.drawn = 0;
    }

    fn message(&mut self, text: &str) {
        // Lines that come later are drawn below it.
        self.end();
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
        if self.terminal.is_none() {
            // What moves byte by byte says nothing in a log.
            if changed && amount.is_none() {
                let _ = writeln!(self.out, "{}: {}", Escaped(item), Escaped(step));
                let _ = self.out.flush();
            }
        } else if changed && amount.is_none() || self.last.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.draw(false);
        }
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

impl<W: Write + Send> Observer for Progress<W> {
    fn message(&self, text: &str) {
        self.with(|drawing| drawing.message(text));
    }

    fn step(&self, item: &str, step: &str, amount: Option<Amount>) {
        self.with(|drawing| drawing.step(item, step, amount));
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.with(Drawing::end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(terminal: Option<Size>) -> String {
        let mut out = Vec::new();
        let progress = Progress::new(&mut out, terminal);
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
        let text = script(Some((24, 80)));
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
    #[test]
    fn what_does_not_fit_is_counted_and_shown_at_the_end() {
        let mut out = Vec::new();
        let progress = Progress::new(&mut out, Some((5, 80)));
        for item in ["a", "b", "c", "d", "e"] {
            progress.step(item, "Waiting", None);
        }
        progress.step("e", "Downloading", Some(Amount { done: 1, total: 2 }));
        progress.step("a", "Pull complete", None);
        drop(progress);
        let text = String::from_utf8(out).unwrap();
        let drawings: Vec<&str> = text.split("\x1b[4A").collect();
        assert!(drawings[1].contains("and 5 more"), "{text:?}");
        assert!(text.contains("e: Downloading") && text.contains("and 4 more"), "{text:?}");
        let end = text.rsplit("\x1b[2A").next().unwrap();
        for item in ["a: Pull complete", "b: Waiting", "d: Waiting", "e: Downloading"] {
            assert!(end.contains(item), "{text:?}");
        }
    }
}
