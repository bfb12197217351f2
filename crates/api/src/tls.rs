//! TCP, for clients that prove who they are and no others: TLS with certificates on both sides.
//!
//! What a client sends is unwrapped here and goes on through a pair of unix sockets, so that a
//! connection is the same thing to all that follows.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use robot_env_diag::{Error, IoContext, Kind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::server::Server;

/// How long a client may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where TCP is served, and by which certificates. Without them it is not served at all: whoever can
/// talk to the API is root of the containers.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The address and port.
    pub address: SocketAddr,
    /// A file (PEM) with the authorities that clients' certificates must be of.
    pub authority: PathBuf,
    /// A file (PEM) with the server's certificate and those up to its authority.
    pub certificate: PathBuf,
    /// A file (PEM) with the certificate's key.
    pub key: PathBuf,
}

/// A TCP socket that is listened on.
pub(crate) struct Gate {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("cannot serve by TLS: `{}`: {why}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, error))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(path, error))?;
    if all.is_empty() {
        return Err(wrong(path, "there is no certificate in it"));
    }
    Ok(all)
}

fn config(options: &TlsOptions) -> Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.authority)? {
        roots.add(certificate).map_err(|error| wrong(&options.authority, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| wrong(&options.authority, error))?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|error| wrong(&options.key, error))?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Internal, "cannot serve by TLS").because(error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&options.certificate)?, key)
        .map_err(|error| wrong(&options.certificate, error))
}

impl Gate {
    /// Listens.
    ///
    /// # Errors
    /// `InvalidInput` for files that are no certificates or no key, and when the address cannot be had.
    pub(crate) async fn open(options: &TlsOptions) -> Result<Gate> {
        let acceptor = TlsAcceptor::from(Arc::new(config(options)?));
        let listener = TcpListener::bind(options.address)
            .await
            .io_context(|| format!("cannot listen on `{}`", options.address))?;
        Ok(Gate { listener, acceptor })
    }

    /// Waits for a client, which has still to prove who it is.
    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Serves a client once it has proved who it is.
    pub(crate) fn welcome(&self, client: TcpStream, server: &'static Server) {
        let acceptor = self.acceptor.clone();
        tokio::spawn(async move {
            let _ = client.set_nodelay(true);
            // A client that proves nothing hears of it by TLS.
            let Ok(Ok(mut client)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(client)).await else {
                return;
            };
            let Ok((near, mut far)) = UnixStream::pair() else { return };
            server.welcome(near);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut far).await;
        });
    }
}
