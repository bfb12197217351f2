//! The runtime's command line as a program of its own, for trying it under other engines.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Without protection rather than not at all: this is for trying things.
    let _ = robot_env_runtime::shield::enter();
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    ExitCode::from(robot_env_runtime::command::main(&args) as u8)
}
