//! The runtime's command line as a program of its own, for trying it under other engines.

use std::process::ExitCode;

use robot_env_runtime::{command, shield};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if command::enters_container(&args) {
        // Without protection rather than not at all: this is for trying things.
        let _ = shield::enter();
    }
    ExitCode::from(command::main(&args) as u8)
}
