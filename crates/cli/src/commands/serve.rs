use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use robot_env_diag::{Error, Result};

use crate::app::{App, ServeTls};
use crate::quantity;
use crate::verb::{Exit, Verb};

/// Serve the Docker Engine API on a unix socket, for IDEs, Compose and other clients of Docker
///
/// It ends at SIGTERM and SIGINT; containers are not touched. Any number of servers and commands
/// work side by side. When systemd has opened a socket for it, that one is served.
#[derive(Args)]
pub(crate) struct Serve {
    /// Where the socket is made; the default is docker.sock in the run root
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Let this group use the socket, too, by name or number: whoever can is root of the containers
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Serve TCP at this address, too, for clients with a certificate; needs the three files
    #[arg(long, value_name = "ADDRESS:PORT", requires_all = ["tlscacert", "tlscert", "tlskey"])]
    tcp: Option<SocketAddr>,
    /// The authorities that clients' certificates must be of (PEM)
    #[arg(long, value_name = "FILE", requires = "tcp")]
    tlscacert: Option<PathBuf>,
    /// The server's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tcp")]
    tlscert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tcp")]
    tlskey: Option<PathBuf>,
    /// End when nobody has asked for anything so long, e.g. 10m
    #[arg(long, value_name = "DURATION")]
    idle_exit: Option<String>,
}

impl Verb for Serve {
    const SPELLINGS: &'static [&'static str] = &["serve"];

    fn run(self, app: &App) -> Result<Exit> {
        let idle = match self.idle_exit.as_deref().map(quantity::duration).transpose()? {
            None => None,
            Some(nanoseconds) => Some(
                u64::try_from(nanoseconds)
                    .ok()
                    .filter(|n| *n >= 1_000_000_000)
                    .map(Duration::from_nanos)
                    .ok_or_else(|| Error::invalid("--idle-exit must be at least one second"))?,
            ),
        };
        let socket = self.socket.map(|path| app.ambient().directory.join(path));
        let file = |path: PathBuf| app.ambient().directory.join(path);
        let tls = match (self.tcp, self.tlscacert, self.tlscert, self.tlskey) {
            (Some(address), Some(authority), Some(certificate), Some(key)) => Some(ServeTls {
                address,
                authority: file(authority),
                certificate: file(certificate),
                key: file(key),
            }),
            _ => None,
        };
        app.serve(socket, self.group, idle, tls)?;
        Ok(Exit::SUCCESS)
    }
}
