use std::process::Command;

use robot_env_diag::Kind;
use robot_env_oci::{DiffId, ImageId, LayerChain};
use robot_env_testkit::image::{Compression, Entry, ImageBuilder, small};
use robot_env_transfer::{LoadOptions, SaveOptions, save};

use crate::place::{LAYOUTS, Layout, Place, WAYS, archive};

fn saved(place: &Place, texts: &[&str]) -> robot_env_diag::Result<Vec<u8>> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    save(&place.store, &texts, Vec::new(), &SaveOptions::default(), &())
}

fn second() -> robot_env_testkit::image::BuiltImage {
    ImageBuilder::new()
        .layer(&[Entry::directory("opt/"), Entry::file("opt/f", "x".repeat(5000))])
        .layer_with(&[Entry::file("opt/g", ""), Entry::opaque("opt")], Compression::Zstd)
        .build()
}

#[test]
fn what_is_saved_loads_as_the_same() {
    for layout in LAYOUTS {
        let from = Place::new();
        from.load(&archive(layout, &[(&small(), &["robot:1", "robot:2"]), (&second(), &["other:x"])]))
            .unwrap();
        let bytes = saved(&from, &["robot", "other:x"]).unwrap();
        assert!(bytes == saved(&from, &["robot", "other:x"]).unwrap(), "{layout:?} is not deterministic");
        for way in WAYS {
            let to = Place::new();
            let loaded = to.load_by(&bytes, way, &LoadOptions::default()).unwrap();
            let names: Vec<Vec<String>> = loaded
                .iter()
                .map(|l| l.references.iter().map(robot_env_oci::Reference::familiar).collect())
                .collect();
            assert_eq!(names, [vec!["robot:1", "robot:2"], vec!["other:x"]], "{layout:?} {way:?}");
            to.assert_whole(&small());
            to.assert_whole(&second());
            assert!(
                bytes == saved(&to, &["robot", "other:x"]).unwrap(),
                "{layout:?} {way:?} saves other bytes"
            );
        }
    }
}

/// Readers from before Docker 1.10 look there for what names mean.
#[test]
fn old_readers_find_the_names() {
    let place = Place::new();
    let empty = ImageBuilder::new().build();
    let images = [
        (&small(), ["robot:1", "robot:2"].as_slice()),
        (&second(), &["r.example/a/b:x"]),
        (&empty, &["no:layers"]),
    ];
    place.load(&archive(Layout::Old, &images)).unwrap();
    let bytes = saved(&place, &["robot", "r.example/a/b:x", "no:layers"]).unwrap();
    let mut members = robot_env_layer::Members::new(bytes.as_slice());
    let mut found = Vec::new();
    while let Some(member) = members.next().unwrap() {
        if member.path == b"repositories" {
            std::io::Read::read_to_end(&mut members, &mut found).unwrap();
        }
    }
    let top =
        |image: &robot_env_testkit::image::BuiltImage| image.layers.last().unwrap().diff_id.hex().to_owned();
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    let want = serde_json::json!({
        "robot": {"1": top(&small()), "2": top(&small())}, "r.example/a/b": {"x": top(&second())},
    });
    assert_eq!(found, want);
    // Without names there is nothing that it could say.
    let id = ImageId(small().id());
    let bytes = saved(&place, &[id.short()]).unwrap();
    assert!(!bytes.windows(12).any(|window| window == b"repositories"));
}

#[test]
fn the_manifest_is_kept_where_its_blobs_can_be_given() {
    let image = ImageBuilder::new().layer_with(&[Entry::file("a", "b")], Compression::None).build();
    let place = Place::new();
    place.load(&archive(Layout::Oci, &[(&image, &["plain:1"])])).unwrap();
    let to = Place::new();
    let loaded = to.load(&saved(&place, &["plain:1"]).unwrap()).unwrap();
    assert_eq!(loaded[0].image.manifest.as_ref().unwrap().digest, image.digest());
    // Compressed layers are not kept.
    place.load(&archive(Layout::Oci, &[(&small(), &["robot:1"])])).unwrap();
    let loaded = to.load(&saved(&place, &["robot:1"]).unwrap()).unwrap();
    assert_ne!(loaded[0].image.manifest.as_ref().unwrap().digest, small().digest());
    // But where the store has the blobs, they go into the archive.
    for layer in &small().layers {
        let mut blob = place.store.ingest(&layer.descriptor.digest).unwrap();
        std::io::Write::write_all(&mut blob, &layer.blob).unwrap();
        blob.commit(layer.blob.len() as u64).unwrap();
    }
    let to = Place::new();
    let loaded = to.load(&saved(&place, &["robot:1"]).unwrap()).unwrap();
    assert_eq!(loaded[0].image.manifest.as_ref().unwrap().digest, small().digest());
    to.assert_whole(&small());
}

