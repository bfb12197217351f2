//! The engine: what a front end holds.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use robot_env_device::Session;
use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::{ContainerId, HostFacts};
use robot_env_store::{OverlayXattr, SnapshotKey, Store, StoreOptions};

use robot_env_sys::cgroup::{self, Hierarchies};

use crate::events::{self, Event, EventReader};
use crate::facts;
use crate::network::NetworkDefaults;
use crate::paths::Paths;
use crate::record::ContainerRecord;
use crate::records::{Container, Records};

/// How to open an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The data root.
    pub root: PathBuf,
    /// The run root: what a reboot may wipe.
    pub run_root: PathBuf,
    /// Whether this process is in a user namespace made for an ordinary user.
    pub rootless: bool,
    /// Whether only one user id is mapped in it.
    pub single_id: bool,
}

/// Containers, volumes and the store of images below one pair of roots. Opening one costs a few
/// system calls; nothing runs in it.
#[derive(Debug)]
pub struct Engine {
    pub(crate) paths: Paths,
    pub(crate) records: Records,
    pub(crate) store: Store,
    pub(crate) rootless: bool,
    pub(crate) single_id: bool,
    pub(crate) session: Session,
    /// How networks are made.
    pub(crate) network_defaults: NetworkDefaults,
    /// How long what is removed is kept.
    pub(crate) undo: Duration,
    /// See [`crate::Removed::batch`].
    pub(crate) batch: String,
    /// The network namespace of an ordinary user, held for the container that this process cares for.
    pub(crate) user_network: Mutex<Option<Arc<OwnedFd>>>,
    /// Monitors that this process has started and not reaped.
    pub(crate) monitors: Mutex<Vec<i32>>,
}

impl Engine {
    /// Opens the engine, and makes its directories where they are missing.
    pub fn open(options: &EngineOptions) -> Result<Engine> {
        let overlay_xattr = if options.rootless { OverlayXattr::User } else { OverlayXattr::Trusted };
        let store = Store::open(&StoreOptions { root: options.root.clone(), overlay_xattr, create: true })?;
        let paths = Paths::new(options.root.clone(), options.run_root.clone());
        paths.make()?;
        Ok(Engine {
            records: Records::new(paths.clone()),
            paths,
            store,
            rootless: options.rootless,
            single_id: options.single_id,
            session: Session::default(),
            network_defaults: NetworkDefaults::default(),
            undo: Duration::ZERO,
            batch: crate::undo::new_batch(),
            user_network: Mutex::default(),
            monitors: Mutex::new(Vec::new()),
        })
    }

    /// The same engine for a user's session: its display, its agent, its identity. Without one,
    /// containers that want these hear that there is none.
    #[must_use]
    pub fn with_session(mut self, session: Session) -> Engine {
        self.session = session;
        self
    }

    /// The user's session that this engine acts for.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The store of images, layers and snapshots.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where things are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Whether an ordinary user's engine.
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// An ordinary user's network namespace, while this process holds it.
    pub(crate) fn user_network(&self) -> Option<Arc<OwnedFd>> {
        self.user_network.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn hold_user_network(&self, network: Arc<OwnedFd>) {
        *self.user_network.lock().unwrap_or_else(PoisonError::into_inner) = Some(network);
    }

    /// Facts about the host, as they are now.
    pub fn host_facts(&self) -> HostFacts {
        self.host_facts_with(&cgroup::detect())
    }

    /// The same for somebody who has looked at the control groups.
    pub(crate) fn host_facts_with(&self, cgroup: &Hierarchies) -> HostFacts {
        facts::read(self.rootless, self.single_id, cgroup)
    }

    /// The container that `text` names (a whole id, a name, or a unique prefix of an id), as it is
    /// now: one whose monitor has died is found dead here.
    pub fn container(&self, text: &str) -> Result<Container> {
        let id = self.records.find(text)?;
        self.container_by_id(&id)
    }

    pub(crate) fn container_by_id(&self, id: &ContainerId) -> Result<Container> {
        let container = self.records.load(id)?;
        self.reconciled(container)
    }

    /// All containers, the newest first. One that is being made or removed is left out, and so is
    /// one that cannot be read: see [`Engine::containers_and_damage`].
    pub fn containers(&self) -> Result<Vec<Container>> {
        Ok(self.containers_and_damage()?.0)
    }

    /// All containers, the newest first, and what is wrong with those whose records cannot be read.
    pub fn containers_and_damage(&self) -> Result<(Vec<Container>, Vec<Error>)> {
        let (mut all, mut damage) = (Vec::new(), Vec::new());
        for id in self.records.ids()? {
            match self.container_by_id(&id) {
                // A build looks after its own.
                Ok(container) if container.record.spec.step.is_some() => {}
                Ok(container) => all.push(container),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    let corrupt = error.kind() == Kind::Corrupt;
                    let mut error = error.within(format!("cannot read container `{}`", id.short()));
                    if corrupt {
                        error = error.with_hint(format!("`rm -f {}` removes it", id.short()));
                    }
                    damage.push(error);
                }
            }
        }
        let active = all.iter().filter(|c| c.state.state.is_active()).map(|c| c.record.id.clone());
        self.tend_networks(&active.collect());
        all.sort_by(|a, b| (b.record.created, &b.record.id).cmp(&(a.record.created, &a.record.id)));
        Ok((all, damage))
    }

    /// Whether every container's record can be read: where one cannot, nobody knows what it needs.
    pub(crate) fn check_records(&self) -> Result<()> {
        for id in self.records.ids()? {
            match self.records.load_record(&id) {
                Err(error) if error.kind() != Kind::NotFound => {
                    return Err(
                        error.within(format!("container `{}` may need it, and cannot be read", id.short()))
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes that a container has written, and those with its image's.
    pub fn sizes(&self, container: &Container) -> Result<(u64, u64)> {
        let own = match self.store.snapshot_usage(&snapshot_key(&container.record.id)) {
            Ok(usage) => usage.length,
            Err(error) if error.kind() == Kind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let image = self.store.image(&container.record.image)?.map_or(0, |image| image.size);
        Ok((own, own + image))
    }

    /// Reads the events of this engine's objects.
    pub fn events(&self, new_only: bool) -> Result<EventReader> {
        EventReader::open(self.paths.events(), new_only)
    }

    /// Tells everybody of an event about a container; `more` comes on top of its labels, image and
    /// name.
    pub fn tell(&self, record: &ContainerRecord, action: &str, more: &[(&str, String)]) {
        let mut attributes: BTreeMap<String, String> = record.spec.labels.clone();
        attributes.insert("image".into(), record.spec.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        events::append(
            &self.paths.events(),
            &Event::now("container", action, record.id.as_str(), attributes),
        );
    }

    /// Tells everybody of an event about something else: `kind` is `image` or `volume`.
    pub fn tell_of(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        events::append(&self.paths.events(), &Event::now(kind, action, id, attributes));
    }
}

/// Where a container's cgroup is below the hierarchies.
pub(crate) fn cgroup_path(record: &ContainerRecord) -> String {
    let parent = record.spec.cgroup_parent.as_deref().unwrap_or("robot-env").trim_matches('/');
    format!("{parent}/{}", record.id)
}

/// The key of a container's snapshot.
pub(crate) fn snapshot_key(id: &ContainerId) -> SnapshotKey {
    id.as_str().parse().unwrap_or_else(|_| unreachable!("an id is 64 hexadecimal digits"))
}
