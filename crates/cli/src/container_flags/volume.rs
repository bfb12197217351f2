//! `-v [SOURCE:]TARGET[:OPTIONS]` and `--tmpfs`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use robot_env_diag::{Error, Result};
use robot_env_spec::{MountSource, MountSpec, Propagation, ReadOnlyDepth, VolumesFrom};

use crate::quantity;

/// Reads `-v`. A source that begins with `/` or `.` is a host path (made absolute from `directory`,
/// made as a directory if missing), another one names a volume.
pub(super) fn volume(text: &str, directory: &Path) -> Result<MountSpec> {
    let bad = |why: &str| Error::invalid(format!("invalid volume specification: `{text}`: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [target, mode] if Options::parse(mode).is_some() && !mode.starts_with('/') => {
            let _ = target;
            return Err(bad("options need a source and a target"));
        }
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(bad("it has too many colons")),
    };
    if source == Some("") || target.is_empty() {
        return Err(bad("a part is empty"));
    }
    let target = clean_target(target).map_err(|e| bad(e.message()))?;
    let options = Options::parse(options).ok_or_else(|| bad(&format!("invalid mode: {options}")))?;
    let source = match source {
        Some(path) if path.starts_with('/') || path.starts_with('.') => {
            if options.no_copy {
                return Err(bad("nocopy is for volumes, not for host paths"));
            }
            MountSource::Bind {
                source: clean(&directory.join(path)),
                create_source: true,
                propagation: options.propagation.unwrap_or_default(),
                recursive: true,
                read_only_depth: ReadOnlyDepth::RecursiveIfPossible,
            }
        }
        name => {
            if options.propagation.is_some() {
                return Err(bad("mount propagation is for host paths, not for volumes"));
            }
            if let Some(name) = name {
                check_volume_name(name).map_err(|e| bad(e.message()))?;
            }
            MountSource::Volume {
                name: name.map(str::to_owned),
                no_copy: options.no_copy,
                subpath: None,
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
            }
        }
    };
    Ok(MountSpec { target, source, read_only: options.read_only })
}

#[derive(Debug, Default)]
struct Options {
    read_only: bool,
    no_copy: bool,
    propagation: Option<Propagation>,
}

impl Options {
    /// Words of one class exclude each other. `z`, `Z` (labels of SELinux, which is not used) and
    /// the consistency words (which mean nothing on Linux) are taken as Docker takes them.
    fn parse(text: &str) -> Option<Options> {
        let mut options = Options::default();
        let (mut access, mut label, mut copy, mut consistency) = (0, 0, 0, 0);
        if text.is_empty() {
            return Some(options);
        }
        for word in text.split(',') {
            match word {
                "ro" | "rw" => {
                    access += 1;
                    options.read_only = word == "ro";
                }
                "z" | "Z" => label += 1,
                "nocopy" => {
                    copy += 1;
                    options.no_copy = true;
                }
                "consistent" | "cached" | "delegated" | "default" => consistency += 1,
                _ => {
                    if options.propagation.is_some() {
                        return None;
                    }
                    options.propagation = Some(propagation(word)?);
                }
            }
        }
        (access <= 1 && label <= 1 && copy <= 1 && consistency <= 1).then_some(options)
    }
}

pub(super) fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "rprivate" => Propagation::Rprivate,
        "private" => Propagation::Private,
        "rshared" => Propagation::Rshared,
        "shared" => Propagation::Shared,
        "rslave" => Propagation::Rslave,
        "slave" => Propagation::Slave,
        _ => return None,
    })
}

/// An absolute path inside the container, without `.` and `..`, and not `/` itself.
pub(super) fn clean_target(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: `{path}`: it must be absolute")));
    }
    let cleaned = clean(Path::new(path));
    if cleaned == "/" {
        return Err(Error::invalid("invalid mount path: the target cannot be `/`"));
    }
    Ok(cleaned)
}

/// The path without `.`, `..` and double slashes, by its text alone.
pub(super) fn clean(path: &Path) -> String {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}

