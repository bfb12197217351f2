//! Manifests, indexes and configs: small documents, read whole and verified.

use robot_env_diag::{Context as _, Error, Kind, Result, Within as _};
use robot_env_oci::{
    AnyManifest, Descriptor, Digest, ImageConfig, Index, MANIFEST_LIMIT, Manifest, Platform, Reference,
    Repository, Verified, media_type,
};
use ureq::http::{HeaderName, Method, StatusCode, header};

use crate::client::{Client, Endpoint, Patience, unexpected};
use crate::token::Scope;
use crate::transport::{Answer, Call, excerpt};

/// What is asked for: all four formats. Schema 1 is what a registry falls back to, and is refused.
const ACCEPT: [&str; 4] =
    [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST];
/// How deep indexes may stand in indexes.
const INDEX_DEPTH: u32 = 4;
/// The registry's own idea of the digest.
pub(crate) const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// Content and the host that served it.
#[derive(Clone, Debug)]
pub struct Served<T> {
    /// What was served.
    pub value: T,
    /// The host (`host[:port]`) that served it: a mirror or the registry.
    pub host: String,
}

/// A manifest or an index as it was served: the very bytes, verified.
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Box<Verified<Manifest>>, String),
    /// Several images.
    Index(Verified<Index>, String),
}

impl Document {
    /// Reads `bytes`, which were served or described as `declared`, and checks them against `digest`.
    pub fn check(bytes: Vec<u8>, declared: Option<&str>, digest: &Digest) -> Result<Self> {
        let parsed = AnyManifest::parse(&bytes, declared);
        let known = declared.filter(|declared| ACCEPT.contains(declared)).map(str::to_owned);
        match parsed {
            Ok(AnyManifest::Manifest(manifest)) => {
                let media_type =
                    manifest.media_type.or(known).unwrap_or_else(|| media_type::OCI_MANIFEST.into());
                Ok(Document::Manifest(Box::new(Verified::check(bytes, digest)?), media_type))
            }
            Ok(AnyManifest::Index(index)) => {
                let media_type = index.media_type.or(known).unwrap_or_else(|| media_type::OCI_INDEX.into());
                Ok(Document::Index(Verified::check(bytes, digest)?, media_type))
            }
            // Damaged content is named as such, and not as a document that cannot be parsed.
            Err(error) => Err(check_digest(&bytes, digest).err().unwrap_or(error)),
        }
    }

    /// The bytes that were hashed.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Document::Manifest(manifest, _) => manifest.bytes(),
            Document::Index(index, _) => index.bytes(),
        }
    }

    /// Their digest.
    pub fn digest(&self) -> &Digest {
        match self {
            Document::Manifest(manifest, _) => manifest.digest(),
            Document::Index(index, _) => index.digest(),
        }
    }

    /// Its media type: what it says itself, or what it was served as.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(_, media_type) | Document::Index(_, media_type) => media_type,
        }
    }

    /// A descriptor of it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type(), self.digest().clone(), self.bytes().len() as u64)
    }
}

/// An image as a reference and a platform choose it.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the reference itself names: the manifest, or an index that holds it.
    pub top: Document,
    /// The image's manifest.
    pub manifest: Verified<Manifest>,
    /// The media type of the manifest.
    pub media_type: String,
    /// The image's config.
    pub config: Verified<ImageConfig>,
    /// The platform by which an index was searched; `None` if the reference names a manifest.
    pub chosen_for: Option<Platform>,
    /// The host that served the manifest.
    pub host: String,
}

fn check_digest(bytes: &[u8], digest: &Digest) -> Result<()> {
    let mut hasher = robot_env_oci::Hasher::new(digest.algorithm());
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual == *digest {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("content does not match its digest `{digest}`"))
        .because(Error::new(Kind::Corrupt, format!("its bytes have the digest {actual}"))))
}

fn media_type_of(answer: &Answer) -> Option<String> {
    let text = answer.header(header::CONTENT_TYPE)?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).filter(|t| !t.is_empty())
}

