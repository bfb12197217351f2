//! A client of registries (OCI distribution-spec 1.1 and Docker's registry API v2): manifests,
//! blobs, uploads, tags, login; mirrors, proxies, tokens, certificates.
//!
//! It deliberately knows no store, no tar and no terminal: it gives verified documents and streams,
//! and takes them. It reads no environment variable; [`ClientOptions::from_environment`] is handed
//! them. It is blocking and starts no thread of its own, except around a credential helper; one
//! [`Client`] serves many threads at once.
//!
//! Nothing that a registry says is trusted: documents are bounded to 4 MiB and verified, blobs to
//! their declared size, redirects, retries, waits, pages and nested indexes are counted, credentials
//! stay with the scheme, host and port that they are for, and the words of a registry appear in
//! errors as bounded data.
//!
//! On disk it reads and writes Docker's `config.json` (credentials), and reads `certs.d`; what the
//! configuration says it is told: see [`ClientOptions::from_environment`]. It holds no
//! file lock; the locks in memory are described in `client.rs` and `transport.rs`.

mod address;
mod blob;
mod challenge;
mod client;
mod credentials;
mod download;
mod helper;
mod link;
mod login;
mod manifest;
mod mirror;
mod options;
mod proxy;
mod push;
mod search;
mod settings;
mod status;
mod tags;
mod tls;
mod token;
mod transport;

pub use blob::{BlobReader, VerifyingReader, error_of};
pub use client::Client;
pub use credentials::{Credentials, Stored};
pub use download::Download;
pub use login::Login;
pub use manifest::{Document, Image, Served};
pub use options::{ClientOptions, Loaded, Network, RegistrySettings, Retry, TimeOuts};
pub use proxy::Proxies;
pub use push::{Expected, Open, Pushed};
pub use search::Found;
