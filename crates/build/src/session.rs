//! A build from its request to what becomes of its result.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::Engine;
use robot_env_oci::{Digest, ImageId};
use robot_env_store::{CacheRecord, ImageRecord, Store};

use crate::request::{BuildRequest, Built, Fetch, Observer};
use crate::solve::solve;

/// How long what a build uses stays without anything that refers to it.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the parts of a build share.
#[derive(Default)]
pub(crate) struct Session {
    /// The steps of this build, made or found.
    steps: Mutex<Vec<(Digest, CacheRecord)>>,
}

impl Session {
    /// What is known of a step, here or in another build's cache.
    pub(crate) fn cached(&self, store: &Store, key: &Digest) -> Result<Option<CacheRecord>> {
        let found = store.cached(key)?;
        if let Some(record) = &found {
            self.note(key, record);
        }
        Ok(found)
    }

    /// Remembers that a step belongs to this build.
    pub(crate) fn note(&self, key: &Digest, record: &CacheRecord) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.iter().all(|(known, _)| known != key) {
            steps.push((key.clone(), record.clone()));
        }
    }
}

/// Builds an image.
///
/// # Errors
/// `InvalidInput` for a Dockerfile that is none, naming file, line and column; `NotFound` for a file
/// or image that is not there; `Conflict` for a command that fails; those of pulling and running.
/// Nothing of the build is left then but what the cache keeps.
pub fn build(
    engine: &Engine,
    request: &BuildRequest,
    fetch: &mut dyn Fetch,
    observer: &mut dyn Observer,
) -> Result<Built> {
    engine.sweep_steps()?;
    let store = engine.store();
    let _lease = store.lease(LEASE)?;
    let session = Session::default();
    let solved = solve(engine, request, &session, fetch, observer)?;
    let platform = solved.config.value().platform.clone();
    let id = ImageId(solved.config.digest().clone());
    let image = match store.image(&id) {
        Ok(Some(known)) => known,
        _ => {
            let mut record = ImageRecord::new(&solved.config);
            record.origin = "build".into();
            store.put_image(&record)?
        }
    };
    if image.id != id {
        return Err(Error::new(Kind::Internal, "an image has another id than its config"));
    }
    for name in &request.names {
        store.tag(name, &id, None)?;
    }
    Ok(Built {
        image: id.clone(),
        names: request.names.clone(),
        images: vec![(platform, id)],
        pushed: Vec::new(),
        digest: None,
    })
}
