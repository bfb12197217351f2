//! The runtime spec's hooks: programs of the host that are told the container's state.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};

use crate::state::{State, Status};

/// How long a hook without a time-out of its own may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What hooks are told; `pid` is the container's first process in the caller's pid namespace.
pub(crate) fn state(spec: &Spec, id: &str, bundle: &Path, status: Status, pid: i32) -> State {
    State {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        status,
        pid,
        bundle: bundle.to_path_buf(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
    }
}

/// Runs `hooks` one after another; the first failure ends it.
pub(crate) fn run(hooks: Option<&[Hook]>, kind: &str, state: &State) -> Result<()> {
    for hook in hooks.unwrap_or_default() {
        run_one(hook, state).within(|| format!("cannot run {kind} hook `{}`", hook.path().display()))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &State) -> Result<()> {
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    for entry in hook.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().io_context(|| "execve()".into())?;
    if let Some(mut input) = child.stdin.take() {
        // A hook that does not read its input is none the worse.
        let _ = serde_json::to_vec(state).map(|json| input.write_all(&json));
    }
    let patience = hook.timeout().filter(|s| *s > 0).map_or(PATIENCE, |s| Duration::from_secs(s as u64));
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().io_context(|| "wait()".into())? {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::new(
                Kind::Unavailable,
                format!("it did not end within {} s", patience.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if status.success() {
        return Ok(());
    }
    let mut bytes = vec![0; 1024];
    let n = child.stderr.take().map_or(0, |mut stderr| stderr.read(&mut bytes).unwrap_or(0));
    let said = String::from_utf8_lossy(&bytes[..n]).trim().to_owned();
    Err(Error::new(
        Kind::Internal,
        if said.is_empty() { status.to_string() } else { format!("{status}: {said}") },
    ))
}
