//! Pulls from a registry in the process, with everything that goes wrong on the way.

mod setup;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use robot_env_diag::Kind;
use robot_env_layer::assemble;
use robot_env_oci::{DiffId, Digest, ImageId, LayerChain, media_type};
use robot_env_registry::{Client, ClientOptions, RegistrySettings};
use robot_env_testkit::image::{BuiltImage, Compression, Entry, Format, ImageBuilder, small};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};
use robot_env_transfer::{PullOptions, pull};
use setup::*;

fn chain(image: &BuiltImage) -> LayerChain {
    let diff_ids: Vec<DiffId> = image.layers.iter().map(|layer| DiffId(layer.diff_id.clone())).collect();
    LayerChain::new(&diff_ids)
}

fn image_id(image: &BuiltImage) -> ImageId {
    ImageId(image.id())
}

/// Bytes that do not compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Four layers of all compressions, the lowest large enough to be cut.
fn layered() -> BuiltImage {
    ImageBuilder::new()
        .layer(&[Entry::directory("opt/"), Entry::file("opt/large", noise(400_000, 1))])
        .layer_with(&[Entry::file("opt/zstd", "z")], Compression::Zstd)
        .layer_with(&[Entry::file("opt/plain", "p")], Compression::None)
        .layer(&[Entry::file("top", "t")])
        .build()
}

#[test]
fn an_image_comes_whole_and_is_named_last() {
    for format in [Format::Oci, Format::Docker] {
        let setup = Setup::new("pull");
        let image = ImageBuilder::new()
            .format(format)
            .layer(&[Entry::directory("etc/"), Entry::file("etc/a", "1").mode(0o640)])
            .layer(&[Entry::file("etc/b", "2")])
            .build();
        setup.registry.put_image("team/robot", "v1", &image);
        let (pulled, seen) = setup.pull_seen("team/robot:v1");
        let pulled = pulled.unwrap();
        assert_eq!((&pulled.image, &pulled.digest), (&image_id(&image), &image.digest()));
        assert!(pulled.newer);
        let shorts: Vec<String> =
            image.layers.iter().map(|layer| layer.descriptor.digest.short().to_owned()).collect();
        let lines = seen.lines();
        assert_eq!(lines[0], "v1: Pulling from team/robot");
        for short in &shorts {
            for step in ["Pulling fs layer", "Download complete", "Pull complete"] {
                assert_eq!(seen.count(&format!("{short}: {step}")), 1, "{lines:?}");
            }
        }
        assert_eq!(lines.last().unwrap(), &format!("{}: Pull complete", shorts[1]));

        let record = setup.store.resolve(&setup.registry.name("team/robot:v1")).unwrap();
        assert_eq!(record.id, pulled.image);
        assert_eq!(record.manifest.unwrap().digest, image.digest());
        assert_eq!(setup.store.content(&image.digest()).unwrap().unwrap(), image.manifest);
        let by_digest = setup.registry.name(&format!("team/robot@{}", image.digest()));
        assert_eq!(setup.store.resolve(&by_digest).unwrap().id, pulled.image);
        for ((_, chain), built) in chain(&image).links().iter().zip(&image.layers) {
            let layer = setup.store.layer(chain).unwrap().unwrap();
            assert_eq!(layer.tar_size, built.tar.len() as u64);
            assert_eq!(layer.sources[0].descriptor, built.descriptor);
            assert_eq!(layer.sources[0].repository, setup.registry.name("team/robot"));
            let mut tar = Vec::new();
            let recipe = setup.store.open_recipe(chain).unwrap().unwrap();
            let tree = setup.store.layer_dir(chain).unwrap();
            assemble(recipe, std::os::fd::AsFd::as_fd(&tree), &mut tar).unwrap();
            assert_eq!(tar, built.tar);
        }
        let top = setup.layer(chain(&image).top().unwrap());
        assert_eq!(std::fs::read(top.join("fs/etc/b")).unwrap(), b"2");
        assert!(setup.store.fsck(robot_env_store::FsckOptions::default()).unwrap().is_empty());
    }
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let setup = Setup::new("pull-again");
    let base = ImageBuilder::new().layer(&[Entry::file("base", noise(1000, 3))]);
    let (one, two) = (
        base.clone().layer(&[Entry::file("one", "1")]).build(),
        base.layer(&[Entry::file("two", "2")]).build(),
    );
    setup.registry.put_image("one", "latest", &one);
    setup.registry.put_image("two", "latest", &two);
    setup.pull("one").unwrap();
    setup.registry.forget_log();
    let (pulled, seen) = setup.pull_seen("one");
    assert!(!pulled.unwrap().newer);
    assert_eq!(setup.registry.log().len(), setup.registry.count("HEAD", "/manifests/latest"));
    assert_eq!(seen.lines(), ["latest: Pulling from one"]);

    let (pulled, seen) = setup.pull_seen("two");
    assert!(pulled.unwrap().newer);
    let shared = &one.layers[0].descriptor.digest;
    assert_eq!(setup.registry.count("GET", &shared.to_string()), 0);
    assert_eq!(seen.count(&format!("{}: Already exists", shared.short())), 1);
    let layer = setup.store.layer(&chain(&one).links()[0].1).unwrap().unwrap();
    assert_eq!(layer.sources.len(), 2, "both repositories can mount it");

    // By digest the answer is known without asking.
    setup.registry.forget_log();
    let name = format!("one@{}", one.digest());
    let pulled = setup.pull(&name).unwrap();
    assert!(!pulled.newer && pulled.image == image_id(&one));
    assert_eq!(setup.registry.log().len(), 0);

    // The name moves on.
    setup.registry.put_image("one", "latest", &two);
    assert!(setup.pull("one").unwrap().newer);
    assert_eq!(setup.store.resolve(&setup.registry.name("one")).unwrap().id, image_id(&two));
    assert!(setup.store.resolve(&setup.registry.name(&name)).is_ok(), "the old one is still there by digest");
    assert!(!setup.pull("one").unwrap().newer);
}

