//! `/images`, `/commit`, `/auth`.

pub(crate) mod transfer;

use std::collections::BTreeMap;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result as EngineResult};
use robot_env_engine::{CommitRequest, Engine, ImageGone, ImageRemoval};
use robot_env_oci::{ImageText, Reference};
use robot_env_registry::Client;
use robot_env_store::{ImageRecord, RemoveOptions, Store};
use robot_env_transfer::Change;
use robot_env_wire::{
    Filters, ImageFacts, ImageInspect, SEARCH_FILTERS, SearchFilter, SearchResult, history as steps,
    search_limit,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::filters;
use crate::http::Reply;
use crate::routes::Call;

/// The image that `text` means. Where there is none the error has the words that clients look for.
fn find(store: &Store, text: &str) -> EngineResult<ImageRecord> {
    match store.resolve(text) {
        Err(error) if error.kind() == Kind::NotFound => {
            let shown = match text.parse::<ImageText>()? {
                ImageText::Name(reference) => reference.familiar(),
                ImageText::IdPrefix { or_name: Some(reference), .. } => reference.familiar(),
                ImageText::IdPrefix { or_name: None, .. } => text.to_owned(),
            };
            Err(Error::not_found(format!("No such image: {shown}")))
        }
        found => found,
    }
}

fn names_of(store: &Store, record: &ImageRecord) -> EngineResult<Vec<Reference>> {
    let names = store.names()?.into_iter().filter(|name| name.image == record.id);
    Ok(names.map(|name| name.reference).collect())
}

fn created(record: &ImageRecord) -> Timestamp {
    record.created.as_deref().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An image on one line.
pub(crate) fn summary(
    record: &ImageRecord,
    names: &[Reference],
    containers: Option<i64>,
    shared: Option<i64>,
    labels: BTreeMap<String, String>,
) -> Value {
    let familiar = |digests: bool| -> Vec<String> {
        names.iter().filter(|name| name.digest().is_some() == digests).map(Reference::familiar).collect()
    };
    json!({
        "Id": record.id.to_string(),
        "ParentId": record.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        "RepoTags": familiar(false),
        "RepoDigests": familiar(true),
        "Created": created(record).as_second(),
        "Size": record.size,
        "VirtualSize": record.size,
        "SharedSize": shared.unwrap_or(-1),
        "Labels": if labels.is_empty() { Value::Null } else { json!(labels) },
        "Containers": containers.unwrap_or(-1),
    })
}

const KEYS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

/// `GET /images/json`
pub(crate) async fn list(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, KEYS)?;
    let (dangling, until) = (filters.truth("dangling")?, filters::until(&filters, Timestamp::now())?);
    // The name of old clients.
    let only = call.query.text("filter").map(str::to_owned);
    let shared = call.query.truth("shared-size");
    let all = call.query.truth("all");
    let images = call.server.blocking(move |engine| {
        let store = engine.store();
        let moment = |key: &str| -> EngineResult<_> {
            filters.values(key).last().map(|text| Ok(created(&find(store, text)?))).transpose()
        };
        let (before, since) = (moment("before")?, moment("since")?);
        let names = store.names()?;
        let usage = if shared { Some(engine.disk_usage()?) } else { None };
        let in_use = engine.images_in_use()?;
        let mut found = store.images()?;
        let parents: Vec<_> = found.iter().filter_map(|record| record.parent.clone()).collect();
        found.sort_by_key(|record| std::cmp::Reverse(created(record)));
        let mut out = Vec::new();
        for record in found {
            let mut own: Vec<Reference> = names
                .iter()
                .filter(|name| name.image == record.id)
                .map(|name| name.reference.clone())
                .collect();
            let untagged = !own.iter().any(|name| name.tag().is_some());
            // Steps on the way to another image are shown with `all`.
            if !all && own.is_empty() && parents.contains(&record.id) && dangling.is_none() {
                continue;
            }
            let patterns = filters.values("reference").chain(only.as_deref());
            let patterns: Vec<&str> = patterns.collect();
            if !patterns.is_empty() {
                own.retain(|name| patterns.iter().any(|pattern| fits(pattern, name)));
                if own.is_empty() {
                    continue;
                }
            }
            let labels = store.config(&record.id)?.into_value().config.labels;
            let fine = dangling.is_none_or(|wanted| untagged == wanted)
                && before.is_none_or(|when| created(&record) < when)
                && since.is_none_or(|when| created(&record) > when)
                && until.is_none_or(|when| created(&record) <= when)
                && filters.labels(&labels);
            if !fine {
                continue;
            }
            let used = usage
                .as_ref()
                .and_then(|usage| usage.images.iter().find(|image| image.image.id == record.id));
            let containers = in_use.get(&record.id).copied().unwrap_or(0) as i64;
            let shared = used.map(|used| used.shared as i64);
            out.push(summary(&record, &own, Some(containers), shared, labels));
        }
        Ok(out)
    });
    Ok(Reply::json(200, &images.await?))
}

/// Whether a pattern like `ros`, `ros:*` or `*/ros` takes a name.
fn fits(pattern: &str, name: &Reference) -> bool {
    let familiar = name.familiar();
    let bare = name.repository().familiar();
    let (pattern_bare, tagged) = match pattern.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => (pattern, true),
        _ => (pattern, false),
    };
    glob(pattern_bare, if tagged { &familiar } else { &bare }) || glob(pattern, &familiar)
}

