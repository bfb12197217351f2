//! `--mount type=...,source=...,target=...`.

use std::collections::BTreeMap;
use std::path::Path;

use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::{MountSource, MountSpec, Propagation, ReadOnlyDepth};

use super::volume::{check_volume_name, clean, clean_target, propagation};
use crate::quantity;

#[derive(Debug, Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    propagation: Option<Propagation>,
    recursive: Option<bool>,
    read_only_depth: Option<ReadOnlyDepth>,
    create_source: bool,
    no_copy: bool,
    subpath: Option<String>,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    tmpfs_size: Option<u64>,
    tmpfs_mode: Option<u32>,
    /// The keys that belong to one type only.
    specific: Vec<String>,
}

/// Reads `--mount`: comma-separated values with CSV's quotes.
pub(super) fn mount(text: &str, directory: &Path) -> Result<MountSpec> {
    let bad = |why: &str| Error::invalid(format!("invalid argument `{text}` for --mount: {why}"));
    let mut fields = Fields { kind: "volume".into(), ..Fields::default() };
    for field in csv(text).ok_or_else(|| bad("its quotes do not match"))? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        read(&mut fields, &key, value, directory).map_err(|e| bad(e.message()))?;
    }
    build(fields, &bad)
}

fn read(fields: &mut Fields, key: &str, value: Option<&str>, directory: &Path) -> Result<()> {
    let flag = |value: Option<&str>| match value {
        None => Ok(true),
        Some(value) => robot_env_wire::truth(value)
            .ok_or_else(|| Error::invalid(format!("invalid value for {key}: {value}"))),
    };
    let need =
        || value.ok_or_else(|| Error::invalid(format!("invalid field `{key}` must be a key=value pair")));
    if let Some((kind, _)) = key.split_once('-') {
        fields.specific.push(kind.to_owned());
    }
    match key {
        "type" => fields.kind = need()?.to_ascii_lowercase(),
        "source" | "src" => {
            let value = need()?;
            fields.source = if value == "." || value.starts_with("./") {
                clean(&directory.join(value))
            } else {
                value.to_owned()
            };
        }
        "target" | "dst" | "destination" => need()?.clone_into(&mut fields.target),
        "readonly" | "ro" => fields.read_only = flag(value)?,
        // Means nothing on Linux; Docker takes it too.
        "consistency" => match need()? {
            "consistent" | "cached" | "delegated" | "default" => {}
            other => return Err(Error::invalid(format!("invalid value for consistency: {other}"))),
        },
        "bind-propagation" => {
            let word = need()?.to_ascii_lowercase();
            fields.propagation = Some(
                propagation(&word)
                    .ok_or_else(|| Error::invalid(format!("invalid propagation value: {word}")))?,
            );
        }
        "bind-nonrecursive" => fields.recursive = Some(!flag(value)?),
        "bind-recursive" => match need()? {
            "enabled" => fields.recursive = Some(true),
            "disabled" => fields.recursive = Some(false),
            "writable" => fields.read_only_depth = Some(ReadOnlyDepth::TopOnly),
            "readonly" => fields.read_only_depth = Some(ReadOnlyDepth::RecursiveOrFail),
            other => {
                return Err(Error::invalid(format!(
                    "invalid value for bind-recursive: {other}: it must be enabled, disabled, writable or readonly"
                )));
            }
        },
        "bind-create-src" => fields.create_source = flag(value)?,
        "volume-nocopy" => fields.no_copy = flag(value)?,
        "volume-subpath" | "image-subpath" => fields.subpath = Some(need()?.to_owned()),
        "volume-label" => label(&mut fields.labels, need()?),
        "volume-opt" => label(&mut fields.options, need()?),
        "volume-driver" => match need()? {
            "local" => {}
            other => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("there is no volume driver `{other}`, only `local`"),
                ));
            }
        },
        "tmpfs-size" => fields.tmpfs_size = Some(quantity::bytes(need()?)? as u64),
        "tmpfs-mode" => {
            let value = need()?;
            let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
            fields.tmpfs_mode =
                Some(mode.ok_or_else(|| Error::invalid(format!("invalid value for tmpfs-mode: {value}")))?);
        }
        _ => return Err(Error::invalid(format!("unexpected key `{key}`"))),
    }
    Ok(())
}

