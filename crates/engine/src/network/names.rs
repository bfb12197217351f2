//! What a container's resolver knows: who is in its networks now, read at each question.

use std::collections::HashMap;
use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use robot_env_network::names::{Server, Servers, Zone};

use robot_env_spec::NetworkMode;

use super::files::{host_is_loopback_only, host_servers};
use super::join::namespace_of;
use super::live::Live;
use crate::engine::Engine;
use crate::monitor::Aside;
use crate::paths::Paths;
use crate::record::ContainerRecord;
use crate::records::read_json;

const PORT: u16 = 53;
/// A file that was written so long ago cannot change any more without its time changing, too: the
/// kernel's clock for files goes in steps.
const SETTLED: Duration = Duration::from_millis(50);

/// What tells a file from the one that took its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp(metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
    }
}

/// The names in a container's networks.
struct Neighbours {
    container: String,
    /// Name servers that its user named.
    servers: Vec<IpAddr>,
    directory: PathBuf,
    read: HashMap<PathBuf, (Stamp, Live)>,
}

impl Neighbours {
    fn new(record: &ContainerRecord, paths: &Paths) -> Neighbours {
        Neighbours {
            container: record.id.as_str().to_owned(),
            servers: record.spec.dns.servers.iter().filter_map(|text| text.parse().ok()).collect(),
            directory: paths.live_networks(),
            read: HashMap::new(),
        }
    }

    /// The networks that the container is in now.
    fn networks(&mut self) -> Vec<&Live> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        self.read.retain(|path, _| paths.contains(path));
        for path in &paths {
            self.refresh(path);
        }
        let all = paths.iter().filter_map(|path| self.read.get(path).map(|(_, live)| live));
        all.filter(|live| live.endpoints.contains_key(&self.container)).collect()
    }

    fn refresh(&mut self, path: &Path) {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        let stamp = Stamp::of(&metadata);
        if self.read.get(path).is_some_and(|(known, _)| *known == stamp) {
            return;
        }
        // One that is being written anew just now is read at the next question again.
        if let Ok(Some(live)) = read_json::<Live>(path) {
            let settled = metadata
                .modified()
                .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > SETTLED));
            let stamp = if settled { stamp } else { Stamp(0, 0, 0, 0) };
            self.read.insert(path.to_owned(), (stamp, live));
        }
    }

    /// Whether the container's questions come here: see `resolves` of the container's files.
    fn is_asked(&mut self) -> bool {
        let local = self.servers.is_empty() && host_is_loopback_only();
        self.networks().iter().any(|live| live.names || local)
    }
}

impl Zone for Neighbours {
    fn addresses(&mut self, name: &str) -> Option<Vec<IpAddr>> {
        let mut found = Vec::new();
        let mut known = false;
        for live in self.networks().into_iter().filter(|live| live.names) {
            // `web` and `web.robots`.
            let suffix = format!(".{}", live.name.to_ascii_lowercase());
            let bare = name.strip_suffix(&suffix).unwrap_or(name);
            for (container, endpoint) in &live.endpoints {
                if endpoint.names(container).iter().any(|own| own.eq_ignore_ascii_case(bare)) {
                    known = true;
                    found.extend(endpoint.addresses());
                }
            }
        }
        known.then_some(found)
    }

    fn name_of(&mut self, address: IpAddr) -> Option<String> {
        self.networks().into_iter().filter(|live| live.names).find_map(|live| {
            let endpoint = live.endpoints.values().find(|e| e.addresses().any(|own| own == address))?;
            Some(format!("{}.{}", endpoint.name, live.name))
        })
    }

    fn servers(&mut self) -> Option<Servers> {
        let at = |addresses: Vec<IpAddr>| {
            addresses.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
        };
        if !self.servers.is_empty() {
            return Some(Servers { addresses: at(self.servers.clone()), inside: true });
        }
        let container = self.container.clone();
        let goes_out = |live: &&Live| !live.internal && live.endpoints.contains_key(&container);
        // From an internal network questions would be a way out.
        self.networks().iter().any(goes_out).then(|| Servers { addresses: at(host_servers()), inside: false })
    }
}

/// A container's resolver in its monitor's loop.
pub(crate) struct Resolver {
    zone: Neighbours,
    pid: i32,
    server: Option<Server>,
}

