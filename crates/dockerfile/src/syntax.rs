//! Text to a list of instructions with their words: directives, comments, continued lines, flags,
//! JSON lists, pairs, heredocs.
//!
//! Rules: BuildKit's `parser`, quirks included; where this departs from it, the design document says so.

mod line;
mod words;

use crate::lex::{Lexer, NoVariables};
use crate::span::{Fault, Span, Word};
pub(crate) use line::Line;
use line::{Lines, is_comment};
pub(crate) use words::space;

/// A directive: `# name=value` at the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Its line.
    pub span: Span,
}

/// `<<NAME` and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Variables in it are expanded: no part of the word is quoted.
    pub expand: bool,
    /// `<<-`: tabs at the heads of lines are no part of it.
    pub chomp: bool,
    /// Its lines as they stand in the file.
    pub content: String,
    /// Where its lines stand.
    pub span: Span,
}

impl Heredoc {
    /// The content, without leading tabs where `<<-` asks for that.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// A pair of `ENV` or `LABEL`, not expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
    /// Written as `name value`, the old form.
    pub legacy: bool,
    /// Where it stands.
    pub span: Span,
}

/// An instruction as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// From its first to its last character, heredocs included.
    pub span: Span,
    /// Its name as it is written.
    pub name: Word,
    /// The whole of it, continued lines joined, without heredocs.
    pub source: String,
    /// `--…` in front of the arguments.
    pub flags: Vec<Word>,
    /// Arguments; empty for `ENV`, `LABEL` and `ONBUILD`. Those of a JSON list have the list's span.
    pub arguments: Vec<Word>,
    /// The arguments were a JSON list.
    pub json: bool,
    /// Of `ENV` and `LABEL`.
    pub pairs: Vec<Pair>,
    /// Of `ONBUILD`.
    pub child: Option<Box<Node>>,
    /// In their order.
    pub heredocs: Vec<Heredoc>,
    /// The comments above it.
    pub comments: Vec<String>,
}

/// A Dockerfile as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The directives at its head.
    pub directives: Vec<Directive>,
    /// `\`, or what the `escape` directive says.
    pub escape: char,
    /// The instructions.
    pub nodes: Vec<Node>,
    /// Ends of instructions that are continued over an empty line.
    pub empty_continuations: Vec<Span>,
}

impl Tree {
    /// Reads a Dockerfile.
    ///
    /// Errors: a bad directive, a heredoc without an end, a JSON list of other things than strings,
    /// a pair without a value, no instruction at all.
    pub fn parse(text: &str) -> Result<Tree, Fault> {
        let mut lines = Lines::new(text);
        let mut tree =
            Tree { directives: Vec::new(), escape: '\\', nodes: Vec::new(), empty_continuations: Vec::new() };
        let mut head = true;
        let mut comments: Vec<String> = Vec::new();
        while let Some(raw) = lines.next() {
            let body = raw.of(text).trim_end_matches(['\r', '\n']);
            let start = raw.start + (body.len() - body.trim_start().len());
            let body = body.trim_start();
            if head {
                head = tree.directive(body, Span::new(start, start + body.len()))?;
                if head {
                    continue;
                }
            }
            if is_comment(body) {
                // BuildKit drops the first character of the line, which is no `#` in an indented one.
                let whole = raw.of(text).trim_start_matches('\u{feff}');
                let mut signs = whole.chars();
                signs.next();
                match signs.as_str().trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            let mut line = Line::default();
            let mut open = line.push(body, start, tree.escape);
            if !open && body.is_empty() {
                continue;
            }
            let mut empty = false;
            let mut end = start + body.len();
            while open && let Some(raw) = lines.next() {
                let body = raw.of(text).trim_end_matches(['\r', '\n']);
                end = raw.start + body.len();
                if is_comment(body) {
                    continue;
                }
                if body.trim().is_empty() {
                    empty = true;
                    continue;
                }
                open = line.push(body, raw.start, tree.escape);
            }
            if empty {
                tree.empty_continuations.push(Span::new(start, end));
            }
            let mut node = Node::of_line(&line, Span::new(start, end), tree.escape, 0)?;
            node.comments = std::mem::take(&mut comments);
            if node.takes_heredocs() && line.text.contains("<<") {
                node.read_heredocs(&line, &mut lines, text)?;
            }
            tree.nodes.push(node);
        }
        if tree.nodes.is_empty() {
            return Err(Fault::new("file with no instructions", Span::new(text.len(), text.len())));
        }
        Ok(tree)
    }

    /// Whether `line` is a directive; after the first that is none no more come.
    fn directive(&mut self, line: &str, span: Span) -> Result<bool, Fault> {
        let Some((name, value)) = directive(line) else { return Ok(false) };
        if self.directives.iter().any(|known| known.name == name) {
            return Err(Fault::new(format!("only one {name} parser directive can be used"), span));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => {
                    let why = format!("invalid escape token '{value}' does not match ` or \\");
                    return Err(Fault::new(why, span));
                }
            };
        }
        self.directives.push(Directive { name, value: value.to_owned(), span });
        Ok(true)
    }
}

/// `# name = value`, for the names there are.
fn directive(line: &str) -> Option<(String, &str)> {
    let blank = |sign: char| matches!(sign, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let (name, value) = line.strip_prefix('#')?.trim_start().split_once('=')?;
    let name = name.trim_end_matches(blank).to_ascii_lowercase();
    let value = value.trim_matches(blank);
    (matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty()).then_some((name, value))
}

/// The value of a directive of `text`, wherever it may be read from: like BuildKit, behind a line
/// that starts with `#!` too.
pub fn find_directive(text: &str, name: &str) -> Option<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
    let all = text.lines().map_while(directive);
    all.into_iter().find(|(known, _)| known == name).map(|(_, value)| value.to_owned())
}

