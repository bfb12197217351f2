//! A registry in the process: HTTP/1.1 on a loopback address, one thread a connection, with
//! passwords or tokens, TLS, and faults on demand.
//!
//! It keeps what it is given in memory, or reads blobs from files. Everything that was asked is
//! logged, so that a test can say how often and with which credentials.

mod auth;
mod fault;
mod http;
mod routes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use robot_env_oci::{Descriptor, Digest, media_type};

pub use auth::Auth;
pub use fault::{Effect, Fault};

use crate::image::BuiltImage;

/// How a [`TestRegistry`] behaves from the start.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Who may do what.
    pub auth: Auth,
    /// Speaks https with this authority's certificate.
    pub tls: Option<Arc<crate::tls::Authority>>,
    /// Whether https wants a certificate of the same authority from the client.
    pub client_certificate: bool,
    /// At most so many tags a page; 0: as many as the client wants.
    pub tags_a_page: usize,
    /// Whether blobs are mounted from other repositories.
    pub refuse_mount: bool,
}

/// A request as it was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query.
    pub query: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Logged {
    /// A header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Arc<[u8]>),
    File(PathBuf, u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(_, size) => *size,
        }
    }
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeSet<String>,
    manifests: BTreeMap<String, (String, Arc<[u8]>)>,
    tags: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Stored {
    repositories: BTreeMap<String, Repository>,
    contents: HashMap<String, Content>,
    uploads: HashMap<String, Vec<u8>>,
    tokens: HashMap<String, auth::Token>,
    refresh_tokens: BTreeSet<String>,
    faults: Vec<Fault>,
    log: Vec<Logged>,
    connections: HashMap<u64, TcpStream>,
}

#[derive(Debug)]
struct State {
    options: RegistryOptions,
    address: SocketAddr,
    stored: Mutex<Stored>,
    stopping: AtomicBool,
    counter: AtomicU64,
    sent: AtomicU64,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() { "https" } else { "http" }
    }
}

/// A registry that lives as long as this value.
#[derive(Debug)]
pub struct TestRegistry {
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

impl TestRegistry {
    /// An open one on a free port.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start() -> Self {
        Self::with(RegistryOptions::default())
    }

    /// One with these options on a free port.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn with(options: RegistryOptions) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            options,
            address,
            stored: Mutex::default(),
            stopping: AtomicBool::new(false),
            counter: AtomicU64::new(1),
            sent: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let id = shared.next();
                let Ok(copy) = stream.try_clone() else { continue };
                shared.lock().connections.insert(id, copy);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    http::serve(&shared, stream);
                    // The copy kept the connection open.
                    if let Some(copy) = shared.lock().connections.remove(&id) {
                        let _ = copy.shutdown(std::net::Shutdown::Both);
                    }
                });
            }
        });
        TestRegistry { state, accepting: Some(accepting) }
    }

    /// `127.0.0.1:<port>`, as it stands in image names.
    pub fn host(&self) -> String {
        self.state.address.to_string()
    }

    /// `http(s)://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.state.scheme(), self.state.address)
    }

    /// The name of an image here: `127.0.0.1:<port>/<rest>`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.state.address)
    }

    /// Puts a blob into a repository.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut stored = self.state.lock();
        stored.contents.insert(digest.to_string(), Content::Bytes(bytes.into()));
        stored.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest.to_string());
        digest
    }

    /// Puts a blob that stays in a file; its digest is believed.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn put_blob_file(&self, repository: &str, digest: &Digest, path: impl Into<PathBuf>) {
        let path = path.into();
        let size = std::fs::metadata(&path).expect("the blob's file").len();
        let mut stored = self.state.lock();
        stored.contents.insert(digest.to_string(), Content::File(path, size));
        stored.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest.to_string());
    }

    /// Puts a manifest or index, with a tag if one is given, whatever it says.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let digest = Digest::of(bytes);
        let mut stored = self.state.lock();
        let repository = stored.repositories.entry(repository.to_owned()).or_default();
        repository.manifests.insert(digest.to_string(), (media_type.to_owned(), bytes.into()));
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.to_string());
        }
        digest
    }

    /// Puts a whole image; gives its manifest's descriptor.
    pub fn put_image(&self, repository: &str, tag: &str, image: &BuiltImage) -> Descriptor {
        for layer in &image.layers {
            self.put_blob(repository, &layer.blob);
        }
        self.put_blob(repository, &image.config);
        let digest = self.put_manifest(repository, Some(tag), &image.media_type, &image.manifest);
        Descriptor::new(image.media_type.clone(), digest, image.manifest.len() as u64)
    }

    /// Puts an OCI index of these images under a tag.
    pub fn put_index(&self, repository: &str, tag: &str, images: &[&BuiltImage]) -> Digest {
        let entries: Vec<_> = images
            .iter()
            .map(|image| {
                for layer in &image.layers {
                    self.put_blob(repository, &layer.blob);
                }
                self.put_blob(repository, &image.config);
                let digest = self.put_manifest(repository, None, &image.media_type, &image.manifest);
                serde_json::json!({"mediaType": image.media_type, "digest": digest.to_string(), "size": image.manifest.len(),
                    "platform": {"os": image.platform.os, "architecture": image.platform.architecture, "variant": image.platform.variant}})
            })
            .collect();
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries})
                .to_string();
        self.put_manifest(repository, Some(tag), media_type::OCI_INDEX, index.as_bytes())
    }

    /// Takes a blob out of a repository; whether it was there.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.state
            .lock()
            .repositories
            .get_mut(repository)
            .is_some_and(|r| r.blobs.remove(&digest.to_string()))
    }

    /// The bytes of a blob that lies in memory.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        let stored = self.state.lock();
        stored.repositories.get(repository)?.blobs.get(&digest.to_string())?;
        match stored.contents.get(&digest.to_string())? {
            Content::Bytes(bytes) => Some(bytes.to_vec()),
            Content::File(..) => None,
        }
    }

    /// The digest and bytes of the manifest that a tag or digest names.
    pub fn manifest(&self, repository: &str, selector: &str) -> Option<(Digest, Vec<u8>)> {
        let stored = self.state.lock();
        let repository = stored.repositories.get(repository)?;
        let digest = repository.tags.get(selector).map_or(selector, String::as_str);
        let (_, bytes) = repository.manifests.get(digest)?;
        Some((digest.parse().ok()?, bytes.to_vec()))
    }

    /// Does something wrong from now on; faults are tried in the order in which they were added.
    pub fn fault(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Takes all faults back.
    pub fn mend(&self) {
        self.state.lock().faults.clear();
    }

    /// Forgets all tokens that were given, so that they are refused from now on.
    pub fn revoke_tokens(&self) {
        self.state.lock().tokens.clear();
    }

    /// What was asked since the start or the last [`TestRegistry::forget_log`].
    pub fn log(&self) -> Vec<Logged> {
        self.state.lock().log.clone()
    }

    /// Empties the log.
    pub fn forget_log(&self) {
        self.state.lock().log.clear();
    }

    /// How many requests had this method and a path that contains `path`.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.state
            .lock()
            .log
            .iter()
            .filter(|logged| logged.method == method && logged.path.contains(path))
            .count()
    }

    /// How many bytes of bodies were sent in all.
    pub fn bytes_sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.state.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for (_, connection) in self.state.lock().connections.drain() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}
