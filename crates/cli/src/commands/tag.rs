use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_oci::Reference;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Give an image another name
#[derive(Args)]
pub(crate) struct Tag {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its further name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

impl Verb for Tag {
    const SPELLINGS: &'static [&'static str] = &["tag", "image tag"];

    fn run(self, app: &App) -> Result<Exit> {
        let target: Reference = self.target.parse()?;
        if target.digest().is_some() {
            return Err(Error::invalid(format!(
                "cannot tag image `{}`: the new name must not have a digest",
                self.source
            )));
        }
        let store = app.store_with(&self.source)?;
        let record = App::find_image(&store, &self.source)?;
        store.tag(&target.or_latest(), &record.id, None)?;
        Ok(Exit::SUCCESS)
    }
}
