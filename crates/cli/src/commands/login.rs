use std::io::{BufRead, Read};

use clap::Args;
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_sys::terminal::RawMode;

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
        let username = match self.username.filter(|name| !name.is_empty()) {
            Some(name) => name,
            // Standard input is the password's.
            None if self.password_stdin => {
                return Err(Error::invalid("cannot log in: there is no user name")
                    .with_hint("give it with --username NAME"));
            }
            None => ask_name(app)?,
        };
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
            (None, false) => ask_password(app)?,
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

fn need_terminal(app: &App) -> Result<()> {
    if app.ambient().stdin_is_terminal {
        return Ok(());
    }
    Err(Error::invalid("cannot perform an interactive login from a non TTY device")
        .with_hint("give --username NAME, and pipe the password in with --password-stdin"))
}

fn ask_name(app: &App) -> Result<String> {
    need_terminal(app)?;
    app.print("Username: ")?;
    let mut line = String::new();
    let stdin = std::io::stdin().lock().take(PASSWORD_LIMIT).read_line(&mut line);
    stdin.io_context(|| "cannot read the user name".into())?;
    match line.trim() {
        "" => Err(Error::invalid("cannot log in: there is no user name")),
        name => Ok(name.to_owned()),
    }
}

/// Reads a password that the terminal does not show. The terminal is as before at every end, also at
/// Ctrl-C, which therefore is read here.
fn ask_password(app: &App) -> Result<String> {
    need_terminal(app)?;
    app.print("Password: ")?;
    let mut stdin = std::io::stdin().lock();
    let read = {
        let _raw = RawMode::enter(&stdin)?;
        let mut password = Vec::new();
        let mut byte = [0];
        loop {
            let count = stdin.read(&mut byte).io_context(|| "cannot read the password".into())?;
            if count == 0 || !type_into(&mut password, byte[0]) {
                break (byte[0] != INTERRUPT).then_some(password);
            }
        }
    };
    app.print("\n")?;
    let bytes = read.ok_or_else(|| Error::new(Kind::Interrupted, "the login was interrupted"))?;
    String::from_utf8(bytes).map_err(|_| Error::invalid("cannot log in: the password is not valid UTF-8"))
}

/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;

/// Whether more comes behind this key.
fn type_into(password: &mut Vec<u8>, key: u8) -> bool {
    match key {
        b'\r' | b'\n' | INTERRUPT | 4 => return false,
        // Backspace takes a whole letter away, Ctrl-U all.
        8 | 127 => while password.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
        21 => password.clear(),
        _ if password.len() as u64 >= PASSWORD_LIMIT => return false,
        _ => password.push(key),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_password() {
        for (keys, want) in [
            (&b"secret\r"[..], "secret"),
            (b"secrat\x7f\x7fet\n", "secret"),
            ("x\u{fc}\x08y\r".as_bytes(), "xy"),
            (b"wrong\x15right\x04", "right"),
            (b"\x7fa\r", "a"),
        ] {
            let mut password = Vec::new();
            let ended = keys.iter().any(|key| !type_into(&mut password, *key));
            assert!(ended && password == want.as_bytes(), "{keys:?}");
        }
    }
}
