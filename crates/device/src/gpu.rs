//! GPUs: which there are, and what a container needs to use them.
//!
//! NVIDIA on desktops, servers, Jetson and WSL; AMD and Intel by the kernel's DRM. Everything is
//! read from files at every start, so that no driver upgrade leaves anything stale.

pub mod contract;
pub mod cuda;
mod drm;
mod jetson;
pub mod nvidia;
#[cfg(test)]
mod tests;
mod wsl;

use std::collections::BTreeSet;

use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::GpuRequest;

use self::contract::{Capability, Properties, Visible};
use self::cuda::{Fit, Version};
use self::nvidia::{Driver, Gpu};
use crate::edits::{Library, SpecEdits, bind};
use crate::elf::Elf;
use crate::ldcache::Cache;
use crate::root::HostRoot;

use drm::DrmGpu;

/// A GPU as `gpu ls` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// `nvidia`, `amd` or `intel`.
    pub vendor: &'static str,
    /// Names by which it is asked for, the shortest first.
    pub names: Vec<String>,
    /// What it is.
    pub model: String,
    /// The driver and its version.
    pub driver: String,
    /// Its device nodes.
    pub nodes: Vec<String>,
}

/// What kind of NVIDIA machine this is.
enum Platform {
    Desktop(Driver, Vec<Gpu>),
    Jetson,
    Wsl,
}

/// What an image has to say about GPUs.
#[derive(Clone, Debug, Default)]
pub struct ImageFacts {
    /// Its variables with those of the container.
    pub env: Vec<String>,
    /// The loader's cache in its file system.
    pub cache: Option<Vec<u8>>,
    /// Files of CUDA's compatibility package in it, e.g. `/usr/local/cuda/compat/libcuda.so.550.54.15`.
    pub compat: Vec<String>,
}

/// Directories of an image that may have CUDA's compatibility package.
pub const COMPAT_DIRECTORIES: [&str; 2] = ["/usr/local/cuda/compat", "/usr/local/cuda/compat_orin"];

/// Links to DRM nodes by their place on the bus.
const BY_PATH: &str = "/dev/dri/by-path";

/// Every GPU of the host, and what is wrong with those that cannot be used.
pub fn list(root: &HostRoot) -> (Vec<Found>, Vec<Error>) {
    let (mut out, mut damage) = (Vec::new(), Vec::new());
    match platform(root) {
        Ok(Some(Platform::Desktop(driver, gpus))) => {
            for gpu in gpus {
                let mut names = vec![gpu.index.to_string()];
                names.extend(Some(gpu.uuid.clone()).filter(|uuid| !uuid.is_empty()));
                names.extend((0..gpu.mig.len()).map(|at| format!("{}:{at}", gpu.index)));
                let mut nodes = vec![gpu.node.clone()];
                nodes.extend(gpu.drm.clone());
                out.push(Found {
                    vendor: "nvidia",
                    names,
                    model: gpu.model,
                    driver: format!("nvidia {}", driver.version),
                    nodes,
                });
            }
        }
        Ok(Some(Platform::Jetson)) => out.push(Found {
            vendor: "nvidia",
            names: vec!["0".into()],
            model: root
                .line("/proc/device-tree/model")
                .unwrap_or_else(|| "Jetson".into())
                .trim_end_matches('\0')
                .to_owned(),
            driver: "nvidia (JetPack)".into(),
            nodes: jetson::nodes(root),
        }),
        Ok(Some(Platform::Wsl)) => out.push(Found {
            vendor: "nvidia",
            names: vec!["0".into()],
            model: "the GPU of Windows".into(),
            driver: "WSL".into(),
            nodes: vec![wsl::NODE.into()],
        }),
        Ok(None) => {}
        Err(error) => damage.push(error),
    }
    for gpu in drm::gpus(root).into_iter().filter(|gpu| gpu.vendor != "nvidia") {
        out.push(Found {
            vendor: gpu.vendor,
            names: vec![gpu.index.to_string(), gpu.bus.clone()],
            model: gpu.model,
            driver: gpu.driver,
            nodes: gpu.nodes,
        });
    }
    (out, damage)
}

