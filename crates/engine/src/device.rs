//! GPUs, devices, display and identity for one start or exec: what the host has now, never what it
//! had (invariant 5).

mod identity;
pub(crate) mod live;
pub(crate) mod nested;
pub(crate) mod realtime;
mod show;

use std::os::fd::AsFd;
use std::path::Path;

use robot_env_device::gpu::nvidia::{PARAMETERS, without_nodes};
use robot_env_device::gpu::{self, ImageFacts};
use robot_env_device::selector::{self, Class, Selector};
use robot_env_device::{DRIVER_ROOT, HostRoot, Session, SpecEdits, bind, cdi, inside};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_spec::{GuiMode, HostFacts, NetworkMode, Resolved, ResolvedDevice};
use robot_env_sys::fs as sys_fs;
use rustix::fs::{Dir, OFlags};

use crate::engine::Engine;
use crate::record::ContainerRecord;
use crate::rootfs::Rootfs;

/// The runtime's name that asks for NVIDIA's contract.
pub(crate) const NVIDIA: &str = "nvidia";
/// Where udev keeps what it knows.
const UDEV: &str = "/run/udev";
/// The loader's cache in an image, at most.
const CACHE_LIMIT: usize = 16 << 20;

/// What a start needs of the host, by the container's intent.
pub(crate) struct Start<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) record: &'a ContainerRecord,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) session: &'a Session,
    /// The container's run directory.
    pub(crate) run: &'a Path,
    /// An X server of the container's own, once there is one.
    pub(crate) display: std::cell::OnceCell<nested::NestedDisplay>,
}

pub(crate) use identity::Exec;

/// The machine as the session sees it.
pub(crate) fn host_root(session: &Session) -> HostRoot {
    session.get(DRIVER_ROOT).map_or_else(HostRoot::system, HostRoot::at)
}

