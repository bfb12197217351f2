//! The live view of a build: what is done scrolls by, what is at work is drawn anew below it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use robot_env_sys::terminal::Size;

use super::text::{Lines, clean, cut, width};
use crate::format::human;

/// The least time between two drawings.
const PAUSE: Duration = Duration::from_millis(100);
/// Lines of output that a step at work shows at most.
const OUTPUT: usize = 6;

/// A step at work.
struct Step {
    label: String,
    begun: Instant,
    lines: Lines,
    /// The last lines of its output.
    last: Vec<String>,
    size: Option<u64>,
}

/// The view; `out` is a terminal.
pub(super) struct View {
    out: Box<dyn Write + Send>,
    size: Box<dyn Fn() -> Size + Send>,
    colours: bool,
    begun: Instant,
    steps: BTreeMap<usize, Step>,
    /// What is pulled, by its name: its step, bytes done and in all.
    pulls: Vec<(String, String, u64, u64)>,
    done: usize,
    cached: usize,
    /// The widths of the lines that are drawn now.
    drawn: Vec<usize>,
    last: Option<Instant>,
    ended: bool,
}

impl View {
    pub(super) fn new(out: Box<dyn Write + Send>, size: Box<dyn Fn() -> Size + Send>, colours: bool) -> View {
        View {
            out,
            size,
            colours,
            begun: Instant::now(),
            steps: BTreeMap::new(),
            pulls: Vec::new(),
            done: 0,
            cached: 0,
            drawn: Vec::new(),
            last: None,
            ended: false,
        }
    }

