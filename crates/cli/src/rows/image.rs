//! Rows of `images` and `history`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_oci::{Reference, RuntimeConfig};
use robot_env_store::ImageRecord;
use robot_env_wire::HistoryItem;

use super::{ellipsis, short};
use crate::filter::glob;
use crate::format::{Column, Value, human};
use robot_env_wire::Filters;

/// Every field of a row, with its heading.
pub(crate) const COLUMNS: &[Column] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// What `images` prints when nothing else is asked for.
pub(crate) const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
/// The same with `--digests`.
pub(crate) const TABLE_WITH_DIGESTS: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// The keys of `--filter`.
pub(crate) const FILTERS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

/// An image with its names.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its record.
    pub(crate) record: ImageRecord,
    /// Its names, with a tag or a digest each.
    pub(crate) names: Vec<Reference>,
    /// Its config, where a filter looks at it.
    pub(crate) config: Option<RuntimeConfig>,
}

impl Named {
    /// When it was made, as its config says.
    pub(crate) fn created(&self) -> Timestamp {
        self.record.created.as_deref().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn tags(&self) -> impl Iterator<Item = &Reference> {
        self.names.iter().filter(|name| name.digest().is_none())
    }

    /// Whether it has no tag.
    pub(crate) fn is_dangling(&self) -> bool {
        self.tags().next().is_none()
    }
}

/// How rows are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Whether ids are cut.
    pub(crate) truncate: bool,
    /// Whether there is a row for each digest too.
    pub(crate) digests: bool,
    /// The time.
    pub(crate) now: Timestamp,
}

/// A row for each tag, or one for an image without any.
pub(crate) fn rows(image: &Named, options: Options) -> Vec<Value> {
    let digest_of = |name: &Reference| {
        image.names.iter().find(|other| other.repository() == name.repository()).and_then(|other| {
            let found =
                image.names.iter().find(|n| n.repository() == other.repository() && n.digest().is_some());
            found.and_then(|name| name.digest()).map(ToString::to_string)
        })
    };
    let none = || "<none>".to_owned();
    let mut out = Vec::new();
    for name in image.tags() {
        let digest = digest_of(name).unwrap_or_else(none);
        out.push(row(image, &name.repository().familiar(), name.tag().unwrap_or("<none>"), &digest, options));
    }
    if out.is_empty() {
        let mut repositories: Vec<&Reference> = image.names.iter().filter(|n| n.digest().is_some()).collect();
        if !options.digests {
            repositories.dedup_by_key(|name| name.repository().clone());
        }
        for name in repositories {
            let digest = name.digest().map_or_else(none, ToString::to_string);
            out.push(row(image, &name.repository().familiar(), "<none>", &digest, options));
        }
    }
    if out.is_empty() {
        out.push(row(image, "<none>", "<none>", "<none>", options));
    }
    out
}

fn row(image: &Named, repository: &str, tag: &str, digest: &str, options: Options) -> Value {
    let id = image.record.id.to_string();
    let size = human::short(image.record.size);
    let unknown = || Value::from("N/A");
    Value::row([
        ("ID", if options.truncate { short(&id).into() } else { id.into() }),
        ("Repository", repository.into()),
        ("Tag", tag.into()),
        ("Digest", digest.into()),
        ("CreatedSince", human::ago(image.created(), options.now).into()),
        ("CreatedAt", human::local_time(image.created()).into()),
        ("Size", size.clone().into()),
        ("VirtualSize", size.into()),
        ("Containers", unknown()),
        ("SharedSize", unknown()),
        ("UniqueSize", unknown()),
    ])
}

/// Whether a name is meant by `REPOSITORY[:TAG]`, both of which may be patterns.
pub(crate) fn is_meant(name: &Reference, pattern: &str) -> bool {
    let repository = name.repository().familiar();
    let familiar = name.familiar();
    let full = name.to_string();
    [familiar.as_str(), full.as_str(), repository.as_str(), &name.repository().to_string()]
        .iter()
        .any(|text| glob(pattern, text))
}

/// What the filters need to know beside an image itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterFacts {
    /// When the images of `before` and `since` were made.
    pub(crate) before: Option<Timestamp>,
    /// See `before`.
    pub(crate) since: Option<Timestamp>,
    /// The moment of `until`.
    pub(crate) until: Option<Timestamp>,
}

/// The image with those of its names that the filters and `pattern` let through; `None`: not at all.
pub(crate) fn matching(
    mut image: Named,
    filters: &Filters,
    facts: &FilterFacts,
    pattern: Option<&str>,
) -> Option<Named> {
    let dangling = filters.truth("dangling").ok().flatten();
    let empty = BTreeMap::new();
    let labels = image.config.as_ref().map_or(&empty, |config| &config.labels);
    let created = image.created();
    let through = dangling.is_none_or(|want| want == image.is_dangling())
        && filters.labels(labels)
        && facts.before.is_none_or(|when| created < when)
        && facts.since.is_none_or(|when| created > when)
        && facts.until.is_none_or(|when| created < when);
    if !through {
        return None;
    }
    if pattern.is_some() || filters.has("reference") {
        image.names.retain(|name| {
            pattern.is_none_or(|pattern| is_meant(name, pattern))
                && filters.any("reference", |pattern| is_meant(name, pattern))
        });
        if image.names.is_empty() {
            return None;
        }
    }
    Some(image)
}

