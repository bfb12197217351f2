//! What a container mounts: decided when it is made, looked up when it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_oci::RuntimeConfig;
use robot_env_spec::{ContainerSpec, MountSource, MountSpec, Propagation, ReadOnlyDepth, ResolvedMount};
use robot_env_store::OverlayXattr;
use robot_env_sys::fs as sys_fs;
use robot_env_sys::mount::{self, OverlayRequest};

use crate::engine::Engine;
use crate::record::{ContainerRecord, MountPoint};
use crate::volume::VolumeRequest;

impl MountPoint {
    /// Whether the volume, when it is empty, is filled with what the image has there.
    pub(crate) fn copies(&self) -> bool {
        match &self.spec {
            Some(MountSpec { source: MountSource::Volume { no_copy, subpath, .. }, .. }) => {
                !no_copy && subpath.is_none()
            }
            _ => true,
        }
    }

    /// The part of the volume that is mounted, where it is not the whole.
    pub(crate) fn part(&self) -> Option<&str> {
        match &self.spec {
            Some(MountSpec { source: MountSource::Volume { subpath, .. }, .. }) => subpath.as_deref(),
            _ => None,
        }
    }
}

/// Where a part of a volume is mounted for its container's start.
pub(crate) fn part_place(run: &Path, index: usize) -> PathBuf {
    run.join(format!("part-{index}"))
}

/// A file or directory inside a volume, as a mount of its own. Links may not lead out of the volume;
/// and what was found is what is mounted, whatever another container that has the volume makes of the
/// path meanwhile.
pub(crate) fn tree_below(volume: &str, subpath: &str) -> Result<OwnedFd> {
    Ok(mount::clone_tree(found_below(volume, subpath)?.as_fd(), "", true)?)
}

fn found_below(directory: &str, subpath: &str) -> Result<OwnedFd> {
    let root = sys_fs::open_directory(Path::new(directory))?;
    sys_fs::open_in_root(root.as_fd(), subpath, rustix::fs::OFlags::PATH).map_err(|error| {
        Error::new(Kind::InvalidInput, format!("cannot find `{subpath}` in it")).because(error)
    })
}

impl Engine {
    /// The mounts of a new container: those asked for, those of other containers, the image's
    /// volumes. Volumes that do not exist are made.
    pub(crate) fn mount_points(
        &self,
        spec: &ContainerSpec,
        image: &RuntimeConfig,
    ) -> Result<Vec<MountPoint>> {
        let mut points = Vec::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for mount in &spec.mounts {
            taken.insert(clean(&mount.target));
            points.push(self.mount_point(mount)?);
        }
        for other in &spec.volumes_from {
            let container = self.records.load(&self.records.find(&other.container)?)?;
            for point in container.record.mounts {
                if matches!(point.kind.as_str(), "bind" | "volume") && taken.insert(clean(&point.target)) {
                    let read_only = point.read_only || other.read_only;
                    points.push(MountPoint { anonymous: false, read_only, ..point });
                }
            }
        }
        for target in image.volumes.keys() {
            if taken.insert(clean(target)) {
                points.push(self.volume_point(None, target, &BTreeMap::new(), &BTreeMap::new())?);
            }
        }
        Ok(points)
    }

    fn mount_point(&self, mount: &MountSpec) -> Result<MountPoint> {
        let mut point = match &mount.source {
            MountSource::Bind { source, create_source, propagation, .. } => {
                if !create_source && !Path::new(source).exists() {
                    return Err(missing_source(source));
                }
                MountPoint {
                    source: source.clone(),
                    propagation: *propagation,
                    ..empty("bind", &mount.target)
                }
            }
            MountSource::Volume { name, labels, options, .. } => {
                self.volume_point(name.clone(), &mount.target, labels, options)?
            }
            MountSource::Tmpfs { .. } => empty("tmpfs", &mount.target),
            MountSource::Image { image, .. } => {
                let found = self.store.resolve(image)?;
                MountPoint { source: found.id.to_string(), ..empty("image", &mount.target) }
            }
        };
        point.read_only = mount.read_only || point.kind == "image";
        point.spec = Some(mount.clone());
        Ok(point)
    }

    fn volume_point(
        &self,
        name: Option<String>,
        target: &str,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
    ) -> Result<MountPoint> {
        let anonymous = name.is_none();
        let request = VolumeRequest { name, labels: labels.clone(), options: options.clone() };
        let volume = self.create_volume(request)?;
        Ok(MountPoint {
            source: volume.path.to_string_lossy().into_owned(),
            volume: Some(volume.name),
            anonymous,
            ..empty("volume", target)
        })
    }

    /// The mounts as the plan wants them. Sources that may be made are made now. A part of a volume
    /// is expected at [`part_place`], which the caller makes.
    pub(crate) fn resolved_mounts(&self, record: &ContainerRecord) -> Result<Vec<ResolvedMount>> {
        let run = self.paths.container_run(&record.id);
        let own = record.mounts.iter().enumerate().filter(|(_, point)| point.kind != "image");
        own.map(|(index, point)| {
            let mut mount = self.resolve(point)?;
            if point.part().is_some() {
                mount.source = part_place(&run, index).to_string_lossy().into_owned();
            }
            Ok(mount)
        })
        .collect()
    }