fn platform(root: &HostRoot) -> Result<Option<Platform>> {
    if root.device(wsl::NODE).is_some() {
        return Ok(Some(Platform::Wsl));
    }
    if jetson::is_present(root) {
        return Ok(Some(Platform::Jetson));
    }
    if !nvidia::is_present(root) {
        return Ok(None);
    }
    let gpus = nvidia::gpus(root);
    Ok(Some(Platform::Desktop(Driver::find(root)?, gpus)))
}

/// What Docker says where no driver fits a request.
fn no_driver(request: &GpuRequest, cause: Error) -> Error {
    let mut words = vec!["gpu".to_owned()];
    words.extend(request.capabilities.iter().cloned());
    Error::new(
        Kind::Unsupported,
        format!(
            "could not select device driver \"{}\" with capabilities: [[{}]]",
            request.driver,
            words.join(" ")
        ),
    )
    .because(cause)
}

/// `driver`: the vendor that is asked for, or none.
fn nothing_found(root: &HostRoot, driver: &str) -> Error {
    let missing = |path: &str| Error::not_found(format!("`{}` does not exist", root.real(path).display()));
    match driver {
        "amd" => Error::not_found("no AMD GPU found on this host").because(missing("/dev/kfd")),
        "intel" => Error::not_found("no Intel GPU found on this host"),
        _ => Error::not_found("no GPU driver found on this host").because(missing("/dev/nvidiactl")),
    }
}

/// What one `--gpus` changes. `graphics`: whether the container also has a display.
///
/// # Errors
/// `Unsupported` in Docker's words where no GPU fits; `Conflict` where the driver is broken.
pub fn request(
    root: &HostRoot,
    request: &GpuRequest,
    image: &ImageFacts,
    graphics: bool,
) -> Result<SpecEdits> {
    if request.count.is_some_and(|count| count < -1) {
        return Err(Error::invalid("invalid count of GPUs: it must be -1 (all) or more"));
    }
    let wants =
        |vendor: &str| request.driver.is_empty() || request.driver == vendor || request.driver == "cdi";
    if !["", "nvidia", "amd", "intel", "cdi"].contains(&request.driver.as_str()) {
        return Err(no_driver(
            request,
            Error::not_found(format!("there is no GPU driver `{}`", request.driver)),
        ));
    }
    if wants("nvidia")
        && let Some(platform) = platform(root).map_err(|cause| no_driver(request, cause))?
    {
        let mut wanted = if request.capabilities.is_empty() {
            contract::capabilities(&image.env)?
        } else {
            contract::parse_capabilities(&request.capabilities)?
        };
        if graphics {
            wanted.extend([Capability::Graphics, Capability::Display, Capability::Utility]);
        }
        let visible = match request.count {
            None | Some(0) if request.ids == ["all"] => Visible::All,
            None | Some(0) if !request.ids.is_empty() => Visible::Ids(request.ids.clone()),
            Some(-1) => Visible::All,
            Some(0) => Visible::None,
            None => Visible::Ids(vec!["0".into()]),
            Some(count) => Visible::Ids((0..count).map(|index| index.to_string()).collect()),
        };
        return nvidia_edits(root, &platform, &visible, &wanted, image);
    }
    let gpus: Vec<DrmGpu> =
        drm::gpus(root).into_iter().filter(|gpu| gpu.vendor != "nvidia" && wants(gpu.vendor)).collect();
    if gpus.is_empty() {
        return Err(no_driver(request, nothing_found(root, &request.driver)));
    }
    let chosen = choose_drm(request, &gpus)?;
    Ok(drm::edits(root, &chosen))
}

fn choose_drm<'a>(request: &GpuRequest, gpus: &'a [DrmGpu]) -> Result<Vec<&'a DrmGpu>> {
    let count = match request.count {
        Some(-1) => gpus.len(),
        None if request.ids == ["all"] => return Ok(gpus.iter().collect()),
        Some(count) => count as usize,
        None if request.ids.is_empty() => 1,
        None => 0,
    };
    if count > gpus.len() {
        return Err(too_many(count, gpus.len()));
    }
    let mut chosen: Vec<&DrmGpu> = gpus.iter().take(count).collect();
    for id in &request.ids {
        let found = gpus.iter().find(|gpu| gpu.index.to_string() == *id || gpu.bus == *id);
        chosen.push(found.ok_or_else(|| unknown(id))?);
    }
    Ok(chosen)
}

