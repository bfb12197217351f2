use robot_env_diag::Kind;
use robot_env_oci::{Descriptor, Digest, ImageId, Platform, media_type};
use robot_env_store::FsckOptions;
use robot_env_testkit::image::{Compression, Entry, ImageBuilder, small, tar};
use robot_env_transfer::LoadOptions;

use crate::place::{COMPRESSIONS, LAYOUTS, Layout, Place, WAYS, Way, archive, blob, entries};

#[test]
fn every_layout_in_every_compression_by_every_way() {
    let image = small();
    let options = LoadOptions::default();
    for layout in LAYOUTS {
        let plain = archive(layout, &[(&image, &["robot:1", "robot:2"])]);
        for compression in COMPRESSIONS {
            let bytes = compression.compress(&plain);
            for way in WAYS {
                let place = Place::new();
                let what = format!("{layout:?} {compression:?} {way:?}");
                let loaded = place.load_by(&bytes, way, &options).unwrap_or_else(|e| panic!("{what}: {e:?}"));
                assert_eq!(loaded.len(), 1, "{what}");
                assert_eq!(loaded[0].image.id.0, image.id(), "{what}");
                let names: Vec<String> = loaded[0].references.iter().map(ToString::to_string).collect();
                assert_eq!(names, ["docker.io/library/robot:1", "docker.io/library/robot:2"], "{what}");
                assert_eq!(place.store.resolve("robot:2").unwrap().id.0, image.id(), "{what}");
                place.assert_whole(&image);
                let manifest = loaded[0].image.manifest.is_some();
                assert_eq!(manifest, !matches!(layout, Layout::Old | Layout::Podman), "{what}");
            }
        }
    }
}

#[test]
fn an_image_without_a_name_is_loaded_by_its_id() {
    for layout in LAYOUTS {
        let place = Place::new();
        let loaded = place.load(&archive(layout, &[(&small(), &[])])).unwrap();
        assert!(loaded[0].references.is_empty(), "{layout:?}");
        place.assert_whole(&small());
    }
}

/// The same layer stands in two chains; a stream has it once.
#[test]
fn a_layer_in_two_chains() {
    let one = &[Entry::file("a", "1")][..];
    let two = &[Entry::file("b", "2")][..];
    let three = &[Entry::file("c", "3")][..];
    let build = |layers: &[&[Entry]]| {
        layers.iter().fold(ImageBuilder::new(), |b, l| b.layer_with(l, Compression::None)).build()
    };
    let (first, second) = (build(&[one, two]), build(&[two, one, three]));
    for layout in LAYOUTS {
        let bytes = archive(layout, &[(&first, &["first:1"]), (&second, &["second:1"])]);
        for way in WAYS {
            let place = Place::new();
            let loaded = place.load_by(&bytes, way, &LoadOptions::default()).unwrap();
            assert_eq!(loaded.len(), 2, "{layout:?} {way:?}");
            place.assert_whole(&first);
            place.assert_whole(&second);
        }
    }
}

#[test]
fn layers_that_are_here_are_left_and_damaged_ones_are_mended() {
    let image = small();
    let bytes = archive(Layout::Hybrid, &[(&image, &["robot:1"])]);
    for way in WAYS {
        let place = Place::new();
        let loaded = place.load(&bytes).unwrap();
        let chains = &loaded[0].image.layers;
        let made = |at: usize| place.store.layer(&chains[at]).unwrap().unwrap().created;
        let before = (made(0), made(1));
        std::fs::remove_file(place.root().join("layers").join(chains[1].hex()).join("layer.json")).unwrap();
        assert_eq!(place.store.layer(&chains[1]).unwrap_err().kind(), Kind::Corrupt);
        place.load_by(&bytes, way, &LoadOptions::default()).unwrap();
        assert_eq!(made(0), before.0, "{way:?}");
        assert!(made(1) > before.1, "{way:?}");
        place.assert_whole(&image);
    }
}

/// What `fsck` finds in a file's content is mended by a load too.
#[test]
fn bit_rot_that_fsck_finds_is_mended() {
    let image = small();
    let bytes = archive(Layout::Old, &[(&image, &["robot:1"])]);
    let place = Place::new();
    let loaded = place.load(&bytes).unwrap();
    let layer = place.root().join("layers").join(loaded[0].image.layers[0].hex());
    std::fs::write(layer.join("fs/etc/passwd"), "rooted").unwrap();
    let verify: &robot_env_store::Verify<'_> = &|mut recipe, tree| {
        let mut hasher = robot_env_oci::Hasher::new(robot_env_oci::Algorithm::Sha256);
        let _ = robot_env_layer::assemble(&mut recipe, tree, &mut hasher);
        Ok(robot_env_oci::DiffId(hasher.finish()))
    };
    let damage = place.store.fsck(FsckOptions { deep: Some(verify), repair: true }).unwrap();
    assert!(damage.iter().any(|damage| damage.repaired), "{damage:?}");
    place.load(&bytes).unwrap();
    place.assert_whole(&image);
}

