//! A process is killed at every step of the store, and at random moments; the next one must find
//! images that were there untouched, the new one absent or complete, and leftovers that go.

mod support;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_diag::Kind;
use robot_env_oci::{ChainId, DiffId, Digest};
use robot_env_store::{
    CollectOptions, FAILPOINTS, FsckOptions, LayerRecord, RemoveOptions, SnapshotKey, SnapshotOptions, Store,
};
use robot_env_sys::fs::{Durability, write_atomic};
use support::{Sample, Temporary, entries, layers, open, reference};

const ROOT: &str = "RE_STORE_CRASH_ROOT";

fn old() -> Sample {
    Sample::new(&["base", "old"])
}

fn new() -> Sample {
    Sample::new(&["base", "new 1", "new 2"])
}

fn built() -> Sample {
    Sample::new(&["base", "new 1", "new 2", "built"])
}

fn third() -> Sample {
    Sample::new(&["third"])
}

fn fourth() -> Sample {
    Sample::new(&["fourth"])
}

fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

/// What is there before; done again, it mends what a killed scenario removed.
fn before(store: &Store) {
    old().pull(store, Some("old:1")).unwrap();
    store.tag(&reference("old:2"), &old().id(), None).unwrap();
    third().pull(store, Some("third:1")).unwrap();
    fourth().pull(store, Some("fourth:1")).unwrap();
    if store.snapshot(&key("kept")).unwrap().is_none() {
        store.prepare(&key("kept"), old().chains().last(), SnapshotOptions::default()).unwrap();
    }
}

/// What was written into a snapshot becomes a layer.
fn adopt(store: &Store) {
    let key = key("written");
    let snapshot = store.snapshot(&key).unwrap().unwrap_or_else(|| {
        let made = store.prepare(&key, old().chains().last(), SnapshotOptions::default()).unwrap();
        write_atomic(&made.upper, &made.upper, "precious", b"precious", 0o644, Durability::NoSync).unwrap();
        std::fs::write(store.path().with_extension("written"), "").unwrap();
        made
    });
    if snapshot.record.layers.len() == old().chains().len() {
        let record = LayerRecord::new(snapshot.record.parent, DiffId(Digest::of(b"written")));
        let staged = store.stage_layer().unwrap();
        staged.recipe().unwrap();
        assert!(store.adopt_upper(&key, staged, record).unwrap());
    }
}

/// A step of a build, and the image that it makes.
fn consume(store: &Store) {
    let key = key("consumed");
    store.remove_snapshot(&key).unwrap();
    let options = SnapshotOptions { volatile: true, durable: false };
    let made = store.prepare(&key, new().chains().last(), options).unwrap();
    write_atomic(&made.upper, &made.upper, "file", b"built", 0o644, Durability::NoSync).unwrap();
    let record = LayerRecord::new(made.record.parent, DiffId(Digest::of(b"built")));
    let staged = store.stage_layer().unwrap();
    staged.recipe().unwrap().write_all(b"built").unwrap();
    // A scenario that was killed late has made it already.
    let known = store.layer(&record.chain_id).unwrap().is_some();
    assert_ne!(store.consume_upper(&key, staged, record).unwrap(), known);
    store.remove_snapshot(&key).unwrap();
    built().pull(store, Some("built:1")).unwrap();
    let layer = store.layer(built().chains().last().unwrap()).unwrap().unwrap();
    assert_eq!(layer.boot, None, "an image's layers are on the disk");
}

/// It is in the snapshot or in the layer below it, and nowhere else.
fn check_adopted(store: &Store, context: &str) {
    let Some(snapshot) = store.snapshot(&key("written")).unwrap() else { return };
    if !store.path().with_extension("written").exists() {
        return;
    }
    let find = |dir: &std::os::fd::OwnedFd| robot_env_sys::fs::read_bounded(dir, "precious", 100).ok();
    let adopted = snapshot.record.layers.len() > old().chains().len();
    let found = (find(&snapshot.upper), find(&snapshot.lowers[0]));
    let precious = Some(b"precious".to_vec());
    assert_eq!(found, if adopted { (None, precious) } else { (precious, None) }, "{context}");
}

