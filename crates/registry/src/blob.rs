//! Blobs as streams that resume by themselves.

use std::io::{self, Read};
use std::time::Instant;

use robot_env_diag::{Error, Kind, Result, Within as _};
use robot_env_oci::{Descriptor, Digest, Hasher, Repository};
use ureq::http::{Method, StatusCode, header};

use crate::client::{Candidate, Client, Endpoint, Patience, unexpected};
use crate::token::Scope;
use crate::transport::{Answer, Call, Failure};

/// After this many bytes a broken transfer counts as having got on.
const PROGRESS: u64 = 64 * 1024;
/// How often one blob is asked for in all.
const OPEN_LIMIT: u32 = 1000;

/// The error that an [`io::Error`] of this crate's readers carries; any other one as it is.
pub fn error_of(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::new(Kind::of_io(&error), "the transfer failed").because(error),
    }
}

impl Client {
    /// The content of `descriptor` from byte `offset` on. Nothing is asked for before the first
    /// read, except that the first answer is awaited here, so that a missing blob is an error of
    /// this call.
    pub fn blob(&self, repository: &Repository, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        let mut reader = BlobReader {
            client: self.clone(),
            repository: repository.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            position: offset.min(descriptor.size),
            candidates: self.candidates(repository),
            source: None,
            served_by: String::new(),
            failures: 0,
            opened: 0,
            since: 0,
            progressed: Instant::now(),
            finished: false,
        };
        if offset > descriptor.size {
            return Err(Error::invalid(reader.what()).because(Error::invalid(format!(
                "it has {} bytes, and {offset} were asked to be left out",
                descriptor.size
            ))));
        }
        if reader.position < reader.size {
            reader.open().within(|| reader.what())?;
        }
        Ok(reader)
    }
}

/// Reads a blob. It ends after exactly the declared size: fewer bytes are asked for again from
/// where they ended, more are an error. The digest is the caller's to check ([`VerifyingReader`]
/// does). Its errors carry an [`Error`], see [`error_of`].
pub struct BlobReader {
    client: Client,
    repository: Repository,
    digest: Digest,
    size: u64,
    position: u64,
    /// The hosts still to be tried, the current one first; the registry itself is the last.
    candidates: Vec<Candidate>,
    source: Option<ureq::BodyReader<'static>>,
    served_by: String,
    /// Failures in a row without progress.
    failures: u32,
    opened: u32,
    /// Where the current answer began.
    since: u64,
    /// When the last byte came.
    progressed: Instant,
    finished: bool,
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BlobReader({} of {}, {} of {} bytes)",
            self.digest, self.repository, self.position, self.size
        )
    }
}

impl BlobReader {
    /// The host that serves at the moment: `host[:port]`. Empty before the first byte of an empty blob.
    pub fn served_by(&self) -> &str {
        &self.served_by
    }

    /// How many bytes of the blob lie behind the reader, those before the offset included.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How often the transfer had to be taken up again.
    pub fn resumed(&self) -> u32 {
        self.opened.saturating_sub(1)
    }

    fn what(&self) -> String {
        format!("cannot read blob `{}` of `{}`", self.digest.short(), self.repository.familiar())
    }

    /// Gets a source from the first host that gives one.
    fn open(&mut self) -> Result<()> {
        loop {
            self.client.transport().check_cancelled()?;
            self.opened += 1;
            if self.opened > OPEN_LIMIT {
                return Err(Error::new(Kind::Unavailable, format!("the transfer broke {OPEN_LIMIT} times")));
            }
            let Some(candidate) = self.candidates.first().cloned() else {
                return Err(Error::new(Kind::Internal, "no host is left"));
            };
            let opened = self
                .client
                .endpoint(&candidate)
                .and_then(|endpoint| self.open_at(&endpoint).map(|()| endpoint.host()));
            match opened {
                Ok(host) => {
                    self.served_by = host;
                    self.since = self.position;
                    return Ok(());
                }
                Err(error) => self.give_up_or_go_on(error)?,
            }
        }
    }

