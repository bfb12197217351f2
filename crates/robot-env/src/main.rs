//! The program `robot-env`.
//!
//! `robot-env runtime ...` is an OCI runtime with runc's command line, and so is the program when it
//! is called by one of [`command::NAMES`]; `robot-env monitor ...` is what cares for a running
//! container, started by the engine alone; everything else is `cli`'s.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use robot_env_cli::ServeRequest;
use robot_env_diag::Result;
use robot_env_runtime::{command, shield};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let [_, verb, rest @ ..] = arguments.as_slice()
        && verb == robot_env_engine::MONITOR
    {
        return ExitCode::from(robot_env_engine::monitor(rest) as u8);
    }
    match runtime_arguments(&arguments) {
        Some(arguments) => runtime(arguments),
        None => ExitCode::from(robot_env_cli::main(arguments, serve).0),
    }
}

/// Serves the API for the command line.
fn serve(request: ServeRequest) -> Result<()> {
    robot_env_api::serve(robot_env_api::ServeOptions {
        engine: request.engine,
        socket: request.socket,
        group: request.group,
        tls: request.tls.map(|tls| robot_env_api::TlsOptions {
            address: tls.address,
            authority: tls.authority,
            certificate: tls.certificate,
            key: tls.key,
        }),
        activated: request.activated,
        idle: request.idle,
        registry: request.registry,
        configuration: request.configuration,
        version: env!("CARGO_PKG_VERSION"),
        path: request.path,
        ready: request.ready,
    })
}

/// The arguments of the runtime's command line, if this is one.
fn runtime_arguments(arguments: &[OsString]) -> Option<&[OsString]> {
    let (program, rest) = arguments.split_first()?;
    let name = Path::new(program).file_name().unwrap_or_default();
    if command::NAMES.iter().any(|known| OsStr::new(known) == name) {
        return Some(rest);
    }
    rest.split_first().filter(|(verb, _)| *verb == "runtime").map(|(_, rest)| rest)
}

fn runtime(arguments: &[OsString]) -> ExitCode {
    // What is executed in a container must not reach the program's file: see docs/design/005.
    if command::enters_container(arguments)
        && let Err(error) = shield::enter()
    {
        let _ = writeln!(std::io::stderr().lock(), "{}", error.to_report());
        return ExitCode::FAILURE;
    }
    ExitCode::from(command::main(arguments) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_has_a_verb_and_names() {
        for (line, want) in [
            ("/usr/bin/robot-env runtime state c", Some("state c")),
            ("robot-env runtime", Some("")),
            ("/x/robot-env-runtime --root /y state c", Some("--root /y state c")),
            ("runc features", Some("features")),
            ("robot-env run runtime", None),
            ("robot-env --root /x runtime", None),
            ("robot-env", None),
            ("docker ps", None),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let got = runtime_arguments(&words);
            let got = got.map(|got| got.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" "));
            assert_eq!(got.as_deref(), want, "{line}");
        }
    }
}