/// The digest that the registry names. A malformed one is an error.
fn named_digest(answer: &Answer) -> Result<Option<Digest>> {
    let Some(text) = answer.headers.get(DIGEST_HEADER) else { return Ok(None) };
    let text = text.to_str().context(Kind::Corrupt, || "the registry names a malformed digest".into())?;
    let digest = text.parse().map_err(|_| {
        Error::new(Kind::Corrupt, format!("the registry names a malformed digest `{}`", excerpt(text)))
    });
    digest.map(Some)
}

fn what(reference: &Reference) -> String {
    format!("cannot read manifest of `{}`", reference.familiar())
}

/// The part of the URL that names a reference: its digest, or its tag.
pub(crate) fn selector(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    }
}

impl Client {
    /// What `reference` names at the moment, without reading it where the registry allows that.
    /// A reference without tag and digest means `latest`.
    pub fn resolve(&self, reference: &Reference) -> Result<Served<Descriptor>> {
        let found = self.try_each(reference.repository(), |endpoint| {
            let answer = self.ask_manifest(endpoint, reference, &Method::HEAD)?;
            if answer.status == StatusCode::OK
                && let (Some(kind), Some(digest), Some(size)) =
                    (media_type_of(&answer), named_digest(&answer)?, answer.length())
            {
                if reference.digest().is_some_and(|wanted| *wanted != digest) {
                    return Err(Error::new(
                        Kind::Corrupt,
                        format!("registry `{}` names the digest {digest} instead", endpoint.host()),
                    ));
                }
                if kind == media_type::DOCKER_SCHEMA1 || kind == media_type::DOCKER_SCHEMA1_UNSIGNED {
                    AnyManifest::parse(b"{\"schemaVersion\":1}", Some(&kind))?;
                }
                return Ok(Served { value: Descriptor::new(kind, digest, size), host: endpoint.host() });
            }
            if answer.status.is_client_error() && !matches!(answer.status.as_u16(), 400 | 405) {
                // The answer to HEAD has no words; those of GET say more.
                return Err(unexpected(self.ask_manifest(endpoint, reference, &Method::GET)?));
            }
            self.read_manifest(endpoint, reference)
                .map(|document| Served { value: document.descriptor(), host: endpoint.host() })
        });
        found.within(|| what(reference))
    }

    /// Reads the manifest or index that `reference` names, at most 4 MiB. By digest it is verified
    /// against it, by tag against the digest that the registry names, if it names one.
    pub fn manifest(&self, reference: &Reference) -> Result<Served<Document>> {
        let found = self.try_each(reference.repository(), |endpoint| {
            self.read_manifest(endpoint, reference).map(|value| Served { value, host: endpoint.host() })
        });
        found.within(|| what(reference))
    }

