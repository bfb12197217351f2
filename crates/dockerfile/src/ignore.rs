//! `.dockerignore`: which paths of a build's context it leaves out.
//!
//! Rules: Docker's (moby/patternmatcher and its `ignorefile`), which are not those of `.gitignore`:
//! patterns are anchored at the context, the last one that matches decides, a pattern that matches
//! a directory matches all below it, `**` stands for any number of directories.

use robot_env_diag::{Error, Result};

/// A file's patterns. Order matters.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// What matched a directory; gives the same answers for its entries at less cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches(Vec<bool>);

#[derive(Clone, Debug)]
struct Pattern {
    /// As it was cleaned, without the `!`.
    text: String,
    /// Where it stands in its file, counted from 1.
    line: usize,
    exception: bool,
    form: Form,
}

/// What a pattern asks for; most are texts without wildcards, and contexts have many files.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// The path itself.
    Exact,
    /// `prefix**`: what is in front of the `**`.
    Prefix(usize),
    /// `**suffix`, with no other wildcard.
    Suffix,
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Sign(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// Stands before `Directories`: those may be nothing at all.
    Maybe,
    /// `**/`: anything that ends with a slash.
    Directories,
    /// `**` at the end.
    Anything,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads a `.dockerignore` file.
    ///
    /// Errors: `InvalidInput` naming the pattern and its line.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut ignore = Ignore::default();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (mark, path) = line.strip_prefix('!').map_or(("", line), |path| ("!", path.trim()));
            let path = if path.is_empty() { String::new() } else { clean(path) };
            let path = if path.len() > 1 { path.strip_prefix('/').unwrap_or(&path) } else { &path };
            ignore.push(&format!("{mark}{path}"), at + 1).map_err(|why| {
                Error::invalid(format!("invalid pattern `{line}` in line {}: {why}", at + 1))
            })?;
        }
        Ok(ignore)
    }

    /// From patterns, as `--exclude` of `COPY` gives them.
    ///
    /// Errors: `InvalidInput` naming the pattern.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut ignore = Ignore::default();
        for (at, text) in patterns.into_iter().enumerate() {
            ignore
                .push(text, at + 1)
                .map_err(|why| Error::invalid(format!("invalid ignore pattern `{text}`: {why}")))?;
        }
        Ok(ignore)
    }

    fn push(&mut self, text: &str, line: usize) -> std::result::Result<(), String> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(());
        }
        let cleaned = clean(trimmed);
        let (exception, path) = cleaned.strip_prefix('!').map_or((false, cleaned.as_str()), |p| (true, p));
        if path.is_empty() {
            return Err("an exclamation mark needs a path behind it".into());
        }
        self.patterns.push(Pattern { text: path.to_owned(), line, exception, form: form(path)? });
        Ok(())
    }

    /// Whether there are patterns that start with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether nothing is ignored.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` (relative, with slashes) is left out, itself or by a directory above it.
    pub fn ignores(&self, path: &str) -> bool {
        self.ignored_by(path).is_some()
    }

    /// The pattern that leaves `path` out, as it was cleaned, and the line where it stands, counted
    /// from 1; `None` where it is not left out.
    pub fn ignored_by(&self, path: &str) -> Option<(&str, usize)> {
        let mut ignored = None;
        for pattern in &self.patterns {
            if pattern.exception == ignored.is_some() && pattern.matches_with_parents(path) {
                ignored = (!pattern.exception).then_some((pattern.text.as_str(), pattern.line));
            }
        }
        ignored
    }

    /// Like [`Ignore::ignores`] for an entry of a directory whose matches are known; gives the
    /// matches of the entry. The context's own entries have `Matches::default()` above them.
    pub fn ignores_entry(&self, path: &str, directory: &Matches) -> (bool, Matches) {
        let mut ignored = false;
        let mut matches = vec![false; self.patterns.len()];
        for (at, pattern) in self.patterns.iter().enumerate() {
            let mut matched = directory.0.get(at).copied().unwrap_or(false);
            if !matched {
                if pattern.exception != ignored {
                    continue;
                }
                matched = if directory.0.is_empty() {
                    pattern.matches_with_parents(path)
                } else {
                    pattern.matches(path)
                };
            }
            matches[at] = matched;
            if matched {
                ignored = !pattern.exception;
            }
        }
        (ignored, Matches(matches))
    }

    /// Whether an ignored directory need not be read: no exception can match below it.
    pub fn skips_directory(&self, path: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.exception).all(|pattern| {
            let below = format!("{path}/");
            let fixed: String = match &pattern.form {
                Form::Exact => return !format!("{}/", pattern.text).starts_with(&below),
                Form::Prefix(length) => pattern.text[..*length].to_owned(),
                Form::Suffix => String::new(),
                Form::Parts(parts) => {
                    let plain = parts.iter().map_while(|part| match part {
                        Part::Sign(sign) => Some(*sign),
                        _ => None,
                    });
                    plain.collect()
                }
            };
            !fixed.starts_with(&below) && !below.starts_with(&fixed)
        })
    }

    /// Whether a pattern leaves out everything at the context's root (`*`, `**`, `**/*`).
    pub fn ignores_root(&self) -> bool {
        let all = |pattern: &Pattern| matches!(pattern.text.as_str(), "*" | "**" | "**/*");
        self.patterns.iter().any(|pattern| !pattern.exception && all(pattern))
    }
}

