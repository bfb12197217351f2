//! What the store promises, one part after the other.

mod support;

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use robot_env_diag::Kind;
use robot_env_oci::{ChainId, DiffId, Digest, Reference};
use robot_env_store::{
    CollectOptions, FsckOptions, LayerRecord, OverlayXattr, RemoveOptions, SnapshotKey, SnapshotOptions,
    StagedLayer, Store, StoreOptions, Subject,
};
use robot_env_sys::fs::{self, Durability};
use support::{Sample, Temporary, entries, layers, options, reference};

fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

#[test]
fn a_store_is_made_once_and_foreign_directories_are_refused() {
    let temporary = Temporary::new("open");
    let root = temporary.0.join("a/b");
    let missing = Store::open(&StoreOptions { create: false, ..options(&root) }).unwrap_err();
    assert_eq!(
        (missing.kind(), missing.message().contains("does not exist")),
        (Kind::NotFound, true),
        "{missing:?}"
    );
    drop(Store::open(&options(&root)).unwrap());
    Store::open(&StoreOptions { create: false, ..options(&root) }).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);

    let other =
        Store::open(&StoreOptions { overlay_xattr: OverlayXattr::User, ..options(&root) }).unwrap_err();
    assert_eq!(other.kind(), Kind::Conflict);

    std::fs::write(root.join("format"), "robot-env store 99 overlay=trusted\n").unwrap();
    let newer = Store::open(&options(&root)).unwrap_err();
    assert_eq!((newer.kind(), newer.hint().is_some()), (Kind::Unsupported, true));
    std::fs::write(root.join("format"), "something").unwrap();
    assert_eq!(Store::open(&options(&root)).unwrap_err().kind(), Kind::Corrupt);

    let foreign = temporary.0.join("home");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.tex"), "").unwrap();
    let refused = Store::open(&options(&foreign)).unwrap_err();
    assert!(refused.message().contains("thesis.tex"), "{refused:?}");
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);

    let file = temporary.0.join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Store::open(&options(&file)).is_err());
    assert!(Store::open(&options(&file.join("below"))).is_err());
}

#[test]
fn content_is_checked_when_it_comes_and_when_it_is_read() {
    let temporary = Temporary::new("content");
    let store = temporary.store();
    let (bytes, digest) = (b"{}".as_slice(), Digest::of(b"{}"));
    assert_eq!(store.content(&digest).unwrap(), None);
    assert_eq!(store.put_content(&digest, b"other").unwrap_err().kind(), Kind::Corrupt);
    assert!(!store.has_content(&digest).unwrap());
    store.put_content(&digest, bytes).unwrap();
    assert_eq!(store.content(&digest).unwrap().as_deref(), Some(bytes));
    assert_eq!(store.put_content(&digest, &vec![0; 5 << 20]).unwrap_err().kind(), Kind::InvalidInput);

    std::fs::write(temporary.path(&format!("content/sha256/{}", digest.hex())), "[]").unwrap();
    let error = store.content(&digest).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(format!("{error:?}").contains(digest.hex()));
    assert!(!store.has_content(&digest).unwrap());
    store.put_content(&digest, bytes).unwrap();
    assert!(store.has_content(&digest).unwrap());
    assert_eq!(entries(&store, "staging"), [""; 0]);
}

#[test]
fn a_blob_resumes_where_it_was_cut() {
    let temporary = Temporary::new("ingest");
    let store = temporary.store();
    let blob: Vec<u8> = (0..700_000u32).map(|n| n as u8).collect();
    let digest = Digest::of(&blob);
    let mut ingest = store.ingest(&digest).unwrap();
    ingest.write_all(&blob[..300_000]).unwrap();
    assert_eq!(store.ingest(&digest).unwrap_err().kind(), Kind::Conflict);
    drop(ingest);

    let mut ingest = store.ingest(&digest).unwrap();
    assert_eq!(ingest.offset(), 300_000);
    ingest.write_all(&blob[300_000..]).unwrap();
    ingest.commit(blob.len() as u64).unwrap();
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut store.open_blob(&digest).unwrap().unwrap(), &mut read).unwrap();
    assert_eq!(read, blob);
    assert_eq!(entries(&store, "content/partial"), [""; 0]);

    // The wrong bytes, the wrong size, and a fresh start.
    let digest = Digest::of(b"right");
    for (bytes, size) in [(&b"wrong"[..], 5), (&b"right"[..], 6), (&b"righ"[..], 5)] {
        let mut ingest = store.ingest(&digest).unwrap();
        assert_eq!(ingest.offset(), 0, "what was refused is gone");
        ingest.write_all(bytes).unwrap();
        assert_eq!(ingest.commit(size).unwrap_err().kind(), Kind::Corrupt);
    }
    let mut ingest = store.ingest(&digest).unwrap();
    ingest.write_all(b"noise").unwrap();
    ingest.restart().unwrap();
    ingest.write_all(b"right").unwrap();
    ingest.commit(5).unwrap();
    assert!(store.open_blob(&digest).unwrap().is_some());
}

