//! The API of the distribution-spec.

use robot_env_oci::{AnyManifest, Digest};

use super::fault::Effect;
use super::http::{Request, Response, query};
use super::{Content, State, Stored, auth};

pub(super) fn answer(state: &State, request: &Request, body: Vec<u8>, effects: &[Effect]) -> Response {
    if request.path == "/token" {
        return auth::token(state, request, &body);
    }
    let Some(rest) = request.path.strip_prefix("/v2/") else {
        return Response::error(404, "NOT_FOUND", "no such page");
    };
    if rest.is_empty() {
        let stored = state.lock();
        return auth::check(state, &stored, request, None).unwrap_or_else(|| {
            Response::new(200).header("Content-Type", "application/json").body(b"{}".to_vec())
        });
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let (repository, kind, tail) = match parts.as_slice() {
        [name @ .., "blobs", "uploads", id] if !name.is_empty() => {
            (name.join("/"), "uploads", (*id).to_owned())
        }
        [name @ .., kind @ ("manifests" | "blobs"), tail] if !name.is_empty() => {
            (name.join("/"), *kind, (*tail).to_owned())
        }
        [name @ .., "tags", "list"] if !name.is_empty() => (name.join("/"), "tags", String::new()),
        _ => return Response::error(404, "NOT_FOUND", "no such page"),
    };
    let mut stored = state.lock();
    if let Some(refusal) = auth::check(state, &stored, request, Some(&repository)) {
        return refusal;
    }
    match (kind, request.method.as_str()) {
        ("manifests", "GET" | "HEAD") => get_manifest(&stored, &repository, &tail),
        ("manifests", "PUT") => put_manifest(&mut stored, request, &repository, &tail, body),
        ("blobs", "GET" | "HEAD") => get_blob(&stored, request, &repository, &tail, effects),
        ("uploads", "POST") => start_upload(state, &mut stored, request, &repository),
        ("uploads", "PATCH") => {
            let Some(upload) = stored.uploads.get_mut(&tail) else {
                return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
            };
            upload.extend(body);
            let end = upload.len().saturating_sub(1);
            Response::new(202)
                .header("Location", &format!("/v2/{repository}/blobs/uploads/{tail}?_state=a%3Db"))
                .header("Range", &format!("0-{end}"))
        }
        ("uploads", "PUT") => {
            let Some(mut upload) = stored.uploads.remove(&tail) else {
                return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
            };
            upload.extend(body);
            let digest = Digest::of(&upload).to_string();
            if query(&request.query, "digest") != [digest.as_str()]
                || query(&request.query, "_state") != ["a=b"]
            {
                return Response::error(
                    400,
                    "DIGEST_INVALID",
                    "provided digest did not match uploaded content",
                );
            }
            stored.contents.insert(digest.clone(), Content::Bytes(upload.into()));
            stored.repositories.entry(repository.clone()).or_default().blobs.insert(digest.clone());
            Response::new(201)
                .header("Location", &format!("/v2/{repository}/blobs/{digest}"))
                .header("Docker-Content-Digest", &digest)
        }
        ("uploads", "DELETE") => {
            let gone = stored.uploads.remove(&tail).is_some();
            Response::new(if gone { 204 } else { 404 })
        }
        ("tags", "GET") => tags(state, &stored, request, &repository),
        _ => Response::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}

fn get_manifest(stored: &Stored, repository: &str, selector: &str) -> Response {
    let found = stored.repositories.get(repository).and_then(|r| {
        let digest = r.tags.get(selector).map_or(selector, String::as_str);
        r.manifests.get_key_value(digest)
    });
    let Some((digest, (kind, bytes))) = found else {
        return Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    Response::new(200)
        .header("Content-Type", kind)
        .header("Docker-Content-Digest", digest)
        .body(bytes.to_vec())
}

fn put_manifest(
    stored: &mut Stored,
    request: &Request,
    repository: &str,
    selector: &str,
    body: Vec<u8>,
) -> Response {
    let kind = request.header("content-type").unwrap_or_default().to_owned();
    let known = stored.repositories.entry(repository.to_owned()).or_default();
    let missing = match AnyManifest::parse(&body, Some(&kind)) {
        Ok(AnyManifest::Manifest(manifest)) => manifest
            .layers
            .iter()
            .chain([&manifest.config])
            .any(|d| !known.blobs.contains(&d.digest.to_string())),
        Ok(AnyManifest::Index(index)) => {
            index.manifests.iter().any(|d| !known.manifests.contains_key(&d.digest.to_string()))
        }
        Err(error) => return Response::error(400, "MANIFEST_INVALID", error.message()),
    };
    if missing {
        return Response::error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
    }
    let digest = Digest::of(&body).to_string();
    if selector.contains(':') && selector != digest {
        return Response::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    known.manifests.insert(digest.clone(), (kind, body.into()));
    if !selector.contains(':') {
        known.tags.insert(selector.to_owned(), digest.clone());
    }
    Response::new(201)
        .header("Location", &format!("/v2/{repository}/manifests/{digest}"))
        .header("Docker-Content-Digest", &digest)
}

fn get_blob(
    stored: &Stored,
    request: &Request,
    repository: &str,
    digest: &str,
    effects: &[Effect],
) -> Response {
    let here = stored.repositories.get(repository).is_some_and(|r| r.blobs.contains(digest));
    let Some(content) = stored.contents.get(digest).filter(|_| here) else {
        return Response::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let mut response = Response::new(200)
        .header("Content-Type", "application/octet-stream")
        .header("Docker-Content-Digest", digest);
    response.content = content.clone();
    let size = content.len();
    let range =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    if let Some((from, to)) = range
        && !effects.iter().any(|e| matches!(e, Effect::IgnoreRange))
        && let Ok(from) = from.parse::<u64>()
    {
        if from >= size {
            return Response::new(416).header("Content-Range", &format!("bytes */{size}"));
        }
        let from = if effects.iter().any(|e| matches!(e, Effect::WrongRange)) { from / 2 } else { from };
        let to = to.parse::<u64>().map_or(size, |to| (to + 1).min(size));
        response.status = 206;
        response.range = Some((from, to));
        response = response.header("Content-Range", &format!("bytes {from}-{}/{size}", to - 1));
    }
    response
}

fn start_upload(state: &State, stored: &mut Stored, request: &Request, repository: &str) -> Response {
    if let ([digest], [from]) =
        (query(&request.query, "mount").as_slice(), query(&request.query, "from").as_slice())
        && !state.options.refuse_mount
        && stored.repositories.get(from).is_some_and(|r| r.blobs.contains(digest))
    {
        stored.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest.clone());
        return Response::new(201)
            .header("Location", &format!("/v2/{repository}/blobs/{digest}"))
            .header("Docker-Content-Digest", digest);
    }
    let id = format!("upload-{}", state.next());
    stored.uploads.insert(id.clone(), Vec::new());
    Response::new(202)
        .header("Location", &format!("/v2/{repository}/blobs/uploads/{id}?_state=a%3Db"))
        .header("Range", "0-0")
}

fn tags(state: &State, stored: &Stored, request: &Request, repository: &str) -> Response {
    let Some(known) = stored.repositories.get(repository) else {
        return Response::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let wanted =
        query(&request.query, "n").first().and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
    let page = if state.options.tags_a_page > 0 { wanted.min(state.options.tags_a_page) } else { wanted };
    let last = query(&request.query, "last").into_iter().next().unwrap_or_default();
    let after: Vec<&String> = known.tags.keys().filter(|tag| **tag > last).collect();
    let names: Vec<&String> = after.iter().take(page).copied().collect();
    let mut response = Response::new(200).header("Content-Type", "application/json");
    if after.len() > names.len()
        && let Some(last) = names.last()
    {
        response = response
            .header("Link", &format!("</v2/{repository}/tags/list?last={last}&n={page}>; rel=\"next\""));
    }
    response.body(serde_json::json!({"name": repository, "tags": names}).to_string().into_bytes())
}
