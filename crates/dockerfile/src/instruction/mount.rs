//! `RUN --mount=` and `RUN --device=`.

use std::collections::BTreeSet;

use super::Run;
use crate::lex::{Lexer, Variables};
use crate::span::{Fault, Span, Word};

/// What `--mount=type=` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file or variable that never reaches a layer.
    Secret,
    /// A socket of an ssh agent.
    Ssh,
}

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

impl MountKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Who may use a cache at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Several steps.
    #[default]
    Shared,
    /// A step that finds it in use gets another one.
    Private,
    /// A step that finds it in use waits.
    Locked,
}

const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

/// All keys, for suggestions.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// A mount of a `RUN`, variables put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// A stage, a named context or an image; without it, the context (or, of a cache, nothing).
    pub from: Option<String>,
    /// A path in there; of a secret, its id. Empty if it is not written.
    pub source: String,
    /// Where, absolute or below the working directory. Empty if it is not written: see the kinds.
    pub target: String,
    /// Writes are refused: the default of all kinds but caches and tmpfs.
    pub read_only: bool,
    /// Bytes that a tmpfs may take.
    pub size: Option<u64>,
    /// What tells caches, secrets and agents apart. Empty if it is not written.
    pub id: String,
    /// Who may use a cache at once.
    pub sharing: Sharing,
    /// Not to have the secret or the agent is an error.
    pub required: bool,
    /// The variable that gets the secret's content; an empty name stands for the id.
    pub env: Option<String>,
    /// Permissions of a secret, a socket or a new cache.
    pub mode: Option<u32>,
    /// Owner of those.
    pub uid: Option<u32>,
    /// Group of those.
    pub gid: Option<u32>,
    /// Where the flag stands.
    pub span: Span,
}

/// A device of `RUN --device=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// A CDI name: `vendor/class[=name]`.
    pub name: String,
    /// Not to have it is an error.
    pub required: bool,
}

impl Run {
    /// The mounts.
    ///
    /// Gives also the names of variables that were asked for and are not set. Errors: an unknown
    /// key or type, a value that is none, keys that do not go together.
    pub fn mounts(
        &self,
        escape: char,
        variables: &dyn Variables,
    ) -> Result<(Vec<Mount>, BTreeSet<String>), Fault> {
        let lexer = Lexer::new(escape);
        let mut unset = BTreeSet::new();
        let mut expand = |text: &str| {
            let expanded = lexer.expand(text, variables)?;
            unset.extend(expanded.unmatched);
            Ok(expanded.text)
        };
        let mounts: Result<_, Fault> = self.mount_flags.iter().map(|flag| mount(flag, &mut expand)).collect();
        Ok((mounts?, unset))
    }

    /// What mounts are `from=`: names of stages, named contexts or images (no numbers of stages).
    ///
    /// Errors: a variable in there.
    pub fn sources(&self) -> Result<Vec<Word>, Fault> {
        let mut sources = Vec::new();
        for flag in &self.mount_flags {
            let fields = fields(&flag.text).map_err(|why| Fault::new(why, flag.span))?;
            let mut last = None;
            for field in &fields {
                let Some((key, value)) = field.split_once('=') else { continue };
                if !key.eq_ignore_ascii_case("from") {
                    continue;
                }
                if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                    let why = "'from' doesn't support variable expansion, define alias stage instead";
                    return Err(Fault::new(why, flag.span));
                }
                last = Some(value.to_owned()).filter(|value| !value.is_empty());
            }
            sources.extend(last.map(|text| Word { text, span: flag.span }));
        }
        Ok(sources)
    }
}

impl Device {
    /// Reads `name[,required]`.
    pub(super) fn parse(flag: &Word) -> Result<Device, Fault> {
        let bad = |why: String| Fault::new(why, flag.span);
        let mut device = Device::default();
        for field in fields(&flag.text).map_err(bad)? {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
            match (key.to_ascii_lowercase().as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required =
                        boolean(value).ok_or_else(|| bad(format!("invalid value for required: {value}")))?;
                }
                ("name", Some(_)) if !device.name.is_empty() => {
                    return Err(bad(format!("device name already set to {}", device.name)));
                }
                ("name", Some(value)) => value.clone_into(&mut device.name),
                _ if device.name.is_empty() => device.name = field,
                (_, None) => {
                    return Err(bad(format!("invalid field '{field}' must be a key=value pair")));
                }
                (key, Some(_)) => {
                    let fault = bad(format!("unexpected key '{key}' in '{field}'"));
                    return Err(fault.suggest(key, ["name", "required"]));
                }
            }
        }
        if device.name.is_empty() {
            return Err(bad("a device needs a name".to_owned()));
        }
        Ok(device)
    }
}

