//! Spec, image config, host facts and what was looked up, in; an OCI runtime spec, out.
//!
//! Each file of `tests/golden` has the four inputs (its host is one of `tests/hosts.json`, with the
//! changes of `facts`) and what must come of them: `planned` and `warnings`, or `error`. After a
//! change that is meant, `UPDATE_GOLDEN=1 cargo test -p robot-env-spec` writes the results anew.

use std::fs;
use std::path::{Path, PathBuf};

use robot_env_oci::RuntimeConfig;
use robot_env_spec::{ContainerSpec, HostFacts, Resolved, plan};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn read(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn part<T: DeserializeOwned>(case: &Value, name: &str, path: &Path) -> T {
    serde_json::from_value(case[name].clone())
        .unwrap_or_else(|error| panic!("{}: {name}: {error}", path.display()))
}

fn facts(case: &Value, path: &Path) -> HostFacts {
    let hosts = read(&tests().join("hosts.json"));
    let name = case["host"].as_str().unwrap_or_default();
    let mut facts = hosts[name].clone();
    assert!(facts.is_object(), "{}: no host `{name}`", path.display());
    for (key, value) in case["facts"].as_object().into_iter().flatten() {
        facts[key] = value.clone();
    }
    serde_json::from_value(facts).unwrap()
}

/// Sets in order, and of the built-in filter only how long it is (its own tests read it).
fn normalised(mut spec: Value) -> Value {
    if let Some(sets) = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut() {
            set.as_array_mut().unwrap().sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    if let Some(rules) = spec.pointer_mut("/linux/seccomp/syscalls")
        && rules.as_array().unwrap().len() > 10
    {
        *rules = json!(format!("{} rules", rules.as_array().unwrap().len()));
    }
    spec
}

#[test]
fn plans() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(tests().join("golden")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 25, "the corpus is there");
    let mut wrong = Vec::new();
    for path in paths {
        let mut case = read(&path);
        let spec: ContainerSpec = part(&case, "spec", &path);
        let config: RuntimeConfig = part(&case, "config", &path);
        let resolved: Resolved = part(&case, "resolved", &path);
        let outcome = match plan(&spec, &config, &facts(&case, &path), &resolved) {
            Ok(planned) => json!({
                "planned": normalised(serde_json::to_value(&planned.spec).unwrap()),
                "warnings": planned.warnings,
            }),
            Err(error) => json!({
                "error": error.to_string(),
                "kind": format!("{:?}", error.kind()),
                "hint": error.hint(),
            }),
        };
        if update {
            let inputs = ["about", "host", "facts", "spec", "config", "resolved"];
            let mut out = Map::new();
            for (key, value) in case.as_object_mut().unwrap().iter_mut() {
                if inputs.contains(&key.as_str()) {
                    out.insert(key.clone(), value.take());
                }
            }
            out.insert("outcome".into(), outcome);
            fs::write(&path, serde_json::to_string_pretty(&out).unwrap() + "\n").unwrap();
        } else if case["outcome"] != outcome {
            let show = |value: &Value| serde_json::to_string_pretty(value).unwrap();
            wrong.push(format!(
                "{}\nexpected {}\ngot {}",
                path.display(),
                show(&case["outcome"]),
                show(&outcome)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
