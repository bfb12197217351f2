//! Container Device Interface files (CNCF tag-runtime, specification 0.8 and older): read from
//! `/etc/cdi` and `/var/run/cdi`, and written.
//!
//! A device is named `vendor.com/class=name`. Of two files that have the same device, the one in
//! the later directory counts.

use std::path::PathBuf;

use oci_spec::runtime::{Hook, HookBuilder};
use robot_env_diag::{Context, Error, Kind, Result, Within};
use robot_env_spec::ResolvedDevice;
use serde::{Deserialize, Serialize};

use crate::edits::{SpecEdits, Stage, bind};
use crate::root::HostRoot;

/// Where files are; later ones win.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// A CDI file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CdiSpec {
    /// Version of the specification.
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    /// Its devices.
    #[serde(default)]
    pub devices: Vec<CdiDevice>,
    /// What every one of them needs.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// A device in a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CdiDevice {
    /// Its name, without vendor and class. YAML files may have it as a number.
    #[serde(deserialize_with = "word")]
    pub name: String,
    /// What it needs.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// What a device changes about a container, in the specification's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the specification's words
pub struct ContainerEdits {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<CdiMount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<CdiHook>,
    #[serde(rename = "additionalGids", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<serde_json::Value>,
}

/// A device node in a file; what is absent is as the host has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the specification's words
pub struct DeviceNode {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A mount in a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the specification's words
pub struct CdiMount {
    pub host_path: String,
    pub container_path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A hook in a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // the specification's words
pub struct CdiHook {
    pub hook_name: String,
    pub path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

fn word<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Text(String),
        Number(i64),
    }
    Ok(match Word::deserialize(from)? {
        Word::Text(text) => text,
        Word::Number(number) => number.to_string(),
    })
}

/// `vendor.com/class` and the name in `vendor.com/class=name`; `None` where the text is no such name.
pub fn qualified(text: &str) -> Option<(&str, &str)> {
    let (kind, name) = text.split_once('=')?;
    let (vendor, class) = kind.split_once('/')?;
    let letters = |text: &str, more: &str| {
        let bytes = text.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    (letters(vendor, "_-.") && letters(class, "_-") && letters(name, "_-.:")).then_some((kind, name))
}

/// The files of this host, and what is wrong with those that cannot be read.
pub fn load(root: &HostRoot) -> (Vec<(PathBuf, CdiSpec)>, Vec<Error>) {
    let (mut found, mut damage) = (Vec::new(), Vec::new());
    for directory in DIRECTORIES {
        for name in root.names(directory) {
            let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
            if !yaml && !name.ends_with(".json") {
                continue;
            }
            let path = format!("{directory}/{name}");
            let Some(bytes) = root.read(&path) else { continue };
            match parse(&bytes, yaml).within(|| format!("cannot read CDI file `{path}`")) {
                Ok(spec) => found.push((root.real(&path), spec)),
                Err(error) => damage.push(error),
            }
        }
    }
    (found, damage)
}

/// Reads a file's bytes.
pub fn parse(bytes: &[u8], yaml: bool) -> Result<CdiSpec> {
    let spec: CdiSpec = if yaml {
        let text = std::str::from_utf8(bytes).context(Kind::Corrupt, || "it is no text".into())?;
        serde_norway::from_str(text).context(Kind::Corrupt, || "it is no CDI specification".into())?
    } else {
        serde_json::from_slice(bytes).context(Kind::Corrupt, || "it is no CDI specification".into())?
    };
    if qualified(&format!("{}=x", spec.kind)).is_none() {
        return Err(Error::new(Kind::Corrupt, format!("`{}` is no kind of device", spec.kind)));
    }
    Ok(spec)
}

/// What a device of the host's files changes; `None` where no file has it.
///
/// # Errors
/// A device that is there but asks for what is not possible, or whose node is gone.
pub fn edits(root: &HostRoot, name: &str) -> Result<Option<SpecEdits>> {
    let (kind, device) = qualified(name).ok_or_else(|| {
        Error::invalid(format!("invalid CDI device `{name}`: it must be vendor.com/class=name"))
    })?;
    let (specs, damage) = load(root);
    for (_, spec) in specs.iter().rev().filter(|(_, spec)| spec.kind == kind) {
        let Some(found) = spec.devices.iter().find(|candidate| candidate.name == device) else { continue };
        let mut out = SpecEdits::default();
        for part in [&found.container_edits, &spec.container_edits] {
            out.merge(convert(root, part).within(|| format!("cannot use CDI device `{name}`"))?);
        }
        return Ok(Some(out));
    }
    match damage.into_iter().next() {
        // A file that cannot be read may be the one that has it.
        Some(error) => Err(error.within(format!("cannot find CDI device `{name}`"))),
        None => Ok(None),
    }
}

fn convert(root: &HostRoot, edits: &ContainerEdits) -> Result<SpecEdits> {
    let unsupported = |what: &str| Error::new(Kind::Unsupported, format!("{what} are not supported"));
    if edits.intel_rdt.is_some() {
        return Err(unsupported("resctrl settings (intelRdt)"));
    }
    if !edits.net_devices.is_empty() {
        return Err(unsupported("network devices (netDevices)"));
    }
    let mut out =
        SpecEdits { env: edits.env.clone(), groups: edits.additional_gids.clone(), ..Default::default() };
    for node in &edits.device_nodes {
        out.devices.push(device_node(root, node)?);
    }
    for mount in &edits.mounts {
        let mut made = bind(root.real(&mount.host_path).to_string_lossy(), &mount.container_path, false);
        made.read_only = mount.options.iter().any(|option| option == "ro");
        made.recursive = !mount.options.iter().any(|option| option == "bind");
        // Access, recursion and propagation have fields of their own.
        let own = |option: &String| {
            matches!(option.as_str(), "ro" | "rw" | "bind" | "rbind") || option.ends_with("private")
        };
        made.options = mount.options.iter().filter(|option| !own(option)).cloned().collect();
        if let Some(kind) = mount.kind.as_ref().filter(|kind| !matches!(kind.as_str(), "" | "bind" | "none"))
        {
            made.kind.clone_from(kind);
            made.source.clone_from(&mount.host_path);
        }
        out.mounts.push(made);
    }
    for hook in &edits.hooks {
        out.hooks.push((stage(&hook.hook_name)?, oci_hook(hook)?));
    }
    Ok(out)
}

fn device_node(root: &HostRoot, node: &DeviceNode) -> Result<ResolvedDevice> {
    let host_path = node.host_path.as_deref().unwrap_or(&node.path);
    let found = root.device(host_path);
    let mut out = match (&found, node.major, node.minor) {
        (Some(found), ..) => found.clone(),
        // A node that the file itself describes need not be there.
        (None, Some(major), Some(minor)) if major > 0 => ResolvedDevice {
            path: String::new(),
            host_path: root.real(host_path).to_string_lossy().into_owned(),
            kind: 'c',
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            permissions: "rwm".into(),
        },
        _ => {
            return Err(Error::not_found(format!("device `{host_path}` does not exist"))
                .with_hint("write the file anew, e.g. with `cdi generate`, or remove it"));
        }
    };
    node.path.clone_into(&mut out.path);
    if let Some(kind) = node.kind.as_deref().and_then(|kind| kind.chars().next()) {
        out.kind = kind;
    }
    // The host's numbers count where it has the node: a file may be older than the driver.
    out.mode = node.file_mode.unwrap_or(out.mode);
    out.uid = node.uid.unwrap_or(out.uid);
    out.gid = node.gid.unwrap_or(out.gid);
    if let Some(permissions) = node.permissions.as_ref().filter(|text| !text.is_empty()) {
        out.permissions.clone_from(permissions);
    }
    Ok(out)
}

fn stage(name: &str) -> Result<Stage> {
    Ok(match name {
        "prestart" => Stage::Prestart,
        "createRuntime" => Stage::CreateRuntime,
        "createContainer" => Stage::CreateContainer,
        "startContainer" => Stage::StartContainer,
        "poststart" => Stage::Poststart,
        "poststop" => Stage::Poststop,
        other => return Err(Error::new(Kind::Unsupported, format!("there are no `{other}` hooks"))),
    })
}

fn oci_hook(hook: &CdiHook) -> Result<Hook> {
    let mut builder = HookBuilder::default().path(&hook.path);
    if !hook.args.is_empty() {
        builder = builder.args(hook.args.clone());
    }
    if !hook.env.is_empty() {
        builder = builder.env(hook.env.clone());
    }
    if let Some(timeout) = hook.timeout {
        builder = builder.timeout(timeout);
    }
    builder.build().context(Kind::Internal, || format!("cannot use hook `{}`", hook.path))
}

/// What is found, in the specification's words; links and libraries become hooks that `hook`, this
/// program's path, runs.
pub fn describe(edits: &SpecEdits, hook: &str) -> ContainerEdits {
    let mut out = ContainerEdits { env: edits.env.clone(), ..ContainerEdits::default() };
    for device in &edits.devices {
        let differs = device.host_path != device.path;
        out.device_nodes.push(DeviceNode {
            path: device.path.clone(),
            host_path: differs.then(|| device.host_path.clone()),
            ..DeviceNode::default()
        });
    }
    for mount in &edits.mounts {
        let mut options: Vec<String> = vec![if mount.read_only { "ro" } else { "rw" }.into()];
        options.extend(mount.options.iter().cloned());
        options.extend(["rbind".into(), "rprivate".into()]);
        out.mounts.push(CdiMount {
            host_path: mount.source.clone(),
            container_path: mount.target.clone(),
            options,
            kind: None,
        });
    }
    let mut add = |name: &str, words: Vec<String>| {
        let mut args: Vec<String> = ["robot-env", "cdi", "hook", name].map(str::to_owned).to_vec();
        args.extend(words);
        let hook_name = "createContainer".into();
        out.hooks.push(CdiHook { hook_name, path: hook.to_owned(), args, ..CdiHook::default() });
    };
    if !edits.links.is_empty() {
        let words =
            edits.links.iter().flat_map(|link| ["--link".into(), format!("{}::{}", link.target, link.path)]);
        add("create-symlinks", words.collect());
    }
    if !edits.libraries.is_empty() {
        let words = edits
            .libraries
            .iter()
            .flat_map(|l| ["--library".into(), format!("{}::{}::{:x}", l.soname, l.path, l.flags)]);
        add("update-ldcache", words.collect());
    }
    out.additional_gids.clone_from(&edits.groups);
    out
}

/// A file's text as YAML.
pub fn to_yaml(spec: &CdiSpec) -> Result<String> {
    serde_norway::to_string(spec).context(Kind::Internal, || "cannot write YAML".into())
}

#[cfg(test)]
#[path = "cdi/tests.rs"]
mod tests;
