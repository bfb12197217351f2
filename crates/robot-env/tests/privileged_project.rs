//! `up`, `enter`, `down`, `status`, `init`, `code` with containers that run.

mod place;

use std::fs;
use std::path::PathBuf;

use place::{Call, Done, Place};

/// A place with a project's directory.
struct Workshop {
    place: Place,
    directory: PathBuf,
}

impl Workshop {
    fn new(name: &str) -> Option<Workshop> {
        let place = Place::new(name)?;
        let directory = place.directory.join("nav");
        fs::create_dir(&directory).unwrap();
        Some(Workshop { place, directory })
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn call(&self, args: &[&str]) -> Call {
        self.place.command(args).directory(&self.directory)
    }

    fn run(&self, line: &str) -> Done {
        self.call(&line.split_whitespace().collect::<Vec<_>>()).run()
    }
}

const FILE: &str = "image = 'busybox'\nname = 'nav'\nnetwork = 'none'\nshell = '/bin/sh'\nsetup = '/tmp/setup.sh'\n\
    on-create = 'echo export HELLO=there > /tmp/setup.sh; echo made >> /tmp/log'\non-start = 'echo started >> /tmp/log'\n\
    [env]\nA = 'x y'\n";

#[test]
fn privileged_a_project_goes_up_and_down() {
    let Some(it) = Workshop::new("project-up") else { return };
    it.write("robot-env.toml", FILE);
    fs::create_dir(it.directory.join("deep")).unwrap();
    let out = it.call(&["up", "sh", "-c", "echo $HELLO $A; pwd; cat /tmp/log"]).run().ok();
    let directory = it.directory.to_str().unwrap();
    assert_eq!(out, format!("there x y\n{directory}\nmade\nstarted"));
    // A second `up`, from below, enters the same container.
    let again = it.call(&["up", "cat", "/tmp/log"]).directory(&it.directory.join("deep")).run().ok();
    assert_eq!(again, "made\nstarted");
    assert_eq!(it.call(&["enter", "sh", "-c", "exit 7"]).run().code, 7);
    let status = it.run("status").ok();
    assert!(status.contains("container  nav (running)"), "{status}");
    let json: serde_json::Value = serde_json::from_str(&it.run("status --json").ok()).unwrap();
    assert_eq!((&json["state"], &json["current"]), (&"running".into(), &true.into()));
    assert!(it.run("code --print").ok().starts_with("vscode-remote://attached-container+7b22"));
    // The file changes: the container stays until somebody says so.
    it.write("robot-env.toml", &FILE.replace("x y", "z"));
    let warned = it.call(&["up", "-d"]).run();
    assert!(warned.code == 0 && warned.err.contains("up --recreate"), "{warned:?}");
    it.run("down").ok();
    assert_eq!(it.run("enter true").code, 1);
    assert_eq!(it.call(&["up", "cat", "/tmp/log"]).run().ok(), "made\nstarted\nstarted");
    it.run("up --recreate -d").ok();
    assert_eq!(it.call(&["enter", "sh", "-c", "echo $A; cat /tmp/log"]).run().ok(), "z\nmade\nstarted");
    it.run("down --rm").ok();
    assert!(it.run("status").ok().contains("container  none"));
}

#[test]
fn privileged_faults_of_a_project_have_their_places() {
    let Some(it) = Workshop::new("project-faults") else { return };
    let nothing = it.run("up");
    assert!(
        nothing.code == 1
            && nothing.err.contains("there is no robot-env.toml and no .devcontainer/devcontainer.json"),
        "{nothing:?}"
    );
    for (text, want) in [
        ("imag = 'busybox'\n", "robot-env.toml:1:1: unknown key `imag`"),
        ("image = 'busybox'\nipc = 'nope'\n", "robot-env.toml:2:1: cannot use `--ipc nope`"),
        ("image = 'busybox'\nrun-args = ['--nope']\n", "robot-env.toml:2:1: cannot use `--nope`"),
    ] {
        it.write("robot-env.toml", text);
        let done = it.run("up -d");
        assert_ne!(done.code, 0);
        assert!(done.err.replace('\n', " ").contains(want), "{want}: {done:?}");
    }
    // What fails while it is made leaves nothing behind.
    it.write("robot-env.toml", "image = 'busybox'\nnetwork = 'none'\non-create = 'exit 3'\n");
    let done = it.run("up -d");
    assert!(done.code == 1 && done.err.contains("`on-create`") && done.err.contains("code 3"), "{done:?}");
    assert!(it.run("status").ok().contains("container  none"));
}

#[test]
fn privileged_a_devcontainer_goes_up() {
    let Some(it) = Workshop::new("project-devcontainer") else { return };
    it.write(
        ".devcontainer/devcontainer.json",
        r#"{ // as VS Code writes it
            "image": "busybox", "runArgs": ["--network=none"],
            "containerEnv": {"FOLDER": "${containerWorkspaceFolder}"}, "remoteEnv": {"R": "1"},
            "remoteUser": "robot", "postCreateCommand": "touch /tmp/made",
            "initializeCommand": ["touch", "on-host"],
        }"#,
    );
    let out = it.call(&["up", "sh", "-c", "id -un; echo $FOLDER $R; pwd; ls /tmp on-host"]).run().ok();
    assert_eq!(out, "robot\n/workspaces/nav 1\n/workspaces/nav\non-host\n\n/tmp:\nmade");
    it.run("down --rm").ok();
}

#[test]
fn privileged_the_user_of_a_devcontainer_may_write_where_it_works() {
    let Some(it) = Workshop::new("project-user") else { return };
    it.write(
        ".devcontainer/devcontainer.json",
        r#"{"image": "busybox", "runArgs": ["--network=none"], "remoteUser": "robot", "later": 1,
            "remoteEnv": {"PATH": "${containerEnv:PATH}:/x"}}"#,
    );
    std::os::unix::fs::chown(&it.directory, Some(4321), Some(4321)).unwrap();
    let call = |args: &[&str]| {
        let call = it.call(args).env("SUDO_UID", "4321").env("SUDO_GID", "4321");
        call.env("SUDO_USER", "ann").run()
    };
    let done = call(&["up", "sh", "-c", "id -u; touch made; echo $PATH"]);
    assert!(done.err.contains("unknown key `later` has no effect"), "{done:?}");
    assert_eq!(done.ok(), "4321\n/bin:/x");
    assert!(it.directory.join("made").exists());
    call(&["down", "--rm"]).ok();
}

#[test]
fn privileged_init_writes_a_good_file() {
    let Some(it) = Workshop::new("project-init") else { return };
    it.write("src/nav/package.xml", "<package><buildtool_depend>ament_cmake</buildtool_depend></package>");
    let text = it.call(&["init", "--yes"]).env("ROS_DISTRO", "humble").run().ok();
    assert!(text.contains("image = \"ros:humble\"") && text.contains("ros = true"), "{text}");
    assert_eq!(fs::read_to_string(it.directory.join("robot-env.toml")).unwrap().trim_end(), text);
    assert_eq!(it.run("init --yes").code, 1);
    it.run("status").ok();
    let asked = it.call(&["init"]).directory(it.place.directory.path()).feed(b"busybox\n");
    assert!(asked.code == 0 && asked.out.contains("image = \"busybox\""), "{asked:?}");
}