/// Go's `path.Match` without classes: `*` and `?` within one component.
fn glob(pattern: &str, text: &str) -> bool {
    let escaped = pattern.chars().map(|c| match c {
        '*' => "[^/]*".to_owned(),
        '?' => "[^/]".to_owned(),
        c if c.is_ascii_alphanumeric() || c == '[' || c == ']' => c.to_string(),
        c => format!("\\{c}"),
    });
    let escaped: String = escaped.collect();
    regex_lite::Regex::new(&format!("^{escaped}$")).is_ok_and(|pattern| pattern.is_match(text))
}

/// `GET /images/{name}/json`
pub(crate) async fn inspect(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let shape = call.server.blocking(move |engine| {
        let store = engine.store();
        let record = find(store, &text)?;
        let config = store.config(&record.id)?.into_value();
        let names = store.names()?;
        let own = || names.iter().filter(|name| name.image == record.id);
        let facts = ImageFacts {
            names: own().map(|name| name.reference.clone()).collect(),
            tagged: own().map(|name| name.updated).max().unwrap_or(0),
        };
        let shape = ImageInspect::new(&record, &config, &facts);
        let mut value = serde_json::to_value(shape).unwrap_or_default();
        // What clients of old versions look at.
        value["VirtualSize"] = record.size.into();
        value["Container"] = "".into();
        value["ContainerConfig"] = value["Config"].clone();
        Ok(value)
    });
    Ok(Reply::json(200, &shape.await?))
}

/// `GET /images/{name}/history`
pub(crate) async fn history(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let text = name.to_owned();
    let items = call.server.blocking(move |engine| {
        let store = engine.store();
        let record = find(store, &text)?;
        let config = store.config(&record.id)?.into_value();
        let names = names_of(store, &record)?;
        let size = |chain: &_| store.layer(chain).ok().flatten().map_or(0, |layer| layer.content_size);
        let items = steps(&record, &config, &names, size);
        let items: Vec<Value> = items
            .iter()
            .map(|item| {
                json!({
                    "Id": item.id, "Created": item.created, "CreatedBy": item.created_by,
                    "Tags": item.tags, "Size": item.size, "Comment": item.comment,
                })
            })
            .collect();
        Ok(items)
    });
    Ok(Reply::json(200, &items.await?))
}

/// The name of `repo=` and `tag=`.
fn named(call: &Call<'_, '_>) -> Result<Option<Reference>> {
    let Some(repository) = call.query.text("repo") else { return Ok(None) };
    let reference: Reference = repository.parse()?;
    Ok(Some(match call.query.text("tag") {
        Some(tag) => Reference::with_tag(reference.repository().clone(), tag)?,
        None => reference.or_latest(),
    }))
}

