//! `robot-env.toml`.

use robot_env_config::{Entry, Value, nearest};

use super::{Build, IDLE, Project, Reader, Surroundings};

/// How a key becomes words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `true` gives the flag.
    Switch,
    /// A text gives the flag with it.
    Text,
    /// `true` gives the flag, a text the flag with `=` and it.
    Mode,
    /// Each text of a list gives the flag with it.
    List,
    /// Each entry of a section gives the flag with `NAME=VALUE`.
    Map,
    /// It is read by itself.
    Own,
}

/// The keys: name, flag of `run`, how it becomes words, what it is for.
pub const KEYS: &[(&str, &str, Takes, &str)] = &[
    ("image", "", Takes::Own, "the image"),
    ("build", "", Takes::Own, "how the image is built: dockerfile, context, target, args"),
    ("name", "", Takes::Own, "the container's name; default: the directory's, with a number"),
    ("shell", "", Takes::Own, "the shell that `enter` starts; default: bash, else sh"),
    ("setup", "", Takes::Own, "a file that this shell reads first, such as ROS's setup.bash"),
    ("command", "", Takes::Own, "the container's program, a list; default: one that waits"),
    ("on-create", "", Takes::Own, "a command inside, once, after the container was made"),
    ("on-start", "", Takes::Own, "a command inside, after each start"),
    ("run-args", "", Takes::Own, "further flags of `run`"),
    ("gpus", "--gpus", Takes::Text, "GPUs, as in --gpus"),
    ("gui", "--gui", Takes::Mode, "windows on the desktop"),
    ("user-map", "--user-map", Takes::Text, "`host`: the user inside is you"),
    ("home", "--home", Takes::Mode, "your home directory: true, \"ro\" or \"private\""),
    ("workdir-mount", "--workdir-mount", Takes::Switch, "this directory at the same path; default: true"),
    ("ssh-agent", "--ssh-agent", Takes::Switch, "your SSH agent"),
    ("gitconfig", "--gitconfig", Takes::Switch, "your git configuration"),
    ("ros", "--ros", Takes::Mode, "ROS: true, \"host\" or \"private\""),
    ("realtime", "--realtime", Takes::Switch, "real-time priorities and locked memory"),
    ("devices", "--device", Takes::List, "devices: paths, classes, usb:VID:PID, CDI names"),
    ("mounts", "--volume", Takes::List, "volumes and directories, as in -v"),
    ("tmpfs", "--tmpfs", Takes::List, "places in memory"),
    ("env", "--env", Takes::Map, "variables"),
    ("env-files", "--env-file", Takes::List, "files of variables"),
    ("labels", "--label", Takes::Map, "labels"),
    ("network", "--network", Takes::Text, "the network"),
    ("ports", "--publish", Takes::List, "published ports"),
    ("hosts", "--add-host", Takes::List, "lines of /etc/hosts"),
    ("dns", "--dns", Takes::List, "name servers"),
    ("hostname", "--hostname", Takes::Text, "the host name inside"),
    ("ipc", "--ipc", Takes::Text, "the IPC namespace"),
    ("pid", "--pid", Takes::Text, "the pid namespace"),
    ("shm-size", "--shm-size", Takes::Text, "the size of /dev/shm"),
    ("ulimits", "--ulimit", Takes::List, "resource limits"),
    ("cap-add", "--cap-add", Takes::List, "further capabilities"),
    ("cap-drop", "--cap-drop", Takes::List, "capabilities taken away"),
    ("security-opts", "--security-opt", Takes::List, "security options"),
    ("privileged", "--privileged", Takes::Switch, "everything allowed"),
    ("memory", "--memory", Takes::Text, "the memory's limit"),
    ("cpus", "--cpus", Takes::Text, "the processors' limit"),
    ("restart", "--restart", Takes::Text, "the restart policy"),
    ("runtime", "--runtime", Takes::Text, "the OCI runtime"),
    ("init", "--init", Takes::Switch, "a small init; default: true"),
    ("user", "--user", Takes::Text, "the user inside"),
    ("workdir", "--workdir", Takes::Text, "the working directory inside"),
    ("groups", "--group-add", Takes::List, "further groups"),
    ("platform", "--platform", Takes::Text, "the image's platform"),
];