    fn resolve(&self, point: &MountPoint) -> Result<ResolvedMount> {
        let mut out = ResolvedMount {
            target: point.target.clone(),
            kind: "bind".into(),
            source: point.source.clone(),
            read_only: point.read_only,
            read_only_depth: ReadOnlyDepth::default(),
            propagation: point.propagation,
            recursive: true,
            options: Vec::new(),
        };
        match point.spec.as_ref().map(|spec| &spec.source) {
            Some(MountSource::Tmpfs { size, mode, options }) => {
                out.kind = "tmpfs".into();
                out.source = "tmpfs".into();
                out.options.clone_from(options);
                out.options.extend(size.map(|size| format!("size={size}")));
                out.options.extend(mode.map(|mode| format!("mode={mode:o}")));
            }
            Some(MountSource::Bind { create_source, recursive, read_only_depth, .. }) => {
                out.recursive = *recursive;
                out.read_only_depth = *read_only_depth;
                make_source(&point.source, *create_source)?;
            }
            _ if point.volume.is_some() => self.check_volume_of(point)?,
            _ => make_source(&point.source, false)?,
        }
        Ok(out)
    }

    /// The tree of an image that is mounted, as a mount that nobody sees.
    pub(crate) fn image_mount(&self, point: &MountPoint) -> Result<OwnedFd> {
        let image = self.store.resolve(&point.source)?;
        let lowers: Vec<OwnedFd> =
            image.layers.iter().rev().map(|chain| self.store.layer_dir(chain)).collect::<Result<_>>()?;
        if lowers.is_empty() {
            return Err(Error::invalid(format!("cannot mount image `{}`: it has no layers", point.source)));
        }
        let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
        let userxattr = self.store.overlay_xattr() == OverlayXattr::User;
        let request = OverlayRequest { lowers: &lowers, upper: None, volatile: false, userxattr };
        Ok(mount::overlay(&request)?)
    }

    fn check_volume_of(&self, point: &MountPoint) -> Result<()> {
        point.volume.as_ref().map_or(Ok(()), |name| self.volume(name).map(drop))
    }
}

/// Mounts such a tree at `directory`, which the caller's mount namespace must keep to itself, and
/// gives the bind that takes it into the container.
pub(crate) fn attach_image(
    point: &MountPoint,
    tree: BorrowedFd<'_>,
    directory: &Path,
) -> Result<ResolvedMount> {
    crate::paths::make_directory(directory, 0o700)?;
    mount::attach(tree, sys_fs::open_directory(directory)?.as_fd())?;
    let subpath = match point.spec.as_ref().map(|spec| &spec.source) {
        Some(MountSource::Image { subpath, .. }) => subpath.clone(),
        _ => None,
    };
    let root = directory.to_string_lossy().into_owned();
    Ok(ResolvedMount {
        target: point.target.clone(),
        kind: "bind".into(),
        source: match subpath {
            Some(subpath) => path_below(&root, &subpath)?,
            None => root,
        },
        read_only: true,
        read_only_depth: ReadOnlyDepth::default(),
        propagation: point.propagation,
        recursive: false,
        options: Vec::new(),
    })
}

fn empty(kind: &str, target: &str) -> MountPoint {
    MountPoint {
        kind: kind.to_owned(),
        volume: None,
        anonymous: false,
        source: String::new(),
        target: target.to_owned(),
        read_only: false,
        propagation: Propagation::default(),
        spec: None,
    }
}

/// A path without doubled and trailing slashes, for comparing.
fn clean(path: &str) -> String {
    let mut out = String::new();
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        out.push('/');
        out.push_str(name);
    }
    if out.is_empty() { "/".into() } else { out }
}

fn missing_source(source: &str) -> Error {
    Error::invalid(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {source}"
    ))
    .with_hint(format!("make it first (`mkdir -p {source}`), or mount it with `-v`, which makes it"))
}

fn make_source(source: &str, create: bool) -> Result<()> {
    let path = Path::new(source);
    if path.exists() {
        return Ok(());
    }
    if !create {
        return Err(missing_source(source));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .io_context(|| format!("cannot make bind source `{source}`"))
}

/// A path inside an image, which nobody can change meanwhile: links in it may not lead out.
fn path_below(image: &str, subpath: &str) -> Result<String> {
    let found = found_below(image, subpath)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .io_context(|| format!("cannot find `{subpath}` in it"))?;
    Ok(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_without_their_slashes() {
        for (path, want) in [("/a/b", "/a/b"), ("//a//b/", "/a/b"), ("/", "/"), ("/a/./b", "/a/b")] {
            assert_eq!(clean(path), want);
        }
    }
}