#[test]
fn many_layers_keep_their_order() {
    let setup = Setup::new("pull-many");
    let mut builder = ImageBuilder::new();
    for n in 0..298 {
        builder = builder.layer(&[Entry::file("same", n.to_string()), Entry::file(&format!("file-{n}"), "")]);
    }
    // Twice the very same layer, as builders make them.
    let image = builder.layer(&[]).layer(&[]).build();
    setup.registry.put_image("many", "latest", &image);
    let (pulled, seen) = setup.pull_seen("many");
    assert_eq!(pulled.unwrap().image, image_id(&image));
    assert_eq!(seen.count("Pull complete"), 300);
    for (n, (_, chain)) in chain(&image).links().iter().enumerate().take(298) {
        assert_eq!(std::fs::read_to_string(setup.layer(chain).join("fs/same")).unwrap(), n.to_string());
    }
}

#[test]
fn too_many_layers_are_refused_before_anything_is_fetched() {
    let setup = Setup::new("pull-too-many");
    let image = (0..301).fold(ImageBuilder::new(), |builder, _| builder.layer(&[])).build();
    setup.registry.put_image("many", "latest", &image);
    let error = setup.pull("many").unwrap_err();
    assert!(error.kind() == Kind::Unsupported && text(&error).contains("301 layers"), "{error:?}");
    assert_eq!(setup.registry.count("GET", "/blobs/"), 1, "the config only");
}