pub(super) fn read(
    reader: &mut Reader<'_>,
    document: &Value,
    mut project: Project,
    _around: &Surroundings,
) -> Project {
    project.command = IDLE.map(str::to_owned).into();
    let entries = document.entries().unwrap_or_default();
    for entry in entries {
        match KEYS.iter().find(|(name, ..)| *name == entry.key) {
            Some((_, _, Takes::Own, _)) => own(reader, entry, &mut project),
            Some((name, flag, takes, _)) => words(reader, name, flag, *takes, entry, &mut project),
            None => {
                reader.wrong(entry.at, format!("unknown key `{}`", entry.key));
                let near = nearest(&entry.key, KEYS.iter().map(|(name, ..)| *name));
                if let (Some(near), Some(last)) = (near, reader.findings.last_mut()) {
                    last.hint = Some(format!("did you mean `{near}`?"));
                }
            }
        }
    }
    let says = |key: &str| entries.iter().any(|entry| entry.key == key);
    if project.image.is_some() == project.build.is_some() {
        let message =
            if says("image") { "`image` and `build` exclude each other" } else { "`image` is missing" };
        reader.wrong(document.at, message);
    }
    for (key, flag) in [("workdir-mount", "--workdir-mount"), ("init", "--init")] {
        if !says(key) {
            project.flag(document.at, [flag]);
        }
    }
    project
}

fn own(reader: &mut Reader<'_>, entry: &Entry, project: &mut Project) {
    let (key, value) = (entry.key.as_str(), &entry.value);
    match key {
        "image" => project.image = reader.text(key, value),
        "name" => project.name = reader.text(key, value).unwrap_or_default(),
        "shell" => project.enter.shell = reader.text(key, value),
        "setup" => project.enter.setup = reader.text(key, value),
        "command" => project.command = reader.texts(key, value).into_iter().map(|(_, text)| text).collect(),
        "on-create" => project.hooks.create = reader.hook("on-create", value),
        "on-start" => project.hooks.start = reader.hook("on-start", value),
        "run-args" => {
            let words: Vec<String> = reader.texts(key, value).into_iter().map(|(_, text)| text).collect();
            project.flag(entry.at, words);
        }
        _ => project.build = build(reader, entry, project),
    }
}

fn build(reader: &mut Reader<'_>, entry: &Entry, project: &Project) -> Option<Build> {
    let Some(parts) = entry.value.entries() else {
        reader.must_be("build", &entry.value, "a section");
        return None;
    };
    let mut build = Build { at: entry.at, context: project.directory.clone(), ..Build::default() };
    for part in parts {
        let key = format!("build.{}", part.key);
        match part.key.as_str() {
            "dockerfile" => {
                build.dockerfile = reader.text(&key, &part.value).map(|path| project.directory.join(path));
            }
            "context" => {
                if let Some(path) = reader.text(&key, &part.value) {
                    build.context = project.directory.join(path);
                }
            }
            "target" => build.target = reader.text(&key, &part.value),
            "args" => {
                let all = reader.map(&key, &part.value);
                build.arguments = all.into_iter().map(|(_, name, value)| (name, value)).collect();
            }
            _ => reader
                .wrong(part.at, format!("unknown key `{key}`; known are dockerfile, context, target, args")),
        }
    }
    Some(build)
}

fn words(
    reader: &mut Reader<'_>,
    name: &str,
    flag: &str,
    takes: Takes,
    entry: &Entry,
    project: &mut Project,
) {
    let value = &entry.value;
    match takes {
        Takes::Switch => {
            if reader.truth(name, value) == Some(true) {
                project.flag(entry.at, [flag]);
            }
        }
        Takes::Mode => match (value.truth(), value.text()) {
            (Some(true), _) => project.flag(entry.at, [flag]),
            (Some(false), _) => {}
            (_, Some(mode)) => project.flag(entry.at, [format!("{flag}={mode}")]),
            _ => reader.must_be(name, value, "true, false or a mode"),
        },
        Takes::Text => {
            let text = match &value.to_json() {
                serde_json::Value::Number(number) => Some(number.to_string()),
                _ => reader.text(name, value),
            };
            if let Some(text) = text {
                project.flag(entry.at, [flag.to_owned(), text]);
            }
        }
        Takes::List => {
            for (at, text) in reader.texts(name, value) {
                project.flag(at, [flag.to_owned(), text]);
            }
        }
        Takes::Map => {
            for (at, key, text) in reader.map(name, value) {
                project.flag(at, [flag.to_owned(), format!("{key}={text}")]);
            }
        }
        Takes::Own => {}
    }
}
