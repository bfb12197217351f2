//! Images in and out: `/images/create`, `/push`, `/load`, `/get`, `/distribution`.
//!
//! Progress is one JSON object a line. Nothing is sent before the first of it, so that a mistake
//! which is found at once has a status of its own; later ones can only be told in the stream.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use robot_env_diag::{Error, Result as EngineResult};
use robot_env_oci::{Platform, Reference};
use robot_env_registry::Client;
use robot_env_transfer::{
    Amount, ArchiveSource, Change, ImportOptions, LoadOptions, Observer, PullOptions, PushOptions,
    SaveOptions, Unpacker, ownership,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::containers::files::FeedWriter;
use crate::credentials;
use crate::failure::{Failure, Result, text_of};
use crate::http::{Feed, Reply, Stream, channel};
use crate::routes::Call;

/// How often a layer's progress is told.
const OFTEN: Duration = Duration::from_millis(100);

/// Tells a client of progress, a line each.
pub(crate) struct Teller {
    feed: Feed,
    /// When each item was last told of while bytes moved.
    last: Mutex<Vec<(String, String, Instant)>>,
    began: Mutex<Option<oneshot::Sender<()>>>,
    id: String,
}

impl Teller {
    pub(crate) fn line(&self, value: &Value) {
        if let Some(began) = self.began.lock().ok().and_then(|mut began| began.take()) {
            let _ = began.send(());
        }
        // A client that has gone is seen elsewhere.
        let _ = self.feed.blocking_send(format!("{value}\r\n").into_bytes());
    }

    pub(crate) fn status(&self, text: &str) {
        self.line(&json!({ "status": text }));
    }

    fn failed(&self, error: &Error) {
        let text = text_of(error);
        self.line(&json!({ "errorDetail": { "message": text }, "error": text }));
    }
}

impl Observer for Teller {
    fn message(&self, text: &str) {
        if text.starts_with("Pulling from ") && !self.id.is_empty() {
            self.line(&json!({ "status": text, "id": self.id }));
        } else {
            self.status(text);
        }
    }

    fn step(&self, item: &str, step: &str, amount: Option<Amount>) {
        if let (Some(amount), Ok(mut last)) = (amount, self.last.lock()) {
            let now = Instant::now();
            match last.iter_mut().find(|(known, _, _)| known == item) {
                Some((_, same, when)) if same == step && amount.done != amount.total => {
                    if now.duration_since(*when) < OFTEN {
                        return;
                    }
                    *when = now;
                }
                Some(entry) => (entry.1, entry.2) = (step.to_owned(), now),
                None => last.push((item.to_owned(), step.to_owned(), now)),
            }
        }
        let detail = match amount {
            Some(amount) if amount.total > 0 => json!({ "current": amount.done, "total": amount.total }),
            Some(amount) => json!({ "current": amount.done }),
            None => json!({}),
        };
        let mut line = json!({ "status": step, "progressDetail": detail, "id": item });
        if let Some(amount) = amount.filter(|amount| amount.total > 0) {
            line["progress"] = bar(amount).into();
        }
        self.line(&line);
    }
}

/// `[====>    ]  1.2MB/3MB`, for clients that print what they get.
fn bar(amount: Amount) -> String {
    let size = |bytes: u64| {
        let (mut value, mut unit) = (bytes as f64, 0);
        while value >= 1000.0 && unit < 4 {
            value /= 1000.0;
            unit += 1;
        }
        let digits = if value < 10.0 { 3 } else { usize::from(value < 100.0) + 1 };
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text}{}", ["B", "kB", "MB", "GB", "TB"][unit])
    };
    let filled = (amount.done.min(amount.total) * 50 / amount.total.max(1)) as usize;
    let head = if filled < 50 { format!("{}>", "=".repeat(filled)) } else { "=".repeat(50) };
    format!("[{head:<50}]  {:>6}/{}", size(amount.done), size(amount.total))
}

/// How often whatever goes on without its client is told to end.
const INSIST: Duration = Duration::from_millis(200);

