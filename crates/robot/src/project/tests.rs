use std::path::Path;

use robot_env_testkit::temporary::TemporaryDirectory;

use super::*;

fn words(project: &Project) -> Vec<String> {
    project.flags.iter().map(|flag| flag.words.join(" ")).collect()
}

fn around() -> Surroundings {
    Surroundings { environment: [("HOME".to_owned(), "/home/ada".to_owned())].into(), gpu: true, user: 1000 }
}

#[test]
fn our_file_becomes_words() {
    let text = "image = 'ros:noetic'\nname = 'nav'\ngpus = 'all'\ngui = true\nhome = 'ro'\nros = false\ndevices = ['serial', '/dev/video0']\n\
        shell = 'bash'\nsetup = '/opt/ros/noetic/setup.bash'\non-create = 'make'\ncpus = 2\nrun-args = ['--sysctl', 'a=b']\n[env]\nA = 1\n";
    let project = parse(Path::new("/w/nav/robot-env.toml"), text, &around()).unwrap();
    assert_eq!(
        words(&project),
        [
            "--gpus all",
            "--gui",
            "--home=ro",
            "--device serial",
            "--device /dev/video0",
            "--cpus 2",
            "--sysctl a=b",
            "--env A=1",
            "--workdir-mount",
            "--init"
        ]
    );
    assert_eq!((project.name.as_str(), project.image.as_deref()), ("nav", Some("ros:noetic")));
    assert_eq!(project.hooks.create[0].command, ["/bin/sh", "-c", "make"]);
    assert_eq!(project.directory, Path::new("/w/nav"));
    assert_eq!(project.command.len(), 3);
}

#[test]
fn faults_have_their_places() {
    let text = "imagee = 'x'\ngpus = ['all']\nbuild = { context = 3, x = 1 }\ngui = 7\n[env]\nA = []\n";
    let found = parse(Path::new("/w/robot-env.toml"), text, &around()).unwrap_err();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "/w/robot-env.toml:1:1: unknown key `imagee` (did you mean `image`?)",
            "/w/robot-env.toml:2:8: `gpus` must be a text, not a list",
            "/w/robot-env.toml:3:21: `build.context` must be a text, not a number",
            "/w/robot-env.toml:3:24: unknown key `build.x`; known are dockerfile, context, target, args",
            "/w/robot-env.toml:4:7: `gui` must be true, false or a mode, not a number",
            "/w/robot-env.toml:6:5: `env.A` must be a text, not a list",
        ]
    );
    let found = parse(Path::new("/w/robot-env.toml"), "", &around()).unwrap_err();
    assert_eq!(found[0].message, "`image` is missing");
    assert!(parse(Path::new("/w/robot-env.toml"), "image = 'a'\n[build]\n", &around()).is_err());
}

#[test]
fn a_devcontainer_becomes_words() {
    let text = r#"// a comment
    {
        "name": "Nav", "image": "ros:humble",
        "runArgs": ["--cap-add=SYS_PTRACE", "--security-opt", "seccomp=unconfined"],
        "containerEnv": {"A": "${localEnv:HOME}"}, "remoteEnv": {"B": "${containerWorkspaceFolder}"},
        "remoteUser": "vscode", "updateRemoteUserUID": true,
        "mounts": ["source=cache,target=/cache,type=volume,consistency=cached", {"source": "/a", "target": "/b", "type": "bind"}],
        "workspaceMount": "source=${localWorkspaceFolder},target=/ws,type=bind", "workspaceFolder": "/ws",
        "forwardPorts": [8080], "hostRequirements": {"gpu": "optional", "memory": "8gb"},
        "postCreateCommand": "b", "onCreateCommand": ["a"], "postStartCommand": {"x": "c"},
        "customizations": {"vscode": {"extensions": ["${x}"]}},
    }"#;
    let project = parse(Path::new("/w/nav/.devcontainer/devcontainer.json"), text, &around()).unwrap();
    assert_eq!(
        words(&project),
        [
            "--cap-add=SYS_PTRACE --security-opt seccomp=unconfined",
            "--env A=/home/ada",
            "--mount source=cache,target=/cache,type=volume",
            "--mount source=/a,target=/b,type=bind",
            "--mount source=/w/nav,target=/ws,type=bind",
            "--publish 127.0.0.1:8080:8080",
            "--gpus all",
            "--user-map host",
            "--workdir /ws",
            "--entrypoint /bin/sh",
        ]
    );
    assert_eq!(project.directory, Path::new("/w/nav"));
    assert_eq!(project.enter.env, [("B".to_owned(), "/ws".to_owned())]);
    assert_eq!(
        project.hooks.create.iter().map(|hook| hook.command.join(" ")).collect::<Vec<_>>(),
        ["a", "/bin/sh -c b"]
    );
    assert_eq!(project.notes.len(), 1);
    let bad = r#"{"image": "x", "features": {}, "imge": 1, "containerEnv": {"A": "${nope}"}, "forwardPorts": ["db:1"]}"#;
    let found = parse(Path::new("/w/.devcontainer.json"), bad, &around()).unwrap_err();
    let found: Vec<String> = found.iter().map(|f| format!("{} {}", f.at.unwrap(), f.message)).collect();
    assert_eq!(
        found,
        [
            "1:65 the variable `${nope}` is not known here",
            "1:16 cannot use `features`: features are not supported: install what they install in the image",
            "1:94 `forwardPorts` must be port numbers",
        ]
    );
}

