//! Trusted certificates and client certificates: the system's bundle and `certs.d`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use robot_env_diag::{Context as _, Error, IoContext as _, Kind, Result};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::options::ClientOptions;

/// Where the distributions keep their bundle of trusted certificates.
pub(crate) const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The largest certificate file that is read, in bytes.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    robot_env_config::read_bytes(path, FILE_LIMIT)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("cannot read certificates in `{}`", path.display());
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found =
        found.map_err(|e| Error::invalid(what()).because(Error::invalid(format!("malformed PEM: {e}"))))?;
    if found.is_empty() {
        Err(Error::invalid(what()).because(Error::invalid("it holds none")))
    } else {
        Ok(found)
    }
}

/// What stands in `certs.d` for one registry.
#[derive(Debug, Default)]
struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<ClientCert>,
}

/// Reads `<directory>/<authority>/` of every directory, as Docker does: `*.crt` are authorities,
/// `X.cert` with `X.key` is a client's certificate.
fn read_host(
    directories: &[PathBuf],
    authority: &str,
    provider: &CryptoProvider,
) -> Result<HostCertificates> {
    let mut out = HostCertificates::default();
    if authority.contains('/') || authority.starts_with('.') {
        return Ok(out);
    }
    for directory in directories {
        let directory = directory.join(authority);
        let what = || format!("cannot read directory `{}`", directory.display());
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                continue;
            }
            Err(e) => return Err(e).io_context(what),
        };
        let mut paths = entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .io_context(what)?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => {
                    if let Some(pem) = read(&path)? {
                        out.authorities.extend(certificates(&path, &pem)?);
                    }
                }
                Some("cert") if out.client.is_none() => out.client = Some(read_client(&path, provider)?),
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(Error::invalid(format!("cannot use client key `{}`", path.display()))
                        .because(Error::not_found(format!(
                            "no certificate `{}`",
                            path.with_extension("cert").display()
                        ))));
                }
                _ => {}
            }
        }
    }
    Ok(out)
}

fn read_client(path: &Path, provider: &CryptoProvider) -> Result<ClientCert> {
    let key_path = path.with_extension("key");
    let what = || format!("cannot use client certificate `{}`", path.display());
    let chain = certificates(path, &read(path)?.unwrap_or_default())?;
    let pem = read(&key_path)?.ok_or_else(|| {
        Error::not_found(what()).because(Error::not_found(format!("no key `{}`", key_path.display())))
    })?;
    let malformed = |why: String| {
        Error::invalid(what())
            .because(Error::invalid(format!("cannot read key `{}`: {why}", key_path.display())))
    };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| malformed(e.to_string()))?;
    // Checked here, because the connection would otherwise be the place that finds out.
    rustls::sign::CertifiedKey::from_der(chain.clone(), key, provider).context(Kind::InvalidInput, what)?;
    let key = PrivateKey::from_pem(&pem).map_err(|e| malformed(e.to_string()))?;
    let chain: Vec<_> = chain.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// The system's trusted certificates.
fn read_system(bundles: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>> {
    for path in bundles {
        if let Some(pem) = read(path)? {
            return certificates(path, &pem);
        }
    }
    let places: Vec<_> = bundles.iter().map(|path| path.display().to_string()).collect();
    Err(Error::not_found("cannot find trusted certificates")
        .because(Error::not_found(format!("none of {} exists", places.join(", "))))
        .with_hint("install the package `ca-certificates`, or set SSL_CERT_FILE"))
}

/// Makes TLS settings for hosts.
#[derive(Debug)]
pub(crate) struct Trust {
    provider: Arc<CryptoProvider>,
    system: std::sync::OnceLock<Vec<CertificateDer<'static>>>,
}

impl Trust {
    pub(crate) fn new() -> Self {
        Trust {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            system: std::sync::OnceLock::new(),
        }
    }

    /// The TLS settings for `authority` (`host[:port]`). Without `https` nothing is read.
    pub(crate) fn config(&self, options: &ClientOptions, authority: &str, https: bool) -> Result<TlsConfig> {
        let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::clone(&self.provider));
        if !https {
            return Ok(builder.root_certs(RootCerts::new_with_certs(&[])).build());
        }
        let host = read_host(&options.certificate_directories, authority, &self.provider)?;
        if options.is_insecure(authority) && host.authorities.is_empty() {
            let builder = builder.root_certs(RootCerts::new_with_certs(&[]));
            return Ok(builder.client_cert(host.client).disable_verification(true).build());
        }
        let system = match self.system.get() {
            Some(system) => system.as_slice(),
            None => match read_system(&options.ca_bundles) {
                Ok(read) => self.system.get_or_init(|| read).as_slice(),
                Err(_) if !host.authorities.is_empty() => &[],
                Err(error) => return Err(error),
            },
        };
        let roots: Vec<_> =
            system.iter().chain(&host.authorities).map(|c| Certificate::from_der(c).to_owned()).collect();
        Ok(builder.root_certs(RootCerts::new_with_certs(&roots)).client_cert(host.client).build())
    }
}