/// Passes every failpoint of the store.
fn scenario(store: &Store) {
    new().pull(store, Some("new:1")).unwrap();
    let blob = vec![7; 100_000];
    let digest = Digest::of(&blob);
    let mut ingest = store.ingest(&digest).unwrap();
    let offset = ingest.offset() as usize;
    ingest.write_all(&blob[offset..]).unwrap();
    ingest.commit(blob.len() as u64).unwrap();

    for (name, durable) in [("made", false), ("durable", true)] {
        store.remove_snapshot(&key(name)).unwrap();
        store
            .prepare(&key(name), new().chains().last(), SnapshotOptions { volatile: false, durable })
            .unwrap();
    }
    store.remove_snapshot(&key("made")).unwrap();
    store.untag(&reference("old:2")).unwrap();
    store.remove_image(&third().id(), RemoveOptions { names: true }).unwrap();
    assert_eq!(
        store.keep_image(&fourth().id(), &key("fourth"), &[], RemoveOptions { names: true }).unwrap().len(),
        2
    );

    adopt(store);
    consume(store);

    // A damaged layer that no image has.
    let record = LayerRecord::new(None, DiffId(Digest::of(b"damaged")));
    let layer = store.stage_layer().unwrap();
    write_atomic(layer.fs(), layer.fs(), "file", b"damaged", 0o644, Durability::NoSync).unwrap();
    layer.commit(record.clone()).unwrap();
    std::fs::write(store.path().join(format!("layers/{}/layer.json", record.chain_id.hex())), "").unwrap();
    let damage = store.fsck(FsckOptions { repair: true, ..FsckOptions::default() }).unwrap();
    assert!(damage.iter().any(|d| d.name == record.chain_id.to_string() && d.repaired), "{damage:?}");

    let collected = store.collect(&CollectOptions::default()).unwrap();
    assert!(
        collected.layers.contains(&third().chains()[0]) && collected.content.contains(&digest),
        "{collected:?}"
    );
    assert!(collected.kept.iter().any(|(chain, _)| *chain == fourth().chains()[0]), "{collected:?}");
    assert!(store.empty_trash(None).unwrap().done);
    assert_eq!(store.restore_image(&key("fourth")).unwrap().names.len(), 2);
}

#[test]
#[ignore = "the crash tests run it in processes of its own"]
fn the_scenario() {
    if let Some(root) = std::env::var_os(ROOT) {
        scenario(&open(Path::new(&root)));
    }
}