#[test]
fn the_platform_is_chosen() {
    let setup = Setup::new("pull-platform");
    let build = |platform: &str| {
        ImageBuilder::new().platform(platform.parse().unwrap()).layer(&[Entry::file("p", platform)]).build()
    };
    let (amd, arm) = (build("linux/amd64"), build("linux/arm64"));
    let index = setup.registry.put_index("multi", "latest", &[&amd, &arm]);
    setup.registry.put_image("single", "latest", &arm);
    let reference = setup.reference("multi");
    let with = |platform: &str| PullOptions { platform: Some(platform.parse().unwrap()), ..pull_options() };
    for (platform, image) in [("linux/arm64", &arm), ("linux/amd64", &amd)] {
        let pulled = pull(&setup.store, &setup.client, &reference, &with(platform), &()).unwrap();
        assert_eq!((&pulled.image, &pulled.digest), (&image_id(image), &index));
        assert!(pulled.newer);
        assert!(!pull(&setup.store, &setup.client, &reference, &with(platform), &()).unwrap().newer);
    }
    let error = pull(&setup.store, &setup.client, &reference, &with("linux/riscv64"), &()).unwrap_err();
    assert!(error.kind() == Kind::NotFound && text(&error).contains("linux/amd64, linux/arm64"), "{error:?}");
    let single = setup.reference("single");
    let error = pull(&setup.store, &setup.client, &single, &with("linux/amd64"), &()).unwrap_err();
    assert!(text(&error).contains("it is for platform `linux/arm64` only"), "{error:?}");
    // Without a wish what is named is taken.
    assert_eq!(setup.pull("single").unwrap().image, image_id(&arm));
}

#[test]
fn damaged_blobs_are_noticed_and_nothing_is_visible() {
    let image = layered();
    let large = &image.layers[0];
    let size = large.blob.len() as u64;
    // In the gzip stream, in its trailer, and in layers of other compressions.
    let cases = [(0, 20), (0, size / 2), (0, size - 2), (1, 30), (2, 10), (2, 700), (3, 2)];
    for (layer, position) in cases {
        let setup = Setup::new("pull-corrupt");
        setup.registry.put_image("bad", "latest", &image);
        let digest = image.layers[layer].descriptor.digest.to_string();
        setup.registry.fault(Fault::always(&digest, Effect::Corrupt(position)).for_method("GET"));
        let error = setup.pull("bad").unwrap_err();
        let told = text(&error);
        assert_eq!(error.kind(), Kind::Corrupt, "{layer} {position}: {told}");
        assert!(
            told.contains("serves a damaged layer") && told.contains("does not match its digest"),
            "{told}"
        );
        setup.assert_nothing_visible();
        assert_eq!(setup.store.layer(chain(&image).top().unwrap()).unwrap(), None);

        // The same store takes the image when the registry is well again, or on the second try.
        setup.registry.mend();
        setup.registry.fault(Fault::times(&digest, 1, Effect::Corrupt(position)).for_method("GET"));
        assert_eq!(setup.pull("bad").unwrap().image, image_id(&image));
        assert_eq!(setup.entries("staging"), [""; 0]);
    }
}

#[test]
fn a_damaged_mirror_is_left_for_the_registry() {
    let (registry, mirror) = (TestRegistry::start(), TestRegistry::start());
    let image = layered();
    registry.put_image("r", "latest", &image);
    mirror.put_image("r", "latest", &image);
    let digest = image.layers[0].descriptor.digest.to_string();
    mirror.fault(Fault::always(&digest, Effect::Corrupt(1000)).for_method("GET"));
    let mut options: ClientOptions = options();
    let settings = RegistrySettings { mirrors: vec![mirror.url()], ..RegistrySettings::default() };
    options.registries.insert(registry.host(), settings);
    let setup = Setup::of("pull-mirror", registry, options);
    assert_eq!(setup.pull("r").unwrap().image, image_id(&image));
    assert_eq!((mirror.count("GET", &digest), setup.registry.count("GET", &digest)), (1, 1));
}

#[test]
fn broken_transfers_go_on_where_they_broke() {
    let image = layered();
    let setup = Setup::new("pull-cut");
    setup.registry.put_image("cut", "latest", &image);
    let digest = image.layers[0].descriptor.digest.to_string();
    setup.registry.fault(Fault::times(&digest, 3, Effect::CutAfter(100_000)).for_method("GET"));
    setup.registry.fault(Fault::times("/blobs/", 1, Effect::Status(503, Some("1".into()))).for_method("GET"));
    assert_eq!(setup.pull("cut").unwrap().image, image_id(&image));
    let ranges = setup.registry.log().iter().filter(|request| request.header("range").is_some()).count();
    assert_eq!(ranges, 3);
    assert!(setup.registry.bytes_sent() < 2 * image.layers[0].blob.len() as u64);
}

