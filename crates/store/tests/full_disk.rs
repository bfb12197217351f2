//! Disks without room, and overlay mounts: both need root and a mount namespace of their own.
#![allow(clippy::print_stderr)] // a test that is skipped says why

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use robot_env_diag::{Error, Kind};
use robot_env_oci::Digest;
use robot_env_store::{CollectOptions, RemoveOptions, SnapshotKey, SnapshotOptions, Store};
use robot_env_sys::fs::{Durability, read_bounded, write_atomic};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use support::{Sample, Temporary, entries, layers, open, reference};

const INSIDE: &str = "RE_STORE_DISK_INSIDE";

fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

/// Runs the test of that name once more in a mount namespace of its own; true inside it.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|value| value == test) {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped {test}: mounting needs root");
        return false;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, test)
        .output()
        .expect("unshare, of util-linux, is needed");
    let told = String::from_utf8_lossy(&output.stderr);
    for line in told.lines().filter(|line| line.starts_with("skipped")) {
        eprintln!("{line}");
    }
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), told);
    false
}

fn told(error: &Error) -> String {
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    format!("{error:?}")
}

/// Fills the disk through a snapshot, as a container does, until not a byte is left.
fn fill(store: &Store, name: &str) {
    let snapshot = store.prepare(&key(name), None, SnapshotOptions::default()).unwrap();
    let path = snapshot.path().join("upper/filler");
    let mut file = std::fs::File::create(path).unwrap();
    for size in [64 * 1024, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
    let _ = file.sync_all();
}

fn available(store: &Store) -> u64 {
    store.space().unwrap().available
}

/// What a full disk must not do, on a file system of a few MiB at `root`.
fn without_room(root: &Path) {
    let store = open(&root.join("store"));
    let (old, large, small) =
        (Sample::new(&["old"]), Sample::new(&["first", &"x".repeat(64 << 20)]), Sample::new(&["small"]));
    old.pull(&store, Some("old:1")).unwrap();
    small.pull(&store, None).unwrap();
    let room = available(&store);

    let error = large.pull(&store, Some("large:1")).unwrap_err();
    let text = told(&error);
    assert!(text.contains("/staging/") && text.contains(&format!("{} bytes", 64 << 20)), "{text}");
    assert_eq!(store.resolve("large:1").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(entries(&store, "staging"), [""; 0]);
    store.collect(&CollectOptions::default()).unwrap();
    store.empty_trash(None).unwrap();
    assert!(available(&store) + 64 * 1024 >= room, "{} of {room} bytes came back", available(&store));

    // The same with a blob.
    let blob = vec![3; 64 << 20];
    let mut ingest = store.ingest(&Digest::of(&blob)).unwrap();
    assert_eq!(
        std::io::Write::write_all(&mut ingest, &blob).unwrap_err().kind(),
        std::io::ErrorKind::StorageFull
    );
    drop(ingest);
    let all = CollectOptions { partial_age: Some(std::time::Duration::ZERO), ..CollectOptions::default() };
    store.collect(&all).unwrap();
    assert!(available(&store) + 64 * 1024 >= room);

    // Not a byte left: nothing new, but everything that removes.
    fill(&store, "greedy");
    let document = vec![b' '; 300_000];
    let text = told(&store.put_content(&Digest::of(&document), &document).unwrap_err());
    assert!(text.contains("/content/sha256/") && text.contains("300000 bytes"), "{text}");
    assert_eq!(store.content(&Digest::of(&document)).unwrap(), None);
    let before = store.names().unwrap();
    for n in 0..2000 {
        // A name may still find room in a block that is there; sooner or later none does.
        let name = format!("old:n{n}");
        if let Err(error) = store.tag(&reference(&name), &old.id(), None) {
            let text = told(&error);
            assert!(text.contains(&name) && text.contains("/names/") && text.contains("bytes"), "{text}");
            assert_eq!(store.name(&reference(&name)).unwrap(), None);
            break;
        }
        assert!(n < 1999, "the disk was not full");
    }
    assert!(store.names().unwrap().len() >= before.len());
    assert_eq!(entries(&store, "staging"), [""; 0]);
    old.check(&store);
    store.resolve("old:1").unwrap();
    store.remove_image(&small.id(), RemoveOptions::default()).unwrap();
    store.untag(&reference("old:1")).unwrap();
    assert_eq!(store.collect(&CollectOptions::default()).unwrap().layers, small.chains());
    assert!(store.remove_snapshot(&key("greedy")).unwrap());
    assert!(store.empty_trash(None).unwrap().done);
    assert!(available(&store) > room / 2, "removing gave the space back");
    large.texts.iter().for_each(|text| assert!(!text.is_empty()));
    Sample::new(&["after"]).pull(&store, Some("after:1")).unwrap();
}

#[test]
fn privileged_a_full_tmpfs_is_named_and_gives_its_space_back() {
    if inside("privileged_a_full_tmpfs_is_named_and_gives_its_space_back") {
        let temporary = Temporary::new("full-tmpfs");
        mount("tmpfs", &temporary.0, "tmpfs", MountFlags::empty(), c"size=8m").unwrap();
        without_room(&temporary.0);
        unmount(&temporary.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn privileged_a_full_ext4_is_named_and_gives_its_space_back() {
    if inside("privileged_a_full_ext4_is_named_and_gives_its_space_back") {
        let temporary = Temporary::new("full-ext4");
        let (image, root): (PathBuf, PathBuf) = (temporary.0.join("image"), temporary.0.join("mounted"));
        std::fs::create_dir(&root).unwrap();
        std::fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0", "-N", "4000"]).arg(&image).status();
        assert!(made.expect("mkfs.ext4 is needed").success());
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root).output().unwrap();
        if !mounted.status.success() {
            eprintln!("skipped the ext4 half: {}", String::from_utf8_lossy(&mounted.stderr).trim());
            return;
        }
        std::fs::remove_dir(root.join("lost+found")).unwrap();
        without_room(&root);
        unmount(&root, UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn privileged_without_inodes_nothing_is_half_made() {
    if inside("privileged_without_inodes_nothing_is_half_made") {
        let temporary = Temporary::new("inodes");
        mount("tmpfs", &temporary.0, "tmpfs", MountFlags::empty(), c"size=64m,nr_inodes=120").unwrap();
        let store = open(&temporary.0.join("store"));
        Sample::new(&["old"]).pull(&store, Some("old:1")).unwrap();
        let greedy = store.prepare(&key("greedy"), None, SnapshotOptions::default()).unwrap();
        let mut n = 0;
        while std::fs::write(greedy.path().join(format!("upper/{n}")), "").is_ok() {
            n += 1;
        }
        for attempt in [
            store.prepare(&key("next"), None, SnapshotOptions::default()).map(drop),
            Sample::new(&["new"]).pull(&store, Some("new:1")).map(drop),
            store.stage_layer().map(drop),
        ] {
            let text = told(&attempt.unwrap_err());
            assert!(text.contains("0 inodes are free"), "{text}");
        }
        assert!(store.snapshot(&key("next")).unwrap().is_none());
        assert_eq!(store.resolve("new:1").unwrap_err().kind(), Kind::NotFound);
        assert_eq!((entries(&store, "staging").len(), entries(&store, "snapshots").len()), (0, 1));
        store.remove_snapshot(&key("greedy")).unwrap();
        store.empty_trash(None).unwrap();
        Sample::new(&["new"]).pull(&store, Some("new:1")).unwrap();
        unmount(&temporary.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn privileged_a_read_only_store_is_read_and_refuses_changes() {
    if inside("privileged_a_read_only_store_is_read_and_refuses_changes") {
        let temporary = Temporary::new("read-only");
        mount("tmpfs", &temporary.0, "tmpfs", MountFlags::empty(), None).unwrap();
        let sample = Sample::new(&["one"]);
        sample.pull(&open(&temporary.0.join("store")), Some("robot:1")).unwrap();
        rustix::mount::mount_remount(&temporary.0, MountFlags::RDONLY, c"").unwrap();
        let store = open(&temporary.0.join("store"));
        assert_eq!(store.resolve("robot:1").unwrap().id, sample.id());
        sample.check(&store);
        let failures = [
            store.prepare(&key("web"), None, SnapshotOptions::default()).map(drop),
            store.untag(&reference("robot:1")).map(drop),
            store.collect(&CollectOptions::default()).map(drop),
            Store::open(&support::options(&temporary.0.join("other"))).map(drop),
        ];
        for failure in failures {
            let error = failure.unwrap_err();
            assert!(error.kind() == Kind::Denied && format!("{error:?}").contains("EROFS"), "{error:?}");
        }
        unmount(&temporary.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn privileged_a_snapshot_is_mounted_volatile_again_after_its_mark_is_cleared() {
    if inside("privileged_a_snapshot_is_mounted_volatile_again_after_its_mark_is_cleared") {
        let temporary = Temporary::new("volatile");
        // An overlay on an overlay may be refused; on a tmpfs of its own it is not.
        mount("tmpfs", &temporary.0, "tmpfs", MountFlags::empty(), None).unwrap();
        let store = open(&temporary.0.join("store"));
        let image = Sample::new(&["one", "two"]).pull(&store, None).unwrap();
        let options = SnapshotOptions { volatile: true, durable: false };
        let snapshot = store.prepare(&key("web"), image.chain(), options).unwrap();
        let at = temporary.0.join("merged");
        std::fs::create_dir(&at).unwrap();
        let in_store = |fd: &std::os::fd::OwnedFd| robot_env_sys::fs::location(fd).display().to_string();
        let lowers: Vec<String> = snapshot.lowers.iter().map(in_store).collect();
        let data = format!(
            "volatile,lowerdir={},upperdir={},workdir={}",
            lowers.join(":"),
            in_store(&snapshot.upper),
            in_store(&snapshot.work)
        );
        let data = std::ffi::CString::new(data).unwrap();
        let overlay = || mount("overlay", &at, "overlay", MountFlags::empty(), data.as_c_str());
        overlay().unwrap();
        assert_eq!(std::fs::read(at.join("file")).unwrap(), b"two");
        std::fs::write(at.join("written"), "kept").unwrap();
        unmount(&at, UnmountFlags::empty()).unwrap();
        assert!(overlay().is_err(), "the kernel refuses a second volatile mount");
        let again = store.snapshot(&key("web")).unwrap().unwrap();
        assert!(again.clear_volatile_mark().unwrap());
        assert!(!again.clear_volatile_mark().unwrap());
        overlay().unwrap();
        assert_eq!(std::fs::read(at.join("written")).unwrap(), b"kept");
        unmount(&at, UnmountFlags::empty()).unwrap();
        assert_eq!(read_bounded(&again.upper, "written", 10).unwrap(), b"kept");
        write_atomic(&again.upper, &again.upper, "more", b"x", 0o644, Durability::NoSync).unwrap();
        drop((snapshot, again));
        store.remove_snapshot(&key("web")).unwrap();
        assert!(store.empty_trash(None).unwrap().done, "the kernel's work directory of mode 0 goes too");
        assert_eq!(layers(&store).len(), 2);
        unmount(&temporary.0, UnmountFlags::DETACH).unwrap();
    }
}
