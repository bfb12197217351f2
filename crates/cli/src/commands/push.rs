use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_oci::Reference;
use robot_env_transfer::PushOptions;

use super::pull::{check_content_trust, platform};
use crate::app::App;
use crate::interrupt::interruptible;
use crate::verb::{Exit, Verb};

/// Upload an image to a registry
#[derive(Args)]
pub(crate) struct Push {
    /// Upload all images that have a tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Only `true`: nothing is signed for Notary
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide = true)]
    disable_content_trust: Option<bool>,
    /// Upload only if the image is for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print the image's name only
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

impl Verb for Push {
    const SPELLINGS: &'static [&'static str] = &["push", "image push"];

    fn run(self, app: &App) -> Result<Exit> {
        check_content_trust(self.disable_content_trust)?;
        let reference: Reference = self.name.parse()?;
        let tagged = reference.tag().is_some() || reference.digest().is_some();
        if self.all_tags && tagged {
            return Err(Error::invalid("tag can't be used with --all-tags/-a"));
        }
        let not_here = || {
            let name = reference.clone().or_latest().familiar();
            Error::not_found(format!("cannot push `{name}`: no image here has this name"))
        };
        let store = app.existing_store()?.ok_or_else(not_here)?;
        let references = if self.all_tags {
            let names = store.names()?.into_iter().map(|name| name.reference);
            let repository = reference.repository();
            names.filter(|name| name.repository() == repository && name.tag().is_some()).collect()
        } else {
            vec![reference.clone().or_latest()]
        };
        if references.is_empty() {
            return Err(not_here());
        }
        let options = PushOptions { platform: platform(app, self.platform)? };
        let client = app.registry();
        if !tagged && !self.all_tags && !self.quiet {
            app.print_line("Using default tag: latest")?;
        }
        interruptible(&client, || {
            for reference in &references {
                let observer = app.observer(self.quiet);
                let pushed =
                    robot_env_transfer::push(&store, &client, reference, &options, observer.as_ref())?;
                let tag = pushed.reference.tag().unwrap_or_default();
                observer.message(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size));
            }
            Ok(())
        })?;
        if self.quiet {
            let name = if self.all_tags { reference } else { reference.or_latest() };
            app.print_line(&name.to_string())?;
        }
        Ok(Exit::SUCCESS)
    }
}
