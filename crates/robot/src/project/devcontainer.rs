//! `devcontainer.json`, as the Development Containers specification has it.

use std::collections::BTreeMap;

use robot_env_config::{Data, Entry, Finding, Value, nearest};

use super::substitute::substitute;
use super::{Build, IDLE, Project, Reader, Surroundings};

/// Keys that are about an editor: nothing is done for them.
const EDITORS: &[&str] = &[
    "$schema",
    "customizations",
    "portsAttributes",
    "otherPortsAttributes",
    "userEnvProbe",
    "waitFor",
    "secrets",
    "extensions",
    "settings",
    "devPort",
];
/// Keys that this version refuses, with why.
const REFUSED: &[(&str, &str)] = &[
    ("features", "features are not supported: install what they install in the image"),
    ("overrideFeatureInstallOrder", "features are not supported"),
    ("dockerComposeFile", "Compose files are not supported here"),
    ("service", "Compose files are not supported here"),
    ("runServices", "Compose files are not supported here"),
];
/// Everything else that is known.
const KNOWN: &[&str] = &[
    "name",
    "image",
    "build",
    "dockerFile",
    "context",
    "runArgs",
    "appPort",
    "forwardPorts",
    "containerEnv",
    "containerUser",
    "remoteEnv",
    "remoteUser",
    "updateRemoteUserUID",
    "mounts",
    "workspaceMount",
    "workspaceFolder",
    "overrideCommand",
    "shutdownAction",
    "init",
    "privileged",
    "capAdd",
    "securityOpt",
    "hostRequirements",
    "initializeCommand",
    "onCreateCommand",
    "updateContentCommand",
    "postCreateCommand",
    "postStartCommand",
    "postAttachCommand",
];

pub(super) fn read(
    reader: &mut Reader<'_>,
    document: &Value,
    mut project: Project,
    around: &Surroundings,
) -> Project {
    let Some(_) = document.entries() else {
        reader.must_be("the file", document, "an object");
        return project;
    };
    let base = project.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut values = BTreeMap::from([
        ("localWorkspaceFolder", project.directory.to_string_lossy().into_owned()),
        ("localWorkspaceFolderBasename", base.clone()),
        ("devcontainerId", project.name.clone()),
    ]);
    let folder = document
        .get("workspaceFolder")
        .and_then(Value::text)
        .and_then(|text| substitute(text, &values, &around.environment, false).ok())
        .unwrap_or_else(|| format!("/workspaces/{base}"));
    values.insert("containerWorkspaceFolder", folder.clone());
    values
        .insert("containerWorkspaceFolderBasename", folder.rsplit('/').next().unwrap_or_default().to_owned());
    let document = replaced(reader, document, &values, around, false);
    let maps = maps_user(&document, around);
    project.enter.workdir = Some(folder.clone());
    let at = document.at;
    let entries = document.entries().unwrap_or_default();
    for entry in entries {
        match entry.key.as_str() {
            // The user inside is the host's then, and nobody of the image.
            "containerUser" | "remoteUser" if maps => drop(reader.text(&entry.key, &entry.value)),
            _ => one(reader, entry, &mut project, around),
        }
    }
    if maps {
        project.flag(at, ["--user-map", "host"]);
    }
    if document.get("workspaceMount").is_none() {
        let source = project.directory.to_string_lossy().into_owned();
        project.flag(at, ["--volume".to_owned(), format!("{source}:{folder}")]);
    }
    project.flag(at, ["--workdir".to_owned(), folder]);
    if document.get("overrideCommand").and_then(Value::truth).unwrap_or(true) {
        project.flag(at, ["--entrypoint", IDLE[0]]);
        project.command = IDLE[1..].iter().map(|word| (*word).to_owned()).collect();
    }
    if project.image.is_some() == project.build.is_some() && document.get("dockerComposeFile").is_none() {
        reader.wrong(at, "one of `image` and `build` must be there");
    }
    project
}

/// Whether the user inside gets the host's ids: by the specification wherever a user is named who is
/// not root, unless `updateRemoteUserUID` says otherwise.
fn maps_user(document: &Value, around: &Surroundings) -> bool {
    let named = ["remoteUser", "containerUser"].iter().find_map(|key| document.get(key)?.text());
    let by_default = named.is_some_and(|name| !["", "root", "0"].contains(&name));
    let wanted = document.get("updateRemoteUserUID").map_or(Some(by_default), Value::truth);
    around.user != 0 && wanted.unwrap_or(false)
}

