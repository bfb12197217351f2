//! From the syntax tree to instructions.

use robot_env_oci::Healthcheck;

use super::flags::{Flags, Kind};
use super::*;
use crate::lex::{Lexer, NoVariables};
use crate::span::Fault;
use crate::syntax::{Node, Tree};

/// All names, for suggestions.
const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Names and values of a `FROM`.
pub(crate) struct From {
    pub(crate) base: Word,
    /// In lower case.
    pub(crate) name: Option<Word>,
    pub(crate) platform: Option<Word>,
}

impl Step {
    /// Reads a node that is no `FROM`.
    pub(crate) fn of_node(node: &Node) -> Result<Step, Fault> {
        Ok(Step {
            span: node.span,
            name: node.name.clone(),
            source: node.source.clone(),
            comments: node.comments.clone(),
            instruction: instruction(node)?,
        })
    }

    /// Reads the expression of an `ONBUILD`, as an image's config keeps it. The step stands at
    /// `span`: where the `FROM` of the stage that it is triggered in stands.
    ///
    /// Errors: what is wrong with the expression, at `span`.
    pub fn of_trigger(expression: &str, span: Span) -> Result<Step, Fault> {
        let at = |fault: Fault| Fault { span, ..fault };
        let tree = Tree::parse(expression).map_err(at)?;
        let [node] = tree.nodes.as_slice() else {
            return Err(Fault::new("onbuild trigger should be a single expression", span));
        };
        if node.is("from") || node.is("onbuild") || node.is("maintainer") {
            let name = node.name.text.to_ascii_uppercase();
            return Err(Fault::new(format!("{name} isn't allowed as an ONBUILD trigger"), span));
        }
        let mut step = Step::of_node(node).map_err(at)?;
        step.span = span;
        Ok(step)
    }
}

/// Reads a `FROM`.
pub(crate) fn from(node: &Node) -> Result<From, Fault> {
    let name = match node.arguments.as_slice() {
        [_] => None,
        [_, r#as, name] if r#as.text.eq_ignore_ascii_case("as") => {
            let lower = name.text.to_lowercase();
            let mut signs = lower.bytes();
            let fine = signs.next().is_some_and(|first| first.is_ascii_lowercase())
                && signs
                    .all(|sign| sign.is_ascii_lowercase() || sign.is_ascii_digit() || b"-_.".contains(&sign));
            if !fine {
                return Err(Fault::new(
                    format!(
                        "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                        name.text
                    ),
                    name.span,
                ));
            }
            Some(Word { text: lower, span: name.span })
        }
        _ => return Err(Fault::new("FROM requires either one or three arguments", node.span)),
    };
    let flags = Flags::parse(&node.flags, &[("platform", Kind::Text)])?;
    Ok(From { base: node.arguments[0].clone(), name, platform: flags.text("platform") })
}

fn instruction(node: &Node) -> Result<Instruction, Fault> {
    let name = node.name.text.to_ascii_uppercase();
    let one = || match node.arguments.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err(Fault::new(format!("{name} requires exactly one argument"), node.span)),
    };
    let some = || match node.arguments.as_slice() {
        [] => Err(Fault::new(format!("{name} requires at least one argument"), node.span)),
        words => Ok(words.to_vec()),
    };
    let pairs = || match node.pairs.as_slice() {
        [] => Err(Fault::new(format!("{name} requires at least one argument"), node.span)),
        pairs => match pairs.iter().find(|pair| pair.key.is_empty()) {
            Some(blank) => Err(Fault::new(format!("{name} names can not be blank"), blank.span)),
            None => Ok(pairs.to_vec()),
        },
    };
    let no_flags = || Flags::parse(&node.flags, &[]);
    Ok(match name.as_str() {
        "ADD" => Instruction::Add(add(node)?),
        // Flags of ARG and STOPSIGNAL are not looked at by BuildKit; here they are refused.
        "ARG" => {
            no_flags()?;
            let words = some()?;
            let arguments: Result<_, _> = words.iter().map(|word| argument(word, &node.comments)).collect();
            Instruction::Arg(arguments?)
        }
        "CMD" => {
            no_flags()?;
            Instruction::Cmd(command_line(node))
        }
        "COPY" => Instruction::Copy(copy(node)?),
        "ENTRYPOINT" => {
            no_flags()?;
            Instruction::Entrypoint(command_line(node))
        }
        "ENV" => {
            no_flags()?;
            Instruction::Env(pairs()?)
        }
        "EXPOSE" => {
            let mut words = some()?;
            no_flags()?;
            words.sort_by(|a, b| a.text.cmp(&b.text));
            Instruction::Expose(words)
        }
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(node)?),
        "LABEL" => {
            no_flags()?;
            Instruction::Label(pairs()?)
        }
        "MAINTAINER" => {
            no_flags()?;
            Instruction::Maintainer(one()?.text)
        }
        "ONBUILD" => Instruction::Onbuild(onbuild(node)?),
        "RUN" => Instruction::Run(run(node)?),
        "SHELL" => {
            no_flags()?;
            let words = some()?;
            if !node.json {
                return Err(Fault::new(
                    format!("SHELL requires the arguments to be in JSON form: {}", node.source),
                    node.span,
                ));
            }
            Instruction::Shell(words.into_iter().map(|word| word.text).collect())
        }
        "STOPSIGNAL" => {
            no_flags()?;
            Instruction::Stopsignal(one()?)
        }
        "USER" => {
            no_flags()?;
            Instruction::User(one()?)
        }
        "VOLUME" => {
            no_flags()?;
            let trim = |word: Word| Word { text: word.text.trim().to_owned(), ..word };
            let words: Vec<Word> = some()?.into_iter().map(trim).collect();
            if let Some(empty) = words.iter().find(|word| word.text.is_empty()) {
                return Err(Fault::new("VOLUME specified can not be an empty string", empty.span));
            }
            Instruction::Volume(words)
        }
        "WORKDIR" => {
            no_flags()?;
            Instruction::Workdir(one()?)
        }
        _ => {
            let fault = Fault::new(format!("unknown instruction: {}", node.name.text), node.name.span);
            return Err(fault.suggest(&name, NAMES));
        }
    })
}