    /// Reads the manifest or index that `descriptor` points to.
    pub fn manifest_of(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Served<Document>> {
        let reference = Reference::with_digest(repository.clone(), descriptor.digest.clone());
        let served = self.manifest(&reference)?;
        if served.value.bytes().len() as u64 != descriptor.size {
            return Err(Error::new(Kind::Corrupt, what(&reference)).because(Error::new(
                Kind::Corrupt,
                format!(
                    "it has {} bytes and not the {} that are declared",
                    served.value.bytes().len(),
                    descriptor.size
                ),
            )));
        }
        AnyManifest::parse(served.value.bytes(), Some(&descriptor.media_type)).within(|| what(&reference))?;
        Ok(served)
    }

    /// Reads the config that a manifest points to, at most 4 MiB.
    pub fn config(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Verified<ImageConfig>> {
        let what =
            || format!("cannot read config `{}` of `{}`", descriptor.digest.short(), repository.familiar());
        if descriptor.size > MANIFEST_LIMIT {
            return Err(Error::new(Kind::Corrupt, what())
                .because(Error::new(Kind::Corrupt, format!("it is larger than {MANIFEST_LIMIT} bytes"))));
        }
        let mut bytes = Vec::with_capacity(descriptor.size as usize);
        let mut reader = self.blob(repository, descriptor, 0)?;
        std::io::Read::read_to_end(&mut reader, &mut bytes).map_err(crate::blob::error_of).within(what)?;
        Verified::check(bytes, &descriptor.digest).within(what)
    }

    /// The image that `reference` names for `platform` (else the client's own): manifest and config.
    /// An index is searched, at most four deep. A manifest that is named itself is taken as it is.
    pub fn image(&self, reference: &Reference, platform: Option<&Platform>) -> Result<Image> {
        let top = self.manifest(reference)?;
        let wanted = platform.unwrap_or(&self.options().platform);
        let repository = reference.repository();
        let (mut current, mut chosen_for) = (top.clone(), None);
        for _ in 0..=INDEX_DEPTH {
            match current.value {
                Document::Manifest(manifest, media_type) => {
                    if let Some(kind) = &manifest.value().artifact_type {
                        return Err(Error::new(
                            Kind::Unsupported,
                            format!(
                                "cannot use `{}` as an image: it is an artefact of type `{}`",
                                reference.familiar(),
                                excerpt(kind)
                            ),
                        ));
                    }
                    let config = self.config(repository, &manifest.value().config)?;
                    return Ok(Image {
                        top: top.value,
                        manifest: *manifest,
                        media_type,
                        config,
                        chosen_for,
                        host: current.host,
                    });
                }
                Document::Index(index, _) => {
                    let Some(entry) = index.value().select(wanted) else {
                        let mut offers = index.value().platforms();
                        offers.sort();
                        offers.dedup();
                        offers.truncate(20);
                        let error = Error::not_found(format!(
                            "no image of `{}` is for platform `{wanted}`",
                            reference.familiar()
                        ));
                        return Err(if offers.is_empty() {
                            error.because(Error::not_found("it is an index without images"))
                        } else {
                            error.because(Error::not_found(format!(
                                "it is there for {}",
                                excerpt(&offers.join(", "))
                            )))
                        });
                    };
                    chosen_for = Some(wanted.clone());
                    current = self.manifest_of(repository, entry)?;
                }
            }
        }
        Err(Error::new(Kind::Corrupt, what(reference)).because(Error::new(
            Kind::Corrupt,
            format!("its indexes are nested more than {INDEX_DEPTH} deep"),
        )))
    }

    fn ask_manifest(&self, endpoint: &Endpoint, reference: &Reference, method: &Method) -> Result<Answer> {
        let repository = reference.repository();
        let patience = if endpoint.mirror { Patience::None } else { Patience::Full };
        self.call(endpoint, &Scope::pull(repository), patience, &mut || {
            let url = endpoint.url(&format!("{}/manifests/{}", repository.path(), selector(reference)));
            Ok(Call::new(method.clone(), url).header(header::ACCEPT, ACCEPT.join(", ")))
        })
    }

    fn read_manifest(&self, endpoint: &Endpoint, reference: &Reference) -> Result<Document> {
        let retry = self.options().retry;
        let mut failures = 0;
        loop {
            let answer = self.ask_manifest(endpoint, reference, &Method::GET)?;
            if answer.status != StatusCode::OK {
                return Err(unexpected(answer));
            }
            let declared = media_type_of(&answer);
            let named = named_digest(&answer)?;
            let bytes = match answer.read_to(MANIFEST_LIMIT) {
                Ok(bytes) => bytes,
                Err(failure) => {
                    failures += 1;
                    if !failure.may_pass() || endpoint.mirror || failures >= retry.attempts {
                        return Err(failure.into_error());
                    }
                    self.transport().pause(retry.pause(failures))?;
                    continue;
                }
            };
            let digest = reference.digest().cloned().or(named).unwrap_or_else(|| Digest::of(&bytes));
            return Document::check(bytes, declared.as_deref(), &digest)
                .within(|| format!("registry `{}` serves a bad manifest", endpoint.host()));
        }
    }
}