#[test]
fn an_interrupted_pull_leaves_nothing_and_the_next_one_succeeds() {
    let image = layered();
    let setup = Setup::new("pull-interrupted");
    setup.registry.put_image("r", "latest", &image);
    let digest = image.layers[0].descriptor.digest.to_string();
    let stall = Effect::StallAfter(100_000, Duration::from_secs(30));
    setup.registry.fault(Fault::times(&digest, 1, stall).for_method("GET"));
    let client = Client::new(options());
    let reference = setup.reference("r");
    let (error, took) = std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&setup.store, &client, &reference, &pull_options(), &()));
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        client.cancel();
        (pulling.join().unwrap().unwrap_err(), started.elapsed())
    });
    assert_eq!(error.kind(), Kind::Interrupted, "{error:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    setup.assert_nothing_visible();
    assert_eq!(setup.pull("r").unwrap().image, image_id(&image));
}

#[test]
fn the_first_failure_is_told_and_stops_the_others() {
    let setup = Setup::new("pull-first");
    let image = layered();
    setup.registry.put_image("r", "latest", &image);
    let missing = &image.layers[3].descriptor.digest;
    setup.registry.remove_blob("r", missing);
    let error = setup.pull("r").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    assert!(text(&error).contains(missing.short()), "{error:?}");
    setup.assert_nothing_visible();
}

#[test]
fn a_config_that_lies_about_its_layers_is_refused() {
    let setup = Setup::new("pull-lies");
    let good = ImageBuilder::new().layer(&[Entry::file("a", "1")]).build();
    let config = |diff_ids: Vec<String>| {
        serde_json::json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
            .to_string()
            .into_bytes()
    };
    let publish = |tag: &str, config: &[u8], layer_type: &str| {
        let layer = &good.layers[0];
        setup.registry.put_blob("lies", &layer.blob);
        setup.registry.put_blob("lies", config);
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::OCI_CONFIG, "digest": Digest::of(config).to_string(), "size": config.len()},
            "layers": [{"mediaType": layer_type, "digest": layer.descriptor.digest.to_string(), "size": layer.blob.len()}]});
        setup.registry.put_manifest(
            "lies",
            Some(tag),
            media_type::OCI_MANIFEST,
            manifest.to_string().as_bytes(),
        );
    };
    let own = good.layers[0].diff_id.to_string();
    publish("diff", &config(vec![Digest::of(b"other").to_string()]), media_type::OCI_LAYER_GZIP);
    publish("count", &config(vec![own.clone(), own.clone()]), media_type::OCI_LAYER_GZIP);
    publish("type", &config(vec![own.clone()]), "application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    let windows = String::from_utf8(config(vec![own])).unwrap().replace("linux", "windows");
    publish("windows", windows.as_bytes(), media_type::OCI_LAYER_GZIP);
    for (tag, kind, words) in [
        ("diff", Kind::Corrupt, "its tar has the digest"),
        ("count", Kind::Corrupt, "1 layers and its config 2"),
        ("type", Kind::Unsupported, "encrypted"),
        ("windows", Kind::Unsupported, "only linux images"),
    ] {
        let error = setup.pull(&format!("lies:{tag}")).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(text(&error).contains(words), "{error:?}");
        setup.assert_nothing_visible();
        assert_eq!(setup.entries("layers"), [""; 0]);
    }
    // The layer itself was right; it is not fetched again and again.
    assert_eq!(setup.registry.count("GET", &good.layers[0].descriptor.digest.to_string()), 1);
    let schema1 = br#"{"schemaVersion":1,"name":"lies","tag":"old","fsLayers":[],"history":[]}"#;
    setup.registry.put_manifest("lies", Some("old"), media_type::DOCKER_SCHEMA1, schema1);
    let error = setup.pull("lies:old").unwrap_err();
    assert!(error.kind() == Kind::Unsupported && text(&error).contains("schema 1"), "{error:?}");
}