fn too_many(wanted: usize, have: usize) -> Error {
    let noun = if have == 1 { "GPU" } else { "GPUs" };
    Error::new(Kind::Unsupported, format!("{wanted} GPUs are wanted, this host has {have} {noun}"))
        .with_hint("`gpu ls` shows them")
}

fn unknown(id: &str) -> Error {
    Error::not_found(format!("unknown GPU `{id}`")).with_hint("`gpu ls` shows the GPUs and their names")
}

/// What `--runtime=nvidia` changes: the variables alone say what is wanted.
pub fn by_variables(root: &HostRoot, image: &ImageFacts, graphics: bool) -> Result<SpecEdits> {
    let visible = contract::visible(&image.env);
    if visible == Visible::Void {
        return Ok(SpecEdits::default());
    }
    let Some(platform) = platform(root)? else {
        return Err(Error::new(Kind::Unsupported, "no NVIDIA driver found on this host").because(
            Error::not_found(format!("`{}` does not exist", root.real("/dev/nvidiactl").display())),
        ));
    };
    let mut wanted = contract::capabilities(&image.env)?;
    if graphics {
        wanted.extend([Capability::Graphics, Capability::Display]);
    }
    nvidia_edits(root, &platform, &visible, &wanted, image)
}

/// What a CDI device `nvidia.com/gpu=NAME` (or amd.com, intel.com) changes; `None` where this host's
/// drivers have no such device.
pub fn by_name(root: &HostRoot, kind: &str, name: &str, image: &ImageFacts) -> Result<Option<SpecEdits>> {
    let ids = vec![name.to_owned()];
    let request_of = |driver: &str| GpuRequest {
        driver: driver.into(),
        count: (name == "all").then_some(-1),
        ids: if name == "all" { Vec::new() } else { ids.clone() },
        ..GpuRequest::default()
    };
    let found = match kind {
        "nvidia.com/gpu" => {
            let Some(platform) = platform(root)? else { return Ok(None) };
            let visible = if name == "all" { Visible::All } else { Visible::Ids(ids.clone()) };
            // A CDI device has all that the driver can do.
            nvidia_edits(root, &platform, &visible, &Capability::ALL.into(), image)
        }
        "amd.com/gpu" => request(root, &request_of("amd"), image, false),
        "intel.com/gpu" => request(root, &request_of("intel"), image, false),
        _ => return Ok(None),
    };
    match found {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unsupported) => Ok(None),
        other => other.map(Some),
    }
}

fn nvidia_edits(
    root: &HostRoot,
    platform: &Platform,
    visible: &Visible,
    wanted: &BTreeSet<Capability>,
    image: &ImageFacts,
) -> Result<SpecEdits> {
    let mut out = match platform {
        Platform::Jetson => jetson::edits(root)?,
        Platform::Wsl => wsl::edits(root)?,
        Platform::Desktop(driver, gpus) => desktop(root, driver, gpus, visible, wanted, image)?,
    };
    add_compat(platform, image, &mut out);
    out.env.push("NVIDIA_VISIBLE_DEVICES=void".into());
    Ok(out)
}

fn desktop(
    root: &HostRoot,
    driver: &Driver,
    gpus: &[Gpu],
    visible: &Visible,
    wanted: &BTreeSet<Capability>,
    image: &ImageFacts,
) -> Result<SpecEdits> {
    let mut out = SpecEdits::default();
    let chosen = choose(gpus, visible)?;
    check_image(root, driver, &chosen, image, &mut out.warnings)?;
    for path in ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"] {
        match root.device(path) {
            Some(device) => out.add_device(device),
            None if path == "/dev/nvidia-uvm" && wanted.contains(&Capability::Compute) => out.warnings.push(
                "CUDA will not work: /dev/nvidia-uvm does not exist; `sudo nvidia-modprobe -u -c=0` makes it"
                    .into(),
            ),
            None => {}
        }
    }
    if wanted.contains(&Capability::Display) || wanted.contains(&Capability::Graphics) {
        root.device("/dev/nvidia-modeset").into_iter().for_each(|device| out.add_device(device));
    }
    for (gpu, mig) in &chosen {
        root.device(&gpu.node).into_iter().for_each(|device| out.add_device(device));
        match mig {
            Some(mig) => {
                let nodes = mig.nodes.iter().filter_map(|node| root.device(node));
                nodes.for_each(|device| out.add_device(device));
            }
            None => gpu.drm.iter().filter_map(|n| root.device(n)).for_each(|device| out.add_device(device)),
        }
    }
    if chosen.iter().any(|(gpu, mig)| mig.is_none() && !gpu.drm.is_empty()) && root.is_directory(BY_PATH) {
        out.mounts.push(bind(nvidia::real_source(root, BY_PATH), BY_PATH, true));
    }
    out.merge(driver.edits(root, wanted));
    if wanted.contains(&Capability::Graphics) {
        add_glvnd(root, image, &mut out);
    }
    Ok(out)
}

