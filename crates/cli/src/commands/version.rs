use clap::Args;
use robot_env_diag::Result;
use robot_env_wire::{API_VERSION, MIN_API_VERSION, Version as Shape, VersionReply};

use crate::app::App;
use crate::format::{Field, Template, Value};
use crate::verb::{Exit, Verb};

/// Show the version
#[derive(Args)]
pub(crate) struct Version {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

const TEXT: &str = "Client:\n Version:           {{.Client.Version}}\n API version:       {{.Client.ApiVersion}}\n \
OS/Arch:           {{.Client.Os}}/{{.Client.Arch}}\n\nServer: robot-env (no daemon: the command is the engine)\n Engine:\n  Version:          {{.Server.Version}}\n  \
API version:      {{.Server.ApiVersion}} (minimum version {{.Server.MinAPIVersion}})\n  \
OS/Arch:          {{.Server.Os}}/{{.Server.Arch}}\n  Kernel:           {{.Server.KernelVersion}}";

impl Verb for Version {
    const SPELLINGS: &'static [&'static str] = &["version"];

    fn run(self, app: &App) -> Result<Exit> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let own = Shape {
            version: env!("CARGO_PKG_VERSION").into(),
            api_version: API_VERSION.into(),
            min_api_version: MIN_API_VERSION.into(),
            os: "linux".into(),
            arch: robot_env_oci::Platform::host().architecture,
            kernel_version: kernel.trim().to_owned(),
        };
        let mut value = Value::of(&VersionReply { client: own.clone(), server: own });
        if let Value::Struct(sides) = &mut value {
            for side in sides {
                if let Value::Struct(fields) = &mut side.value {
                    // Its name in Go, where templates look it up.
                    let version = API_VERSION.into();
                    fields.push(Field { name: "APIVersion".into(), value: version, in_json: false });
                }
            }
        }
        app.print_line(&match self.format.as_deref() {
            Some("json") => value.to_json(),
            Some(text) if !text.is_empty() => Template::parse(text)?.print(&value)?,
            _ => Template::parse(TEXT)?.print(&value)?,
        })?;
        Ok(Exit::SUCCESS)
    }
}