impl Resolver {
    /// The resolver of a container whose process has this pid; its sockets are open when this
    /// returns, if it is asked.
    pub(crate) fn open(
        engine: &Engine,
        record: &ContainerRecord,
        pid: i32,
    ) -> robot_env_diag::Result<Option<Resolver>> {
        if matches!(record.spec.network, NetworkMode::Host | NetworkMode::Container(_)) {
            return Ok(None);
        }
        let mut resolver = Resolver { zone: Neighbours::new(record, &engine.paths), pid, server: None };
        if Engine::is_networked(record) && resolver.zone.is_asked() {
            resolver.server = Some(Server::open(namespace_of(pid)?)?);
        }
        Ok(Some(resolver))
    }
}

impl Aside for Resolver {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.server.as_ref().map(Server::descriptors).unwrap_or_default()
    }

    fn deadline(&self) -> Option<Instant> {
        self.server.as_ref().and_then(Server::deadline)
    }

    fn wake(&mut self) {
        if let Some(server) = &mut self.server {
            server.serve(&mut self.zone);
        }
    }

    /// It may have joined its first network with names.
    fn knocked(&mut self) {
        if self.server.is_none() && self.zone.is_asked() {
            self.server = namespace_of(self.pid).and_then(Server::open).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use robot_env_network::attach::Attachment;
    use robot_env_network::plan::{Network, Range, Request};
    use robot_env_testkit::temporary::TemporaryDirectory;

    use super::*;
    use crate::network::live::LiveEndpoint;

    #[test]
    fn names_are_those_of_the_containers_networks() {
        let directory = TemporaryDirectory::new("names");
        let paths = Paths::new(directory.join("root"), directory.join("run"));
        std::fs::create_dir_all(paths.live_networks()).unwrap();
        let ids = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let network = |at: u8, name: &str, members: &[(usize, &str, &[&str])]| {
            let subnet = format!("10.9.{at}.0/24").parse().unwrap();
            let network = Network::bridge(&format!("{at:064x}"), name, vec![Range::of(subnet)]);
            let mut live = Live { name: name.into(), names: true, internal: at == 2, ..Live::default() };
            let mut taken = std::collections::BTreeSet::new();
            for (member, name, aliases) in members {
                let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
                let request = Request { aliases, ..Request::default() };
                let endpoint = network.allocate(&request, &taken, 0).unwrap();
                taken.extend(endpoint.addresses.iter().map(|address| address.address));
                let attachment = Attachment::new(&network, endpoint, 0, Vec::new());
                let endpoint =
                    LiveEndpoint { id: String::new(), name: (*name).into(), hostname: None, attachment };
                live.endpoints.insert(ids[*member].clone(), endpoint);
            }
            let text = serde_json::to_vec(&live).unwrap();
            std::fs::write(paths.live_networks().join(format!("{}.json", network.id)), text).unwrap();
        };
        network(1, "robots", &[(0, "self", &[]), (1, "Arm", &["tool", "shared"]), (2, "leg", &["shared"])]);
        network(2, "other", &[(2, "far", &[])]);
        let mut zone = Neighbours {
            container: ids[0].clone(),
            servers: Vec::new(),
            directory: paths.live_networks(),
            read: HashMap::new(),
        };
        let short = &ids[1][..12];
        for (name, want) in [
            ("arm", Some(&["10.9.1.3"][..])),
            ("arm.robots", Some(&["10.9.1.3"])),
            (short, Some(&["10.9.1.3"])),
            ("shared", Some(&["10.9.1.3", "10.9.1.4"])),
            ("self", Some(&["10.9.1.2"])),
            ("far", None),
            ("arm.other", None),
            ("nobody", None),
        ] {
            let found = zone.addresses(name);
            let want: Option<Vec<IpAddr>> =
                want.map(|all| all.iter().map(|text| text.parse().unwrap()).collect());
            assert_eq!(found, want, "{name}");
        }
        assert_eq!(zone.name_of("10.9.1.3".parse().unwrap()).as_deref(), Some("Arm.robots"));
        assert_eq!(zone.name_of("10.9.2.2".parse().unwrap()), None);
        assert!(zone.servers().is_some_and(|servers| !servers.inside));
        // Somebody joins and leaves at once.
        network(1, "robots", &[(0, "self", &[])]);
        assert_eq!(zone.addresses("arm"), None);
        network(2, "other", &[(0, "self", &[]), (2, "far", &[])]);
        assert!(zone.addresses("far").is_some());
        std::fs::remove_file(paths.live_networks().join(format!("{:064x}.json", 1))).unwrap();
        assert_eq!(zone.servers(), None, "an internal network alone");
        zone.servers = vec!["10.9.2.9".parse().unwrap()];
        assert!(zone.servers().unwrap().inside);
    }
}
