use robot_env_diag::Kind;
use robot_env_testkit::image::{Entry, tar};
use robot_env_transfer::{Change, ImportOptions, import};

use crate::place::{COMPRESSIONS, Place};

fn tree() -> Vec<u8> {
    tar(&[
        Entry::directory("./"),
        Entry::directory("./bin/").mode(0o755),
        Entry::file("./bin/sh", "#!").mode(0o4755),
        Entry::hardlink("./bin/bash", "./bin/sh"),
        Entry::symlink("./lib", "usr/lib"),
    ])
}

#[test]
fn a_tree_becomes_an_image() {
    for compression in COMPRESSIONS {
        let place = Place::new();
        let options = ImportOptions {
            changes: Change::parse_all(["CMD [\"/bin/sh\"]", "ENV A=1", "LABEL a=b"]).unwrap(),
            message: "from a tree".into(),
            platform: Some("linux/arm64/v8".parse().unwrap()),
            reference: Some("team/base".parse().unwrap()),
            ..ImportOptions::default()
        };
        let bytes = compression.compress(&tree());
        let record = import(&place.unpacker(), &bytes[..], &options, &()).unwrap();
        assert_eq!(place.store.resolve("team/base:latest").unwrap().id, record.id);
        let config = place.store.config(&record.id).unwrap().into_value();
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["created"], "1970-01-01T00:00:00Z");
        assert_eq!(json["config"]["Cmd"], serde_json::json!(["/bin/sh"]));
        assert_eq!(json["config"]["Env"], serde_json::json!(["A=1"]));
        assert_eq!((&json["architecture"], &json["variant"]), (&"arm64".into(), &"v8".into()));
        assert_eq!(json["history"][0]["comment"], "from a tree");
        let digest = robot_env_oci::Digest::of(&tree());
        assert_eq!(json["rootfs"]["diff_ids"][0], digest.to_string());
        let fs = place.root().join("layers").join(record.layers[0].hex()).join("fs");
        use std::os::unix::fs::MetadataExt;
        let sh = std::fs::metadata(fs.join("bin/sh")).unwrap();
        assert_eq!((sh.mode() & 0o7777, sh.nlink()), (0o4755, 2));
        assert!(place.store.fsck(robot_env_store::FsckOptions::default()).unwrap().is_empty());
    }
}

#[test]
fn what_is_no_tree_is_refused() {
    let whole = tree();
    for (what, bytes, kind) in [
        ("nothing", Vec::new(), Kind::Corrupt),
        ("an empty tar", tar(&[]), Kind::InvalidInput),
        ("text", b"hello".repeat(500), Kind::Corrupt),
        ("cut", whole[..whole.len() - 1500].to_vec(), Kind::Corrupt),
        ("xz", b"\xfd7zXZ\0\0\0".to_vec(), Kind::Unsupported),
    ] {
        let place = Place::new();
        let error = import(&place.unpacker(), &bytes[..], &ImportOptions::default(), &()).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        place.assert_nothing(what);
    }
    let place = Place::new();
    let reference = format!("a@{}", robot_env_oci::Digest::of(b"x"));
    let options = ImportOptions { reference: Some(reference.parse().unwrap()), ..ImportOptions::default() };
    assert!(import(&place.unpacker(), &whole[..], &options, &()).is_err());
}