/// The document with its variables replaced; with `later`, but for those of the container.
fn replaced(
    reader: &mut Reader<'_>,
    value: &Value,
    values: &BTreeMap<&str, String>,
    around: &Surroundings,
    later: bool,
) -> Value {
    let data = match &value.data {
        Data::Text(text) => match substitute(text, values, &around.environment, later) {
            Ok(text) => Data::Text(text),
            Err(name) => {
                reader.wrong(value.at, format!("the variable `${{{name}}}` is not known here"));
                value.data.clone()
            }
        },
        Data::List(items) => {
            Data::List(items.iter().map(|item| replaced(reader, item, values, around, later)).collect())
        }
        Data::Table(entries) => Data::Table(
            entries
                .iter()
                // What an editor reads is the editor's to understand.
                .filter(|entry| !EDITORS.contains(&entry.key.as_str()))
                .map(|entry| {
                    let later = later || entry.key == "remoteEnv";
                    let value = replaced(reader, &entry.value, values, around, later);
                    Entry { value, ..entry.clone() }
                })
                .collect(),
        ),
        other => other.clone(),
    };
    Value { at: value.at, data }
}

fn one(reader: &mut Reader<'_>, entry: &Entry, project: &mut Project, around: &Surroundings) {
    let (key, value, at) = (entry.key.as_str(), &entry.value, entry.at);
    let list = |reader: &mut Reader<'_>, project: &mut Project, flag: &str| {
        for (at, text) in reader.texts(key, value) {
            project.flag(at, [flag.to_owned(), text]);
        }
    };
    match key {
        // A title for people; containers are named by their directory.
        "name" => drop(reader.text(key, value)),
        "image" => project.image = reader.text(key, value),
        "build" => build(reader, entry, project),
        "dockerFile" => {
            let path = reader.text(key, value).map(|path| beside(project, &path));
            let context = project.file.parent().unwrap_or(&project.directory).to_owned();
            let build = project.build.get_or_insert_with(|| Build { at, context, ..Build::default() });
            build.dockerfile = path;
        }
        "context" => {
            if let Some(path) = reader.text(key, value) {
                let context = beside(project, &path);
                project.build.get_or_insert_with(|| Build { at, ..Build::default() }).context = context;
            }
        }
        "runArgs" => {
            let words: Vec<String> = reader.texts(key, value).into_iter().map(|(_, text)| text).collect();
            project.flag(at, words);
        }
        "appPort" | "forwardPorts" => ports(reader, key, value, project),
        "containerEnv" => {
            for (at, name, text) in reader.map(key, value) {
                project.flag(at, ["--env".to_owned(), format!("{name}={text}")]);
            }
        }
        "containerUser" => {
            if let Some(user) = reader.text(key, value) {
                project.flag(at, ["--user".to_owned(), user]);
            }
        }
        "remoteEnv" => {
            let all = reader.map(key, value);
            project.enter.env = all.into_iter().map(|(_, name, text)| (name, text)).collect();
        }
        "remoteUser" => project.enter.user = reader.text(key, value),
        "mounts" => mounts(reader, value, project),
        "workspaceMount" => {
            if let Some(text) = reader.text(key, value).filter(|text| !text.is_empty()) {
                project.flag(at, ["--mount".to_owned(), mount_words(&text)]);
            }
        }
        "workspaceFolder" | "shutdownAction" => drop(reader.text(key, value)),
        "overrideCommand" | "updateRemoteUserUID" => drop(reader.truth(key, value)),
        "init" | "privileged" => {
            if reader.truth(key, value) == Some(true) {
                project.flag(at, [format!("--{key}")]);
            }
        }
        "capAdd" => list(reader, project, "--cap-add"),
        "securityOpt" => list(reader, project, "--security-opt"),
        "hostRequirements" => requirements(reader, value, project, around),
        "initializeCommand" => project.hooks.initialize = reader.hook("initializeCommand", value),
        "onCreateCommand" => {
            project.hooks.create.splice(0..0, reader.hook("onCreateCommand", value)).for_each(drop);
        }
        "updateContentCommand" => {
            let after = project.hooks.create.iter().take_while(|hook| hook.key == "onCreateCommand").count();
            project
                .hooks
                .create
                .splice(after..after, reader.hook("updateContentCommand", value))
                .for_each(drop);
        }
        "postCreateCommand" => project.hooks.create.extend(reader.hook("postCreateCommand", value)),
        "postStartCommand" => project.hooks.start = reader.hook("postStartCommand", value),
        "postAttachCommand" => project.hooks.attach = reader.hook("postAttachCommand", value),
        _ => unknown(reader, entry, project),
    }
}

