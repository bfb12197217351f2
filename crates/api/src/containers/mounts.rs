//! Binds, volumes and tmpfs, as clients send them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use robot_env_spec::{MountSource, MountSpec, Propagation, ReadOnlyDepth};
use robot_env_wire::{BindRequest, HostConfigRequest, MountRequest};

use super::limits;
use crate::failure::{Failure, Result};

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(400, message)
}

/// The mounts of a container: `Binds`, `Mounts`, `Tmpfs`, and the volumes of its config.
pub(super) fn mounts(
    host: &HostConfigRequest,
    volumes: &BTreeMap<String, serde_json::Value>,
) -> Result<Vec<MountSpec>> {
    let mut out: Vec<MountSpec> = Vec::new();
    for text in &host.binds {
        add(&mut out, bind(text)?)?;
    }
    for wanted in &host.mounts {
        add(&mut out, mount(wanted)?)?;
    }
    for (target, options) in &host.tmpfs {
        add(&mut out, tmpfs(target, options)?)?;
    }
    for target in volumes.keys() {
        let target = clean_target(target)?;
        // What is mounted there otherwise wins.
        if out.iter().all(|mount| mount.target != target) {
            out.push(MountSpec { target, source: volume(None, false), read_only: false });
        }
    }
    Ok(out)
}

fn add(mounts: &mut Vec<MountSpec>, mount: MountSpec) -> Result<()> {
    if mounts.iter().any(|other| other.target == mount.target) {
        return Err(bad(format!("Duplicate mount point: {}", mount.target)));
    }
    mounts.push(mount);
    Ok(())
}

fn volume(name: Option<&str>, no_copy: bool) -> MountSource {
    MountSource::Volume {
        name: name.map(str::to_owned),
        no_copy,
        subpath: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    }
}

/// `SOURCE:TARGET[:OPTIONS]`.
fn bind(text: &str) -> Result<MountSpec> {
    let wrong = |why: &str| bad(format!("invalid volume specification: '{text}'{why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, words) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, words] => (Some(source), target, words),
        _ => return Err(wrong("")),
    };
    let (mut read_only, mut no_copy, mut propagation) = (false, false, None);
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => read_only = true,
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
            "nocopy" => no_copy = true,
            word => match propagation_of(word) {
                Some(found) if propagation.is_none() => propagation = Some(found),
                _ => return Err(wrong(&format!(": invalid mode: {words}"))),
            },
        }
    }
    let target = clean_target(target).map_err(|failure| wrong(&format!(": {}", failure.message)))?;
    let source = match source {
        Some("") => return Err(wrong("")),
        Some(path) if path.starts_with('/') => {
            if no_copy {
                return Err(wrong(": nocopy is for volumes"));
            }
            MountSource::Bind {
                source: clean(Path::new(path)),
                create_source: true,
                propagation: propagation.unwrap_or_default(),
                recursive: true,
                read_only_depth: ReadOnlyDepth::RecursiveIfPossible,
            }
        }
        name => {
            if let Some(name) = name {
                check_volume_name(name)?;
            }
            if propagation.is_some() {
                return Err(wrong(": mount propagation is for host paths"));
            }
            volume(name, no_copy)
        }
    };
    Ok(MountSpec { target, source, read_only })
}

/// A mount in its long form.
fn mount(wanted: &MountRequest) -> Result<MountSpec> {
    let target = clean_target(&wanted.target)?;
    let wrong = |why: &str| bad(format!("invalid mount config for type \"{}\": {why}", wanted.kind));
    for (given, own, name) in [
        (wanted.bind_options.is_some(), "bind", "BindOptions"),
        (wanted.volume_options.is_some(), "volume", "VolumeOptions"),
        (wanted.tmpfs_options.is_some(), "tmpfs", "TmpfsOptions"),
        (wanted.image_options.is_some(), "image", "ImageOptions"),
    ] {
        if given && wanted.kind != own {
            return Err(wrong(&format!("field {name} must not be specified")));
        }
    }
    let source = match wanted.kind.as_str() {
        "bind" => {
            if !wanted.source.starts_with('/') {
                return Err(wrong(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    wanted.source
                )));
            }
            bind_source(&wanted.source, wanted.bind_options.as_ref()).map_err(|why| wrong(&why))?
        }
        "volume" => {
            let options = wanted.volume_options.clone().unwrap_or_default();
            let driver = options.driver_config.unwrap_or_default();
            if !matches!(driver.name.as_str(), "" | "local") {
                return Err(Failure::new(
                    404,
                    format!(
                        "error looking up volume plugin {}: plugin \"{}\" not found",
                        driver.name, driver.name
                    ),
                ));
            }
            if !wanted.source.is_empty() {
                check_volume_name(&wanted.source)?;
            }
            MountSource::Volume {
                name: Some(wanted.source.clone()).filter(|name| !name.is_empty()),
                no_copy: options.no_copy,
                subpath: Some(options.subpath).filter(|path| !path.is_empty()),
                labels: options.labels,
                options: driver.options,
            }
        }
        "tmpfs" => {
            if !wanted.source.is_empty() {
                return Err(wrong("field Source must not be specified"));
            }
            let options = wanted.tmpfs_options.clone().unwrap_or_default();
            MountSource::Tmpfs {
                size: u64::try_from(options.size_bytes).ok().filter(|size| *size > 0),
                mode: Some(options.mode).filter(|mode| *mode > 0),
                options: options.options.iter().map(|words| words.join("=")).collect(),
            }
        }
        "image" => MountSource::Image {
            image: wanted.source.clone(),
            subpath: wanted.image_options.clone().map(|o| o.subpath).filter(|path| !path.is_empty()),
        },
        _ => return Err(bad("mount type unknown")),
    };
    Ok(MountSpec { target, source, read_only: wanted.read_only })
}

