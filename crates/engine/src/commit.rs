//! What a container has written: listed, measured, exported, made into an image.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_layer::{Change, ChangeKind, ExportOptions, Exported, Overlay, changes, export_as};
use robot_env_oci::{Reference, RuntimeConfig};
use robot_env_store::{ImageRecord, OverlayXattr};
use robot_env_sys::fs::Usage;
use robot_env_sys::poll::SignalFd;
use robot_env_transfer::{self as transfer, CommitMode, Unpacker};
use rustix::fs::AtFlags;

use crate::engine::{Engine, snapshot_key};
use crate::record::{ContainerRecord, State};
use crate::records::Container;

/// How [`Engine::commit`] makes an image.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// Its name; absent: it has none.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// What its history says.
    pub message: String,
    /// What is changed of the config that it takes over from the container.
    pub changes: Vec<transfer::Change>,
    /// Whether a running container is frozen while its files are read.
    pub pause: bool,
}

impl Default for CommitRequest {
    fn default() -> Self {
        CommitRequest {
            reference: None,
            author: String::new(),
            message: String::new(),
            changes: Vec::new(),
            pause: true,
        }
    }
}

/// Paths that a start makes for its mounts where an image lacks them.
pub(crate) const PLACES: [&str; 10] = [
    "/dev",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
    "/etc",
];

impl Engine {
    /// Makes an image of a container: its image, what it has written, and its config.
    ///
    /// The layer of a container that does not run becomes the image's layer by renaming; a running
    /// one's is copied, and the container is frozen meanwhile if `pause` says so and it has a cgroup.
    /// Volumes are no part of either.
    ///
    /// Errors: `InvalidInput` for a change that cannot be applied; `Conflict` while the container is
    /// being started again; `NoSpace`. The container is then as it was.
    pub fn commit(&self, text: &str, request: &CommitRequest) -> Result<ImageRecord> {
        let id = self.records.find(text)?;
        let container = self.container_by_id(&id)?;
        let image = match &container.state.state {
            State::Running { paused, .. } => {
                if *paused || !request.pause {
                    self.commit_as(&container.record, CommitMode::Copy, request)?
                } else {
                    self.commit_frozen(&container.record, request)?
                }
            }
            _ => {
                let (_lock, container) = self.lock_stopped(&id)?;
                if container.state.state.is_active() {
                    return Err(Error::new(
                        Kind::Conflict,
                        format!("cannot commit container `{}`: it is being started", container.record.name),
                    ));
                }
                self.commit_as(&container.record, CommitMode::Rename, request)?
            }
        };
        let more = [
            ("comment", request.message.clone()),
            ("imageID", image.id.to_string()),
            ("imageRef", request.reference.as_ref().map(Reference::familiar).unwrap_or_default()),
        ];
        self.tell(&container.record, "commit", &more);
        Ok(image)
    }