/// Runs something that tells of its progress. An error before the first line is the answer itself.
/// When the client goes, `end` is called until the work has ended.
pub(crate) async fn told(
    id: String,
    end: impl Fn() + Send + Sync + 'static,
    work: impl FnOnce(&Teller) -> EngineResult<()> + Send + 'static,
) -> Result<Reply> {
    let (feed, stream): (Feed, Stream) = channel();
    let (began, begins) = oneshot::channel();
    let watched = feed.clone();
    let mut working = tokio::task::spawn_blocking(move || {
        let teller = Teller { feed, last: Mutex::default(), began: Mutex::new(Some(began)), id };
        let done = work(&teller);
        let silent = teller.began.lock().is_ok_and(|began| began.is_some());
        match done {
            Err(error) if silent => Err(error),
            Err(error) => {
                teller.failed(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    });
    if begins.await.is_err() {
        // It ended before it said anything.
        match working.await {
            Ok(done) => done?,
            Err(_) => return Err(Failure::new(500, "the engine has failed unexpectedly")),
        }
        return Ok(Reply::stream("application/json", stream));
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = &mut working => return,
            () = watched.closed() => {}
        }
        let end = std::sync::Arc::new(end);
        while !working.is_finished() {
            let end = end.clone();
            let _ = tokio::task::spawn_blocking(move || end()).await;
            let _ = tokio::time::timeout(INSIST, &mut working).await;
        }
    });
    Ok(Reply::stream("application/json", stream))
}

/// The client of registries, with the credentials that a request brings.
fn registry(call: &Call<'_, '_>, reference: &Reference) -> Result<Client> {
    let mut options = call.server.registry.clone();
    if let Some(given) = credentials::of_request(call.head.field("x-registry-auth"))? {
        options.given.insert(reference.repository().domain().to_owned(), given);
    }
    Ok(Client::new(options))
}

fn platform(call: &Call<'_, '_>) -> Result<Option<Platform>> {
    let Some(text) = call.query.text("platform") else { return Ok(None) };
    // From version 1.48 it is a document.
    if text.starts_with('{') {
        return serde_json::from_str(text).map(Some).map_err(|_| Failure::new(400, "invalid platform"));
    }
    Ok(Some(text.parse()?))
}

/// `POST /images/create`: a pull, or an import.
pub(crate) async fn create(call: &mut Call<'_, '_>) -> Result<Reply> {
    if call.query.text("fromSrc").is_some() {
        return import(call).await;
    }
    let Some(image) = call.query.text("fromImage").map(str::to_owned) else {
        return Err(Failure::new(400, "fromImage or fromSrc must not be empty"));
    };
    let bare: Reference = image.trim_end_matches(':').parse()?;
    let reference = match call.query.text("tag") {
        Some(digest) if digest.contains(':') => format!("{}@{digest}", bare.repository()).parse()?,
        Some(tag) => Reference::with_tag(bare.repository().clone(), tag)?,
        None => bare,
    };
    let all = reference.tag().is_none() && reference.digest().is_none();
    let client = registry(call, &reference)?;
    let options = PullOptions { platform: platform(call)?, ownership: ownership() };
    let server = call.server;
    let id = reference
        .tag()
        .map_or_else(|| reference.digest().map(ToString::to_string).unwrap_or_default(), str::to_owned);
    let canceller = client.clone();
    told(
        id,
        move || canceller.cancel(),
        move |teller| {
            let references = if all {
                let tags = client.tags(reference.repository())?;
                tags.iter()
                    .map(|tag| Reference::with_tag(reference.repository().clone(), tag))
                    .collect::<EngineResult<Vec<_>>>()?
            } else {
                vec![reference]
            };
            for reference in references {
                let pulled =
                    robot_env_transfer::pull(server.engine.store(), &client, &reference, &options, teller)?;
                let name = pulled.reference.familiar();
                server.engine.tell_of("image", "pull", &name, [("name".to_owned(), name.clone())].into());
                teller.status(&format!("Digest: {}", pulled.digest));
                teller.status(&if pulled.newer {
                    format!("Status: Downloaded newer image for {name}")
                } else {
                    format!("Status: Image is up to date for {name}")
                });
            }
            Ok(())
        },
    )
    .await
}

async fn import(call: &mut Call<'_, '_>) -> Result<Reply> {
    let source = call.query.text("fromSrc").unwrap_or_default().to_owned();
    let lines: Vec<String> = call.query.all("changes").flat_map(str::lines).map(str::to_owned).collect();
    let message = call.query.text("message").map(str::to_owned);
    let options = ImportOptions {
        changes: Change::parse_all(lines.iter().map(String::as_str))?,
        message: message.unwrap_or_else(|| format!("Imported from {source}")),
        platform: platform(call)?,
        reference: super::named(call)?,
        created: Timestamp::now(),
        size: 0,
    };
    let server = call.server;
    let done = |id: String, name: Option<&Reference>| {
        let shown = name.map_or_else(|| id.clone(), Reference::familiar);
        server.engine.tell_of("image", "import", &id, [("name".to_owned(), shown)].into());
    };
    if source == "-" {
        let reference = options.reference.clone();
        let image = call.body.feed(move |body| {
            let unpacker = Unpacker::new(server.engine.store(), ownership());
            robot_env_transfer::import(&unpacker, body, &options, &())
        });
        let image = image.await?;
        done(image.id.to_string(), reference.as_ref());
        return Ok(lines_of(&[json!({ "status": image.id.to_string() })]));
    }
    let client = Client::new(server.registry.clone());
    let canceller = client.clone();
    told(
        String::new(),
        move || canceller.cancel(),
        move |teller| {
            let source: Box<dyn Read + Send> = Box::new(client.download(&source)?);
            let unpacker = Unpacker::new(server.engine.store(), ownership());
            let image = robot_env_transfer::import(&unpacker, source, &options, teller)?;
            done(image.id.to_string(), options.reference.as_ref());
            teller.status(&image.id.to_string());
            Ok(())
        },
    )
    .await
}

/// An answer of lines that are all known.
fn lines_of(lines: &[Value]) -> Reply {
    let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mut reply = Reply::text(200, &text);
    reply.fields = vec![("Content-Type", "application/json".to_owned())];
    reply
}

/// `POST /images/{name}/push`
pub(crate) async fn push(call: &mut Call<'_, '_>, name: &str) -> Result<Reply> {
    let bare: Reference = name.parse()?;
    let tag = call.query.text("tag");
    let client = registry(call, &bare)?;
    let options = PushOptions { platform: platform(call)? };
    let server = call.server;
    let references = match tag {
        Some(tag) => vec![Reference::with_tag(bare.repository().clone(), tag)?],
        None if bare.tag().is_some() => vec![bare],
        None => {
            let names = server.blocking(|engine| engine.store().names()).await?.into_iter();
            let own = names
                .map(|name| name.reference)
                .filter(|name| name.repository() == bare.repository() && name.tag().is_some());
            own.collect()
        }
    };
    if references.is_empty() {
        return Err(Failure::new(404, format!("An image does not exist locally with the tag: {name}")));
    }
    let canceller = client.clone();
    told(String::new(), move || canceller.cancel(), move |teller| {
        for reference in &references {
            let pushed = robot_env_transfer::push(server.engine.store(), &client, reference, &options, teller)?;
            let tag = pushed.reference.tag().unwrap_or_default();
            teller.status(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size));
            teller.line(&json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": pushed.digest.to_string(), "Size": pushed.size } }));
            let name = pushed.reference.familiar();
            server.engine.tell_of("image", "push", &name, [("name".to_owned(), name.clone())].into());
        }
        Ok(())
    })
    .await
}

/// `POST /images/load`
pub(crate) async fn load(call: &mut Call<'_, '_>) -> Result<Reply> {
    let options = LoadOptions { platform: platform(call)? };
    let server = call.server;
    let loaded = call.body.feed(move |mut body| {
        let unpacker = Unpacker::new(server.engine.store(), ownership());
        robot_env_transfer::load(&unpacker, ArchiveSource::Stream(&mut body), &options, &())
    });
    let loaded = match loaded.await {
        Ok(loaded) => loaded,
        // Docker has answered before it looks at the archive.
        Err(error) => {
            let text = text_of(&error);
            return Ok(lines_of(&[json!({ "errorDetail": { "message": text }, "error": text })]));
        }
    };
    let mut lines = Vec::new();
    for image in loaded {
        let id = image.image.id.to_string();
        for (name, before) in &image.renamed {
            lines.push(json!({ "stream": format!(
                "The image {} already exists, renaming the old one with ID {before} to empty string\n",
                name.familiar()
            ) }));
        }
        for name in &image.references {
            lines.push(json!({ "stream": format!("Loaded image: {}\n", name.familiar()) }));
        }
        if image.references.is_empty() {
            lines.push(json!({ "stream": format!("Loaded image ID: {id}\n") }));
        }
        server.engine.tell_of("image", "load", &id, [("name".to_owned(), id.clone())].into());
    }
    Ok(lines_of(&lines))
}

/// `GET /images/{name}/get` and `GET /images/get?names=`
pub(crate) async fn save(call: &Call<'_, '_>, name: Option<String>) -> Result<Reply> {
    let texts: Vec<String> = match name {
        Some(name) => vec![name],
        None => call.query.all("names").flat_map(|names| names.split(',')).map(str::to_owned).collect(),
    };
    if texts.is_empty() {
        return Err(Failure::new(400, "no image was named"));
    }
    let options = SaveOptions { platform: platform(call)?, ..SaveOptions::default() };
    let server = call.server;
    let asked = texts.clone();
    server
        .blocking(move |engine| {
            for text in &asked {
                let repository = text
                    .parse::<Reference>()
                    .ok()
                    .filter(|name| name.tag().is_none() && name.digest().is_none());
                let known = match repository {
                    // A name without a tag stands for all tags.
                    Some(name) => engine
                        .store()
                        .names()?
                        .iter()
                        .any(|other| other.reference.repository() == name.repository()),
                    None => false,
                };
                if !known {
                    super::find(engine.store(), text)?;
                }
            }
            Ok(())
        })
        .await?;
    let (feed, stream) = channel();
    tokio::task::spawn_blocking(move || {
        let out = FeedWriter::new(feed);
        // An archive without its end tells the client of a failure.
        if let Ok(mut out) = robot_env_transfer::save(server.engine.store(), &texts, out, &options, &()) {
            let _ = out.flush();
        }
    });
    Ok(Reply::stream("application/x-tar", stream))
}

/// `GET /distribution/{name}/json`
pub(crate) async fn distribution(call: &Call<'_, '_>, name: &str) -> Result<Reply> {
    let reference = name.parse::<Reference>()?.or_latest();
    let client = registry(call, &reference)?;
    let shape = call.server.blocking(move |_| {
        let document = client.manifest(&reference)?.value;
        let descriptor = document.descriptor();
        let parsed: Value = serde_json::from_slice(document.bytes()).unwrap_or_default();
        let listed = parsed["manifests"].as_array().cloned().unwrap_or_default();
        let mut platforms: Vec<Value> =
            listed.iter().map(|item| item["platform"].clone()).filter(Value::is_object).collect();
        if listed.is_empty() {
            let image = client.image(&reference, None)?;
            let platform = &image.config.value().platform;
            platforms.push(json!({ "architecture": platform.architecture, "os": platform.os, "variant": platform.variant }));
        }
        Ok(json!({
            "Descriptor": {
                "mediaType": document.media_type(),
                "digest": descriptor.digest.to_string(),
                "size": descriptor.size,
            },
            "Platforms": platforms,
        }))
    });
    Ok(Reply::json(200, &shape.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_dockers() {
        assert_eq!(bar(Amount { done: 0, total: 100 }), format!("[>{}]      0B/100B", " ".repeat(49)));
        let half = bar(Amount { done: 1_500_000, total: 3_000_000 });
        assert!(half.starts_with(&format!("[{}>", "=".repeat(25))) && half.ends_with("1.5MB/3MB"), "{half}");
        assert!(bar(Amount { done: 9, total: 9 }).starts_with(&format!("[{}]", "=".repeat(50))));
    }
}
