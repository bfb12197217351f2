//! Who is in the networks now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};

use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_network::attach::Attachment;
use robot_env_network::firewall::Found;
use robot_env_network::firewall::{Desired, Firewall, Port};
use robot_env_network::link::Links;
use robot_env_network::plan::Driver;
use robot_env_network::reconcile::{Report, Wanted, reconcile};
use robot_env_spec::ContainerId;
use robot_env_sys::fs::Durability;
use robot_env_sys::process::Threads;
use robot_env_sys::{lock, namespace};
use serde::{Deserialize, Serialize};

use super::record::NetworkRecord;
use crate::engine::Engine;
use crate::paths::make_directory;
use crate::records::{read_json, write_json};
use crate::rootless::network as user_network;

/// Who is in one network: `RUN/networks/<network id>.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    /// The network's name.
    #[serde(default)]
    pub(crate) name: String,
    /// Whether names are resolved in it.
    #[serde(default)]
    pub(crate) names: bool,
    /// Whether it has no way out.
    #[serde(default)]
    pub(crate) internal: bool,
    /// Where in the pool the next address is looked for.
    #[serde(default)]
    pub(crate) next: u64,
    /// By the container's id.
    #[serde(default)]
    pub(crate) endpoints: BTreeMap<String, LiveEndpoint>,
}

/// A running container's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveEndpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// Its host name, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its interface, addresses and published ports.
    pub attachment: Attachment,
}

impl LiveEndpoint {
    /// The names that lead to it in its network, the container's own first.
    pub fn names(&self, container: &str) -> Vec<String> {
        let mut names = vec![self.name.clone()];
        names.extend(self.attachment.endpoint.aliases.iter().cloned());
        names.push(container.get(..12).unwrap_or(container).to_owned());
        names.extend(self.hostname.clone());
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.to_ascii_lowercase()));
        names
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.attachment.addresses()
    }
}

/// Whether the host forwards only because of us: `RUN/networks/forwarding`, where it does.
const FORWARDING: &str = "forwarding";

/// What becomes of a network that nobody is in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// It stays for the next container.
    Stays,
    /// Its bridge and rules go.
    Goes,
}

/// The networks, locked.
pub(crate) struct Networks<'a> {
    pub(super) engine: &'a Engine,
    place: Place,
    _lock: Option<OwnedFd>,
}

type Errand = Box<dyn FnOnce() + Send>;

/// Where the holder of the lock is, seen from where links and rules are.
enum Place {
    /// There: it is the host's network, or this is an ordinary user's thread in the user's network,
    /// which has somebody on the host's to run errands.
    Here(Option<mpsc::Sender<Errand>>),
    /// On the host's network; see [`Networks::in_place`].
    Away,
    /// There is no such place.
    Nowhere,
}

