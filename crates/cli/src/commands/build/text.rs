//! What programs print, made fit for a terminal and a log.

/// Parts a step's output into lines, however it arrives.
#[derive(Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

/// The longest line that is kept together, in bytes.
const LONGEST: usize = 64 * 1024;

impl Lines {
    /// The lines that `bytes` complete, without their ends.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        let rest = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(piece);
            lines.push(line);
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > LONGEST {
            lines.push(std::mem::take(&mut self.partial));
        }
        lines
    }

    /// What has no end yet.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// What never got its end.
    pub(super) fn end(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.partial);
        if line.is_empty() { None } else { Some(line) }
    }
}

/// A line as a terminal would show it in the end: what a carriage return writes over is gone, so are
/// escape sequences and control characters, and what is no UTF-8 is replaced. With `colours`
/// those sequences stay that only colour, and are taken back at the end.
pub(super) fn clean(line: &[u8], colours: bool) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                if let Some(sequence) = escape(&mut chars)
                    && colours
                {
                    coloured = true;
                    out.push_str(&sequence);
                }
            }
            '\t' => {
                let columns = 8 - width(&out) % 8;
                out.extend(std::iter::repeat_n(' ', columns));
            }
            // Written over, as programs of old underline and embolden.
            '\x08' => drop(out.pop()),
            c if c.is_control() || is_direction(c) => {}
            c => out.push(c),
        }
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

/// Marks that turn the direction of text around, and with it what a reader sees.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Eats the escape sequence behind an ESC; gives one that only colours.
fn escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    match chars.peek()? {
        '[' => {
            chars.next();
            let mut sequence = String::from("\x1b[");
            while let Some(c) = chars.peek().copied() {
                if !('\x20'..='\x7e').contains(&c) {
                    return None;
                }
                chars.next();
                sequence.push(c);
                if c >= '\x40' {
                    let plain =
                        sequence[2..sequence.len() - 1].chars().all(|c| c.is_ascii_digit() || c == ';');
                    return (c == 'm' && plain).then_some(sequence);
                }
            }
            None
        }
        // A string: a title, a link, whatever ends with BEL or ST.
        ']' | 'P' | 'X' | '^' | '_' => {
            while let Some(c) = chars.next() {
                if c == '\x07' || c == '\u{9c}' {
                    break;
                }
                if c == '\x1b' {
                    if chars.peek() == Some(&'\\') {
                        chars.next();
                    }
                    break;
                }
            }
            None
        }
        _ => {
            // Intermediate characters, then one more.
            for c in chars.by_ref() {
                if !('\x20'..='\x2f').contains(&c) {
                    break;
                }
            }
            None
        }
    }
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f | 0xe0100..=0xe01ef => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// As much of a text as fits into so many columns; `…` stands for what does not.
pub(super) fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut taken = 1;
    for c in text.chars() {
        taken += columns(c);
        if taken > most {
            break;
        }
        out.push(c);
    }
    if most > 0 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_from_any_pieces() {
        let text = b"one\ntwo\r\n\nthr\xffee";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut all: Vec<Vec<u8>> = text.chunks(size).flat_map(|piece| lines.feed(piece)).collect();
            assert_eq!(lines.partial(), b"thr\xffee");
            all.extend(lines.end());
            assert_eq!(all, [&b"one"[..], b"two\r", b"", b"thr\xffee"]);
        }
        assert_eq!(Lines::default().feed(&vec![b'x'; LONGEST + 1]).len(), 1);
    }

    #[test]
    fn nothing_drives_the_terminal() {
        for (line, plain, coloured) in [
            (&b"text\r"[..], "text", "text"),
            (b"10%\r20%\r30%", "30%", "30%"),
            (b"\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m\x1b[0m"),
            (b"\x1b[2J\x1b[1;1Hgone\x1b]0;title\x07!", "gone!", "gone!"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link", "link"),
            (b"\x1b[?1049h\x1b(Bx\x1bcy", "xy", "xy"),
            (b"a\tb", "a       b", "a       b"),
            (b"_\x08u\x07\x00", "u", "u"),
            (b"\xff\xfe caf\xc3\xa9", "\u{fffd}\u{fffd} café", "\u{fffd}\u{fffd} café"),
            ("\u{9b}31m\u{202e}x".as_bytes(), "31mx", "31mx"),
            (b"\x1b", "", ""),
            (b"\x1b[12", "", ""),
        ] {
            assert_eq!(clean(line, false), plain, "{line:?}");
            assert_eq!(clean(line, true), coloured, "{line:?}");
        }
    }

    #[test]
    fn columns_count() {
        assert_eq!((width("abc"), width("机器人"), width("e\u{301}")), (3, 6, 1));
        for (text, most, want) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("机器人", 5, "机器…"),
            ("机器人", 4, "机…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, most), want, "{text} {most}");
        }
    }
}
