use clap::Args;
use robot_env_device::gpu;
use robot_env_device::{DRIVER_ROOT, HostRoot};
use robot_env_diag::Result;

use crate::app::App;
use crate::format::{List, Style, Value};
use crate::verb::{Exit, Verb};

/// List the GPUs that containers can use
#[derive(Args)]
pub(crate) struct GpuLs {
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
}

const TABLE: &str = "{{.Name}}\t{{.Vendor}}\t{{.Model}}\t{{.Driver}}\t{{.Names}}\t{{.Nodes}}";
const COLUMNS: &[(&str, &str)] = &[
    ("Name", "GPU"),
    ("Vendor", "VENDOR"),
    ("Model", "MODEL"),
    ("Driver", "DRIVER"),
    ("Names", "OTHER NAMES"),
    ("Nodes", "DEVICE NODES"),
];

impl Verb for GpuLs {
    const SPELLINGS: &'static [&'static str] = &["gpu ls"];

    fn run(self, app: &App) -> Result<Exit> {
        let names_only = self.quiet && self.format.is_none();
        let style = Style::parse(if names_only { Some("{{.Name}}") } else { self.format.as_deref() }, TABLE)?;
        let (found, damage) = gpu::list(&host_root(app));
        let rows = found
            .into_iter()
            .map(|gpu| {
                Value::row([
                    ("Name", gpu.names.first().cloned().unwrap_or_default().into()),
                    ("Vendor", gpu.vendor.into()),
                    ("Model", gpu.model.into()),
                    ("Driver", gpu.driver.into()),
                    ("Names", gpu.names.get(1..).unwrap_or_default().join(",").into()),
                    ("Nodes", gpu.nodes.join(",").into()),
                ])
            })
            .collect();
        app.print(&List { columns: COLUMNS, rows }.print(&style)?)?;
        for error in &damage {
            app.show(error);
        }
        Ok(if damage.is_empty() { Exit::SUCCESS } else { Exit::FAILURE })
    }
}

/// Where GPUs are looked for.
pub(super) fn host_root(app: &App) -> HostRoot {
    app.ambient()
        .variable(DRIVER_ROOT)
        .filter(|path| !path.is_empty())
        .map_or_else(HostRoot::system, HostRoot::at)
}
