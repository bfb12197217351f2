//! A client that is quick to give up, and names in a test registry.
#![allow(dead_code)] // every test file uses its part

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use robot_env_diag::{Error, Result};
use robot_env_oci::{Descriptor, Digest, Reference, Repository};
use robot_env_registry::{BlobReader, Client, ClientOptions, Retry, TimeOuts, error_of};
use robot_env_testkit::registry::{Auth, TestRegistry};
use robot_env_testkit::temporary::TemporaryDirectory;

pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        time_outs: TimeOuts {
            idle: Duration::from_secs(5),
            mirror_connect: Duration::from_secs(1),
            mirror_answer: Duration::from_secs(1),
            ..TimeOuts::default()
        },
        retry: Retry {
            attempts: 4,
            first_pause: Duration::from_millis(10),
            longest_wait: Duration::from_secs(3),
        },
        ..ClientOptions::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options())
}

/// Options with a `config.json` of their own.
pub(crate) fn options_in(directory: &TemporaryDirectory) -> ClientOptions {
    ClientOptions { docker_config: Some(directory.join("config.json")), ..options() }
}

pub(crate) fn config_file(options: &ClientOptions) -> PathBuf {
    options.docker_config.clone().expect("a config file")
}

/// Writes a `config.json` with this entry for the registry.
pub(crate) fn write_credentials(options: &ClientOptions, host: &str, entry: serde_json::Value) {
    let text = serde_json::json!({"auths": {host: entry}}).to_string();
    std::fs::write(config_file(options), text).expect("config.json");
}

pub(crate) fn password(username: &str, password: &str) -> serde_json::Value {
    serde_json::json!({"username": username, "password": password})
}

pub(crate) fn bearer() -> Auth {
    Auth::Bearer {
        username: "rob".into(),
        password: "secret".into(),
        anonymous_pull: false,
        expires_in: 300,
        realm: None,
    }
}

pub(crate) fn repository(registry: &TestRegistry, name: &str) -> Repository {
    registry.name(name).parse().expect("a repository")
}

pub(crate) fn reference(registry: &TestRegistry, name: &str) -> Reference {
    registry.name(name).parse().expect("a reference")
}

pub(crate) fn descriptor(digest: &Digest, size: usize) -> Descriptor {
    Descriptor::new("application/octet-stream", digest.clone(), size as u64)
}

/// Bytes that no two places have in common.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

pub(crate) fn read(mut reader: BlobReader) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.read_to_end(&mut out).map_err(error_of)?;
    Ok(out)
}

/// The whole error, as a user would see it.
pub(crate) fn text(error: &Error) -> String {
    error.to_report().to_string()
}
