//! The corpus of `crates/dockerfile/tests/corpus` built by the program: configs, histories and file
//! systems are those that Docker made, but for the differences listed here.

mod place;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use place::Place;

/// Cases that differ from what Docker 20.10 made of them, and why.
const DIFFERENT: &[(&[&str], &str)] = &[
    (
        &["add-tar", "add-tar-chown", "add-tar-gz"],
        "a hard link of this archive says that it has no permissions, and Docker takes them from the file",
    ),
    (
        &["copy-chmod", "copy-chown", "copy-chown-name", "copy-chown-user-only"],
        "later versions of Docker write --chown and --chmod into the history, too",
    ),
    (&["copy-chown-unknown"], "a user whom the image does not know is refused, as by later versions"),
    (&["copy-files-no-slash"], "several files need a directory with a slash, as later versions say"),
    (&["copy-glob-nothing"], "a pattern that matches nothing is refused, as by later versions"),
    (
        &["healthcheck", "healthcheck-exec", "healthcheck-none"],
        "the history has the start interval, which later versions brought",
    ),
    (
        &[
            "run-mount-bind",
            "run-mount-bind-writable",
            "run-mount-cache",
            "run-mount-from",
            "run-mount-readonly",
            "run-mount-tmpfs",
        ],
        "the empty directory that a mount needed is taken away afterwards, as by later versions",
    ),
    (&["run-nothing", "workdir-exists"], "what writes nothing makes no layer"),
    (&["stage-base"], "the history names arguments that a stage has from its base: its commands see them"),
    (&["workdir-trailing-slash"], "the working directory is cleaned, as by later versions"),
];

#[test]
fn privileged_the_corpus_becomes_what_docker_makes_of_it() {
    let Some(place) = Place::new("build-corpus") else { return };
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return;
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dockerfile/tests");
    let program = place.command(&[]).0;
    let output = Command::new("python3")
        .arg(tests.join("record-docker"))
        .arg("--compare")
        .arg(program.get_program())
        .args(program.get_args())
        .arg("--")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: BTreeMap<String, Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    let cases = std::fs::read_dir(tests.join("corpus")).unwrap().count();
    assert!(cases - found.len() >= 120, "only {} of {cases} cases are the same", cases - found.len());
    let known: Vec<&str> = DIFFERENT.iter().flat_map(|(cases, _)| cases.iter().copied()).collect();
    let new: Vec<_> = found.iter().filter(|(case, _)| !known.contains(&case.as_str())).collect();
    assert!(new.is_empty(), "{new:#?}");
    let gone: Vec<_> = known.iter().filter(|case| !found.contains_key(**case)).collect();
    assert!(gone.is_empty(), "these are the same as Docker's now: {gone:?}");
}
