//! `docker volume inspect`.

use std::collections::BTreeMap;

use serde::Serialize;

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct Volume {
    pub created_at: String,
    pub driver: String,
    pub labels: Option<BTreeMap<String, String>>,
    pub mountpoint: String,
    pub name: String,
    pub options: Option<BTreeMap<String, String>>,
    pub scope: String,
}

impl Volume {
    /// From the engine's.
    pub fn new(volume: &robot_env_engine::Volume) -> Self {
        let mut labels = volume.labels.clone();
        if volume.anonymous {
            labels.entry("com.docker.volume.anonymous".into()).or_default();
        }
        Volume {
            created_at: crate::time::rfc3339(volume.created),
            driver: "local".into(),
            labels: (!labels.is_empty()).then_some(labels),
            mountpoint: volume.path.to_string_lossy().into_owned(),
            name: volume.name.clone(),
            options: (!volume.options.is_empty()).then(|| volume.options.clone()),
            scope: "local".into(),
        }
    }
}
