use clap::Args;
use robot_env_device::selector;
use robot_env_diag::Result;
use robot_env_spec::DeviceSelector;

use super::gpu::host_root;
use crate::app::App;
use crate::container_flags;
use crate::format::{List, Style, Value};
use crate::verb::{Exit, Verb};

/// List the host's devices that `--device` can select
#[derive(Args)]
pub(crate) struct DeviceLs {
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const TABLE: &str = "{{.Class}}\t{{.Path}}\t{{.Usb}}\t{{.Serial}}\t{{.Product}}";
const COLUMNS: &[(&str, &str)] = &[
    ("Class", "CLASS"),
    ("Path", "PATH"),
    ("Usb", "USB"),
    ("Serial", "SERIAL NUMBER"),
    ("Product", "PRODUCT"),
];

impl Verb for DeviceLs {
    const SPELLINGS: &'static [&'static str] = &["device ls"];

    fn run(self, app: &App) -> Result<Exit> {
        let style = Style::parse(self.format.as_deref(), TABLE)?;
        let root = host_root(app);
        let row = |class: &str, path: String, usb: Option<(String, String, String)>| {
            let (usb, serial, product) = usb.unwrap_or_default();
            let usb = if usb.is_empty() { usb } else { format!("usb:{usb}") };
            Value::row([
                ("Class", class.into()),
                ("Path", path.into()),
                ("Usb", usb.into()),
                ("Serial", serial.into()),
                ("Product", product.into()),
            ])
        };
        let nodes = selector::all(&root).into_iter();
        let mut rows: Vec<Value> =
            nodes.map(|(class, found)| row(class, found.node.path, found.usb)).collect();
        rows.extend(selector::can_interfaces(&root).into_iter().map(|name| row("can", name, None)));
        app.print(&List { columns: COLUMNS, rows }.print(&style)?)?;
        Ok(Exit::SUCCESS)
    }
}

/// Give a running container a device
///
/// It has it until it stops; `--device` at `run` and `create` is for good.
#[derive(Args)]
pub(crate) struct DeviceAttach {
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The device: a path, or what `--device` takes to select one
    #[arg(value_name = "DEVICE")]
    device: String,
}

impl Verb for DeviceAttach {
    const SPELLINGS: &'static [&'static str] = &["device attach"];

    fn run(self, app: &App) -> Result<Exit> {
        let wanted = match container_flags::selector(&self.device)? {
            Some(wanted) => wanted,
            None => DeviceSelector {
                what: format!("path:{}", self.device),
                alias: None,
                permissions: "rwm".into(),
            },
        };
        let paths = app.engine()?.attach_device(&self.container, &wanted)?;
        paths.iter().try_for_each(|path| app.print_line(path))?;
        Ok(Exit::SUCCESS)
    }
}

/// Take a device from a running container
///
/// For devices of `device attach` and of selectors; the latter come back when they are plugged in
/// again.
#[derive(Args)]
pub(crate) struct DeviceDetach {
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The device: its path inside, or what it is
    #[arg(value_name = "DEVICE")]
    device: String,
}

impl Verb for DeviceDetach {
    const SPELLINGS: &'static [&'static str] = &["device detach"];

    fn run(self, app: &App) -> Result<Exit> {
        let paths = app.engine()?.detach_device(&self.container, &self.device)?;
        paths.iter().try_for_each(|path| app.print_line(path))?;
        Ok(Exit::SUCCESS)
    }
}
