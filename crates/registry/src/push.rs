//! Uploads: blobs that are there, mounted or streamed, and manifests.

use std::io::{self, Read};

use robot_env_diag::{Error, Kind, Result, Within as _};
use robot_env_oci::{Algorithm, Digest, Hasher, MANIFEST_LIMIT, Reference, Repository};
use ureq::http::{Method, StatusCode, header};

use crate::address::{Scheme, Url};
use crate::client::{Client, Endpoint, Patience, unexpected};
use crate::manifest::{DIGEST_HEADER, selector};
use crate::token::Scope;
use crate::transport::{Answer, Call, Payload, excerpt};

/// What a blob turned out to be when it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its SHA-256 digest, as computed from what was sent and agreed to by the registry.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What is known of a blob before it is sent. What is known is checked.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its length in bytes.
    pub size: Option<u64>,
}

/// Opens the content of a blob from its beginning; called again when an upload starts over.
pub type Open<'a> = dyn FnMut() -> Result<Box<dyn Read + 'a>> + 'a;

impl Client {
    /// Whether the repository holds the blob. Only the registry itself is asked, no mirror.
    pub fn blob_exists(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let what = || format!("cannot look for blob `{}` in `{}`", digest.short(), repository.familiar());
        let ask = || {
            let endpoint = self.registry(repository.domain())?;
            let answer = self.call(&endpoint, &Scope::push(repository), Patience::Full, &mut || {
                Ok(Call::new(Method::HEAD, endpoint.url(&format!("{}/blobs/{digest}", repository.path()))))
            })?;
            match answer.status {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(unexpected(answer)),
            }
        };
        ask().within(what)
    }

    /// Takes the blob over from another repository of the same registry, without sending it. False:
    /// the registry does not do that, or may not; the blob is to be sent then.
    pub fn mount_blob(&self, repository: &Repository, digest: &Digest, from: &Repository) -> Result<bool> {
        let what = || {
            format!(
                "cannot mount blob `{}` from `{}` into `{}`",
                digest.short(),
                from.familiar(),
                repository.familiar()
            )
        };
        if repository.domain() != from.domain() {
            return Ok(false);
        }
        let ask = || {
            let endpoint = self.registry(repository.domain())?;
            let scope = Scope::push(repository).and(Scope::pull(from));
            let answer = self.call(&endpoint, &scope, Patience::Full, &mut || {
                let url = endpoint.url(&format!("{}/blobs/uploads/", repository.path()));
                Ok(Call::new(
                    Method::POST,
                    url.with_query("mount", &digest.to_string()).with_query("from", from.path()),
                ))
            })?;
            match answer.status {
                StatusCode::CREATED => Ok(true),
                StatusCode::ACCEPTED => {
                    // An upload was begun instead. Leaving it behind is harmless, so is failing here.
                    if let Ok(url) = location(&answer, &endpoint) {
                        let _ = self.call_once(&endpoint, &scope, Call::new(Method::DELETE, url));
                    }
                    Ok(false)
                }
                // The other repository may be closed to us: then the blob is sent.
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
                _ => Err(unexpected(answer)),
            }
        };
        match ask() {
            Err(error) if error.kind() == Kind::Unauthorized => Ok(false),
            other => other.within(what),
        }
    }