fn bind_source(source: &str, options: Option<&BindRequest>) -> Result<MountSource, String> {
    let options = options.cloned().unwrap_or_default();
    let propagation = match options.propagation.as_str() {
        "" => Propagation::default(),
        word => propagation_of(word).ok_or_else(|| format!("invalid propagation mode: {word}"))?,
    };
    Ok(MountSource::Bind {
        source: clean(Path::new(source)),
        create_source: options.create_mountpoint,
        propagation,
        recursive: !options.non_recursive,
        read_only_depth: match (options.read_only_non_recursive, options.read_only_force_recursive) {
            (true, true) => {
                return Err("ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other".into());
            }
            (true, false) => ReadOnlyDepth::TopOnly,
            (false, true) => ReadOnlyDepth::RecursiveOrFail,
            (false, false) => ReadOnlyDepth::RecursiveIfPossible,
        },
    })
}

fn tmpfs(target: &str, text: &str) -> Result<MountSpec> {
    let target = clean_target(target)?;
    let wrong = |word: &str| bad(format!("invalid tmpfs option \"{word}\""));
    let (mut size, mut mode, mut read_only, mut options) = (None, None, false, Vec::new());
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("size", value)) if !value.ends_with('%') => {
                size = Some(limits::bytes(value).ok_or_else(|| wrong(word))?);
            }
            Some(("mode", value)) => {
                mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong(word))?);
            }
            None if word == "ro" => read_only = true,
            None if word == "rw" => read_only = false,
            Some(("size" | "nr_inodes" | "nr_blocks" | "uid" | "gid" | "mpol" | "huge", _)) => {
                options.push(word.to_owned());
            }
            None if FLAGS.contains(&word) || propagation_of(word).is_some() => options.push(word.to_owned()),
            _ => return Err(wrong(word)),
        }
    }
    Ok(MountSpec { target, source: MountSource::Tmpfs { size, mode, options }, read_only })
}

/// The words that a tmpfs may have.
const FLAGS: &[&str] = &[
    "defaults",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "remount",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "noswap",
];

fn propagation_of(word: &str) -> Option<Propagation> {
    use Propagation::{Private, Rprivate, Rshared, Rslave, Shared, Slave};
    [Rprivate, Private, Rshared, Shared, Rslave, Slave].into_iter().find(|mode| mode.word() == word)
}

fn clean_target(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(bad(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    let cleaned = clean(Path::new(path));
    if cleaned == "/" {
        return Err(bad("invalid mount path: destination can't be '/'"));
    }
    Ok(cleaned)
}

/// The path without `.`, `..` and double slashes, by its text alone.
fn clean(path: &Path) -> String {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}

fn check_volume_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && (2..=255).contains(&name.len()) {
        return Ok(());
    }
    Err(bad(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_paths_or_volumes() {
        let got = bind("/a/../b:/x/./y:ro,rslave").unwrap();
        assert!(got.read_only && got.target == "/x/y");
        assert!(
            matches!(got.source, MountSource::Bind { source, propagation: Propagation::Rslave, .. } if source == "/b")
        );
        let got = bind("data:/d:nocopy,z").unwrap();
        assert!(
            matches!(got.source, MountSource::Volume { name: Some(name), no_copy: true, .. } if name == "data")
        );
        for wrong in
            ["", "a:b", "/a:/", ":/a", "/a:/b:x", "./a:/b", "/a:/b:c:d", "data:/x:rshared", "/a:/b:nocopy"]
        {
            assert!(bind(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn long_mounts() {
        let read = |text: &str| mount(&serde_json::from_str(text).unwrap());
        assert!(
            read(r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"rshared"}}"#)
                .is_ok()
        );
        assert!(read(r#"{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":5}}"#).is_ok());
        for wrong in [
            r#"{"Type":"bind","Source":"a","Target":"/b"}"#,
            r#"{"Type":"bind","Source":"/a","Target":"/b","VolumeOptions":{}}"#,
            r#"{"Type":"volume","Source":"/a","Target":"/b"}"#,
            r#"{"Type":"npipe","Source":"a","Target":"/b"}"#,
            r#"{"Type":"volume","Target":"b"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_path_is_mounted_twice() {
        let host: HostConfigRequest =
            serde_json::from_str(r#"{"Binds":["/a:/x"],"Tmpfs":{"/x/":""}}"#).unwrap();
        assert!(mounts(&host, &BTreeMap::new()).is_err());
        let host: HostConfigRequest = serde_json::from_str(r#"{"Binds":["/a:/x"]}"#).unwrap();
        let volumes = BTreeMap::from([
            ("/x".to_owned(), serde_json::Value::Null),
            ("/y".to_owned(), serde_json::Value::Null),
        ]);
        assert_eq!(mounts(&host, &volumes).unwrap().len(), 2);
    }
}