#[test]
fn ids_save_without_names_and_unknown_ones_fail_before_anything_is_written() {
    let place = Place::new();
    place.load(&archive(Layout::Old, &[(&small(), &["robot:1"])])).unwrap();
    let id = ImageId(small().id());
    let to = Place::new();
    let loaded = to.load(&saved(&place, &[id.short()]).unwrap()).unwrap();
    assert!(loaded[0].references.is_empty());
    for (texts, kind) in [
        (&["robot:1", "nothing"][..], Kind::NotFound),
        (&["robot:2"], Kind::NotFound),
        (&["Robot"], Kind::InvalidInput),
    ] {
        assert_eq!(saved(&place, texts).unwrap_err().kind(), kind, "{texts:?}");
    }
    let options = SaveOptions { platform: Some("linux/s390x".parse().unwrap()), ..SaveOptions::default() };
    let error = save(&place.store, &["robot:1".into()], Vec::new(), &options, &()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn a_damaged_layer_is_not_saved() {
    let place = Place::new();
    let loaded = place.load(&archive(Layout::Old, &[(&small(), &["robot:1"])])).unwrap();
    let layer = place.root().join("layers").join(loaded[0].image.layers[0].hex());
    std::fs::write(layer.join("fs/etc/passwd"), "root:x:0:0::/root:/bin/eh\n").unwrap();
    let error = saved(&place, &["robot:1"]).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    std::fs::remove_file(layer.join("recipe.zst")).unwrap();
    assert_eq!(saved(&place, &["robot:1"]).unwrap_err().kind(), Kind::Corrupt);
}

/// skopeo reads what is saved in both layouts, and what it writes is loaded.
#[test]
fn skopeo_both_ways() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("skipped: skopeo is not installed");
        return;
    }
    let place = Place::new();
    place.load(&archive(Layout::Old, &[(&small(), &["robot:1"]), (&second(), &["other:x"])])).unwrap();
    let path = |name: &str| place.directory.join(name).display().to_string();
    let copy = |from: &str, to: &str| {
        let out = Command::new("skopeo")
            .args(["--insecure-policy", "--tmpdir", &path(""), "copy", from, to])
            .output()
            .unwrap();
        assert!(out.status.success(), "{from} -> {to}: {}", String::from_utf8_lossy(&out.stderr));
    };
    std::fs::write(path("both.tar"), saved(&place, &["robot:1", "other:x"]).unwrap()).unwrap();
    std::fs::write(path("one.tar"), saved(&place, &["robot:1"]).unwrap()).unwrap();
    let both = path("both.tar");
    for (from, to) in [
        (
            format!("docker-archive:{both}:docker.io/library/robot:1"),
            format!("oci-archive:{}:robot:1", path("a.tar")),
        ),
        (format!("oci-archive:{}", path("one.tar")), format!("docker-archive:{}:robot:1", path("b.tar"))),
        (format!("oci-archive:{both}:1"), format!("oci-archive:{}:robot:1", path("c.tar"))),
        (format!("docker-archive:{}", path("one.tar")), format!("docker-archive:{}:robot:1", path("d.tar"))),
    ] {
        copy(&from, &to);
        let file = to.split(':').nth(1).unwrap();
        for way in WAYS {
            let back = Place::new();
            let loaded = back.load_by(&std::fs::read(file).unwrap(), way, &LoadOptions::default()).unwrap();
            assert_eq!(loaded[0].references[0].familiar(), "robot:1", "{from} -> {to}");
            let diff_ids: Vec<_> = small().layers.iter().map(|l| DiffId(l.diff_id.clone())).collect();
            let chain = LayerChain::new(&diff_ids);
            assert_eq!(loaded[0].image.chain(), chain.top(), "{from} -> {to}");
            // Between the formats skopeo writes the config anew.
            if from.split('-').next() == to.split('-').next() {
                back.assert_whole(&small());
            }
        }
    }
}

#[test]
fn layers_that_are_there_are_left_out() {
    let image = second();
    let from = Place::new();
    from.load(&archive(Layout::Oci, &[(&image, &["other:x"])])).unwrap();
    let chains = |place: &Place| place.store.layers().unwrap();
    let partial = |present: &[robot_env_oci::ChainId]| {
        let options = SaveOptions { present: present.iter().cloned().collect(), ..SaveOptions::default() };
        save(&from.store, &["other:x".into()], Vec::new(), &options, &()).unwrap()
    };
    let all = chains(&from);
    assert_eq!(all.len(), 2);
    for way in WAYS {
        for kept in &all {
            // The other side has one of the two, whichever.
            let to = Place::new();
            to.load(&saved(&from, &["other:x"]).unwrap()).unwrap();
            let bytes = partial(std::slice::from_ref(kept));
            assert!(bytes.len() < saved(&from, &["other:x"]).unwrap().len());
            to.load_by(&bytes, way, &LoadOptions::default()).unwrap();
            to.assert_whole(&image);
        }
        // What is neither there nor in the archive is said.
        let error = Place::new().load_by(&partial(&all), way, &LoadOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{way:?} {error}");
    }
}