    /// Sends a blob: the content that `open` gives, whose digest and size need not be known before.
    /// An upload that breaks starts over. `progress` is told how many bytes of the current try were
    /// taken by the connection.
    pub fn push_blob(
        &self,
        repository: &Repository,
        expected: &Expected,
        open: &mut Open<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Pushed> {
        let name = expected.digest.as_ref().map_or("new", Digest::short).to_owned();
        let retry = self.options().retry;
        let mut failures = 0;
        loop {
            let error = match self.try_push(repository, expected, open, progress) {
                Ok(pushed) => return Ok(pushed),
                Err(error) => error,
            };
            failures += 1;
            if error.kind() != Kind::Unavailable || failures >= retry.attempts {
                return Err(error.within(format!("cannot push blob `{name}` to `{}`", repository.familiar())));
            }
            self.transport().pause(retry.pause(failures))?;
        }
    }

    fn try_push(
        &self,
        repository: &Repository,
        expected: &Expected,
        open: &mut Open<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Pushed> {
        let endpoint = self.registry(repository.domain())?;
        let scope = Scope::push(repository);
        let started = self.call(&endpoint, &scope, Patience::Full, &mut || {
            Ok(Call::new(Method::POST, endpoint.url(&format!("{}/blobs/uploads/", repository.path()))))
        })?;
        if started.status != StatusCode::ACCEPTED {
            return Err(unexpected(started));
        }
        let upload = self.location(&started, &endpoint)?;

        let content = open()?;
        let mut source = Source {
            inner: content,
            hasher: Hasher::new(Algorithm::Sha256),
            size: 0,
            limit: expected.size,
            failed: None,
            progress,
            client: self,
        };
        let mut call =
            Call::new(Method::PATCH, upload).header(header::CONTENT_TYPE, "application/octet-stream");
        call.payload = Payload::Stream(&mut source, expected.size);
        let sent = self.call_once(&endpoint, &scope, call);
        // A failure of the source looks like a broken connection, and is neither that nor retried.
        if let Some(error) = source.failed.take() {
            return Err(error);
        }
        let answer = sent?;
        let (size, digest) = (source.size, source.hasher.finish());
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {}
            // The pass ran out on the way; the next try gets a new one.
            StatusCode::UNAUTHORIZED => {
                return Err(Error::new(Kind::Unavailable, unexpected(answer).message().to_owned()));
            }
            _ => return Err(unexpected(answer)),
        }
        if let Some(wanted) = expected.size.filter(|wanted| *wanted != size) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the content has {size} bytes and not the {wanted} that are declared"),
            ));
        }
        let digest = match &expected.digest {
            Some(wanted) if wanted.algorithm() == Algorithm::Sha256 && *wanted != digest => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("content does not match its digest `{wanted}`"),
                )
                .because(Error::new(Kind::Corrupt, format!("its bytes have the digest {digest}"))));
            }
            Some(wanted) => wanted.clone(),
            None => digest,
        };

        let commit = self.location(&answer, &endpoint)?.with_query("digest", &digest.to_string());
        let committed = self.call_once(&endpoint, &scope, Call::new(Method::PUT, commit));
        let answer = match committed {
            Ok(answer) => answer,
            // A registry may take long to file a large blob away; it may be there all the same.
            Err(error) if error.kind() == Kind::Unavailable => {
                return if self.blob_exists(repository, &digest)? {
                    Ok(Pushed { digest, size })
                } else {
                    Err(error)
                };
            }
            Err(error) => return Err(error),
        };
        match answer.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {
                check_named(&answer, &digest, &endpoint)?;
            }
            _ => return Err(unexpected(answer)),
        }
        Ok(Pushed { digest, size })
    }

    /// Sends a manifest or index under the reference's tag, or its digest. The registry must agree
    /// on the digest.
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let what = || format!("cannot push manifest of `{}`", reference.familiar());
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(Error::invalid(what())
                .because(Error::invalid(format!("it is larger than {MANIFEST_LIMIT} bytes"))));
        }
        let digest = Digest::of(bytes);
        if reference.digest().is_some_and(|wanted| *wanted != digest) {
            return Err(Error::new(Kind::Corrupt, what())
                .because(Error::new(Kind::Corrupt, format!("its bytes have the digest {digest}"))));
        }
        let repository = reference.repository();
        let send = || {
            let endpoint = self.registry(repository.domain())?;
            let answer = self.call(&endpoint, &Scope::push(repository), Patience::Full, &mut || {
                let url = endpoint.url(&format!("{}/manifests/{}", repository.path(), selector(reference)));
                let mut call = Call::new(Method::PUT, url).header(header::CONTENT_TYPE, media_type);
                call.payload = Payload::Bytes(bytes);
                Ok(call)
            })?;
            match answer.status {
                StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                    check_named(&answer, &digest, &endpoint)
                }
                _ => Err(unexpected(answer)),
            }
        };
        send().within(what)?;
        Ok(digest)
    }

    fn location(&self, answer: &Answer, endpoint: &Endpoint) -> Result<Url> {
        let url = location(answer, endpoint)?;
        if answer.url.origin.scheme == Scheme::Https
            && url.origin.scheme == Scheme::Http
            && !self.options().is_insecure(&url.origin.authority())
        {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "registry `{}` wants the upload at plain http, `{}`",
                    endpoint.host(),
                    excerpt(&url.shown())
                ),
            ));
        }
        Ok(url)
    }
}

fn location(answer: &Answer, endpoint: &Endpoint) -> Result<Url> {
    let target = answer.header(header::LOCATION).and_then(|location| answer.url.join(location));
    target.ok_or_else(|| {
        Error::new(
            Kind::Corrupt,
            format!("registry `{}` does not say where the upload goes on", endpoint.host()),
        )
    })
}

fn check_named(answer: &Answer, digest: &Digest, endpoint: &Endpoint) -> Result<()> {
    match answer.header(DIGEST_HEADER) {
        Some(named) if named.trim() != digest.to_string() && digest.algorithm() == Algorithm::Sha256 => {
            Err(Error::new(Kind::Corrupt, format!("registry `{}` stored something else", endpoint.host()))
                .because(Error::new(
                    Kind::Corrupt,
                    format!("{digest} was sent, and it names {}", excerpt(named)),
                )))
        }
        _ => Ok(()),
    }
}

/// Hashes and counts what is sent, and keeps the failure of the content apart from that of the
/// connection.
struct Source<'s, 'a> {
    inner: Box<dyn Read + 'a>,
    hasher: Hasher,
    size: u64,
    limit: Option<u64>,
    failed: Option<Error>,
    progress: &'s mut dyn FnMut(u64),
    client: &'s Client,
}

impl Read for Source<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fail = |failed: &mut Option<Error>, error: Error| {
            *failed = Some(error);
            Err(io::Error::other("the content cannot be read"))
        };
        if let Err(error) = self.client.transport().check_cancelled() {
            return fail(&mut self.failed, error);
        }
        let n = match self.inner.read(buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => return fail(&mut self.failed, crate::blob::error_of(e)),
        };
        if let Some(limit) = self.limit {
            let ended_early = n == 0 && !buffer.is_empty() && self.size < limit;
            if ended_early || self.size + n as u64 > limit {
                return fail(
                    &mut self.failed,
                    Error::new(
                        Kind::Corrupt,
                        format!("the content has other than the {limit} bytes that are declared"),
                    ),
                );
            }
        }
        self.hasher.update(&buffer[..n]);
        self.size += n as u64;
        (self.progress)(self.size);
        Ok(n)
    }
}
