//! `docker image inspect` and `docker history`.

use jiff::Timestamp;
use robot_env_oci::{ChainId, ImageConfig, Reference};
use robot_env_store::ImageRecord;
use serde::Serialize;

use crate::config::Config;
use crate::container::{DRIVER, GraphDriver};
use crate::null_if_empty;
use crate::time::{ZERO, rfc3339};

/// What is known beside the image's record and config.
#[derive(Clone, Debug, Default)]
pub struct ImageFacts {
    /// Its names, with a tag or a digest each.
    pub names: Vec<Reference>,
    /// When it was last given a name, in nanoseconds since the Unix epoch; 0: never.
    pub tagged: u64,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct RootFs {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// What the store knows of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct Metadata {
    pub last_tag_time: String,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created: String,
    pub docker_version: String,
    pub author: String,
    pub config: Config,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    pub size: u64,
    pub graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: Metadata,
}

impl ImageInspect {
    /// From the store's record and the image's config.
    pub fn new(record: &ImageRecord, config: &ImageConfig, facts: &ImageFacts) -> Self {
        let familiar = |digests: bool| -> Vec<String> {
            let names = facts.names.iter().filter(|name| name.digest().is_some() == digests);
            names.map(Reference::familiar).collect()
        };
        let tagged = Timestamp::from_nanosecond(facts.tagged.into()).ok().filter(|_| facts.tagged > 0);
        let docker_version = config.other.get("docker_version").and_then(|version| version.as_str());
        ImageInspect {
            id: record.id.to_string(),
            repo_tags: familiar(false),
            repo_digests: familiar(true),
            parent: record.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            comment: config.history.last().map(|step| step.comment.clone()).unwrap_or_default(),
            created: config.created.clone().unwrap_or_default(),
            docker_version: docker_version.unwrap_or_default().to_owned(),
            author: config.author.clone(),
            config: Config::of_image(&config.config),
            architecture: config.platform.architecture.clone(),
            variant: config.platform.variant.clone(),
            os: config.platform.os.clone(),
            os_version: config.platform.os_version.clone(),
            size: record.size,
            graph_driver: GraphDriver { data: None, name: DRIVER.into() },
            root_fs: RootFs {
                kind: "layers".into(),
                layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            },
            metadata: Metadata { last_tag_time: tagged.map_or_else(|| ZERO.to_owned(), rfc3339) },
        }
    }
}

/// A step that made an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct HistoryItem {
    pub id: String,
    pub created: i64,
    pub created_by: String,
    pub tags: Option<Vec<String>>,
    pub size: u64,
    pub comment: String,
}

/// The steps that made an image, the last one first; `size` knows a layer's content size.
pub fn history(
    record: &ImageRecord,
    config: &ImageConfig,
    names: &[Reference],
    size: impl Fn(&ChainId) -> u64,
) -> Vec<HistoryItem> {
    let mut layers = record.layers.iter();
    let missing = || HistoryItem { id: "<missing>".into(), ..HistoryItem::default() };
    let seconds = |text: &str| text.parse::<Timestamp>().map_or(0, Timestamp::as_second);
    let mut out: Vec<HistoryItem> = Vec::with_capacity(config.history.len());
    for step in &config.history {
        out.push(HistoryItem {
            created: step.created.as_deref().map_or(0, seconds),
            created_by: step.created_by.clone(),
            size: if step.empty_layer { 0 } else { layers.next().map_or(0, &size) },
            comment: step.comment.clone(),
            ..missing()
        });
    }
    // An image may have layers that its history does not tell of.
    out.extend(layers.map(|chain| HistoryItem { size: size(chain), ..missing() }));
    if out.is_empty() {
        out.push(missing());
    }
    if let Some(last) = out.last_mut() {
        last.id = record.id.to_string();
        let tags = names.iter().filter(|name| name.digest().is_none());
        last.tags = null_if_empty(tags.map(Reference::familiar).collect());
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use robot_env_oci::{Digest, Verified};
    use serde_json::json;

    use super::*;

    fn image() -> (ImageRecord, ImageConfig) {
        let text = br#"{"created":"2024-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Cmd":["bash"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:1111111111111111111111111111111111111111111111111111111111111111",
            "sha256:2222222222222222222222222222222222222222222222222222222222222222"]},
            "history":[{"created":"1970-01-01T00:00:05Z","created_by":"ADD x"},{"created_by":"CMD bash","empty_layer":true}]}"#;
        let config: Verified<ImageConfig> = Verified::check(text.to_vec(), &Digest::of(text)).unwrap();
        let mut record = ImageRecord::new(&config);
        record.layers = config.value().chain().links().iter().map(|(_, chain)| chain.clone()).collect();
        record.size = 30;
        (record, config.value().clone())
    }

    #[test]
    fn an_image_is_shown_with_its_names() {
        let (record, config) = image();
        let digest = format!("ros@sha256:{}", "3".repeat(64));
        let facts = ImageFacts { names: vec!["ros:1".parse().unwrap(), digest.parse().unwrap()], tagged: 0 };
        let got = serde_json::to_value(ImageInspect::new(&record, &config, &facts)).unwrap();
        for (pointer, want) in [
            ("/RepoTags", json!(["ros:1"])),
            ("/RepoDigests", json!([digest])),
            ("/Architecture", json!("amd64")),
            ("/Size", json!(30)),
            ("/Config/Cmd/0", json!("bash")),
            ("/Metadata/LastTagTime", json!(ZERO)),
        ] {
            assert_eq!(got.pointer(pointer), Some(&want), "{pointer}");
        }
        assert_eq!(got["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_history_begins_with_the_image() {
        let (record, config) = image();
        let items = history(&record, &config, &["ros:1".parse().unwrap()], |_| 10);
        let texts: Vec<_> = items.iter().map(|item| (item.created_by.as_str(), item.size)).collect();
        // The second layer is in no step.
        assert_eq!(texts, [("", 10), ("CMD bash", 0), ("ADD x", 10)]);
        assert_eq!(items[0].id, record.id.to_string());
        assert_eq!(items[0].tags.as_deref(), Some(&["ros:1".to_owned()][..]));
        assert_eq!((items[2].created, items[2].id.as_str()), (5, "<missing>"));
    }
}
