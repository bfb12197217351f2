//! The program `robot-env`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(robot_env_cli::main(std::env::args_os().collect()).0)
}
