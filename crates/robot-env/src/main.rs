//! The binary. Its command line is being built on the crates below; until it is, it says so and
//! fails, so that no script takes it for a working engine.

use std::io::Write;
use std::process::ExitCode;

use robot_env_diag::{Error, Kind};

/// What Docker's command line exits with when the engine itself fails.
const ENGINE_FAILED: u8 = 125;

fn main() -> ExitCode {
    let error = Error::new(Kind::Unsupported, "cannot run commands: the command line of this version is not finished");
    let _ = writeln!(std::io::stderr(), "{}", error.to_report());
    ExitCode::from(ENGINE_FAILED)
}
