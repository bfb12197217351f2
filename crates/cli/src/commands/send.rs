mod destination;
mod far;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ChildStdin;

use clap::Args;
use robot_env_diag::{Error, IoContext, Result};
use robot_env_layer::{Compression, Encoder};
use robot_env_oci::{Reference, RuntimeConfig};
use robot_env_store::Store;
use robot_env_transfer::SaveOptions;

use self::destination::Destination;
use self::far::Far;
use crate::app::App;
use crate::verb::{Exit, Verb};

/// Send images to another machine over ssh: only the layers that it lacks
///
/// The machine needs robot-env or Docker. Nothing is stored on the way, neither here nor there: layers
/// are made while they are sent and unpacked while they arrive.
#[derive(Args)]
pub(crate) struct Send {
    /// The program on the other machine that takes images, e.g. `sudo robot-env`; by default `robot-env`,
    /// or `docker` where there is none
    #[arg(long, value_name = "PROGRAM")]
    program: Option<String>,
    /// How the connection is compressed: zstd, gzip or none; by default zstd where robot-env answers,
    /// else none
    #[arg(long, value_name = "METHOD", value_parser = compression)]
    compress: Option<Compression>,
    /// Do not print what was sent
    #[arg(short, long)]
    quiet: bool,
    /// The images, and last the other machine as ssh knows it: `[USER@]HOST[:PORT]`
    #[arg(value_name = "IMAGE... [USER@]HOST[:PORT]", required = true)]
    words: Vec<String>,
}

impl Verb for Send {
    const SPELLINGS: &'static [&'static str] = &["send", "image send"];

    fn run(mut self, app: &App) -> Result<Exit> {
        let to = self.words.pop().unwrap_or_default();
        if self.words.is_empty() {
            return Err(Error::invalid("`send` requires an image and the machine that it goes to")
                .with_hint(format!("e.g. `{} send {to} robot@arm`", app.program())));
        }
        let destination = Destination::parse(&to)?;
        let images = self.words;
        // ssh first: once the store is open, an ordinary user's process is root of a user namespace,
        // and ssh would look for root's keys.
        let mut far = Far::connect(&destination, self.program.as_deref())?;
        let store = app.store_with(&images[0])?;
        let mut texts = Vec::new();
        let (mut all, mut missing) = (BTreeSet::new(), BTreeSet::new());
        for text in &images {
            let record = App::find_image(&store, text)?;
            texts.push(one_name(&store, text)?);
            for (_, id) in store.config(&record.id)?.value().chain().links() {
                all.insert(id.clone());
                if !far.present().contains(id) {
                    missing.insert(id.clone());
                }
            }
        }
        let options = SaveOptions { present: far.present().clone(), ..SaveOptions::default() };
        let observer = app.observer(self.quiet || !app.ambient().stdout_is_terminal);
        let input = far.begin(&["load".into(), "--quiet".into()])?;
        let sent = Encoder::new(input, self.compress.unwrap_or_else(|| far.compression()))
            .and_then(|out| robot_env_transfer::save(&store, &texts, out, &options, observer.as_ref()))
            .and_then(Encoder::finish)
            .and_then(flushed);
        drop(observer);
        let what = if let [one] = &images[..] { format!("image `{one}`") } else { "the images".into() };
        far.end(&what, sent)?;
        if !self.quiet {
            for (text, name) in images.iter().zip(&texts) {
                app.print_line(&format!("Sent {}", if name.is_empty() { text } else { name }))?;
            }
            app.print_line(&format!("{} of {} layers went to {to}", missing.len(), all.len()))?;
        }
        Ok(Exit::SUCCESS)
    }
}

/// Send a container's file system to another machine over ssh, where it becomes an image
///
/// `container export` and `import` in one, without a file in between. The image keeps the variables,
/// command, user and working directory that the container's image has. Volumes stay behind.
#[derive(Args)]
pub(crate) struct ContainerSend {
    /// The program on the other machine that takes images, e.g. `sudo robot-env`; by default `robot-env`,
    /// or `docker` where there is none
    #[arg(long, value_name = "PROGRAM")]
    program: Option<String>,
    /// How the connection is compressed: zstd, gzip or none; by default zstd where robot-env answers,
    /// else none
    #[arg(long, value_name = "METHOD", value_parser = compression)]
    compress: Option<Compression>,
    /// Do not print what was sent
    #[arg(short, long)]
    quiet: bool,
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
    /// The other machine, as ssh knows it
    #[arg(value_name = "[USER@]HOST[:PORT]", required = true)]
    host: String,
    /// The image's name there; by default the container's
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Verb for ContainerSend {
    const SPELLINGS: &'static [&'static str] = &["container send"];

