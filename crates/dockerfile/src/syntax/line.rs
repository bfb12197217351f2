//! Lines of the text, and continued lines as one with the way back to the text.

use crate::span::{Span, Word};

/// The lines of a text with their ends.
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    /// A byte order mark in front of the first is no part of it.
    pub(super) fn new(text: &'a str) -> Self {
        Lines { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 } }
    }

    /// Where the next one starts.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn next(&mut self) -> Option<Span> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        let span = Span::new(self.at, self.at + length);
        self.at = span.end;
        Some(span)
    }
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Continued lines joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Where in `text` a piece starts, and where it stands in the file.
    pieces: Vec<(usize, usize)>,
}

impl Line {
    /// Adds a physical line that stands at `at`; gives whether it goes on.
    pub(super) fn push(&mut self, line: &str, at: usize, escape: char) -> bool {
        self.pieces.push((self.text.len(), at));
        let front = line.trim_end_matches([' ', '\t']).strip_suffix(escape);
        match front.filter(|front| !front.ends_with(escape)) {
            Some(front) => {
                self.text.push_str(front);
                true
            }
            None => {
                self.text.push_str(line);
                false
            }
        }
    }

    fn origin(&self, at: usize) -> usize {
        // The last piece that starts at or before it: empty pieces may start at the same place.
        let behind = self.pieces.partition_point(|(from, _)| *from <= at);
        let piece = behind.checked_sub(1).map(|last| self.pieces[last]);
        piece.map_or(0, |(from, origin)| origin + (at - from))
    }

    /// Where a part of the text stands in the file.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let first = self.origin(start);
        // The end belongs to the piece of the last character.
        let last = if end > start {
            let before = self.text[..end].char_indices().next_back().map_or(end, |(at, _)| at);
            self.origin(before) + (end - before)
        } else {
            first
        };
        Span::new(first, last)
    }

    pub(super) fn word(&self, start: usize, end: usize) -> Word {
        Word { text: self.text[start..end].to_owned(), span: self.span(start, end) }
    }

    /// A part as a line of its own.
    pub(super) fn slice(&self, start: usize, end: usize) -> Line {
        let mut pieces = vec![(0, self.origin(start))];
        let inside = self.pieces.iter().filter(|(from, _)| *from > start && *from <= end);
        pieces.extend(inside.map(|(from, origin)| (from - start, *origin)));
        Line { text: self.text[start..end].to_owned(), pieces }
    }
}
