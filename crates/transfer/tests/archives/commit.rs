use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use robot_env_diag::Kind;
use robot_env_layer::{ExportOptions, export};
use robot_env_oci::{Digest, RuntimeConfig};
use robot_env_store::{FsckOptions, ImageRecord, Snapshot, SnapshotKey, SnapshotOptions};
use robot_env_sys::mount::{OverlayRequest, overlay};
use robot_env_testkit::image::{BuiltImage, Entry, ImageBuilder};
use robot_env_transfer::{Change, CommitMode, CommitOptions, LoadOptions, SaveOptions, commit, save};

use crate::place::{Layout, Place, Way, archive, is_root};

fn base() -> BuiltImage {
    ImageBuilder::new()
        .layer(&[
            Entry::directory("etc/"),
            Entry::file("etc/passwd", "root"),
            Entry::file("etc/gone", "x"),
            Entry::directory("data/"),
            Entry::file("data/old", "old"),
            Entry::directory("data/sub/"),
            Entry::file("data/sub/file", "old"),
        ])
        .layer(&[Entry::directory("tmp/").mode(0o1777), Entry::file("etc/hostname", "robot")])
        .config(serde_json::json!({"Cmd": ["/bin/sh"]}))
        .build()
}

/// An overlay over a snapshot, without a place; gone when dropped.
struct Mounted(OwnedFd);

impl Mounted {
    fn new(snapshot: &Snapshot) -> Self {
        let lowers: Vec<_> = snapshot.lowers.iter().map(AsFd::as_fd).collect();
        let request = OverlayRequest {
            lowers: &lowers,
            upper: Some((snapshot.upper.as_fd(), snapshot.work.as_fd())),
            volatile: false,
            userxattr: false,
        };
        Mounted(overlay(&request).unwrap())
    }

    fn path(&self, below: &str) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(below)
    }

    fn read(&self, below: &str) -> Option<String> {
        fs::read_to_string(self.path(below)).ok()
    }

    /// The digest of the whole tree as it is seen.
    fn digest(&self) -> Digest {
        let mut hasher = robot_env_oci::Hasher::new(robot_env_oci::Algorithm::Sha256);
        export(self.0.as_fd(), &mut hasher, &ExportOptions::default()).unwrap();
        hasher.finish()
    }
}