impl Node {
    fn of_line(line: &Line, span: Span, escape: char, depth: usize) -> Result<Node, Fault> {
        let text = line.text.as_str();
        let from = text.len() - text.trim_start().len();
        let body = text.trim();
        let name_end = from + body.find(space).unwrap_or(body.len());
        let mut node = Node {
            span,
            name: line.word(from, name_end),
            source: body.to_owned(),
            flags: Vec::new(),
            arguments: Vec::new(),
            json: false,
            pairs: Vec::new(),
            child: None,
            heredocs: Vec::new(),
            comments: Vec::new(),
        };
        let (flags, at) = words::flags(line, name_end, escape);
        node.flags = flags;
        let rest_at = at + (text[at..].len() - text[at..].trim_start().len());
        let rest = text[rest_at..].trim();
        let rest_end = rest_at + rest.len();
        let whole = line.span(rest_at, rest_end);
        let listed = |text: &str| -> Result<Option<Vec<Word>>, Fault> {
            let list = words::json(text).map_err(|why| Fault::new(why, whole))?;
            Ok(list.map(|list| list.into_iter().map(|text| Word { text, span: whole }).collect()))
        };
        let single = || (!rest.is_empty()).then(|| line.word(rest_at, rest_end));
        match node.name.text.to_ascii_lowercase().as_str() {
            "add" | "copy" | "volume" => match listed(rest)? {
                Some(list) => (node.arguments, node.json) = (list, true),
                None => node.arguments = words::blank(line, rest_at, rest_end),
            },
            "cmd" | "entrypoint" | "run" | "shell" => match listed(rest)? {
                Some(list) => (node.arguments, node.json) = (list, true),
                None => node.arguments.extend(single()),
            },
            "healthcheck" if !rest.is_empty() => {
                let kind = rest.find(char::is_whitespace).unwrap_or(rest.len());
                node.arguments.push(line.word(rest_at, rest_at + kind));
                let behind = rest[kind..].trim_start();
                match listed(behind)? {
                    Some(list) => {
                        node.arguments.extend(list);
                        node.json = true;
                    }
                    None if behind.is_empty() => {}
                    None => node.arguments.push(line.word(rest_end - behind.len(), rest_end)),
                }
            }
            "env" | "label" => {
                let name = node.name.text.to_ascii_uppercase();
                node.pairs = words::pairs(line, rest_at, rest_end, &name, escape)?;
            }
            "arg" => node.arguments = words::quoted(line, rest_at, rest_end, escape),
            "expose" | "from" => node.arguments = words::blank(line, rest_at, rest_end),
            "maintainer" | "stopsignal" | "user" | "workdir" => node.arguments.extend(single()),
            // ONBUILD in ONBUILD is refused anyway.
            "onbuild" if !rest.is_empty() && depth < 2 => {
                let behind = line.slice(rest_at, rest_end);
                node.child = Some(Box::new(Node::of_line(&behind, span, escape, depth + 1)?));
            }
            _ => {}
        }
        Ok(node)
    }

    fn takes_heredocs(&self) -> bool {
        let node = self.child.as_deref().filter(|_| self.is("onbuild")).unwrap_or(self);
        !self.json && !node.json && (node.is("add") || node.is("copy") || node.is("run"))
    }

    /// Whether it is the instruction `name`, given in lower case.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.text.eq_ignore_ascii_case(name)
    }

    fn read_heredocs(&mut self, line: &Line, lines: &mut Lines<'_>, text: &str) -> Result<(), Fault> {
        let lexer = Lexer { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Lexer::new('\\') };
        // A line that is none for this lexer is one for the shell.
        let words = lexer.expand(&line.text, &NoVariables).map(|all| all.words).unwrap_or_default();
        for word in words {
            let heredoc = heredoc(&word).map_err(|why| Fault::new(why, self.span))?;
            let Some(mut heredoc) = heredoc else { continue };
            let from = lines.at();
            loop {
                let Some(raw) = lines.next() else {
                    return Err(Fault::new("unterminated heredoc", self.span));
                };
                let whole = raw.of(text);
                let trimmed = whole.trim_end_matches(['\r', '\n']);
                let bare = if heredoc.chomp { trimmed.trim_start_matches('\t') } else { trimmed };
                if bare == heredoc.name {
                    heredoc.span = Span::new(from, raw.start);
                    self.span.end = raw.start + trimmed.len();
                    break;
                }
                heredoc.content.push_str(whole);
            }
            self.heredocs.push(heredoc);
        }
        Ok(())
    }
}

/// The heredoc that `word` opens; `None` if it opens none.
pub(crate) fn heredoc(word: &str) -> Result<Option<Heredoc>, String> {
    let rest = word.trim_start_matches(|sign: char| sign.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let bare = lexer.expand(rest, &NoVariables)?.words;
    let [name] = bare.as_slice() else { return Ok(None) };
    let raw = Lexer { raw_quotes: true, ..lexer }.expand(rest, &NoVariables)?.words;
    let [raw] = raw.as_slice() else {
        return Err(format!("internal lexing of heredoc produced inconsistent results: {rest}"));
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        expand: quotes(name) == quotes(raw),
        chomp,
        content: String::new(),
        span: Span::default(),
    }))
}

#[cfg(test)]
mod tests;
