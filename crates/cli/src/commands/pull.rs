use clap::Args;
use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{Platform, Reference};
use robot_env_transfer::{PullOptions, Pulled, ownership};

use crate::app::App;
use crate::interrupt::interruptible;
use crate::verb::{Exit, Verb};

/// Download an image from a registry
#[derive(Args)]
pub(crate) struct Pull {
    /// Download all tagged images of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Only `true`: signatures of Notary are not looked at
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide = true)]
    disable_content_trust: Option<bool>,
    /// The platform, if the image is there for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print the image's name only
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

impl Verb for Pull {
    const SPELLINGS: &'static [&'static str] = &["pull", "image pull"];

    fn run(self, app: &App) -> Result<Exit> {
        check_content_trust(self.disable_content_trust)?;
        let reference: Reference = self.name.parse()?;
        let tagged = reference.tag().is_some() || reference.digest().is_some();
        if self.all_tags && tagged {
            return Err(Error::invalid("tag can't be used with --all-tags/-a"));
        }
        // An ordinary user can give files away only after this: see `App::place`.
        let store = app.store()?;
        let options = PullOptions { platform: platform(app, self.platform)?, ownership: ownership() };
        let client = app.registry();
        let pull = |reference: &Reference| {
            let observer = app.observer(self.quiet);
            let pulled = robot_env_transfer::pull(&store, &client, reference, &options, observer.as_ref())?;
            if !self.quiet {
                tell(observer.as_ref(), &pulled);
            }
            Ok(())
        };
        interruptible(&client, || {
            if self.all_tags {
                let repository = reference.repository();
                let tags = client.tags(repository)?;
                if tags.is_empty() {
                    let name = repository.familiar();
                    return Err(Error::new(Kind::NotFound, format!("cannot pull `{name}`: it has no tags")));
                }
                for tag in tags {
                    pull(&Reference::with_tag(repository.clone(), &tag)?)?;
                }
                return Ok(());
            }
            if !tagged && !self.quiet {
                app.print_line("Using default tag: latest")?;
            }
            pull(&reference)
        })?;
        let reference = if self.all_tags { reference } else { reference.or_latest() };
        app.print_line(&reference.to_string())?;
        Ok(Exit::SUCCESS)
    }
}

pub(super) fn tell(observer: &dyn robot_env_transfer::Observer, pulled: &Pulled) {
    let name = pulled.reference.familiar();
    observer.message(&format!("Digest: {}", pulled.digest));
    observer.message(&if pulled.newer {
        format!("Status: Downloaded newer image for {name}")
    } else {
        format!("Status: Image is up to date for {name}")
    });
}

/// `--platform`, or what Docker's variable says.
pub(crate) fn platform(app: &App, flag: Option<String>) -> Result<Option<Platform>> {
    let text = flag.or_else(|| app.ambient().variable("DOCKER_DEFAULT_PLATFORM").map(str::to_owned));
    text.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()
}

/// Content trust by Notary is a thing of the past; whoever insists on it is told.
pub(crate) fn check_content_trust(disable: Option<bool>) -> Result<()> {
    if disable == Some(false) {
        return Err(Error::new(Kind::Unsupported, "--disable-content-trust=false is not supported"));
    }
    Ok(())
}