fn build(fields: Fields, bad: &dyn Fn(&str) -> Error) -> Result<MountSpec> {
    if fields.target.is_empty() {
        return Err(bad("target is required"));
    }
    let target = clean_target(&fields.target).map_err(|e| bad(e.message()))?;
    if let Some(other) = fields.specific.iter().find(|kind| **kind != fields.kind) {
        return Err(bad(&format!("cannot mix `{other}-*` options with mount type `{}`", fields.kind)));
    }
    let source = match fields.kind.as_str() {
        "bind" => {
            if fields.source.is_empty() {
                return Err(bad("a bind needs a source"));
            }
            if !fields.source.starts_with('/') {
                return Err(bad(&format!("invalid mount path: `{}`: it must be absolute", fields.source)));
            }
            let depth = fields.read_only_depth.unwrap_or_default();
            if depth != ReadOnlyDepth::RecursiveIfPossible && !fields.read_only {
                return Err(bad("bind-recursive=writable and bind-recursive=readonly need `readonly`"));
            }
            if depth == ReadOnlyDepth::RecursiveOrFail && fields.propagation != Some(Propagation::Rprivate) {
                return Err(bad("bind-recursive=readonly needs bind-propagation=rprivate"));
            }
            MountSource::Bind {
                source: clean(Path::new(&fields.source)),
                create_source: fields.create_source,
                propagation: fields.propagation.unwrap_or_default(),
                recursive: fields.recursive.unwrap_or(true),
                read_only_depth: depth,
            }
        }
        "volume" => {
            if !fields.source.is_empty() {
                check_volume_name(&fields.source).map_err(|e| bad(e.message()))?;
            }
            MountSource::Volume {
                name: Some(fields.source).filter(|name| !name.is_empty()),
                no_copy: fields.no_copy,
                subpath: fields.subpath,
                labels: fields.labels,
                options: fields.options,
            }
        }
        "tmpfs" => {
            if !fields.source.is_empty() {
                return Err(bad("a tmpfs has no source"));
            }
            MountSource::Tmpfs { size: fields.tmpfs_size, mode: fields.tmpfs_mode, options: Vec::new() }
        }
        "image" => {
            if fields.source.is_empty() {
                return Err(bad("an image mount needs a source"));
            }
            MountSource::Image { image: fields.source, subpath: fields.subpath }
        }
        other => {
            return Err(bad(&format!(
                "mount type unknown: `{other}`: it must be bind, volume, tmpfs or image"
            )));
        }
    };
    Ok(MountSpec { target, source, read_only: fields.read_only })
}

fn label(map: &mut BTreeMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    map.insert(key.to_owned(), value.to_owned());
}

/// The fields of one line of CSV; `None` when quotes do not match.
pub(crate) fn csv(text: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (mut field, mut inside) = (String::new(), quoted);
            loop {
                let end = inside.find('"')?;
                field.push_str(&inside[..end]);
                inside = &inside[end + 1..];
                match inside.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        inside = after;
                    }
                    None => break,
                }
            }
            out.push(field);
            match inside.strip_prefix(',') {
                Some(after) => rest = after,
                None => return inside.is_empty().then_some(out),
            }
        } else {
            let (field, after) =
                rest.split_once(',').map_or((rest, None), |(field, after)| (field, Some(after)));
            if field.contains('"') {
                return None;
            }
            out.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Some(out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes() {
        assert_eq!(csv("a,b").unwrap(), ["a", "b"]);
        assert_eq!(csv("\"a,\"\"b\",c").unwrap(), ["a,\"b", "c"]);
        assert_eq!(csv("").unwrap(), [""]);
        for bad in ["\"a", "a\"b", "\"a\"b"] {
            assert!(csv(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn every_type_and_option() {
        let read = |text: &str| mount(text, Path::new("/home/me")).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(
            read("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave,bind-nonrecursive"),
            MountSpec {
                target: "/b".into(),
                read_only: true,
                source: MountSource::Bind {
                    source: "/a".into(),
                    create_source: false,
                    propagation: Propagation::Rslave,
                    recursive: false,
                    read_only_depth: ReadOnlyDepth::RecursiveIfPossible,
                },
            }
        );
        assert!(
            matches!(read("type=bind,source=./x,target=/b").source, MountSource::Bind { source, .. } if source == "/home/me/x")
        );
        assert!(matches!(
            read("type=bind,source=/x,target=/b,readonly,bind-recursive=readonly,bind-propagation=rprivate")
                .source,
            MountSource::Bind { read_only_depth: ReadOnlyDepth::RecursiveOrFail, .. }
        ));
        assert_eq!(
            read("source=vol1,target=/b,readonly=false,volume-nocopy,volume-subpath=s,volume-label=a=b,\"volume-opt=o=addr=1,rw\"").source,
            MountSource::Volume {
                name: Some("vol1".into()),
                no_copy: true,
                subpath: Some("s".into()),
                labels: BTreeMap::from([("a".into(), "b".into())]),
                options: BTreeMap::from([("o".into(), "addr=1,rw".into())]),
            }
        );
        assert_eq!(
            read("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700").source,
            MountSource::Tmpfs { size: Some(1 << 20), mode: Some(0o700), options: vec![] }
        );
        assert_eq!(
            read("type=image,source=ros:1,target=/r,image-subpath=opt").source,
            MountSource::Image { image: "ros:1".into(), subpath: Some("opt".into()) }
        );
        for bad in [
            "",
            "type=bind",
            "type=bind,target=/a",
            "type=bind,source=x,target=/a",
            "type=volume,source=/x,target=/a",
            "target=a",
            "target=/",
            "type=tmpfs,source=x,target=/a",
            "type=image,target=/a",
            "type=npipe,target=/a",
            "type=x,target=/a",
            "type=tmpfs,target=/a,volume-nocopy",
            "type=bind,source=/a,target=/b,tmpfs-size=1m",
            "target=/a,nope=1",
            "target=/a,source",
            "type=bind,source=/a,target=/b,bind-propagation=x",
            "type=bind,source=/a,target=/b,bind-recursive=readonly",
            "type=bind,source=/a,target=/b,bind-recursive=x",
            "target=/a,ro=x",
            "type=tmpfs,target=/a,tmpfs-mode=9",
            "target=/a,volume-driver=nfs",
            "type=tmpfs,target=/a,tmpfs-size=x",
        ] {
            assert!(mount(bad, Path::new("/")).is_err(), "{bad:?} was accepted");
        }
    }
}