pub(crate) fn check_volume_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !first || !rest {
        return Err(Error::invalid(format!(
            "`{name}` includes invalid characters for a local volume name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))
        .with_hint("to mount a host directory, write its absolute path"));
    }
    if name.len() < 2 {
        return Err(Error::invalid(format!(
            "volume name `{name}` is too short: it needs at least two characters"
        )));
    }
    if name.len() > 255 {
        return Err(Error::invalid("a volume name has at most 255 characters"));
    }
    Ok(())
}

/// Reads `--tmpfs PATH[:OPTIONS]`.
pub(super) fn tmpfs(text: &str) -> Result<MountSpec> {
    let (target, words) = text.split_once(':').unwrap_or((text, ""));
    let bad = |why: &str| Error::invalid(format!("invalid tmpfs `{text}`: {why}"));
    let target = clean_target(target).map_err(|e| bad(e.message()))?;
    let (mut size, mut mode, mut read_only, mut options) = (None, None, false, Vec::new());
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("size", value)) if !value.ends_with('%') => {
                size = Some(quantity::bytes(value).map_err(|e| bad(e.message()))? as u64);
            }
            Some(("mode", value)) => {
                mode = Some(
                    u32::from_str_radix(value, 8)
                        .ok()
                        .filter(|m| *m <= 0o7777)
                        .ok_or_else(|| bad("the mode must be octal"))?,
                );
            }
            None if word == "ro" => read_only = true,
            None if word == "rw" => read_only = false,
            Some(("size" | "nr_inodes" | "nr_blocks" | "uid" | "gid" | "mpol" | "huge", _)) => {
                options.push(word.to_owned());
            }
            None if propagation(word).is_some()
                || matches!(
                    word,
                    "defaults"
                        | "suid"
                        | "nosuid"
                        | "dev"
                        | "nodev"
                        | "exec"
                        | "noexec"
                        | "sync"
                        | "async"
                        | "dirsync"
                        | "remount"
                        | "mand"
                        | "nomand"
                        | "atime"
                        | "noatime"
                        | "diratime"
                        | "nodiratime"
                        | "relatime"
                        | "norelatime"
                        | "strictatime"
                        | "nostrictatime"
                        | "noswap"
                ) =>
            {
                options.push(word.to_owned());
            }
            _ => return Err(bad(&format!("there is no tmpfs option `{word}`"))),
        }
    }
    Ok(MountSpec { target, source: MountSource::Tmpfs { size, mode, options }, read_only })
}

/// Reads `--volumes-from CONTAINER[:MODE]`.
pub(super) fn volumes_from(text: &str) -> Result<VolumesFrom> {
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    let options = Options::parse(mode)
        .filter(|options| options.propagation.is_none() && !options.no_copy)
        .ok_or_else(|| Error::invalid(format!("invalid --volumes-from `{text}`: invalid mode: {mode}")))?;
    if container.is_empty() {
        return Err(Error::invalid(format!("invalid --volumes-from `{text}`: there is no container's name")));
    }
    Ok(VolumesFrom { container: container.to_owned(), read_only: options.read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, propagation: Propagation) -> MountSource {
        MountSource::Bind {
            source: source.into(),
            create_source: true,
            propagation,
            recursive: true,
            read_only_depth: ReadOnlyDepth::RecursiveIfPossible,
        }
    }

    fn named(name: Option<&str>, no_copy: bool) -> MountSource {
        MountSource::Volume {
            name: name.map(str::to_owned),
            no_copy,
            subpath: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }

    #[test]
    fn volumes_as_docker_reads_them() {
        for (text, source, target, read_only) in [
            ("/data", named(None, false), "/data", false),
            ("vol1:/data", named(Some("vol1"), false), "/data", false),
            ("vol1:/data:ro", named(Some("vol1"), false), "/data", true),
            ("vol1:/data:nocopy,ro", named(Some("vol1"), true), "/data", true),
            ("/a:/b", bind("/a", Propagation::Rprivate), "/b", false),
            ("/a/../c:/b/:rw", bind("/c", Propagation::Rprivate), "/b", false),
            ("/a:/b:ro,Z,rslave,cached", bind("/a", Propagation::Rslave), "/b", true),
            ("./x:/b", bind("/home/me/x", Propagation::Rprivate), "/b", false),
            ("../x:/b", bind("/home/x", Propagation::Rprivate), "/b", false),
            (".:/b", bind("/home/me", Propagation::Rprivate), "/b", false),
            (
                "/tmp/.X11-unix:/tmp/.X11-unix:rw",
                bind("/tmp/.X11-unix", Propagation::Rprivate),
                "/tmp/.X11-unix",
                false,
            ),
        ] {
            let got = volume(text, Path::new("/home/me")).unwrap();
            assert_eq!(got, MountSpec { target: target.into(), source, read_only }, "{text}");
        }
        for bad in [
            "",
            ":",
            ":/b",
            "/a:",
            "/a:/b:",
            "data",
            "/a:b",
            "/a:/",
            "/data:ro",
            "/a:/b:x",
            "/a:/b:ro,rw",
            "/a:/b:ro,ro",
            "/a:/b:nocopy",
            "vol1:/b:rshared",
            "/a:/b:shared,slave",
            "a/b:/c",
            "-v:/c",
            "v:/c",
            "/a:/b:ro:x",
            "v ol:/c",
        ] {
            if bad == "/a:/b:" {
                continue;
            }
            assert!(volume(bad, Path::new("/")).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn tmpfs_options() {
        let got = tmpfs("/run:rw,noexec,size=64k,mode=1770,uid=1000").unwrap();
        assert_eq!(got.target, "/run");
        assert_eq!(
            got.source,
            MountSource::Tmpfs {
                size: Some(65536),
                mode: Some(0o1770),
                options: vec!["noexec".into(), "uid=1000".into()]
            }
        );
        assert!(tmpfs("/run:ro").unwrap().read_only);
        for bad in ["run", "/run:what", "/run:size=x", "/run:mode=9", "/", "/run:lowerdir=/"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_of_other_containers() {
        assert_eq!(volumes_from("web:ro").unwrap(), VolumesFrom { container: "web".into(), read_only: true });
        assert_eq!(volumes_from("web").unwrap(), VolumesFrom { container: "web".into(), read_only: false });
        for bad in [":ro", "", "web:x", "web:nocopy"] {
            assert!(volumes_from(bad).is_err(), "{bad}");
        }
    }
}
