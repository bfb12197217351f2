//! What stages build on, and the image that comes out.

use std::sync::PoisonError;

use robot_env_diag::{Error, Kind, Result};
use robot_env_dockerfile::{Source, nearest};
use robot_env_oci::{HistoryEntry, ImageConfig, ImageId, Platform, Reference, RootFs, Verified};
use robot_env_store::ImageRecord;

use crate::solve::Build;
use crate::state::State;

impl Build<'_> {
    /// A base image, pulled if it is not here. Stages that want the same one wait for each other.
    pub(crate) fn base(&self, name: &str, platform: Option<&Platform>) -> Result<State> {
        let name = match self.request.contexts.get(name) {
            Some(other) => match other.strip_prefix("docker-image://") {
                Some(image) => image.to_owned(),
                None => {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("the context `{name}` is a directory, which no stage can build on"),
                    ));
                }
            },
            None => name.to_owned(),
        };
        let remembered = format!("{name} {}", platform.map(ToString::to_string).unwrap_or_default());
        let place = {
            let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
            pulled.entry(remembered).or_default().clone()
        };
        let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = &*known {
            return Ok(state.clone());
        }
        self.cancel.check()?;
        let found = self.store().resolve(&name);
        let fits = |image: &ImageRecord| -> Result<bool> {
            let Some(platform) = platform else { return Ok(true) };
            Ok(self.store().config(&image.id)?.value().platform.satisfies(platform))
        };
        let other = match (&found, platform) {
            (Ok(image), Some(platform)) => !fits(image)? || !Platform::host().satisfies(platform),
            (Err(_), Some(platform)) => !Platform::host().satisfies(platform),
            _ => false,
        };
        let image = match (found, platform) {
            (Ok(image), _) if !self.request.pull && fits(&image)? => image,
            (_, Some(platform)) if other => self.foreign_base(&name, platform)?,
            (found, _) => match found {
                Ok(image) if !self.request.pull => image,
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                found => {
                    let reference = name.parse::<Reference>()?.or_latest();
                    self.fetch()
                        .fetch(&reference, platform, found.is_ok())
                        .map_err(|error| self.meant(&name, error))?;
                    self.store().resolve(&name)?
                }
            },
        };
        let config = self.store().config(&image.id)?.into_value();
        if let Some(platform) = platform
            && !config.platform.satisfies(platform)
        {
            return Err(Error::not_found(format!(
                "image `{name}` is for {} and not for {platform}",
                config.platform
            )));
        }
        // Pins it.
        for chain in &image.layers {
            self.store().layer(chain)?;
        }
        let state = State::of_image(image.chain().cloned(), config);
        *known = Some(state.clone());
        Ok(state)
    }

    /// The error for an image that cannot be had, with what may have been meant: a stage, an image that is
    /// here.
    fn meant(&self, name: &str, error: Error) -> Error {
        if error.hint().is_some()
            || !matches!(error.kind(), Kind::NotFound | Kind::Unavailable | Kind::Denied)
        {
            return error;
        }
        let stages = self.file.stages.iter().filter_map(|stage| stage.name.as_ref());
        if let Some(stage) = nearest(name, stages.map(|name| name.text.as_str())) {
            return error.with_hint(format!("did you mean the stage `{stage}`?"));
        }
        if self.file.by_name(name).is_some() {
            return error.with_hint(format!("the stage `{name}` stands below: put it above"));
        }
        let here: Vec<String> = self
            .store()
            .names()
            .unwrap_or_default()
            .iter()
            .map(|name| name.reference.familiar())
            .map(|name| name.strip_suffix(":latest").map(str::to_owned).unwrap_or(name))
            .collect();
        match nearest(name, here.iter().map(String::as_str)) {
            Some(image) => error.with_hint(format!("did you mean `{image}`, which is here?")),
            None => error,
        }
    }

    /// The state of whatever `--from` names in `stage`.
    pub(crate) fn state_of(&self, source: &Source, stage: usize) -> Result<Option<State>> {
        match source {
            Source::Scratch => Ok(None),
            Source::Stage(number) => self.schedule.stage(*number, stage).map(Some),
            Source::Image(name) => self.base(name, self.request.platform.as_ref()).map(Some),
        }
    }

    /// An image of a stage that goes when the build ends: to be mounted. It is of this build alone:
    /// one that builds the same must not take it away.
    pub(crate) fn temporary_image(&self, state: &State) -> Result<ImageId> {
        let mut state = state.clone();
        state.config.labels.insert("robot-env.build".into(), self.room.snapshot_key()?.to_string());
        let image = self.image(state)?;
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner).push(image.id.clone());
        Ok(image.id)
    }

    pub(crate) fn forget_temporary(&self) {
        let mut temporary = self.temporary.lock().unwrap_or_else(PoisonError::into_inner);
        for id in temporary.drain(..) {
            let named = self.store().names().is_ok_and(|names| names.iter().any(|name| name.image == id));
            if !named {
                let _ = self.store().remove_image(&id, robot_env_store::RemoveOptions::default());
            }
        }
    }

    /// Puts the image of a state.
    fn image(&self, state: State) -> Result<ImageRecord> {
        let mut record = ImageRecord::new(&self.config(state, false)?);
        record.origin = "build".into();
        self.store().put_image(&record)
    }

    /// Puts the config of a state's image.
    pub(crate) fn config(&self, state: State, last: bool) -> Result<Verified<ImageConfig>> {
        let store = self.store();
        let mut diff_ids = Vec::new();
        if let Some(chain) = &state.chain {
            let missing = || Error::not_found(format!("layer `{chain}` is not in the store"));
            let top = store.layer(chain)?.ok_or_else(missing)?;
            for below in &top.ancestors {
                diff_ids.push(store.layer(below)?.ok_or_else(missing)?.diff_id);
            }
            diff_ids.push(top.diff_id);
        }
        let mut config = state.config;
        if last {
            config.labels.extend(self.request.labels.clone());
        }
        let mut history: Vec<HistoryEntry> = state.history;
        let created = match self.request.epoch {
            Some(_) => {
                let now = self.now();
                for entry in &mut history {
                    entry.created = Some(now.clone());
                }
                now
            }
            None => state.created,
        };
        let config = Verified::make(ImageConfig {
            created: Some(created),
            author: state.author,
            platform: state.platform,
            config,
            rootfs: RootFs { diff_ids, ..RootFs::default() },
            history,
            ..ImageConfig::default()
        })?;
        store.put_content(config.digest(), config.bytes())?;
        Ok(config)
    }
}