impl<'a> Networks<'a> {
    pub(super) fn lock(engine: &'a Engine) -> Result<Networks<'a>> {
        let directory = engine.paths.live_networks();
        let path = directory.join("lock");
        let open = || std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let fail = || "cannot lock the networks".to_owned();
        let file = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_directory(&directory, 0o711)?;
                open()
            }
            opened => opened,
        }
        .io_context(fail)?;
        lock::lock_exclusive(&file).context(Kind::Internal, fail)?;
        let place = if engine.rootless { Place::Away } else { Place::Here(None) };
        Ok(Networks { engine, place, _lock: Some(file.into()) })
    }

    /// For a container that is about to join: sees to it that there is a place where links and rules
    /// can be, and that something leads out of it. Why nothing does comes back.
    pub(super) fn settle(&self) -> Result<Option<Error>> {
        if !self.engine.rootless {
            return Ok(None);
        }
        let directory = self.engine.paths.live_networks();
        let namespace = Arc::new(user_network::find_or_make(&directory)?);
        let occupied = self.engine.occupied(None)?;
        let out = user_network::lead_out(&directory, (*namespace).as_fd(), &occupied);
        self.engine.hold_user_network(namespace);
        Ok(out.err())
    }

    /// Does something where links and rules are: for an ordinary user in a thread of its own, as
    /// there is no way back from there.
    pub(super) fn in_place<T: Send>(&self, act: impl FnOnce(&Networks<'_>) -> Result<T> + Send) -> Result<T> {
        if !matches!(self.place, Place::Away) {
            return act(self);
        }
        let engine = self.engine;
        let networks = move |place| Networks { engine, place, _lock: None };
        let Some(namespace) = user_network::find(&engine.paths.live_networks()) else {
            return act(&networks(Place::Nowhere));
        };
        let threads = Threads::now();
        let done = std::thread::scope(|scope| {
            let (sender, errands) = mpsc::channel::<Errand>();
            let visitor = scope.spawn(move || {
                namespace::join(namespace.as_fd(), libc::CLONE_NEWNET)?;
                act(&networks(Place::Here(Some(sender))))
            });
            for errand in errands {
                errand();
            }
            visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        threads.await_return();
        done
    }

    /// Does something in the host's network namespace.
    pub(super) fn outside<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Place::Here(Some(sender)) = &self.place else { return Ok(act()) };
        let (answer, answers) = mpsc::channel();
        let gone = || Error::new(Kind::Internal, "nobody is on the host's network");
        let errand: Errand = Box::new(move || drop(answer.send(act())));
        sender.send(errand).map_err(|_| gone())?;
        answers.recv().map_err(|_| gone())
    }

    /// Whether there is a place where links and rules of ours can be.
    fn has_place(&self) -> Result<bool> {
        match self.place {
            Place::Here(_) => Ok(true),
            Place::Nowhere => Ok(false),
            Place::Away => Err(Error::new(Kind::Internal, "the user's network namespace was not entered")),
        }
    }

    /// Who is in a network.
    pub(super) fn live(&self, network: &str) -> Result<Live> {
        Ok(self.engine.live_network(network)?.unwrap_or_default())
    }

    pub(super) fn save(&self, network: &str, live: &Live) -> Result<()> {
        let directory = self.engine.paths.live_networks();
        write_json(&directory, &format!("{network}.json"), live, Durability::NoSync)
    }

    /// Ports that are published now.
    pub(super) fn published(&self) -> Result<Vec<Port>> {
        let mut ports = Vec::new();
        for id in self.engine.live_ids()? {
            let live = self.live(&id)?;
            ports.extend(live.endpoints.values().flat_map(|e| e.attachment.ports.iter().copied()));
        }
        Ok(ports)
    }

    /// Takes a container out of every network: its places and its ports. Says whether it was in one.
    /// Its links go with its namespace.
    pub(super) fn forget(&self, container: &str) -> Result<bool> {
        let mut found = false;
        for id in self.engine.live_ids()? {
            let mut live = self.live(&id)?;
            let Some(endpoint) = live.endpoints.remove(container) else { continue };
            found = true;
            if !endpoint.attachment.ports.is_empty() && self.has_place()? {
                let mut firewall = Firewall::open(self.engine.network_tag().as_deref())?;
                let withdrawn = firewall.withdraw(&endpoint.attachment.ports);
                // Somebody waits for the container's end.
                firewall.leave_open();
                withdrawn?;
            }
            self.save(&id, &live)?;
        }
        Ok(found)
    }

    /// Takes those out of a network who have no monitor any more; their links, too.
    pub(super) fn forget_dead(&self, network: &str) -> Result<bool> {
        let live = self.live(network)?;
        let mut found = false;
        for (container, endpoint) in &live.endpoints {
            let alive = container.parse::<ContainerId>().is_ok_and(|id| self.engine.records.has_monitor(&id));
            if !alive {
                self.forget(container)?;
                if !endpoint.attachment.host_link.is_empty() && self.has_place()? {
                    Links::open()?.remove_veth(&endpoint.attachment.host_link)?;
                }
                found = true;
            }
        }
        Ok(found)
    }

    /// [`Networks::forget_dead`] in all networks.
    pub(super) fn forget_all_dead(&self) -> Result<bool> {
        let mut found = false;
        for id in self.engine.live_ids()? {
            found |= self.forget_dead(&id)?;
        }
        Ok(found)
    }

    /// Makes links and rules what they should be for everybody who is in a network now, and nothing
    /// else of ours. Networks that the last container has just left are kept, or go, too.
    pub(super) fn mend(&self, idle: Idle) -> Result<Report> {
        self.forget_all_dead()?;
        self.sweep_temporary();
        if !self.has_place()? {
            self.forget_idle(Idle::Goes)?;
            return Ok(Report {
                made: Vec::new(),
                removed: Vec::new(),
                firewall: Found::Intact,
                obstacles: Vec::new(),
            });
        }
        let records = self.engine.network_records()?;
        let mut desired = Desired::default();
        let mut veths = BTreeMap::new();
        for record in &records {
            let Some(live) = self.engine.live_network(&record.network.id)? else { continue };
            if live.endpoints.is_empty() && idle == Idle::Goes {
                continue;
            }
            desired.networks.push(record.network.clone());
            for endpoint in live.endpoints.values() {
                desired.ports.extend(endpoint.attachment.ports.iter().copied());
                if !endpoint.attachment.host_link.is_empty() {
                    veths.insert(endpoint.attachment.host_link.clone(), record.network.bridge.clone());
                }
            }
        }
        desired.networks.retain(|network| network.driver == Driver::Bridge);
        desired.guarded = self.forwarding(&desired)?;
        let bridges: Vec<String> = records.iter().map(|r| r.network.bridge.clone()).collect();
        let tag = self.engine.network_tag();
        let report = reconcile(&Wanted { tag: tag.as_deref(), desired, bridges: &bridges, veths })?;
        self.forget_idle(idle)?;
        Ok(report)
    }

    /// The files of networks that nobody is in, where these are to go; an ordinary user's way out goes
    /// with the last one.
    fn forget_idle(&self, idle: Idle) -> Result<()> {
        if idle == Idle::Stays {
            return Ok(());
        }
        let directory = self.engine.paths.live_networks();
        for id in self.engine.live_ids()? {
            if self.live(&id)?.endpoints.is_empty() {
                let _ = std::fs::remove_file(directory.join(format!("{id}.json")));
            }
        }
        if self.engine.rootless && self.engine.live_ids()?.is_empty() {
            user_network::abandon(&directory);
        }
        Ok(())
    }

    /// Half-written files of those who were killed; nobody writes now.
    fn sweep_temporary(&self) {
        for directory in [self.engine.paths.networks(), self.engine.paths.live_networks()] {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Turns the host's forwarding on; true if it was off before our first time since it booted.
    fn forwarding(&self, desired: &Desired) -> Result<bool> {
        let marker = self.engine.paths.live_networks().join(FORWARDING);
        let turned = Firewall::forwarding(&desired.networks)?;
        if turned {
            std::fs::write(&marker, "").io_context(|| format!("cannot write `{}`", marker.display()))?;
        }
        Ok(turned || marker.exists())
    }

    /// Takes a network's bridge and rules away; nobody is in it.
    pub(super) fn retire(&self, record: &NetworkRecord) -> Result<()> {
        let path = self.engine.paths.live_networks().join(format!("{}.json", record.network.id));
        if !path.exists() {
            return Ok(());
        }
        if record.network.driver == Driver::Bridge && self.has_place()? {
            Links::open()?.remove_bridge(&record.network.bridge)?;
            let mut firewall = Firewall::open(self.engine.network_tag().as_deref())?;
            firewall.remove_network(&record.network)?;
        }
        std::fs::remove_file(&path).io_context(|| format!("cannot remove `{}`", path.display()))?;
        if self.engine.live_ids()?.is_empty() {
            // The table goes with the last network.
            self.mend(Idle::Goes)?;
        }
        Ok(())
    }
}

impl Engine {
    /// Who is in a network now. Without the lock: a moment of it, whole.
    pub(crate) fn live_network(&self, network: &str) -> Result<Option<Live>> {
        read_json(&self.paths.live_networks().join(format!("{network}.json")))
            .within(|| "cannot read who is in a network".into())
    }

    /// The networks that somebody is in, or was until a moment ago.
    pub(crate) fn live_ids(&self) -> Result<Vec<String>> {
        let directory = self.paths.live_networks();
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.io_context(|| format!("cannot list `{}`", directory.display()))?,
        };
        Ok(entries
            .flatten()
            .filter_map(|entry| {
                entry.file_name().into_string().ok()?.strip_suffix(".json").map(str::to_owned)
            })
            .collect())
    }
}