#[test]
fn a_damaged_layer_is_repaired() {
    let image = layered();
    for damage in ["record", "tree", "aside"] {
        let setup = Setup::new("pull-repair");
        setup.registry.put_image("r", "latest", &image);
        setup.pull("r").unwrap();
        let chain = chain(&image);
        let middle = &chain.links()[1].1;
        match damage {
            "record" => std::fs::write(setup.layer(middle).join("layer.json"), "{").unwrap(),
            "tree" => std::fs::remove_dir_all(setup.layer(middle).join("fs")).unwrap(),
            _ => assert!(setup.store.set_layer_aside(middle).unwrap()),
        }
        setup.registry.forget_log();
        let (pulled, seen) = setup.pull_seen("r");
        assert!(!pulled.unwrap().newer, "the name stood for the same");
        assert_eq!(setup.registry.count("GET", "/blobs/sha256:"), 2, "the layer and the config");
        assert_eq!((seen.count("Already exists"), seen.count("Pull complete")), (3, 1));
        assert_eq!(std::fs::read(setup.layer(middle).join("fs/opt/zstd")).unwrap(), b"z");
        assert!(setup.store.fsck(robot_env_store::FsckOptions::default()).unwrap().is_empty());
    }
}

#[test]
fn damaged_content_is_repaired() {
    let image = small();
    let setup = Setup::new("pull-content");
    setup.registry.put_image("r", "latest", &image);
    setup.pull("r").unwrap();
    for digest in [image.id(), image.digest()] {
        let path = setup.directory.join("store/content/sha256").join(digest.hex());
        std::fs::write(&path, "damaged").unwrap();
        setup.pull("r").unwrap();
        assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), digest);
    }
}

#[test]
fn two_pulls_of_one_image_do_not_hinder_each_other() {
    let image = layered();
    let setup = Setup::new("pull-two");
    setup.registry.put_image("r", "latest", &image);
    // Each with its own client and its own open store, as two processes have.
    let others: Vec<_> =
        (0..4).map(|_| (open(&setup.directory.join("store")), Client::new(options()))).collect();
    let (reference, wanted) = (setup.reference("r"), image_id(&image));
    std::thread::scope(|scope| {
        for (store, client) in &others {
            let (reference, wanted) = (&reference, &wanted);
            scope.spawn(move || {
                for _ in 0..3 {
                    let pulled = pull(store, client, reference, &pull_options(), &()).unwrap();
                    assert_eq!(pulled.image, *wanted);
                }
            });
        }
    });
    assert_eq!(setup.store.resolve(&setup.registry.name("r")).unwrap().id, image_id(&image));
    assert_eq!(setup.entries("layers").len(), 4);
    assert_eq!(setup.entries("staging"), [""; 0]);
    assert!(setup.store.fsck(robot_env_store::FsckOptions::default()).unwrap().is_empty());
}