fn argument(word: &Word, comments: &[String]) -> Result<Argument, Fault> {
    let (name, default) = match word.text.split_once('=') {
        Some(("", _)) => return Err(Fault::new("ARG names can not be blank", word.span)),
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word.text.as_str(), None),
    };
    Ok(Argument { name: name.to_owned(), default, description: description(comments, name), span: word.span })
}

/// What a comment `# NAME text` says.
pub(crate) fn description(comments: &[String], name: &str) -> String {
    let text = comments.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    text.unwrap_or_default().to_owned()
}

fn command_line(node: &Node) -> CommandLine {
    let mut words = node.arguments.iter().map(|word| word.text.clone());
    if node.json {
        CommandLine::Exec(words.collect())
    } else {
        CommandLine::Shell(words.next().unwrap_or_default())
    }
}

fn placement(node: &Node, flags: &Flags) -> Result<Placement, Fault> {
    let name = node.name.text.to_ascii_uppercase();
    let heredoc = |word: &Word| crate::syntax::heredoc(&word.text).ok().flatten();
    let Some((destination, sources)) = node.arguments.split_last() else { unreachable!("checked before") };
    if heredoc(destination).is_some() {
        return Err(Fault::new(format!("{name} cannot accept a heredoc as a destination"), destination.span));
    }
    let mut placement = Placement {
        destination: destination.clone(),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        excludes: flags.texts("exclude"),
        ..Placement::default()
    };
    for source in sources {
        match heredoc(source) {
            None => placement.sources.push(source.clone()),
            Some(word) => {
                // The last of a name counts, as in BuildKit.
                let read = node.heredocs.iter().rev().find(|heredoc| heredoc.name == word.name);
                let (content, span) = read.map_or((String::new(), source.span), |heredoc| {
                    let text = Heredoc { chomp: word.chomp, ..heredoc.clone() }.text();
                    (text, heredoc.span)
                });
                placement.documents.push(Document { name: word.name, content, expand: word.expand, span });
            }
        }
    }
    Ok(placement)
}

fn two(node: &Node) -> Result<(), Fault> {
    if node.arguments.len() >= 2 {
        return Ok(());
    }
    let name = node.name.text.to_ascii_uppercase();
    let why = match node.arguments.len() {
        0 => format!("{name} requires at least two arguments"),
        _ => format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ),
    };
    Err(Fault::new(why, node.span))
}

