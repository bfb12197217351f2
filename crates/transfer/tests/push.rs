//! Pushes into registries in the process, of what was pulled and of what was made here.

mod setup;

use robot_env_diag::Kind;
use robot_env_oci::{ChainId, Digest, ImageConfig, ImageId, Platform, Reference, RootFs, Verified};
use robot_env_store::{ImageRecord, Store};
use robot_env_testkit::image::{BuiltImage, Compression, Entry, Format, ImageBuilder, tar};
use robot_env_testkit::registry::{Auth, Effect, Fault, RegistryOptions, TestRegistry};
use robot_env_transfer::{Known, PushOptions, Pushed, Unpacker, push};
use setup::*;

fn image() -> BuiltImage {
    ImageBuilder::new()
        .layer(&[Entry::directory("etc/"), Entry::file("etc/a", "a".repeat(100_000))])
        .layer_with(&[Entry::file("etc/b", "b")], Compression::Zstd)
        .build()
}

fn try_push(setup: &Setup, name: &str) -> (robot_env_diag::Result<Pushed>, Seen) {
    let seen = Seen::default();
    let reference: Reference = name.parse().unwrap();
    let pushed = push(&setup.store, &setup.client, &reference, &PushOptions::default(), &seen);
    (pushed, seen)
}

fn tag(setup: &Setup, from: &str, to: &str) {
    let image = setup.store.resolve(from).unwrap().id;
    setup.store.tag(&to.parse().unwrap(), &image, None).unwrap();
}

/// An image that was made here: a layer on top of `below`.
fn commit(store: &Store, below: Option<&ImageId>, entries: &[Entry], name: &str) -> ImageId {
    let mut config = below.map_or_else(
        || ImageConfig { platform: Platform::host(), rootfs: RootFs::default(), ..ImageConfig::default() },
        |below| store.config(below).unwrap().value().clone(),
    );
    let parent: Option<ChainId> = config.chain().top().cloned();
    let unpacker = Unpacker::new(store, ownership());
    let tar = tar(entries);
    let _lease = store.lease(std::time::Duration::from_secs(60)).unwrap();
    let mut layer = unpacker.unpack(&tar[..], Known::default()).unwrap();
    layer.parent = parent;
    config.rootfs.diff_ids.push(layer.diff_id.clone());
    unpacker.commit(vec![layer]).unwrap();
    let config = Verified::make(config).unwrap();
    store.put_content(config.digest(), config.bytes()).unwrap();
    let id = ImageId(config.digest().clone());
    store.put_image(&ImageRecord::new(&config)).unwrap();
    store.tag(&name.parse().unwrap(), &id, None).unwrap();
    id
}

#[test]
fn what_was_pulled_goes_out_as_it_came() {
    for format in [Format::Oci, Format::Docker] {
        let setup = Setup::new("push");
        let image = ImageBuilder::new()
            .format(format)
            .layer(&[Entry::file("a", "1".repeat(50_000))])
            .layer(&[Entry::file("b", "2")])
            .build();
        setup.registry.put_image("source", "latest", &image);
        setup.pull("source").unwrap();

        // To where it came from: everything is there.
        let (pushed, seen) = try_push(&setup, &setup.registry.name("source:latest"));
        assert_eq!(pushed.unwrap().digest, image.digest());
        assert_eq!(seen.count("Layer already exists"), 2);
        assert_eq!(setup.registry.count("POST", "/blobs/uploads/"), 0);

        // To another repository there: mounted.
        let target = setup.registry.name("team/target:v2");
        tag(&setup, &setup.registry.name("source"), &target);
        let (pushed, seen) = try_push(&setup, &target);
        let pushed = pushed.unwrap();
        assert_eq!((pushed.digest, pushed.size), (image.digest(), image.manifest.len() as u64));
        assert_eq!(seen.count("Mounted from source"), 2);
        assert_eq!(setup.registry.manifest("team/target", "v2").unwrap().1, image.manifest);
        assert_eq!(
            seen.lines()[0],
            format!("The push refers to repository [{}]", setup.registry.name("team/target"))
        );
        let by_digest = setup.registry.name(&format!("team/target@{}", image.digest()));
        assert!(setup.store.resolve(&by_digest).is_ok());

        // To another registry: passed on, bit for bit.
        let other = TestRegistry::start();
        let target = other.name("elsewhere:1");
        tag(&setup, &setup.registry.name("source"), &target);
        setup.registry.forget_log();
        let (pushed, seen) = try_push(&setup, &target);
        assert_eq!(pushed.unwrap().digest, image.digest());
        assert_eq!(seen.count("Pushed"), 2);
        assert_eq!(setup.registry.count("GET", "/blobs/"), 2);
        assert_eq!(other.manifest("elsewhere", "1").unwrap().1, image.manifest);
        for layer in &image.layers {
            assert_eq!(other.blob("elsewhere", &layer.descriptor.digest).unwrap(), layer.blob);
        }

        // Pushed once more nothing moves.
        setup.registry.forget_log();
        let (pushed, seen) = try_push(&setup, &target);
        assert_eq!(pushed.unwrap().digest, image.digest());
        assert_eq!((seen.count("Layer already exists"), setup.registry.log().len()), (2, 0));
    }
}