fn mount(flag: &Word, expand: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<Mount, Fault> {
    let bad = |why: String| Fault::new(why, flag.span);
    let mut mount = Mount { span: flag.span, ..Mount::default() };
    let mut read_only = None;
    let mut sharing = None;
    for field in fields(&flag.text).map_err(bad)? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
        let key = key.to_ascii_lowercase();
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => {
                    mount.required = true;
                }
                "required" => {
                    let kind = mount.kind.as_str();
                    return Err(bad(format!("unexpected key '{key}' for mount type '{kind}'")));
                }
                _ => return Err(bad(format!("invalid field '{field}' must be a key=value pair"))),
            }
            continue;
        };
        let value = expand(value).map_err(bad)?;
        let unexpected =
            |mount: &Mount| bad(format!("unexpected key '{key}' for mount type '{}'", mount.kind.as_str()));
        let flagged = || boolean(&value).ok_or_else(|| bad(format!("invalid value for {key}: {value}")));
        let number = || value.parse::<u32>().map_err(|_| bad(format!("invalid value {value} for {key}")));
        match key.as_str() {
            "type" => {
                let lower = value.to_ascii_lowercase();
                mount.kind = of(&KINDS, &lower).ok_or_else(|| {
                    let fault = bad(format!("unsupported mount type {value:?}"));
                    fault.suggest(&lower, KINDS.map(|(name, _)| name))
                })?;
            }
            "from" => mount.from = Some(value).filter(|value| !value.is_empty()),
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "readonly" | "ro" => read_only = Some(flagged()?),
            "readwrite" | "rw" => read_only = Some(!flagged()?),
            "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => {
                mount.required = flagged()?;
            }
            "size" if mount.kind == MountKind::Tmpfs => {
                let size = bytes(&value).ok_or_else(|| bad(format!("invalid value for {key}: {value}")))?;
                mount.size = Some(size).filter(|size| *size > 0);
            }
            "required" | "size" => return Err(unexpected(&mount)),
            "id" => mount.id = value,
            "sharing" => {
                let lower = value.to_ascii_lowercase();
                let known = of(&SHARINGS, &lower).ok_or_else(|| {
                    let fault = bad(format!("unsupported sharing value {value:?}"));
                    fault.suggest(&lower, SHARINGS.map(|(name, _)| name))
                })?;
                sharing = Some(known);
            }
            "mode" => {
                let mode = u32::from_str_radix(&value, 8);
                mount.mode = Some(mode.map_err(|_| bad(format!("invalid value {value} for mode")))?);
            }
            "uid" => mount.uid = Some(number()?),
            "gid" => mount.gid = Some(number()?),
            "env" => mount.env = Some(value),
            _ => return Err(bad(format!("unexpected key '{key}' in '{field}'")).suggest(&key, KEYS)),
        }
    }
    let writable = matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
    mount.read_only = read_only.unwrap_or(!writable);
    mount.sharing = sharing.unwrap_or_default();
    check(&mount, sharing.is_some()).map_err(bad)?;
    Ok(mount)
}

/// Whether the keys go together.
fn check(mount: &Mount, shared: bool) -> Result<(), String> {
    let kind = mount.kind.as_str();
    if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) {
        let given = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
        if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some()) {
            return Err(format!("{key} not allowed for {kind:?} type mounts"));
        }
    }
    if mount.kind == MountKind::Secret {
        if mount.from.is_some() {
            return Err("secret mount should not have a from".to_owned());
        }
        if shared {
            return Err("secret mount should not define sharing".to_owned());
        }
        if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
            return Err("invalid secret mount. one of source, target required".to_owned());
        }
        if !mount.source.is_empty() && !mount.id.is_empty() {
            return Err("both source and id can't be set".to_owned());
        }
    }
    if shared && mount.kind != MountKind::Cache {
        return Err(format!("invalid cache sharing set for {kind} mount"));
    }
    Ok(())
}

fn of<T: Copy>(known: &[(&str, T)], name: &str) -> Option<T> {
    known.iter().find(|(text, _)| *text == name).map(|(_, value)| *value)
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5 GiB`: units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|sign: char| !(sign.is_ascii_digit() || sign == '.')).unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].strip_prefix(' ').unwrap_or(&text[digits..]).to_ascii_lowercase();
    let power = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" if !unit.starts_with('i') => 0,
        "k" | "ki" => 1,
        "m" | "mi" => 2,
        "g" | "gi" => 3,
        "t" | "ti" => 4,
        "p" | "pi" => 5,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// The fields of one line of CSV.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let field = if let Some(quoted) = rest.strip_prefix('"') {
            let (field, behind) = unquote(quoted)?;
            rest = behind;
            field
        } else {
            let (field, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            if field.contains('"') {
                return Err(format!("failed to parse {text:?}: bare \" in a field without quotes"));
            }
            rest = behind;
            field.to_owned()
        };
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if rest.is_empty() => return Ok(fields),
            None => return Err(format!("failed to parse {text:?}: text behind a quoted field")),
        }
    }
}

fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' if text[at + 1..].starts_with('"') => {
                signs.next();
                field.push('"');
            }
            '"' => return Ok((field, &text[at + 1..])),
            _ => field.push(sign),
        }
    }
    Err(format!("failed to parse {text:?}: a quote is not closed"))
}