/// What an editor's extension or a later specification may know is no fault, but is said.
fn unknown(reader: &mut Reader<'_>, entry: &Entry, project: &mut Project) {
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == entry.key) {
        return reader.wrong(entry.at, format!("cannot use `{}`: {why}", entry.key));
    }
    let message = format!("unknown key `{}` has no effect", entry.key);
    let mut note = Finding::warning(&project.file, entry.at, message).as_note();
    let near = nearest(&entry.key, KNOWN.iter().chain(EDITORS).copied());
    note.hint = near.map(|near| format!("did you mean `{near}`?"));
    project.notes.push(note);
}

/// A path as the file has it: beside the file.
fn beside(project: &Project, path: &str) -> std::path::PathBuf {
    project.file.parent().unwrap_or(&project.directory).join(path)
}

fn build(reader: &mut Reader<'_>, entry: &Entry, project: &mut Project) {
    let Some(parts) = entry.value.entries() else {
        return reader.must_be("build", &entry.value, "an object");
    };
    let context = project.file.parent().unwrap_or(&project.directory).to_owned();
    let mut build = Build { at: entry.at, context, ..Build::default() };
    for part in parts {
        let key = format!("build.{}", part.key);
        match part.key.as_str() {
            "dockerfile" => {
                build.dockerfile = reader.text(&key, &part.value).map(|path| beside(project, &path));
            }
            "context" => {
                if let Some(path) = reader.text(&key, &part.value) {
                    build.context = beside(project, &path);
                }
            }
            "target" => build.target = reader.text(&key, &part.value),
            "args" => {
                let all = reader.map(&key, &part.value);
                build.arguments = all.into_iter().map(|(_, name, text)| (name, text)).collect();
            }
            "cacheFrom" => {
                let all = reader.texts(&key, &part.value).into_iter();
                build.flags.extend(all.flat_map(|(_, text)| ["--cache-from".to_owned(), text]));
            }
            "options" => {
                build.flags.extend(reader.texts(&key, &part.value).into_iter().map(|(_, text)| text));
            }
            _ => reader.wrong(part.at, format!("unknown key `{key}`")),
        }
    }
    project.build = Some(build);
}

/// Ports become published ones, on the loopback alone: that is what forwarding is.
fn ports(reader: &mut Reader<'_>, key: &str, value: &Value, project: &mut Project) {
    let one = std::slice::from_ref(value);
    let items = value.items().unwrap_or(one);
    for item in items {
        let port = item.integer().map(|port| port.to_string()).or_else(|| item.text().map(str::to_owned));
        match port {
            Some(port) if key == "appPort" && port.contains(':') => {
                project.flag(item.at, ["--publish".to_owned(), port]);
            }
            Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => {
                project.flag(item.at, ["--publish".to_owned(), format!("127.0.0.1:{port}:{port}")]);
            }
            _ => reader.wrong(item.at, format!("`{key}` must be port numbers")),
        }
    }
}

fn mounts(reader: &mut Reader<'_>, value: &Value, project: &mut Project) {
    let Some(items) = value.items() else { return reader.must_be("mounts", value, "a list") };
    for item in items {
        if let Some(text) = item.text() {
            project.flag(item.at, ["--mount".to_owned(), mount_words(text)]);
        } else if item.entries().is_some() {
            let parts: Vec<String> = reader
                .map("mounts", item)
                .into_iter()
                .map(|(_, key, text)| format!("{key}={text}"))
                .collect();
            project.flag(item.at, ["--mount".to_owned(), parts.join(",")]);
        } else {
            reader.must_be("mounts", item, "a list of mounts");
        }
    }
}

/// `consistency=cached` is for macOS, where file systems are shared with a virtual machine.
fn mount_words(text: &str) -> String {
    text.split(',').filter(|part| !part.starts_with("consistency=")).collect::<Vec<_>>().join(",")
}

fn requirements(reader: &mut Reader<'_>, value: &Value, project: &mut Project, around: &Surroundings) {
    let Some(entries) = value.entries() else {
        return reader.must_be("hostRequirements", value, "an object");
    };
    for entry in entries {
        match entry.key.as_str() {
            "gpu" => {
                let wanted = match (entry.value.truth(), entry.value.text()) {
                    (Some(wanted), _) => wanted,
                    (_, Some("optional")) => around.gpu,
                    _ => entry.value.entries().is_some(),
                };
                if wanted {
                    project.flag(entry.at, ["--gpus", "all"]);
                }
            }
            "cpus" | "memory" | "storage" => {
                let message = format!("`hostRequirements.{}` is not checked", entry.key);
                let note = Finding::warning(&project.file, entry.at, message).as_note();
                project.notes.push(note);
            }
            other => reader.wrong(entry.at, format!("unknown key `hostRequirements.{other}`")),
        }
    }
}