/// The GPUs, or parts of them, that are asked for.
fn choose<'a>(gpus: &'a [Gpu], visible: &Visible) -> Result<Vec<(&'a Gpu, Option<&'a nvidia::Mig>)>> {
    let ids = match visible {
        Visible::Void | Visible::None => return Ok(Vec::new()),
        Visible::All => return Ok(gpus.iter().map(|gpu| (gpu, None)).collect()),
        Visible::Ids(ids) => ids,
    };
    let mut out: Vec<(&Gpu, Option<&nvidia::Mig>)> = Vec::new();
    for id in ids {
        if let Some(gpu) =
            gpus.iter().find(|gpu| gpu.index.to_string() == *id || (!gpu.uuid.is_empty() && gpu.uuid == *id))
        {
            out.push((gpu, None));
            continue;
        }
        let found = mig_by_name(gpus, id);
        if let Some((gpu, mig)) = found {
            out.push((gpu, Some(mig)));
            continue;
        }
        if let Ok(index) = id.parse::<usize>() {
            return Err(too_many(index + 1, gpus.len()));
        }
        let mut error = unknown(id);
        if id.starts_with("MIG-") {
            error = Error::not_found(format!("unknown MIG device `{id}`"))
                .with_hint("name it GPU:INDEX (`gpu ls` shows them) or MIG-GPU-UUID/GI/CI");
        }
        return Err(error);
    }
    Ok(out)
}

