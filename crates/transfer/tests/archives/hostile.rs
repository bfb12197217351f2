use robot_env_diag::Kind;
use robot_env_oci::{Descriptor, Digest, media_type};
use robot_env_testkit::hostile::malicious;
use robot_env_testkit::image::{BuiltImage, Compression, Entry, ImageBuilder, small, tar};
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_transfer::LoadOptions;

use crate::place::{Layout, Place, WAYS, archive, blob, entries};

/// Entries, but one of them changed.
fn with(layout: Layout, image: &BuiltImage, change: impl Fn(&mut Vec<Entry>)) -> Vec<u8> {
    let mut all = entries(layout, &[(image, &["robot:1"])]);
    change(&mut all);
    tar(&all)
}

fn without(name: &str) -> impl Fn(&mut Vec<Entry>) + use<'_> {
    move |all| {
        let before = all.len();
        all.retain(|entry| entry.path != name.as_bytes());
        assert!(all.len() < before, "{name}");
    }
}

fn replaced(name: &str, by: Entry) -> impl Fn(&mut Vec<Entry>) + use<'_> {
    move |all| {
        let at = all.iter().position(|entry| entry.path == name.as_bytes()).expect(name);
        all[at] = Entry { path: name.into(), ..by.clone() };
    }
}

fn manifest_json(value: serde_json::Value) -> Entry {
    Entry::file("manifest.json", value.to_string())
}