    /// Commits a running container that stands still meanwhile, where it can be made to. Signals
    /// that would end this process wait, as nobody else would thaw it.
    fn commit_frozen(&self, record: &ContainerRecord, request: &CommitRequest) -> Result<ImageRecord> {
        let _later = SignalFd::new(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
        // Once this process is killed nobody holds it, and the next command thaws the container.
        let Some(_commits) = self.records.commit_lock(&record.id)? else {
            let id = &record.id;
            return Err(Error::new(Kind::Conflict, format!("container {id} is not running")));
        };
        let frozen = match self.pause_for_commit(record.id.as_str()) {
            Ok(()) => true,
            Err(error) if error.kind() == Kind::Unsupported => false,
            Err(error) => return Err(error),
        };
        let image = self.commit_as(record, CommitMode::Copy, request);
        if !frozen {
            return image;
        }
        match (self.unpause(record.id.as_str()), image) {
            // Whoever killed it or stopped it meanwhile has thawed it.
            (Err(error), Ok(image)) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => Ok(image),
            (Err(error), Ok(_)) => Err(error),
            (_, image) => image,
        }
    }

    fn commit_as(
        &self,
        record: &ContainerRecord,
        mode: CommitMode,
        request: &CommitRequest,
    ) -> Result<ImageRecord> {
        let mut snapshot = self.open_snapshot(record)?;
        let mode = match self.unshifted_upper(record, &snapshot)? {
            Some(mut shown) => {
                snapshot.upper = shown.trees.remove(0);
                CommitMode::Copy
            }
            None => mode,
        };
        // An image that was removed since leaves its layers behind, and no history.
        let parent = match self.store.image(&record.image) {
            Ok(parent) => parent,
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => return Err(error),
        };
        let options = transfer::CommitOptions {
            parent,
            config: config_of(record),
            changes: request.changes.clone(),
            author: request.author.clone(),
            message: request.message.clone(),
            created_by: record.command_line().join(" "),
            created: Timestamp::now(),
            reference: request.reference.clone(),
        };
        transfer::commit(&Unpacker::new(&self.store, transfer::ownership()), &snapshot, mode, &options)
    }

    /// Saves what a container has written as an image of that name, before the container is removed:
    /// [`Engine::commit`] in the cheapest way.
    pub fn keep(&self, text: &str, reference: Reference) -> Result<ImageRecord> {
        let name = self.container(text)?.record.name;
        let message = format!("kept of container {name}");
        self.commit(text, &CommitRequest { reference: Some(reference), message, ..CommitRequest::default() })
    }

    /// What a container has written, without its volumes: what removing it would lose. What earlier
    /// commits have made into layers of images does not count.
    pub fn written(&self, text: &str) -> Result<Usage> {
        self.store.snapshot_usage(&snapshot_key(&self.records.find(text)?))
    }

    /// What a container's files differ in from its image's, as `docker diff` lists it, without the
    /// empty places that a start makes to mount something on.
    pub fn changes(&self, text: &str) -> Result<Vec<Change>> {
        let container = self.container(text)?;
        self.changes_of(&container)
            .within(|| format!("cannot compare container `{}` with its image", container.record.name))
    }

    fn changes_of(&self, container: &Container) -> Result<Vec<Change>> {
        let mut snapshot = self.open_snapshot(&container.record)?;
        if let Some(mut shown) = self.unshifted_upper(&container.record, &snapshot)? {
            snapshot.upper = shown.trees.remove(0);
        }
        let namespace = match self.store.overlay_xattr() {
            OverlayXattr::Trusted => Overlay::Trusted,
            OverlayXattr::User => Overlay::User,
        };
        // Layers above the image's are what earlier commits made of what the container wrote.
        let own = match &container.record.chain {
            None => 0,
            Some(chain) => {
                snapshot.record.layers.iter().position(|layer| layer == chain).map_or(0, |n| n + 1)
            }
        };
        let committed = snapshot.record.layers.len() - own;
        let mut all: BTreeMap<Vec<u8>, ChangeKind> = BTreeMap::new();
        for n in (0..=committed).rev() {
            let upper: &OwnedFd = if n == 0 { &snapshot.upper } else { &snapshot.lowers[n - 1] };
            let below: Vec<BorrowedFd<'_>> = snapshot.lowers[n..].iter().map(AsFd::as_fd).collect();
            compose(&mut all, changes(upper.as_fd(), &below, namespace)?);
        }
        // The directories that hold what was written, topmost first.
        let written = || std::iter::once(&snapshot.upper).chain(&snapshot.lowers[..committed]);
        let mut list: Vec<Change> = all.into_iter().map(|(path, kind)| Change { kind, path }).collect();
        without_places(&mut list, |path| {
            written().find_map(|dir| is_empty(dir.as_fd(), path)).unwrap_or(false)
        });
        list.sort_by(|a, b| a.path.split(|b| *b == b'/').cmp(b.path.split(|b| *b == b'/')));
        Ok(list)
    }

    /// Writes a container's own file system, without what it mounts, as a tar.
    ///
    /// Errors: `Conflict` while the container is being started again.
    pub fn export(&self, text: &str, out: &mut dyn Write) -> Result<Exported> {
        let (tree, container) = self.own_tree(text)?;
        self.tell(&container.record, "export", &[]);
        let owners = |uid, gid| {
            if tree.live { crate::userns::inside(&container.record, uid, gid) } else { (uid, gid) }
        };
        export_as(tree.root.as_fd(), out, &ExportOptions::default(), &owners)
            .within(|| format!("cannot export container `{}`", container.record.name))
    }
}

/// The config that the container runs with: its image's, with what was asked for on top.
fn config_of(record: &ContainerRecord) -> RuntimeConfig {
    let (spec, image) = (&record.spec, &record.image_config);
    let mut config = image.clone();
    if let Some(user) = &spec.user {
        config.user.clone_from(user);
    }
    if let Some(directory) = spec.working_dir.as_ref().filter(|directory| !directory.is_empty()) {
        config.working_dir.clone_from(directory);
    }
    if let Some(entrypoint) = &spec.entrypoint {
        config.entrypoint = Some(entrypoint.clone()).filter(|words| !words.is_empty());
    }
    match (&spec.command, &spec.entrypoint) {
        (Some(command), _) => config.cmd = Some(command.clone()),
        (None, Some(_)) => config.cmd = None,
        (None, None) => {}
    }
    for variable in &spec.env {
        let name = variable.split('=').next().unwrap_or_default();
        config.env.retain(|known| known.split('=').next() != Some(name));
    }
    config.env.extend(spec.env.iter().filter(|variable| variable.contains('=')).cloned());
    config.labels.extend(spec.labels.clone());
    let nothing = || serde_json::Value::Object(serde_json::Map::new());
    config.exposed_ports.extend(spec.expose.iter().map(|port| (port.clone(), nothing())));
    if let Some(signal) = &spec.stop_signal {
        config.stop_signal.clone_from(signal);
    }
    if let Some(check) = &spec.healthcheck {
        let mut merged = check.clone();
        if merged.test.is_empty() {
            merged.test = image.healthcheck.as_ref().map(|check| check.test.clone()).unwrap_or_default();
        }
        config.healthcheck = Some(merged);
    }
    config
}

/// Adds later changes to earlier ones.
fn compose(all: &mut BTreeMap<Vec<u8>, ChangeKind>, later: Vec<Change>) {
    for change in later {
        let before = all.get(&change.path).copied();
        match (before, change.kind) {
            (Some(ChangeKind::Added), ChangeKind::Deleted) => drop(all.remove(&change.path)),
            (Some(ChangeKind::Deleted), ChangeKind::Added) => {
                all.insert(change.path.clone(), ChangeKind::Changed);
            }
            (Some(ChangeKind::Added), _) => {}
            (_, kind) => drop(all.insert(change.path.clone(), kind)),
        }
        if change.kind == ChangeKind::Deleted {
            let below = [&change.path[..], b"/"].concat();
            all.retain(|path, _| !path.starts_with(&below));
        }
    }
}

/// Leaves out the places that a start has made, if nothing is in them, and their parents, if
/// nothing else changed there.
fn without_places(list: &mut Vec<Change>, is_empty: impl Fn(&[u8]) -> bool) {
    let is_place = |change: &Change| {
        change.kind == ChangeKind::Added && PLACES.iter().any(|place| place.as_bytes() == change.path)
    };
    // Those inside others first.
    let mut removed = Vec::new();
    let mut at: Vec<usize> = (0..list.len()).filter(|n| is_place(&list[*n])).collect();
    at.sort_by_key(|n| std::cmp::Reverse(list[*n].path.len()));
    for n in at {
        let path = list[n].path.clone();
        let below = [&path[..], b"/"].concat();
        let has_more = list
            .iter()
            .enumerate()
            .any(|(other, change)| change.path.starts_with(&below) && !removed.contains(&other));
        if !has_more && (is_empty(&path) || list.iter().any(|change| change.path.starts_with(&below))) {
            removed.push(n);
        }
    }
    let parents: Vec<Vec<u8>> = removed.iter().map(|n| parent(&list[*n].path).to_vec()).collect();
    let mut n = 0;
    list.retain(|_| {
        n += 1;
        !removed.contains(&(n - 1))
    });
    for parent in parents {
        let below = [&parent[..], b"/"].concat();
        if !list.iter().any(|change| change.path.starts_with(&below)) {
            list.retain(|change| !(change.path == parent && change.kind == ChangeKind::Changed));
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|b| *b == b'/').unwrap_or(0)]
}

/// Whether there is an empty file or an empty directory in a layer; `None` if there is nothing.
fn is_empty(layer: BorrowedFd<'_>, path: &[u8]) -> Option<bool> {
    let name = path.strip_prefix(b"/").unwrap_or(path);
    let stat = rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => stat.st_size == 0,
        rustix::fs::FileType::Directory => {
            let text = std::str::from_utf8(name).ok()?;
            robot_env_sys::fs::open_dir_at(layer, text)
                .and_then(robot_env_sys::fs::names)
                .is_ok_and(|names| names.is_empty())
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Change> {
        let kind = |letter| match letter {
            "A" => ChangeKind::Added,
            "C" => ChangeKind::Changed,
            _ => ChangeKind::Deleted,
        };
        let words = text.split_whitespace().collect::<Vec<_>>();
        words.chunks(2).map(|pair| Change { kind: kind(pair[0]), path: pair[1].into() }).collect()
    }

    fn text(list: impl IntoIterator<Item = Change>) -> String {
        let letter = |kind| match kind {
            ChangeKind::Added => "A",
            ChangeKind::Changed => "C",
            ChangeKind::Deleted => "D",
        };
        let words: Vec<String> = list
            .into_iter()
            .map(|change| format!("{} {}", letter(change.kind), String::from_utf8_lossy(&change.path)))
            .collect();
        words.join(" ")
    }

    #[test]
    fn later_changes_come_on_top_of_earlier_ones() {
        for (first, second, want) in [
            ("A /a", "C /a", "A /a"),
            ("A /a", "D /a", ""),
            ("C /a", "D /a", "D /a"),
            ("D /a", "A /a", "C /a"),
            ("C /a", "C /a", "C /a"),
            ("", "A /a", "A /a"),
            ("A /d A /d/x A /dx", "D /d", "A /dx"),
            ("C /d A /d/x C /d/y", "D /d", "D /d"),
        ] {
            let mut all = BTreeMap::new();
            compose(&mut all, list(first));
            compose(&mut all, list(second));
            let got = text(all.into_iter().map(|(path, kind)| Change { kind, path }));
            assert_eq!(got, want, "{first} then {second}");
        }
    }

    #[test]
    fn places_of_mounts_are_left_out() {
        for (all, full, want) in [
            ("C /etc A /etc/hosts A /proc", "", ""),
            ("C /etc A /etc/hosts A /etc/mine", "", "C /etc A /etc/mine"),
            ("A /etc A /etc/hosts A /etc/hostname", "", ""),
            ("C /etc A /etc/hosts", "/etc/hosts", "C /etc A /etc/hosts"),
            ("A /dev A /dev/shm A /dev/shm/x", "", "A /dev A /dev/shm A /dev/shm/x"),
            ("A /data", "", "A /data"),
        ] {
            let mut changes = list(all);
            without_places(&mut changes, |path| path != full.as_bytes());
            assert_eq!(text(changes), want, "{all}");
        }
    }

    #[test]
    fn a_commit_takes_over_how_the_container_runs() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut record = ContainerRecord {
            id: robot_env_spec::ContainerId::from_random([1; 32]),
            name: "a".into(),
            created: Timestamp::UNIX_EPOCH,
            spec: robot_env_spec::ContainerSpec::default(),
            image: robot_env_oci::ImageId(robot_env_oci::Digest::of(b"")),
            chain: None,
            image_config: RuntimeConfig::default(),
            mounts: Vec::new(),
            user_map: None,
            starts_at_once: false,
        };
        record.image_config.env = words("A=1 B=2 C=3");
        record.image_config.cmd = Some(words("old"));
        record.image_config.working_dir = "/w".into();
        record.spec.env = words("B=x C D=4");
        record.spec.entrypoint = Some(words("sh -c"));
        record.spec.expose = words("80/tcp");
        let config = config_of(&record);
        assert_eq!(config.env, words("A=1 B=x D=4"));
        assert_eq!((config.cmd, config.entrypoint), (None, Some(words("sh -c"))));
        assert_eq!(config.working_dir, "/w");
        assert!(config.exposed_ports.contains_key("80/tcp"));
    }
}