/// `POST /images/{name}/tag`
pub(crate) async fn tag(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let Some(reference) = named(call)? else {
        return Err(Failure::new(400, "repo must not be empty"));
    };
    if reference.digest().is_some() {
        return Err(Failure::new(400, "refusing to create a tag with a digest reference"));
    }
    let text = name.to_owned();
    call.server
        .blocking(move |engine| {
            let record = find(engine.store(), &text)?;
            engine.store().tag(&reference, &record.id, None)?;
            let attributes = [("name".to_owned(), reference.familiar())].into();
            engine.tell_of("image", "tag", &record.id.to_string(), attributes);
            Ok(())
        })
        .await?;
    Ok(Reply::empty(201))
}

fn gone_shape(gone: &[ImageGone]) -> Vec<Value> {
    let item = |gone: &ImageGone| match gone {
        ImageGone::Untagged(name) => json!({ "Untagged": name }),
        ImageGone::Deleted(id) => json!({ "Deleted": id }),
    };
    gone.iter().map(item).collect()
}

/// `DELETE /images/{name}`
pub(crate) async fn remove(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let (text, force) = (name.to_owned(), call.query.truth("force"));
    let prune = !call.query.truth("noprune");
    let gone = call.server.blocking(move |engine| {
        let record = find(engine.store(), &text)?;
        let mut removal = ImageRemoval::new(engine);
        let removed = removal.remove(&record, &text, force, prune);
        let gone = removal.finish()?;
        removed.map(|()| gone)
    });
    let gone = gone.await?;
    call.server.empty_trash_later();
    Ok(Reply::json(200, &gone_shape(&gone)))
}

/// `POST /images/prune`
pub(crate) async fn prune(call: &Call<'_, '_>) -> Result<Reply> {
    let filters = filters::of(&call.query, &["dangling", "label", "label!", "until"])?;
    let all = !filters.truth("dangling")?.unwrap_or(true);
    let until = filters::until(&filters, Timestamp::now())?;
    let done = call.server.blocking(move |engine| prune_images(engine, all, &filters, until));
    let (gone, bytes) = done.await?;
    call.server.empty_trash_later();
    let shape = Some(gone_shape(&gone)).filter(|gone| !gone.is_empty());
    Ok(Reply::json(200, &json!({ "ImagesDeleted": shape, "SpaceReclaimed": bytes })))
}

/// Removes the images that no container has: those without a tag, or `all`.
fn prune_images(
    engine: &Engine,
    all: bool,
    filters: &Filters,
    until: Option<Timestamp>,
) -> EngineResult<(Vec<ImageGone>, u64)> {
    let store = engine.store();
    let names = store.names()?;
    let mut removal = ImageRemoval::new(engine);
    for record in store.images()? {
        let tagged = names.iter().any(|name| name.image == record.id && name.reference.tag().is_some());
        if !all && tagged || until.is_some_and(|until| created(&record) > until) {
            continue;
        }
        if (filters.has("label") || filters.has("label!"))
            && !filters.labels(&store.config(&record.id)?.into_value().config.labels)
        {
            continue;
        }
        // Asked for each anew: a container may have been made of it meanwhile, but not from now on.
        let held_off = engine.hold_off()?;
        if engine.images_in_use()?.contains_key(&record.id) {
            continue;
        }
        let options = RemoveOptions { names: names.iter().any(|name| name.image == record.id) };
        match removal.delete(&record, options, &held_off) {
            // Somebody else removed it, or named it.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => {}
            other => other?,
        }
    }
    let gone = removal.finish()?;
    if gone.is_empty() {
        removal.collect()?;
    }
    Ok((gone, removal.bytes))
}