#[test]
fn a_name_moves_and_that_is_told() {
    let place = Place::new();
    let (old, new) = (small(), ImageBuilder::new().layer(&[Entry::file("new", "")]).build());
    place.load(&archive(Layout::Old, &[(&old, &["robot:1"])])).unwrap();
    let loaded = place.load(&archive(Layout::Old, &[(&new, &["robot:1"])])).unwrap();
    assert_eq!(loaded[0].renamed.len(), 1);
    assert_eq!(loaded[0].renamed[0].1, ImageId(old.id()));
    assert_eq!(place.store.resolve("robot:1").unwrap().id.0, new.id());
    let again = place.load(&archive(Layout::Old, &[(&new, &["robot:1"])])).unwrap();
    assert!(again[0].renamed.is_empty());
}

fn platforms(nested: bool) -> (Vec<u8>, Vec<(String, Digest)>) {
    let mut out = Vec::new();
    let mut descriptors = Vec::new();
    let mut ids = Vec::new();
    for platform in ["linux/amd64", "linux/arm64", "linux/riscv64"] {
        let parsed: Platform = platform.parse().unwrap();
        let image =
            ImageBuilder::new().platform(parsed.clone()).layer(&[Entry::file("platform", platform)]).build();
        for entry in entries(Layout::Oci, &[(&image, &[])]) {
            if entry.path.starts_with(b"blobs/") {
                out.push(entry);
            }
        }
        let mut descriptor = Descriptor::new(&image.media_type, image.digest(), image.manifest.len() as u64);
        descriptor.platform = Some(parsed);
        descriptors.push(descriptor);
        ids.push((platform.to_owned(), image.id()));
    }
    let mut index =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": descriptors})
            .to_string();
    for _ in 0..if nested { 2 } else { 0 } {
        let digest = Digest::of(index.as_bytes());
        let mut descriptor = Descriptor::new(media_type::OCI_INDEX, digest.clone(), index.len() as u64);
        descriptor.annotations.insert("org.opencontainers.image.ref.name".into(), "robot:all".into());
        out.push(Entry::file(&blob(&digest), index));
        index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
    }
    out.push(Entry::file("index.json", index));
    out.push(Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#));
    (tar(&out), ids)
}

#[test]
fn a_platform_is_chosen() {
    for nested in [false, true] {
        let (bytes, ids) = platforms(nested);
        for way in [Way::File, Way::Stream] {
            for (platform, id) in &ids {
                let place = Place::new();
                let options = LoadOptions { platform: Some(platform.parse().unwrap()) };
                let loaded = place.load_by(&bytes, way, &options).unwrap();
                assert_eq!((loaded.len(), &loaded[0].image.id.0), (1, id), "{nested} {way:?} {platform}");
                let names: Vec<String> =
                    loaded[0].references.iter().map(robot_env_oci::Reference::familiar).collect();
                assert_eq!(names, if nested { vec!["robot:all"] } else { vec![] });
            }
            let place = Place::new();
            let options = LoadOptions { platform: Some("linux/s390x".parse().unwrap()) };
            let error = place.load_by(&bytes, way, &options).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
            assert!(format!("{error:?}").contains("linux/riscv64"), "{error:?}");
            place.assert_nothing("another platform");
        }
    }
}

#[test]
fn an_image_for_another_machine_comes_when_it_comes_alone() {
    let image =
        ImageBuilder::new().platform("linux/riscv64".parse().unwrap()).layer(&[Entry::file("a", "")]).build();
    for layout in LAYOUTS {
        let bytes = archive(layout, &[(&image, &["risc:v"])]);
        let place = Place::new();
        assert_eq!(place.load(&bytes).unwrap()[0].image.id.0, image.id(), "{layout:?}");
        let place = Place::new();
        let options = LoadOptions { platform: Some("linux/amd64".parse().unwrap()) };
        let error = place.load_by(&bytes, Way::File, &options).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{layout:?} {error:?}");
        place.assert_nothing("another platform");
    }
}