impl Pattern {
    fn matches_with_parents(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        self.matches(path) || ends.into_iter().any(|end| self.matches(&path[..end]))
    }

    fn matches(&self, path: &str) -> bool {
        match &self.form {
            Form::Exact => path == self.text,
            Form::Prefix(length) => path.starts_with(&self.text[..*length]),
            Form::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Form::Parts(parts) => parts_match(parts, path),
        }
    }
}

/// Moves a set of places in the pattern by each character of the path.
fn parts_match(parts: &[Part], path: &str) -> bool {
    let mut places = vec![false; parts.len() + 1];
    let mut next = places.clone();
    places[0] = true;
    skip(parts, &mut places);
    for sign in path.chars() {
        next.fill(false);
        for (at, part) in parts.iter().enumerate().filter(|(at, _)| places[*at]) {
            match part {
                Part::Sign(wanted) => next[at + 1] |= *wanted == sign,
                Part::One => next[at + 1] |= sign != '/',
                Part::Many => next[at] |= sign != '/',
                Part::Anything => next[at] = true,
                Part::Maybe => {}
                Part::Directories => {
                    next[at] = true;
                    next[at + 1] |= sign == '/';
                }
                Part::Class { negated, ranges } => {
                    let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&sign));
                    next[at + 1] |= inside != *negated;
                }
            }
        }
        std::mem::swap(&mut places, &mut next);
        skip(parts, &mut places);
    }
    places[parts.len()]
}

/// Enters the places behind those that may stand for nothing.
fn skip(parts: &[Part], places: &mut [bool]) {
    for at in 0..parts.len() {
        match parts[at] {
            Part::Many | Part::Anything => places[at + 1] |= places[at],
            Part::Maybe => {
                places[at + 1] |= places[at];
                places[at + 2] |= places[at];
            }
            _ => {}
        }
    }
}

fn form(text: &str) -> std::result::Result<Form, String> {
    let special = |text: &str| text.contains(['*', '?', '[', ']', '\\']);
    if !special(text) {
        return Ok(Form::Exact);
    }
    if text.strip_prefix("**").is_some_and(|rest| !special(rest)) {
        return Ok(Form::Suffix);
    }
    if let Some(prefix) = text.strip_suffix("**").filter(|prefix| !special(prefix)) {
        return Ok(Form::Prefix(prefix.len()));
    }
    parts(text).map(Form::Parts)
}

/// A pattern's parts.
fn parts(text: &str) -> std::result::Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        let part = match sign {
            '*' if signs.next_if_eq(&'*').is_some() => {
                // `**name` is `**/name` where there are other wildcards.
                signs.next_if_eq(&'/');
                if signs.peek().is_none() {
                    Part::Anything
                } else {
                    parts.push(Part::Maybe);
                    Part::Directories
                }
            }
            '*' => Part::Many,
            '?' => Part::One,
            '\\' => Part::Sign(signs.next().ok_or("a backslash has nothing behind it")?),
            '[' => class(&mut signs)?,
            sign => Part::Sign(sign),
        };
        parts.push(part);
    }
    Ok(parts)
}

fn class(signs: &mut std::iter::Peekable<std::str::Chars<'_>>) -> std::result::Result<Part, String> {
    let negated = signs.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |signs: &mut std::iter::Peekable<std::str::Chars<'_>>| match signs.next() {
        Some('\\') => signs.next().ok_or("a backslash has nothing behind it"),
        Some(']' | '-') | None => Err("a bracket [ is empty or not closed"),
        Some(sign) => Ok(sign),
    };
    loop {
        if !ranges.is_empty() && signs.next_if_eq(&']').is_some() {
            return Ok(Part::Class { negated, ranges });
        }
        let low = one(signs)?;
        let high = if signs.next_if_eq(&'-').is_some() { one(signs)? } else { low };
        if low > high {
            return Err(format!("the range {low}-{high} is empty"));
        }
        ranges.push((low, high));
    }
}