/// `GPU:INDEX`, or `MIG-GPU-UUID/GI/CI`.
fn mig_by_name<'a>(gpus: &'a [Gpu], id: &str) -> Option<(&'a Gpu, &'a nvidia::Mig)> {
    if let Some((gpu, index)) = id.split_once(':') {
        let gpu = gpus.iter().find(|candidate| candidate.index.to_string() == gpu)?;
        return Some((gpu, gpu.mig.get(index.parse::<usize>().ok()?)?));
    }
    let mut parts = id.strip_prefix("MIG-")?.split('/');
    let uuid = parts.next()?;
    let (gi, ci): (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let gpu = gpus.iter().find(|gpu| gpu.uuid == uuid)?;
    Some((gpu, gpu.mig.iter().find(|mig| mig.gpu_instance == gi && mig.compute_instance == ci)?))
}

/// Refuses an image that the driver cannot run, and warns of one that it runs in part.
fn check_image(
    root: &HostRoot,
    driver: &Driver,
    chosen: &[(&Gpu, Option<&nvidia::Mig>)],
    image: &ImageFacts,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let Some(version) = Version::parse(&driver.version) else { return Ok(()) };
    let capability = |gpu: &Gpu| -> Option<Version> {
        let text = root.line(&format!("/sys/bus/pci/devices/{}/device", gpu.bus))?;
        contract::arch(u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()?)
    };
    let capabilities: Option<Vec<Version>> = chosen.iter().map(|(gpu, _)| capability(gpu)).collect();
    let properties = Properties {
        arch: capabilities.and_then(|all| all.into_iter().min()),
        cuda: newest_cuda(&version, image),
        brands: chosen.first().map(|(gpu, _)| contract::brands(&gpu.model)).unwrap_or_default(),
        driver: version.clone(),
    };
    contract::check_requirements(&image.env, &properties)?;
    let disabled = contract::variable(&image.env, "NVIDIA_DISABLE_REQUIRE")
        .is_some_and(|v| !matches!(v, "" | "0" | "false"));
    let Some(cuda) = contract::variable(&image.env, "CUDA_VERSION").and_then(Version::parse) else {
        return Ok(());
    };
    let newer = newest_compat(image).is_some_and(|(compat, _)| compat.major() > version.major());
    match cuda::fit(&cuda, &version) {
        Fit::Good => {}
        Fit::Limited(wanted) => warnings.push(format!(
            "the image has CUDA {cuda}, driver {version} was made for an older one: features that are new in it do not work; driver {wanted} has all of them"
        )),
        Fit::Unfit(_) if newer || disabled => {}
        Fit::Unfit(wanted) => {
            let runs = properties.cuda.map_or_else(String::new, |v| format!(" (up to CUDA {v})"));
            return Err(Error::new(
                Kind::Unsupported,
                format!("the image has CUDA {cuda}, which NVIDIA driver {version}{runs} does not run"),
            )
            .with_hint(format!("install NVIDIA driver {wanted} or newer, or use an image with an older CUDA")));
        }
    }
    Ok(())
}

/// The newest CUDA that the driver has, with the image's compatibility package.
fn newest_cuda(driver: &Version, image: &ImageFacts) -> Option<Version> {
    let compat =
        newest_compat(image).map(|(version, _)| version).filter(|version| version.major() > driver.major());
    cuda::of_driver(compat.as_ref().unwrap_or(driver))
}

/// The newest version of the compatibility package in an image, and its directory.
fn newest_compat(image: &ImageFacts) -> Option<(Version, &str)> {
    let versions = image.compat.iter().filter_map(|path| {
        let (directory, name) = path.rsplit_once('/')?;
        let version = Version::parse(name.strip_prefix("libcuda.so.")?)?;
        (directory != COMPAT_DIRECTORIES[1] && version.major() > 1).then_some((version, directory))
    });
    versions.max_by(|a, b| a.0.cmp(&b.0))
}

/// Puts the image's compatibility libraries first where they are newer than the driver.
fn add_compat(platform: &Platform, image: &ImageFacts, out: &mut SpecEdits) {
    let Some(flags) = Elf { machine: native_machine(), is_64: true, soname: None }.cache_flags() else {
        return;
    };
    let directory = match platform {
        Platform::Desktop(driver, _) => match (newest_compat(image), Version::parse(&driver.version)) {
            (Some((compat, directory)), Some(driver)) if compat.major() > driver.major() => directory,
            _ => return,
        },
        Platform::Jetson if image.compat.iter().any(|path| path.starts_with(COMPAT_DIRECTORIES[1])) => {
            COMPAT_DIRECTORIES[1]
        }
        _ => return,
    };
    let names =
        ["libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4", "libcudadebugger.so.1"];
    let stem = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let has = |name: &str| {
        let stem_of = name.split(".so").next().unwrap_or(name).to_owned() + ".so.";
        image.compat.iter().any(|path| path.starts_with(directory) && stem(path).starts_with(&stem_of))
    };
    let first = names.into_iter().filter(|name| has(name)).map(|name| Library {
        soname: name.into(),
        path: format!("{directory}/{name}"),
        flags,
    });
    let rest = std::mem::take(&mut out.libraries);
    out.libraries = first.chain(rest).collect();
}

fn native_machine() -> u16 {
    if cfg!(target_arch = "aarch64") { 183 } else { 62 }
}

/// An image from before libglvnd gets the host's, without which no vendor's OpenGL is found.
fn add_glvnd(root: &HostRoot, image: &ImageFacts, out: &mut SpecEdits) {
    const NAMES: [&str; 7] = [
        "libGLdispatch.so.0",
        "libGL.so.1",
        "libGLX.so.0",
        "libEGL.so.1",
        "libOpenGL.so.0",
        "libGLESv2.so.2",
        "libGLESv1_CM.so.1",
    ];
    let Some(cache) = image.cache.as_deref().and_then(Cache::parse) else { return };
    if cache.entries.iter().any(|entry| entry.name == NAMES[0]) {
        return;
    }
    let Some(host) = root.read("/etc/ld.so.cache").as_deref().and_then(Cache::parse) else { return };
    let native = Elf { machine: native_machine(), is_64: true, soname: None }.cache_flags();
    for name in NAMES {
        let Some(entry) = host.entries.iter().find(|e| e.name == name && Some(e.flags) == native) else {
            continue;
        };
        if root.exists(&entry.path) {
            out.mounts.push(bind(nvidia::real_source(root, &entry.path), &entry.path, true));
            out.libraries.push(Library { soname: name.into(), path: entry.path.clone(), flags: entry.flags });
        }
    }
}