    fn columns(&self) -> usize {
        usize::from((self.size)().1).max(2) - 1
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What is drawn now: each line with its width.
    fn region(&self) -> Vec<(String, usize)> {
        let (rows, columns) = (usize::from((self.size)().0).max(3), self.columns());
        let elapsed = self.begun.elapsed().as_secs_f64();
        let cached = if self.cached > 0 { format!(", {} cached", self.cached) } else { String::new() };
        let title = format!("[+] Building {elapsed:.1}s, {} done{cached}", self.done);
        let mut lines = Vec::new();
        let mut push = |code: &str, text: String| {
            let wide = width(&text);
            lines.push((self.paint(code, &text), wide));
        };
        push("1", cut(&title, columns));
        let room = rows.saturating_sub(2).max(1);
        let shown = self.steps.len().min(room);
        let mut left = room - shown;
        if !self.pulls.is_empty() && left > 0 {
            left -= 1;
        }
        let each = left.checked_div(shown).unwrap_or(0).min(OUTPUT);
        for step in self.steps.values().take(shown) {
            let time = format!("{:.1}s", step.begun.elapsed().as_secs_f64());
            push("36", line(&format!(" => {}", step.label), &time, columns));
            let partial = clean(step.lines.partial(), false);
            let output = step.last.iter().chain(Some(&partial).filter(|text| !text.is_empty()));
            let output: Vec<&String> = output.collect();
            for text in output.iter().skip(output.len().saturating_sub(each)) {
                push("2", cut(&format!("    {text}"), columns));
            }
        }
        if !self.pulls.is_empty() && room > shown {
            let (done, all) = self.pulls.iter().fold((0, 0), |sum, pull| (sum.0 + pull.2, sum.1 + pull.3));
            let ready = self.pulls.iter().filter(|pull| pull.1.contains("complete")).count();
            let amount = if all > 0 {
                format!("{} of {}", human::short(done), human::short(all))
            } else {
                String::new()
            };
            let text = format!("    pulling: {ready} of {} layers", self.pulls.len());
            push("2", line(&text, &amount, columns));
        }
        lines
    }

    /// Goes back to where what is drawn begins.
    fn back(&mut self, text: &mut String) {
        let columns = self.columns() + 1;
        // A terminal that has become narrower has broken the lines that were drawn.
        let rows: usize = self.drawn.drain(..).map(|wide| wide.div_ceil(columns).max(1)).sum();
        if rows > 0 {
            text.push_str(&format!("\x1b[{rows}A"));
        }
        text.push('\r');
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    /// Draws what is at work, below `above`, which stays. Lines are written over and what is left of
    /// them is erased: to erase first flickers, and some terminals keep what is erased at their top.
    fn draw(&mut self, above: &[String]) {
        let mut text = String::new();
        self.back(&mut text);
        for line in above {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        if !self.ended {
            for (line, wide) in self.region() {
                text.push_str(&line);
                text.push_str("\x1b[K\n");
                self.drawn.push(wide);
            }
        }
        text.push_str("\x1b[J");
        self.last = Some(Instant::now());
        self.write(&text);
    }

    /// Draws, unless that was done a moment ago.
    fn touch(&mut self) {
        if self.last.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.draw(&[]);
        }
    }

    pub(super) fn begin(&mut self, number: usize, label: &str) {
        let step = Step {
            label: label.to_owned(),
            begun: Instant::now(),
            lines: Lines::default(),
            last: Vec::new(),
            size: None,
        };
        self.steps.insert(number, step);
        // What is cached ends at once.
    }

    pub(super) fn cached(&mut self, number: usize) {
        let Some(step) = self.steps.remove(&number) else { return };
        self.cached += 1;
        self.done += 1;
        let line = line(&format!(" => CACHED {}", step.label), "0.0s", self.columns());
        let line = self.paint("34", &line);
        self.draw(&[line]);
    }

    pub(super) fn output(&mut self, number: usize, bytes: &[u8]) {
        let Some(step) = self.steps.get_mut(&number) else { return };
        for line in step.lines.feed(bytes) {
            step.last.push(clean(&line, false));
        }
        let surplus = step.last.len().saturating_sub(OUTPUT);
        step.last.drain(..surplus);
        self.touch();
    }

    pub(super) fn layer(&mut self, number: usize, size: u64) {
        if let Some(step) = self.steps.get_mut(&number) {
            step.size = Some(size);
        }
    }

    pub(super) fn done(&mut self, number: usize, time: Duration) {
        let Some(step) = self.steps.remove(&number) else { return };
        self.done += 1;
        self.pulls.clear();
        let size = step.size.map(|size| format!("{}  ", human::short(size))).unwrap_or_default();
        let right = format!("{size}{:.1}s", time.as_secs_f64());
        let line = line(&format!(" => {}", step.label), &right, self.columns());
        let line = self.paint("34", &line);
        self.draw(&[line]);
    }

    pub(super) fn failed(&mut self, number: usize) {
        let Some(step) = self.steps.remove(&number) else { return };
        let time = format!("{:.1}s", step.begun.elapsed().as_secs_f64());
        let line = line(&format!(" => ERROR {}", step.label), &time, self.columns());
        let line = self.paint("31", &line);
        self.draw(&[line]);
    }

    /// What a pull does: see `robot_env_transfer::Observer`.
    pub(super) fn pull(&mut self, item: &str, step: &str, done: u64, all: u64) {
        match self.pulls.iter_mut().find(|pull| pull.0 == item) {
            Some(pull) => {
                step.clone_into(&mut pull.1);
                if all > 0 {
                    (pull.2, pull.3) = (done, all);
                } else {
                    pull.2 = pull.3;
                }
            }
            None => self.pulls.push((item.to_owned(), step.to_owned(), done, all)),
        }
        self.touch();
    }

    /// Takes the view away; what is done stays.
    fn end(&mut self) {
        self.ended = true;
        let time = self.begun.elapsed().as_secs_f64();
        let cached = if self.cached > 0 { format!(", {} cached", self.cached) } else { String::new() };
        let title = format!("[+] Building {time:.1}s, {} done{cached}", self.done);
        let title = self.paint("1", &cut(&title, self.columns()));
        self.draw(&[title]);
    }
}

/// A line with something at its right end.
fn line(left: &str, right: &str, columns: usize) -> String {
    let room = columns.saturating_sub(width(right) + 1);
    if room < 8 {
        return cut(left, columns);
    }
    let left = cut(left, room);
    let gap = room + 1 - width(&left);
    format!("{left}{}{right}", " ".repeat(gap))
}

/// A view that is drawn by itself while nothing happens, too.
pub(super) struct Live {
    view: Arc<Mutex<View>>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    ticking: Option<JoinHandle<()>>,
}

impl Live {
    pub(super) fn begin(view: View) -> Live {
        let view = Arc::new(Mutex::new(view));
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (shown, told) = (view.clone(), stop.clone());
        let ticking = std::thread::Builder::new().spawn(move || {
            let mut stopped = told.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                stopped = told.1.wait_timeout(stopped, PAUSE).map_or_else(|e| e.into_inner().0, |got| got.0);
                if !*stopped {
                    shown.lock().unwrap_or_else(PoisonError::into_inner).touch();
                }
            }
        });
        // Without the thread times stand still while nothing happens.
        Live { view, stop, ticking: ticking.ok() }
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view, for a pull.
    pub(super) fn shared(&self) -> Arc<Mutex<View>> {
        self.view.clone()
    }

    /// Ends the view, so that others write on the terminal.
    pub(super) fn end(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(ticking) = self.ticking.take() {
            let _ = ticking.join();
            self.view().end();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn view(rows: u16, columns: u16) -> (View, Out) {
        let out = Out::default();
        (View::new(Box::new(out.clone()), Box::new(move || (rows, columns)), false), out)
    }

    #[test]
    fn every_line_fits() {
        for (rows, columns) in [(24, 80), (5, 20), (3, 10), (2, 4), (1, 1), (50, 300)] {
            let (mut view, _) = view(rows, columns);
            for number in 0..5 {
                view.begin(number, &format!("[stage {number}/9] RUN 机器人 a long command with many words"));
                view.output(number, "x\n日本語 tab\there\n\x1b[2Jescape\npartial without an end".as_bytes());
            }
            view.pull("aaa", "Downloading", 10, 1_000_000);
            let region = view.region();
            assert!(region.len() <= usize::from(rows.max(3)), "{rows}x{columns}: {region:?}");
            for (line, wide) in &region {
                assert!(
                    width(line) < usize::from(columns.max(2)) && width(line) == *wide,
                    "{columns}: {line}"
                );
                assert!(!line.contains('\x1b'));
            }
        }
    }

    #[test]
    fn what_is_done_stays_and_what_works_is_drawn_anew() {
        let (mut view, out) = view(24, 60);
        view.begin(1, "[1/3] FROM busybox");
        view.done(1, Duration::from_millis(100));
        view.begin(2, "[2/3] RUN make");
        view.output(2, b"cc a.c\ncc b.c\n");
        view.draw(&[]);
        view.layer(2, 2_000_000);
        view.done(2, Duration::from_millis(2500));
        view.begin(3, "[3/3] COPY a b");
        view.cached(3);
        view.end();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("\x1b[4A") && text.contains("    cc b.c"), "{text:?}");
        let last = text.rsplit("\x1b[J").nth(1).unwrap();
        assert!(last.contains(", 3 done, 1 cached"), "{last:?}");
        let made = text.lines().find(|line| line.contains("2MB  2.5s\x1b[K"));
        assert!(made.is_some_and(|line| line.contains(" => [2/3] RUN make  ")), "{text:?}");
        assert!(text.contains("=> CACHED [3/3] COPY a b"), "{text:?}");
    }

    #[test]
    fn a_narrower_terminal_has_more_rows_to_take_away() {
        let size = Arc::new(Mutex::new((24, 80)));
        let (out, now) = (Out::default(), size.clone());
        let mut view = View::new(Box::new(out.clone()), Box::new(move || *now.lock().unwrap()), false);
        view.begin(1, "[1/1] RUN x");
        view.draw(&[]);
        assert_eq!(view.drawn[1], 79);
        *size.lock().unwrap() = (24, 40);
        out.0.lock().unwrap().clear();
        view.draw(&[]);
        // The title stayed one row, the step's line became two.
        assert!(out.0.lock().unwrap().starts_with(b"\x1b[3A\r"));
    }
}
