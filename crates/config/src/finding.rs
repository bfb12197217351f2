//! What is wrong or worth knowing in a file.

use std::fmt;
use std::path::{Path, PathBuf};

use robot_env_diag::Error;

use crate::value::Position;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Right, but without effect here.
    Note,
    /// Left out: a file that cannot be read, an unknown key, a wrong value.
    Warning,
}

/// Something about a place in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The place; `None` where the whole file is meant.
    pub at: Option<Position>,
    /// How bad it is.
    pub severity: Severity,
    /// One fact, lower case, no full stop.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
}

impl Finding {
    /// A warning about a place.
    pub fn warning(file: &Path, at: Position, message: impl Into<String>) -> Finding {
        Finding {
            file: file.into(),
            at: Some(at),
            severity: Severity::Warning,
            message: message.into(),
            hint: None,
        }
    }

    /// A warning about a file.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Finding {
        Finding {
            file: file.into(),
            at: None,
            severity: Severity::Warning,
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }

    /// The same as a note.
    #[must_use]
    pub fn as_note(mut self) -> Finding {
        self.severity = Severity::Note;
        self
    }

    /// The same as an error, for a file that must be right.
    pub fn to_error(&self) -> Error {
        let plain = Finding { hint: None, ..self.clone() };
        let error = Error::invalid(plain.to_string());
        match &self.hint {
            Some(hint) => error.with_hint(hint.clone()),
            None => error,
        }
    }
}

impl fmt::Display for Finding {
    /// `file:line:column: message (hint)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, ":{at}")?;
        }
        write!(f, ": {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// The known word that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 4).clamp(1, 3);
    known
        .map(|other| (distance(word, other), other))
        .filter(|(far, _)| *far <= limit)
        .min_by_key(|(far, _)| *far)
        .map(|(_, other)| other)
}

/// How many characters have to change to make `b` of `a`; swapped neighbours count once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        let known = ["registry-mirrors", "dns", "init", "runtimes"];
        for (word, want) in [
            ("registry-mirors", Some("registry-mirrors")),
            ("registry_mirrors", Some("registry-mirrors")),
            ("dsn", Some("dns")),
            ("runtime", Some("runtimes")),
            ("nothing-like-it", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), want, "{word}");
        }
    }
}
