//! The house has floors: a crate depends only on crates of lower floors, siblings not on each
//! other. Read from `cargo metadata`, so nobody can forget it.

use std::collections::BTreeMap;
use std::process::Command;

/// Crate to floor; `ARCHITECTURE.md` says what is on each.
const FLOORS: &[(&str, u32)] = &[
    ("robot-env-diag", 0),
    ("robot-env-oci", 0),
    ("robot-env-sys", 1),
    ("robot-env-spec", 1),
    ("robot-env-dockerfile", 1),
    ("robot-env-config", 1),
    ("robot-env-store", 2),
    ("robot-env-layer", 2),
    ("robot-env-registry", 2),
    ("robot-env-runtime", 2),
    ("robot-env-network", 2),
    ("robot-env-device", 2),
    ("robot-env-transfer", 3),
    ("robot-env-engine", 4),
    ("robot-env-robot", 4),
    ("robot-env-build", 5),
    ("robot-env-wire", 5),
    ("robot-env-cli", 6),
    ("robot-env-api", 6),
    ("robot-env", 7),
    ("robot-env-testkit", 8),
];

/// The one arrow between two crates of a floor: `oci` reports errors in `diag`'s form.
const EXCEPTIONS: [(&str, &str); 1] = [("robot-env-oci", "robot-env-diag")];

#[test]
fn arrows_point_down() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 4, "the workspace has its crates");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(floor) = floors.get(name) else {
            wrong.push(format!("{name} has no floor"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            let Some(below) = floors.get(to) else { continue };
            let dev = dependency["kind"].as_str() == Some("dev");
            if below >= floor && !dev && !EXCEPTIONS.contains(&(name, to)) {
                wrong.push(format!("{name} (floor {floor}) depends on {to} (floor {below})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `unsafe` lives in `sys` alone: every other crate takes the workspace's lints, which forbid it.
#[test]
fn only_sys_may_be_unsafe() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    for entry in std::fs::read_dir(crates).expect("crates/ can be listed").flatten() {
        let manifest = entry.path().join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
        let inherits = text.contains("[lints]\nworkspace = true");
        assert!(
            inherits || entry.file_name() == "sys",
            "{} does not take the workspace's lints",
            manifest.display()
        );
    }
}