#[test]
fn without_its_source_an_image_gets_a_new_manifest_and_the_same_id() {
    let setup = Setup::new("push-orphan");
    let image = image();
    setup.registry.put_image("source", "latest", &image);
    setup.pull("source").unwrap();
    let target = TestRegistry::start();
    let name = target.name("orphan:1");
    tag(&setup, &setup.registry.name("source"), &name);
    for layer in &image.layers {
        setup.registry.remove_blob("source", &layer.descriptor.digest);
    }
    let (pushed, seen) = try_push(&setup, &name);
    let pushed = pushed.unwrap();
    assert_eq!(seen.count("compressed anew"), 1, "{:?}", seen.lines());
    let other = Setup::new("push-orphan-back");
    let back =
        robot_env_transfer::pull(&other.store, &other.client, &name.parse().unwrap(), &pull_options(), &());
    let back = back.unwrap();
    assert_eq!((&back.digest, back.image.digest()), (&pushed.digest, &image.id()));
    // From now on that is its manifest.
    let record = setup.store.resolve(&name).unwrap();
    assert_eq!(record.manifest.unwrap().digest, pushed.digest);
    let (again, seen) = try_push(&setup, &name);
    assert_eq!(again.unwrap().digest, pushed.digest);
    assert_eq!(seen.count("Layer already exists"), 2);
}

#[test]
fn a_source_that_is_gone_is_asked_once() {
    let source = TestRegistry::start();
    let layers = (0..9).fold(ImageBuilder::new(), |image, n| image.layer(&[Entry::file("f", n.to_string())]));
    source.put_image("source", "latest", &layers.build());
    let setup = Setup::new("push-gone");
    let pulled: Reference = source.name("source").parse().unwrap();
    robot_env_transfer::pull(&setup.store, &setup.client, &pulled, &pull_options(), &()).unwrap();
    let name = setup.registry.name("kept:1");
    tag(&setup, &source.name("source"), &name);
    source.fault(Fault::always("/blobs/", Effect::Hangup).for_method("GET"));
    source.forget_log();
    let (pushed, seen) = try_push(&setup, &name);
    pushed.unwrap();
    assert_eq!(seen.count(": Pushed"), 9, "{:?}", seen.lines());
    // Three layers ask at once, and no upload begins anew because of it.
    let asked = source.count("GET", "/blobs/");
    assert!(asked <= 3 * options().retry.attempts as usize, "{asked}");
}