/// Every field of a row of `history`.
pub(crate) const HISTORY_COLUMNS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// What `history` prints when nothing else is asked for.
pub(crate) const HISTORY_TABLE: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
/// The same with `--human=false`.
pub(crate) const HISTORY_TABLE_EXACT: &str =
    "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// A row of `history`.
pub(crate) fn history_row(item: &HistoryItem, truncate: bool, human: bool, now: Timestamp) -> Value {
    let created = Timestamp::from_second(item.created).unwrap_or(Timestamp::UNIX_EPOCH);
    let by = item.created_by.replace(['\t', '\n'], " ");
    Value::row([
        (
            "ID",
            if truncate && item.id != "<missing>" { short(&item.id).into() } else { item.id.as_str().into() },
        ),
        ("CreatedSince", if item.created > 0 { human::ago(created, now).into() } else { "N/A".into() }),
        ("CreatedAt", created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()),
        ("CreatedBy", if truncate { ellipsis(&by, 45).into() } else { by.into() }),
        ("Size", if human { human::short(item.size).into() } else { item.size.to_string().into() }),
        ("Comment", item.comment.as_str().into()),
    ])
}

#[cfg(test)]
mod tests {
    use robot_env_oci::{Digest, ImageId};

    use super::*;
    use crate::format::{List, Style};

    fn image(names: &[&str]) -> Named {
        Named {
            record: ImageRecord {
                id: ImageId(Digest::of(b"")),
                manifest: None,
                layers: Vec::new(),
                size: 72_800_000,
                created: Some("1970-01-01T00:00:00Z".into()),
                pulled_at: 0,
                parent: None,
                origin: String::new(),
            },
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            config: Some(RuntimeConfig {
                labels: BTreeMap::from([("a".into(), "1".into())]),
                ..RuntimeConfig::default()
            }),
        }
    }

    fn print(image: &Named, digests: bool, table: &str) -> String {
        let options = Options { truncate: true, digests, now: Timestamp::from_second(7200).unwrap() };
        List { columns: COLUMNS, rows: rows(image, options) }
            .print(&Style::parse(None, table).unwrap())
            .unwrap()
    }

    #[test]
    fn a_row_for_each_tag() {
        let digest = format!("ros@sha256:{}", "3".repeat(64));
        assert_eq!(
            print(&image(&["ros:1", "host:5000/a/b:2"]), false, TABLE),
            "REPOSITORY      TAG       IMAGE ID       CREATED       SIZE\n\
             ros             1         e3b0c44298fc   2 hours ago   72.8MB\n\
             host:5000/a/b   2         e3b0c44298fc   2 hours ago   72.8MB\n"
        );
        assert!(print(&image(&[]), false, TABLE).contains("<none>       <none>    e3b0c44298fc"));
        assert!(print(&image(&[&digest]), false, TABLE).contains("ros          <none>    e3b0c44298fc"));
        let both = print(&image(&["ros:1", &digest]), true, TABLE_WITH_DIGESTS);
        assert!(
            both.contains(&format!("ros          1         sha256:{}   e3b0c44298fc", "3".repeat(64))),
            "{both}"
        );
    }

    #[test]
    fn filters_and_patterns() {
        let named = || image(&["ros:1", "host:5000/a/b:2"]);
        let facts = FilterFacts::default();
        for (word, pattern, want) in [
            ("dangling=true", None, 0),
            ("dangling=false", None, 2),
            ("label=a", None, 2),
            ("label=b", None, 0),
            ("reference=ros", None, 1),
            ("reference=ros:*", None, 1),
            ("reference=*/*/b", None, 1),
            ("dangling=false", Some("ros"), 1),
            ("dangling=false", Some("ros:1"), 1),
            ("dangling=false", Some("ros:2"), 0),
            ("dangling=false", Some("docker.io/library/ros"), 1),
        ] {
            let filters = crate::filter::parse(&[word.to_owned()], FILTERS).unwrap();
            let got = matching(named(), &filters, &facts, pattern).map_or(0, |image| image.names.len());
            assert_eq!(got, want, "{word} {pattern:?}");
        }
        let until = FilterFacts { until: Timestamp::from_second(-5).ok(), ..facts };
        assert!(matching(named(), &Filters::default(), &until, None).is_none());
    }

    #[test]
    fn a_step_of_the_history() {
        let item = HistoryItem {
            id: "sha256:0123456789abcdef".into(),
            created: 0,
            created_by: format!("RUN\t{}", "x".repeat(60)),
            tags: None,
            size: 1500,
            comment: String::new(),
        };
        let row = history_row(&item, true, true, Timestamp::from_second(60).unwrap());
        let style =
            Style::parse(Some("{{.ID}} {{.CreatedSince}} {{.CreatedBy}} {{.Size}}"), HISTORY_TABLE).unwrap();
        let text = List { columns: HISTORY_COLUMNS, rows: vec![row] }.print(&style).unwrap();
        assert_eq!(text, format!("0123456789ab N/A RUN {}… 1.5kB\n", "x".repeat(40)));
    }
}