#[test]
fn an_image_is_named_found_renamed_and_removed() {
    let temporary = Temporary::new("image");
    let store = temporary.store();
    let (a, b) = (Sample::new(&["one", "two"]), Sample::new(&["one", "three"]));
    let record = a.pull(&store, Some("robot:1")).unwrap();
    assert_eq!((record.size, record.layers.len()), (6, 2));
    b.pull(&store, Some("host:5000/robot")).unwrap();
    a.check(&store);
    b.check(&store);
    assert_eq!(store.images().unwrap().len(), 2);
    assert_eq!(layers(&store).len(), 3, "the layer in common is there once");

    let id = a.id();
    let by_digest = format!("robot@{}", a.manifest.digest());
    let full_tag_and_digest = format!("docker.io/library/robot:9@{}", a.manifest.digest());
    for text in [
        "robot:1",
        "docker.io/library/robot:1",
        &id.to_string(),
        id.hex(),
        &id.hex()[..20],
        &by_digest,
        &full_tag_and_digest,
    ] {
        assert_eq!(store.resolve(text).unwrap().id, id, "{text}");
    }
    assert_eq!(store.resolve("host:5000/robot:latest").unwrap().id, b.id());
    for text in ["robot", "robot:2", "other", &"0".repeat(64), "sha256:0123456789"] {
        assert_eq!(store.resolve(text).unwrap_err().kind(), Kind::NotFound, "{text}");
    }
    assert_eq!(store.resolve("Robot").unwrap_err().kind(), Kind::InvalidInput);

    let shown: Vec<String> = store.names().unwrap().iter().map(|name| name.reference.familiar()).collect();
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert!(shown.contains(&by_digest) && shown.contains(&"robot:1".to_owned()));

    // A second tag; the digest stays until the last tag of the repository goes.
    store.tag(&reference("robot:2"), &id, None).unwrap();
    let untagged = store.untag(&reference("robot:1")).unwrap();
    assert_eq!((untagged.references.len(), untagged.remaining), (1, 2));
    let refused = store.remove_image(&id, RemoveOptions::default()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    let untagged = store.untag(&reference("robot:2")).unwrap();
    assert_eq!((untagged.image, untagged.references.len(), untagged.remaining), (id.clone(), 2, 0));
    assert_eq!(store.untag(&reference("robot:2")).unwrap_err().kind(), Kind::NotFound);
    assert!(store.remove_image(&id, RemoveOptions::default()).unwrap().is_empty());
    assert_eq!(store.remove_image(&id, RemoveOptions::default()).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.tag(&reference("robot:3"), &id, None).unwrap_err().kind(), Kind::NotFound);

    let collected = store.collect(&CollectOptions::default()).unwrap();
    assert_eq!(collected.layers, [a.chains()[1].clone()]);
    assert_eq!(collected.content.len(), 2);
    b.check(&store);
    assert!(!store.trash_is_empty().unwrap());
    assert!(store.empty_trash(None).unwrap().done && store.trash_is_empty().unwrap());
    assert_eq!(store.remove_image(&b.id(), RemoveOptions { names: true }).unwrap().len(), 2);
    store.collect(&CollectOptions::default()).unwrap();
    assert!(layers(&store).is_empty() && store.names().unwrap().is_empty());
    assert_eq!(entries(&store, "content/sha256"), [""; 0]);
}

#[test]
fn a_removed_image_that_is_kept_comes_back_as_it_was() {
    const NAMED: RemoveOptions = RemoveOptions { names: true };
    let temporary = Temporary::new("kept");
    let store = temporary.store();
    let (a, b) = (Sample::new(&["base", "a"]), Sample::new(&["base", "b"]));
    a.pull(&store, Some("robot:1")).unwrap();
    store.tag(&reference("robot:2"), &a.id(), None).unwrap();
    b.pull(&store, Some("other:1")).unwrap();
    let before = (store.image(&a.id()).unwrap(), store.names().unwrap());
    let lost = store.name(&reference("robot:2")).unwrap().unwrap();
    store.untag(&reference("robot:2")).unwrap();
    let named = store.keep_image(&a.id(), &key("one"), &[], RemoveOptions::default()).unwrap_err();
    assert_eq!((named.kind(), store.kept_keys().unwrap().len()), (Kind::Conflict, 0), "{named:?}");
    assert_eq!(store.keep_image(&a.id(), &key("one"), &[lost], NAMED).unwrap().len(), 2);
    assert_eq!(store.keep_image(&a.id(), &key("two"), &[], NAMED).unwrap_err().kind(), Kind::NotFound);
    assert!(store.image(&a.id()).unwrap().is_none());
    assert_eq!(store.kept_keys().unwrap(), [key("one")]);

    // Its layers stay; only what nobody else has counts as its own.
    let collected = store.collect(&CollectOptions::default()).unwrap();
    assert_eq!((collected.layers, collected.kept), (vec![], vec![(a.chains()[1].clone(), 1)]));
    let restored = store.restore_image(&key("one")).unwrap();
    assert_eq!((restored.names.len(), restored.taken.len()), (3, 0));
    assert_eq!((store.image(&a.id()).unwrap(), store.names().unwrap()), before);
    a.check(&store);
    assert_eq!(store.restore_image(&key("one")).unwrap_err().kind(), Kind::NotFound);

    // A name that another image has now stays that one's.
    store.keep_image(&a.id(), &key("one"), &[], NAMED).unwrap();
    store.tag(&reference("robot:1"), &b.id(), None).unwrap();
    let restored = store.restore_image(&key("one")).unwrap();
    assert_eq!((restored.names.len(), restored.taken), (2, vec![reference("robot:1")]));

    // Let go, it goes. So does one whose record is damaged.
    store.keep_image(&a.id(), &key("one"), &[], NAMED).unwrap();
    store.discard_kept(&key("one")).unwrap();
    assert_eq!(store.collect(&CollectOptions::default()).unwrap().layers, [a.chains()[1].clone()]);
    store.keep_image(&b.id(), &key("two"), &[], NAMED).unwrap();
    std::fs::write(store.path().join("kept/two.json"), "{").unwrap();
    assert_eq!(store.restore_image(&key("two")).unwrap_err().kind(), Kind::Corrupt);
    store.collect(&CollectOptions::default()).unwrap();
    assert!(layers(&store).is_empty());
    // A store of an earlier version has no place for them.
    std::fs::remove_file(store.path().join("kept/two.json")).unwrap();
    std::fs::remove_dir(store.path().join("kept")).unwrap();
    assert!(store.kept_images().unwrap().is_empty());
    b.pull(&store, None).unwrap();
    store.keep_image(&b.id(), &key("three"), &[], NAMED).unwrap();
    store.restore_image(&key("three")).unwrap();
    b.check(&store);
}

#[test]
fn an_id_wins_over_a_name_and_half_an_id_must_be_unique() {
    let temporary = Temporary::new("resolve");
    let store = temporary.store();
    let samples: Vec<Sample> = (0..40).map(|n| Sample::new(&[&format!("layer {n}")])).collect();
    for sample in &samples {
        sample.pull(&store, None).unwrap();
    }
    // Of 40 ids, two start with the same digit.
    let first = |sample: &Sample| sample.id().hex()[..1].to_owned();
    let digit =
        first(samples.iter().find(|s| samples.iter().filter(|t| first(t) == first(s)).count() > 1).unwrap());
    assert_eq!(store.resolve(&digit).unwrap_err().kind(), Kind::Conflict);
    store.tag(&reference(&digit), &samples[7].id(), None).unwrap();
    assert_eq!(store.resolve(&digit).unwrap().id, samples[7].id(), "several ids are none: the name counts");
    let prefix = samples[3].id().hex()[..16].to_owned();
    store.tag(&reference(&prefix), &samples[4].id(), None).unwrap();
    assert_eq!(store.resolve(&prefix).unwrap().id, samples[3].id());
}

#[test]
fn an_image_needs_all_its_parts() {
    let temporary = Temporary::new("parts");
    let store = temporary.store();
    let sample = Sample::new(&["one", "two"]);
    let record = sample.pull(&store, Some("robot")).unwrap();
    std::fs::remove_dir_all(temporary.path(&format!("layers/{}", sample.chains()[0].hex()))).unwrap();
    let error = store.put_image(&record).unwrap_err();
    assert!(error.message().contains(&sample.chains()[0].to_string()), "{error:?}");
    sample.pull(&store, Some("robot")).unwrap();
    std::fs::remove_file(temporary.path(&format!("content/sha256/{}", sample.manifest.digest().hex())))
        .unwrap();
    assert_eq!(store.put_image(&record).unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn a_staged_layer_that_is_not_committed_leaves_nothing() {
    let temporary = Temporary::new("staged");
    let store = temporary.store();
    let layer = store.stage_layer().unwrap();
    fs::mkdir_all_at(layer.fs(), "a/b/c", 0o000).unwrap();
    store.collect(&CollectOptions::default()).unwrap();
    assert_eq!(entries(&store, "staging").len(), 1, "its maker lives");
    drop(layer);
    assert_eq!((entries(&store, "staging").len(), entries(&store, "trash").len()), (0, 0));

    let orphan = LayerRecord::new(Some(ChainId(Digest::of(b"nowhere"))), DiffId(Digest::of(b"x")));
    assert_eq!(store.stage_layer().unwrap().commit(orphan).unwrap_err().kind(), Kind::Conflict);
    assert_eq!((entries(&store, "staging").len(), layers(&store).len()), (0, 0));
}

#[test]
fn the_second_of_two_equal_layers_is_dropped_and_a_damaged_one_replaced() {
    let temporary = Temporary::new("twice");
    let store = temporary.store();
    let record = LayerRecord::new(None, DiffId(Digest::of(b"x")));
    for text in ["first", "second"] {
        let layer = store.stage_layer().unwrap();
        fs::write_atomic(layer.fs(), layer.fs(), "file", text.as_bytes(), 0o644, Durability::NoSync).unwrap();
        layer.commit(record.clone()).unwrap();
        let tree = store.layer_dir(&record.chain_id).unwrap();
        assert_eq!(fs::read_bounded(tree, "file", 100).unwrap(), b"first");
    }
    std::fs::write(temporary.path(&format!("layers/{}/layer.json", record.chain_id.hex())), "{").unwrap();
    let damaged = store.layer(&record.chain_id).unwrap_err();
    assert_eq!(damaged.kind(), Kind::Corrupt);
    assert!(damaged.message().contains(&record.chain_id.to_string()));
    let layer = store.stage_layer().unwrap();
    fs::write_atomic(layer.fs(), layer.fs(), "file", b"third", 0o644, Durability::NoSync).unwrap();
    layer.commit(record.clone()).unwrap();
    let tree = store.layer_dir(&record.chain_id).unwrap();
    assert_eq!(fs::read_bounded(tree, "file", 100).unwrap(), b"third");
    assert_eq!(entries(&store, "damaged").len(), 1);
    store
        .collect(&CollectOptions { keep: vec![record.chain_id.clone()], ..CollectOptions::default() })
        .unwrap();
    assert_eq!((entries(&store, "damaged").len(), layers(&store).len()), (0, 1));
}

#[test]
fn a_snapshot_stands_on_its_layers_and_becomes_one() {
    let temporary = Temporary::new("snapshot");
    let store = temporary.store();
    let sample = Sample::new(&["one", "two", "three"]);
    let image = sample.pull(&store, Some("robot")).unwrap();
    let (top, web) = (image.chain().unwrap().clone(), key("web"));
    std::fs::set_permissions(
        temporary.path(&format!("layers/{}/fs", top.hex())),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    assert!(store.snapshot(&web).unwrap().is_none());
    let snapshot =
        store.prepare(&web, Some(&top), SnapshotOptions { volatile: true, durable: false }).unwrap();
    assert_eq!(
        rustix::fs::fstat(&snapshot.upper).unwrap().st_mode & 0o7777,
        0o1777,
        "the root is the image's"
    );
    let texts: Vec<Vec<u8>> =
        snapshot.lowers.iter().map(|l| fs::read_bounded(l, "file", 100).unwrap()).collect();
    assert_eq!(texts, [b"three".to_vec(), b"two".to_vec(), b"one".to_vec()], "topmost first");
    assert_eq!(store.prepare(&web, None, SnapshotOptions::default()).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.snapshots().unwrap(), std::slice::from_ref(&snapshot.record));
    let missing = ChainId(Digest::of(b"missing"));
    let error = store.prepare(&key("other"), Some(&missing), SnapshotOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.message().contains(missing.hex())), (Kind::NotFound, true));

    // It keeps its layers without the image.
    store.remove_image(&image.id, RemoveOptions { names: true }).unwrap();
    assert!(store.collect(&CollectOptions::default()).unwrap().layers.is_empty());

    let before = store.snapshot_usage(&web).unwrap();
    fs::write_atomic(&snapshot.upper, &snapshot.upper, "new", &[1; 10_000], 0o644, Durability::NoSync)
        .unwrap();
    let usage = store.snapshot_usage(&web).unwrap();
    assert!(usage.bytes >= before.bytes + 10_000 && usage.inodes == before.inodes + 1);

    let diff_id = DiffId(Digest::of(b"what was written"));
    let lease = store.lease(Duration::from_secs(60)).unwrap();
    let staged = StagedLayer::from_directory(&store, snapshot.dir(), "upper").unwrap();
    let record = LayerRecord::new(Some(top.clone()), diff_id);
    staged.commit(record.clone()).unwrap();
    let committed = store.layer(&record.chain_id).unwrap().unwrap();
    assert_eq!(committed.ancestors, sample.chains());
    assert_eq!(
        fs::read_bounded(store.layer_dir(&record.chain_id).unwrap(), "new", 20_000).unwrap().len(),
        10_000
    );
    let again = store.remake_snapshot(&web, Some(&record.chain_id)).unwrap();
    assert_eq!((again.lowers.len(), again.record.options.volatile), (4, true));
    drop(lease);

    let durable =
        store.prepare(&key("db"), None, SnapshotOptions { volatile: false, durable: true }).unwrap();
    assert_eq!(
        (durable.lowers.len(), rustix::fs::fstat(&durable.upper).unwrap().st_mode & 0o7777),
        (0, 0o755)
    );
    assert!(store.snapshot(&key("db")).unwrap().is_some());
    for name in ["db", "web"] {
        assert!(store.remove_snapshot(&key(name)).unwrap());
        assert!(!store.remove_snapshot(&key(name)).unwrap());
    }
    assert_eq!(store.collect(&CollectOptions::default()).unwrap().layers.len(), 4);
    store.empty_trash(None).unwrap();
}

#[test]
fn a_lease_pins_what_its_holder_adds_and_looks_up() {
    let temporary = Temporary::new("lease");
    let (store, other) = (temporary.store(), temporary.store());
    let sample = Sample::new(&["one", "two"]);
    sample.pull(&store, None).unwrap();
    store.remove_image(&sample.id(), RemoveOptions::default()).unwrap();
    let everything = CollectOptions { partial_age: Some(Duration::ZERO), ..CollectOptions::default() };

    let lease = store.lease(Duration::from_secs(600)).unwrap();
    // Looking up the lower one of two layers pins that one.
    store.layer(&sample.chains()[0]).unwrap().unwrap();
    store.put_content(sample.config.digest(), sample.config.bytes()).unwrap();
    let ingest = store.ingest(&Digest::of(b"blob")).unwrap();
    let collected = other.collect(&everything).unwrap();
    assert_eq!(collected.layers, [sample.chains()[1].clone()]);
    assert_eq!(collected.content, [sample.manifest.digest().clone()]);
    assert_eq!(entries(&store, "content/partial").len(), 1, "its receiver lives");
    drop(ingest);
    drop(lease);
    assert!(entries(&store, "leases").is_empty());
    let collected = other.collect(&everything).unwrap();
    assert_eq!((collected.layers.len(), collected.content.len(), collected.leftovers), (1, 1, 1));

    // One that has run out counts no more, though its holder lives; renewed, it does.
    sample.pull(&store, None).unwrap();
    store.remove_image(&sample.id(), RemoveOptions::default()).unwrap();
    let lease = store.lease(Duration::from_secs(600)).unwrap();
    for chain in sample.chains() {
        store.layer(&chain).unwrap().unwrap();
    }
    lease.renew(Duration::ZERO).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    lease.renew(Duration::from_secs(600)).unwrap();
    assert!(other.collect(&everything).unwrap().layers.is_empty());
    lease.renew(Duration::ZERO).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(other.collect(&everything).unwrap().layers.len(), 2);
}

#[test]
fn damage_is_named_moved_aside_and_mended_by_the_next_pull() {
    let temporary = Temporary::new("fsck");
    let store = temporary.store();
    let (good, bad) = (Sample::new(&["good"]), Sample::new(&["base", "top"]));
    good.pull(&store, Some("good")).unwrap();
    bad.pull(&store, Some("bad")).unwrap();
    let verify = |recipe: std::fs::File, tree: std::os::fd::BorrowedFd<'_>| {
        // The samples' recipe says what the file must hold; the digest is that of the file.
        assert!(recipe.metadata().unwrap().len() > 0);
        Ok(DiffId(Digest::of(&fs::read_bounded(tree, "file", 1000)?)))
    };
    let deep = FsckOptions { deep: Some(&verify), repair: false };
    assert_eq!(store.fsck(deep).unwrap(), []);

    let base = bad.chains()[0].clone();
    std::fs::write(temporary.path(&format!("layers/{}/fs/file", base.hex())), "bit rot").unwrap();
    assert_eq!(store.fsck(FsckOptions::default()).unwrap(), [], "only the deep check reads files");
    let damage = store.fsck(deep).unwrap();
    assert_eq!(
        (damage[0].what, damage[0].name.as_str(), damage[0].repaired),
        (Subject::Layer, base.to_string().as_str(), false)
    );
    assert_eq!((damage[1].what, damage[1].name.as_str()), (Subject::Image, bad.id().to_string().as_str()));
    let snapshot =
        store.prepare(&key("running"), Some(&bad.chains()[1]), SnapshotOptions::default()).unwrap();
    let damage = store.fsck(FsckOptions { repair: true, ..deep }).unwrap();
    assert!(damage[0].repaired);
    assert!(damage.iter().any(|d| d.what == Subject::Snapshot), "{damage:?}");
    // The tree stays for the one who has it mounted, but nobody gets it anew.
    store.collect(&CollectOptions::default()).unwrap();
    assert_eq!(fs::read_bounded(&snapshot.lowers[1], "file", 100).unwrap(), b"bit rot");
    assert_eq!(entries(&store, "damaged").len(), 1);
    let error = store.prepare(&key("new"), Some(&bad.chains()[1]), SnapshotOptions::default()).unwrap_err();
    assert!(error.message().contains(base.hex()), "{error:?}");
    bad.pull(&store, Some("bad")).unwrap();
    bad.check(&store);
    store.remove_snapshot(&key("running")).unwrap();
    store.collect(&CollectOptions::default()).unwrap();
    assert_eq!(store.fsck(deep).unwrap(), []);

    // Records and documents.
    std::fs::write(temporary.path(&format!("images/{}.json", good.id().hex())), "{}").unwrap();
    let manifest = temporary.path(&format!("content/sha256/{}", bad.manifest.digest().hex()));
    std::fs::write(&manifest, "x").unwrap();
    let name = Digest::of(b"docker.io/library/bad:latest").hex().to_owned();
    std::fs::write(temporary.path(&format!("names/{name}.json")), "\0").unwrap();
    assert_eq!(store.resolve("good").unwrap_err().kind(), Kind::Corrupt);
    assert!(
        store.collect(&CollectOptions::default()).unwrap().layers.is_empty(),
        "the config still tells the layers"
    );
    let damage = store.fsck(FsckOptions { repair: true, ..deep }).unwrap();
    let mut kinds: Vec<Subject> = damage.iter().map(|d| d.what).collect();
    kinds.sort();
    assert_eq!(kinds, [Subject::Content, Subject::Image, Subject::Image, Subject::Name], "{damage:?}");
    assert_eq!(store.resolve("good").unwrap().id, good.id());
    bad.pull(&store, Some("bad")).unwrap();
    bad.check(&store);
    assert_eq!(store.fsck(deep).unwrap(), []);

    // With record and config both gone, nobody knows what is still needed: everything stays.
    std::fs::write(temporary.path(&format!("images/{}.json", good.id().hex())), "{}").unwrap();
    std::fs::write(temporary.path(&format!("content/sha256/{}", good.id().hex())), "{}").unwrap();
    let collected = store.collect(&CollectOptions::default()).unwrap();
    assert_eq!((collected.layers.len(), collected.content.len(), collected.damage.len()), (0, 0, 1));
}

#[test]
fn a_source_is_noted_once() {
    let temporary = Temporary::new("source");
    let store = temporary.store();
    let sample = Sample::new(&["one"]);
    sample.pull(&store, None).unwrap();
    let chain = &sample.chains()[0];
    let source = robot_env_store::LayerSource {
        descriptor: sample.manifest.value().layers[0].clone(),
        repository: "docker.io/library/robot".into(),
    };
    for _ in 0..2 {
        store.add_source(chain, source.clone()).unwrap();
        assert_eq!(store.layer(chain).unwrap().unwrap().sources, std::slice::from_ref(&source));
    }
    assert_eq!(store.add_source(&ChainId(Digest::of(b"none")), source).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn long_names_fit_and_names_by_digest_need_no_tag() {
    let temporary = Temporary::new("names");
    let store = temporary.store();
    let sample = Sample::new(&[]);
    let id = sample.pull(&store, None).unwrap().id;
    let path = vec!["a".repeat(40); 6].join("/");
    let long = format!("{path}:{}", "t".repeat(128));
    store.tag(&reference(&long), &id, None).unwrap();
    assert_eq!(store.resolve(&long).unwrap().id, id);
    let digest = Digest::of(b"an index");
    let by_digest: Reference = format!("robot@{digest}").parse().unwrap();
    store.tag(&by_digest, &id, Some(&digest)).unwrap();
    assert_eq!(store.name(&by_digest).unwrap().unwrap().manifest_digest, Some(digest));
    assert_eq!(store.untag(&by_digest).unwrap().remaining, 1);
}

#[test]
fn the_trash_is_emptied_within_its_time_and_by_several() {
    let temporary = Temporary::new("trash");
    let store = temporary.store();
    for n in 0..8 {
        let snapshot = store.prepare(&key(&format!("s{n}")), None, SnapshotOptions::default()).unwrap();
        for m in 0..200 {
            fs::mkdir_all_at(snapshot.upper.as_fd(), format!("{m}/x"), 0o700).unwrap();
        }
        store.remove_snapshot(&key(&format!("s{n}"))).unwrap();
    }
    assert!(!store.empty_trash(Some(Duration::ZERO)).unwrap().done);
    let removed: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| store.empty_trash(None).unwrap())).collect();
        workers.into_iter().map(|worker| worker.join().unwrap().removed).sum()
    });
    assert_eq!(removed, 8);
    assert!(store.trash_is_empty().unwrap());
}

#[test]
fn a_layer_that_was_not_on_the_disk_when_the_machine_went_down_is_made_again() {
    let temporary = Temporary::new("boot");
    let store = temporary.store();
    let make = || {
        let key: SnapshotKey = "step".parse().unwrap();
        let options = SnapshotOptions { volatile: true, durable: false };
        let snapshot = store.prepare(&key, None, options).unwrap();
        let record = LayerRecord::new(None, DiffId(Digest::of(b"step")));
        let chain = record.chain_id.clone();
        let made = store.consume_upper(&key, store.stage_layer().unwrap(), record).unwrap();
        drop(snapshot);
        store.remove_snapshot(&key).unwrap();
        (made, chain)
    };
    let (made, chain) = make();
    let boot = store.layer(&chain).unwrap().unwrap().boot.expect("nobody waited for the disk");
    assert!(made && !make().0, "it is there");
    let path = temporary.path(&format!("layers/{}/layer.json", chain.hex()));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&boot, "another")).unwrap();
    assert_eq!(store.layer(&chain).unwrap_err().kind(), Kind::Corrupt);
    assert!(make().0, "and is made again");
    assert_eq!(store.layer(&chain).unwrap().unwrap().boot, Some(boot));
}