/// `GET /images/search`
pub(crate) async fn search(call: &Call<'_, '_>) -> Result<Reply> {
    let Some(term) = call.query.text("term").map(str::to_owned) else {
        return Err(Failure::new(400, "\"term\" must not be empty"));
    };
    let filter = SearchFilter::new(&filters::of(&call.query, SEARCH_FILTERS)?)?;
    let limit = search_limit(call.query.number("limit")?.unwrap_or(0))?;
    let client = Client::new(call.server.registry.clone());
    let found = call.server.blocking(move |_| client.search(&term, limit)).await?;
    let shape = found.into_iter().map(SearchResult::from).filter(|image| filter.takes(image));
    Ok(Reply::json(200, &shape.collect::<Vec<_>>()))
}

/// `POST /commit`
pub(crate) async fn commit(call: &mut Call<'_, '_>) -> Result<Reply> {
    /// What of a container's config may come with it.
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Given {
        cmd: Option<Vec<String>>,
        entrypoint: Option<Vec<String>>,
        env: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        labels: Option<BTreeMap<String, String>>,
    }
    let given: Given = call.optional_document().await?.unwrap_or_default();
    let Some(text) = call.query.text("container").map(str::to_owned) else {
        return Err(Failure::new(400, "container must not be empty"));
    };
    let quoted = |words: &[String]| serde_json::to_string(words).unwrap_or_default();
    let word = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let mut lines: Vec<String> = Vec::new();
    lines.extend(given.cmd.filter(|cmd| !cmd.is_empty()).map(|cmd| format!("CMD {}", quoted(&cmd))));
    lines.extend(
        given.entrypoint.filter(|cmd| !cmd.is_empty()).map(|cmd| format!("ENTRYPOINT {}", quoted(&cmd))),
    );
    lines.extend(given.working_dir.filter(|path| !path.is_empty()).map(|path| format!("WORKDIR {path}")));
    lines.extend(given.user.filter(|user| !user.is_empty()).map(|user| format!("USER {user}")));
    for variable in given.env.unwrap_or_default() {
        if let Some((name, value)) = variable.split_once('=') {
            lines.push(format!("ENV {name}={}", word(value)));
        }
    }
    for (key, value) in given.labels.unwrap_or_default() {
        lines.push(format!("LABEL {}={}", word(&key), word(&value)));
    }
    let asked = call.query.all("changes").flat_map(str::lines).map(str::to_owned);
    lines.extend(asked.filter(|line| !line.trim().is_empty()));
    let request = CommitRequest {
        reference: named(call)?,
        author: call.query.text("author").unwrap_or_default().to_owned(),
        message: call.query.text("comment").unwrap_or_default().to_owned(),
        changes: Change::parse_all(lines.iter().map(String::as_str))?,
        pause: call.query.truth_or("pause", true),
    };
    let image = call.server.blocking(move |engine| engine.commit(&text, &request)).await?;
    Ok(Reply::json(201, &json!({ "Id": image.id.to_string() })))
}

/// `POST /auth`
pub(crate) async fn login(call: &mut Call<'_, '_>) -> Result<Reply> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Given {
        username: String,
        password: String,
        serveraddress: String,
    }
    let given: Given = call.document().await?;
    let client = Client::new(call.server.registry.clone());
    let identity = call
        .server
        .blocking(move |_| {
            let server = if given.serveraddress.is_empty() { "docker.io" } else { &given.serveraddress };
            client.check_login(server, &given.username, &given.password)
        })
        .await?;
    Ok(Reply::json(
        200,
        &json!({ "Status": "Login Succeeded", "IdentityToken": identity.unwrap_or_default() }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_fit_patterns() {
        for (pattern, name, want) in [
            ("ros", "ros:noetic", true),
            ("ros:*", "ros:noetic", true),
            ("ros:melodic", "ros:noetic", false),
            ("*/ros", "lab/ros:1", true),
            ("r?s", "ros:1", true),
            ("ro", "ros:1", false),
            ("a.b", "axb:1", false),
        ] {
            assert_eq!(fits(pattern, &name.parse().unwrap()), want, "{pattern} {name}");
        }
    }
}
