//! What a container has written can be measured and kept before it is removed. Needs root; nothing
//! is started.

#![allow(clippy::print_stdout)] // why a test is skipped

use robot_env_engine::{Access, CreateRequest, Engine, EngineOptions, RemoveContainerOptions};
use robot_env_layer::{ChangeKind, ExtractOptions};
use robot_env_spec::ContainerSpec;
use robot_env_testkit::image::{Entry, tar};
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_transfer::{ImportOptions, Unpacker, import, ownership};

#[test]
fn privileged_a_containers_layer_outlives_it_as_an_image() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let directory = TemporaryDirectory::new("keep");
    let engine = Engine::open(&EngineOptions {
        root: directory.join("root"),
        run_root: directory.join("run"),
        rootless: false,
        single_id: false,
    })
    .unwrap();
    let files = tar(&[Entry::directory("data"), Entry::file("data/old", "old")]);
    let options =
        ImportOptions { reference: Some("base:latest".parse().unwrap()), ..ImportOptions::default() };
    import(&Unpacker::new(engine.store(), ownership()), &files[..], &options, &()).unwrap();
    let spec =
        ContainerSpec { image: "base".into(), command: Some(vec!["x".into()]), ..ContainerSpec::default() };
    let made = engine.create(CreateRequest { spec, name: Some("cc".into()) }).unwrap();
    let before = engine.written("cc").unwrap();
    let content = vec![7; 3 << 20];
    {
        let files = engine.files("cc", Access::Write).unwrap();
        let tar = tar(&[Entry::file("new", content.clone()).owner(12, 34)]);
        files.extract_tar("/data", &tar[..], &ExtractOptions::default()).unwrap();
        let stat = files.stat("data/new").unwrap();
        assert_eq!((stat.name.as_str(), stat.size, stat.mode & 0o7777), ("new", 3 << 20, 0o644));
        assert!(files.stat("/data/").unwrap().is_directory() && !stat.is_link());
    }
    let written = engine.written("cc").unwrap();
    assert!(written.bytes - before.bytes >= 3 << 20, "{before:?} {written:?}");
    let kept = engine.keep("cc", "kept:latest".parse().unwrap()).unwrap();
    assert_eq!(kept.layers.len(), 2);
    assert!(engine.written("cc").unwrap().bytes < 1 << 20, "it is the image's now");
    let changes = engine.changes(made.id.as_str()).unwrap();
    let added: Vec<_> = changes.iter().filter(|change| change.kind == ChangeKind::Added).collect();
    assert_eq!(added.iter().map(|change| &change.path[..]).collect::<Vec<_>>(), [b"/data/new"]);
    engine.remove("cc", RemoveContainerOptions::default()).unwrap();
    assert_eq!(engine.written("cc").unwrap_err().kind(), robot_env_diag::Kind::NotFound);
    let spec =
        ContainerSpec { image: "kept".into(), command: Some(vec!["x".into()]), ..ContainerSpec::default() };
    engine.create(CreateRequest { spec, name: Some("dd".into()) }).unwrap();
    let mut out = Vec::new();
    let exported = engine.export("dd", &mut out).unwrap();
    assert_eq!(exported.entries, 3);
    assert!(out.windows(1 << 20).any(|part| part == &content[..1 << 20]));
    engine.remove("dd", RemoveContainerOptions::default()).unwrap();
}