#[test]
fn privileged_a_whole_image_keeps_what_its_layers_say() {
    if !is_root() {
        return;
    }
    let setup = Setup::new("pull-whole");
    let image = ImageBuilder::new()
        .layer(&[
            Entry::directory("etc/").owner(7, 8).mode(0o750),
            Entry::file("etc/gone", "x"),
            Entry::directory("usr/"),
            Entry::directory("usr/bin/"),
            Entry::symlink("bin", "usr/bin"),
            Entry::file("usr/bin/tool", "#!").mode(0o4755).owner(0, 5).xattr("security.capability", {
                let mut value = vec![1, 0, 0, 2];
                value.extend([0; 16]);
                value
            }),
            Entry::character("tty", 5, 0),
        ])
        // Directories that this layer implies only: they take after those below, links included.
        .layer(&[Entry::whiteout("etc/gone"), Entry::file("etc/new", "n").owner(1000, 1000)])
        .layer(&[Entry::file("bin/other", "o")])
        .build();
    setup.registry.put_image("whole", "latest", &image);
    setup.pull("whole").unwrap();
    let chain = chain(&image);
    let tree = |n: usize| setup.layer(&chain.links()[n].1).join("fs");
    let tool = std::fs::metadata(tree(0).join("usr/bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.gid()), (0o4755, 5));
    assert!(std::fs::metadata(tree(0).join("tty")).unwrap().file_type().is_char_device());
    let hidden = std::fs::symlink_metadata(tree(1).join("etc/gone")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let etc = std::fs::metadata(tree(1).join("etc")).unwrap();
    assert_eq!((etc.permissions().mode() & 0o7777, etc.uid(), etc.gid()), (0o750, 7, 8));
    assert_eq!(std::fs::metadata(tree(1).join("etc/new")).unwrap().uid(), 1000);
    assert_eq!(std::fs::read(tree(2).join("usr/bin/other")).unwrap(), b"o");
    assert_eq!(std::fs::read_link(tree(2).join("bin")).unwrap().to_str(), Some("usr/bin"));
}

#[test]
fn hostile_layers_touch_nothing_outside() {
    let outside = robot_env_testkit::temporary::TemporaryDirectory::new("pull-outside");
    let file = outside.join("victim");
    std::fs::write(&file, "untouched").unwrap();
    let before = std::fs::metadata(&file).unwrap();
    for case in robot_env_testkit::hostile::malicious(file.to_str().unwrap()) {
        let setup = Setup::new("pull-hostile");
        let image = ImageBuilder::new()
            .layer(&[Entry::file("base", "b")])
            .raw_layer(case.tar.clone(), Compression::Gzip)
            .build();
        setup.registry.put_image("hostile", "latest", &image);
        let result = setup.pull("hostile");
        match &result {
            Ok(_) => assert!(!case.refused, "{} was taken", case.name),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "{}: {error:?}", case.name);
                assert!(!text(error).contains("does not match its digest"), "{}: {error:?}", case.name);
                setup.assert_nothing_visible();
            }
        }
        let blob = image.layers[1].descriptor.digest.to_string();
        assert_eq!(setup.registry.count("GET", &blob), 1, "{}: its bytes were right", case.name);
        let after = std::fs::metadata(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"untouched", "{}", case.name);
        assert_eq!(
            (after.mode(), after.nlink(), after.mtime()),
            (before.mode(), before.nlink(), before.mtime()),
            "{}",
            case.name
        );
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "{}", case.name);
        for marker in [".wh.victim", ".wh..wh..opq"] {
            assert!(!outside.join(marker).exists(), "{}", case.name);
        }
    }
}

#[test]
fn privileged_a_full_disk_is_named_and_gives_its_space_back() {
    if !inside("privileged_a_full_disk_is_named_and_gives_its_space_back") {
        return;
    }
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let registry = TestRegistry::start();
    let small = ImageBuilder::new().layer(&[Entry::file("small", "s")]).build();
    let large = ImageBuilder::new()
        .layer(&[Entry::file("fits", noise(1 << 20, 5))])
        .layer(&[Entry::file("large", vec![7; 64 << 20])])
        .build();
    registry.put_image("small", "latest", &small);
    registry.put_image("large", "latest", &large);
    let directory = robot_env_testkit::temporary::TemporaryDirectory::new("pull-full");
    mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), c"size=8m").unwrap();
    let setup =
        Setup { registry, client: Client::new(options()), store: open(&directory.join("store")), directory };
    setup.pull("small").unwrap();
    let room = setup.store.space().unwrap().available;
    let error = setup.pull("large").unwrap_err();
    let told = text(&error);
    assert_eq!(error.kind(), Kind::NoSpace, "{told}");
    assert!(
        told.contains("no space for layer") && told.contains("/store") && told.contains("bytes"),
        "{told}"
    );
    assert_eq!(setup.store.names().unwrap().len(), 2, "the small image's");
    assert_eq!(setup.entries("staging"), [""; 0]);
    setup.store.collect(&robot_env_store::CollectOptions::default()).unwrap();
    setup.store.empty_trash(None).unwrap();
    assert!(setup.store.space().unwrap().available + 65536 >= room);
    assert!(!setup.pull("small").unwrap().newer);
    unmount(setup.directory.path(), UnmountFlags::DETACH).unwrap();
}