fn add(node: &Node) -> Result<Add, Fault> {
    two(node)?;
    let flags = Flags::parse(
        &node.flags,
        &[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("keep-git-dir", Kind::Bool),
            ("checksum", Kind::Text),
            ("unpack", Kind::Bool),
            ("exclude", Kind::Texts),
        ],
    )?;
    Ok(Add {
        placement: placement(node, &flags)?,
        checksum: flags.text("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
    })
}

fn copy(node: &Node) -> Result<Copy, Fault> {
    two(node)?;
    let flags = Flags::parse(
        &node.flags,
        &[
            ("chown", Kind::Text),
            ("from", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("exclude", Kind::Texts),
            ("parents", Kind::Bool),
        ],
    )?;
    let from = flags.text("from");
    if let Some(from) = &from {
        let bare = Lexer::new('\\').expand(&from.text, &NoVariables).map(|all| all.text);
        if bare.as_deref() != Ok(from.text.as_str()) {
            let why = "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                       from global scope as a workaround";
            return Err(Fault::new(why, from.span));
        }
    }
    Ok(Copy { placement: placement(node, &flags)?, from, parents: flags.bool("parents").unwrap_or(false) })
}

fn run(node: &Node) -> Result<Run, Fault> {
    let flags = Flags::parse(
        &node.flags,
        &[("mount", Kind::Texts), ("network", Kind::Text), ("security", Kind::Text), ("device", Kind::Texts)],
    )?;
    let network = match flags.text("network") {
        None => RunNetwork::Default,
        Some(word) => match word.text.as_str() {
            "default" => RunNetwork::Default,
            "none" => RunNetwork::None,
            "host" => RunNetwork::Host,
            other => {
                let fault = Fault::new(format!("invalid network mode {other:?}"), word.span);
                return Err(fault.suggest(other, ["default", "none", "host"]));
            }
        },
    };
    let insecure = match flags.text("security") {
        None => false,
        Some(word) => match word.text.as_str() {
            "sandbox" => false,
            "insecure" => true,
            other => {
                let fault = Fault::new(format!("security {other:?} is not valid"), word.span);
                return Err(fault.suggest(other, ["sandbox", "insecure"]));
            }
        },
    };
    let command = command_line(node);
    if command == CommandLine::Exec(Vec::new()) {
        return Err(Fault::new("RUN requires a command", node.span));
    }
    let run = Run {
        command,
        heredocs: node.heredocs.clone(),
        mount_flags: flags.texts("mount"),
        network,
        insecure,
        devices: flags.texts("device").iter().map(Device::parse).collect::<Result<_, _>>()?,
    };
    // `from=` may have no variables: stages depend on it.
    run.sources()?;
    Ok(run)
}

fn onbuild(node: &Node) -> Result<Trigger, Fault> {
    let Some(child) = &node.child else {
        return Err(Fault::new("ONBUILD requires at least one argument", node.span));
    };
    Flags::parse(&node.flags, &[])?;
    match child.name.text.to_ascii_uppercase().as_str() {
        "ONBUILD" => {
            return Err(Fault::new("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", child.name.span));
        }
        name @ ("MAINTAINER" | "FROM") => {
            return Err(Fault::new(format!("{name} isn't allowed as an ONBUILD trigger"), child.name.span));
        }
        name if !NAMES.contains(&name) => {
            let fault = Fault::new(format!("unknown instruction: {}", child.name.text), child.name.span);
            return Err(fault.suggest(name, NAMES));
        }
        _ => {}
    }
    let mut expression = child.source.clone();
    for heredoc in &node.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(Trigger { expression, span: Span::new(child.name.span.start, node.span.end) })
}

fn healthcheck(node: &Node) -> Result<Healthcheck, Fault> {
    let Some((kind, words)) = node.arguments.split_first() else {
        return Err(Fault::new("HEALTHCHECK requires at least one argument", node.span));
    };
    let mut check = Healthcheck::default();
    match kind.text.to_ascii_uppercase().as_str() {
        "NONE" => {
            if let Some(word) = words.first() {
                return Err(Fault::new("HEALTHCHECK NONE takes no arguments", word.span));
            }
            // BuildKit does not look at flags here, and drops them.
            check.test = vec!["NONE".to_owned()];
            return Ok(check);
        }
        "CMD" => {
            let Some(first) = words.first() else {
                return Err(Fault::new("Missing command after HEALTHCHECK CMD", node.span));
            };
            if node.json {
                check.test.push("CMD".to_owned());
                check.test.extend(words.iter().map(|word| word.text.clone()));
            } else {
                check.test = vec!["CMD-SHELL".to_owned(), first.text.clone()];
            }
        }
        other => {
            let fault = Fault::new(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)"), kind.span);
            return Err(fault.suggest(other, ["CMD", "NONE"]));
        }
    }
    let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
    let flags = Flags::parse(&node.flags, &names.map(|name| (name, Kind::Text)))?;
    let interval = |name: &str| match flags.text(name) {
        None => Ok(0),
        Some(word) => nanoseconds(&word.text, name).map_err(|why| Fault::new(why, word.span)),
    };
    check.interval = interval("interval")?;
    check.timeout = interval("timeout")?;
    check.start_period = interval("start-period")?;
    check.start_interval = interval("start-interval")?;
    if let Some(word) = flags.text("retries") {
        let bad = |why: String| Fault::new(why, word.span);
        let retries: i32 = word
            .text
            .parse()
            .map_err(|_| bad(format!("--retries wants a whole number, not {:?}", word.text)))?;
        if retries < 0 {
            return Err(bad(format!("--retries cannot be negative ({retries})")));
        }
        check.retries = i64::from(retries);
    }
    Ok(check)
}

/// A duration of a health check in Go's form (`1m30s`, `1.5h`), in nanoseconds.
fn nanoseconds(text: &str, name: &str) -> Result<i64, String> {
    let bad = || format!("invalid duration {text:?} of --{name}: write it like 30s or 1m30s");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    let negative = rest.starts_with('-');
    rest = rest.strip_prefix('-').unwrap_or(rest);
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|sign: char| !(sign.is_ascii_digit() || sign == '.')).ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let behind = &rest[digits..];
        let end = behind.find(|sign: char| sign.is_ascii_digit() || sign == '.').unwrap_or(behind.len());
        let unit = match &behind[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        total += number * unit;
        rest = &behind[end..];
    }
    if total > i64::MAX as f64 / 2.0 {
        return Err(bad());
    }
    let total = if negative { -total } else { total };
    match total.round() as i64 {
        0 => Ok(0),
        short if short < 1_000_000 => Err(format!("Interval {name:?} cannot be less than 1ms")),
        fine => Ok(fine),
    }
}
