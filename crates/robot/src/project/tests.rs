use std::path::Path;

use robot_env_testkit::temporary::TemporaryDirectory;

use super::*;

fn words(project: &Project) -> Vec<String> {
    project.flags.iter().map(|flag| flag.words.join(" ")).collect()
}

fn around() -> Surroundings {
    Surroundings { environment: [("HOME".to_owned(), "/home/ada".to_owned())].into(), gpu: true }
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
            "--user-map host",
            "--mount source=cache,target=/cache,type=volume",
            "--mount source=/a,target=/b,type=bind",
            "--mount source=/w/nav,target=/ws,type=bind",
            "--publish 127.0.0.1:8080:8080",
            "--gpus all",
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
            "1:32 unknown key `imge`",
            "1:94 `forwardPorts` must be port numbers",
        ]
    );
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
