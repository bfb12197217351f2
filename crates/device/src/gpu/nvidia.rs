//! NVIDIA's driver on a desktop or a server, as its files say: no library of it is loaded.

use std::collections::BTreeSet;

use robot_env_diag::{Error, Kind, Result};

use super::contract::Capability;
use super::cuda::Version;
use crate::edits::{Library, SpecEdits, bind};
use crate::elf::Elf;
use crate::ldcache::Cache;
use crate::root::HostRoot;

/// Where libraries are on the distributions.
const LIBRARY_DIRECTORIES: [&str; 14] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/i386-linux-gnu",
    "/usr/lib/i386-linux-gnu/nvidia/current",
    "/usr/lib32",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// Programs, sockets and data, and what they are for.
const BINARIES: [(&str, Capability); 7] = [
    ("nvidia-smi", Capability::Utility),
    ("nvidia-debugdump", Capability::Utility),
    ("nvidia-persistenced", Capability::Utility),
    ("nvidia-cuda-mps-control", Capability::Compute),
    ("nvidia-cuda-mps-server", Capability::Compute),
    ("nvidia-imex", Capability::Compute),
    ("nvidia-imex-ctl", Capability::Compute),
];
const SOCKETS: [(&str, Capability); 3] = [
    ("/run/nvidia-persistenced/socket", Capability::Utility),
    ("/run/nvidia-fabricmanager/socket", Capability::Compute),
    ("/tmp/nvidia-mps", Capability::Compute),
];
const DATA: [&str; 12] = [
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
    "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    "/usr/share/egl/egl_external_platform.d/09_nvidia_wayland2.json",
    "/usr/share/egl/egl_external_platform.d/20_nvidia_xcb.json",
    "/usr/share/egl/egl_external_platform.d/20_nvidia_xlib.json",
    "/usr/share/nvidia/nvoptix.bin",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
    "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
    "/usr/share/X11/xorg.conf.d/10-nvidia.conf",
];
const OPENCL: &str = "/etc/OpenCL/vendors/nvidia.icd";
/// Libraries of a driver that carry a version of their own.
const UNVERSIONED: [&str; 6] = [
    "libnvidia-nvvm70.so.",
    "libnvidia-egl-gbm.so.",
    "libnvidia-egl-wayland.so.",
    "libnvidia-egl-wayland2.so.",
    "libnvidia-egl-xcb.so.",
    "libnvidia-egl-xlib.so.",
];

/// A file of the driver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverFile {
    /// Its path on the host, and in the container.
    pub path: String,
    /// What it is for.
    pub capability: Capability,
}

/// A library of the driver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverLibrary {
    /// The file.
    pub file: DriverFile,
    /// Its own name, where it has one.
    pub soname: Option<String>,
    /// The loader's flags; `None`: no library that a loader finds by name.
    pub flags: Option<i32>,
}

/// The driver's user-space part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Its version.
    pub version: String,
    /// Libraries, those of 64 bits first.
    pub libraries: Vec<DriverLibrary>,
    /// Programs, data, firmware and sockets.
    pub files: Vec<DriverFile>,
}

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, by the order on the bus.
    pub index: usize,
    /// `GPU-...`; empty where the kernel does not say.
    pub uuid: String,
    /// Its model's name.
    pub model: String,
    /// `0000:01:00.0`; empty where the kernel does not say.
    pub bus: String,
    /// `/dev/nvidiaN`.
    pub node: String,
    /// Its minor number.
    pub minor: u32,
    /// Nodes below `/dev/dri`.
    pub drm: Vec<String>,
    /// Its MIG devices.
    pub mig: Vec<Mig>,
}

/// A part of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mig {
    /// GPU instance.
    pub gpu_instance: u32,
    /// Compute instance in it.
    pub compute_instance: u32,
    /// Nodes below `/dev/nvidia-caps` that give access to it.
    pub nodes: Vec<String>,
}

/// Version of the kernel's part, where it is loaded.
pub fn kernel_version(root: &HostRoot) -> Option<String> {
    if let Some(version) = root.line("/sys/module/nvidia/version").filter(|v| Version::parse(v).is_some()) {
        return Some(version);
    }
    let text = root.text("/proc/driver/nvidia/version")?;
    let words = text.lines().find(|line| line.starts_with("NVRM"))?.split_whitespace();
    words.into_iter().find(|word| word.contains('.') && Version::parse(word).is_some()).map(str::to_owned)
}

/// Where the kernel's part says how it is set.
pub const PARAMETERS: &str = "/proc/driver/nvidia/params";

