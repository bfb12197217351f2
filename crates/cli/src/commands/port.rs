use clap::Args;
use robot_env_diag::{Error, Result};
use robot_env_wire::PortBinding;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Show where a container's ports are published
#[derive(Args)]
pub(crate) struct Port {
    /// The container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

impl Verb for Port {
    const SPELLINGS: &'static [&'static str] = &["port", "container port"];

    fn run(self, app: &App) -> Result<Exit> {
        let engine = app.engine()?;
        let container = engine.container(&self.container)?;
        let mut ports = engine.published_ports()?.remove(container.record.id.as_str()).unwrap_or_default();
        ports.sort_by_key(|port| (port.container_port, port.protocol, port.host_address()));
        let place = |port| {
            let binding = PortBinding::new(port);
            let host = if binding.host_ip.contains(':') {
                format!("[{}]", binding.host_ip)
            } else {
                binding.host_ip
            };
            format!("{host}:{}", binding.host_port)
        };
        let key = |port: &robot_env_network::firewall::Port| {
            format!("{}/{}", port.container_port, port.protocol.name())
        };
        let Some(wanted) = &self.port else {
            for port in &ports {
                app.print_line(&format!("{} -> {}", key(port), place(port)))?;
            }
            return Ok(Exit::SUCCESS);
        };
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let number: u16 =
            number.parse().map_err(|_| Error::invalid(format!("invalid port `{wanted}`: not a number")))?;
        let wanted = format!("{number}/{}", protocol.to_ascii_lowercase());
        let found: Vec<_> = ports.iter().filter(|port| key(port) == wanted).collect();
        if found.is_empty() {
            return Err(Error::not_found(format!(
                "no public port '{wanted}' published for {}",
                self.container
            )));
        }
        for port in found {
            app.print_line(&place(port))?;
        }
        Ok(Exit::SUCCESS)
    }
}
