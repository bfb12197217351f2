use std::fs::File;
use std::io::Read;

use clap::Args;
use robot_env_diag::{Error, IoContext, Result};
use robot_env_oci::Reference;
use robot_env_registry::Client;
use robot_env_transfer::{Change, ImportOptions, Unpacker, ownership};

use super::load::standard_input;
use super::pull::platform;
use crate::app::App;
use crate::interrupt::interruptible;
use crate::verb::{Exit, Verb};

/// Make an image of the tar of a file system
#[derive(Args)]
pub(crate) struct Import {
    /// A Dockerfile instruction that changes the image, e.g. `CMD ["bash"]`; several are allowed
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A comment for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// What the image is for
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// The tar, plain or compressed by gzip or zstd: a file, an http or https address, or `-` for
    /// standard input
    #[arg(value_name = "FILE|URL|-")]
    source: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Verb for Import {
    const SPELLINGS: &'static [&'static str] = &["import", "image import"];

    fn run(self, app: &App) -> Result<Exit> {
        let reference = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        let changes = Change::parse_all(self.change.iter().map(String::as_str))?;
        let platform = platform(app, self.platform.clone())?;
        let client = app.registry();
        let (source, size) = self.open(app, &client)?;
        let message = self.message.unwrap_or_else(|| format!("Imported from {}", self.source));
        let options = ImportOptions { changes, message, platform, reference, created: app.now(), size };
        let engine = app.engine()?;
        let unpacker = Unpacker::new(engine.store(), ownership());
        let observer = app.observer(!app.ambient().stdout_is_terminal);
        let image = interruptible(&client, || {
            robot_env_transfer::import(&unpacker, source, &options, observer.as_ref())
        })?;
        drop(observer);
        let id = image.id.to_string();
        let name = options.reference.map_or_else(|| id.clone(), |name| name.or_latest().familiar());
        engine.tell_of("image", "import", &id, [("name".to_owned(), name)].into());
        app.print_line(&id)?;
        Ok(Exit::SUCCESS)
    }
}

impl Import {
    /// What is read, and its length in bytes, 0 when it is not known.
    fn open(&self, app: &App, client: &Client) -> Result<(Box<dyn Read + Send>, u64)> {
        if self.source.starts_with("http://") || self.source.starts_with("https://") {
            let download = client.download(&self.source)?;
            let length = download.length().unwrap_or(0);
            return Ok((Box::new(download), length));
        }
        let file = if self.source == "-" {
            if app.ambient().stdin_is_terminal {
                return Err(Error::invalid("cannot import from a terminal").with_hint("name a file"));
            }
            standard_input()?
        } else {
            let path = app.ambient().directory.join(&self.source);
            File::open(path).io_context(|| format!("cannot open archive `{}`", self.source))?
        };
        let size = file.metadata().map_or(0, |found| if found.is_file() { found.len() } else { 0 });
        Ok((Box::new(file), size))
    }
}
