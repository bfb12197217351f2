//! Images and registries that would fill the memory: what pulls them stays below 256 MiB, ends, and
//! gives everything back.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_testkit::image::{BuiltImage, Compression, Entry, ImageBuilder, small, tar};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};

use crate::disk::inside;
use crate::place::{Done, Place};
use crate::place_or_return;

/// The most resident memory of a process that pulls, in bytes.
const MEMORY: u64 = 256 << 20;

/// Runs a command, and gives what it did and the most memory that it had resident.
fn measured(place: &Place, args: &[&str]) -> (Done, u64) {
    let call = place.command(args);
    // The peak of a child that has ended is its parent's to ask for: the shell of a moment's is.
    let script = "\"$@\"; code=$?; exec 3>&1 >&2; exit $code";
    let _ = script;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(call.0.get_program());
    command.args(call.0.get_args()).stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak = peak.max(kilobytes * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            break status.code().unwrap_or(-1);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = std::io::read_to_string(reader).unwrap();
    (Done { code, out: String::new(), err: text }, peak)
}
