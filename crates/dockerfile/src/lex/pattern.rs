//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and escapes, no classes.
//!
//! BuildKit makes regular expressions of them; `.` of those does not match a line's end, so neither
//! do `*` and `?` here.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Sign(char),
    One,
    Many,
}

#[derive(Clone, Debug)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut signs = text.chars().peekable();
        while let Some(sign) = signs.next() {
            parts.push(match sign {
                '*' if parts.last() == Some(&Part::Many) => continue,
                '*' => Part::Many,
                '?' => Part::One,
                '\\' => match signs.peek().copied() {
                    // Escaped for the sake of the braces only.
                    Some('}' | '/') => continue,
                    Some(next @ ('*' | '?' | '\\')) => {
                        signs.next();
                        Part::Sign(next)
                    }
                    next => return Err(format!("invalid escape '\\{}'", next.unwrap_or('\u{fffd}'))),
                },
                sign => Part::Sign(sign),
            });
        }
        Ok(Pattern(parts))
    }

    /// The shortest or longest prefix that matches is cut off.
    pub(super) fn trim_start(&self, value: &str, greedy: bool) -> String {
        let signs: Vec<char> = value.chars().collect();
        match self.end(&signs, 0, greedy) {
            Some(end) => signs[end..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// The shortest or longest suffix that matches is cut off.
    pub(super) fn trim_end(&self, value: &str, greedy: bool) -> String {
        let backwards = Pattern(self.0.iter().rev().copied().collect());
        let signs: Vec<char> = value.chars().rev().collect();
        match backwards.end(&signs, 0, greedy) {
            Some(end) => signs[end..].iter().rev().collect(),
            None => value.to_owned(),
        }
    }

    /// The first match is replaced; `replacement` is taken as it is.
    pub(super) fn replace(&self, value: &str, replacement: &str) -> String {
        let signs: Vec<char> = value.chars().collect();
        match self.find(&signs, 0) {
            Some((start, end)) => {
                let mut out: String = signs[..start].iter().collect();
                out.push_str(replacement);
                out.extend(&signs[end..]);
                out
            }
            None => value.to_owned(),
        }
    }

    /// All matches are replaced. In `replacement`, `$0` is the match, `$$` a dollar and any other
    /// `$name` nothing, as Go's templates have it.
    pub(super) fn replace_all(&self, value: &str, replacement: &str) -> String {
        let signs: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let (mut copied, mut from) = (0, 0);
        while let Some((start, end)) = self.find(&signs, from) {
            out.extend(&signs[copied..start]);
            // An empty match behind another match is none.
            if end > copied || start == 0 || start > copied {
                template(replacement, &signs[start..end], &mut out);
            }
            copied = end;
            from = if end > start { end } else { end + 1 };
            if from > signs.len() {
                break;
            }
        }
        out.extend(&signs[copied..]);
        out
    }

    /// The leftmost match, as long as can be.
    fn find(&self, signs: &[char], from: usize) -> Option<(usize, usize)> {
        // For each part that could be next: the leftmost start of an attempt that got there.
        let mut states: Vec<Option<usize>> = vec![None; self.0.len() + 1];
        let mut best: Option<usize> = None;
        for at in from..=signs.len() {
            if best.is_none() && states[0].is_none() {
                states[0] = Some(at);
            }
            self.close(&mut states);
            if let Some(start) = states[self.0.len()] {
                best = Some(best.map_or(start, |known: usize| known.min(start)));
            }
            if let Some(best) = best
                && !states.iter().flatten().any(|start| *start < best)
            {
                break;
            }
            let Some(sign) = signs.get(at) else { break };
            states = self.step(&states, *sign);
        }
        let start = best?;
        self.end(signs, start, true).map(|end| (start, end))
    }

    /// The end of a match that starts at `start`.
    fn end(&self, signs: &[char], start: usize, greedy: bool) -> Option<usize> {
        let mut states: Vec<Option<usize>> = vec![None; self.0.len() + 1];
        states[0] = Some(start);
        let mut found = None;
        for at in start..=signs.len() {
            self.close(&mut states);
            if states[self.0.len()].is_some() {
                found = Some(at);
                if !greedy {
                    break;
                }
            }
            let Some(sign) = signs.get(at) else { break };
            states = self.step(&states, *sign);
            if states.iter().all(Option::is_none) {
                break;
            }
        }
        found
    }

    /// `*` may stand for nothing.
    fn close(&self, states: &mut [Option<usize>]) {
        for (at, part) in self.0.iter().enumerate() {
            if *part == Part::Many {
                states[at + 1] = earlier(states[at + 1], states[at]);
            }
        }
    }

    fn step(&self, states: &[Option<usize>], sign: char) -> Vec<Option<usize>> {
        let mut next = vec![None; states.len()];
        for (at, part) in self.0.iter().enumerate() {
            match part {
                Part::Sign(wanted) if *wanted == sign => next[at + 1] = earlier(next[at + 1], states[at]),
                Part::One if sign != '\n' => next[at + 1] = earlier(next[at + 1], states[at]),
                Part::Many if sign != '\n' => next[at] = earlier(next[at], states[at]),
                _ => {}
            }
        }
        next
    }
}

fn earlier(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn template(text: &str, matched: &[char], out: &mut String) {
    let mut rest = text;
    while let Some((front, behind)) = rest.split_once('$') {
        out.push_str(front);
        if let Some(behind) = behind.strip_prefix('$') {
            out.push('$');
            rest = behind;
            continue;
        }
        let is_name = |sign: char| sign.is_alphanumeric() || sign == '_';
        let (name, after) = match behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            Some((name, after)) if name.chars().all(is_name) => (name, after),
            _ => behind.split_at(behind.find(|sign| !is_name(sign)).unwrap_or(behind.len())),
        };
        if name.is_empty() {
            out.push('$');
            rest = behind;
            continue;
        }
        if name.trim_start_matches('0').is_empty() {
            out.extend(matched);
        }
        rest = after;
    }
    out.push_str(rest);
}