    fn open_at(&mut self, endpoint: &Endpoint) -> Result<()> {
        let patience = if endpoint.mirror { Patience::None } else { Patience::Waiting };
        let position = self.position;
        let answer = self.client.call(endpoint, &Scope::pull(&self.repository), patience, &mut || {
            let call = Call::new(
                Method::GET,
                endpoint.url(&format!("{}/blobs/{}", self.repository.path(), self.digest)),
            );
            Ok(if position > 0 { call.header(header::RANGE, format!("bytes={position}-")) } else { call })
        })?;
        let host = endpoint.host();
        let skip = match answer.status {
            StatusCode::OK => {
                check_announced(&host, answer.length(), self.size)?;
                position
            }
            StatusCode::PARTIAL_CONTENT if position > 0 => {
                if range_start(&answer) != Some(position) {
                    return Err(Error::new(
                        Kind::Corrupt,
                        format!("registry `{host}` serves another range than the one that was asked for"),
                    ));
                }
                check_announced(&host, answer.length(), self.size - position)?;
                0
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("registry `{host}` holds fewer bytes than the {} that are declared", self.size),
                ));
            }
            _ => return Err(unexpected(answer)),
        };
        // The limit of the body is ours: one byte more than declared is looked at.
        let mut source = answer.body.into_with_config().limit(u64::MAX).reader();
        let mut skipped = (&mut source).take(skip);
        let mut buffer = vec![0; 64 * 1024];
        let mut left = skip;
        while left > 0 {
            self.client.transport().check_cancelled()?;
            match skipped.read(&mut buffer) {
                Ok(0) => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("registry `{host}` ended the transfer early"),
                    ));
                }
                Ok(n) => left -= n as u64,
                Err(e) => return Err(Failure::of_io(&host, e).into_error()),
            }
        }
        self.source = Some(source);
        Ok(())
    }

    /// After a failure: on to the next host, or a pause, or the end.
    fn give_up_or_go_on(&mut self, error: Error) -> Result<()> {
        self.source = None;
        let retry = self.client.options().retry;
        if error.kind() == Kind::Interrupted {
            return Err(error);
        }
        if self.candidates.len() > 1 {
            if matches!(error.kind(), Kind::Unavailable | Kind::Corrupt)
                && let Some(candidate @ Candidate::Mirror(_)) = self.candidates.first()
            {
                self.client.leave_alone(candidate);
            }
            self.candidates.remove(0);
            self.failures = 0;
            self.progressed = Instant::now();
            return Ok(());
        }
        if error.kind() != Kind::Unavailable {
            return Err(error);
        }
        self.failures += 1;
        if self.failures >= retry.attempts.max(1)
            || self.progressed.elapsed() >= self.client.options().time_outs.patience()
        {
            return Err(error);
        }
        self.client.transport().pause(retry.pause(self.failures))
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            self.client.transport().check_cancelled()?;
            if self.position == self.size {
                return self.finish().map(|()| 0);
            }
            if self.source.is_none() {
                self.open()?;
            }
            let Some(source) = &mut self.source else { continue };
            let wanted = buffer.len().min(usize::try_from(self.size - self.position).unwrap_or(usize::MAX));
            let error = match source.read(&mut buffer[..wanted]) {
                Ok(0) => Error::new(
                    Kind::Unavailable,
                    format!("registry `{}` ended the transfer early", self.served_by),
                )
                .because(Error::new(
                    Kind::Unavailable,
                    format!("{} of {} bytes came", self.position, self.size),
                )),
                Ok(n) => {
                    self.position += n as u64;
                    self.progressed = Instant::now();
                    if self.position - self.since >= PROGRESS {
                        self.failures = 0;
                    }
                    return Ok(n);
                }
                Err(e) => Failure::of_io(&self.served_by, e).into_error(),
            };
            self.client.transport().check_cancelled()?;
            self.give_up_or_go_on(error)?;
        }
    }

    /// Looks once whether more comes than was declared.
    fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let Some(mut source) = self.source.take() else { return Ok(()) };
        match source.read(&mut [0]) {
            // A connection that breaks after the last byte has done its duty.
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => {
                self.finished = false;
                Err(Error::new(
                    Kind::Corrupt,
                    format!(
                        "registry `{}` sends more than the {} bytes that are declared",
                        self.served_by, self.size
                    ),
                ))
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.read_inner(buffer).map_err(|error| io::Error::other(error.within(self.what())))
    }
}

fn check_announced(host: &str, announced: Option<u64>, expected: u64) -> Result<()> {
    match announced {
        Some(length) if length != expected => Err(Error::new(
            Kind::Corrupt,
            format!("registry `{host}` announces {length} bytes where {expected} are declared"),
        )),
        _ => Ok(()),
    }
}

/// Where a `Content-Range: bytes START-END/SIZE` begins.
fn range_start(answer: &Answer) -> Option<u64> {
    let range = answer.header(header::CONTENT_RANGE)?.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.trim().parse().ok()
}

/// Hashes what passes through and fails at the end if it is not what was declared.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    hasher: Option<HashState>,
    digest: Digest,
}

struct HashState(Hasher);

impl std::fmt::Debug for HashState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashState")
    }
}

impl<R: Read> VerifyingReader<R> {
    /// `inner` must give the whole content, from its first byte.
    pub fn new(inner: R, digest: Digest) -> Self {
        VerifyingReader { inner, hasher: Some(HashState(Hasher::new(digest.algorithm()))), digest }
    }

    /// The reader below.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            if let Some(state) = &mut self.hasher {
                state.0.update(&buffer[..n]);
            }
        } else if !buffer.is_empty()
            && let Some(state) = self.hasher.take()
        {
            let actual = state.0.finish();
            if actual != self.digest {
                let error =
                    Error::new(Kind::Corrupt, format!("content does not match its digest `{}`", self.digest));
                return Err(io::Error::other(
                    error.because(Error::new(Kind::Corrupt, format!("its bytes have the digest {actual}"))),
                ));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifying_reader_passes_the_right_bytes_only() {
        let mut out = Vec::new();
        VerifyingReader::new(&b"abc"[..], Digest::of(b"abc")).read_to_end(&mut out).unwrap();
        assert_eq!(out, b"abc");
        let error = VerifyingReader::new(&b"abd"[..], Digest::of(b"abc")).read_to_end(&mut out).unwrap_err();
        assert_eq!(error_of(error).kind(), Kind::Corrupt);
    }

    #[test]
    fn a_reader_is_send() {
        fn is_send<T: Send>() {}
        fn is_sync<T: Sync>() {}
        is_send::<BlobReader>();
        is_sync::<Client>();
    }
}