#[test]
fn the_user_of_a_devcontainer_gets_the_hosts_ids() {
    let maps = |text: &str, user: u32| {
        let around = Surroundings { user, ..around() };
        let text = format!("{{\"image\": \"x\", {text}}}");
        let project = parse(Path::new("/w/.devcontainer.json"), &text, &around).unwrap();
        let words = words(&project);
        (
            words.contains(&"--user-map host".to_owned()),
            project.enter.user,
            words.iter().any(|w| w.starts_with("--user ")),
        )
    };
    let name = |name: &str| Some(name.to_owned());
    for (text, user, want) in [
        (r#""remoteUser": "vscode""#, 1000, (true, None, false)),
        (r#""containerUser": "vscode""#, 1000, (true, None, false)),
        (r#""remoteUser": "root""#, 1000, (false, name("root"), false)),
        ("", 1000, (false, None, false)),
        (r#""remoteUser": "vscode", "updateRemoteUserUID": false"#, 1000, (false, name("vscode"), false)),
        (r#""containerUser": "vscode", "updateRemoteUserUID": true"#, 0, (false, None, true)),
        (r#""remoteUser": "vscode""#, 0, (false, name("vscode"), false)),
    ] {
        assert_eq!(maps(text, user), want, "{text} of {user}");
    }
}

#[test]
fn what_a_devcontainer_has_beyond_is_said_and_used_where_it_can_be() {
    let text = r#"{"imge": 1, "build": {"dockerfile": "D", "cacheFrom": "a", "options": ["--network=host"]},
        "remoteEnv": {"PATH": "${containerEnv:PATH}:/x"}}"#;
    let project = parse(Path::new("/w/.devcontainer/devcontainer.json"), text, &around()).unwrap();
    assert_eq!(
        project.notes[0].to_string(),
        "/w/.devcontainer/devcontainer.json:1:2: unknown key `imge` has no effect (did you mean `image`?)"
    );
    assert_eq!(project.build.unwrap().flags, ["--cache-from", "a", "--network=host"]);
    let container = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
    assert_eq!(project.enter.variables(&container), [("PATH".to_owned(), "/bin:/x".to_owned())]);
}

#[test]
fn workspaces_are_recognised() {
    let place = TemporaryDirectory::new("workspace");
    assert_eq!(recognise(place.path(), &around()), Workspace::Plain);
    let package = place.join("src/nav");
    std::fs::create_dir_all(&package).unwrap();
    for (xml, want) in [
        ("<buildtool_depend>catkin</buildtool_depend>", Workspace::Ros1 { distribution: "noetic".into() }),
        (
            "<buildtool_depend>ament_cmake</buildtool_depend>",
            Workspace::Ros2 { distribution: "jazzy".into() },
        ),
    ] {
        std::fs::write(package.join("package.xml"), xml).unwrap();
        let workspace = recognise(place.path(), &around());
        assert_eq!(workspace, want);
        let text = workspace.to_toml(&workspace.image(), &around());
        let project = parse(&place.join(FILE), &text, &around()).unwrap();
        assert!(words(&project).contains(&"--gpus all".to_owned()), "{text}");
        assert!(project.enter.setup.is_some_and(|setup| setup.starts_with("/opt/ros/")));
    }
    std::fs::write(place.join(FILE), "").unwrap();
    assert_eq!(find(&package), Some(place.join(FILE)));
}

#[test]
fn names_tell_directories_apart() {
    let name = default_name(Path::new("/a/my robot"));
    assert!(name.starts_with("my-robot-"), "{name}");
    assert_ne!(name, default_name(Path::new("/b/my robot")));
    assert!(default_name(Path::new("/")).starts_with("project-"));
}