    fn run(self, app: &App) -> Result<Exit> {
        let destination = Destination::parse(&self.host)?;
        let named = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        let mut far = Far::connect(&destination, self.program.as_deref())?;
        let engine = app.engine()?;
        let record = engine.container(&self.container)?.record;
        let name = match named {
            Some(name) => name,
            None => record.name.parse::<Reference>().map_err(|error| {
                error
                    .with_hint(format!("name the image: `container send {} {} NAME`", record.name, self.host))
            })?,
        };
        let name = name.or_latest().familiar();
        let mut words = vec!["import".to_owned()];
        for change in changes(&record.image_config) {
            words.extend(["--change".to_owned(), change]);
        }
        words.extend(["-".to_owned(), name.clone()]);
        let input = far.begin(&words)?;
        let sent = Encoder::new(input, self.compress.unwrap_or_else(|| far.compression()))
            .and_then(|mut out| engine.export(record.id.as_str(), &mut out).map(|_| out))
            .and_then(Encoder::finish)
            .and_then(flushed);
        far.end(&format!("container `{}`", record.name), sent)?;
        if !self.quiet {
            app.print_line(&format!("Sent {} to {} as {name}", record.name, self.host))?;
        }
        Ok(Exit::SUCCESS)
    }
}

fn flushed(mut input: ChildStdin) -> Result<ChildStdin> {
    input.flush().io_context(|| "cannot write to ssh".into()).map(|()| input)
}

fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "zstd" => Ok(Compression::Zstd),
        "gzip" => Ok(Compression::Gzip),
        "none" => Ok(Compression::None),
        _ => Err("zstd, gzip or none".into()),
    }
}

/// The name that `text` means, with its tag: `save` takes a name without one for all tags. An id
/// stays an id.
fn one_name(store: &Store, text: &str) -> Result<String> {
    let Ok(reference) = text.parse::<Reference>() else { return Ok(text.to_owned()) };
    let reference = reference.or_latest();
    Ok(if store.name(&reference)?.is_some() { reference.familiar() } else { text.to_owned() })
}

/// The instructions that give an image this configuration.
fn changes(config: &RuntimeConfig) -> Vec<String> {
    let list = |words: &[String]| serde_json::to_string(words).unwrap_or_default();
    let mut out = Vec::new();
    for pair in &config.env {
        if let Some((name, value)) = pair.split_once('=') {
            let mut quoted = String::new();
            for letter in value.chars() {
                if matches!(letter, '"' | '\\' | '$') {
                    quoted.push('\\');
                }
                quoted.push(letter);
            }
            out.push(format!("ENV {name}=\"{quoted}\""));
        }
    }
    if let Some(words) = &config.entrypoint {
        out.push(format!("ENTRYPOINT {}", list(words)));
    }
    if let Some(words) = &config.cmd {
        out.push(format!("CMD {}", list(words)));
    }
    if !config.working_dir.is_empty() {
        out.push(format!("WORKDIR {}", config.working_dir));
    }
    if !config.user.is_empty() {
        out.push(format!("USER {}", config.user));
    }
    // A line of its own each, on the way: see `Far::begin`.
    out.retain(|change| !change.contains('\n'));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_transfer::Change;

    #[test]
    fn a_configuration_is_instructions_that_can_be_read() {
        let config = RuntimeConfig {
            env: vec!["A=plain".into(), "B=a \"b\" $c \\d".into(), "NL=a\nb".into()],
            entrypoint: Some(vec!["/entry point".into()]),
            cmd: Some(vec!["ros2".into(), "launch".into()]),
            working_dir: "/work".into(),
            user: "robot:dialout".into(),
            ..RuntimeConfig::default()
        };
        let list = changes(&config);
        assert_eq!(
            list,
            [
                "ENV A=\"plain\"",
                "ENV B=\"a \\\"b\\\" \\$c \\\\d\"",
                "ENTRYPOINT [\"/entry point\"]",
                "CMD [\"ros2\",\"launch\"]",
                "WORKDIR /work",
                "USER robot:dialout",
            ]
        );
        assert_eq!(Change::parse_all(list.iter().map(String::as_str)).unwrap().len(), list.len());
    }
}