impl Start<'_> {
    /// What the container's devices change.
    pub(crate) fn edits(&self) -> Result<SpecEdits> {
        let spec = &self.record.spec;
        let robot = &spec.robot;
        let mut out = SpecEdits::default();
        let by_contract = spec.runtime.as_deref() == Some(NVIDIA);
        if !robot.gpus.is_empty() || !robot.cdi.is_empty() || by_contract {
            let root = host_root(self.session);
            let image = self.image_facts()?;
            let graphics = robot.gui != GuiMode::None;
            for request in &robot.gpus {
                out.merge(gpu::request(&root, request, &image, graphics)?);
            }
            // A request by flag comes before what the image asks for.
            if by_contract && robot.gpus.is_empty() {
                out.merge(gpu::by_variables(&root, &image, graphics)?);
            }
            for name in &robot.cdi {
                out.merge(cdi_device(&root, name, &image)?);
            }
            // Another runtime mounts nothing on procfs.
            if by_contract || spec.runtime.as_deref().is_none_or(str::is_empty) {
                self.keep_nodes(&mut out)?;
            }
        }
        if robot.selectors.is_empty() {
            live::forget(self.engine, self.record);
        } else {
            self.add_selected(&mut out)?;
        }
        Ok(out)
    }

    /// NVIDIA's libraries make device nodes where the kernel's part does not tell them otherwise.
    fn keep_nodes(&self, out: &mut SpecEdits) -> Result<()> {
        let is_nvidia = out.devices.iter().any(|device| device.path == "/dev/nvidiactl");
        let Ok(text) = std::fs::read_to_string(PARAMETERS) else { return Ok(()) };
        if let Some(text) = without_nodes(&text).filter(|_| is_nvidia) {
            let path = self.run.join("nvidia-params");
            std::fs::write(&path, text).io_context(|| format!("cannot write `{}`", path.display()))?;
            out.mounts.push(bind(path.to_string_lossy(), PARAMETERS, true));
        }
        Ok(())
    }

    /// What the selectors mean now. Nothing is no failure: it may be plugged in later.
    fn add_selected(&self, out: &mut SpecEdits) -> Result<()> {
        let (root, spec) = (host_root(self.session), &self.record.spec);
        let is_can = |text: &str| matches!(Selector::parse(text), Ok(Some(Selector::Class(Class::Can))));
        if spec.robot.selectors.iter().any(|s| is_can(&s.what)) && spec.network != NetworkMode::Host {
            return Err(Error::new(
                Kind::Unsupported,
                "cannot give CAN interfaces to a container with a network of its own",
            )
            .with_hint("CAN interfaces are network interfaces: `--network host` has them"));
        }
        let mut devices: Vec<ResolvedDevice> = Vec::new();
        for selector in &spec.robot.selectors {
            let found = selector::select(&root, std::slice::from_ref(selector))?;
            if found.is_empty() && !is_can(&selector.what) {
                let what = live::shown(&selector.what);
                out.warnings
                    .push(format!("device `{what}` is not there now; it comes when it is plugged in"));
            }
            for device in found {
                if devices.iter().all(|had| had.path != device.path) {
                    devices.push(device);
                }
            }
        }
        if self.engine.rootless {
            let closed = devices.iter().filter(|device| live::is_closed(device)).map(|d| &d.host_path);
            for path in closed.collect::<std::collections::BTreeSet<_>>() {
                out.warnings.push(format!("{}; {}", live::closed(path), live::OPEN_IT));
            }
        }
        live::note(self.engine, self.record, &root, &devices)?;
        for device in devices {
            out.add_device(device);
        }
        // Names and properties as udev has them.
        if root.is_directory(UDEV) {
            out.mounts.push(bind(root.real(UDEV).to_string_lossy(), UDEV, true));
        }
        Ok(())
    }

    fn image_facts(&self) -> Result<ImageFacts> {
        let record = self.record;
        let env = record.image_config.env.iter().chain(&record.spec.env).cloned().collect();
        let root = self.rootfs.mount();
        let mut compat = Vec::new();
        for directory in gpu::COMPAT_DIRECTORIES {
            let Ok(found) = sys_fs::open_in_root(root, directory, OFlags::RDONLY | OFlags::DIRECTORY) else {
                continue;
            };
            let Ok(entries) = Dir::new(found) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy();
                if name.starts_with("lib") {
                    compat.push(format!("{directory}/{name}"));
                }
            }
        }
        let cache = sys_fs::read_in_root(root, "/etc/ld.so.cache", CACHE_LIMIT)?;
        Ok(ImageFacts { env, cache, compat })
    }
}

fn cdi_device(root: &HostRoot, name: &str, image: &ImageFacts) -> Result<SpecEdits> {
    if let Some((kind, device)) = cdi::qualified(name)
        && let Some(edits) = gpu::by_name(root, kind, device, image)?
    {
        return Ok(edits);
    }
    if let Some(edits) = cdi::edits(root, name)? {
        return Ok(edits);
    }
    // A driver in a directory of its own does not bring CDI files along.
    if !root.is_system()
        && let Some(edits) = cdi::edits(&HostRoot::system(), name)?
    {
        return Ok(edits);
    }
    Err(Error::not_found(format!("unresolvable CDI devices {name}"))
        .with_hint("`gpu ls` shows this host's GPUs, `cdi ls` the devices of CDI files"))
}

/// Acts on the root file system, and adds the rest to what is looked up.
pub(crate) fn apply(
    edits: &SpecEdits,
    rootfs: &Rootfs,
    host: &HostFacts,
    resolved: &mut Resolved,
) -> Result<()> {
    inside::apply(rootfs.mount().as_fd(), edits).within(|| "cannot prepare the container's files".into())?;
    let mut edits = edits.clone();
    if host.rootless {
        // Groups of the host have no number here; the process keeps those that the user has.
        edits.groups.clear();
    }
    edits.resolve_into(resolved);
    Ok(())
}
