use super::*;
use robot_env_testkit::temporary::TemporaryDirectory;
use std::fs;

const YAML: &str = "cdiVersion: 0.5.0
kind: acme.com/arm
devices:
- name: 0
  containerEdits:
    deviceNodes:
    - path: /dev/arm0
      permissions: rw
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/arm0
containerEdits:
  env:
  - ACME=1
  additionalGids: [44]
  mounts:
  - hostPath: /opt/acme
    containerPath: /opt/acme
    options: [ro, nosuid, nodev, rbind, rprivate]
  hooks:
  - hookName: createContainer
    path: /usr/bin/acme-hook
    args: [acme-hook, --now]
";

fn place(name: &str) -> TemporaryDirectory {
    let place = TemporaryDirectory::new(name);
    fs::create_dir_all(place.join("etc/cdi")).unwrap();
    fs::create_dir_all(place.join("var/run/cdi")).unwrap();
    fs::create_dir_all(place.join("dev")).unwrap();
    fs::write(place.join("dev/arm0"), "c 240:7").unwrap();
    place
}

#[test]
fn names() {
    for (text, want) in [
        ("nvidia.com/gpu=0", Some(("nvidia.com/gpu", "0"))),
        ("nvidia.com/gpu=0:1", Some(("nvidia.com/gpu", "0:1"))),
        ("acme.com/arm=left.arm", Some(("acme.com/arm", "left.arm"))),
        ("/dev/x=y", None),
        ("gpu=0", None),
        ("nvidia.com/gpu", None),
        ("nvidia.com/gpu=", None),
        (".com/gpu=1", None),
        ("a/b/c=1", None),
    ] {
        assert_eq!(qualified(text), want, "{text}");
    }
}

#[test]
fn a_file_becomes_edits() {
    let place = place("cdi");
    fs::write(place.join("etc/cdi/acme.yaml"), YAML).unwrap();
    let root = HostRoot::fixture(place.path());
    let edits = edits(&root, "acme.com/arm=0").unwrap().unwrap();
    assert_eq!(edits.env, ["ACME=1"]);
    assert_eq!(edits.groups, [44]);
    let device = &edits.devices[0];
    assert_eq!((device.path.as_str(), device.major, device.minor), ("/dev/arm0", 240, 7));
    assert_eq!(device.permissions, "rw");
    assert!(edits.mounts[0].read_only && edits.mounts[0].recursive);
    assert_eq!(edits.mounts[0].options, ["nosuid", "nodev"]);
    assert_eq!(edits.hooks[0].0, Stage::CreateContainer);
    assert_eq!(edits.hooks[0].1.args().as_deref().unwrap(), ["acme-hook", "--now"]);
    assert!(super::edits(&root, "acme.com/arm=9").unwrap().is_none());
    assert!(super::edits(&root, "acme.com/leg=0").unwrap().is_none());
}

#[test]
fn the_later_directory_wins_and_damage_is_named() {
    let place = place("cdi-order");
    fs::write(place.join("etc/cdi/acme.yaml"), YAML).unwrap();
    let json = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": "acme.com/arm",
        "devices": [{ "name": "0", "containerEdits": { "env": ["ACME=2"] } }],
    });
    fs::write(place.join("var/run/cdi/acme.json"), json.to_string()).unwrap();
    let root = HostRoot::fixture(place.path());
    assert_eq!(edits(&root, "acme.com/arm=0").unwrap().unwrap().env, ["ACME=2"]);
    fs::write(place.join("etc/cdi/bad.json"), "{").unwrap();
    assert_eq!(load(&root).1.len(), 1);
    assert!(edits(&root, "acme.com/arm=0").is_ok(), "another file's damage is no reason to fail");
    let error = edits(&root, "acme.com/leg=0").unwrap_err();
    assert!(error.causes().iter().any(|cause| cause.contains("bad.json")), "{error:?}");
    fs::remove_file(place.join("dev/arm0")).unwrap();
    let error = edits(&root, "acme.com/arm=all").unwrap_err();
    assert!(error.causes().iter().any(|cause| cause.contains("/dev/arm0")), "{error:?}");
}

#[test]
fn edits_become_a_file_again() {
    let place = place("cdi-out");
    fs::write(place.join("etc/cdi/acme.yaml"), YAML).unwrap();
    let root = HostRoot::fixture(place.path());
    let mut found = edits(&root, "acme.com/arm=0").unwrap().unwrap();
    found.hooks.clear();
    found.add_link("/usr/lib/liba.so", "liba.so.1");
    let out = describe(&found, "/usr/bin/robot-env");
    let text = serde_json::to_string(&CdiSpec {
        cdi_version: "0.5.0".into(),
        kind: "acme.com/arm".into(),
        devices: vec![CdiDevice { name: "0".into(), container_edits: out }],
        container_edits: ContainerEdits::default(),
    })
    .unwrap();
    let read = parse(text.as_bytes(), false).unwrap();
    let hook = &read.devices[0].container_edits.hooks[0];
    assert_eq!(hook.args[2..], ["hook", "create-symlinks", "--link", "liba.so.1::/usr/lib/liba.so"]);
    assert_eq!(
        read.devices[0].container_edits.device_nodes[0].host_path.as_deref(),
        found.devices[0].host_path.as_str().into()
    );
}
