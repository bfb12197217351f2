use std::io::Read;
use std::os::fd::AsFd;

use clap::Args;
use robot_env_device::cdi::{self, CdiDevice, CdiSpec, ContainerEdits};
use robot_env_device::gpu::{self, ImageFacts};
use robot_env_device::{Library, Link, SpecEdits, inside};
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_sys::fs as sys_fs;

use super::gpu::host_root;
use crate::app::App;
use crate::verb::{Exit, Verb};

/// List the devices of CDI files
#[derive(Args)]
pub(crate) struct CdiLs {}

impl Verb for CdiLs {
    const SPELLINGS: &'static [&'static str] = &["cdi ls"];

    fn run(self, app: &App) -> Result<Exit> {
        let (specs, damage) = cdi::load(&host_root(app));
        let mut names: Vec<String> = specs
            .iter()
            .flat_map(|(_, spec)| spec.devices.iter().map(|device| format!("{}={}", spec.kind, device.name)))
            .collect();
        names.sort_unstable();
        names.dedup();
        names.iter().try_for_each(|name| app.print_line(name))?;
        for error in &damage {
            app.show(error);
        }
        Ok(if damage.is_empty() { Exit::SUCCESS } else { Exit::FAILURE })
    }
}

/// Print a CDI file of this host's GPUs, for other container engines
///
/// robot-env itself needs none: it looks for the GPUs at every start.
#[derive(Args)]
pub(crate) struct CdiGenerate {
    /// json or yaml
    #[arg(long, value_name = "FORMAT", default_value = "yaml")]
    format: String,
    /// Write it to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// The vendor: nvidia, amd or intel; absent: that of the first GPU
    #[arg(long, value_name = "VENDOR")]
    vendor: Option<String>,
}

impl Verb for CdiGenerate {
    const SPELLINGS: &'static [&'static str] = &["cdi generate"];

    fn run(self, app: &App) -> Result<Exit> {
        if !matches!(self.format.as_str(), "json" | "yaml") {
            return Err(Error::invalid(format!("invalid format `{}`: it must be json or yaml", self.format)));
        }
        let root = host_root(app);
        let (found, damage) = gpu::list(&root);
        if let Some(error) = damage.into_iter().next() {
            return Err(error.within("cannot describe this host's GPUs"));
        }
        let vendor = match &self.vendor {
            Some(vendor) => vendor.clone(),
            None => found
                .first()
                .map(|gpu| gpu.vendor.to_owned())
                .ok_or_else(|| Error::not_found("cannot describe this host's GPUs: there is none"))?,
        };
        let kind = format!("{vendor}.com/gpu");
        let mut names: Vec<String> =
            found.iter().filter(|gpu| gpu.vendor == vendor).flat_map(|gpu| gpu.names.clone()).collect();
        if names.is_empty() {
            return Err(Error::not_found(format!("there is no GPU of vendor `{vendor}`")));
        }
        names.push("all".into());
        // For what other engines look up: this program by its path.
        let program = std::env::current_exe()
            .map_or_else(|_| "/usr/bin/robot-env".into(), |path| path.to_string_lossy().into_owned());
        let mut devices = Vec::new();
        for name in names {
            if let Some(edits) = gpu::by_name(&root, &kind, &name, &ImageFacts::default())? {
                devices.push(CdiDevice { name, container_edits: cdi::describe(&edits, &program) });
            }
        }
        let spec = CdiSpec {
            cdi_version: "0.5.0".into(),
            kind,
            devices,
            container_edits: ContainerEdits::default(),
        };
        let text = if self.format == "json" {
            serde_json::to_string_pretty(&spec)
                .map(|text| text + "\n")
                .context(Kind::Internal, || "cannot write JSON".into())?
        } else {
            cdi::to_yaml(&spec)?
        };
        match &self.output {
            Some(path) => {
                let path = app.ambient().directory.join(path);
                std::fs::write(&path, text).io_context(|| format!("cannot write `{}`", path.display()))?;
            }
            None => app.print(&text)?,
        }
        Ok(Exit::SUCCESS)
    }
}

/// What a CDI file of `cdi generate` has as its hook: it acts on the container whose state comes in
/// on standard input
#[derive(Args)]
pub(crate) struct CdiHook {
    /// create-symlinks or update-ldcache
    #[arg(value_name = "HOOK")]
    hook: String,
    /// A link, TARGET::PATH
    #[arg(long, value_name = "LINK")]
    link: Vec<String>,
    /// A library, NAME::PATH::FLAGS
    #[arg(long, value_name = "LIBRARY")]
    library: Vec<String>,
}

impl Verb for CdiHook {
    const SPELLINGS: &'static [&'static str] = &["cdi hook"];

    fn run(self, _: &App) -> Result<Exit> {
        let mut edits = SpecEdits::default();
        match self.hook.as_str() {
            "create-symlinks" => {
                for text in &self.link {
                    let (target, path) = text
                        .split_once("::")
                        .ok_or_else(|| Error::invalid(format!("invalid link `{text}`")))?;
                    edits.links.push(Link { path: path.to_owned(), target: target.to_owned() });
                }
            }
            "update-ldcache" => {
                for text in &self.library {
                    let bad = || Error::invalid(format!("invalid library `{text}`"));
                    let [soname, path, flags] = text.split("::").collect::<Vec<_>>()[..] else {
                        return Err(bad());
                    };
                    let flags = i32::from_str_radix(flags, 16).map_err(|_| bad())?;
                    edits.libraries.push(Library { soname: soname.to_owned(), path: path.to_owned(), flags });
                }
            }
            other => return Err(Error::invalid(format!("unknown hook `{other}`"))),
        }
        let mut state = String::new();
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut state)
            .io_context(|| "cannot read the container's state".into())?;
        let root = root_of(&state).within(|| "cannot find the container's files".into())?;
        inside::apply(sys_fs::open_directory(&root)?.as_fd(), &edits)?;
        Ok(Exit::SUCCESS)
    }
}

/// The root file system of the container that an OCI state is of.
fn root_of(state: &str) -> Result<std::path::PathBuf> {
    let json = |text: &str| {
        serde_json::from_str::<serde_json::Value>(text).context(Kind::InvalidInput, || "it is no JSON".into())
    };
    let state = json(state)?;
    let bundle = std::path::Path::new(state["bundle"].as_str().unwrap_or_default());
    let path = bundle.join("config.json");
    let config =
        json(&std::fs::read_to_string(&path).io_context(|| format!("cannot read `{}`", path.display()))?)?;
    Ok(bundle.join(config["root"]["path"].as_str().unwrap_or("rootfs")))
}
