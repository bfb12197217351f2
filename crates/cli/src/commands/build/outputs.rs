//! What becomes of a build: `--output` and its short forms, and caches that go from machine to machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

use clap::Args;
use robot_env_build::{CacheSource, CacheTarget, Destination, Output};
use robot_env_diag::{Error, IoContext, Result};
use robot_env_oci::Platform;

use crate::app::App;
use crate::commands::pull;
use crate::container_flags::csv;

/// Flags about what a build leaves and uses.
#[derive(Args)]
pub(crate) struct OutputFlags {
    /// Use the cache of another build: type=local,src=DIRECTORY or type=registry,ref=NAME; a name
    /// alone is a registry's
    #[arg(long, value_name = "NAME|type=TYPE[,KEY=VALUE]")]
    cache_from: Vec<String>,
    /// Put the cache there, too: type=local,dest=DIRECTORY, type=registry,ref=NAME or type=inline;
    /// mode=min or max
    #[arg(long, value_name = "NAME|type=TYPE[,KEY=VALUE]")]
    cache_to: Vec<String>,
    /// Keep the image here: --output=type=docker
    #[arg(long)]
    load: bool,
    /// What becomes of the result: type=local, tar, oci, docker, image, registry or cacheonly; a
    /// path alone is a directory, `-` a tar on standard output
    #[arg(short, long, value_name = "PATH|type=TYPE[,KEY=VALUE]")]
    output: Vec<String>,
    /// Push the image when it is built: --output=type=registry
    #[arg(long)]
    push: bool,
    /// Make one layer of all that the build makes
    #[arg(long)]
    squash: bool,
}

/// A list of `KEY=VALUE` with its type; a text without any is the value of `alone`.
fn attributes(flag: &str, text: &str, alone: (&str, &str)) -> Result<(String, BTreeMap<String, String>)> {
    let bad = |why: String| Error::invalid(format!("invalid argument `{text}` for --{flag}: {why}"));
    let fields = csv(text).ok_or_else(|| bad("it must be like type=TYPE,KEY=VALUE".into()))?;
    if let [only] = &fields[..]
        && !only.contains('=')
    {
        return Ok((alone.0.to_owned(), BTreeMap::from([(alone.1.to_owned(), only.clone())])));
    }
    let mut all = BTreeMap::new();
    for field in fields {
        let (key, value) =
            field.split_once('=').ok_or_else(|| bad(format!("`{field}` must be like KEY=VALUE")))?;
        if all.insert(key.trim().to_lowercase(), value.to_owned()).is_some() {
            return Err(bad(format!("`{key}` is there twice")));
        }
    }
    let kind = all.remove("type").ok_or_else(|| bad("it has no type".into()))?;
    Ok((kind, all))
}

impl OutputFlags {
    pub(super) fn squash(&self) -> bool {
        self.squash
    }

    /// What becomes of the result; none: an image here.
    pub(super) fn outputs(&self, app: &App) -> Result<Vec<Output>> {
        let here = &app.ambient().directory;
        let mut stdout = || {
            if app.ambient().stdout_is_terminal {
                return Err(Error::invalid("cowardly refusing to write an archive to a terminal")
                    .with_hint("name a file by `dest=FILE`, or redirect the output"));
            }
            let out = std::io::stdout().as_fd().try_clone_to_owned();
            out.map(File::from).io_context(|| "cannot write to standard output".into())
        };
        let mut outputs = Vec::new();
        for text in &self.output {
            let alone = if text == "-" { ("tar", "dest") } else { ("local", "dest") };
            let (kind, all) = attributes("output", text, alone)?;
            outputs.push(Output::read(&kind, &all, here, &mut stdout)?);
        }
        let mut pushed = !self.push;
        for output in &mut outputs {
            if let Output::Image { push, .. } = output
                && self.push
            {
                (*push, pushed) = (true, true);
            }
        }
        if !pushed {
            outputs.push(Output::read("registry", &BTreeMap::new(), here, &mut stdout)?);
        }
        if self.load && !outputs.iter().any(|output| matches!(output, Output::Image { .. })) {
            outputs.push(Output::read("docker", &BTreeMap::new(), here, &mut stdout)?);
        }
        if on_stdout(&outputs) > 1 {
            return Err(Error::invalid("only one output can go to standard output"));
        }
        Ok(outputs)
    }

    pub(super) fn cache_from(&self, app: &App) -> Result<Vec<CacheSource>> {
        let read = |text: &String| {
            let (kind, all) = attributes("cache-from", text, ("registry", "ref"))?;
            CacheSource::read(&kind, &all, &app.ambient().directory)
        };
        self.cache_from.iter().filter(|text| !text.is_empty()).map(read).collect()
    }

    pub(super) fn cache_to(&self, app: &App) -> Result<Vec<CacheTarget>> {
        let read = |text: &String| {
            let alone = if text == "inline" { ("inline", "type") } else { ("registry", "ref") };
            let (kind, mut all) = attributes("cache-to", text, alone)?;
            all.remove("type");
            CacheTarget::read(&kind, &all, &app.ambient().directory)
        };
        self.cache_to.iter().filter(|text| !text.is_empty()).map(read).collect()
    }
}

/// How many outputs go to standard output.
pub(super) fn on_stdout(outputs: &[Output]) -> usize {
    let open = |output: &&Output| {
        matches!(
            output,
            Output::Tar { destination: Destination::Open(_), .. }
                | Output::Layout { destination: Destination::Open(_), .. }
        )
    };
    outputs.iter().filter(open).count()
}

/// The platforms of `--platform`, each once: one, or several.
pub(super) fn platforms(app: &App, words: &[String]) -> Result<(Option<Platform>, Vec<Platform>)> {
    let mut all: Vec<Platform> = Vec::new();
    for word in words.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty()) {
        let platform = if word == "local" { Platform::host() } else { word.parse()? };
        if !all.contains(&platform) {
            all.push(platform);
        }
    }
    match &all[..] {
        [] => Ok((pull::platform(app, None)?, Vec::new())),
        [only] => Ok((Some(only.clone()), Vec::new())),
        _ => Ok((None, all)),
    }
}