/// The text of [`PARAMETERS`] that keeps the driver's libraries from making or changing device nodes in a
/// container; nothing where they would not anyway.
pub fn without_nodes(parameters: &str) -> Option<String> {
    const KEY: &str = "ModifyDeviceFiles:";
    let lines = parameters
        .lines()
        .map(|line| if line.starts_with(KEY) { format!("{KEY} 0\n") } else { format!("{line}\n") });
    let text: String = lines.collect();
    (text != parameters && parameters.contains(KEY)).then_some(text)
}

/// Whether anything of the driver's kernel part is here.
pub fn is_present(root: &HostRoot) -> bool {
    root.device("/dev/nvidiactl").is_some()
}

/// The GPUs that the kernel's part drives.
pub fn gpus(root: &HostRoot) -> Vec<Gpu> {
    const PROC: &str = "/proc/driver/nvidia/gpus";
    let mut out = Vec::new();
    for bus in root.names(PROC) {
        let Some(text) = root.text(&format!("{PROC}/{bus}/information")) else { continue };
        let field = |name: &str| {
            let line =
                text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let Ok(minor) = field("Device Minor").parse() else { continue };
        let gpu = Gpu {
            uuid: field("GPU UUID"),
            model: field("Model"),
            node: format!("/dev/nvidia{minor}"),
            minor,
            drm: drm_nodes(root, &bus),
            mig: mig_devices(root, minor),
            bus,
            ..Gpu::default()
        };
        out.push(gpu);
    }
    if out.is_empty() {
        for name in root.names("/dev") {
            let Some(Ok(minor)) = name.strip_prefix("nvidia").map(str::parse) else { continue };
            out.push(Gpu { node: format!("/dev/{name}"), minor, ..Gpu::default() });
        }
        out.sort_by_key(|gpu| gpu.minor);
    }
    out.retain(|gpu| root.device(&gpu.node).is_some());
    out.iter_mut().enumerate().for_each(|(index, gpu)| gpu.index = index);
    out
}

/// The nodes below `/dev/dri` of a device on the bus.
pub(super) fn drm_nodes(root: &HostRoot, bus: &str) -> Vec<String> {
    let names = root.names(&format!("/sys/bus/pci/devices/{bus}/drm"));
    let nodes = names.into_iter().filter(|name| name.starts_with("card") || name.starts_with("renderD"));
    nodes.map(|name| format!("/dev/dri/{name}")).filter(|path| root.device(path).is_some()).collect()
}

fn mig_devices(root: &HostRoot, minor: u32) -> Vec<Mig> {
    let base = format!("/proc/driver/nvidia/capabilities/gpu{minor}/mig");
    let node = |path: &str| -> Option<String> {
        let text = root.text(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:"))?;
        Some(format!("/dev/nvidia-caps/nvidia-cap{}", line.trim().parse::<u32>().ok()?))
    };
    let numbered = |directory: &str, prefix: &str| -> Vec<u32> {
        let mut numbers: Vec<u32> =
            root.names(directory).iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    };
    let mut out = Vec::new();
    for gpu_instance in numbered(&base, "gi") {
        let outer = format!("{base}/gi{gpu_instance}");
        for compute_instance in numbered(&outer, "ci") {
            let inner = format!("{outer}/ci{compute_instance}");
            let nodes = [node(&format!("{outer}/access")), node(&format!("{inner}/access"))];
            out.push(Mig { gpu_instance, compute_instance, nodes: nodes.into_iter().flatten().collect() });
        }
    }
    out
}

impl Driver {
    /// Finds the driver's files.
    ///
    /// # Errors
    /// `NotFound` without libraries; `Conflict` where the kernel's part is of another version, as
    /// after an upgrade without a reboot.
    pub fn find(root: &HostRoot) -> Result<Driver> {
        let directories = directories(root);
        let mut versions: BTreeSet<String> = BTreeSet::new();
        let listed: Vec<(&String, Vec<String>)> =
            directories.iter().map(|place| (place, root.names_where(place, may_be_of_a_driver))).collect();
        for (_, names) in &listed {
            for name in names {
                let version =
                    ["libcuda.so.", "libnvidia-ml.so."].iter().find_map(|prefix| name.strip_prefix(prefix));
                if let Some(version) = version.filter(|v| v.contains('.') && Version::parse(v).is_some()) {
                    versions.insert(version.to_owned());
                }
            }
        }
        let kernel = kernel_version(root);
        let version = match (&kernel, versions.len()) {
            (_, 0) => {
                return Err(Error::not_found("the NVIDIA driver's libraries are not installed")
                    .because(Error::not_found(
                        "there is no `libcuda.so` or `libnvidia-ml.so` with a version in its name",
                    ))
                    .with_hint("install the driver's libraries of the same version as its kernel module"));
            }
            (Some(kernel), _) if versions.contains(kernel) => kernel.clone(),
            (Some(kernel), _) => {
                let have = versions.into_iter().collect::<Vec<_>>().join(", ");
                return Err(Error::new(
                    Kind::Conflict,
                    format!("the NVIDIA kernel module has version {kernel}, the libraries have {have}"),
                )
                .with_hint(
                    "reboot, or load the new kernel module: the driver was upgraded while it was in use",
                ));
            }
            (None, _) => versions.into_iter().max_by_key(|text| Version::parse(text)).unwrap_or_default(),
        };
        let mut driver = Driver { version, ..Driver::default() };
        driver.find_libraries(root, &listed);
        driver.find_files(root);
        Ok(driver)
    }

    fn find_libraries(&mut self, root: &HostRoot, listed: &[(&String, Vec<String>)]) {
        let suffix = format!(".so.{}", self.version);
        let mut seen = BTreeSet::new();
        for (directory, names) in listed {
            // Only a directory of the driver's.
            if !names.iter().any(|name| name.starts_with("lib") && name.ends_with(&suffix)) {
                continue;
            }
            let mut wanted: Vec<String> = names
                .iter()
                .filter(|name| {
                    name.ends_with(&suffix)
                        || UNVERSIONED.iter().any(|prefix| {
                            name.strip_prefix(prefix)
                                .is_some_and(|rest| rest.contains('.') || rest.starts_with('4'))
                        })
                })
                .map(|name| format!("{directory}/{name}"))
                .collect();
            for part in ["vdpau", "gbm", "tls"] {
                for name in root.names(&format!("{directory}/{part}")) {
                    if name.ends_with(&suffix) || name == "nvidia-drm_gbm.so" {
                        wanted.push(format!("{directory}/{part}/{name}"));
                    }
                }
            }
            for name in ["nvidia/xorg/nvidia_drv.so", "xorg/modules/drivers/nvidia_drv.so"] {
                wanted.push(format!("{directory}/{name}"));
            }
            wanted.push(format!("{directory}/nvidia/xorg/libglxserver_nvidia.so.{}", self.version));
            for path in wanted {
                let Some(real) = root.resolve(&path) else { continue };
                if seen.insert(real.clone()) {
                    self.add_library(root, path, &real);
                }
            }
        }
        self.libraries.sort_by_key(|library| library.file.capability == Capability::Compat32);
    }

    fn add_library(&mut self, root: &HostRoot, path: String, real: &str) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let elf = Elf::read(&root.real(real));
        let capability = match &elf {
            Some(elf) if !elf.is_64 => Capability::Compat32,
            _ => capability_of(name),
        };
        let is_plain = name.starts_with("lib") && !path.contains("/vdpau/") && !path.contains("/xorg/");
        self.libraries.push(DriverLibrary {
            flags: elf.as_ref().filter(|_| is_plain).and_then(Elf::cache_flags),
            soname: elf.and_then(|elf| elf.soname),
            file: DriverFile { path, capability },
        });
    }

    fn find_files(&mut self, root: &HostRoot) {
        let mut add = |path: String, capability| {
            if root.exists(&path) {
                self.files.push(DriverFile { path, capability });
            }
        };
        for (name, capability) in BINARIES {
            let places = ["/usr/bin", "/usr/sbin", "/bin", "/opt/bin"];
            if let Some(place) = places.iter().find(|place| root.exists(&format!("{place}/{name}"))) {
                add(format!("{place}/{name}"), capability);
            }
        }
        for (path, capability) in SOCKETS {
            add(path.to_owned(), capability);
        }
        for path in DATA {
            add(path.to_owned(), Capability::Graphics);
        }
        add(OPENCL.to_owned(), Capability::Compute);
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let configured =
            root.line("/sys/module/firmware_class/parameters/path").filter(|path| !path.is_empty());
        let places = [
            format!("/lib/firmware/updates/{release}"),
            "/lib/firmware/updates".into(),
            format!("/lib/firmware/{release}"),
            "/lib/firmware".into(),
        ];
        for place in configured.into_iter().chain(places) {
            let directory = format!("{place}/nvidia/{}", self.version);
            let names: Vec<String> = root.names(&directory);
            let images = names.iter().filter(|name| name.starts_with("gsp") && name.ends_with(".bin"));
            let found: Vec<String> = images.map(|name| format!("{directory}/{name}")).collect();
            if !found.is_empty() {
                for path in found {
                    add(path, Capability::Compute);
                }
                break;
            }
        }
    }

    /// What the driver's files change about a container that wants these capabilities.
    pub fn edits(&self, root: &HostRoot, wanted: &BTreeSet<Capability>) -> SpecEdits {
        let mut out = SpecEdits::default();
        let has_graphics = wanted.contains(&Capability::Graphics) || wanted.contains(&Capability::Display);
        let is_wanted = |capability: Capability| match capability {
            Capability::Graphics | Capability::Display => has_graphics,
            other => wanted.contains(&other),
        };
        for library in self.libraries.iter().filter(|library| is_wanted(library.file.capability)) {
            let path = &library.file.path;
            out.mounts.push(bind(real_source(root, path), path, true));
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            if let Some(flags) = library.flags {
                let soname = library.soname.clone().unwrap_or_else(|| name.to_owned());
                if soname != name {
                    out.add_link(format!("{directory}/{soname}"), name);
                }
                out.libraries.push(Library { path: format!("{directory}/{soname}"), soname, flags });
            }
            for (prefix, link, target) in [
                ("libcuda.so.", "libcuda.so", "libcuda.so.1"),
                ("libnvidia-opticalflow.so.", "libnvidia-opticalflow.so", "libnvidia-opticalflow.so.1"),
                ("libGLX_nvidia.so.", "libGLX_indirect.so.0", name),
            ] {
                if name.starts_with(prefix) {
                    out.add_link(format!("{directory}/{link}"), target);
                }
            }
            if name.starts_with("libnvidia-allocator.so.") && has_graphics {
                out.add_link(format!("{directory}/gbm/nvidia-drm_gbm.so"), format!("../{name}"));
            }
        }
        // A link that is the file itself would lead to itself.
        let mounted: Vec<String> = out.mounts.iter().map(|mount| mount.target.clone()).collect();
        out.links.retain(|link| !mounted.contains(&link.path));
        for file in self.files.iter().filter(|file| is_wanted(file.capability)) {
            let mut mount = bind(real_source(root, &file.path), &file.path, true);
            if SOCKETS.iter().any(|(path, _)| *path == file.path) {
                mount.options.push("noexec".into());
            }
            out.mounts.push(mount);
        }
        out
    }
}

/// Where a file of the host's really is, for a mount.
pub(super) fn real_source(root: &HostRoot, path: &str) -> String {
    let real = root.resolve(path).unwrap_or_else(|| path.to_owned());
    root.real(&real).to_string_lossy().into_owned()
}

/// Whether a file among a distribution's libraries may be one of a driver: those have a version with a
/// dot, and most others have one without.
fn may_be_of_a_driver(name: &str) -> bool {
    name.split_once(".so.").is_some_and(|(_, version)| version.contains('.') || version.starts_with('4'))
}

/// Directories that may have libraries: those that are usual, and those of the loader's cache that
/// have a driver's.
fn directories(root: &HostRoot) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |directory: &str| {
        if let Some(real) = root.resolve(directory)
            && seen.insert(real)
        {
            out.push(directory.to_owned());
        }
    };
    LIBRARY_DIRECTORIES.into_iter().for_each(&mut add);
    if let Some(cache) = root.read("/etc/ld.so.cache").as_deref().and_then(Cache::parse) {
        for entry in &cache.entries {
            if matches!(entry.name.as_str(), "libcuda.so.1" | "libnvidia-ml.so.1" | "libGLX_nvidia.so.0")
                && let Some((directory, _)) = entry.path.rsplit_once('/')
            {
                add(directory);
            }
        }
    }
    out
}

/// What a library is for, by its name (libnvidia-container's lists).
fn capability_of(name: &str) -> Capability {
    let stem = name.split(".so").next().unwrap_or(name);
    match stem {
        "libnvidia-ml" | "libnvidia-cfg" | "libnvidia-nscq" => Capability::Utility,
        "libcuda"
        | "libcudadebugger"
        | "libnvidia-opencl"
        | "libnvidia-gpucomp"
        | "libnvidia-ptxjitcompiler"
        | "libnvidia-fatbinaryloader"
        | "libnvidia-allocator"
        | "libnvidia-compiler"
        | "libnvidia-pkcs11"
        | "libnvidia-pkcs11-openssl3"
        | "libnvidia-nvvm"
        | "libnvidia-nvvm70"
        | "libnvidia-sandboxutils"
        | "libnvidia-tileiras" => Capability::Compute,
        "libvdpau_nvidia" | "libnvidia-encode" | "libnvidia-opticalflow" | "libnvcuvid" => Capability::Video,
        "libnvidia-ngx" => Capability::Ngx,
        _ => Capability::Graphics,
    }
}
