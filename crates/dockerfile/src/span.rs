//! Places in a Dockerfile's text, and what is wrong there.

use std::fmt;

use robot_env_diag::{Error, Escaped};

/// A range of bytes of the text, on boundaries of characters.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte behind the last one.
    pub end: usize,
}

impl Span {
    /// From `start` to before `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Span { start, end: end.max(start) }
    }

    /// The part of `text` that the span covers; empty when `text` is another one.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.start..self.end).unwrap_or_default()
    }

    /// The first and the last line that the span touches, counted from 1.
    pub fn lines(&self, text: &str) -> (usize, usize) {
        let first = Position::at(text, self.start).line;
        let last = if self.end > self.start { Position::at(text, self.end - 1).line } else { first };
        (first, last.max(first))
    }
}

/// Lines that an excerpt shows at most.
const EXCERPT: usize = 12;

impl Span {
    /// The lines of `text` that the span touches, marked, with two around them; each line ends with a
    /// newline and has no control characters. Of a long span the middle is left out.
    pub fn excerpt(&self, text: &str) -> String {
        let (first, last) = self.lines(text);
        let lines: Vec<&str> = text.lines().collect();
        let (from, to) = (first.saturating_sub(2).max(1), (last + 2).min(lines.len()));
        let width = to.to_string().len();
        let mut out = String::new();
        for number in from..=to {
            if last - first > EXCERPT && number > first + EXCERPT / 2 && number + EXCERPT / 2 < last {
                if number == first + EXCERPT / 2 + 1 {
                    out.push_str(&format!(" {:>width$} | ...\n", ""));
                }
                continue;
            }
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            let line = lines.get(number - 1).copied().unwrap_or_default().replace('\t', "    ");
            out.push_str(format!(" {number:>width$} | {mark} {}", Escaped(&line)).trim_end());
            out.push('\n');
        }
        out
    }
}

/// A line and a column, both counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// Where the byte `offset` of `text` stands.
    pub fn at(text: &str, offset: usize) -> Self {
        let bytes = &text.as_bytes()[..offset.min(text.len())];
        let line = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        // Bytes that continue a character do not count.
        let column = bytes[start..].iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        Position { line, column }
    }
}

/// A word as it is meant (continued lines joined, quotes of flags gone), and where it stands.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.text, self.span)
    }
}

/// What is wrong with a Dockerfile, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why: lower case, no full stop; BuildKit's words where it has some.
    pub message: String,
    /// Where.
    pub span: Span,
    /// A known word that is nearly the one that was written.
    pub suggestion: Option<String>,
}

impl Fault {
    /// A fault at `span`.
    pub fn new(message: impl Into<String>, span: Span) -> Self {
        Fault { message: message.into(), span, suggestion: None }
    }

    /// Adds the one of `known` that is nearest to `written`, if one is near.
    #[must_use]
    pub fn suggest<'a>(mut self, written: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        self.suggestion = nearest(written, known).map(str::to_owned);
        self
    }

    /// The error that a user meets: names the file, the line and the column in `text`. What to show
    /// besides: [`Span::excerpt`].
    pub fn error(&self, file: &str, text: &str) -> Error {
        let at = Position::at(text, self.span.start);
        let message = format!("cannot read `{file}:{}:{}`: {}", at.line, at.column, self.message);
        match &self.suggestion {
            Some(word) => Error::invalid(message).with_hint(format!("did you mean `{word}`?")),
            None => Error::invalid(message),
        }
    }
}

/// The one of `known` that at most two changes of a character make of `written`; the first of equals.
/// Nothing when one is `written` itself: then the word is not what is wrong. (BuildKit's rule, but
/// that two swapped characters are one change.)
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    let mut distance = 3;
    for word in known {
        if word == written {
            return None;
        }
        let changes = changes(written, word);
        if changes < distance {
            (best, distance) = (Some(word), changes);
        }
    }
    best.filter(|word| !word.is_empty())
}

/// How many characters to insert, delete, replace or swap with their neighbour.
fn changes(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 8 || a.len() > 256 {
        return usize::MAX;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let text = "FROM a\nRÜN x\n";
        assert_eq!(Position::at(text, 0), Position { line: 1, column: 1 });
        assert_eq!(Position::at(text, 7), Position { line: 2, column: 1 });
        assert_eq!(Position::at(text, text.find(" x").unwrap()), Position { line: 2, column: 4 });
        assert_eq!(Span::new(0, 7).lines(text), (1, 1));
        assert_eq!(Span::new(0, 8).lines(text), (1, 2));
    }

    #[test]
    fn errors_show_where() {
        let text = "FROM a\n\tRUN b\nCOPPY \x1b[2Ja b\n\nRUN c\nRUN d\n";
        let at = text.find("COPPY").unwrap();
        let fault =
            Fault::new("unknown instruction: COPPY", Span::new(at, at + 5)).suggest("COPPY", ["COPY"]);
        let report = fault.error("a/Dockerfile", text).to_report();
        assert_eq!(report.message, "cannot read `a/Dockerfile:3:1`: unknown instruction: COPPY");
        assert_eq!(report.hint.as_deref(), Some("did you mean `COPY`?"));
        assert_eq!(
            fault.span.excerpt(text),
            " 1 |     FROM a\n 2 |         RUN b\n 3 | >>> COPPY \\u{1b}[2Ja b\n 4 |\n 5 |     RUN c\n"
        );
        let long = "RUN a\\\n".repeat(40);
        assert_eq!(Span::new(0, long.len()).excerpt(&long).lines().count(), 15);
        assert_eq!(Span::new(7, 7).excerpt(""), "");
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("RNU", ["COPY", "ENV", "RUN"]), Some("RUN"));
        assert_eq!(nearest("RUN", ["ADD", "RUN"]), None);
        assert_eq!(nearest("FOO", ["COPY", "ENTRYPOINT"]), None);
        assert_eq!(nearest("foobar", ["foobaxy", "fobar"]), Some("fobar"));
    }
}