fn capability() -> [u8; 20] {
    let mut value = [0; 20];
    value[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
    value
}

/// All that a container may do to its files.
fn change(mounted: &Mounted) {
    let path = |below: &str| mounted.path(below);
    fs::remove_file(path("etc/gone")).unwrap();
    fs::write(path("etc/passwd"), "root\nrobot").unwrap();
    fs::remove_dir_all(path("data")).unwrap();
    fs::create_dir(path("data")).unwrap();
    fs::write(path("data/new"), "new").unwrap();
    fs::set_permissions(path("data/new"), Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(path("data/new"), path("data/link")).unwrap();
    symlink("/etc/passwd", path("data/symlink")).unwrap();
    fs::create_dir_all(path("opt/deep/er")).unwrap();
    std::os::unix::fs::chown(path("opt/deep"), Some(1000), Some(1000)).unwrap();
    let mut file = fs::File::create(path("opt/tool")).unwrap();
    file.write_all(b"#!").unwrap();
    let sparse = fs::File::create(path("opt/sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    rustix::fs::setxattr(
        path("opt/tool"),
        "security.capability",
        &capability(),
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fs::write(path("tmp/x"), "").unwrap();
    fs::remove_file(path("tmp/x")).unwrap();
}

struct Container {
    place: Place,
    parent: ImageRecord,
    key: SnapshotKey,
}

impl Container {
    fn new() -> Self {
        let place = Place::new();
        let parent = place.load(&archive(Layout::Old, &[(&base(), &["base:1"])])).unwrap().remove(0).image;
        let key: SnapshotKey = "box".parse().unwrap();
        place.store.prepare(&key, parent.chain(), SnapshotOptions::default()).unwrap();
        Container { place, parent, key }
    }

    fn snapshot(&self) -> Snapshot {
        self.place.store.snapshot(&self.key).unwrap().unwrap()
    }

    fn options(&self) -> CommitOptions {
        CommitOptions {
            parent: Some(self.parent.clone()),
            config: RuntimeConfig { cmd: Some(vec!["/bin/sh".into()]), ..RuntimeConfig::default() },
            changes: Change::parse("ENV A=1").unwrap(),
            author: "me".into(),
            message: "work".into(),
            created_by: "/bin/sh".into(),
            reference: Some("work:1".parse().unwrap()),
            ..CommitOptions::default()
        }
    }

    fn commit(&self, mode: CommitMode) -> ImageRecord {
        commit(&self.place.unpacker(), &self.snapshot(), mode, &self.options()).unwrap()
    }

    /// A new container of an image shows this.
    fn seen(&self, image: &ImageRecord) -> Digest {
        let key: SnapshotKey = "look".parse().unwrap();
        let snapshot = self.place.store.prepare(&key, image.chain(), SnapshotOptions::default()).unwrap();
        let digest = Mounted::new(&snapshot).digest();
        self.place.store.remove_snapshot(&key).unwrap();
        digest
    }
}

#[allow(clippy::print_stdout)] // a skip says why
fn skip() -> bool {
    let skip = !is_root();
    if skip {
        println!("skipped: overlay mounts need root");
    }
    skip
}

#[test]
fn privileged_a_container_becomes_an_image_in_both_ways() {
    if skip() {
        return;
    }
    for mode in [CommitMode::Copy, CommitMode::Rename] {
        let container = Container::new();
        let seen = {
            let mounted = Mounted::new(&container.snapshot());
            change(&mounted);
            mounted.digest()
        };
        let image = container.commit(mode);
        let store = &container.place.store;
        assert_eq!(store.resolve("work:1").unwrap().id, image.id);
        assert_eq!(image.parent.as_ref(), Some(&container.parent.id));
        assert_eq!(container.seen(&image), seen, "{mode:?}: the image is what the container was");
        {
            let mounted = Mounted::new(&container.snapshot());
            assert_eq!(mounted.digest(), seen, "{mode:?}: the container is what it was");
            assert_eq!(fs::metadata(mounted.path("")).unwrap().mode() & 0o7777, 0o755);
            let mut value = [0; 32];
            let n = rustix::fs::getxattr(mounted.path("opt/tool"), "security.capability", &mut value[..])
                .unwrap();
            assert_eq!(value[..n], capability());
            assert_eq!(fs::metadata(mounted.path("data/new")).unwrap().nlink(), 2);
            assert!(!mounted.path("data/old").exists() && !mounted.path("etc/gone").exists());
        }
        let json = serde_json::to_value(store.config(&image.id).unwrap().into_value()).unwrap();
        assert_eq!(json["config"], serde_json::json!({"Cmd": ["/bin/sh"], "Env": ["A=1"]}));
        assert_eq!(json["author"], "me");
        let last = json["history"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last["comment"], &last["created_by"]), (&"work".into(), &"/bin/sh".into()));
        assert_eq!(json["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
        assert_eq!(json["history"].as_array().unwrap().len(), 3);
        assert!(store.fsck(FsckOptions::default()).unwrap().is_empty());

        // It can be saved and loaded: the recipe is right.
        let bytes = save(store, &["work:1".into()], Vec::new(), &SaveOptions::default(), &()).unwrap();
        let other = Place::new();
        let loaded = other.load_by(&bytes, Way::Stream, &LoadOptions::default()).unwrap();
        assert_eq!(loaded[0].image.id, image.id);
        let snapshot = other
            .store
            .prepare(&"x".parse().unwrap(), loaded[0].image.chain(), SnapshotOptions::default())
            .unwrap();
        assert_eq!(Mounted::new(&snapshot).digest(), seen, "{mode:?}");
    }
}

#[test]
fn privileged_both_ways_make_the_same_layer() {
    if skip() {
        return;
    }
    let container = Container::new();
    change(&Mounted::new(&container.snapshot()));
    let copied = container.commit(CommitMode::Copy);
    let renamed = container.commit(CommitMode::Rename);
    assert_eq!(copied.id, renamed.id);
    // The layer was there: nothing was taken from the container.
    assert_eq!(container.snapshot().record.layers.len(), 2);
}

#[test]
fn privileged_a_running_container_goes_on_and_is_committed_again() {
    if skip() {
        return;
    }
    let container = Container::new();
    let snapshot = container.snapshot();
    let mounted = Mounted::new(&snapshot);
    change(&mounted);
    let first = container.commit(CommitMode::Copy);
    fs::write(mounted.path("data/later"), "2").unwrap();
    fs::write(mounted.path("data/new"), "changed in place").unwrap();
    let second = container.commit(CommitMode::Copy);
    assert_eq!((first.layers.len(), second.layers.len()), (3, 3));
    drop(mounted);
    // The first image has not changed with it.
    let look = |image: &ImageRecord, key: &str| {
        let key: SnapshotKey = key.parse().unwrap();
        let snapshot =
            container.place.store.prepare(&key, image.chain(), SnapshotOptions::default()).unwrap();
        Mounted::new(&snapshot)
    };
    assert_eq!(look(&first, "a").read("data/new").as_deref(), Some("new"));
    assert_eq!(look(&second, "b").read("data/new").as_deref(), Some("changed in place"));
}

#[test]
fn privileged_a_stopped_container_is_committed_again_and_again() {
    if skip() {
        return;
    }
    let container = Container::new();
    change(&Mounted::new(&container.snapshot()));
    let first = container.commit(CommitMode::Rename);
    assert_eq!(container.snapshot().record.parent.as_ref(), first.chain());
    // Nothing was written since.
    let again = container.commit(CommitMode::Rename);
    assert_eq!(again.chain(), first.chain());
    {
        let mounted = Mounted::new(&container.snapshot());
        fs::write(mounted.path("data/new"), "changed").unwrap();
        fs::remove_file(mounted.path("etc/passwd")).unwrap();
        fs::remove_dir_all(mounted.path("opt")).unwrap();
        fs::create_dir(mounted.path("opt")).unwrap();
    }
    let third = container.commit(CommitMode::Rename);
    assert_eq!(third.layers.len(), 4);
    let config = container.place.store.config(&third.id).unwrap().into_value();
    assert_eq!(config.history.iter().filter(|entry| !entry.empty_layer).count(), 4);
    {
        let mounted = Mounted::new(&container.snapshot());
        assert_eq!(mounted.read("data/new").as_deref(), Some("changed"));
        assert_eq!(mounted.read("data/link").as_deref(), Some("new"));
        assert!(!mounted.path("etc/passwd").exists() && !mounted.path("opt/tool").exists());
        assert_eq!(container.seen(&third), mounted.digest());
    }
    assert!(container.place.store.fsck(FsckOptions::default()).unwrap().is_empty());
    // Images and the container share layers; each can go.
    container.place.store.remove_snapshot(&container.key).unwrap();
    let collected = container.place.store.collect(&robot_env_store::CollectOptions::default()).unwrap();
    assert!(collected.layers.is_empty());
}

#[test]
fn nothing_written_makes_no_layer_and_bad_changes_nothing() {
    for mode in [CommitMode::Copy, CommitMode::Rename] {
        let container = Container::new();
        let image = container.commit(mode);
        assert_eq!(image.layers, container.parent.layers);
        let config = container.place.store.config(&image.id).unwrap().into_value();
        assert!(config.history.last().unwrap().empty_layer);
        fs::write(container.snapshot().path().join("upper/file"), "x").unwrap();
        let options =
            CommitOptions { changes: Change::parse("STOPSIGNAL $NOPE").unwrap(), ..container.options() };
        let error = commit(&container.place.unpacker(), &container.snapshot(), mode, &options).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
        assert_eq!(error.message(), "cannot commit container `box`");
        assert!(container.snapshot().path().join("upper/file").exists());
    }
}

#[test]
fn what_no_tar_holds_is_in_no_layer() {
    let container = Container::new();
    let upper = container.snapshot().path().join("upper");
    fs::write(upper.join("file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    let image = container.commit(CommitMode::Rename);
    let layer = container.place.root().join("layers").join(image.layers[2].hex()).join("fs");
    assert!(layer.join("file").exists() && !layer.join("socket").exists());
    assert!(fs::symlink_metadata(upper.join("socket")).unwrap().file_type().is_socket());
}