#[test]
fn what_was_made_here_comes_back_the_same() {
    let setup = Setup::new("push-made");
    let base = image();
    setup.registry.put_image("base", "latest", &base);
    let below = setup.pull("base").unwrap().image;
    let name = setup.registry.name("made:1");
    let entries =
        [Entry::directory("opt/"), Entry::file("opt/new", "n".repeat(300_000)), Entry::whiteout("etc/a")];
    let id = commit(&setup.store, Some(&below), &entries, &name);
    let (pushed, seen) = try_push(&setup, &name);
    let pushed = pushed.unwrap();
    assert_eq!((seen.count("Mounted from base"), seen.count(": Pushed")), (2, 1), "{:?}", seen.lines());

    let other = Setup::new("push-made-back");
    let back =
        robot_env_transfer::pull(&other.store, &other.client, &name.parse().unwrap(), &pull_options(), &());
    let back = back.unwrap();
    assert_eq!((&back.image, &back.digest), (&id, &pushed.digest));
    let top = setup.store.config(&id).unwrap().value().chain().top().unwrap().clone();
    assert_eq!(
        std::fs::read(other.layer(&top).join("fs/opt/new")).unwrap(),
        std::fs::read(setup.layer(&top).join("fs/opt/new")).unwrap()
    );

    // On top of it, into the same repository: only the new layer goes.
    let name = setup.registry.name("made:2");
    commit(&setup.store, Some(&id), &[Entry::file("opt/third", "3")], &name);
    let (pushed, seen) = try_push(&setup, &name);
    pushed.unwrap();
    assert_eq!((seen.count("Layer already exists"), seen.count(": Pushed")), (3, 1), "{:?}", seen.lines());

    // The same image made elsewhere gives the same blobs.
    let fresh = TestRegistry::start();
    let (one, two) = (Setup::new("push-same-1"), Setup::new("push-same-2"));
    let digests: Vec<Digest> = [(&one, "x:1"), (&two, "y:1")]
        .into_iter()
        .map(|(setup, name)| {
            let name = fresh.name(name);
            commit(&setup.store, None, &[Entry::file("f", "same".repeat(9999))], &name);
            try_push(setup, &name).0.unwrap().digest
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn broken_uploads_start_over_and_failures_are_told() {
    let setup = Setup::new("push-broken");
    let name = setup.registry.name("broken:1");
    commit(&setup.store, None, &[Entry::file("f", "x".repeat(200_000))], &name);
    setup.registry.fault(Fault::times("/blobs/uploads/", 1, Effect::Hangup).for_method("PATCH"));
    try_push(&setup, &name).0.unwrap();
    let other = Setup::new("push-refused");
    let name = other.registry.name("refused:1");
    commit(&other.store, None, &[Entry::file("f", "x")], &name);
    other.registry.fault(Fault::always("/blobs/uploads/", Effect::Status(403, None)));
    let error = try_push(&other, &name).0.unwrap_err();
    assert!(
        text(&error).contains("cannot push image") && text(&error).contains("cannot push layer"),
        "{error:?}"
    );
    assert!(other.registry.manifest("refused", "1").is_none());
    assert!(other.store.resolve(&name).unwrap().manifest.is_none());
}

#[test]
fn a_damaged_layer_does_not_leave() {
    let setup = Setup::new("push-damaged");
    let name = setup.registry.name("damaged:1");
    let id = commit(&setup.store, None, &[Entry::file("f", "good")], &name);
    let top = setup.store.config(&id).unwrap().value().chain().top().unwrap().clone();
    std::fs::write(setup.layer(&top).join("fs/f"), "evil").unwrap();
    let error = try_push(&setup, &name).0.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(text(&error).contains("is damaged"), "{error:?}");
    assert!(setup.registry.manifest("damaged", "1").is_none());
}

#[test]
fn wrong_names_and_platforms_are_refused() {
    let setup = Setup::new("push-wrong");
    let name = setup.registry.name("here:1");
    let id = commit(&setup.store, None, &[Entry::file("f", "x")], &name);
    for (wrong, kind) in [
        (setup.registry.name("here:2"), Kind::NotFound),
        (setup.registry.name(&format!("here@{id}")), Kind::InvalidInput),
    ] {
        assert_eq!(try_push(&setup, &wrong).0.unwrap_err().kind(), kind);
    }
    let options = PushOptions { platform: Some("linux/riscv64".parse().unwrap()) };
    let error = push(&setup.store, &setup.client, &name.parse().unwrap(), &options, &()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(setup.registry.count("POST", ""), 0);
}

#[test]
fn without_a_login_nothing_is_sent() {
    let auth = Auth::Basic { username: "rob".into(), password: "secret".into() };
    let registry = TestRegistry::with(RegistryOptions { auth, ..RegistryOptions::default() });
    let setup = Setup::of("push-login", registry, options());
    let name = setup.registry.name("closed:1");
    commit(&setup.store, None, &[Entry::file("f", "x")], &name);
    let error = try_push(&setup, &name).0.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
}
