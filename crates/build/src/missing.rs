//! A file that is to be copied and is not there: why, and which one may have been meant.

use std::os::fd::AsFd;
use std::path::Path;

use robot_env_diag::{Error, Kind};
use robot_env_dockerfile::nearest;
use rustix::fs::OFlags;

use crate::glob;
use crate::room::{Context, Opened};
use crate::tree::{Tree, clean, sorted};

/// How many entries of a directory are looked at for a name that is near.
const MOST: usize = 10_000;

/// The error for `text`, which was not found in a tree; other errors stay as they are.
pub(crate) fn missing(opened: &Opened, text: &str, error: Error) -> Error {
    if error.kind() != Kind::NotFound {
        return error;
    }
    let tree = opened.tree();
    let context = opened.context();
    let out = Error::not_found(match context {
        Some(context) => format!("`{text}` is not in the context `{}`", context.path.display()),
        None => format!("`{text}` is not there"),
    });
    let why =
        context.and_then(|context| ignored(&tree, context, text).or_else(|| outside(&context.path, text)));
    let meant = || near(&tree, text).map(|near| format!("did you mean `{near}`?"));
    match why.or_else(meant) {
        Some(hint) => out.with_hint(hint),
        None => out,
    }
}

/// Which line keeps out what would be found without it.
fn ignored(tree: &Tree<'_>, context: &Context, text: &str) -> Option<String> {
    let all = Tree { ignore: None, ..*tree };
    let found = all.find(text).ok()?;
    let path = found.iter().map(|found| String::from_utf8_lossy(&found.path)).collect::<Vec<_>>();
    let (pattern, line) = path.iter().find_map(|path| context.ignore.ignored_by(path))?;
    Some(format!("`{pattern}` in line {line} of {} keeps it out", context.ignore_name))
}

/// What is on the host where the text leads when nothing holds it in the context.
fn outside(context: &Path, text: &str) -> Option<String> {
    let mut depth = 0i32;
    let escapes = text.split('/').any(|part| {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    });
    let there = if text.starts_with('/') { Path::new(text).to_owned() } else { context.join(text) };
    if !(escapes || text.starts_with('/')) || !there.exists() {
        return None;
    }
    Some(
        "it lies outside of the context: build from a directory above it, or add `--build-context NAME=DIRECTORY` \
         and `--from=NAME`"
            .into(),
    )
}

/// A path of the tree that differs in one name, or that lies in a directory of the root's.
fn near(tree: &Tree<'_>, text: &str) -> Option<String> {
    let wanted = clean(text);
    let parts: Vec<&str> = wanted.split('/').collect();
    if wanted.is_empty() || parts.iter().any(|part| glob::is_pattern(part.as_bytes())) {
        return None;
    }
    let there = |path: &str| tree.find(path).is_ok();
    let at = (1..parts.len()).find(|length| !there(&parts[..*length].join("/"))).unwrap_or(parts.len()) - 1;
    let parent = parts[..at].join("/");
    let names = names(tree, &parent)?;
    let same = names.iter().find(|name| name.eq_ignore_ascii_case(parts[at])).map(String::as_str);
    // Two changes make anything short of a short name.
    let near = || nearest(parts[at], names.iter().map(String::as_str).filter(|name| name.len() > 2));
    let replaced = same.or_else(|| near().filter(|_| parts[at].len() > 2)).map(|name| {
        let all: Vec<&str> =
            parts[..at].iter().copied().chain([name]).chain(parts[at + 1..].iter().copied()).collect();
        all.join("/")
    });
    if let Some(path) = replaced.filter(|path| there(path)) {
        return Some(path);
    }
    let mut below =
        self::names(tree, "")?.into_iter().map(|name| format!("{name}/{wanted}")).filter(|path| there(path));
    below.next().filter(|_| below.next().is_none())
}

fn names(tree: &Tree<'_>, directory: &str) -> Option<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = robot_env_sys::fs::open_in_root(tree.root, directory, flags).ok()?;
    let all = sorted(dir.as_fd()).ok()?;
    Some(all.iter().take(MOST).filter_map(|name| name.to_str().ok().map(str::to_owned)).collect())
}
