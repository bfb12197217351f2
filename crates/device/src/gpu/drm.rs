//! GPUs by the kernel's DRM: AMD and Intel need nothing but their nodes, the rest is in the image.

use super::nvidia::drm_nodes;
use crate::edits::SpecEdits;
use crate::root::HostRoot;

const AMD_KFD: &str = "/dev/kfd";

/// A GPU that DRM drives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DrmGpu {
    /// `nvidia`, `amd` or `intel`.
    pub(super) vendor: &'static str,
    /// Its number among those of its vendor, by the order on the bus.
    pub(super) index: usize,
    /// `0000:03:00.0`.
    pub(super) bus: String,
    /// Vendor and device number.
    pub(super) model: String,
    /// The kernel's driver (`amdgpu`, `i915`, `xe`).
    pub(super) driver: String,
    /// Its nodes below `/dev/dri`.
    pub(super) nodes: Vec<String>,
}

/// All of them, by the order on the bus.
pub(super) fn gpus(root: &HostRoot) -> Vec<DrmGpu> {
    const DEVICES: &str = "/sys/bus/pci/devices";
    let mut out: Vec<DrmGpu> = Vec::new();
    for bus in root.names(DEVICES) {
        let place = format!("{DEVICES}/{bus}");
        if !root.is_directory(&format!("{place}/drm")) {
            continue;
        }
        let number = |name: &str| root.line(&format!("{place}/{name}")).unwrap_or_default();
        let (vendor, driver) = match number("vendor").as_str() {
            "0x1002" => ("amd", "amdgpu"),
            "0x8086" => ("intel", "i915"),
            "0x10de" => ("nvidia", "nvidia"),
            _ => continue,
        };
        let nodes = drm_nodes(root, &bus);
        if nodes.is_empty() {
            continue;
        }
        let in_use = root.link(&format!("{place}/driver"));
        let driver = in_use.as_deref().and_then(|link| link.rsplit('/').next()).unwrap_or(driver).to_owned();
        let index = out.iter().filter(|gpu| gpu.vendor == vendor).count();
        let name = root.line(&format!("{place}/product_name")).filter(|name| !name.is_empty());
        let ids = format!(
            "{}:{}",
            number("vendor").trim_start_matches("0x"),
            number("device").trim_start_matches("0x")
        );
        out.push(DrmGpu { vendor, index, bus, model: name.unwrap_or(ids), driver, nodes });
    }
    out
}

/// The nodes of `gpus`, with the groups that own them by number: their names differ between host
/// and image.
pub(super) fn edits(root: &HostRoot, gpus: &[&DrmGpu]) -> SpecEdits {
    let mut out = SpecEdits::default();
    let mut paths: Vec<&str> = Vec::new();
    if gpus.iter().any(|gpu| gpu.vendor == "amd") {
        paths.push(AMD_KFD);
    }
    paths.extend(gpus.iter().flat_map(|gpu| gpu.nodes.iter().map(String::as_str)));
    for device in paths.into_iter().filter_map(|path| root.device(path)) {
        out.add_device(device);
    }
    out
}
