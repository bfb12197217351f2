use std::io::Read;

use clap::Args;
use robot_env_diag::{Error, IoContext, Result};

use crate::app::App;
use crate::verb::{Exit, Verb};

/// The registry when none is named.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
/// No password is longer, in bytes.
const PASSWORD_LIMIT: u64 = 64 * 1024;

/// Log in to a registry
#[derive(Args)]
pub(crate) struct Login {
    /// Password or token; others on this machine can see it here, --password-stdin is safer
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Read the password or token from stdin
    #[arg(long)]
    password_stdin: bool,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// The registry; Docker Hub when left away
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl Verb for Login {
    const SPELLINGS: &'static [&'static str] = &["login"];

    fn run(self, app: &App) -> Result<Exit> {
        let username = self.username.filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::invalid("cannot log in: there is no user name").with_hint("give it with --username NAME")
        })?;
        let password = match (self.password, self.password_stdin) {
            (Some(_), true) => {
                return Err(Error::invalid("--password and --password-stdin are mutually exclusive"));
            }
            (Some(password), false) => {
                app.warn("Using --password via the CLI is insecure. Use --password-stdin.");
                password
            }
            (None, true) => {
                let mut text = String::new();
                let stdin = std::io::stdin().take(PASSWORD_LIMIT);
                { stdin }
                    .read_to_string(&mut text)
                    .io_context(|| "cannot read the password from stdin".into())?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            (None, false) => {
                return Err(Error::invalid("cannot log in: there is no password")
                    .with_hint("pipe it in with --password-stdin"));
            }
        };
        if password.is_empty() {
            return Err(Error::invalid("cannot log in: the password is empty"));
        }
        let server = self.server.as_deref().unwrap_or(DEFAULT_REGISTRY);
        app.registry().login(server, &username, &password)?;
        app.print_line("Login Succeeded")?;
        Ok(Exit::SUCCESS)
    }
}