fn child(root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_scenario", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROOT, root).env_remove("REFAIL").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn check(root: &Path, context: &str) {
    let started = Instant::now();
    let store = open(root);
    // Older images are untouched.
    assert_eq!(store.resolve("old:1").unwrap().id, old().id(), "{context}");
    old().check(&store);
    store.snapshot(&key("kept")).unwrap().expect(context);
    // As the next build does.
    store.remove_snapshot(&key("consumed")).unwrap();
    // Even runs look before they sweep, odd ones after.
    let sweep_first = context.len() % 2 == 1;
    if !sweep_first {
        check_adopted(&store, context);
    }
    // The new one is absent or complete, and so is what was being removed.
    for (name, sample) in [("new:1", new()), ("built:1", built()), ("third:1", third()), ("old:2", old())] {
        match store.resolve(name) {
            Ok(record) => {
                assert_eq!(record.id, sample.id(), "{context}");
                sample.check(&store);
            }
            Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{context}: {error:?}"),
        }
    }
    let damaged = ChainId(Digest::of(b"damaged")).to_string();
    let damage = store.fsck(FsckOptions::default()).unwrap();
    assert!(damage.iter().all(|d| d.name == damaged), "{context}: {damage:?}");
    // What is left over goes.
    let collected = store
        .collect(&CollectOptions { partial_age: Some(Duration::ZERO), ..CollectOptions::default() })
        .unwrap();
    assert_eq!(collected.damage, [], "{context}");
    assert!(store.empty_trash(None).unwrap().done && store.trash_is_empty().unwrap(), "{context}");
    for dir in ["staging", "leases", "content/partial", "trash"] {
        assert_eq!(entries(&store, dir), [""; 0], "{context}: {dir}");
    }
    // What can come back does.
    if store.kept_image(&key("fourth")).unwrap().is_some() {
        store.restore_image(&key("fourth")).expect(context);
    }
    assert_eq!(store.resolve("fourth:1").expect(context).id, fourth().id(), "{context}");
    fourth().check(&store);
    let mut needed: Vec<ChainId> =
        store.images().unwrap().iter().flat_map(|image| image.layers.clone()).collect();
    needed.extend(store.snapshots().unwrap().into_iter().flat_map(|snapshot| snapshot.layers));
    needed.sort();
    needed.dedup();
    assert_eq!(layers(&store), needed, "{context}");
    check_adopted(&store, context);
    assert!(!root.join("snapshots/written/committing").exists(), "{context}");
    for entry in entries(&store, "snapshots") {
        store.snapshot(&key(&entry)).unwrap().expect(context);
    }
    assert_eq!(store.fsck(FsckOptions::default()).unwrap(), [], "{context}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{context}: the next command took {:?}",
        started.elapsed()
    );
}

#[test]
fn killed_at_every_step_nothing_is_lost() {
    let failpoints = cfg!(debug_assertions);
    assert!(failpoints, "failpoints exist in debug builds only: run this test in one");
    let temporary = Temporary::new("crash");
    let root = temporary.0.join("root");
    for name in FAILPOINTS {
        before(&open(&root));
        let output = child(&root).env("REFAIL", name).spawn().unwrap().wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(9), "{name} was not reached: {told}");
        check(&root, name);
        // The next one does it all.
        before(&open(&root));
        let output = child(&root).spawn().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "after {name}: {}", String::from_utf8_lossy(&output.stderr));
        check(&root, name);
        new().check(&open(&root));
        // For the next round, the new image is new again.
        let store = open(&root);
        for image in [new(), built()] {
            store.remove_image(&image.id(), RemoveOptions { names: true }).unwrap();
        }
        store.remove_snapshot(&key("durable")).unwrap();
        store.remove_snapshot(&key("written")).unwrap();
        let _ = std::fs::remove_file(root.with_extension("written"));
        store.collect(&CollectOptions::default()).unwrap();
    }
}

#[test]
fn killed_at_any_moment_nothing_is_lost() {
    let temporary = Temporary::new("kill");
    let root = temporary.0.join("root");
    before(&open(&root));
    let started = Instant::now();
    assert!(child(&root).status().unwrap().success());
    let whole = started.elapsed();
    for round in 0..30u32 {
        before(&open(&root));
        let mut process = child(&root).spawn().unwrap();
        std::thread::sleep(whole * round / 30);
        process.kill().unwrap();
        process.wait().unwrap();
        check(&root, &format!("round {round}"));
    }
}

#[test]
fn killed_while_it_is_made_a_store_is_made_again() {
    let temporary = Temporary::new("make");
    // What a process that died half-way leaves.
    let root = temporary.0.join("root");
    for made in [&["content"][..], &["content", "images", "lock"], &["staging", ".tmp-1-2-3"]] {
        std::fs::create_dir(&root).unwrap();
        for name in made {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::remove_dir(root.join("lock")).ok();
        old().pull(&open(&root), Some("old:1")).unwrap();
        robot_env_sys::fs::remove_tree_at(rustix::fs::CWD, &root, || true).unwrap();
    }
}