#[test]
fn nothing_of_a_bad_archive_is_seen() {
    let image = small();
    let id = image.id();
    let config = format!("{}.json", id.hex());
    let first = format!("{}/layer.tar", image.layers[0].diff_id.hex());
    let second = format!("{}/layer.tar", image.layers[1].diff_id.hex());
    let good = archive(Layout::Old, &[(&image, &["robot:1"])]);
    let listed = |config: &str, tags: serde_json::Value, layers: &[&str]| {
        manifest_json(serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": layers}]))
    };
    let old = |change: &dyn Fn(&mut Vec<Entry>)| with(Layout::Old, &image, change);
    let swap = |entry: Entry| old(&replaced("manifest.json", entry));
    let oci_blob = blob(&image.layers[1].descriptor.digest);
    let oci_manifest = blob(&image.digest());
    let deep = {
        let mut out = entries(Layout::Oci, &[(&image, &[])]);
        out.retain(|entry| entry.path != b"index.json");
        let mut inner =
            Descriptor::new(media_type::OCI_MANIFEST, image.digest(), image.manifest.len() as u64);
        for _ in 0..12 {
            let index = serde_json::json!({"schemaVersion": 2, "manifests": [inner]}).to_string();
            inner = Descriptor::new(media_type::OCI_INDEX, Digest::of(index.as_bytes()), index.len() as u64);
            out.push(Entry::file(&blob(&inner.digest), index));
        }
        out.push(Entry::file(
            "index.json",
            serde_json::json!({"schemaVersion": 2, "manifests": [inner]}).to_string(),
        ));
        tar(&out)
    };
    let cases: Vec<(&str, Vec<u8>, Kind)> = vec![
        ("nothing", Vec::new(), Kind::InvalidInput),
        ("an empty tar", tar(&[]), Kind::InvalidInput),
        ("no tar", b"#!/bin/sh\necho this is a script and no archive\n".repeat(30), Kind::Corrupt),
        ("xz", b"\xfd7zXZ\0\0\0\0\0\0\0".to_vec(), Kind::Unsupported),
        ("a tree", tar(&[Entry::directory("etc/"), Entry::file("etc/passwd", "root")]), Kind::InvalidInput),
        ("cut in a layer", good[..good.len() / 3].to_vec(), Kind::Corrupt),
        ("cut before the manifest", good[..good.len() - 4096].to_vec(), Kind::InvalidInput),
        (
            "cut gzip",
            {
                let whole = Compression::Gzip.compress(&good);
                whole[..whole.len() / 2].to_vec()
            },
            Kind::Corrupt,
        ),
        (
            "cut zstd",
            {
                let whole = Compression::Zstd.compress(&good);
                whole[..whole.len() / 2].to_vec()
            },
            Kind::Corrupt,
        ),
        ("no image", swap(manifest_json(serde_json::json!([]))), Kind::InvalidInput),
        ("no JSON", swap(Entry::file("", "{[")), Kind::Corrupt),
        ("deep JSON", swap(Entry::file("", "[".repeat(100_000))), Kind::Corrupt),
        ("giant JSON", swap(Entry::file("", format!("[{}]", " ".repeat(5 << 20)))), Kind::Corrupt),
        ("another shape", swap(manifest_json(serde_json::json!({"Config": 1}))), Kind::Corrupt),
        ("a config outside", swap(listed("../../etc/passwd", serde_json::json!([]), &[])), Kind::Corrupt),
        ("an absolute config", swap(listed("/etc/passwd", serde_json::json!([]), &[])), Kind::Corrupt),
        (
            "a layer outside",
            swap(listed(&config, serde_json::json!([]), &["../x", "/etc/passwd"])),
            Kind::Corrupt,
        ),
        ("a missing config", old(&without(&config)), Kind::Corrupt),
        ("a missing layer", old(&without(&second)), Kind::Corrupt),
        ("too few layers", swap(listed(&config, serde_json::json!([]), &[&first])), Kind::Corrupt),
        (
            "too many layers",
            swap(listed(&config, serde_json::json!([]), &[&first, &second, &second])),
            Kind::Corrupt,
        ),
        (
            "layers in another order",
            swap(listed(&config, serde_json::json!([]), &[&second, &first])),
            Kind::Corrupt,
        ),
        (
            "a config as a layer",
            swap(listed(&config, serde_json::json!([]), &[&first, &config])),
            Kind::Corrupt,
        ),
        (
            "a layer as a config",
            swap(listed(&first, serde_json::json!([]), &[&first, &second])),
            Kind::Corrupt,
        ),
        (
            "a name of bad form",
            swap(listed(&config, serde_json::json!(["Robot:1"]), &[&first, &second])),
            Kind::InvalidInput,
        ),
        (
            "a name without a tag",
            swap(listed(&config, serde_json::json!(["robot"]), &[&first, &second])),
            Kind::Corrupt,
        ),
        (
            "a name with control signs",
            swap(listed(&config, serde_json::json!(["a\u{1b}[2J:1"]), &[&first, &second])),
            Kind::InvalidInput,
        ),
        (
            "another layer",
            old(&replaced(&second, Entry::file("", tar(&[Entry::file("evil", "")])))),
            Kind::Corrupt,
        ),
        (
            "another config",
            old(&replaced(&config, Entry::file("", "{\"rootfs\":{\"type\":\"layers\"}}"))),
            Kind::Corrupt,
        ),
        (
            "a config that is none",
            {
                let text = "[1]";
                let name = format!("{}.json", Digest::of(text.as_bytes()).hex());
                let mut all = entries(Layout::Old, &[(&image, &[])]);
                all.retain(|entry| entry.path != b"manifest.json");
                all.push(Entry::file(&name, text));
                all.push(listed(&name, serde_json::json!([]), &[]));
                tar(&all)
            },
            Kind::Corrupt,
        ),
        ("a link outside", old(&replaced(&second, Entry::symlink("", "/etc/passwd"))), Kind::Corrupt),
        ("a link up", old(&replaced(&second, Entry::symlink("", "../../x"))), Kind::Corrupt),
        ("a link to itself", old(&replaced(&second, Entry::symlink("", "layer.tar"))), Kind::Corrupt),
        ("a dangling link", old(&replaced(&second, Entry::symlink("", "nothing"))), Kind::Corrupt),
        ("a hard link outside", old(&replaced(&second, Entry::hardlink("", "/etc/passwd"))), Kind::Corrupt),
        ("a device", old(&replaced(&second, Entry::character("", 1, 3))), Kind::Corrupt),
        ("a FIFO", old(&|all| all.push(Entry::fifo("pipe"))), Kind::Corrupt),
        ("two manifests", old(&|all| all.push(manifest_json(serde_json::json!([])))), Kind::Corrupt),
        ("a name outside", old(&|all| all.push(Entry::file("../x", ""))), Kind::Corrupt),
        ("an absolute name", old(&|all| all.push(Entry::file("/tmp/x", ""))), Kind::Corrupt),
        (
            "a size that lies",
            old(&|all| all.push(Entry::file("x", "y").declared_size(1 << 50))),
            Kind::Corrupt,
        ),
        ("an OCI layer is missing", with(Layout::Oci, &image, without(&oci_blob)), Kind::Corrupt),
        (
            "another OCI layer",
            with(Layout::Oci, &image, replaced(&oci_blob, Entry::file("", "x".repeat(2000)))),
            Kind::Corrupt,
        ),
        ("an OCI manifest is missing", with(Layout::Oci, &image, without(&oci_manifest)), Kind::Corrupt),
        (
            "another OCI manifest",
            with(Layout::Oci, &image, replaced(&oci_manifest, Entry::file("", "{}"))),
            Kind::Corrupt,
        ),
        (
            "index.json is a manifest",
            with(Layout::Oci, &image, replaced("index.json", Entry::file("", image.manifest.clone()))),
            Kind::Corrupt,
        ),
        (
            "a layout of the future",
            with(
                Layout::Oci,
                &image,
                replaced("oci-layout", Entry::file("", r#"{"imageLayoutVersion":"2.0"}"#)),
            ),
            Kind::Unsupported,
        ),
        ("deep indexes", deep, Kind::Corrupt),
    ];
    for (what, bytes, kind) in cases {
        for way in WAYS {
            let place = Place::new();
            match place.load_by(&bytes, way, &LoadOptions::default()) {
                Ok(loaded) => panic!("{what} {way:?}: {loaded:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), kind, "{what} {way:?}: {error:?}");
                    assert_eq!(error.message(), "cannot load the archive", "{what}");
                }
            }
            place.assert_nothing(what);
        }
    }
}

#[test]
fn a_hint_where_import_was_meant() {
    let place = Place::new();
    let bytes = tar(&[Entry::directory("usr/"), Entry::directory("usr/bin/"), Entry::file("usr/bin/sh", "")]);
    assert!(place.load(&bytes).unwrap_err().hint().is_some_and(|hint| hint.contains("import")));
}

#[test]
fn layers_that_mean_harm_touch_nothing_outside() {
    let outside = TemporaryDirectory::new("outside");
    let target = outside.join("target");
    for evil in malicious(target.to_str().unwrap()) {
        let image = ImageBuilder::new()
            .layer(&[Entry::file("ok", "1")])
            .raw_layer(evil.tar.clone(), Compression::None)
            .build();
        for layout in [Layout::Old, Layout::Oci] {
            for way in WAYS {
                let place = Place::new();
                let bytes = archive(layout, &[(&image, &["evil:1"])]);
                let loaded = place.load_by(&bytes, way, &LoadOptions::default());
                assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "{}", evil.name);
                match loaded {
                    Ok(_) => assert!(!evil.refused, "{} {layout:?} {way:?}", evil.name),
                    Err(error) => {
                        assert!(
                            matches!(error.kind(), Kind::Corrupt | Kind::Denied),
                            "{} {layout:?} {way:?}: {error:?}",
                            evil.name
                        );
                        place.assert_nothing(evil.name);
                    }
                }
            }
        }
    }
}

/// A part of any archive never loads and never panics.
#[test]
fn no_prefix_of_an_archive_loads() {
    let image = small();
    for layout in [Layout::Old, Layout::OciFirst] {
        let bytes = archive(layout, &[(&image, &["robot:1"])]);
        let place = Place::new();
        // The last byte of the last document; behind it is padding, which a reader can do without.
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for cut in (0..last).step_by(1777).chain([last]) {
            let mut part = &bytes[..cut];
            let source = robot_env_transfer::ArchiveSource::Stream(&mut part);
            let loaded = robot_env_transfer::load(&place.unpacker(), source, &LoadOptions::default(), &());
            assert!(loaded.is_err(), "{layout:?} {cut}");
            assert!(place.store.image_ids().unwrap().is_empty());
        }
    }
}
