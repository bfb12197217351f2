//! The handbook: every command of a page is run as it stands there, and both languages have the same.

mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use place::Place;
use robot_env_testkit::registry::{Auth, RegistryOptions, TestRegistry};

const PAGES: [&str; 9] =
    ["concepts", "install", "registry", "run", "lifecycle", "image", "build", "project", "troubleshooting"];

fn page(language: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/{language}/{name}.md"))
}

/// The commands of a page: what its `console` blocks have behind `$`, with the lines that go on.
fn commands(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut out: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            match line.strip_prefix("$ ") {
                Some(command) => out.push(command.to_owned()),
                None => {
                    let last = out.last_mut().unwrap_or_else(|| panic!("{}: {line}", path.display()));
                    last.push('\n');
                    last.push_str(line);
                }
            }
        }
    }
    out
}

#[test]
fn both_languages_have_the_same_commands() {
    for name in PAGES {
        let english = commands(&page("en", name));
        assert!(!english.is_empty(), "{name}");
        assert_eq!(english, commands(&page("zh-CN", name)), "{name}");
    }
    for language in ["en", "zh-CN"] {
        let overview = fs::read_to_string(page(language, "README")).unwrap();
        for name in PAGES {
            assert!(overview.contains(&format!("({name}.md)")), "{language}: {name}");
        }
    }
}

#[test]
fn privileged_every_command_of_the_handbook_works() {
    for name in PAGES {
        // A place of its own for each page: no page needs another to have been read.
        let Some(place) = Place::new(&format!("pages-{name}")) else { return };
        run(&place, name);
    }
}

/// Runs a page in a shell whose `robot-env` works in the place.
fn run(place: &Place, name: &str) {
    let auth = Auth::Basic { username: "ada".into(), password: "secret".into() };
    let registry = TestRegistry::with(RegistryOptions { auth, ..RegistryOptions::default() });
    registry.put_image("robot-env", "noetic", &place::busybox_image().unwrap());
    let directory = place.directory.join("home");
    let bin = place.directory.join("bin");
    fs::create_dir_all(directory.join("work")).unwrap();
    fs::create_dir(&bin).unwrap();
    let wrapper = format!(
        "#!/bin/sh\nexec {} --root {} --run-root {} \"$@\"\n",
        env!("CARGO_BIN_EXE_robot-env"),
        place.directory.join("root").display(),
        place.directory.join("run").display()
    );
    fs::write(bin.join("robot-env"), wrapper).unwrap();
    fs::set_permissions(bin.join("robot-env"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("work/password.txt"), "secret\n").unwrap();
    let mut script =
        String::from("set -eu\nrobot-env login -u ada --password-stdin $REGISTRY < password.txt\n");
    for command in commands(&page("en", name)) {
        script.push_str(&format!("echo {} >&2\n{command}\n", quoted(&format!("$ {command}"))));
        if command.starts_with("robot-env logout") {
            script.push_str("robot-env login -u ada --password-stdin $REGISTRY < password.txt\n");
        }
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .arg("-c")
        .arg(&script)
        .current_dir(directory.join("work"))
        .env("PATH", path)
        .env("HOME", &directory)
        .env("DOCKER_CONFIG", directory.join("docker"))
        .env("REGISTRY", registry.host())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("DISPLAY")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{out}\n{err}", output.status);
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