/// The shortest path that says the same: no `.`, no `//`, `..` taken away with what is before it.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if out.last().is_some_and(|last| *last != "..") => {
                out.pop();
            }
            ".." if rooted => {}
            part => out.push(part),
        }
    }
    match (rooted, out.is_empty()) {
        (true, _) => format!("/{}", out.join("/")),
        (false, true) => ".".into(),
        (false, false) => out.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_dockers() {
        for (file, path, wanted) in [
            ("foo", "foo", true),
            ("foo", "foo/bar/baz", true),
            ("foo", "x/foo", false),
            ("/foo", "foo", true),
            ("./foo/", "foo", true),
            ("*/temp*", "a/temporary", true),
            ("*/temp*", "a/b/temp", false),
            ("*/*/temp*", "a/b/temp.c", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "temp/x", false),
            ("**/*.go", "a.go", true),
            ("**/*.go", "a/b/c.go", true),
            ("**/build", "build", true),
            ("**/build", "src/x/build/y", true),
            ("**/build", "rebuild", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "ab", false),
            ("a/**", "a/x/y", true),
            ("a/**", "a", false),
            ("**", "a/b", true),
            ("**go", "x/y.go", true),
            ("**go", "x.go/y", true),
            ("**g?", "x/a.go", false),
            ("**g?", "x/go", true),
            ("a**", "ab/c", true),
            ("a**b", "ab", true),
            ("a**b", "acb", false),
            ("a**b", "ac/b", true),
            ("**/a/*", "a/b", true),
            ("**/a/*", "xa/b", false),
            ("**/*", "a", true),
            ("a[^b]c", "a/c", true),
            ("**/x/**", "q/x/y", true),
            ("**/x/**", "q/x", false),
            ("# x\n *.md\n!README.md", "a.md", true),
            ("*.md\n!README.md", "README.md", false),
            ("!README.md\n*.md", "README.md", true),
            ("*\n!src", "src/a", false),
            ("*\n!src\nsrc/b", "src/b/c", true),
            ("\u{feff}#a\na", "a", true),
            (" # x", "# x", true),
            ("a[0-9]", "a5", true),
            ("a[^0-9]", "a5", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a.b", "axb", false),
            ("", "a", false),
            ("! a\n", "a", false),
            ("../x", "x", false),
            ("a/../b", "b", true),
        ] {
            let ignore = Ignore::parse(file).unwrap();
            assert_eq!(ignore.ignores(path), wanted, "{file:?} {path}");
            // The walk gives the same.
            let (mut above, mut ignored) = (Matches::default(), false);
            for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
                (ignored, above) = ignore.ignores_entry(&path[..end], &above);
            }
            assert_eq!(ignored, wanted, "walking {file:?} {path}");
        }
        for bad in ["!", "a[", "a[]", "a[z-a]", "a\\"] {
            assert!(Ignore::parse(bad).is_err(), "{bad}");
        }
        let error = Ignore::parse("# x\n\na[z-a]\n").unwrap_err().to_string();
        assert_eq!(error, "invalid pattern `a[z-a]` in line 3: the range z-a is empty");
    }

    #[test]
    fn the_line_that_leaves_a_path_out_is_known() {
        let ignore = Ignore::parse("# x\n*.log\n\n/build/\n!build/keep\nbuild/keep/not\n").unwrap();
        for (path, wanted) in [
            ("a.log", Some(("*.log", 2))),
            ("build/a.log", Some(("build", 4))),
            ("build/keep/x", None),
            ("build/keep/not/x", Some(("build/keep/not", 6))),
            ("src", None),
        ] {
            assert_eq!(ignore.ignored_by(path), wanted, "{path}");
        }
    }

    #[test]
    fn a_directory_is_skipped_when_no_exception_is_below_it() {
        let ignore = Ignore::parse("*\n!src/lib\n!docs/*.md\n").unwrap();
        for (path, wanted) in [
            ("src", false),
            ("src/lib", false),
            ("node", true),
            ("docs", false),
            ("docs/a", false),
            ("src/x", true),
        ] {
            assert_eq!(ignore.skips_directory(path), wanted, "{path}");
        }
    }
}
